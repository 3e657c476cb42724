"""Looking at a provider: what is wrong with it, what it has, and taking models over."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from providers import discovery
from providers.discovery import HINTS, Problem
from providers.model_list import Listed
from providers.models import CredentialStore, Provider, ProviderType
from providers.sandbox import SANDBOX_MODELS
from routing import services as routing
from routing.importing import offered
from routing.models import Model, Price
from telemetry.models import AuditEntry
from tests.adminapi.api import Api, ok, refused
from tests.providers.test_transports import certificate  # noqa: F401  a fixture
from tests.support.upstream import Fault, Reply, Upstream, closed_port
from vault import services as vault

pytestmark = pytest.mark.django_db
SECRET = "sk-a-secret-that-nobody-may-see"


@pytest.fixture(scope="module")
def shared_upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def upstream(shared_upstream: Upstream) -> Upstream:
    shared_upstream.default = Reply()
    shared_upstream.forget()
    shared_upstream.requests.clear()
    shared_upstream.models = ["fake-model"]
    return shared_upstream


@pytest.fixture(autouse=True)
def _without_prices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue is a process of its own: two seconds for each look-up."""
    if "catalogue" not in request.node.name:
        monkeypatch.setattr("routing.catalogue.look_up", lambda asked: [None] * len(asked))


def provider(base: str, **fields: Any) -> Provider:
    values = {"id": "org/p", "type": ProviderType.OPENAI, "cred_store": CredentialStore.NONE, **fields}
    return Provider.objects.create(base_url=base, **values)


def listing(*rows: Any) -> Reply:
    return Reply(body=json.dumps({"data": list(rows)}).encode())


def report(api: Api) -> Any:
    return ok(api.post("providers/org/p/test"))


def test_a_provider_that_works_says_so(api: Api, upstream: Upstream) -> None:
    provider(upstream.url)
    shown = report(api)
    assert (shown["ok"], shown["problem"], shown["status"], shown["models"]) == (True, None, 200, 1)
    assert shown["addresses"] == [{name: shown[name] for name in shown["addresses"][0]}]


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply(status=401, body=b'{"error": "wrong key sk-a"}'), "unauthorized"),
        (Reply(status=403), "forbidden"),
        (Reply(status=404), "not_found"),
        (Reply(status=418), "rejected"),
        (Reply(status=429), "rate_limited"),
        (Reply(status=503), "server_error"),
        (Reply(body=b"<html>welcome</html>"), "not_json"),
        (Reply(body=b"[" * 100_000), "not_json"),
        (Reply(body=b'{"hello": 1}'), "no_list"),
        (Reply(body=b'{"data": []}'), "no_models"),
        (Reply(fault=Fault.NOT_HTTP), "not_http"),
        (Reply(fault=Fault.CLOSE_BEFORE_HEAD), "closed"),
        (Reply(fault=Fault.HANG_BEFORE_HEAD), "timeout"),
        (Reply(fault=Fault.HANG_MIDWAY), "timeout"),
    ],
)
def test_what_failed_is_said_exactly(
    api: Api, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, reply: Reply, problem: str
) -> None:
    monkeypatch.setattr(
        discovery.look, "__kwdefaults__", {"credential": "", "limit": 0.5 if problem == "timeout" else 10.0}
    )
    upstream.default = reply
    provider(upstream.url)
    shown = report(api)
    assert (shown["ok"], shown["problem"]) == (False, problem)
    assert shown["message"]
    assert shown["hint"] == HINTS[Problem(problem)]
    assert "sk-a" not in json.dumps(shown)


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        ("http://no-such-host.invalid", "dns"),
        ("http://169.254.169.254", "refused_address"),
        ("http://[fe80::1]", "refused_address"),
        ("http://0.0.0.0:9", "refused_address"),
    ],
)
def test_addresses_that_lead_nowhere_are_told_apart(api: Api, base: str, problem: str) -> None:
    provider(base)
    assert report(api)["problem"] == problem


