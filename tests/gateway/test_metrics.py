"""/metrics of a real server with two workers: exact sums, whoever answers and whoever dies; and what is made of them in
`deploy/`: every metric that a rule or a panel names is there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from telemetry.metrics import SPECS
from tests.support.gateway import KEY, VAULT_PASSWORD, Gateway
from tests.support.upstream import Reply, Upstream
from tests.test_docs import DOCS, table

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
ADMIN_TOKEN = "the-admins-token-of-this-test"
PRICES = {"input_per_1k": "0.001", "output_per_1k": "0.002"}
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing: Debian's package prometheus has it"
)
_FAMILY = re.compile(r"\b((?:tokenhub|django|process|python)_[a-z_]+)")
_MILLISECONDS = re.compile(
    r"tokenhub_(request_latency|time_to_first_chunk)_ms metric names should not contain abbreviated units"
)
_SUFFIX = re.compile(r"_(bucket|count|sum)$")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[{"id": "p", "type": "openai", "base_url": upstream.url, "credential": "sk-of-the-provider"}],
        models=[{"id": "m", "provider_id": "p", **PRICES}, {"id": "n", "provider_id": "p", **PRICES}],
        budgets=[{"subject": "installation", "amount_usd": "50"}, {"of_key": KEY, "subject": "key", "amount_usd": "9"}],
        env={"TOKENHUB_ADMIN_TOKEN": ADMIN_TOKEN},
        workers=2,
    ) as running:
        yield running


def samples(gateway: Gateway) -> dict[str, float]:
    """By name and labels, as they stand in the text."""
    lines = [line for line in gateway.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def admin(gateway: Gateway, path: str, **body: str) -> httpx.Response:
    return gateway.post(f"/admin/v1/{path}", body, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})


def answered(found: dict[str, float], status: int = 200) -> float:
    """As far as the models here are concerned, whatever the mode."""
    mark = re.compile(rf'tokenhub_requests_total\{{mode="[^"]*",model="[mn]",provider="p",status="{status}"')
    return sum(value for name, value in found.items() if mark.match(name))


def workers(gateway: Gateway) -> list[int]:
    assert gateway.process is not None
    children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def test_the_sum_is_exact_whoever_answers_and_outlives_a_killed_worker(gateway: Gateway) -> None:
    before = answered(samples(gateway))
    for _ in range(30):  # on connections of their own, so that both workers get some
        assert gateway.chat("m").status_code == 200
    gateway.wait_until(lambda: answered(samples(gateway)) == before + 30)
    seen = [answered(samples(gateway)) for _ in range(10)]
    assert seen == [before + 30] * 10
    victim = workers(gateway)[0]
    os.kill(victim, signal.SIGKILL)
    gateway.wait_until(lambda: len(set(workers(gateway)) - {victim}) == 2, seconds=20)
    gateway.wait_until(lambda: samples(gateway)["tokenhub_workers"] == 2, seconds=20)
    assert [answered(samples(gateway)) for _ in range(10)] == [before + 30] * 10
    assert gateway.chat("m").status_code == 200
    gateway.wait_until(lambda: answered(samples(gateway)) == before + 31)


def test_figures_of_the_control_plane_are_summed_too(gateway: Gateway) -> None:
    name = 'django_http_requests_latency_seconds_by_view_method_count{method="GET",view="admin:login"}'
    for _ in range(12):
        assert gateway.get("/admin/login/").status_code == 200
    gateway.wait_until(lambda: samples(gateway).get(name) == 12, seconds=20)


def test_tokens_and_cost_are_those_of_the_request_log(gateway: Gateway) -> None:
    gateway.chat("n", stream=True)
    gateway.chat("n")
    gateway.wait_until(lambda: samples(gateway).get('tokenhub_request_latency_ms_count{model="n",provider="p"}') == 2)
    found = samples(gateway)
    rows = gateway.query("SELECT * FROM telemetry_requestlog WHERE model_id = 'n'")
    gateway.wait_until(lambda: len(gateway.query("SELECT 1 FROM telemetry_requestlog WHERE model_id = 'n'")) == 2)
    rows = gateway.query("SELECT * FROM telemetry_requestlog WHERE model_id = 'n'")
    cost = sum(float(row["cost_usd"]) for row in rows)
    assert found['tokenhub_cost_usd_total{model="n",provider="p"}'] == pytest.approx(cost, rel=1e-9)
    for kind in ("input", "output"):
        tokens = found[f'tokenhub_tokens_total{{model="n",provider="p",kind="{kind}"}}']
        assert tokens == sum(row[f"{kind}_tokens"] for row in rows) > 0
    assert found['tokenhub_time_to_first_chunk_ms_count{model="n",provider="p"}'] == 1


def test_budgets_show_what_is_spent_by_their_number_and_no_key(gateway: Gateway) -> None:
    gateway.chat("m")
    (key_id,) = [str(row["id"]) for row in gateway.query("SELECT id FROM keys_clientkey")]
    (pk,) = [row["id"] for row in gateway.query("SELECT id FROM keys_budget WHERE subject = 'key'")]
    labels = f'{{budget="{pk}",subject="key",every="total"}}'
    gateway.wait_until(lambda: samples(gateway)[f"tokenhub_budget_spent_usd{labels}"] > 0)
    assert samples(gateway)[f"tokenhub_budget_amount_usd{labels}"] == 9
    text = gateway.get("/metrics").text
    assert key_id not in text.replace("-", "")
    assert "tokenhub_ab" not in text


def test_what_a_client_sends_never_becomes_a_label(gateway: Gateway) -> None:
    assert gateway.chat("no-such-model-xyzzy").status_code == 404
    gateway.post(
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": "xyzzy"}], "user": "xyzzy"},
        headers={**gateway.headers(), "X-TokenHub-Mode": "xyzzy", "X-Request-ID": "xyzzy"},
    )
    gateway.get("/v1/xyzzy")
    gateway.get("/admin/v1/xyzzy")
    gateway.get("/xyzzy")
    gateway.wait_until(lambda: any("model_not_found" in name for name in samples(gateway)))
    assert "xyzzy" not in gateway.get("/metrics").text


def test_a_locked_vault_is_told(gateway: Gateway) -> None:
    found = samples(gateway)
    assert (found["tokenhub_vault_initialized"], found["tokenhub_vault_unlocked"]) == (1, 1)
    assert admin(gateway, "vault/lock").status_code == 200
    gateway.wait_until(lambda: samples(gateway)["tokenhub_vault_unlocked"] == 0)
    assert admin(gateway, "vault/unlock", admin_password=VAULT_PASSWORD).status_code == 200
    gateway.wait_until(lambda: samples(gateway)["tokenhub_vault_unlocked"] == 1)


def test_temporal_is_absent_while_it_is_not_used(gateway: Gateway) -> None:
    assert "tokenhub_temporal_up" not in gateway.get("/metrics").text


# -- what is made of them ----------------------------------------------------------------------------------------------
def shown(gateway: Gateway, upstream: Upstream) -> set[str]:
    """Names of the metrics that a server with some traffic shows, and of Temporal's, which it has none of."""
    upstream.next(Reply(status=503), Reply(status=503), Reply(status=503))
    gateway.chat("auto")
    gateway.get("/admin/login/")
    types = re.findall(r"^# TYPE (\S+)", gateway.get("/metrics").text, re.MULTILINE)
    return {*types, "tokenhub_temporal_up"}


