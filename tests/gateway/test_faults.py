"""Whatever goes wrong upstream or comes from a client: an error of the contract in the client's dialect, in bounded
time, never a 500, and nothing secret in it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from functools import partial
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from providers.formats.canonical import Ended, TextDelta
from providers.formats.dialect import MOST_TOKENS
from providers.formats.registry import DIALECTS
from routing.errors import CODES
from tests.support import wire
from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Fault, Reply, Upstream

CREDENTIAL = "sk-a-very-secret-credential"
ALONE = {"X-TokenHub-Fallback": "none"}
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
USER = [{"role": "user", "content": "Hi"}]
BEGUN = {
    "openai": (b'data: {"id": "c", "choices": [{"index": 0, "delta": {"content": "Well"}}]}\n\n',),
    "anthropic": (
        b'event: message_start\ndata: {"type": "message_start", "message": {"id": "m", "usage": {}}}\n\n',
        b'data: {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}\n\n',
        b'data: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Well"}}\n\n',
    ),
}
"""Of a stream."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Model `a0` to `a79` and their like at providers of their own, so that no test's failures rest another's."""
    count = 120
    providers = [
        {"id": f"{kind}{number}", "type": kind, "base_url": upstream.url, "credential": CREDENTIAL}
        for kind in PATHS
        for number in range(count)
    ]
    models = [
        {"id": f"{kind}-{number}", "provider_id": f"{kind}{number}", "input_per_1k": "0.01", "output_per_1k": "0.01"}
        for kind in PATHS
        for number in range(count)
    ]
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=providers,
        models=models,
        keys=[
            {"key": KEY},
            {"key": KEY[:-2] + "01", "enabled": False},
            {"key": KEY[:-2] + "02", "expires_at": "2020-01-01T00:00:00Z"},
            {"key": KEY[:-2] + "03", "scopes": ["plan"]},
            {"key": KEY[:-2] + "04", "allowed_models": ["openai-1"]},
        ],
        env={
            "TOKENHUB_RATE_LIMIT_RPS": "0",
            "TOKENHUB_PROVIDER_TIMEOUT_SECS": "1",
            "TOKENHUB_REQUEST_TIMEOUT_SECS": "1",
            "TOKENHUB_STREAM_IDLE_TIMEOUT_SECS": "1",
            "TOKENHUB_BODY_TIMEOUT_SECS": "1",
            "TOKENHUB_MAX_BODY_BYTES": "100000",
        },
    ) as running:
        yield running


_numbers = iter(range(120))


@pytest.fixture
def number() -> int:
    """Of models that no other test uses."""
    return next(_numbers)


def ask(gateway: Gateway, client: str, model: str, *, stream: bool = False, **headers: str) -> httpx.Response:
    body = {"model": model, "max_tokens": 50, "messages": USER, "stream": stream}
    return gateway.post(PATHS[client], body, headers={**gateway.headers(), **ALONE, **headers}, timeout=15)


def check_error(answer: httpx.Response, client: str, status: int, code: str) -> dict[str, Any]:
    """The error object, after its shape was checked."""
    assert (answer.status_code, answer.headers["x-tokenhub-error-code"]) == (status, code), answer.text
    body: dict[str, Any] = answer.json()
    if client == "anthropic":
        assert body["type"] == "error"
        assert body["request_id"] == answer.headers["x-request-id"]
    else:
        assert body["error"]["code"] == code
        assert body["error"]["request_id"] == answer.headers["x-request-id"]
    assert body["error"]["message"]
    assert CREDENTIAL not in answer.text + str(answer.headers)
    assert "Traceback" not in answer.text
    return dict(body["error"])


STATUSES = [
    (400, 400, "upstream_rejected"), (422, 422, "upstream_rejected"), (401, 502, "upstream_error"),
    (403, 502, "upstream_error"), (404, 502, "upstream_error"), (408, 504, "upstream_timeout"),
    (413, 400, "context_length_exceeded"), (429, 429, "upstream_rate_limited"), (500, 502, "upstream_error"),
    (503, 502, "upstream_error"), (529, 502, "upstream_error"), (302, 502, "upstream_error"),
]  # fmt: skip