def test_a_closed_port_is_named_and_the_other_address_is_looked_at(api: Api, upstream: Upstream) -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    provider(upstream.url, endpoints=[dead])
    shown = report(api)
    assert (shown["ok"], shown["problem"], shown["address"]) == (False, "connect", dead)
    assert "refused" in shown["message"]
    assert [one["ok"] for one in shown["addresses"]] == [True, False]
    assert ok(api.get("providers/org/p/discover"))["models"]


def test_a_host_name_that_leads_to_a_metadata_address_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    provider("http://harmless.example")
    assert report(api)["problem"] == "refused_address"


def test_a_certificate_that_nobody_vouches_for_is_named(
    api: Api,
    certificate: ssl.SSLContext,  # noqa: F811
) -> None:
    with Upstream(tls=certificate) as server:
        provider(server.url)
        shown = report(api)
        assert shown["problem"] == "tls"
        assert "certificate" in shown["message"]
        assert not server.requests


def test_a_redirect_is_not_followed(api: Api, upstream: Upstream) -> None:
    with Upstream() as elsewhere:
        upstream.default = Reply(status=302, headers={"location": f"{elsewhere.url}/v1/models"})
        provider(upstream.url)
        assert report(api)["problem"] == "redirect"
        assert not elsewhere.requests


def test_the_credential_is_sent_and_never_shown(api: Api, upstream: Upstream, open_vault: None) -> None:
    one = provider(upstream.url, cred_store=CredentialStore.VAULT)
    assert report(api)["problem"] == "no_credential"
    refused(api.get("providers/org/p/discover"), "conflict")
    vault.put_secret(name=one.secret_name, value=SECRET)
    assert report(api)["ok"]
    assert upstream.requests[-1].headers["authorization"] == f"Bearer {SECRET}"
    upstream.default = Reply(status=401, body=SECRET.encode(), headers={"location": SECRET})
    texts = [api.post("providers/org/p/test").content, api.get("providers/org/p/discover").content]
    assert not [text for text in texts if SECRET.encode() in text]
    vault.lock()
    assert report(api)["problem"] == "vault_locked"
    refused(api.get("providers/org/p/discover"), "vault_locked")


def test_a_provider_that_gives_no_list_is_an_upstream_error(api: Api, upstream: Upstream) -> None:
    upstream.default = Reply(status=404)
    provider(upstream.url)
    error = refused(api.get("providers/org/p/discover"), "upstream_error")
    assert error["hint"] == HINTS[Problem.NOT_FOUND]
    refused(api.post("providers/org/p/import-models", {}), "upstream_error")


def test_anthropics_pages_are_read_to_the_end(api: Api, upstream: Upstream) -> None:
    first = {"data": [{"id": "claude-a"}], "has_more": True, "last_id": "claude a&b"}
    second = {"data": [{"id": "claude-b"}], "has_more": False, "last_id": "claude-b"}
    upstream.next(*(Reply(body=json.dumps(one).encode()) for one in (first, second)))
    provider(upstream.url, type=ProviderType.ANTHROPIC)
    assert [one["id"] for one in ok(api.get("providers/org/p/discover"))["models"]] == ["claude-a", "claude-b"]
    assert [one.path for one in upstream.requests] == [
        "/v1/models?limit=1000", "/v1/models?limit=1000&after_id=claude%20a%26b",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["providers/nobody/discover", "providers/nobody/elsewhere/discover"])
def test_a_provider_that_is_not_there_is_a_404(api: Api, path: str) -> None:
    refused(api.get(path), "not_found")


def test_an_id_cannot_hide_behind_these_paths(api: Api) -> None:
    body = {"id": "org/test", "type": "openai", "cred_store": "none"}
    refused(api.post("providers", body), "invalid_request", "id")


