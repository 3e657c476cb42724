"""What every transport promises, against a real server: direct on both event loops, and httpx."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from providers.client import Exchange, FailureKind, Headers, Transport, UpstreamFailure, Url, build_transport
from tests.support import wire
from tests.support.certificate import write_certificate
from tests.support.upstream import Fault, Reply, Upstream, closed_port

T = TypeVar("T")
LIMIT = 10_000_000
SECONDS = 10.0
AT_ONCE = 0.3  # seconds; what a busy machine may take for what is done in a millisecond
FAULTS_OF_THE_CONTENT = {
    Fault.NONE, Fault.HTML, Fault.BROKEN_JSON, Fault.GARBAGE_EVENT, Fault.ERROR_EVENT, Fault.NO_TERMINAL_EVENT,
}  # fmt: skip
KINDS = {
    Fault.RESET_BEFORE_HEAD: FailureKind.RESET,
    Fault.CLOSE_BEFORE_HEAD: FailureKind.RESET,
    Fault.RESET_MIDWAY: FailureKind.RESET,
    Fault.CLOSE_MIDWAY: FailureKind.RESET,
    Fault.WRONG_CHUNK_SIZE: FailureKind.PROTOCOL,
    Fault.HUGE_HEADER: FailureKind.PROTOCOL,
    Fault.NOT_HTTP: FailureKind.PROTOCOL,
}
HANGS = {Fault.HANG_BEFORE_HEAD, Fault.HANG_MIDWAY}


@dataclass(frozen=True, slots=True)
class Setup:
    transport: str
    loop: Callable[[], asyncio.AbstractEventLoop]

    def run(self, scenario: Callable[[Transport], Awaitable[T]]) -> T:
        """Runs it on a loop and a transport of its own, in bounded time. Whatever else goes wrong on the loop is an
        error too."""
        troubles: list[dict[str, Any]] = []

        async def main() -> T:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
            transport = build_transport(self.transport)
            try:
                async with asyncio.timeout(SECONDS):
                    return await scenario(transport)
            finally:
                await transport.close()
                await asyncio.sleep(0.001)

        with asyncio.Runner(loop_factory=self.loop) as runner:
            result = runner.run(main())
        assert troubles == []
        return result


DIRECT = [
    pytest.param(Setup("direct", asyncio.new_event_loop), id="direct"),
    pytest.param(Setup("direct", uvloop.new_event_loop), id="direct-uvloop"),
]
only_direct = pytest.mark.parametrize("setup", DIRECT, indirect=True)


@pytest.fixture(params=[*DIRECT, pytest.param(Setup("httpx", asyncio.new_event_loop), id="httpx")])
def setup(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Setup:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert isinstance(request.param, Setup)
    return request.param


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(server: Upstream) -> Upstream:
    server.drop_connections()
    server.requests.clear()
    server._queue.clear()
    server.default = Reply()
    return server


CHAT = json.dumps({"model": "fake-model", "messages": []}).encode()
STREAM = json.dumps({"model": "fake-model", "messages": [], "stream": True}).encode()


async def send(
    transport: Transport, to: Upstream | str, body: bytes = CHAT, headers: Headers | None = None
) -> Exchange:
    url = Url.parse(to if isinstance(to, str) else f"{to.url}/v1/chat/completions")
    return await transport.send(b"POST", url, headers or [(b"content-type", b"application/json")], body)


async def call(
    transport: Transport, to: Upstream | str, body: bytes = CHAT, *, headers: Headers | None = None, limit: int = LIMIT
) -> tuple[int, bytes]:
    """One call to its end: status and body."""
    exchange = await send(transport, to, body, headers)
    try:
        return exchange.status, await exchange.read(limit)
    finally:
        exchange.close()
        await asyncio.sleep(0)


def failure(setup: Setup, to: Upstream | str, body: bytes = CHAT, **options: Any) -> UpstreamFailure:
    async def scenario(transport: Transport) -> UpstreamFailure:
        with pytest.raises(UpstreamFailure) as caught:
            await call(transport, to, body, **options)
        return caught.value

    found = setup.run(scenario)
    assert found.message == str(found)
    assert "127.0.0.1" not in found.message
    return found


def chat_text() -> bytes:
    usage = wire.usage_of(anthropic=False, count=8, override=None)
    return wire.chat_body("fake-model", 8, usage, 1)


def stream_text() -> bytes:
    return b"".join(wire.chat_events("fake-model", 8, None))


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("one_byte", [False, True], ids=["whole", "one_byte"])
@pytest.mark.parametrize("interim", [False, True], ids=["", "interim"])
def test_an_answer_arrives_whole(setup: Setup, upstream: Upstream, framing: Any, one_byte: bool, interim: bool) -> None:
    upstream.next(Reply(framing=framing, one_byte=one_byte, interim=interim, headers={"X-Request-Id": "theirs"}))

    async def scenario(transport: Transport) -> None:
        exchange = await send(transport, upstream)
        assert exchange.status == 200
        assert exchange.headers[b"x-request-id"] == b"theirs"
        assert b"link" not in exchange.headers
        assert await exchange.read(LIMIT) == chat_text()
        assert await exchange.chunk() == b""
        exchange.close()

    setup.run(scenario)


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("one_byte", [False, True], ids=["whole", "one_byte"])
def test_a_stream_arrives_whole(setup: Setup, upstream: Upstream, framing: Any, one_byte: bool) -> None:
    upstream.next(Reply(framing=framing, one_byte=one_byte))
    assert setup.run(lambda transport: call(transport, upstream, STREAM)) == (200, stream_text())


def test_an_event_is_handed_on_when_it_comes_and_not_when_the_next_does(setup: Setup, upstream: Upstream) -> None:
    upstream.next(Reply(interval=0.03))

    async def scenario(transport: Transport) -> list[bytes]:
        exchange = await send(transport, upstream, STREAM)
        chunks = []
        while data := await exchange.chunk():
            chunks.append(data)
        exchange.close()
        return chunks

    chunks = setup.run(scenario)
    assert b"".join(chunks) == stream_text()
    assert len(chunks) >= 8


@pytest.mark.parametrize("fault", sorted(FAULTS_OF_THE_CONTENT))
@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
def test_what_the_answer_says_is_no_matter_of_the_transport(
    setup: Setup, upstream: Upstream, fault: Fault, body: bytes
) -> None:
    upstream.next(Reply(fault=fault))
    status, _ = setup.run(lambda transport: call(transport, upstream, body))
    assert status == 200


@pytest.mark.parametrize("status", [204, 304, 400, 404, 429, 500, 529, 599])
def test_every_status_is_an_answer(setup: Setup, upstream: Upstream, status: int) -> None:
    upstream.next(Reply(status=status), Reply())

    async def scenario(transport: Transport) -> list[int]:
        return [(await call(transport, upstream))[0] for _ in range(2)]

    assert setup.run(scenario) == [status, 200]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(setup: Setup, upstream: Upstream, status: int) -> None:
    upstream.next(Reply(status=status, headers={"location": f"{upstream.url}/elsewhere"}))

    async def scenario(transport: Transport) -> Exchange:
        exchange = await send(transport, upstream)
        exchange.close()
        return exchange

    exchange = setup.run(scenario)
    assert exchange.status == status
    assert exchange.headers[b"location"].endswith(b"/elsewhere")
    assert len(upstream.requests) == 1


def test_the_request_goes_out_as_it_was_given(setup: Setup, upstream: Upstream) -> None:
    body = b"\x00\xff" * 600_000
    upstream.next(Reply(body=b"{}"))

    async def scenario(transport: Transport) -> None:
        url = Url.parse(f"{upstream.url}/v1/x%2Fy").with_query(b"?a=b&c=%20")
        exchange = await transport.send(b"POST", url, [(b"x-api-key", b"k"), (b"x-odd", b"a: b\xe4")], body)
        await exchange.read(LIMIT)
        exchange.close()

    setup.run(scenario)
    (request,) = upstream.requests
    assert (request.method, request.path, request.body) == ("POST", "/v1/x%2Fy?a=b&c=%20", body)
    assert request.headers["host"] == f"127.0.0.1:{upstream.port}"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["content-length"] == str(len(body))
    assert request.headers["x-api-key"] == "k"
    assert request.headers["x-odd"] == "a: b\xe4"


def test_a_get_has_an_answer_too(setup: Setup, upstream: Upstream) -> None:
    async def scenario(transport: Transport) -> bytes:
        exchange = await transport.send(b"GET", Url.parse(f"{upstream.url}/v1/models"), [], b"")
        try:
            return await exchange.read(LIMIT)
        finally:
            exchange.close()

    assert json.loads(setup.run(scenario))["data"][0]["id"] == "fake-model"


# -- compression -------------------------------------------------------------------------------------------------------


def test_a_compressed_answer_is_unpacked(setup: Setup, upstream: Upstream) -> None:
    upstream.next(Reply(compressed=True), Reply(compressed=True, one_byte=True))

    async def scenario(transport: Transport) -> list[tuple[int, bytes]]:
        return [await call(transport, upstream) for _ in range(2)]

    assert setup.run(scenario) == [(200, chat_text())] * 2


def test_a_broken_compression_is_a_broken_answer(setup: Setup, upstream: Upstream) -> None:
    upstream.next(Reply(headers={"content-encoding": "gzip"}))
    assert failure(setup, upstream).kind is FailureKind.PROTOCOL


def test_an_answer_that_inflates_beyond_the_limit_is_refused(setup: Setup, upstream: Upstream) -> None:
    upstream.next(Reply(body=bytes(40_000_000), compressed=True))
    assert failure(setup, upstream, limit=1_000_000).kind in {FailureKind.TOO_LARGE, FailureKind.PROTOCOL}


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "unread"])
def test_a_connection_whose_answer_inflated_a_lot_can_be_used_again(
    setup: Setup, upstream: Upstream, is_read: bool
) -> None:
    upstream.next(Reply(body=bytes(2_000_000), compressed=True), Reply())

    async def scenario(transport: Transport) -> tuple[int, bytes]:
        exchange = await send(transport, upstream)
        await asyncio.sleep(0.05)
        if is_read:
            assert len(await exchange.read(LIMIT)) == 2_000_000
        exchange.close()
        return await call(transport, upstream)

    assert setup.run(scenario) == (200, chat_text())


def test_what_was_unpacked_before_an_answer_broke_is_handed_on(setup: Setup, upstream: Upstream) -> None:
    packed = gzip.compress(bytes(1_000_000))
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
    upstream.next(Reply(raw=head + b"%x\r\n%b\r\nno size\r\n" % (len(packed), packed)))

    async def scenario(transport: Transport) -> int:
        exchange = await send(transport, upstream)
        await asyncio.sleep(0.05)
        received = len(await exchange.chunk())
        with pytest.raises(UpstreamFailure) as caught:
            await exchange.read(LIMIT)
        assert caught.value.kind is FailureKind.PROTOCOL
        exchange.close()
        return received

    assert setup.run(scenario) == 1_000_000


# -- connections -------------------------------------------------------------------------------------------------------


def test_calls_after_one_another_share_a_connection(setup: Setup, upstream: Upstream) -> None:
    upstream.next(Reply(), Reply(interim=True), Reply(status=429), Reply(framing="chunked"))

    async def scenario(transport: Transport) -> None:
        for body in (CHAT, CHAT, CHAT, CHAT, STREAM, CHAT):
            await call(transport, upstream, body)

    setup.run(scenario)
    assert len({request.connection for request in upstream.requests}) == 1


def test_calls_at_the_same_time_have_connections_of_their_own(setup: Setup, upstream: Upstream) -> None:
    upstream.default = Reply(delay=0.05)

    async def scenario(transport: Transport) -> list[tuple[int, bytes]]:
        return list(await asyncio.gather(*(call(transport, upstream) for _ in range(20))))

    assert setup.run(scenario) == [(200, chat_text())] * 20
    assert len({request.connection for request in upstream.requests}) == 20


def test_a_connection_that_the_server_wants_closed_is_not_kept(setup: Setup, upstream: Upstream) -> None:
    upstream.next(Reply(headers={"connection": "close"}), Reply())

    async def scenario(transport: Transport) -> None:
        await call(transport, upstream)
        await call(transport, upstream)

    setup.run(scenario)
    assert len({request.connection for request in upstream.requests}) == 2


def test_a_kept_connection_that_the_server_dropped_goes_unnoticed(setup: Setup, upstream: Upstream) -> None:
    async def scenario(transport: Transport) -> list[int]:
        statuses = []
        for _ in range(3):
            statuses.append((await call(transport, upstream))[0])
            await asyncio.to_thread(upstream.drop_connections)
        return statuses

    assert setup.run(scenario) == [200, 200, 200]


@only_direct
@pytest.mark.parametrize("fault", [Fault.CLOSE_BEFORE_HEAD, Fault.RESET_BEFORE_HEAD])
def test_a_kept_connection_that_the_server_drops_just_now_is_retried_on_a_fresh_one(
    setup: Setup, upstream: Upstream, fault: Fault
) -> None:
    upstream.next(Reply(), Reply(fault=fault), Reply())

    async def scenario(transport: Transport) -> list[int]:
        return [(await call(transport, upstream))[0] for _ in range(2)]

    assert setup.run(scenario) == [200, 200]
    assert [request.connection - upstream.requests[0].connection for request in upstream.requests] == [0, 0, 1]


def test_a_call_on_a_fresh_connection_is_made_once(setup: Setup, upstream: Upstream) -> None:
    upstream.next(Reply(fault=Fault.CLOSE_BEFORE_HEAD), Reply())
    assert failure(setup, upstream).kind is FailureKind.RESET
    assert len(upstream.requests) == 1


@only_direct
def test_bytes_that_nobody_asked_for_are_no_part_of_any_answer(setup: Setup) -> None:
    """A second answer behind the first, as a confused or hostile server sends it."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-n: %d\r\n\r\n%b"
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.read(65_536):
            writer.write(answer % (1, b"ok") + answer % (2, b"no"))
        writer.close()

    async def scenario(transport: Transport) -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        for _ in range(3):
            exchange = await send(transport, url)
            assert exchange.headers[b"x-n"] == b"1"
            assert await exchange.read(LIMIT) == b"ok"
            exchange.close()
            await asyncio.sleep(0.01)
        server.close()

    setup.run(scenario)
    assert connections == 3


