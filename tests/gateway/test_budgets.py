"""Budgets that hold, over running gateways."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from routing.engine import MAX_RETRIES
from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Fault, Reply, Upstream

NANO = 1_000_000_000
OTHER_KEY = KEY[:-2] + "31"
COST = 50_000_000  # of one answer: 10 input tokens, 40 output tokens, a dollar per 1,000
DIALECTS = ["openai-chat", "openai-embeddings"]
USAGE = {"prompt_tokens": 10, "completion_tokens": 40, "total_tokens": 50}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        server.default = Reply(usage=USAGE)
        yield server


def gateway_at(folder: Path, upstream: Upstream, *, amount: str, workers: int = 1, **options: Any) -> Gateway:
    options.setdefault("budgets", [{"of_key": KEY, "amount_usd": amount}])
    options.setdefault("keys", [{"key": KEY, "project": "p"}, {"key": OTHER_KEY, "project": "p"}])
    return Gateway(
        folder,
        providers=[{"id": "p", "type": "openai", "base_url": upstream.url, "dialects": DIALECTS}],
        models=[
            {"id": "m", "provider_id": "p", "input_per_1k": "1", "output_per_1k": "1", "max_output_tokens": 1000},
            {"id": "unpriced", "provider_id": "p"},
            {"id": "open", "provider_id": "p", "input_per_1k": "1", "output_per_1k": "1"},
            *options.pop("models", ()),
        ],
        workers=workers,
        **options,
    )


def ask(
    gateway: Gateway, *, max_tokens: int | None = 40, key: str = KEY, model: str = "m", **fields: Any
) -> httpx.Response:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    return gateway.post("/v1/chat/completions", body, headers={"Authorization": f"Bearer {key}"})


def period(gateway: Gateway) -> dict[str, Any]:
    (row,) = gateway.query("SELECT * FROM keys_budgetperiod")
    return row


def settled(gateway: Gateway, expected: int) -> None:
    gateway.wait_until(lambda: period(gateway)["settled_nano"] == expected)


def test_what_is_asked_for_is_charged_and_the_cap_holds(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, amount="2") as gateway:
        statuses = [ask(gateway).status_code for _ in range(40)]
        served = statuses.count(200)
        # a request's bound is 700 hidden tokens, its bytes and 40 more: 0.8 dollars
        assert served * COST >= 2 * NANO - 850_000_000
        refused = ask(gateway)
        assert refused.status_code == 429
        error = refused.json()["error"]
        assert error["code"] == "budget_exceeded"
        assert "this client key" in error["message"]
        assert error["details"]["budget_usd"] == 2
        (logged,) = [one for one in gateway.rows(at_least=41) if one["error_code"] == "budget_exceeded"][-1:]
        assert json.loads(logged["detail"])["refusal"] == error["details"]
        assert error["details"]["spent_usd"] == pytest.approx(served * COST / NANO)
        settled(gateway, served * COST)
        assert ask(gateway, key=OTHER_KEY).status_code == 200
        settled(gateway, served * COST)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_limited_to_what_the_rest_can_pay(upstream: Upstream, tmp_path: Path, stream: bool) -> None:
    with gateway_at(tmp_path, upstream, amount="1") as gateway:
        answer = ask(gateway, max_tokens=900, stream=stream)
        assert answer.status_code == 200, answer.text
        limit = upstream.requests[-1].json["max_tokens"]
        assert 16 <= limit <= 300
        assert answer.headers["x-tokenhub-warning"] == f"max_tokens={limit}"
        assert ask(gateway, max_tokens=None, stream=stream).status_code == 200
        assert 16 <= upstream.requests[-1].json["max_tokens"] < limit


def test_thoughts_that_the_rest_cannot_pay_are_refused_rather_than_cut(upstream: Upstream, tmp_path: Path) -> None:
    """Anthropic refuses a limit that is not above `thinking.budget_tokens`."""
    with gateway_at(tmp_path, upstream, amount="1") as gateway:
        body = {"model": "m", "max_tokens": 1900, "messages": [{"role": "user", "content": "Hi"}]}
        thinking, before = {"type": "enabled", "budget_tokens": 1024}, len(upstream.requests)
        answer = gateway.post("/v1/messages", {**body, "thinking": thinking})
        assert (answer.status_code, answer.headers["x-tokenhub-error-code"]) == (429, "budget_exceeded")
        assert len(upstream.requests) == before
        assert gateway.post("/v1/messages", body).status_code == 200


def test_a_model_of_unknown_length_gets_a_limit(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, amount="100") as gateway:
        answer = ask(gateway, model="open", max_tokens=None)
        assert answer.headers["x-tokenhub-warning"] == "max_tokens=32768"
        assert upstream.requests[-1].json["max_tokens"] == 32768
        assert "x-tokenhub-warning" not in ask(gateway, max_tokens=None).headers  # its model has a limit of its own


def test_embeddings_go_unchanged_and_pay_for_their_input(upstream: Upstream, tmp_path: Path) -> None:
    """Also of a model that nobody said makes them."""
    embedder = {"id": "e", "provider_id": "p", "input_per_1k": "1", "output_per_1k": "0", "abilities": ["embeddings"]}
    made = {"object": "list", "model": "e", "data": [], "usage": {"prompt_tokens": 50, "total_tokens": 50}}
    with gateway_at(tmp_path, upstream, amount="2", models=[embedder]) as gateway:
        for model in ("e", "open", "m", "e"):
            body = {"model": model, "input": ["one", "two"]}
            upstream.next(Reply(body=json.dumps(made).encode()))
            answer = gateway.post("/v1/embeddings", body)
            assert answer.status_code == 200, answer.text
            assert "x-tokenhub-warning" not in answer.headers
            assert upstream.requests[-1].json == body
        settled(gateway, 4 * COST)
        refused = gateway.post("/v1/embeddings", {"model": "e", "input": "word " * 400})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded")


def test_text_beside_an_image_is_paid_by_its_bytes(upstream: Upstream, tmp_path: Path) -> None:
    """However much it looks like an image's own data."""
    models = [{"id": "cheap", "provider_id": "p", "input_per_1k": "0.003", "output_per_1k": "0.003"}]
    image = {"type": "image_url", "image_url": {"url": "https://images.example/one.png"}}
    inline = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgo" * 40_000}}
    text = {"type": "text", "text": "data:image/png;base64," + "0123456789abcdef" * 30_000}
    with gateway_at(tmp_path, upstream, amount="1", models=models) as gateway:
        refused = ask(gateway, model="cheap", messages=[{"role": "user", "content": [image, text]}])
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded")
        assert refused.json()["error"]["details"]["needed_usd"] > 1.44
        served = ask(gateway, model="cheap", messages=[{"role": "user", "content": [inline, image]}])
        assert served.status_code == 200, served.text


