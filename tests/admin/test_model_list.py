"""The switch and the slider of each model in the list, with several people at work."""

from __future__ import annotations

import pytest
from django.contrib.admin.utils import quote
from django.contrib.messages import get_messages
from django.core.exceptions import ValidationError
from django.test import Client

from routing.models import Alias, Model
from tests.admin.forms import Values, errors, values
from tests.admin.samples import alias, model

pytestmark = pytest.mark.django_db
URL = "/admin/routing/model/"


def shown(client: Client) -> Values:
    return values(client.get(URL), holding="form-TOTAL_FORMS")


def field(page: Values, of: Model, name: str) -> str:
    (prefix,) = [one.removesuffix("-id") for one, value in page.items() if one.endswith("-id") and value == [of.pk]]
    return f"{prefix}-{name}"


def save(client: Client, page: Values) -> list[str]:
    """What is said of it, but for how many were changed."""
    answer = client.post(URL, page | {"_save": ["Save"]})
    assert answer.status_code == 302
    told = [str(one) for one in get_messages(answer.wsgi_request)]
    return [one for one in told if "successfully" not in one]


def state(row: Model) -> tuple[bool, int]:
    row.refresh_from_db()
    return row.enabled, row.weight


def test_what_is_changed_is_saved(admin_client: Client) -> None:
    one, other = model(1, weight=3), model(2, weight=3, enabled=False)
    page = shown(admin_client)
    page[field(page, one, "weight")] = ["5"]
    page[field(page, other, "enabled")] = ["on"]
    assert save(admin_client, page) == []
    assert (state(one), state(other)) == ((True, 5), (True, 3))


def test_a_list_that_was_opened_before_does_not_take_back_what_others_did(admin_client: Client) -> None:
    one, other = model(1, weight=3), model(2, weight=3)
    page = shown(admin_client)
    Model.objects.filter(pk=one.pk).update(enabled=False)
    page[field(page, other, "weight")] = ["5"]
    (told,) = save(admin_client, page)
    assert (one.pk in told, other.pk in told) == (True, False)
    assert (state(one), state(other)) == ((False, 3), (True, 5))


@pytest.mark.parametrize("theirs", [{"enabled": False}, {"weight": 4}])
def test_a_model_that_two_change_at_once_stays_as_the_first_left_it(
    theirs: dict[str, int], admin_client: Client
) -> None:
    one = model(1, weight=3)
    page = shown(admin_client)
    Model.objects.filter(pk=one.pk).update(**theirs)
    page[field(page, one, "weight")] = ["5"]
    (told,) = save(admin_client, page)
    assert one.pk in told
    assert state(one) == (theirs.get("enabled", True), theirs.get("weight", 3))


def test_who_switches_models_off_is_told_who_notices(admin_client: Client) -> None:
    name = alias(1).pk
    page = shown(admin_client)
    for row in Model.objects.all():
        page[field(page, row, "enabled")] = []
    assert save(admin_client, page) == [
        f"1 alias uses them: {name}.", f"{name} would have nobody left to answer."
    ]  # fmt: skip


def test_a_wrong_value_is_told_and_nothing_is_said_of_others(admin_client: Client) -> None:
    one = model(1, weight=3)
    page = shown(admin_client)
    page[field(page, one, "weight")] = ["5000"]
    answer = admin_client.post(URL, page | {"_save": ["Save"]})
    assert answer.status_code == 200
    assert values(answer, holding="form-TOTAL_FORMS")[f"initial-{field(page, one, 'weight')}"] == ["3"]
    assert state(one) == (True, 3)


def test_a_new_model_cannot_have_the_name_of_an_alias_and_one_that_has_it_can_be_changed(admin_client: Client) -> None:
    older = model(1)
    alias(1, name=older.pk)  # from before this was refused
    alias(2, name="fast")
    page = values(admin_client.get(f"{URL}add/"), holding="upstream_model")
    answer = admin_client.post(f"{URL}add/", page | {"id": ["fast"], "provider": [older.provider_id]})
    assert errors(answer) == {"id": ["An alias has this name already."]}
    change = f"{URL}{quote(older.pk)}/change/"
    page = values(admin_client.get(change), holding="upstream_model")
    assert admin_client.post(change, page | {"upstream_model": ["other"]}).status_code == 302


@pytest.mark.parametrize("name", ["auto", "tokenhub/cheap"])
def test_names_by_which_clients_ask_the_router_are_nobodys(name: str, db: None) -> None:
    for made in (Model(id=name, provider=model(1).provider), Alias(name=name)):
        with pytest.raises(ValidationError, match="ask the router to choose"):
            made.full_clean()