def test_a_reader_that_takes_its_time_holds_the_server_back(setup: Setup, upstream: Upstream) -> None:
    size = 48_000_000
    upstream.next(Reply(body=bytes(size)))

    async def scenario(transport: Transport) -> int:
        exchange = await send(transport, upstream)
        taken = len(await exchange.chunk())
        await asyncio.sleep(0.3)
        sent = upstream.requests[0].sent_bytes
        taken += len(await exchange.read(size))
        exchange.close()
        assert taken == size
        return sent

    assert setup.run(scenario) < size / 2


# -- failures ----------------------------------------------------------------------------------------------------------


def test_every_fault_is_accounted_for() -> None:
    assert FAULTS_OF_THE_CONTENT | set(KINDS) | HANGS == set(Fault)


@pytest.mark.parametrize(("fault", "kind"), KINDS.items())
def test_every_fault_has_its_kind(setup: Setup, upstream: Upstream, fault: Fault, kind: FailureKind) -> None:
    if fault is not Fault.WRONG_CHUNK_SIZE:  # what has no chunks
        upstream.next(Reply(fault=fault))
        assert failure(setup, upstream).kind is kind
    upstream.next(Reply(fault=fault))
    assert failure(setup, upstream, STREAM).kind is kind


@pytest.mark.parametrize("fault", [Fault.RESET_MIDWAY, Fault.CLOSE_MIDWAY])
def test_what_came_before_the_break_is_handed_on(setup: Setup, upstream: Upstream, fault: Fault) -> None:
    upstream.next(Reply(fault=fault, at=3))

    async def scenario(transport: Transport) -> bytes:
        exchange = await send(transport, upstream, STREAM)
        received = bytearray()

        async def read_on() -> None:
            while data := await exchange.chunk():
                received.extend(data)

        with pytest.raises(UpstreamFailure):
            await read_on()
        exchange.close()
        return bytes(received)

    assert setup.run(scenario) == b"".join(wire.chat_events("fake-model", 8, None)[:3])