def test_what_has_no_price_is_not_paid(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, amount="100") as gateway:
        refused = ask(gateway, model="unpriced")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
        assert "no price" in refused.json()["error"]["message"]
        for _ in range(5):
            assert ask(gateway, model="").headers["x-tokenhub-model"] != "unpriced"


def test_what_prices_do_not_know_is_refused_to_a_key_with_a_budget_only(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, amount="100") as gateway:
        dearer: list[dict[str, Any]] = [{"service_tier": "priority"}, {"speed": "fast"}]
        for field in dearer:
            refused = ask(gateway, **field)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, *field)
            assert ask(gateway, key=OTHER_KEY, **field).status_code == 200
        assert ask(gateway, service_tier="flex").status_code == 200


def test_failures_cost_nothing_and_give_all_back(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, amount="2") as gateway:
        for _ in range(6):
            upstream.next(Reply(status=400, body=b'{"error": {"message": "no"}}'))
            assert ask(gateway).status_code == 400
        upstream.next(*[Reply(status=500, body=json.dumps({"usage": USAGE}).encode())] * 3)
        assert ask(gateway).headers["x-tokenhub-model"] == "open"
        settled(gateway, COST)


def test_an_answer_that_was_made_and_is_of_no_use_is_paid_for(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, amount="2") as gateway:
        empty = Reply(body=json.dumps({"object": "chat.completion", "choices": [], "usage": USAGE}).encode())
        upstream.next(empty)
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40}
        answer = gateway.post("/v1/messages", body)
        assert (answer.status_code, answer.headers["x-tokenhub-reason"]) == (200, "retried-transient")
        assert answer.headers["x-tokenhub-cost-usd"] == "0.1"
        settled(gateway, 2 * COST)
        upstream.next(*[empty] * (1 + MAX_RETRIES))
        alone = gateway.headers() | {"X-TokenHub-Fallback": "none"}
        assert gateway.post("/v1/messages", body, headers=alone).status_code == 502
        settled(gateway, 5 * COST)
        log = gateway.rows(at_least=2)[-1]
        assert (log["output_tokens"], round(float(log["cost_usd"]) * NANO)) == (3 * 40, 3 * COST)


