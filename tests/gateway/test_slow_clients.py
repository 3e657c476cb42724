"""What a client holds that is done, or that takes nothing, and what it does to others: over a running gateway."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support import wire
from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Reply, Upstream

ONE_KEY = KEY[:-2] + "41"  # one request at the same time


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[{"id": "p", "type": "openai", "base_url": upstream.url, "dialects": ["openai-chat"]}],
        models=[{"id": "m", "provider_id": "p"}],
        keys=[{"key": KEY}, {"key": ONE_KEY, "max_concurrent": 1}],
        env={"TOKENHUB_STREAM_IDLE_TIMEOUT_SECS": "2"},
    ) as running:
        yield running


def request(*, key: str = KEY, **fields: object) -> bytes:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: gateway",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def connected(gateway: Gateway, *, small: bool = False) -> socket.socket:
    """`small`: the kernel takes little for it."""
    found = socket.socket()
    found.settimeout(20)
    if small:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    found.connect(("127.0.0.1", gateway.port))
    return found


def until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data and (more := client.recv(65_536)):
        data += more
    return data


def in_flight(gateway: Gateway) -> int:
    (line,) = (
        one for one in gateway.get("/metrics").text.splitlines() if one.startswith("tokenhub_requests_in_flight")
    )
    return int(float(line.split()[-1]))


def test_who_has_the_whole_stream_may_ask_again_though_its_provider_has_not_closed_it(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.next(Reply(words=1, interval=0.3))  # so long after each event, the last one too
    with connected(gateway) as client:
        client.sendall(request(key=ONE_KEY, stream=True))
        assert until(client, b"0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        client.sendall(request(key=ONE_KEY))
        assert until(client, b"\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_client_that_takes_nothing_of_its_streams_end_is_let_go(gateway: Gateway, upstream: Upstream) -> None:
    whole = wire.chat_events("m", 1, None)
    large = wire.chat_events("x" * 12_000_000, 1, None)[0]
    upstream.next(Reply(events=(whole[0], large, b"".join(whole[1:])), interval=0.7))
    with connected(gateway, small=True) as client:
        client.sendall(request(stream=True))
        assert until(client, b"\r\n").startswith(b"HTTP/1.1 200 ")
        gateway.wait_until(lambda: in_flight(gateway) == 0, seconds=10)


def test_a_client_that_takes_nothing_for_a_while_gets_the_rest(upstream: Upstream, tmp_path: Path) -> None:
    """Longer than a silent client is sent a sign of life, and less than it may be silent."""
    env = {"TOKENHUB_STREAM_IDLE_TIMEOUT_SECS": "8", "TOKENHUB_STREAM_KEEPALIVE_SECS": "0.5"}
    whole = wire.chat_events("m", 1, None)
    large = wire.chat_events("x" * 12_000_000, 1, None)[0]
    upstream.next(Reply(events=(whole[0], large, b"".join(whole[1:])), interval=0.1))
    with (
        Gateway(
            tmp_path,
            providers=[{"id": "p", "type": "openai", "base_url": upstream.url, "dialects": ["openai-chat"]}],
            models=[{"id": "m", "provider_id": "p"}],
            env=env,
        ) as gateway,
        connected(gateway, small=True) as client,
    ):
        client.sendall(request(stream=True))
        until(client, b"\r\n")
        time.sleep(3)
        size, end = 0, b""
        while not end.endswith(b"0\r\n\r\n") and (more := client.recv(1 << 20)):
            size, end = size + len(more), (end + more)[-100:]
        assert end.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert size > 12_000_000
        (row,) = gateway.rows(at_least=1)
        assert (row["status"], row["client_disconnected"]) == (200, 0)


def test_a_head_without_end_is_refused_before_it_fills_the_memory(gateway: Gateway) -> None:
    with connected(gateway) as client:
        client.sendall(request())  # the connection is in use, and its answer is not lost
        assert until(client, b"}]").startswith(b"HTTP/1.1 200 ")
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nx-long: ")
        sent = refused_at = 0
        try:
            while sent < 20_000_000:
                client.sendall(b"a" * 50_000)
                sent += 50_000
        except OSError:
            refused_at = sent
        assert 0 < refused_at < 20_000_000


def test_a_large_head_that_ends_is_taken(gateway: Gateway) -> None:
    with connected(gateway) as client:
        head, _, body = request().partition(b"\r\n\r\n")
        for part in (head, b"\r\nx-long: " + b"a" * 30_000, b"a" * 30_000, b"\r\n\r\n", body):
            client.sendall(part)
        assert until(client, b"\r\n").startswith(b"HTTP/1.1 200 ")
        client.sendall(request())
        assert until(client, b"\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_client_that_writes_all_of_its_body_before_it_reads_is_told_that_it_is_too_large(gateway: Gateway) -> None:
    client = HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    for body, expected in ((b" " * 30_000_000, 413), (request().partition(b"\r\n\r\n")[2], 200)):
        client.request("POST", "/v1/chat/completions", body, gateway.headers(Content_Type="application/json"))
        answer = client.getresponse()
        assert (answer.status, bool(answer.read())) == (expected, True)
    client.close()


def test_judgements_of_unknown_requests_hold_nobody_up(gateway: Gateway) -> None:
    def judge(number: int) -> tuple[int, float]:
        body = {"request_id": f"unknown-{number}", "score": 1}
        return gateway.post("/v1/feedback", body).status_code, time.monotonic()

    with ThreadPoolExecutor(40) as pool:  # more than a worker has threads for what may wait
        judged = [pool.submit(judge, number) for number in range(40)]
        gateway.wait_until(lambda: in_flight(gateway) > 32)
        headers = gateway.headers(Idempotency_Key="beside-judgements")
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        assert gateway.post("/v1/chat/completions", body, headers=headers).status_code == 200
        answered_at = time.monotonic()
        answers = [one.result() for one in judged]
    assert {status for status, _ in answers} == {404}
    assert answered_at < min(at for _, at in answers)


def test_a_judgement_that_cannot_be_kept_is_to_be_sent_again(gateway: Gateway) -> None:
    known = gateway.chat("m").headers["x-tokenhub-request-id"]
    gateway.execute("ALTER TABLE routing_feedback RENAME TO elsewhere")
    try:
        answer = gateway.post("/v1/feedback", {"request_id": known, "score": 1})
    finally:
        gateway.execute("ALTER TABLE elsewhere RENAME TO routing_feedback")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"] == "5"
    assert gateway.post("/v1/feedback", {"request_id": known, "score": 1}).status_code == 200
