"""What each provider type implies: its address, how it takes a credential, its paths and dialects. Pure: no Django, no
I/O. The control plane and the data plane read the same table; a new type is a new row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import urljoin, urlsplit

from providers.formats import registry

DIALECTS: Final = tuple(name for name, dialect in registry.DIALECTS.items() if not dialect.implied_by)
AuthHeader = Literal["authorization", "x-api-key"]


@dataclass(frozen=True, slots=True)
class TypeDefaults:
    """Paths are relative to the API root, see `api_root`; `../health` lies beside its version segment."""

    base_url: str
    needs_base_url: bool
    auth_header: AuthHeader
    dialects: tuple[str, ...]
    extra_headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    models_path: str = "models"
    health_path: str = "models"

    def credential_header(self, credential: str) -> tuple[str, str]:
        """Name and value of the header that carries the credential."""
        if self.auth_header == "authorization":
            return "authorization", f"Bearer {credential}"
        return self.auth_header, credential


TYPES: Final[Mapping[str, TypeDefaults]] = MappingProxyType(
    {
        "openai": TypeDefaults(
            base_url="https://api.openai.com",
            needs_base_url=False,
            auth_header="authorization",
            dialects=("openai-chat", "openai-responses", "openai-embeddings"),
        ),
        "anthropic": TypeDefaults(
            base_url="https://api.anthropic.com",
            needs_base_url=False,
            auth_header="x-api-key",
            dialects=("anthropic-messages",),
            extra_headers=MappingProxyType({"anthropic-version": "2023-06-01"}),
        ),
        "vllm": TypeDefaults(
            base_url="",
            needs_base_url=True,
            auth_header="authorization",
            dialects=("openai-chat", "openai-responses", "openai-embeddings", "anthropic-messages"),
            health_path="../health",
        ),
        "sandbox": TypeDefaults(
            base_url="",
            needs_base_url=False,
            auth_header="authorization",
            dialects=("openai-chat",),
            models_path="",
            health_path="",
        ),
    }
)

_VERSION_SEGMENT = re.compile(r"(?:^|/)v\d+(?:\.\d+)?(?:alpha|beta)?\d*(?:/|$)")
# services whose API has no version segment anywhere, by their documentation
_UNVERSIONED_HOSTS: Final = frozenset({"api.perplexity.ai", "models.github.ai"})


def api_root(base_url: str) -> str:
    """The address to which `/chat/completions`, `/messages`, … are appended; it never ends in a slash.

    A base URL whose path holds a version segment (`/v1`, `/v4`, `/v1beta`) is taken as it is; any other gets `/v1`.
    The exceptions are the few hosts that are known to have no version at all."""
    trimmed = base_url.strip().rstrip("/")
    parts = urlsplit(trimmed)
    if _VERSION_SEGMENT.search(parts.path) or parts.hostname in _UNVERSIONED_HOSTS:
        return trimmed
    return f"{trimmed}/v1"


def models_url(type_: str, base_url: str) -> str:
    return urljoin(api_root(base_url) + "/", TYPES[type_].models_path)


def health_url(type_: str, base_url: str) -> str:
    return urljoin(api_root(base_url) + "/", TYPES[type_].health_path)


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: the part of an address that a credential belongs to. Raises ValueError on a bad port."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme.lower(), (parts.hostname or "").rstrip("."), port
