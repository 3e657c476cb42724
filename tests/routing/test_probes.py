from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from io import StringIO
from time import monotonic
from typing import TypeVar

import pytest
from django.core.management import call_command
from pytest_django import Settings

from providers.client import Transport, Url, build_transport
from providers.models import CredentialStore, Provider
from providers.outcomes import ErrorClass
from providers.types import TYPES, health_url
from routing.breaker import DOWN_AFTER, State
from routing.health import Health
from routing.models import HealthNotice, Model
from routing.probes import Finding, Prober, Subject, load_subjects, note, probe, probe_all
from tests.support.upstream import Fault, Reply, Upstream, closed_port
from vault import services
from vault.crypto import Parameters
from vault.keyring import KEYRING

T = TypeVar("T")
LIMIT = 0.3
VAULT_PASSWORD = "the vault's password"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def keyring() -> Iterator[None]:
    """It belongs to the process: locked before the test, as it was after it."""
    before = KEYRING._page[:]
    KEYRING.wipe()
    services.THROTTLE.right()
    yield
    KEYRING._page[:] = before


def subject(*bases: str, type_: str = "openai", name: str = "p") -> Subject:
    return Subject(
        provider_id=name,
        urls=tuple(Url.parse(health_url(type_, base)) for base in bases),
        headers=[(key.encode(), value.encode()) for key, value in TYPES[type_].extra_headers.items()],
        auth_header=TYPES[type_].credential_header,
        tells_credential=type_ != "vllm",
        needs_credential=False,
        credential=None,
    )


def through_door(use: Callable[[Transport], Awaitable[T]]) -> T:
    async def run() -> T:
        async with asyncio.timeout(20):
            door = build_transport("direct")
            try:
                return await use(door)
            finally:
                await door.close()

    return asyncio.run(run())


def look(one: Subject, *, limit: float = 5.0) -> Finding:
    return through_door(lambda door: probe(one, door, limit=limit))


# -- one probe ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("type_", "path"), [("openai", "/v1/models"), ("anthropic", "/v1/models"), ("vllm", "/health")]
)
def test_each_type_is_asked_where_it_costs_nothing(upstream: Upstream, type_: str, path: str) -> None:
    finding = look(subject(upstream.url, type_=type_))
    assert (finding.error, finding.status, finding.text) == (None, 200, "")
    assert finding.ms > 0
    (request,) = upstream.requests
    assert (request.method, request.path, request.body) == ("GET", path, b"")
    assert ("anthropic-version" in request.headers) == (type_ == "anthropic")


@pytest.mark.parametrize("status", [400, 404, 405, 429])
def test_whoever_answers_is_alive(upstream: Upstream, status: int) -> None:
    upstream.default = Reply(status=status)
    finding = look(subject(upstream.url, type_="anthropic"))
    assert finding.error is None
    assert finding.text == f"answers with HTTP {status}"
    assert not finding.accepted


def test_a_redirect_is_not_followed(upstream: Upstream) -> None:
    with Upstream() as elsewhere:
        upstream.default = Reply(status=302, headers={"location": f"{elsewhere.url}/v1/models"})
        look(subject(upstream.url))
        assert not elsewhere.requests


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        (Reply(status=401), ErrorClass.AUTH, "401: credential refused"),
        (Reply(status=403), ErrorClass.AUTH, "403: credential refused"),
        (Reply(status=503), ErrorClass.TRANSIENT, "HTTP 503"),
        (Reply(fault=Fault.HANG_BEFORE_HEAD), ErrorClass.TIMEOUT, "timeout: no answer within 0.3 s"),
        (Reply(fault=Fault.HANG_MIDWAY, body=b"x" * 100), ErrorClass.TIMEOUT, "timeout: no answer within 0.3 s"),
        (Reply(fault=Fault.CLOSE_BEFORE_HEAD), ErrorClass.TRANSIENT, "reset: "),
        (Reply(fault=Fault.NOT_HTTP), ErrorClass.TRANSIENT, "protocol: "),
    ],
    ids=["401", "403", "503", "hang", "hang-midway", "closed", "not-http"],
)
def test_what_failed_is_told(upstream: Upstream, reply: Reply, error: ErrorClass, text: str) -> None:
    upstream.default = reply
    started = monotonic()
    finding = look(subject(upstream.url), limit=LIMIT)
    assert finding.error is error
    assert finding.text.startswith(text)
    assert monotonic() - started < LIMIT + 2