def test_a_stream_that_breaks_off_is_paid_for_as_far_as_it_came(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, amount="2") as gateway:
        upstream.next(Reply(words=50, at=9, fault=Fault.CLOSE_MIDWAY))
        assert '"error"' in ask(gateway, stream=True).text
        gateway.wait_until(lambda: 0 < period(gateway)["settled_nano"] < COST)


def test_whoever_leaves_pays_for_what_was_produced(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, amount="10") as gateway:
        upstream.next(Reply(words=400, interval=0.05))
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 500}
        with httpx.stream(
            "POST", f"{gateway.base}/v1/chat/completions", json=body, headers=gateway.headers()
        ) as answer:
            for number, _ in enumerate(answer.iter_lines()):
                if number > 10:
                    break
        gateway.wait_until(lambda: period(gateway)["settled_nano"] > 0)
        assert period(gateway)["settled_nano"] < 200 * NANO // 1000


def test_all_budgets_must_hold(upstream: Upstream, tmp_path: Path) -> None:
    budgets = [
        {"of_key": KEY, "amount_usd": "100"},
        {"subject": "project", "subject_id": "p", "amount_usd": "1.5"},
        {"subject": "installation", "amount_usd": "50"},
    ]
    with gateway_at(tmp_path, upstream, amount="", budgets=budgets) as gateway:
        while (answer := ask(gateway)).status_code == 200:
            pass
        assert "the project 'p'" in answer.json()["error"]["message"]
        assert ask(gateway, key=OTHER_KEY).status_code == 429
        gateway.wait_until(
            lambda: len({row["settled_nano"] for row in gateway.query("SELECT * FROM keys_budgetperiod")}) == 1
        )


def test_who_asks_one_by_one_for_all_that_is_left_gets_it_each_time(upstream: Upstream, tmp_path: Path) -> None:
    """Also right after it was given back, for others."""
    with gateway_at(tmp_path, upstream, amount="1") as gateway:
        for _ in range(5):
            answer = ask(gateway, max_tokens=900)
            assert answer.status_code == 200, answer.text
            time.sleep(0.4)


def test_a_raised_budget_is_felt_at_once(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, amount="0.1") as gateway:
        assert ask(gateway).status_code == 429
        gateway.configure(budgets=[{"of_key": KEY, "amount_usd": "5"}])
        gateway.wait_until(lambda: ask(gateway).status_code == 200, seconds=3)


def test_a_budget_that_was_just_deleted_is_no_concern(upstream: Upstream, tmp_path: Path) -> None:
    """While the worker does not know it yet: before its first lease, and when it needs more than it holds."""
    budgets = [{"of_key": KEY, "amount_usd": "20"}, {"subject": "installation", "amount_usd": "50"}]
    with gateway_at(tmp_path, upstream, amount="", budgets=budgets) as gateway:
        assert ask(gateway, key=OTHER_KEY).status_code == 200
        gateway.execute("DELETE FROM keys_budget WHERE subject = 'key'")
        for _ in range(2):
            answer = ask(gateway)
            assert answer.status_code == 200, answer.text
        settled(gateway, 3 * COST)
        gateway.execute("DELETE FROM keys_lease")
        gateway.execute("DELETE FROM keys_budgetperiod")
        gateway.execute("DELETE FROM keys_budget")
        answer = ask(gateway, max_tokens=4_000)
        assert answer.status_code == 200, answer.text


def test_an_overrun_is_the_installations(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, amount="2") as gateway:
        upstream.next(Reply(usage={"prompt_tokens": 10, "completion_tokens": 9_000, "total_tokens": 9_010}))
        answer = ask(gateway)  # a provider that ignores limits
        assert answer.status_code == 200
        gateway.wait_until(lambda: period(gateway)["overrun_nano"] > 0)
        row = period(gateway)
        assert row["settled_nano"] + row["overrun_nano"] == 9_010_000_000
        assert row["settled_nano"] <= 2 * NANO
        assert "budget_overrun" in gateway.log_path.read_text()


