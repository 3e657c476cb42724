"""Requests with an Idempotency-Key, over two workers: each runs once, and is answered as often as it is asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.support.gateway import KEY, Gateway, run_manage
from tests.support.upstream import Fault, Reply, Upstream

OTHER_KEY, LIMITED_KEY, COUNTED_KEY = KEY[:-2] + "31", KEY[:-2] + "32", KEY[:-2] + "33"
COUNTED_USD = 999
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Say it once"}]
USAGE = {"prompt_tokens": 10, "completion_tokens": 40, "total_tokens": 50}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": MESSAGES},
    "/v1/messages": {"model": "m", "messages": MESSAGES, "max_tokens": 50},
    "/v1/messages/count_tokens": {"model": "m", "messages": MESSAGES},
    "/v1/responses": {"model": "m", "input": "Say it once"},
    "/v1/chat": {"request": {"messages": MESSAGES, "model_hint": "m"}},
    "/v1/plan": {"request": {"messages": MESSAGES, "model_hint": "m"}, "orchestration": {"mode": "planning"}},
    "/v1/embeddings": {"model": "e", "input": "Say it once"},
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        server.default = Reply(usage=USAGE)
        yield server


def gateway_at(folder: Path, upstream: Upstream, **options: Any) -> Gateway:
    return Gateway(
        folder,
        providers=[
            {"id": "p", "type": "openai", "base_url": upstream.url, "dialects": ["openai-chat", "openai-embeddings"]}
        ],
        models=[
            {"id": name, "provider_id": "p", "input_per_1k": "1", "output_per_1k": "1", "max_output_tokens": 100}
            for name in "mnoe"
        ],
        keys=[{"key": KEY}, {"key": OTHER_KEY}, {"key": LIMITED_KEY, "rate_limit_rpm": 3}, {"key": COUNTED_KEY}],
        budgets=[{"of_key": KEY, "amount_usd": "1000"}, {"of_key": COUNTED_KEY, "amount_usd": str(COUNTED_USD)}],
        **options,
    )


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway_at(tmp_path_factory.mktemp("gateway"), upstream, workers=2) as running:
        yield running


@pytest.fixture(autouse=True)
def _forgotten(upstream: Upstream) -> None:
    upstream.requests.clear()


def ask(gateway: Gateway, name: str, path: str = CHAT, *, key: str = KEY, **changes: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": name}
    return gateway.post(path, BODIES[path] | changes, headers=headers)


def code(answer: httpx.Response) -> str:
    return str(answer.headers.get("x-tokenhub-error-code", ""))


@pytest.mark.parametrize("path", BODIES)
def test_a_repeat_gets_the_same_answer_from_either_worker_and_asks_nobody(
    gateway: Gateway, upstream: Upstream, path: str
) -> None:
    name = str(uuid4())
    first = ask(gateway, name, path)
    assert first.status_code == 200
    assert "idempotency-replay" not in first.headers
    asked = len(upstream.requests)
    repeats = [ask(gateway, name, path) for _ in range(6)]
    assert {one.content for one in repeats} == {first.content}
    assert {one.status_code for one in repeats} == {200}
    assert {one.headers["idempotency-replay"] for one in repeats} == {"true"}
    for name in ("content-type", "x-tokenhub-model", "x-tokenhub-reason", "x-tokenhub-cost-usd"):
        assert {one.headers.get(name) for one in repeats} == {first.headers.get(name)}
    own = {one.headers["x-tokenhub-request-id"] for one in [first, *repeats]}
    assert len(own) == 7
    assert {one.headers["x-tokenhub-replay-of"] for one in repeats} == {first.headers["x-tokenhub-request-id"]}
    assert len(upstream.requests) == asked


def test_a_repeat_spends_nothing_and_has_a_row_of_its_own(gateway: Gateway) -> None:
    name = str(uuid4())
    first = ask(gateway, name, key=COUNTED_KEY)

    def settled_with(answer: httpx.Response) -> int:
        """Once the answer's row is there."""
        own = answer.headers["x-tokenhub-request-id"].replace("-", "")
        found = "SELECT 1 FROM telemetry_requestlog WHERE request_id = ?"
        gateway.wait_until(lambda: bool(gateway.query(found, own)))
        periods = "SELECT settled_nano FROM keys_budgetperiod JOIN keys_budget AS b ON b.id = budget_id"
        return int(gateway.query(f"{periods} WHERE b.amount_usd = ?", COUNTED_USD)[0]["settled_nano"])

    before = settled_with(first)
    assert before > 0
    again = ask(gateway, name, key=COUNTED_KEY)
    assert settled_with(again) == before
    own = again.headers["x-tokenhub-request-id"].replace("-", "")
    (row,) = gateway.query("SELECT * FROM telemetry_requestlog WHERE request_id = ?", own)
    assert (row["routing_reason"], row["status"], row["total_tokens"]) == ("idempotent-replay", 200, 0)
    assert float(row["cost_usd"]) == 0.0