@pytest.mark.parametrize("client", list(PATHS))
@pytest.mark.parametrize(("status", "shown", "code"), STATUSES)
def test_an_upstreams_refusal_is_told_in_the_clients_dialect(
    gateway: Gateway, upstream: Upstream, number: int, client: str, status: int, shown: int, code: str
) -> None:
    """Asked over either dialect, whole and streamed."""
    for kind in PATHS:
        for stream in (False, True):
            upstream.next(*[Reply(status=status, headers={"location": "http://127.0.0.1:1/"})] * 12)
            answer = ask(gateway, client, f"{kind}-{number}", stream=stream)
            error = check_error(answer, client, shown, code)
            if code == "upstream_rejected":
                assert "told to answer" in error["message"]
            upstream.forget()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("client", list(PATHS))
@pytest.mark.parametrize("told", [9 * 10**15, 10**30, -5, 1.5, "many"])
def test_usage_that_cannot_be_true_costs_no_answer_and_stops_no_log(
    gateway: Gateway, upstream: Upstream, number: int, client: str, stream: bool, told: Any
) -> None:
    usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"), told)
    upstream.next(Reply(usage=usage))
    answers = [ask(gateway, client, f"{client}-{number}", stream=stream) for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 200]
    ids = [one.headers["x-tokenhub-request-id"].replace("-", "") for one in answers]
    sql = f"SELECT * FROM telemetry_requestlog WHERE request_id IN ('{ids[0]}', '{ids[1]}') ORDER BY id"  # noqa: S608
    gateway.wait_until(lambda: len(gateway.query(sql)) == 2)
    row, after = gateway.query(sql)
    is_much = isinstance(told, int) and told > 0
    assert row["input_tokens"] == (MOST_TOKENS if is_much else int(told == 1.5))
    assert bool(row["usage_estimated"]) == is_much
    assert 0 < after["input_tokens"] < 1000


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_rate_limit_names_its_wait(gateway: Gateway, upstream: Upstream, number: int, form: str) -> None:
    retry_after = "7" if form == "seconds" else formatdate(time.time() + 120, usegmt=True)
    upstream.next(Reply(status=429, headers={"retry-after": retry_after}))
    answer = ask(gateway, "openai", f"openai-{number}")
    check_error(answer, "openai", 429, "upstream_rate_limited")
    assert 5 <= int(answer.headers["retry-after"]) <= 120


TOLD: list[tuple[dict[str, Any], int, str]] = [
    ({"error": {"message": "No quota left", "code": 429}}, 429, "upstream_rate_limited"),
    ({"error": {"message": "bad data: flagged", "code": 400}, "choices": []}, 400, "upstream_rejected"),
    ({"error": {"message": "prompt is too long", "code": 400}, "choices": None}, 400, "context_length_exceeded"),
    ({"error": {"message": f"who is {CREDENTIAL}?", "code": 401}}, 502, "upstream_error"),
    ({"error": {"message": f"{CREDENTIAL} is tired", "code": 502}}, 502, "upstream_error"),
    ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 502, "upstream_error"),
]


@pytest.mark.parametrize("client", list(PATHS))
@pytest.mark.parametrize(("told", "shown", "code"), TOLD)
def test_an_error_under_a_status_of_success_is_told_as_what_it_is(
    gateway: Gateway, upstream: Upstream, number: int, client: str, told: dict[str, Any], shown: int, code: str
) -> None:
    """As OpenRouter has them, which begins its answer before it has asked anybody."""
    for kind in PATHS:
        for stream in (False, True):
            upstream.next(*[Reply(body=json.dumps(told).encode())] * 4)
            error = check_error(ask(gateway, client, f"{kind}-{number}", stream=stream), client, shown, code)
            if CREDENTIAL not in told["error"]["message"]:
                assert told["error"]["message"] in error["message"]
            upstream.forget()


def test_an_error_in_a_choice_is_no_answer_in_another_dialect(
    gateway: Gateway, upstream: Upstream, number: int
) -> None:
    choice = {"index": 0, "finish_reason": "error", "message": {"role": "assistant", "content": "Wel"}}
    choice["error"] = {"message": "The machine is gone", "code": 502}
    body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}).encode()
    upstream.next(*[Reply(body=body)] * 4)
    error = check_error(ask(gateway, "anthropic", f"openai-{number}"), "anthropic", 502, "upstream_error")
    assert "The machine is gone" in error["message"]
    upstream.forget()