def test_workers_share_a_budget_and_use_it_up(upstream: Upstream, tmp_path: Path) -> None:
    """Small requests against a cap that both workers hold leases of."""
    cost = 40_100_000
    gateway = gateway_at(tmp_path, upstream, amount="10", workers=2)
    gateway.configure(models=[{"id": "small", "provider_id": "p", "input_per_1k": "0.01", "output_per_1k": "1"}])
    with gateway, ThreadPoolExecutor(16) as pool:
        statuses = [*pool.map(lambda _: ask(gateway, model="small").status_code, range(241))]
        assert set(statuses) <= {200, 429}
        until = time.monotonic() + 30
        while statuses[-4:] != [429] * 4 or (statuses.count(200) * cost < 9.9 * NANO and time.monotonic() < until):
            statuses.append(ask(gateway, model="small").status_code)
            time.sleep(0.3 if statuses[-1] == 429 else 0)  # a busy worker takes its time to give back
        served = statuses.count(200)
        settled(gateway, served * cost)
        assert 9.9 * NANO <= served * cost <= 10 * NANO


def test_a_killed_worker_leaves_nothing_behind(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, amount="100") as gateway:
        for _ in range(5):
            assert ask(gateway).status_code == 200
        assert gateway.query("SELECT * FROM keys_lease")
        gateway.kill()
        gateway.start()
        gateway.wait_until(lambda: period(gateway)["leased_nano"] == 0)
        settled(gateway, 5 * COST)
        assert gateway.query("SELECT * FROM keys_lease") == []


def test_a_stop_gives_back_what_is_left(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, amount="100") as gateway:
        assert ask(gateway).status_code == 200
        gateway.stop()
        gateway.start()
        gateway.wait_until(lambda: period(gateway)["leased_nano"] == 0)
        settled(gateway, COST)


def test_thresholds_are_told(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, amount="2") as gateway:
        while ask(gateway).status_code == 200:
            pass
        settled(gateway, period(gateway)["settled_nano"])
        gateway.wait_until(
            lambda: (
                "percent=50" in gateway.log_path.read_text()
                or '"percent":50' in gateway.log_path.read_text().replace(" ", "")
            )
        )


def test_repairs_and_shadows_have_their_payers(upstream: Upstream, tmp_path: Path) -> None:
    alias = {"name": "a", "variants": [{"model_id": "m"}, {"model_id": "open", "weight": 100, "is_shadow": True}]}
    budgets = [{"of_key": KEY, "amount_usd": "100"}, {"subject": "installation", "amount_usd": "100"}]
    with gateway_at(tmp_path, upstream, amount="", budgets=budgets, aliases=[alias]) as gateway:
        assert ask(gateway, model="a").status_code == 200

        def sums() -> list[int]:
            rows = gateway.query("SELECT settled_nano FROM keys_budgetperiod ORDER BY settled_nano")
            return [row["settled_nano"] for row in rows]

        gateway.wait_until(lambda: sums() == [COST, 2 * COST])
        assert json.loads(gateway.rows()[0]["detail"])


def test_the_mode_that_learns_turns_to_cheaper_models_when_money_goes_too_fast(
    upstream: Upstream, tmp_path: Path
) -> None:
    offset = (datetime.now(UTC).hour - 1) % 24  # where the day began one or two hours ago
    zone = f"Etc/GMT+{offset}" if offset <= 12 else f"Etc/GMT-{24 - offset}"
    budgets = [{"of_key": KEY, "amount_usd": "2000", "every": "day"}]
    with gateway_at(tmp_path, upstream, amount="", budgets=budgets, env={"TOKENHUB_TIME_ZONE": zone}) as gateway:
        gateway.configure(models=[{"id": "dear", "provider_id": "p", "input_per_1k": "9", "output_per_1k": "9"}])
        gateway.wait_until(lambda: ask(gateway, model="dear", max_tokens=16).status_code == 200, seconds=3)
        gateway.wait_until(lambda: bool(period(gateway)["settled_nano"]))
        connection = sqlite3.connect(gateway.folder / "tokenhub.sqlite3", timeout=20)
        with connection:
            connection.execute("UPDATE keys_budgetperiod SET settled_nano = ?", (800 * NANO,))
        connection.close()

        def asked() -> dict[str, Any]:
            answer = ask(gateway, model="tokenhub/thompson", max_tokens=16)
            assert answer.status_code == 200
            wanted = answer.headers["x-tokenhub-request-id"].replace("-", "")
            found: list[str] = []

            def logged() -> bool:
                query = "SELECT detail FROM telemetry_requestlog WHERE replace(request_id, '-', '') = ?"
                found[:] = [row["detail"] for row in gateway.query(query, wanted)]
                return bool(found)

            gateway.wait_until(logged)
            return {"model": answer.headers["x-tokenhub-model"], **json.loads(found[0])}

        gateway.wait_until(lambda: asked().get("pressure", 0.0) > 0.0, seconds=20)
        assert {asked()["model"] for _ in range(5)} <= {"m", "open"}