@pytest.mark.parametrize(
    ("base", "text"),
    [
        (f"http://127.0.0.1:{closed_port()}", "connect: "),
        ("http://nowhere.invalid", "DNS: "),
        ("http://169.254.169.254", "refused_address: "),
    ],
    ids=["refused", "dns", "metadata"],
)
def test_an_address_that_nobody_answers_at_is_told(base: str, text: str) -> None:
    finding = look(subject(base))
    assert finding.error is ErrorClass.TRANSIENT
    assert finding.text.startswith(text)


def test_a_server_that_speaks_no_tls_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_speak_no_tls, args=[server], daemon=True).start()
        finding = look(subject(f"https://127.0.0.1:{server.getsockname()[1]}"))
    assert finding.error is ErrorClass.TRANSIENT
    assert finding.text.startswith("TLS: ")


def _speak_no_tls(server: socket.socket) -> None:
    connection, _ = server.accept()
    connection.recv(100)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    connection.close()


def test_one_address_of_several_that_answers_is_enough(upstream: Upstream) -> None:
    refused = f"http://127.0.0.1:{closed_port()}"
    assert look(subject(refused, upstream.url)).error is None
    upstream.default = Reply(status=401)
    assert look(subject(refused, upstream.url)).error is ErrorClass.AUTH


def test_a_long_list_of_models_is_no_failure(upstream: Upstream) -> None:
    upstream.default = Reply(body=b"[" + b" " * 3_000_000 + b"]")
    assert look(subject(upstream.url)).error is None


# -- rounds ------------------------------------------------------------------------------------------------------------
def test_a_provider_that_hangs_does_not_hold_up_the_others(upstream: Upstream) -> None:
    with Upstream() as hanging:
        hanging.default = Reply(fault=Fault.HANG_BEFORE_HEAD)
        found: list[Finding] = []
        wanted = [subject(hanging.url, name="hanging"), subject(upstream.url, name="good")]
        through_door(lambda door: probe_all(wanted, door, found.append, limit=LIMIT))
    assert [(one.provider_id, one.error) for one in found] == [("good", None), ("hanging", ErrorClass.TIMEOUT)]


def test_a_defect_with_one_provider_leaves_the_others_probed(upstream: Upstream) -> None:
    found: list[Finding] = []
    broken = replace(subject(upstream.url, name="broken"), urls=())
    wanted = [broken, subject(upstream.url, name="good")]
    through_door(lambda door: probe_all(wanted, door, found.append))
    assert [one.provider_id for one in found] == ["good"]


def test_a_round_ends_with_its_prober(upstream: Upstream) -> None:
    upstream.default = Reply(fault=Fault.HANG_BEFORE_HEAD)

    async def run(door: Transport) -> None:
        prober = Prober(Health(), door)
        first = asyncio.create_task(prober.round([subject(upstream.url)]))
        await asyncio.to_thread(upstream.wait_for_requests, 1)
        assert await prober.round([subject(upstream.url)]) == []
        await prober.stop()
        assert await first == []
        assert await prober.round([subject(upstream.url)]) == []
        assert len(asyncio.all_tasks()) == 1

    through_door(run)
    assert len(upstream.requests) == 1
    assert upstream.requests[0].lost.wait(5)


def test_probes_take_a_dead_provider_down_and_bring_it_back(upstream: Upstream) -> None:
    health = Health()
    upstream.default = Reply(status=503)
    for _ in range(DOWN_AFTER):
        note(health, look(subject(upstream.url)))
    assert health.provider_state("p", ["m"], monotonic()) is State.DOWN
    upstream.default = Reply()
    note(health, look(subject(upstream.url)))
    assert health.provider_state("p", ["m"], monotonic()) is State.HEALTHY