_OF_STREAMS = {Fault.GARBAGE_EVENT, Fault.ERROR_EVENT, Fault.NO_TERMINAL_EVENT, Fault.WRONG_CHUNK_SIZE}
WHOLE_FAULTS = [one for one in Fault if one is not Fault.NONE and one not in _OF_STREAMS]
STREAM_FAULTS = [one for one in Fault if one not in {Fault.NONE, Fault.BROKEN_JSON}]


@pytest.mark.parametrize("fault", WHOLE_FAULTS)
def test_a_broken_answer_is_an_error_in_bounded_time(
    gateway: Gateway, upstream: Upstream, number: int, fault: Fault
) -> None:
    for client, kind in (("openai", "openai"), ("anthropic", "openai"), ("openai", "anthropic")):
        upstream.next(*[Reply(fault=fault)] * 12)
        started = time.monotonic()
        answer = ask(gateway, client, f"{kind}-{number}")
        assert time.monotonic() - started < 6
        late = fault in {Fault.HANG_BEFORE_HEAD, Fault.HANG_MIDWAY}
        check_error(answer, client, 504 if late else 502, "upstream_timeout" if late else "upstream_error")
        upstream.forget()


@pytest.mark.parametrize("fault", STREAM_FAULTS)
def test_a_broken_stream_ends_with_the_dialects_error_and_never_in_silence(
    gateway: Gateway, upstream: Upstream, number: int, fault: Fault
) -> None:
    for client, kind in (("openai", "openai"), ("anthropic", "anthropic"), ("openai", "anthropic"),
                         ("anthropic", "openai")):  # fmt: skip
        upstream.next(*[Reply(fault=fault, at=4, words=12)] * 12)
        started = time.monotonic()
        answer = ask(gateway, client, f"{kind}-{number}", stream=True)
        assert time.monotonic() - started < 6
        upstream.forget()
        if answer.status_code != 200:
            assert answer.status_code in {502, 504}
            assert answer.headers["x-tokenhub-error-code"] in {"upstream_error", "upstream_timeout"}
            continue
        last = answer.text.rstrip().rsplit("\n\n", 1)[-1]
        if fault is Fault.NO_TERMINAL_EVENT and kind == "openai" and "[DONE]" in last + answer.text[-200:]:
            continue  # the finish reason had come: the answer was whole
        data = json.loads(last.split("data: ", 1)[1])
        assert data["error"]["message"]
        assert "[DONE]" not in answer.text
        assert ("event: error" in last) == (client == "anthropic")


@pytest.mark.parametrize(("client", "kind"), [("openai", "openai"), ("openai", "anthropic"), ("anthropic", "openai")])
def test_a_whole_answer_to_who_asked_for_a_stream_is_told_as_one_and_counted(
    gateway: Gateway, upstream: Upstream, number: int, client: str, kind: str
) -> None:
    usage = wire.usage_of(anthropic=kind == "anthropic", count=7, override=None)
    made = wire.messages_body if kind == "anthropic" else partial(wire.chat_body, choices=1)
    upstream.next(Reply(body=made("m", 7, usage), framing="chunked", one_byte=True))
    answer = ask(gateway, client, f"{kind}-{number}", stream=True)
    upstream.forget()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-tokenhub-warning"] == "dropped=stream"
    parser = DIALECTS["anthropic-messages" if client == "anthropic" else "openai-chat"].stream_parser()
    events = parser.feed(answer.content) + parser.close()
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "".join(wire.words(7))
    assert events[-1] == Ended()
    named = answer.headers["x-tokenhub-request-id"].replace("-", "")
    sql = f"SELECT * FROM telemetry_requestlog WHERE request_id = '{named}'"  # noqa: S608
    gateway.wait_until(lambda: len(gateway.query(sql)) == 1)
    (row,) = gateway.query(sql)
    assert (row["input_tokens"], row["output_tokens"]) == (wire.INPUT_TOKENS, 7)
    assert not row["usage_estimated"]


