"""The one door for upstream HTTP. The data plane sees only what stands here; which transport answers is chosen once
per process. Nothing here knows dialects, providers' rows or retries.

    UpstreamFailure
      kind: refused_address | dns | connect | tls | reset | protocol | too_large | timeout
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol
from urllib.parse import urlsplit

Headers = list[tuple[bytes, bytes]]


class FailureKind(StrEnum):
    REFUSED_ADDRESS = "refused_address"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    RESET = "reset"
    PROTOCOL = "protocol"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"


class UpstreamFailure(Exception):
    """The call gave no whole answer. `message` is fit for a client: it holds no address path, header or credential."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class Url:
    """An absolute http(s) address, taken apart once."""

    scheme: str
    host: str
    port: int
    target: bytes
    host_header: bytes

    @classmethod
    def parse(cls, text: str) -> Url:
        """Raises ValueError for anything but an absolute http(s) address without user information."""
        parts = urlsplit(text)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
            raise ValueError("not an absolute http or https address")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        default_port = 443 if parts.scheme == "https" else 80
        port = parts.port or default_port
        host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode("ascii")
        shown = f"[{host}]" if ":" in host else host
        header = shown if port == default_port else f"{shown}:{port}"
        return cls(parts.scheme, host, port, target.encode("ascii"), header.encode("ascii"))

    def with_query(self, query: bytes) -> Url:
        """`query` begins with its question mark; bytes that have no place in a request line are left out."""
        return replace(self, target=self.target + bytes(byte for byte in query if 0x20 < byte < 0x7F))


class Exchange(Protocol):
    """One call whose response head has arrived. `close()` is always called; before the end it cuts the call off."""

    status: int
    headers: dict[bytes, bytes]

    async def chunk(self) -> bytes:
        """The next bytes of the body as they arrived; empty at the end. Raises UpstreamFailure."""

    async def read(self, limit: int) -> bytes:
        """The rest of the body. Raises UpstreamFailure, of kind `too_large` past `limit` bytes."""

    def close(self) -> None: ...


class Transport(Protocol):
    async def send(self, method: bytes, url: Url, headers: Headers, body: bytes) -> Exchange:
        """Sends and waits for the response head. Cancelling it ends the call. Raises UpstreamFailure. The caller
        bounds the time, and gives no Host, Content-Length, Connection or Accept-Encoding header."""

    async def close(self) -> None: ...


_METADATA = frozenset(
    {
        ipaddress.ip_address("100.100.100.200"),  # Alibaba Cloud
        ipaddress.ip_address("fd00:ec2::254"),  # AWS over IPv6
    }
)


def is_refused_address(text: str) -> bool:
    """True for addresses that no provider lives at: link-local (cloud metadata among them), multicast, unspecified."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA


def build_transport(name: str) -> Transport:
    """`direct` (HTTP/1.1 on this process's event loop) or `httpx` (proxies from the environment)."""
    if name == "httpx":
        from providers.transport_httpx import HttpxTransport

        return HttpxTransport()
    from providers.transport_direct import DirectTransport

    return DirectTransport()