# -- who is probed -----------------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_enabled_providers_are_probed_but_the_sandbox() -> None:
    Provider.objects.create(id="on", type="openai", endpoints=["http://further.example"])
    Provider.objects.create(id="off", type="openai", enabled=False)
    Provider.objects.create(id="box", type="sandbox", cred_store=CredentialStore.NONE)
    Provider.objects.create(id="gpu", type="vllm", base_url="http://gpu.example/v1", cred_store=CredentialStore.NONE)
    found = {one.provider_id: one for one in load_subjects()}
    assert sorted(found) == ["gpu", "on"]
    assert [url.host for url in found["on"].urls] == ["api.openai.com", "further.example"]
    assert [url.target for url in found["gpu"].urls] == [b"/health"]
    assert found["on"].tells_credential
    assert not found["gpu"].tells_credential


@pytest.mark.django_db
@pytest.mark.usefixtures("keyring")
def test_a_locked_vault_skips_who_needs_a_credential_and_marks_nothing(upstream: Upstream) -> None:
    services.initialize(password=VAULT_PASSWORD, parameters=Parameters(passes=1, memory_kib=64, lanes=1))
    provider = Provider.objects.create(id="p", type="openai", base_url=upstream.url)
    Provider.objects.create(id="without", type="openai", base_url=upstream.url)
    services.put_secret(name=provider.secret_name, value="sk-credential")
    services.lock()
    health = Health()
    found = {one.provider_id: look(one) for one in load_subjects()}
    assert {name: one.skipped for name, one in found.items()} == {"p": "vault locked", "without": "no credential"}
    for one in found.values():
        note(health, one)
    assert health.provider_state("p", [], monotonic()) is State.HEALTHY
    assert not upstream.requests
    services.unlock(password=VAULT_PASSWORD)
    (again,) = [look(one) for one in load_subjects() if one.provider_id == "p"]
    assert again.accepted
    assert upstream.requests[0].headers["authorization"] == "Bearer sk-credential"


# -- the command -------------------------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_the_command_prints_what_it_found_and_tells_the_workers(upstream: Upstream, settings: Settings) -> None:
    settings.TOKENHUB_VAULT_PASSWORD = ""
    upstream.when(Reply(status=401), path="/refused/v1/models")
    refused = f"http://127.0.0.1:{closed_port()}"
    for name, base in (("good", upstream.url), ("refused", f"{upstream.url}/refused"), ("closed", refused)):
        provider = Provider.objects.create(id=name, type="openai", base_url=base, cred_store=CredentialStore.NONE)
        Model.objects.create(id=f"{name}-model", provider=provider)
    Provider.objects.create(id="box", type="sandbox", cred_store=CredentialStore.NONE)
    out = StringIO()
    call_command("probe_providers", stdout=out)
    lines = [re.split(r"  +", line) for line in out.getvalue().splitlines()]
    assert lines[0] == ["provider", "state", "ms", "what"]
    shown = {line[0]: (line[1], line[-1]) for line in lines[1:]}
    assert shown["good"] == ("healthy", "alive")
    assert shown["refused"] == ("down", "401: credential refused")
    assert shown["closed"][0] == "healthy"
    assert shown["closed"][1].startswith("connect: ")
    assert shown["box"] == ("healthy", "not probed")
    (notice,) = HealthNotice.objects.all()
    assert (notice.provider_id, notice.model_id, notice.reason) == ("refused", "", "auth")


@pytest.mark.django_db(transaction=True)
def test_the_command_says_so_when_there_is_nothing_to_probe(settings: Settings) -> None:
    settings.TOKENHUB_VAULT_PASSWORD = ""
    out = StringIO()
    call_command("probe_providers", stdout=out)
    assert out.getvalue() == "There is no enabled provider.\n"
