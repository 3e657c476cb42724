"""Asks each provider, without cost, whether it is there: its health address, else its list of models. Over the same
transports as traffic, so that the same rules hold for addresses; redirects are not followed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

from django.conf import settings

from providers.client import FailureKind, Headers, Transport, UpstreamFailure, Url, build_transport
from providers.models import CredentialStore, Provider, ProviderType
from providers.outcomes import ErrorClass, classify_failure
from providers.types import TYPES, health_url, models_url
from routing.health import Health
from routing.health_store import HealthStore
from telemetry.logs import EventLogger
from vault.errors import Damaged, VaultLocked
from vault.keyring import KEYRING, SealedCredential
from vault.services import open_from_environment, sealed_credentials

log = EventLogger(__name__)
LIMIT_SECONDS: Final = 10.0
MAX_ANSWER_BYTES: Final = 1_048_576
AT_ONCE: Final = 16
_SHOWN = {FailureKind.DNS: "DNS", FailureKind.TLS: "TLS"}


@dataclass(frozen=True, slots=True)
class Subject:
    """A provider as far as a probe needs it."""

    provider_id: str
    urls: tuple[Url, ...]
    headers: Headers
    auth_header: Callable[[str], tuple[str, str]]
    tells_credential: bool
    """Whether an answer shows that the credential is taken."""
    needs_credential: bool
    credential: SealedCredential | None


@dataclass(frozen=True, slots=True)
class Finding:
    """`error`: what it counts as; none for a provider that is alive. `text`: what failed, or is odd. `skipped`: why
    nothing was asked. `ms`: until the answer, or until it failed."""

    provider_id: str
    started: float = 0.0
    ended: float = 0.0
    error: ErrorClass | None = None
    status: int = 0
    text: str = ""
    accepted: bool = False
    skipped: str = ""

    @property
    def ms(self) -> float:
        return (self.ended - self.started) * 1000


def load_subjects() -> list[Subject]:
    """Every enabled provider but the sandbox. Synchronous Django. Raises DatabaseError."""
    credentials = sealed_credentials()
    found = []
    for row in Provider.objects.filter(enabled=True).exclude(type=ProviderType.SANDBOX):
        defaults = TYPES[row.type]
        try:
            urls = tuple(Url.parse(health_url(row.type, base)) for base in row.bases)
        except ValueError:
            continue  # the snapshot leaves it out, too, and says so
        in_vault = row.cred_store == CredentialStore.VAULT
        found.append(
            Subject(
                provider_id=row.id,
                urls=urls,
                headers=[(name.encode(), value.encode()) for name, value in defaults.extra_headers.items()],
                auth_header=defaults.credential_header,
                tells_credential=health_url(row.type, row.bases[0]) == models_url(row.type, row.bases[0]),
                needs_credential=in_vault,
                credential=credentials.get(row.secret_name) if in_vault else None,
            )
        )
    return found


async def probe(subject: Subject, door: Transport, *, limit: float = LIMIT_SECONDS) -> Finding:
    """All its addresses at once: one that is alive is enough."""
    headers = list(subject.headers)
    if subject.needs_credential:
        if subject.credential is None:
            return Finding(subject.provider_id, skipped="no credential")
        try:
            headers.append(_auth_header(subject, subject.credential))
        except VaultLocked:
            return Finding(subject.provider_id, skipped="vault locked")
        except Damaged:
            return Finding(subject.provider_id, skipped="credential cannot be opened")
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_ask(subject, url, headers, door, limit)) for url in subject.urls]
    found = sorted((one.result() for one in asked), key=lambda one: (one.error is not None, one.ended - one.started))
    if found[0].error is not None:  # an answer about the credential tells more
        return next((one for one in found if one.error is ErrorClass.AUTH), found[0])
    return found[0]


def _auth_header(subject: Subject, credential: SealedCredential) -> tuple[bytes, bytes]:
    """Straight from the keyring: a probe is no use of the vault. Raises VaultLocked, Damaged."""
    secret = KEYRING.open(name=credential.name, secret_id=credential.secret_id, sealed=credential.sealed)
    name, value = subject.auth_header(secret.decode("utf-8"))
    return name.encode("ascii"), value.encode("latin-1", "replace")


async def _ask(subject: Subject, url: Url, headers: Headers, door: Transport, limit: float) -> Finding:
    started, status = monotonic(), 0
    error: ErrorClass | None = None
    text = ""
    try:
        async with asyncio.timeout(limit):
            exchange = await door.send(b"GET", url, headers, b"")
            try:
                status = exchange.status
                await exchange.read(MAX_ANSWER_BYTES)
            finally:
                exchange.close()
    except UpstreamFailure as failure:
        if failure.kind is not FailureKind.TOO_LARGE:
            error, text = classify_failure(failure.kind), f"{_SHOWN.get(failure.kind, failure.kind)}: {failure.message}"
    except TimeoutError:
        error, text = ErrorClass.TIMEOUT, f"timeout: no answer within {limit:g} s"
    if error is None:
        error, text = _judge(status)
    accepted = error is None and subject.tells_credential and subject.needs_credential and 200 <= status < 300
    return Finding(subject.provider_id, started, monotonic(), error, status, text, accepted)


def _judge(status: int) -> tuple[ErrorClass | None, str]:
    """Whoever answers is alive: many a service has no list of models, or takes no GET."""
    if status in {401, 402, 403}:
        return ErrorClass.AUTH, f"{status}: credential refused"
    if status >= 500:
        return ErrorClass.TRANSIENT, f"HTTP {status}"
    return None, "" if 200 <= status < 300 else f"answers with HTTP {status}"


def note(health: Health, finding: Finding) -> None:
    if not finding.skipped:
        health.probed(
            finding.provider_id,
            started=finding.started,
            now=finding.ended,
            error=finding.error,
            status=finding.status,
            text=finding.text,
            accepted=finding.accepted,
        )


async def probe_all(
    subjects: Iterable[Subject], door: Transport, found: Callable[[Finding], object], *, limit: float = LIMIT_SECONDS
) -> None:
    """`found` hears of each as soon as it is known."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(subject: Subject) -> None:
        async with slots:
            try:
                finding = await probe(subject, door, limit=limit)
            except Exception:  # a defect with one provider must not keep the others from being probed
                log.exception("probe_defect", provider=subject.provider_id)
                return
        found(finding)

    async with asyncio.TaskGroup() as group:
        for subject in subjects:
            group.create_task(one(subject))