def test_a_whole_answer_that_cannot_be_told_as_a_stream_is_a_failure_that_is_paid(
    gateway: Gateway, upstream: Upstream, number: int
) -> None:
    body = wire.messages_body("m", 7, wire.usage_of(anthropic=True, count=7, override=None))
    upstream.next(*[Reply(body=body)] * 4)
    answer = ask(gateway, "anthropic", f"anthropic-{number}", stream=True)
    upstream.forget()
    assert "whole answer" in check_error(answer, "anthropic", 502, "upstream_error")["message"]
    named = answer.headers["x-tokenhub-request-id"].replace("-", "")
    sql = f"SELECT * FROM telemetry_requestlog WHERE request_id = '{named}'"  # noqa: S608
    gateway.wait_until(lambda: len(gateway.query(sql)) == 1)
    (row,) = gateway.query(sql)
    calls = int(answer.headers["x-tokenhub-attempts"])
    assert (row["input_tokens"], row["output_tokens"]) == (calls * wire.INPUT_TOKENS, calls * 7)


@pytest.mark.parametrize("is_first", [True, False])
def test_an_error_in_a_stream_is_told_without_the_credential_that_it_quotes(
    gateway: Gateway, upstream: Upstream, number: int, is_first: bool
) -> None:
    quoted = json.dumps({"type": "error", "error": {"type": "api_error", "message": f"no quota for {CREDENTIAL} here"}})
    for client, kind in (("openai", "openai"), ("anthropic", "anthropic"), ("openai", "anthropic"),
                         ("anthropic", "openai")):  # fmt: skip
        begun = () if is_first else BEGUN[kind]
        failed = f"event: error\ndata: {quoted}\n\n".encode()
        upstream.next(*[Reply(events=(*begun, failed))] * 12)
        answer = ask(gateway, client, f"{kind}-{number}", stream=True)
        upstream.forget()
        assert answer.status_code == (502 if is_first else 200)
        assert "no quota for *** here" in answer.text
        assert CREDENTIAL not in answer.text


def test_what_an_unauthorized_stream_quotes_is_not_told(gateway: Gateway, upstream: Upstream, number: int) -> None:
    """Providers quote a credential in parts there."""
    failed = {"error": {"code": "401", "message": f"bad key: {CREDENTIAL[:9]}"}}
    upstream.next(*[Reply(events=(f"data: {json.dumps(failed)}\n\n".encode(),))] * 12)
    answer = ask(gateway, "openai", f"openai-{number}", stream=True)
    upstream.forget()
    check_error(answer, "openai", 502, "upstream_error")
    assert CREDENTIAL[:9] not in answer.text


def test_failover_names_its_reason_and_an_explicit_rejection_stays(gateway: Gateway, upstream: Upstream) -> None:
    first = next(_numbers)
    upstream.next(*[Reply(status=503)] * 3)
    answer = gateway.post("/v1/chat/completions", {"model": f"openai-{first}", "messages": USER})
    assert answer.status_code == 200
    assert answer.headers["x-tokenhub-model"] != f"openai-{first}"
    assert answer.headers["x-tokenhub-reason"] == "failover-transient"
    assert answer.headers["x-tokenhub-attempts"] == "4"
    upstream.next(Reply(status=500))
    again = gateway.post("/v1/chat/completions", {"model": f"openai-{next(_numbers)}", "messages": USER})
    assert (again.status_code, again.headers["x-tokenhub-reason"]) == (200, "retried-transient")
    upstream.next(Reply(status=400))
    refused = gateway.post("/v1/chat/completions", {"model": f"openai-{next(_numbers)}", "messages": USER})
    check_error(refused, "openai", 400, "upstream_rejected")


# -- what clients send -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "missing_api_key"),
        ({"Authorization": "Bearer sk-proj-1"}, 401, "invalid_api_key"),
        ({"Authorization": "Basic abc"}, 401, "missing_api_key"),
        ({"x-api-key": KEY[:-2] + "99"}, 401, "invalid_api_key"),
        ({"x-api-key": KEY[:-2] + "01"}, 401, "disabled_api_key"),
        ({"x-api-key": KEY[:-2] + "02"}, 401, "expired_api_key"),
        ({"x-api-key": KEY[:-2] + "03"}, 403, "scope_not_allowed"),
        ({"x-api-key": KEY[:-2] + "04"}, 403, "model_not_allowed"),
        ({"x-api-key": KEY, "X-TokenHub-Mode": "nonsense"}, 400, "invalid_request"),
        ({"x-api-key": KEY, "X-TokenHub-Max-Budget-USD": "nan"}, 400, "invalid_request"),
        ({"x-api-key": KEY, "X-TokenHub-Fallback": "some"}, 400, "invalid_request"),
    ],
)
@pytest.mark.parametrize("client", list(PATHS))
def test_keys_and_policies_are_refused_by_name(
    gateway: Gateway, client: str, headers: dict[str, str], status: int, code: str
) -> None:
    body = {"model": "openai-0", "max_tokens": 5, "messages": USER}
    check_error(gateway.post(PATHS[client], body, headers=headers), client, status, code)