def test_another_body_is_a_conflict_and_another_client_key_or_path_is_another_request(
    gateway: Gateway, upstream: Upstream
) -> None:
    name = str(uuid4())
    assert ask(gateway, name).status_code == 200
    other = ask(gateway, name, model="n")
    assert (other.status_code, code(other)) == (409, "idempotency_conflict")
    assert "retry-after" not in other.headers
    assert len(upstream.requests) == 1
    assert "idempotency-replay" not in ask(gateway, name, key=OTHER_KEY).headers
    assert "idempotency-replay" not in ask(gateway, name, "/v1/messages").headers
    assert len(upstream.requests) == 3


def test_of_many_at_once_one_runs_and_the_others_are_told_to_wait(gateway: Gateway, upstream: Upstream) -> None:
    name = str(uuid4())
    upstream.next(Reply(usage=USAGE, delay=1.5))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(gateway, name), range(8)))
    assert len(upstream.requests) == 1
    ran = [one for one in answers if one.status_code == 200 and "idempotency-replay" not in one.headers]
    assert len(ran) == 1
    for one in answers:
        if one.status_code == 409:
            assert (code(one), one.headers["retry-after"]) == ("idempotency_conflict", "1")
        else:
            assert one.content == ran[0].content
    assert Counter(one.status_code for one in answers)[409] > 0


@pytest.mark.parametrize("status", [500, 429])
def test_failures_are_not_kept(gateway: Gateway, upstream: Upstream, status: int) -> None:
    name, model = str(uuid4()), "n" if status == 500 else "o"  # a failed model rests
    upstream.next(*[Reply(status=status)] * 8)
    failed = gateway.post(
        CHAT,
        BODIES[CHAT] | {"model": model},
        headers={"Authorization": f"Bearer {KEY}", "Idempotency-Key": name, "X-TokenHub-Fallback": "none"},
    )
    assert failed.status_code in {429, 502}
    upstream.forget()
    again = ask(gateway, name, model="m")  # also another body: nothing is left of the first
    assert again.status_code == 200
    assert "idempotency-replay" not in again.headers


def test_a_refusal_of_the_request_is_kept(gateway: Gateway) -> None:
    name = str(uuid4())
    first, again = (ask(gateway, name, model="unknown") for _ in range(2))
    assert (first.status_code, code(first)) == (404, "model_not_found")
    assert (again.status_code, code(again)) == (404, "model_not_found")
    assert again.content == first.content
    assert again.headers["idempotency-replay"] == "true"


def test_a_request_whose_client_left_runs_anew(gateway: Gateway, upstream: Upstream) -> None:
    name = str(uuid4())
    upstream.next(Reply(fault=Fault.HANG_BEFORE_HEAD))
    headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": name}
    with pytest.raises(httpx.ReadTimeout):
        gateway.post(CHAT, BODIES[CHAT], headers=headers, timeout=1.0)
    answers: list[httpx.Response] = []

    def ran() -> bool:
        answers.append(ask(gateway, name))
        return answers[-1].status_code != 409

    gateway.wait_until(ran)
    assert answers[-1].status_code == 200
    assert "idempotency-replay" not in answers[-1].headers