def test_an_answer_over_the_limit_is_too_large(setup: Setup, upstream: Upstream) -> None:
    upstream.default = Reply(body=bytes(100_000))
    assert failure(setup, upstream, limit=99_999).kind is FailureKind.TOO_LARGE
    assert len(setup.run(lambda transport: call(transport, upstream, limit=100_000))[1]) == 100_000


@only_direct
def test_a_header_that_is_too_large_is_refused_even_if_it_comes_at_once(setup: Setup, upstream: Upstream) -> None:
    upstream.next(Reply(headers={"x-large": "x" * 66_000}))
    assert failure(setup, upstream).kind is FailureKind.PROTOCOL


@pytest.mark.parametrize("size", [100, 30_000])
def test_a_header_of_some_size_is_read(setup: Setup, upstream: Upstream, size: int) -> None:
    upstream.next(Reply(headers={"x-large": "x" * size}))

    async def scenario(transport: Transport) -> int:
        exchange = await send(transport, upstream)
        exchange.close()
        return len(exchange.headers[b"x-large"])

    assert setup.run(scenario) == size


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        b"HTTP/1.1",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\n: no name\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x02hi",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ],
)
def test_a_broken_answer_is_a_failure(setup: Setup, upstream: Upstream, raw: bytes) -> None:
    upstream.next(Reply(raw=raw))
    assert failure(setup, upstream).kind in {FailureKind.PROTOCOL, FailureKind.RESET}


PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 103 Early\r\n", b"HTTP/1.1 204 No\r\n",
        b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"content-encoding: gzip\r\n",
        b"connection: close\r\n", b"\r\n", b"hello", b"5\r\nhello\r\n", b"0\r\n\r\n", gzip.compress(b"hello"), b"\x00",
    ]
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers=st.lists(st.lists(PIECES | st.binary(max_size=8), max_size=9).map(b"".join), min_size=1, max_size=4))
def test_no_bytes_bring_anything_but_an_answer_or_a_failure(
    setup: Setup, upstream: Upstream, answers: list[bytes]
) -> None:
    async def outcome(transport: Transport, raw: bytes) -> FailureKind | int:
        upstream.next(Reply(raw=raw))
        try:
            return (await call(transport, upstream))[0]
        except UpstreamFailure as problem:
            return problem.kind

    async def scenario(transport: Transport) -> list[FailureKind | int]:
        return [await outcome(transport, raw) for raw in answers]

    assert set(setup.run(scenario)) <= {200, 204, FailureKind.PROTOCOL, FailureKind.RESET}


# -- where it connects -------------------------------------------------------------------------------------------------


def test_a_port_that_refuses_is_no_connection(setup: Setup) -> None:
    assert failure(setup, f"http://127.0.0.1:{closed_port()}/").kind is FailureKind.CONNECT