def test_an_unknown_model_gets_the_nearest_names(gateway: Gateway) -> None:
    error = check_error(ask(gateway, "openai", "opena-12"), "openai", 404, "model_not_found")
    assert "openai-12" in error["hint"]


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [("/v1/nothing", "POST", 404, "not_found"), ("/v1/chat/completions", "GET", 405, "method_not_allowed"),
     ("/v1/v1/chat/completions", "POST", 404, "not_found"), ("/chat/completions", "POST", 404, "not_found")],
)  # fmt: skip
def test_wrong_paths_and_methods_are_told(gateway: Gateway, path: str, method: str, status: int, code: str) -> None:
    answer = httpx.request(method, gateway.base + path, headers=gateway.headers())
    check_error(answer, "openai", status, code)


def test_a_large_body_is_refused_with_and_without_a_declared_length(gateway: Gateway) -> None:
    body = json.dumps({"model": "openai-0", "messages": [{"role": "user", "content": "x" * 200_000}]}).encode()
    check_error(gateway.post("/v1/chat/completions", body), "openai", 413, "request_too_large")
    pieces = iter([body[:50_000], body[50_000:150_000], body[150_000:]])
    answer = httpx.post(gateway.base + "/v1/chat/completions", content=pieces, headers=gateway.headers())
    check_error(answer, "openai", 413, "request_too_large")


def test_a_slow_body_is_given_up(gateway: Gateway) -> None:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 500\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(head.encode() + b'{"model"')
        started = time.monotonic()
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer
    assert time.monotonic() - started < 4


def test_bytes_that_are_no_http_do_no_harm(gateway: Gateway) -> None:
    for junk in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/chat\r\n\r\n", b"\r\n" * 100):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection:
            connection.sendall(junk)
            connection.settimeout(1)
            try:
                connection.recv(1000)
            except TimeoutError:
                continue
    assert gateway.get("/healthz").status_code == 200


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    ["model", "messages", "stream", "max_tokens", "n", "tools", "tool_choice", "response_format", "stop", "system",
     "request", "policy", "output_format", "capabilities", "temperature", "stream_options", "metadata"]
)  # fmt: skip
OK_BODY: dict[str, Any] = {"model": "anthropic-0", "max_tokens": 9, "messages": USER}


@given(
    st.sampled_from([*PATHS.values(), "/v1/chat"]), st.dictionaries(fields, values, min_size=1, max_size=3), st.data()
)
@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_body_is_ever_a_500(gateway: Gateway, path: str, changes: dict[str, Any], data: st.DataObject) -> None:
    body = {"request": {"messages": USER}} if path == "/v1/chat" else OK_BODY
    text = json.dumps({**body, **changes}).encode()
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.binary(max_size=3)) + text[at + 1 :]
    answer = gateway.post(path, text, headers={**gateway.headers(), **ALONE})
    assert answer.status_code != 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["x-tokenhub-error-code"] in CODES
        assert answer.json()["error"]["message"]


def test_nothing_secret_is_left_behind_and_every_request_is_logged_once(gateway: Gateway) -> None:
    """Runs last in this file: over all that the tests before it did."""
    rows = gateway.rows(at_least=100)
    assert len({row["request_id"] for row in rows}) == len(rows)
    everything = json.dumps(rows, default=str) + gateway.log()
    assert CREDENTIAL not in everything
    assert KEY not in everything
    assert "Traceback" not in gateway.log()
    for name in ("tokenhub.sqlite3", "tokenhub.sqlite3-wal"):
        path = gateway.folder / name
        assert not path.exists() or CREDENTIAL.encode() not in path.read_bytes()