def named(text: str) -> set[str]:
    return set(_FAMILY.findall(text))


def test_every_metric_of_the_rules_and_of_the_dashboard_exists(gateway: Gateway, upstream: Upstream) -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "tokenhub.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries.append((DEPLOY / "prometheus" / "alerts.yml").read_text())
    wanted = set[str]().union(*map(named, queries))
    exist = shown(gateway, upstream)
    assert len(wanted) > 25
    assert {name for name in wanted if name not in exist and _SUFFIX.sub("", name) not in exist} == set()


@needs_promtool
def test_promtool_finds_no_fault_in_the_text(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(Reply(status=503))
    gateway.chat("m")
    gateway.chat("m", stream=True)
    gateway.get("/admin/login/")
    done = promtool("check", "metrics", stdin=gateway.get("/metrics").text)
    complaints = [line for line in done.stderr.splitlines() if not _MILLISECONDS.match(line)]
    assert (done.returncode in {0, 3}, done.stdout, complaints) == (True, "", [])


@needs_promtool
@pytest.mark.parametrize(
    "command", ["check rules alerts.yml", "test rules alerts_test.yml", "check config prometheus.yml"]
)
def test_promtool_passes_what_is_in_deploy(command: str) -> None:
    done = promtool(*command.split())
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried() -> None:
    alerts = re.findall(r"alert: (\w+)", (DEPLOY / "prometheus" / "alerts.yml").read_text())
    tried = re.findall(r'alertname="(\w+)"', (DEPLOY / "prometheus" / "alerts_test.yml").read_text())
    assert sorted(alerts) == sorted(tried)


def promtool(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *arguments], cwd=DEPLOY / "prometheus", input=stdin, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def test_the_dashboard_has_its_rows_and_no_panel_over_another() -> None:
    dashboard: dict[str, Any] = json.loads((DEPLOY / "grafana" / "tokenhub.json").read_text())
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == ["State", "Traffic", "Latency", "Money", "Providers", "Internals"]
    taken = set[tuple[int, int]]()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


# -- the documentation -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SPECS)
def test_every_metric_is_documented_with_its_labels(name: str) -> None:
    rows = table(DOCS / "reference" / "metrics.md")
    assert name in rows, f"docs/reference/metrics.md has no row for {name}"
    assert rows[name][0] == ", ".join(SPECS[name].labels)


def test_no_metric_is_documented_that_does_not_exist() -> None:
    text = (DOCS / "reference" / "metrics.md").read_text()
    assert {name for name in re.findall(r"`(tokenhub_[a-z_]+)`", text) if name not in SPECS} == set()
