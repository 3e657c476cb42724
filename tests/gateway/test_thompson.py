"""The mode that learns: feedback moves it, and what it learned is shared and outlives a restart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Upstream

OTHER_KEY = KEY[:-2] + "31"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


def gateway_at(folder: Path, upstream: Upstream, *, workers: int = 1) -> Gateway:
    return Gateway(
        folder,
        providers=[{"id": f"p{number}", "type": "openai", "base_url": upstream.url} for number in range(2)],
        models=[
            {"id": f"m{number}", "provider_id": f"p{number}", "input_per_1k": "0.001", "output_per_1k": "0.001"}
            for number in range(2)
        ],
        keys=[{"key": KEY}, {"key": OTHER_KEY}],
        workers=workers,
    )


def ask(gateway: Gateway) -> httpx.Response:
    answer = gateway.chat("tokenhub/thompson")
    assert answer.status_code == 200, answer.text
    return answer


def judge(gateway: Gateway, request_id: str, score: float, *, key: str = KEY, **fields: Any) -> httpx.Response:
    body = {"request_id": request_id, "score": score, **fields}
    return gateway.post("/v1/feedback", body, headers={"Authorization": f"Bearer {key}"})


def teach(gateway: Gateway, liked: str, rounds: int) -> None:
    """Ten at a time: the first judgement waits until the log has its request, and the others find theirs there."""
    for _ in range(rounds // 10):
        for answer in [ask(gateway) for _ in range(10)]:
            score = 1.0 if answer.headers["x-tokenhub-model"] == liked else 0.0
            assert judge(gateway, answer.headers["x-tokenhub-request-id"], score).status_code == 200


def share(gateway: Gateway, model: str, rounds: int = 30) -> float:
    seen = Counter(ask(gateway).headers["x-tokenhub-model"] for _ in range(rounds))
    return seen[model] / rounds


def test_feedback_moves_the_choice_and_survives_a_kill(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream) as gateway:
        first = ask(gateway)
        assert first.headers["x-tokenhub-reason"] == "thompson"
        teach(gateway, "m1", 40)
        assert share(gateway, "m1") > 0.8
        gateway.wait_until(lambda: bool(gateway.query("SELECT 1 FROM routing_banditdelta")))
        rows = len(gateway.query("SELECT 1 FROM routing_banditdelta"))
        gateway.wait_until(lambda: len(gateway.query("SELECT 1 FROM routing_banditdelta")) >= rows, seconds=3)
        gateway.kill()
        gateway.start()
        assert share(gateway, "m1") > 0.7
        detail = gateway.query("SELECT detail FROM telemetry_requestlog WHERE routing_reason = 'thompson'")[-1][
            "detail"
        ]
        assert '"probability"' in detail
        assert '"context"' in detail


def test_every_worker_learns_what_one_was_told(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream, workers=2) as gateway:
        teach(gateway, "m0", 60)
        gateway.wait_until(lambda: share(gateway, "m0", 20) > 0.8, seconds=10)


def test_feedback_is_idempotent_and_belongs_to_its_key(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream) as gateway:
        headers = {**gateway.headers(), "X-Request-ID": "mine-1"}
        body = {"model": "tokenhub/thompson", "messages": [{"role": "user", "content": "Hi"}]}
        answer = gateway.post("/v1/chat/completions", body, headers=headers)
        request_id = answer.headers["x-tokenhub-request-id"]
        for wanted in (request_id, "mine-1"):
            told = judge(gateway, wanted, 0.5, comment="meh")
            assert (told.status_code, told.json()) == (200, {"ok": True, "request_id": request_id, "score": 0.5})
        (row,) = gateway.query("SELECT * FROM routing_feedback")
        reward = row["reward"]
        assert judge(gateway, request_id, 1.0).status_code == 200
        (row,) = gateway.query("SELECT * FROM routing_feedback")
        assert row["reward"] > reward
        refused = judge(gateway, request_id, 1.0, key=OTHER_KEY)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"score": 1}, None), ({"request_id": "x"}, None), ({"request_id": "x", "score": 1.5}, "score"),
        ({"request_id": "x", "score": "good"}, "score"), ({"request_id": "", "score": 1}, "request_id"),
        ({"request_id": "x", "score": 1, "stars": 5}, None),
    ],
)  # fmt: skip
def test_bad_feedback_names_what_is_wrong(
    upstream: Upstream, tmp_path_factory: pytest.TempPathFactory, body: dict[str, Any], param: str | None
) -> None:
    gateway = _shared(upstream, tmp_path_factory)
    answer = gateway.post("/v1/feedback", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


_RUNNING: list[Gateway] = []


def _shared(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    if not _RUNNING:
        _RUNNING.append(gateway_at(tmp_path_factory.mktemp("shared"), upstream).start())
    return _RUNNING[0]


@pytest.fixture(scope="module", autouse=True)
def _stop() -> Iterator[None]:
    yield
    for gateway in _RUNNING:
        gateway.stop()