def test_streams_are_not_kept(gateway: Gateway, upstream: Upstream) -> None:
    name = str(uuid4())
    for _ in range(2):
        answer = ask(gateway, name, stream=True)
        assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    nested = BODIES["/v1/chat"]["request"] | {"stream": True}
    answer = ask(gateway, name, "/v1/chat", request=nested)
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    assert len(upstream.requests) == 3


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 256])
def test_a_bad_key_is_named(gateway: Gateway, name: str) -> None:
    headers = [(b"Authorization", f"Bearer {KEY}".encode()), (b"Idempotency-Key", name.encode())]
    answer = httpx.post(f"{gateway.base}{CHAT}", json=BODIES[CHAT], headers=headers, trust_env=False)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_a_large_answer_is_not_repeated_and_not_paid_twice(gateway: Gateway, upstream: Upstream) -> None:
    name = str(uuid4())
    upstream.next(Reply(usage=USAGE, words=300_000))
    first = ask(gateway, name)
    assert len(first.content) > 1_048_576
    again = ask(gateway, name)
    assert (again.status_code, code(again)) == (409, "idempotency_conflict")
    assert first.headers["x-tokenhub-request-id"] in again.json()["error"]["message"]
    assert len(upstream.requests) == 1


def test_repeats_count_for_rate_limits(gateway: Gateway) -> None:
    name = str(uuid4())
    answers = [ask(gateway, name, key=LIMITED_KEY) for _ in range(4)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429]


def test_unknown_paths_and_keys_fail_as_ever(gateway: Gateway) -> None:
    assert gateway.post("/v1/nothing", {}, headers={"Idempotency-Key": "x"}).status_code == 404
    assert gateway.post(CHAT, {}, headers={"Idempotency-Key": "x"}).status_code == 401


def test_no_file_holds_an_answer_or_a_name_and_what_expired_is_removed(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(Reply(usage=USAGE, body=json.dumps({
        "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "thequietword"}}],
    }).encode()))  # fmt: skip
    name = f"order-{uuid4()}"
    assert "thequietword" in ask(gateway, name, messages=[{"role": "user", "content": "thesecretquestion"}]).text
    gateway.query("PRAGMA wal_checkpoint(FULL)")
    for file in gateway.folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert not any(one in data for one in (b"thequietword", b"thesecretquestion", name.encode())), file
    with_expired = gateway.query("SELECT count(*) AS n FROM routing_idempotentcall")[0]["n"]
    assert with_expired > 0
    gateway.execute("UPDATE routing_idempotentcall SET expires_at = '2020-01-01 00:00:00'")
    assert "idempotency-replay" not in ask(gateway, name, model="n").headers  # what has expired is forgotten
    code = "from routing.idempotency_store import prune; print(prune())"
    assert int(run_manage("shell", "--no-imports", "-c", code, folder=gateway.folder)) == with_expired - 1


def test_a_worker_that_is_killed_in_mid_call_leaves_no_claim_behind(upstream: Upstream, tmp_path: Path) -> None:
    name = str(uuid4())
    with gateway_at(tmp_path, upstream) as gateway:
        upstream.next(Reply(fault=Fault.HANG_BEFORE_HEAD))
        with ThreadPoolExecutor(1) as pool:
            lost = pool.submit(ask, gateway, name)
            gateway.wait_until(lambda: bool(upstream.requests))
            gateway.kill()
            assert isinstance(lost.exception(timeout=20), httpx.TransportError)
        gateway.start()
        answers: list[httpx.Response] = []

        def ran() -> bool:
            answers.append(ask(gateway, name))
            return answers[-1].status_code != 409

        gateway.wait_until(ran, seconds=20)
        assert answers[-1].status_code == 200
        assert "idempotency-replay" not in answers[-1].headers
        assert ask(gateway, name).content == answers[-1].content


def test_without_its_database_nothing_is_run(upstream: Upstream, tmp_path: Path) -> None:
    with gateway_at(tmp_path, upstream) as gateway:
        gateway.execute("ALTER TABLE routing_idempotentcall RENAME TO gone")
        answer = ask(gateway, str(uuid4()))
        assert (answer.status_code, code(answer)) == (503, "accounting_unavailable")
        assert answer.headers["retry-after"]
        assert not upstream.requests
        assert gateway.chat("m").status_code == 200  # without the header
