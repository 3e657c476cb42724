"""Every registered page: who may see it, what its lists cost, and what they say when they are empty."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Group, Permission, User
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

import tokenhub.urls  # noqa: F401  registers the pages
from keys.models import ClientKey
from providers.models import Provider, ProviderType
from routing.models import Model, PolicyEvaluation
from telemetry import search
from telemetry.models import AuditEntry, RequestLog
from tests.admin.forms import submit, text
from tests.admin.samples import (
    SAMPLES,
    WRITTEN_BY_THE_SYSTEM,
    Rows,
    client_key,
    model,
    provider,
    request_row,
)
from vault.models import VaultState

pytestmark = pytest.mark.django_db

QUERIES_OF_A_LIST = 12
WITH_A_LIST = [one for one in SAMPLES if one not in {VaultState, PolicyEvaluation}]
PAGES = ["changelist", "add", "change", "delete", "history"]


def name_of(rows: Rows) -> str:
    return rows._meta.label_lower


def url_of(rows: Rows, page: str, row: models.Model | None = None) -> str:
    name = f"admin:{rows._meta.app_label}_{rows._meta.model_name}_{page}"
    return reverse(name, args=[] if row is None or page in {"changelist", "add"} else [quote(row.pk)])


def shown(client: Client, url: str) -> set[str]:
    """The rows of a list."""
    answer: Any = client.get(url)
    assert answer.status_code == 200
    return {str(row.pk) for row in answer.context["cl"].result_list}


def test_every_registered_page_is_tested_here() -> None:
    assert set(SAMPLES) == set(admin.site._registry)


# -- who may see what ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("rows", SAMPLES, ids=name_of)
def test_a_superuser_sees_every_page_and_adds_or_deletes_nothing_that_the_system_writes(
    rows: Rows, page: str, admin_client: Client
) -> None:
    row = SAMPLES[rows](1)
    refused = rows in WRITTEN_BY_THE_SYSTEM and page in {"add", "delete"}
    assert admin_client.get(url_of(rows, page, row)).status_code == (403 if refused else 200)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("rows", SAMPLES, ids=name_of)
def test_a_stranger_is_sent_to_the_login(rows: Rows, page: str, client: Client) -> None:
    url = url_of(rows, page, SAMPLES[rows](1))
    for answer in (client.get(url), client.post(url, {"name": "x"})):
        assert (answer.status_code, answer["location"]) == (302, f"{reverse('admin:login')}?next={url}")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("rows", SAMPLES, ids=name_of)
def test_staff_without_permission_are_refused(rows: Rows, page: str, staff_client: Client) -> None:
    url = url_of(rows, page, SAMPLES[rows](1))
    assert staff_client.get(url).status_code == 403
    assert staff_client.post(url, {"name": "x"}).status_code == 403


@pytest.mark.parametrize("rows", WITH_A_LIST, ids=name_of)
def test_staff_who_may_only_look_see_the_rows_and_change_nothing(rows: Rows, staff_client: Client) -> None:
    row = SAMPLES[rows](1)
    may_look = Permission.objects.get(codename=f"view_{row._meta.model_name}")
    User.objects.get(username="clerk").user_permissions.add(may_look)
    for page in ("changelist", "change", "history"):
        assert staff_client.get(url_of(rows, page, row)).status_code == 200, page
    before = rows._default_manager.filter(pk=row.pk).values().get()
    for page in ("add", "change", "delete"):
        assert staff_client.post(url_of(rows, page, row), {"name": "other", "post": "yes"}).status_code == 403, page
    assert rows._default_manager.filter(pk=row.pk).values().get() == before


def test_the_menu_offers_staff_only_what_they_may_open(staff_client: Client, admin_client: Client) -> None:
    links = [url_of(rows, "changelist") for rows in SAMPLES]
    menu_of_clerk, menu_of_admin = (text(one.get("/admin/password_change/")) for one in (staff_client, admin_client))
    assert [link for link in links if f'href="{link}"' in menu_of_admin] == links
    assert [link for link in links if f'href="{link}"' in menu_of_clerk] == []


def test_the_overview_names_what_is_left_to_do(admin_client: Client) -> None:
    before = text(admin_client.get(reverse("admin:index")))
    assert [step for step in ("Open the vault", "Add a provider", "Send a request") if step not in before] == []
    request_row(1)
    answer: Any = admin_client.get(reverse("admin:index"))
    assert [step.done for step in answer.context["steps"]] == [False, False, False, False, True]


# -- lists ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", WITH_A_LIST, ids=name_of)
def test_a_list_costs_the_same_few_queries_however_long_it_is(rows: Rows, admin_client: Client) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert admin_client.get(url_of(rows, "changelist")).status_code == 200
        return len(queries)

    for number in range(3):
        SAMPLES[rows](number)
    cost()  # content types are read once per process
    few = cost()
    for number in range(3, 30):
        SAMPLES[rows](number)
    assert cost() == few <= QUERIES_OF_A_LIST


@pytest.mark.parametrize("rows", [one for one in WITH_A_LIST if one is not User], ids=name_of)
def test_an_empty_list_says_what_to_do(rows: Rows, admin_client: Client) -> None:
    page_of: Any = admin.site._registry[rows]
    Group.objects.all().delete()  # those that come with it
    AuditEntry.objects.all().delete()  # of the login
    answer = text(admin_client.get(url_of(rows, "changelist")))
    assert page_of.empty_hint != ""
    assert page_of.empty_title in answer
    assert page_of.empty_hint in answer
    assert (f'href="{url_of(rows, "add")}"' in answer) == (rows not in WRITTEN_BY_THE_SYSTEM)


def test_an_empty_list_offers_no_adding_to_those_who_may_not(staff_client: Client) -> None:
    User.objects.get(username="clerk").user_permissions.add(Permission.objects.get(codename="view_provider"))
    answer = text(staff_client.get(url_of(Provider, "changelist")))
    assert "No provider yet" in answer
    assert url_of(Provider, "add") not in answer


@pytest.mark.parametrize("rows", WITH_A_LIST, ids=name_of)
def test_a_search_that_finds_nothing_offers_to_widen_it(rows: Rows, admin_client: Client) -> None:
    SAMPLES[rows](1)
    answer = text(admin_client.get(url_of(rows, "changelist"), {"q": "no such thing"}))
    assert "Nothing matches" in answer
    assert "Take the filters away" in answer


def test_providers_are_found_by_name_address_type_and_state(admin_client: Client) -> None:
    provider(1, id="local", base_url="http://gpu.example:8000")
    provider(2, id="cloud", type=ProviderType.OPENAI, base_url="", enabled=False)
    url = url_of(Provider, "changelist")
    assert shown(admin_client, f"{url}?q=gpu") == {"local"}
    assert shown(admin_client, f"{url}?q=CLOU") == {"cloud"}
    assert shown(admin_client, f"{url}?type__exact=openai") == {"cloud"}
    assert shown(admin_client, f"{url}?enabled__exact=1") == {"local"}


def test_models_are_found_by_id_provider_and_state(admin_client: Client) -> None:
    near, far = provider(1, id="near"), provider(2, id="far")
    model(id="meta/llama-3.1", provider=near, upstream_model="llama-70b")
    model(id="gpt", provider=far, enabled=False)
    url = url_of(Model, "changelist")
    assert shown(admin_client, f"{url}?q=llama-3.1") == {"meta/llama-3.1"}
    assert shown(admin_client, f"{url}?q=70b") == {"meta/llama-3.1"}
    assert shown(admin_client, f"{url}?q=far") == {"gpt"}
    assert shown(admin_client, f"{url}?provider__id__exact=near") == {"meta/llama-3.1"}
    assert shown(admin_client, f"{url}?enabled__exact=0") == {"gpt"}


def test_client_keys_are_found_by_name_prefix_owner_project_and_state(admin_client: Client) -> None:
    one = client_key(name="shop", owner="ann", project="web")
    two = client_key(name="batch", owner="bob", project="night", enabled=False)
    url = url_of(ClientKey, "changelist")
    for query in ("q=shop", "q=ann", f"q={one.key_prefix}", "project=web", "owner=ann", "enabled__exact=1"):
        assert shown(admin_client, f"{url}?{query}") == {str(one.pk)}, query
    assert shown(admin_client, f"{url}?enabled__exact=0") == {str(two.pk)}


@pytest.mark.filterwarnings("ignore:DateTimeField RequestLog.created_at received a naive")  # from unfold's filter
def test_requests_are_found_by_either_id_and_by_every_filter(admin_client: Client) -> None:
    old = timezone.now() - timedelta(days=9)
    named = {"model_id": "gpt", "provider_id": "openai", "api_key_id": "k", "project": "web", "alias": "best"}
    good = request_row(1, **named, api_key_name="shop", stream=True)
    bad = request_row(2, status=503, error_code="overloaded", client_disconnected=True, created_at=old)
    wrong = request_row(3, status=404, created_at=old)
    url, yesterday = url_of(RequestLog, "changelist"), f"{timezone.now() - timedelta(days=1):%Y-%m-%d}"
    expected = {
        "q=client-2": {bad}, f"q={good.request_id}": {good}, "q=%20client-3%20": {wrong}, "q=client": set(),
        "outcome=ok": {good}, "outcome=client": {wrong}, "outcome=server": {bad}, "stream=1": {good},
        "client_disconnected=1": {bad}, "model_id=gpt": {good}, "provider_id=openai": {good}, "api_key_id=k": {good},
        "project=web&alias=best&stream=1": {good}, "stream=0": {bad, wrong},
        "error_code=overloaded&outcome=server": {bad},
        f"created_at_from_0={yesterday}&created_at_from_1=00:00:00": {good},
        f"created_at_to_0={yesterday}&created_at_to_1=00:00:00": {bad, wrong}, "": {good, bad, wrong},
    }  # fmt: skip
    assert {query: shown(admin_client, f"{url}?{query}") for query in expected} == {
        query: {str(row.pk) for row in rows} for query, rows in expected.items()
    }


def test_the_list_of_requests_says_how_far_back_it_searched(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SEARCHED", 2)
    for number in range(3):
        request_row(number, created_at=timezone.now() - timedelta(days=number), model_id="gpt")
    url = url_of(RequestLog, "changelist")
    assert "Searched back to" in text(admin_client.get(f"{url}?stream=1"))
    assert "Searched back to" not in text(admin_client.get(url))
    assert "Searched back to" not in text(admin_client.get(f"{url}?model_id=none&stream=1"))


def test_the_list_of_requests_has_no_order_and_no_lookup_that_would_read_all_rows(admin_client: Client) -> None:
    rows = [request_row(number, latency_ms=9 - number) for number in range(3)]
    url = url_of(RequestLog, "changelist")
    page = text(admin_client.get(f"{url}?o=8.9"))
    places = [page.index(f"/{row.pk}/change") for row in rows]
    assert places == sorted(places, reverse=True)
    for lookup in ("latency_ms__gt=3", "model_id__icontains=a", "p=201"):
        assert admin_client.get(f"{url}?{lookup}").status_code == 302, lookup
    with CaptureQueriesContext(connection) as asked:
        admin_client.get(f"{url}?_facets=True&all=")
    assert [one for one in asked if "COUNT(" in one["sql"]] == []


STRANGE = ["q=%00", "q=%F0%9F%A6%99", "p=999", "o=99.-1", "outcome=rubbish", "created_at_from_0=soon&stream__exact=x"]


@pytest.mark.parametrize("rows", WITH_A_LIST, ids=name_of)
def test_a_strange_query_breaks_no_list(rows: Rows, admin_client: Client) -> None:
    SAMPLES[rows](1)
    for query in STRANGE:
        assert admin_client.get(f"{url_of(rows, 'changelist')}?{query}").status_code in {200, 302}, query


def test_the_request_log_claims_no_number_that_nobody_counted(admin_client: Client) -> None:
    request_row(1)
    assert "10000" not in text(admin_client.get(url_of(RequestLog, "changelist")))


def test_a_request_shows_why_its_model_was_chosen(admin_client: Client) -> None:
    candidates = [
        {"model": "chosen", "provider": "p", "score": -0.25, "cost": 0.125, "capability": 0.375},
        {"model": "left", "provider": "p", "excluded": "over_budget"},
    ]
    row = request_row(detail={"attempts": [], "candidates": candidates})
    page = text(admin_client.get(url_of(RequestLog, "change", row)))
    for said in ("chosen", "-0.2500", "0.1250", "left", "over_budget"):
        assert said in page
    named = request_row(1, detail={})
    assert "nothing was compared" in text(admin_client.get(url_of(RequestLog, "change", named)))


def test_a_request_shows_its_attempts_and_escapes_what_providers_said(admin_client: Client) -> None:
    attempt = {"model": "m", "provider": "p", "error_class": "server", "message": "<script>alert(1)</script>"}
    row = request_row(1, detail={"attempts": [attempt]})
    answer = text(admin_client.get(url_of(RequestLog, "change", row)))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer
    assert "<script>alert(1)" not in answer


def test_a_request_that_is_a_leg_of_a_plan_says_so(admin_client: Client) -> None:
    leg = request_row(1, detail={"plan": "01a2", "leg": "critique-1"})
    assert "the leg critique-1 of 01a2" in text(admin_client.get(url_of(RequestLog, "change", leg)))
    assert "Part of a plan" not in text(admin_client.get(url_of(RequestLog, "change", request_row(2))))


def test_a_change_without_an_answer_of_any_provider_says_so(admin_client: Client) -> None:
    assert "No provider was asked." in text(admin_client.get(url_of(RequestLog, "change", request_row(1, detail={}))))


# -- ids with slashes ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["meta/llama-3.1", "org/a_b:free@2", "add", "a/change", "a/../b", "x+y"])
def test_any_allowed_id_can_be_added_changed_found_in_the_history_and_deleted(name: str, admin_client: Client) -> None:
    added = submit(
        admin_client, url_of(Provider, "add"), holding="base_url",
        id=name, type="vllm", base_url="http://10.0.0.5:8000", cred_store="none",
    )  # fmt: skip
    assert (added.status_code, added["location"]) == (302, url_of(Provider, "changelist"))
    added = submit(admin_client, url_of(Model, "add"), holding="upstream_model", id=name, provider=name)
    assert (added.status_code, added["location"]) == (302, url_of(Model, "changelist"))

    for row, holding in ((Model.objects.get(id=name), "weight"), (Provider.objects.get(id=name), "base_url")):
        rows = type(row)
        assert f'href="{url_of(rows, "change", row)}' in text(admin_client.get(url_of(rows, "changelist")))
        changes = {"weight": "9"} if rows is Model else {"base_url": "http://10.0.0.6:8000"}
        changed = submit(admin_client, url_of(rows, "change", row), holding=holding, **changes)
        assert (changed.status_code, changed["location"]) == (302, url_of(rows, "changelist"))
        assert "Changed" in text(admin_client.get(url_of(rows, "history", row)))
    assert (Model.objects.get().weight, Provider.objects.get().base_url) == (9, "http://10.0.0.6:8000")

    for gone in (Model.objects.get(), Provider.objects.get()):
        answer = admin_client.post(url_of(type(gone), "delete", gone), {"post": "yes"})
        assert answer.status_code == 302
        assert not type(gone)._default_manager.filter(pk=name).exists()


def test_an_id_does_not_change_with_the_rest(admin_client: Client) -> None:
    row = model(1)
    assert submit(admin_client, url_of(Model, "change", row), holding="weight", id="other").status_code == 302
    assert [one.id for one in Model.objects.all()] == [row.id]


@pytest.mark.parametrize("name", ["", "with space", "ä", "x" * 201, "a\nb", "<b>"])
def test_an_id_that_no_request_could_name_is_refused_beside_its_field(name: str, admin_client: Client) -> None:
    provider(1, id="p")
    answer = submit(admin_client, url_of(Model, "add"), holding="upstream_model", id=name, provider="p")
    assert list(answer.context["adminform"].errors) == ["id"]
    assert not Model.objects.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", "11"), ("weight", "-1"), ("max_context_tokens", "0"), ("input_per_1k", "-0.1"),
        ("output_per_1k", "NaN"), ("reasoning_per_1k", "Infinity"), ("abilities", "flying"), ("provider", "nobody"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_is_refused_beside_its_field(field: str, value: str, admin_client: Client) -> None:
    row = model(1)
    answer = submit(admin_client, url_of(Model, "change", row), holding="weight", **{field: value})
    assert list(answer.context["adminform"].errors) == [field]


def test_prices_and_abilities_are_kept_and_shown_as_they_were_given(admin_client: Client) -> None:
    row = model(1)
    given = {"input_per_1k": "0.000150", "output_per_1k": "0", "abilities": ["tools", "vision"]}
    assert submit(admin_client, url_of(Model, "change", row), holding="weight", **given).status_code == 302
    row.refresh_from_db()
    assert row.abilities == ["tools", "vision"]
    answer = text(admin_client.get(url_of(Model, "changelist")))
    assert ("$0.00015" in answer, "free" in answer) == (True, True)


def test_several_rows_are_deleted_at_once_after_a_question(admin_client: Client) -> None:
    one, two, three = (model(number) for number in range(3))
    action = {"action": "delete_selected", "_selected_action": [one.pk, two.pk]}
    asked = admin_client.post(url_of(Model, "changelist"), action)
    assert (asked.status_code, Model.objects.count()) == (200, 3)
    admin_client.post(url_of(Model, "changelist"), {**action, "post": "yes"})
    assert [row.pk for row in Model.objects.all()] == [three.pk]