def test_a_name_that_does_not_exist_is_told(setup: Setup) -> None:
    assert failure(setup, "http://nowhere.invalid/").kind is FailureKind.DNS


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1]", "0", "[::]", "224.0.0.1", "100.100.100.200",
        "[fd00:ec2::254]", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_addresses_that_no_provider_lives_at_are_refused(setup: Setup, scheme: str, host: str) -> None:
    assert failure(setup, f"{scheme}://{host}/latest/meta-data").kind is FailureKind.REFUSED_ADDRESS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """Self-signed, for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_certificate(tmp_path_factory.mktemp("tls")))
    return context


def test_a_certificate_that_nobody_vouches_for_is_refused(setup: Setup, certificate: ssl.SSLContext) -> None:
    with Upstream(tls=certificate) as upstream:
        found = failure(setup, upstream)
        assert found.kind is FailureKind.TLS
        assert "certificate" in found.message
        assert upstream.requests == []


def test_a_server_that_speaks_no_tls_is_told(setup: Setup) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(b"HTTP/1.1 400 The plain HTTP request was sent to an HTTPS port, or so\r\n\r\n")
        writer.close()

    async def scenario(transport: Transport) -> UpstreamFailure:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        with pytest.raises(UpstreamFailure) as caught:
            await send(transport, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        server.close()
        return caught.value

    assert setup.run(scenario).kind is FailureKind.TLS


@only_direct
def test_a_certificate_that_is_vouched_for_is_taken(
    setup: Setup, certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Upstream(tls=certificate) as upstream:
        pem = ssl.get_server_certificate(("127.0.0.1", upstream.port))
        (tmp_path / "ca.pem").write_text(pem)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

        async def scenario(transport: Transport) -> list[tuple[int, bytes]]:
            return [await call(transport, upstream, body) for body in (CHAT, STREAM)]

        assert setup.run(scenario) == [(200, chat_text()), (200, stream_text())]
        assert upstream.requests[0].connection == upstream.requests[1].connection


# -- header injection --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [b"a\r\nx-evil: 1", b"a\nx-evil: 1", b"a\rx-evil: 1", b"a\r\n\r\nGET /evil", b"a\x00b"])
@pytest.mark.parametrize("place", ["name", "value"])
def test_a_line_break_in_a_header_never_reaches_the_wire(
    setup: Setup, upstream: Upstream, bad: bytes, place: str
) -> None:
    header = (bad, b"v") if place == "name" else (b"x-key", bad)
    assert failure(setup, upstream, headers=[(b"a", b"b"), header]).kind is FailureKind.PROTOCOL
    assert upstream.requests == []


# -- leaving -----------------------------------------------------------------------------------------------------------


def lost_within(upstream: Upstream, left_at: float) -> None:
    (request,) = upstream.requests
    assert request.lost.wait(2)
    assert request.lost_at is not None
    assert request.lost_at - left_at < AT_ONCE


def test_cancelling_a_call_that_waits_ends_it_upstream_at_once(setup: Setup, upstream: Upstream) -> None:
    upstream.next(Reply(fault=Fault.HANG_BEFORE_HEAD))

    async def scenario(transport: Transport) -> None:
        waiting = asyncio.ensure_future(send(transport, upstream))
        await asyncio.to_thread(upstream.wait_for_requests, 1)
        left_at = time.monotonic()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.to_thread(lost_within, upstream, left_at)

    setup.run(scenario)


def test_running_out_of_time_ends_the_call_upstream(setup: Setup, upstream: Upstream) -> None:
    upstream.next(Reply(fault=Fault.HANG_BEFORE_HEAD))

    async def scenario(transport: Transport) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await send(transport, upstream)
        await asyncio.to_thread(lost_within, upstream, time.monotonic())

    setup.run(scenario)


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
def test_closing_in_the_middle_of_an_answer_ends_it_upstream_at_once(
    setup: Setup, upstream: Upstream, body: bytes
) -> None:
    upstream.next(Reply(fault=Fault.HANG_MIDWAY))

    async def scenario(transport: Transport) -> None:
        exchange = await send(transport, upstream, body)
        assert await exchange.chunk()
        left_at = time.monotonic()
        exchange.close()
        await asyncio.to_thread(lost_within, upstream, left_at)

    setup.run(scenario)


def test_cancelling_a_read_and_closing_ends_the_call_upstream_at_once(setup: Setup, upstream: Upstream) -> None:
    upstream.next(Reply(fault=Fault.HANG_MIDWAY))

    async def scenario(transport: Transport) -> None:
        exchange = await send(transport, upstream, STREAM)
        waiting = asyncio.ensure_future(exchange.read(LIMIT))
        await asyncio.sleep(0.1)
        left_at = time.monotonic()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        exchange.close()
        await asyncio.to_thread(lost_within, upstream, left_at)

    setup.run(scenario)


def test_a_call_that_was_left_spoils_none_after_it(setup: Setup, upstream: Upstream) -> None:
    upstream.next(Reply(fault=Fault.HANG_BEFORE_HEAD), Reply(fault=Fault.HANG_MIDWAY), Reply())

    async def scenario(transport: Transport) -> tuple[int, bytes]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await send(transport, upstream)
        exchange = await send(transport, upstream, STREAM)
        exchange.close()
        return await call(transport, upstream)

    assert setup.run(scenario) == (200, chat_text())


def test_closing_the_transport_closes_its_connections(setup: Setup, upstream: Upstream) -> None:
    setup.run(lambda transport: call(transport, upstream))
    for _ in range(100):
        if not upstream._open:
            return
        time.sleep(0.01)
    pytest.fail("a connection is left open")
