"""The set-up: what it tells from the rows, what each step does in place, and what it never does."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.utils import timezone

from keys.models import ClientKey
from keys.snippets import snippets
from providers.discovery import Look, Problem
from providers.model_list import Kind, Listed
from providers.models import CredentialStore, Provider, ProviderType
from providers.presets import PRESETS
from providers.types import DIALECTS, TYPES, models_url
from routing import importing
from routing.models import Model, PriceSource
from tests.admin.forms import text
from tests.admin.samples import provider, request_row
from tests.support.certificate import write_certificate
from tests.support.gateway import free_port
from tests.support.upstream import Fault, Reply, Upstream
from tokenhub.setup.words import hint
from vault.models import Secret

pytestmark = pytest.mark.django_db
HTMX = {"HX-Request": "true"}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(models=("gpt-4o-mini", "house-model")) as made:
        yield made


def card(upstream_url: str, **changes: str) -> dict[str, str]:
    return {"preset": "custom", "name": "house", "base_url": upstream_url, "credential": "", **changes}


def do(client: Client, step: str, **values: Any) -> str:
    answer = client.post(f"/admin/setup/{step}/", values, headers=HTMX)
    assert answer.status_code == 200, answer.content[:500]
    return text(answer)


# -- facts ---------------------------------------------------------------------------------------------------------
def test_a_step_is_done_when_the_rows_say_so_and_not_before(admin_client: Client, open_vault: None) -> None:
    def done() -> list[bool]:
        answer: Any = admin_client.get("/admin/setup/")
        return [one.done for one in answer.context["steps"]]

    assert done() == [True, False, False, False, False]
    sandbox = Provider.objects.create(id="sandbox", type=ProviderType.SANDBOX, cred_store=CredentialStore.NONE)
    Model.objects.create(id="sandbox/swift", provider=sandbox)
    assert done() == [True, False, False, False, False]
    row = provider(1)
    Model.objects.create(id="m", provider=row)
    request_row(1, provider_id="sandbox")
    request_row(2, provider_id=row.pk, status=502)
    assert done() == [True, True, True, False, False]  # no answer of a provider that somebody added
    assert "None of your providers has answered yet." in text(admin_client.get("/admin/setup/"))
    request_row(3, provider_id=row.pk)
    assert done() == [True, True, True, False, True]
    Provider.objects.filter(pk=row.pk).update(enabled=False)
    assert done() == [True, False, False, False, True]


def test_the_first_page_has_the_next_step_and_none_when_all_is_done(admin_client: Client, open_vault: None) -> None:
    assert "Which service?" in text(admin_client.get("/admin/"))
    Model.objects.create(id="m", provider=provider(1))
    do(admin_client, "key", name="shop")
    request_row(1, provider_id="org/provider_1")
    assert "Getting started" not in text(admin_client.get("/admin/"))


def test_a_step_that_somebody_may_not_do_says_so_and_has_no_form(staff_client: Client) -> None:
    for step in ("vault", "provider", "models", "key", "request"):
        page = text(staff_client.get(f"/admin/setup/?step={step}"))
        assert "Your account may not do this" in page, step
        assert "hx-post=" not in page, step


def test_without_htmx_a_step_answers_with_a_whole_page(admin_client: Client) -> None:
    page = text(admin_client.post("/admin/setup/key/", {"name": ""}))
    assert "<html" in page
    assert "This field is required." in page


def test_a_session_that_ended_leads_to_a_login_that_is_a_whole_page_and_comes_back(client: Client) -> None:
    def sent_to(**headers: str) -> str:
        answer = client.post("/admin/setup/key/", {"name": "shop"}, headers={**HTMX, **headers})
        assert (answer.status_code, answer.content) == (200, b"")
        return answer["HX-Redirect"]

    home = "/admin/login/?next=%2Fadmin%2Fsetup%2F"
    assert sent_to() == home
    assert sent_to(**{"HX-Current-URL": "http://testserver/admin/setup/?step=key#x"}) == f"{home}%3Fstep%3Dkey"
    assert sent_to(**{"HX-Current-URL": "https://elsewhere.example/admin/"}) == home
    assert client.post("/admin/setup/key/", {"name": "shop"}).status_code == 302  # without a script, as ever


@pytest.mark.parametrize("step", ["vault", "provider", "provider/test", "provider/credential", "key"])
def test_going_to_the_address_of_a_step_s_form_leads_to_the_set_up(step: str, admin_client: Client) -> None:
    answer = admin_client.get(f"/admin/setup/{step}/")
    assert (answer.status_code, answer["Location"]) == (302, "/admin/setup/")
    assert admin_client.put(f"/admin/setup/{step}/").status_code == 405


# -- vault ---------------------------------------------------------------------------------------------------------
def test_a_weak_vault_password_is_refused_in_place(admin_client: Client) -> None:
    assert "at least" in do(admin_client, "vault", password="short", again="short")


# -- presets and the connection ------------------------------------------------------------------------------------
def test_every_preset_is_a_provider_that_can_be_called() -> None:
    for one in PRESETS:
        assert one.type in TYPES
        assert set(one.dialects) <= set(DIALECTS)
        if one.base_url:
            assert models_url(one.type, one.base_url).startswith("http")
        assert one.note or one.keys_at


def test_an_empty_form_is_filled_from_its_preset(admin_client: Client, open_vault: None) -> None:
    values = {"preset": "anthropic", "name": "", "base_url": "", "credential": "sk-ant"}
    # nobody answers there from a test machine: what is saved is what matters
    do(admin_client, "provider", **{**values, "base_url": f"http://127.0.0.1:{free_port()}"})
    row = Provider.objects.get()
    assert (row.pk, row.type, row.cred_store) == ("anthropic", "anthropic", "vault")
    assert Secret.objects.get().name == row.secret_name


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"base_url": ""}, "Its address, please"),
        ({"preset": "azure", "base_url": ""}, "Put your resource"),
        ({"preset": "openai"}, "OpenAI wants a key: platform.openai.com"),
        ({"base_url": "ftp://x"}, "is no address"),
        ({"name": "two words"}, "Use letters, digits"),
        ({"preset": "nobody"}, "Select a valid choice"),
    ],
)
def test_what_is_wrong_in_the_form_is_said_before_anybody_is_asked(
    values: dict[str, str], said: str, admin_client: Client, upstream: Upstream
) -> None:
    for step in ("provider", "provider/test"):
        assert said in do(admin_client, step, **card(upstream.url, **values)), step
    assert (upstream.requests, Provider.objects.exists()) == ([], False)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply(status=401), "unauthorized"),
        (Reply(status=404), "not_found"),
        (Reply(status=500), "server_error"),
        (Reply(fault=Fault.HTML), "not_json"),
        (Reply(fault=Fault.NOT_HTTP), "not_http"),
        (Reply(body=b'{"data": []}'), "no_models"),
    ],
)
def test_a_test_of_the_connection_says_what_failed_and_saves_nothing(
    reply: Reply, problem: str, admin_client: Client, upstream: Upstream
) -> None:
    upstream.next(reply)
    assert f'data-problem="{problem}"' in do(admin_client, "provider/test", **card(upstream.url))
    assert not Provider.objects.exists()


@pytest.mark.parametrize(
    ("address", "problem"),
    [("http://no-such-host.invalid", "dns"), ("http://127.0.0.1:{closed}", "connect"), ("{stranger}", "tls")],
)
def test_a_test_of_the_connection_tells_name_port_and_certificate_apart(
    address: str, problem: str, admin_client: Client, tmp_path: Path
) -> None:
    certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.load_cert_chain(*write_certificate(tmp_path))
    with Upstream(tls=certificate) as stranger:
        url = address.format(closed=free_port(), stranger=stranger.url)
        assert f'data-problem="{problem}"' in do(admin_client, "provider/test", **card(url))


def test_a_test_sends_the_credential_of_the_form_and_needs_no_vault(admin_client: Client, upstream: Upstream) -> None:
    page = do(admin_client, "provider/test", **card(upstream.url, credential="sk-typed"))
    assert "It works: 2 models" in page
    assert "sk-typed" not in page
    assert upstream.requests[-1].headers["authorization"] == "Bearer sk-typed"


def test_a_stored_credential_never_goes_to_the_address_of_a_form(
    admin_client: Client, open_vault: None, upstream: Upstream
) -> None:
    with Upstream() as owner:
        do(admin_client, "provider", **card(owner.url, credential="sk-stored"))
        for step in ("provider", "provider/test"):
            assert "already exists" in do(admin_client, step, **card(upstream.url)), step
    assert upstream.requests == []


def test_a_credential_wants_an_open_vault(admin_client: Client, upstream: Upstream) -> None:
    page = do(admin_client, "provider", **card(upstream.url, credential="sk-typed"))
    assert "locked" in page
    assert "sk-typed" not in page
    assert not Provider.objects.exists()


def test_a_credential_that_was_typed_is_asked_for_again_when_something_else_is_wrong(
    admin_client: Client, open_vault: None
) -> None:
    page = do(admin_client, "provider", **card("house.example", credential="sk-typed"))
    assert "is no address" in page
    assert "Give the key again" in page
    assert re.search(r'<input[^>]*name="credential"[^>]* required', page)
    assert "sk-typed" not in page
    page = do(admin_client, "provider", **card("house.example"))
    assert "Give the key again" not in page
    assert not re.search(r'<input[^>]*name="credential"[^>]* required', page)


# -- models --------------------------------------------------------------------------------------------------------
def test_the_catalogue_fills_in_prices_and_context_where_it_knows_the_model() -> None:
    openai = Provider(id="openai", type=ProviderType.OPENAI)
    offer, unknown = importing.offered(openai, [Listed("gpt-4o-mini"), Listed("house-model")])
    assert offer.per_million == {"input": "0.15", "output": "0.6"}
    assert offer.max_context_tokens == 128_000
    assert unknown.per_million == {"input": "", "output": ""}
    same = offer.with_edits(per_million={"input": Decimal("0.15"), "output": Decimal("0.6")}, max_context_tokens=9)
    assert (same.prices, same.edited, same.max_context_tokens) == (offer.prices, False, 9)
    own = offer.with_edits(per_million={"input": Decimal(0), "output": None}, max_context_tokens=None)
    assert (own.prices, own.edited) == ({"input_per_1k": Decimal(0)}, True)


def test_picked_models_are_added_with_what_stands_in_their_rows(admin_client: Client, upstream: Upstream) -> None:
    assert "house offers 2 models" in do(admin_client, "provider", **card(upstream.url))
    values = {"context:house-model": "4096", "input:house-model": "0.5", "output:house-model": "2"}
    assert "1 model is added" in do(admin_client, "models", provider="house", model=["house-model"], **values)
    row = Model.objects.get()
    assert (row.pk, row.max_context_tokens, row.input_per_1k, row.output_per_1k, row.price_source) == (
        "house-model", 4096, Decimal("0.0005"), Decimal("0.002"), PriceSource.OPERATOR,
    )  # fmt: skip


def test_a_model_of_which_nothing_is_known_takes_tools_unless_that_is_unticked(
    admin_client: Client, upstream: Upstream
) -> None:
    upstream.models = ["house-model", "other-model", "house-embed"]
    page = do(admin_client, "provider", **card(upstream.url))
    boxes = re.findall(r'name="can:house-model"\s+value="(\w+)"\s+data-offered="(1?)"\s+(checked)?', page)
    assert [one for one, _, _ in boxes] == ["tools", "vision", "documents", "structured_output", "reasoning"]
    assert [one for one, _, on in boxes if on] == [one for one, offered, _ in boxes if offered] == ["tools"]
    assert 'name="can:house-embed"' not in page
    typed = {"context:house-model": "4096", "can:house-model": ["vision", "flying"], "context:house-embed": "4096"}
    names = ["house-model", "other-model", "house-embed"]
    do(admin_client, "models", provider="house", model=names, unpriced=names, **typed)
    assert dict(Model.objects.values_list("id", "abilities")) == {
        "house-model": ["vision"], "other-model": ["tools"], "house-embed": ["embeddings"],
    }  # fmt: skip


def test_a_model_without_a_price_is_told_before_it_is_added(admin_client: Client, upstream: Upstream) -> None:
    page = do(admin_client, "provider", **card(upstream.url))
    assert re.search(r'name="context:house-model"\s+value="128000"', page)
    values = {"provider": "house", "model": ["house-model", "gpt-4o-mini"], "context:house-model": "4096"}
    values |= {"can:house-model": ["tools", "vision"], "context:gpt-4o-mini": "9", "can:gpt-4o-mini": ["tools"]}
    values |= {"input:gpt-4o-mini": "1", "output:gpt-4o-mini": "2"}
    page = do(admin_client, "models", **values)
    assert not Model.objects.exists()
    assert re.findall('name="unpriced" value="([^"]*)"', page) == ["house-model"]
    assert page.count("No price: keys with a budget cannot use it; counted as dear.") == 1
    assert re.search(r'name="can:house-model"\s+value="vision"\s+data-offered=""\s+checked', page)
    assert "2 models are added" in do(admin_client, "models", **values, unpriced="house-model")
    assert not set(Model.objects.unpriced(timezone.now()).values_list("id", flat=True)) - {"house-model"}


@pytest.mark.parametrize(("output", "stored"), [("", Decimal(0)), ("3", Decimal("0.003"))])
def test_an_embedding_model_needs_an_input_price_alone(
    output: str, stored: Decimal, admin_client: Client, upstream: Upstream
) -> None:
    upstream.models = ["house-embed"]
    do(admin_client, "provider", **card(upstream.url))
    typed = {"context:house-embed": "4096", "input:house-embed": "0.5", "output:house-embed": output}
    assert "1 model is added" in do(admin_client, "models", provider="house", model=["house-embed"], **typed)
    row = Model.objects.get()
    assert (row.input_per_1k, row.output_per_1k) == (Decimal("0.0005"), stored)
    assert not Model.objects.unpriced(timezone.now()).exists()


def test_an_embedding_model_without_an_input_price_has_none() -> None:
    listed = Listed("text-embedding-3-small", kind=Kind.EMBEDDINGS)
    (offer,) = importing.offered(Provider(id="openai", type=ProviderType.OPENAI), [listed])
    assert offer.per_million == {"input": "0.02", "output": "0"}
    same = offer.with_edits(per_million={"input": Decimal("0.02"), "output": None}, max_context_tokens=9)
    assert (same.prices, same.edited) == (offer.prices, False)
    none = offer.with_edits(per_million={"input": None, "output": None}, max_context_tokens=9)
    assert (none.prices, none.edited) == ({}, True)


def test_models_can_be_named_where_the_service_has_no_list(admin_client: Client, upstream: Upstream) -> None:
    upstream.default = Reply(status=404)
    page = do(admin_client, "provider", **card(upstream.url))
    assert 'data-problem="not_found"' in page
    page = do(admin_client, "models", provider="house", names="one/a\n one/b ")
    assert (
        "Nothing is added yet. Without a price: one/a, one/b. No price: client keys with a budget cannot use it" in page
    )
    sure = re.findall('name="unpriced" value="([^"]*)"', page)
    assert "2 models are added" in do(admin_client, "models", provider="house", names="one/a\n one/b ", unpriced=sure)
    assert set(Model.objects.values_list("id", flat=True)) == {"one/a", "one/b"}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("context", "128k", "A whole number of tokens"),
        ("context", "1_000", "A whole number of tokens"),
        ("context", "99999999999", "A whole number of tokens"),
        ("input", "abc", "Only a number"),
        ("input", "1,5", "Only a number"),
        ("output", "$2", "Only a number"),
        ("output", "-1", "Only a number"),
        ("output", "NaN", "Only a number"),
        ("output", "", "Give both prices, or none"),
        ("input", " ", "Give both prices, or none"),
    ],
)
def test_a_number_that_is_none_is_told_at_its_field_and_whatever_was_typed_stays(
    field: str, value: str, said: str, admin_client: Client, upstream: Upstream
) -> None:
    do(admin_client, "provider", **card(upstream.url))
    typed = {"context:house-model": "4096", "input:house-model": "0.5", "output:house-model": "2.25"}
    typed |= {"context:gpt-4o-mini": "77777", "input:gpt-4o-mini": "", "output:gpt-4o-mini": ""}
    typed[f"{field}:house-model"] = value
    page = do(admin_client, "models", provider="house", model=["house-model", "gpt-4o-mini"], names="one/b", **typed)
    inputs = {re.findall('name="([^"]*)"', one)[0]: one for one in re.findall(r"<input class=[^>]*>", page)}
    for name, kept in typed.items():
        assert f'value="{kept}"' in inputs[name], name
        assert ("aria-invalid" in inputs[name]) == (name == f"{field}:house-model"), name
    assert page.count('class="th-wrong"') == 1
    assert said in page
    assert 'th-bad" role="alert">Nothing is added yet: 1 model needs another number.' in page
    assert ">one/b</textarea>" in page
    assert not Model.objects.exists()


def test_that_no_model_was_ticked_is_an_error(admin_client: Client, upstream: Upstream) -> None:
    do(admin_client, "provider", **card(upstream.url))
    assert 'role="alert">No model was ticked' in do(admin_client, "models", provider="house")


def test_what_was_typed_outlives_a_list_that_is_out_of_reach(admin_client: Client, upstream: Upstream) -> None:
    do(admin_client, "provider", **card(upstream.url))
    typed = {"context:house-model": "4096", "input:house-model": "0.5", "output:house-model": "2.25"}
    upstream.next(Reply(status=500))
    page = do(admin_client, "models", provider="house", model="house-model", **typed)
    assert "list is out of reach" in page
    assert 'value="2.25"' in page
    assert not Model.objects.exists()


def test_what_was_typed_in_a_row_that_is_not_ticked_stays(admin_client: Client, upstream: Upstream) -> None:
    do(admin_client, "provider", **card(upstream.url))
    typed = {"context:house-model": "4096", "input:house-model": "much", "output:house-model": "2.25"}
    for reply in (Reply(status=500), None):  # whether the list can be read by then or not
        if reply is not None:
            upstream.next(reply)
        page = do(admin_client, "models", provider="house", model=["gpt-4o-mini"] if reply else [], **typed)
        inputs = {re.findall('name="([^"]*)"', one)[0]: one for one in re.findall(r"<input class=[^>]*>", page)}
        for name, kept in typed.items():
            assert f'value="{kept}"' in inputs[name], name
            assert "disabled" not in inputs[name], name
    assert not Model.objects.exists()


def test_steps_have_addresses_for_the_back_button(admin_client: Client, upstream: Upstream) -> None:
    here = {**HTMX, "HX-Current-URL": "http://testserver/admin/setup/?step=provider"}
    step = admin_client.get("/admin/setup/?step=vault", headers=here)
    assert step["HX-Push-Url"] == "/admin/setup/?step=vault"
    assert "HX-Push-Url" not in admin_client.get("/admin/setup/?step=provider", headers=here)
    wrong = admin_client.post("/admin/setup/provider/", card(""), headers=here)
    assert "HX-Push-Url" not in wrong
    saved = admin_client.post("/admin/setup/provider/", card(upstream.url), headers=here)
    assert saved["HX-Push-Url"] == "/admin/setup/?step=models"
    first_page = {**HTMX, "HX-Current-URL": "http://testserver/admin/"}
    assert "HX-Push-Url" not in admin_client.get("/admin/setup/?step=vault", headers=first_page)


def test_a_refused_api_key_can_be_given_again_where_the_models_are_looked_for(
    admin_client: Client, open_vault: None, upstream: Upstream
) -> None:
    upstream.next(Reply(status=401))
    page = do(admin_client, "provider", **card(upstream.url, credential="sk-wrong"))
    assert 'data-problem="unauthorized"' in page
    assert 'hx-post="/admin/setup/provider/credential/"' in page
    assert "Give the right one as API key." in page
    upstream.next(Reply(status=401))
    assert "This field is required." in do(admin_client, "provider/credential", provider="house", credential="")
    upstream.requests.clear()
    page = do(admin_client, "provider/credential", provider="house", credential="sk-right")
    assert "house offers 2 models" in page
    assert "sk-right" not in page
    assert [one.headers["authorization"] for one in upstream.requests] == ["Bearer sk-right"]


def test_hints_use_the_names_of_the_set_up_s_fields() -> None:
    for problem in Problem:
        said = hint(Look("", problem))
        assert said
        assert not re.search("base_url|api_key|cred_store|/admin/v1", said), problem


def test_names_of_a_provider_are_text_in_a_page_whatever_they_hold(admin_client: Client, upstream: Upstream) -> None:
    upstream.models = ['<img src=x onerror="alert(1)">']
    page = do(admin_client, "provider", **card(upstream.url))
    assert "<img" not in page


# -- key and request -----------------------------------------------------------------------------------------------
def test_a_key_is_shown_once_with_ways_to_use_it(admin_client: Client) -> None:
    answer = admin_client.post("/admin/setup/key/", {"name": "shop"}, headers=HTMX)
    found = set(re.findall("tokenhub_[0-9a-f]{64}", text(answer)))
    assert len(found) == 1
    assert "no-store" in answer["Cache-Control"]
    key = ClientKey.objects.get()
    assert (key.name, key.owner) == ("shop", "admin")
    for path in ("/admin/", "/admin/setup/?step=key", f"/admin/keys/clientkey/{key.pk}/change/"):
        assert not re.findall("tokenhub_[0-9a-f]{64}", text(admin_client.get(path))), path


def test_every_snippet_names_the_address_and_the_key() -> None:
    for one in snippets(base="https://hub.example", key="tokenhub_x", model="m"):
        assert "https://hub.example" in one.text, one.id
        assert "tokenhub_x" in one.text, one.id
        assert "{" + "key}" not in one.text


def test_a_request_s_row_leads_to_its_explanation_and_is_waited_for_a_while(admin_client: Client) -> None:
    row = request_row(1, model_id="gpt", routing_reason="routed-weight-5")
    page = text(admin_client.get(f"/admin/setup/request/{row.request_id}/"))
    assert f"/admin/telemetry/requestlog/{row.pk}/change/" in page
    assert "routed-weight-5" in page
    missing = "/admin/setup/request/00000000-0000-7000-8000-000000000000/"
    assert f"{missing}?tries=1" in text(admin_client.get(missing))
    given_up = text(admin_client.get(f"{missing}?tries=99"))
    assert "hx-get" not in given_up
    assert "Look for it in the request log" in given_up


def test_a_key_manager_does_his_steps_and_no_others(db: None, upstream: Upstream) -> None:
    client = Client()
    client.force_login(clerk := User.objects.create_user("keeper", password="x", is_staff=True))
    clerk.groups.add(Group.objects.get(name="Key manager"))
    assert client.post("/admin/setup/key/", {"name": "shop"}).status_code == 200
    for step in ("vault", "provider", "provider/test", "provider/credential", "models"):
        assert client.post(f"/admin/setup/{step}/", card(upstream.url)).status_code == 403, step
    assert upstream.requests == []
