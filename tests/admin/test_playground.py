"""The playground's page, its key, and what it tells of a request."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from keys import playground, services
from keys.auth import digest_of
from keys.models import ClientKey
from telemetry.models import AuditEntry, RequestLog
from tests.admin.forms import text
from tests.admin.samples import alias, model, profile

pytestmark = pytest.mark.django_db

PAGE, KEY, END = "/admin/playground/", "/admin/playground/key/", "/admin/playground/key/end/"


def told_url(row: RequestLog) -> str:
    return reverse("playground-told", args=[row.request_id])


def request_of(key: ClientKey, **fields: Any) -> RequestLog:
    return RequestLog.objects.create(
        request_id=uuid4(),
        created_at=timezone.now(),
        endpoint="/v1/chat/completions",
        status=200,
        api_key_id=str(key.pk),
        model_id="m",
        cost_usd="0.25",
        detail={"candidates": [{"model": "m", "score": 0.5}]},
        **fields,
    )


@pytest.fixture
def player(staff_client: Client) -> Client:
    """Staff who may use the playground, and nothing else."""
    User.objects.get(username="clerk").user_permissions.add(Permission.objects.get(codename="use_playground"))
    return staff_client


@pytest.mark.parametrize("url", [PAGE, KEY, END, "/admin/playground/told/00000000-0000-0000-0000-000000000000/"])
def test_strangers_are_sent_to_the_login_and_staff_without_the_permission_refused(
    url: str, client: Client, staff_client: Client
) -> None:
    for answer in (client.get(url), client.post(url)):
        assert (answer.status_code, answer["location"]) == (302, f"{reverse('admin:login')}?next={url}")
    for answer in (staff_client.get(url), staff_client.post(url)):
        assert answer.status_code == 403
    assert not ClientKey.objects.exists()


def test_operators_key_managers_and_admins_may_use_it_and_viewers_may_not() -> None:
    may = Group.objects.filter(permissions__codename="use_playground").values_list("name", flat=True)
    assert set(may) == {"Operator", "Key manager", "Admin"}


def test_the_page_offers_the_router_its_modes_aliases_models_and_plan_modes(player: Client) -> None:
    model(1), model(2, enabled=False), alias(1), profile(1)
    answer: Any = player.get(PAGE)
    offered = {group["name"]: [one["id"] for one in group["targets"]] for group in answer.context["facts"]["targets"]}
    assert offered["The router decides"][0] == "auto"
    assert {"tokenhub/cheap", "tokenhub/thompson", "tokenhub/mine_1"} <= set(offered["The router decides"])
    assert offered["Aliases"] == ["org/alias_1"]
    assert ("org/model_1" in offered["Models"], "org/model_2" in offered["Models"]) == (True, False)
    assert answer.context["facts"]["plan_modes"] == ["adversarial", "planning", "refine", "vote"]


def test_the_page_costs_the_same_few_queries_however_many_models_there_are(player: Client) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert player.get(PAGE).status_code == 200
        return len(queries)

    cost()
    few = cost()
    for number in range(20):
        model(number)
    assert cost() == few <= 15


def test_without_a_model_the_page_says_what_to_do(player: Client) -> None:
    assert "There is no model to ask yet" in text(player.get(PAGE))
    model(1)
    assert "There is no model to ask yet" not in text(player.get(PAGE))


# -- its key -----------------------------------------------------------------------------------------------------------
def test_a_key_is_said_once_to_the_page_that_asks_and_charged_to_the_person(player: Client) -> None:
    answer = player.post(KEY)
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    told = answer.json()
    key = ClientKey.objects.get()
    assert key.digest == digest_of(told["key"].encode())
    assert (key.owner, str(key.pk)) == ("clerk", told["id"])
    assert 0 < told["seconds"] <= 3600
    entry = AuditEntry.objects.latest("number")
    assert (entry.action, entry.actor) == ("apikey.issue", "clerk")
    for url in (PAGE, f"/admin/keys/clientkey/{key.pk}/change/"):
        assert told["key"] not in text(player.get(url))
    assert told["key"] not in str(list(AuditEntry.objects.values()))


def test_the_page_chooses_the_id_of_its_key_and_takes_nobody_elses(player: Client) -> None:
    chosen = uuid4()
    assert player.post(KEY, {"id": chosen.hex}).json()["id"] == str(chosen)
    other = services.issue(name="x", owner="bob").record
    for taken in (str(chosen), str(other.pk), "x", ""):
        assert player.post(KEY, {"id": taken}).status_code == 400
    assert {key.pk for key in ClientKey.objects.all()} == {chosen, other.pk}
    assert ClientKey.objects.get(pk=other.pk).digest == other.digest


def test_no_key_is_made_by_a_get_nor_without_the_token_of_the_page(player: Client) -> None:
    assert player.get(KEY).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="clerk"))
    for url in (KEY, END):
        assert strict.post(url).status_code == 403
    assert not ClientKey.objects.exists()


def test_the_page_that_is_left_ends_its_own_key(player: Client) -> None:
    told = player.post(KEY).json()
    other = playground.issue(owner="somebody").record
    assert [player.post(END, {"id": one}).status_code for one in ("", "x", other.pk)] == [404, 404, 404]
    assert player.post(END, {"id": told["id"]}).status_code == 204
    assert [key.pk for key in ClientKey.objects.all()] == [other.pk]


# -- what it tells of a request ----------------------------------------------------------------------------------------
def test_a_person_is_told_of_requests_of_their_own_playground_alone(player: Client) -> None:
    own = request_of(playground.issue(owner="clerk").record)
    others = [
        request_of(playground.issue(owner="bob").record),
        request_of(services.issue(name="x", owner="clerk").record),
    ]
    told = player.get(told_url(own)).json()
    assert (told["here"], told["model"], told["cost_usd"], told["link"]) == (True, "m", 0.25, "")
    assert told["candidates"] == [{"model": "m", "score": 0.5, "excluded": None}]
    for row in others:
        assert player.get(told_url(row)).json() == {"here": False}
    assert player.get(reverse("playground-told", args=[uuid4()])).json() == {"here": False}


def test_those_who_may_see_the_log_get_a_link_into_it(admin_client: Client) -> None:
    row = request_of(playground.issue(owner="admin").record)
    assert admin_client.get(told_url(row)).json()["link"] == f"/admin/telemetry/requestlog/{row.pk}/change/"
