"""The fall-back transport: httpx, slower by far, but it honours the environment's proxies."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator

import httpx

from providers.client import FailureKind, Headers, UpstreamFailure, Url, is_refused_address
from providers.transport_direct import CONNECT_TIMEOUT_SECONDS, tls_failure


def _failure(problem: httpx.HTTPError) -> UpstreamFailure:
    cause: BaseException | None = problem
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return tls_failure(cause)
        if isinstance(cause, socket.gaierror):
            return UpstreamFailure(FailureKind.DNS, "the provider's host name cannot be resolved")
        cause = cause.__cause__ or cause.__context__
    match problem:
        case httpx.ConnectTimeout() | httpx.TimeoutException():
            return UpstreamFailure(FailureKind.TIMEOUT, "the provider did not answer in time")
        case httpx.ConnectError():
            return UpstreamFailure(FailureKind.CONNECT, "the provider cannot be reached")
        case httpx.LocalProtocolError():
            return UpstreamFailure(FailureKind.PROTOCOL, "a header for the provider holds a line break")
        case httpx.RemoteProtocolError() if "without sending" in str(problem):
            return UpstreamFailure(FailureKind.RESET, "the provider closed the connection")
        case httpx.RemoteProtocolError() | httpx.DecodingError():
            return UpstreamFailure(FailureKind.PROTOCOL, "the provider's answer cannot be read")
    return UpstreamFailure(FailureKind.RESET, "the provider closed the connection")


class HttpxExchange:
    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.raw}
        self._response = response
        self._chunks: AsyncIterator[bytes] = response.aiter_bytes()
        self._reading: asyncio.Task[bytes] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def chunk(self) -> bytes:
        """A cancelled wait loses nothing: the next call goes on with it."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._next())
        try:
            data = await asyncio.shield(self._reading)
        except httpx.HTTPError as problem:
            raise _failure(problem) from None
        self._reading = None
        return data

    async def _next(self) -> bytes:
        async for data in self._chunks:
            if data:
                return data
        return b""

    async def read(self, limit: int) -> bytes:
        parts, size = [], 0
        while data := await self.chunk():
            size += len(data)
            if size > limit:
                raise UpstreamFailure(FailureKind.TOO_LARGE, f"the provider's answer is larger than {limit} bytes")
            parts.append(data)
        return b"".join(parts)

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._closing = asyncio.ensure_future(self._response.aclose())


class HttpxTransport:
    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=50.0),
        )

    async def send(self, method: bytes, url: Url, headers: Headers, body: bytes) -> HttpxExchange:
        await self._check(url)
        request = self._client.build_request(
            method.decode(),
            f"{url.scheme}://{url.host_header.decode()}{url.target.decode()}",
            headers=[(b"accept-encoding", b"identity"), *headers],
            content=body,
        )
        try:
            return HttpxExchange(await self._client.send(request, stream=True))
        except httpx.HTTPError as problem:
            raise _failure(problem) from None

    async def _check(self, url: Url) -> None:
        try:
            addresses = [str(ipaddress.ip_address(url.host))]
        except ValueError:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port, type=1)
            except (OSError, UnicodeError):
                return  # a proxy may know the name; without one, connecting tells
            addresses = [str(address[0]) for *_, address in found]
        if any(is_refused_address(address) for address in addresses):
            raise UpstreamFailure(
                FailureKind.REFUSED_ADDRESS, "the provider's host name leads to a link-local or metadata address"
            )

    async def close(self) -> None:
        await self._client.aclose()
