"""Asks a provider for its list of models, and says exactly what is wrong where that fails, with the next step. Over the
same transport as traffic, so that the same rules hold: no redirect is followed, and no link-local or metadata address
is called. Nothing that the provider answers is passed on but the list: its words might hold the credential."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from enum import StrEnum
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

from django.conf import settings

from providers import model_list
from providers.client import FailureKind, Headers, Transport, UpstreamFailure, Url, build_transport
from providers.model_list import Listed
from providers.models import CredentialStore, Provider, ProviderType
from providers.sandbox import SANDBOX_MODELS
from providers.types import TYPES, models_url
from vault.errors import Damaged, VaultLocked
from vault.keyring import KEYRING
from vault.services import sealed_credentials

LIMIT_SECONDS: Final = 10.0
MAX_ANSWER_BYTES: Final = 16_777_216
MAX_PAGES: Final = 10


class Problem(StrEnum):
    NO_CREDENTIAL = "no_credential"
    VAULT_LOCKED = "vault_locked"
    DAMAGED = "credential_damaged"
    BAD_ADDRESS = "bad_address"
    REFUSED_ADDRESS = "refused_address"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    NOT_HTTP = "not_http"
    REDIRECT = "redirect"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    REJECTED = "rejected"
    NOT_JSON = "not_json"
    NO_LIST = "no_list"
    NO_MODELS = "no_models"
    TOO_LARGE = "too_large"


_OF_KIND: Final = {
    FailureKind.REFUSED_ADDRESS: Problem.REFUSED_ADDRESS,
    FailureKind.DNS: Problem.DNS,
    FailureKind.CONNECT: Problem.CONNECT,
    FailureKind.TLS: Problem.TLS,
    FailureKind.RESET: Problem.CLOSED,
    FailureKind.PROTOCOL: Problem.NOT_HTTP,
    FailureKind.TOO_LARGE: Problem.TOO_LARGE,
    FailureKind.TIMEOUT: Problem.TIMEOUT,
}
_BY_HAND: Final = "A service without a list of models can be used all the same: add its models by hand."
HINTS: Final[dict[Problem, str]] = {
    Problem.NO_CREDENTIAL: "Give its api_key, or set cred_store to none if it needs no credential.",
    Problem.VAULT_LOCKED: "Unlock the vault: POST /admin/v1/vault/unlock, or `manage.py vault unlock`.",
    Problem.DAMAGED: "Give the credential again.",
    Problem.BAD_ADDRESS: "Correct base_url or endpoints.",
    Problem.REFUSED_ADDRESS: "No provider lives at such an address. Check the host name and who resolves it.",
    Problem.DNS: "Check the host's spelling in base_url, and that this machine can resolve names.",
    Problem.CONNECT: "Is the service running, on this port, and does no firewall stand between?",
    Problem.TLS: "Check that the port speaks TLS (else write http://), and that its certificate is valid for the host.",
    Problem.TIMEOUT: "Check port and firewall. A service that is loading a model may need minutes; try again then.",
    Problem.CLOSED: "Something listens there and hangs up. A port for TLS that is asked without it does so: try https://.",
    Problem.NOT_HTTP: "Something else than HTTP answers there. Check the port, and whether it is http:// or https://.",
    Problem.REDIRECT: "TokenHub follows no redirect, for it would carry the credential along. Write the final address.",
    Problem.UNAUTHORIZED: "The credential is wrong, expired, or of another service. Give the right one as api_key.",
    Problem.FORBIDDEN: "The credential is known and may not do this. Check its rights, its project and your region.",
    Problem.NOT_FOUND: "Check the path in base_url: a version is added where it has none. " + _BY_HAND,
    Problem.RATE_LIMITED: "It can be reached and takes the credential. Wait, and try again.",
    Problem.SERVER_ERROR: "It can be reached, and fails. Look at the service's own log or status page.",
    Problem.REJECTED: "It can be reached, and does not take the question. Check the type and the path in base_url.",
    Problem.NOT_JSON: "A page for people answers there, or a proxy's. Check base_url: it must be the API's address.",
    Problem.NO_LIST: "It answers with JSON of another kind. Check the type and the path in base_url. " + _BY_HAND,
    Problem.NO_MODELS: "It works, and offers nothing: load a model there, or check what the credential may see.",
    Problem.TOO_LARGE: "Check base_url: no list of models is that large.",
}


@dataclass(frozen=True, slots=True)
class Look:
    """What one address said. `problem`: None when all is well; `status`: of the answer, if there was one."""

    address: str
    problem: Problem | None = None
    message: str = ""
    status: int | None = None
    latency_ms: int = 0
    models: tuple[Listed, ...] = ()

    @property
    def hint(self) -> str:
        return HINTS[self.problem] if self.problem else ""


def look(provider: Provider, *, credential: str = "", limit: float = LIMIT_SECONDS) -> list[Look]:
    """At each of its addresses, enabled or not, with the stored credential or with the one that is given: the provider
    need not be saved for that. Synchronous; raises DatabaseError only."""
    if provider.type == ProviderType.SANDBOX:
        return [Look("built in", models=tuple(_of_sandbox()))]
    headers: Headers = [(name.encode(), value.encode()) for name, value in TYPES[provider.type].extra_headers.items()]
    if provider.cred_store == CredentialStore.VAULT:
        problem = _add_credential(provider, headers, credential)
        if problem is not None:
            return [replace(problem, address=base) for base in provider.bases]
    return asyncio.run(_look_at_all(provider, headers, limit))


def best(looks: list[Look]) -> Look:
    """One that worked, else the first."""
    return next((one for one in looks if one.problem is None), looks[0])


def _of_sandbox() -> list[Listed]:
    return [
        Listed(
            one.id,
            max_context_tokens=one.max_context_tokens,
            max_output_tokens=one.max_output_tokens,
            abilities=one.abilities,
        )
        for one in SANDBOX_MODELS
    ]


def _add_credential(provider: Provider, headers: Headers, given: str = "") -> Look | None:
    """Straight from the keyring: a look is no use of the vault. What is wrong with it, if anything is."""
    if given:
        _add(provider, headers, given)
        return None
    sealed = sealed_credentials().get(provider.secret_name)
    if sealed is None:
        return Look("", Problem.NO_CREDENTIAL, "The provider's credential is missing.")
    try:
        secret = KEYRING.open(name=sealed.name, secret_id=sealed.secret_id, sealed=sealed.sealed)
    except VaultLocked:
        return Look("", Problem.VAULT_LOCKED, "The vault is locked, and the provider needs its credential.")
    except Damaged:
        return Look("", Problem.DAMAGED, "The provider's credential cannot be opened.")
    _add(provider, headers, secret.decode("utf-8"))
    return None


def _add(provider: Provider, headers: Headers, credential: str) -> None:
    name, value = TYPES[provider.type].credential_header(credential)
    headers.append((name.encode("ascii"), value.encode("latin-1", "replace")))


async def _look_at_all(provider: Provider, headers: Headers, limit: float) -> list[Look]:
    door = build_transport(settings.TOKENHUB_UPSTREAM_TRANSPORT)
    try:
        return list(
            await asyncio.gather(*(_look(provider.type, base, headers, door, limit) for base in provider.bases))
        )
    finally:
        await door.close()


async def _look(type_: str, base: str, headers: Headers, door: Transport, limit: float) -> Look:
    started = monotonic()
    try:
        url = Url.parse(models_url(type_, base))
    except ValueError:
        return Look(base, Problem.BAD_ADDRESS, "This is no address that can be called.")
    try:
        async with asyncio.timeout(limit):
            found = await _list(type_, base, url, headers, door)
    except UpstreamFailure as failure:
        found = Look(base, _OF_KIND[failure.kind], f"{failure.message[:1].upper()}{failure.message[1:]}.")
    except TimeoutError:
        found = Look(base, Problem.TIMEOUT, f"There was no answer within {limit:g} seconds.")
    return replace(found, latency_ms=round((monotonic() - started) * 1000))


async def _list(type_: str, base: str, url: Url, headers: Headers, door: Transport) -> Look:
    """All pages of it. Raises UpstreamFailure."""
    models: list[Listed] = []
    query = b"?limit=1000" if type_ == ProviderType.ANTHROPIC else b""
    for _ in range(MAX_PAGES):
        status, body = await _get(url.with_query(query), headers, door)
        asked = f"GET {url.scheme}://{url.host_header.decode()}{url.target.decode()}"
        if (refused := _refusal(status, asked)) is not None:
            return Look(base, refused[0], refused[1], status)
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return Look(base, Problem.NOT_JSON, f"{asked} is answered with something else than JSON.", status)
        page = model_list.read(document)
        if page is None:
            return Look(base, Problem.NO_LIST, f"{asked} is answered with JSON that is no list of models.", status)
        models += page
        after = _next(document)
        if not after or len(models) >= model_list.MAX_MODELS:
            break
        query = b"?limit=1000&after_id=" + quote(after, safe="").encode("ascii")
    if not models:
        return Look(base, Problem.NO_MODELS, f"{asked} is answered with an empty list.", status)
    return Look(base, status=status, models=tuple({one.id: one for one in models}.values()))


def _next(document: Any) -> str:
    if isinstance(document, dict) and document.get("has_more") is True and isinstance(document.get("last_id"), str):
        return str(document["last_id"])[:500]
    return ""


async def _get(url: Url, headers: Headers, door: Transport) -> tuple[int, bytes]:
    exchange = await door.send(b"GET", url, headers, b"")
    try:
        return exchange.status, await exchange.read(MAX_ANSWER_BYTES)
    finally:
        exchange.close()


def _refusal(status: int, asked: str) -> tuple[Problem, str] | None:
    match status:
        case _ if 200 <= status < 300:
            return None
        case 401:
            return Problem.UNAUTHORIZED, "The provider refuses the credential (401)."
        case 403:
            return Problem.FORBIDDEN, "The provider knows the credential and forbids this (403)."
        case 404 | 405 | 410:
            return Problem.NOT_FOUND, f"There is nothing at this path ({status}): {asked}."
        case 429:
            return Problem.RATE_LIMITED, "The provider is asked too often (429)."
        case _ if 300 <= status < 400:
            return Problem.REDIRECT, f"{asked} is redirected elsewhere ({status})."
        case _ if status >= 500:
            return Problem.SERVER_ERROR, f"The provider fails ({status})."
    return Problem.REJECTED, f"The provider rejects {asked} ({status})."