async def round_alone(subjects: Iterable[Subject]) -> list[Finding]:
    """On a loop that serves nothing, over connections of its own."""
    door = build_transport(settings.TOKENHUB_UPSTREAM_TRANSPORT)
    findings: list[Finding] = []
    try:
        await probe_all(subjects, door, findings.append)
    finally:
        await door.close()
    return findings


def probe_in_no_server() -> tuple[list[Finding], HealthStore]:
    """A round in a process of its own, which opens the vault by its own password. Its findings count for running
    servers, too. Raises DatabaseError."""
    open_from_environment()
    health = Health()
    store = HealthStore(health)
    store.load()
    findings = asyncio.run(round_alone(load_subjects()))
    for finding in findings:
        note(health, finding)
    store.sync()
    return findings, store


class Prober:
    """Rounds of probes on one event loop; to be used on it only. The task of a round ends with `stop`."""

    def __init__(self, health: Health, door: Transport) -> None:
        self._health = health
        self._door = door
        self._round: asyncio.Task[None] | None = None
        self._last: dict[str, str] = {}
        self._stopped = False

    async def round(self, subjects: Sequence[Subject]) -> list[Finding]:
        """What was found; nothing while the round before is still under way."""
        if self._stopped or self._round is not None:
            return []
        findings: list[Finding] = []

        def found(finding: Finding) -> None:
            self._found(finding)
            findings.append(finding)

        self._round = asyncio.get_running_loop().create_task(probe_all(subjects, self._door, found))
        try:
            await asyncio.wait([self._round])
        finally:
            self._round = None
        return findings

    def _found(self, finding: Finding) -> None:
        note(self._health, finding)
        text = finding.skipped or finding.text
        if text != self._last.get(finding.provider_id, ""):
            self._last[finding.provider_id] = text
            if finding.error is not None:
                log.warning("probe_failed", provider=finding.provider_id, what=text)
            else:
                log.info("probe", provider=finding.provider_id, what=text or "alive")

    async def stop(self) -> None:
        self._stopped = True
        if self._round is not None:
            self._round.cancel()
            await asyncio.gather(self._round, return_exceptions=True)
            self._round = None