# -- taking over -----------------------------------------------------------------------------------------------------
def test_models_come_with_what_is_known_of_them(api: Api, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {
        "prices": {"input_per_1k": "0.001", "output_per_1k": "0.002"}, "context_window": 99_000, "catalogue_id": "x/y",
        "tiers": {"1000": {"input_per_1k": "0.002"}}, "other": [],
    }  # fmt: skip
    monkeypatch.setattr("routing.catalogue.look_up", lambda asked: [answer if one[0] == "a" else None for one in asked])
    upstream.default = listing({"id": "a"}, {"id": "b", "context_length": 5000}, {"id": "whisper-1"}, {"id": "c d"})
    provider(upstream.url)
    shown = ok(api.get("providers/org/p/discover"))
    assert [(one["id"], one["kind"], one["max_context_tokens"], one["input_per_1k"]) for one in shown["models"]] == [
        ("a", "chat", 99_000, 0.001), ("b", "chat", 5000, None), ("whisper-1", "other", None, None),
        ("c d", "chat", None, None),
    ]  # fmt: skip
    taken = ok(api.post("providers/org/p/import-models", {"enabled": False}))
    assert [(one["id"], one["state"]) for one in taken["models"]] == [
        ("a", "created"), ("b", "created"), ("c d", "skipped"),
    ]  # fmt: skip
    model = ok(api.get("models/a"))
    assert (model["input_per_1k"], model["price_source"], model["enabled"]) == (0.001, "catalogue", False)
    assert Price.objects.get().above_input_tokens == 1000
    assert AuditEntry.objects.filter(action="model.import", resource="model/a").exists()
    again = ok(api.post("providers/org/p/import-models"))
    assert (again["created"], [one["state"] for one in again["models"]]) == (0, ["exists", "exists", "skipped"])
    assert ok(api.get("providers/org/p/discover"))["models"][0]["imported"]


def test_chosen_models_alone_are_made_and_a_taken_name_gets_the_providers(api: Api, upstream: Upstream) -> None:
    other = provider("http://10.0.0.9", id="other")
    routing.save(model=Model(id="fake-model", provider=other))
    upstream.models = ["fake-model", "second"]
    provider(upstream.url)
    taken = ok(api.post("providers/org/p/import-models", {"models": ["fake-model"]}))
    assert taken["models"] == [
        {"id": "org/p/fake-model", "upstream_model": "fake-model", "state": "created", "reason": ""}
    ]
    assert Model.objects.get(pk="org/p/fake-model").upstream_model == "fake-model"
    assert not Model.objects.filter(pk="second").exists()
    refused(api.post("providers/org/p/import-models", {"models": ["second", "third"]}), "invalid_request", "models")
    assert not Model.objects.filter(pk="second").exists()


def test_the_sandbox_has_its_models(api: Api) -> None:
    Provider.objects.create(id="org/p", type=ProviderType.SANDBOX, cred_store=CredentialStore.NONE)
    assert report(api)["ok"]
    assert ok(api.post("providers/org/p/import-models"))["created"] == len(SANDBOX_MODELS)
    assert Model.objects.get(pk="sandbox/local").input_per_1k == 0


def test_the_catalogue_is_asked_for_a_known_service() -> None:
    one = provider("", type=ProviderType.ANTHROPIC)
    (offer,) = offered(one, [Listed("claude-sonnet-4-5")])
    assert offer.prices["input_per_1k"] > 0
    assert offer.max_context_tokens


# -- the command -----------------------------------------------------------------------------------------------------
def test_the_command_lists_and_imports(upstream: Upstream, data_folder: Path) -> None:
    provider(upstream.url)
    out = StringIO()
    call_command("discover_models", "org/p", stdout=out)
    assert "fake-model" in out.getvalue()
    call_command("discover_models", "org/p", "--model", "fake-model", "--disabled", stdout=out)
    assert "created   fake-model" in out.getvalue()
    assert not Model.objects.get().enabled
    with pytest.raises(CommandError, match="not in the list"):
        call_command("discover_models", "org/p", "--model", "x")
    with pytest.raises(CommandError, match="There is no provider"):
        call_command("discover_models", "nobody")
