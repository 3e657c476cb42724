"""Two people with one form: whoever saves last is told what the other did, and nothing is lost silently. By
enumeration: a new form is tested by being there."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Group, Permission, User
from django.db import models
from django.test import Client
from django.urls import reverse

import tokenhub.urls  # noqa: F401  registers the pages
from keys.models import Budget, ClientKey, Project
from orchestration.models import PromptTemplate
from orchestration.prompts import BUILT_IN
from providers.models import Provider
from routing.models import Alias, AliasVariant, Model, Price, RoutingProfile
from telemetry.models import AuditEntry, Webhook
from tests.admin.forms import Values, text, values
from tests.admin.samples import SAMPLES, WRITTEN_BY_THE_SYSTEM, alias, model, provider
from tokenhub.adminkit import Admin

pytestmark = pytest.mark.django_db

# by kind: what somebody else changes, what the form calls it, and what one changes oneself meanwhile
CHANGES: dict[type[models.Model], tuple[dict[str, Any], str, dict[str, str]]] = {
    Provider: ({"base_url": "http://10.0.0.6:8000"}, "Base address", {"endpoints": "http://10.0.0.7:8000"}),
    Model: ({"weight": 7}, "Weight", {"upstream_model": "mine"}),
    Alias: ({"enabled": False}, "Enabled", {"sticky_by": "api_key"}),
    RoutingProfile: ({"cost": 0.5}, "Cost", {"latency": "0.7"}),
    Price: ({"input_per_1k": "0.5"}, "Input", {"output_per_1k": "0.7"}),
    PromptTemplate: ({"note": "theirs"}, "Note", {"text": "mine {{question}}"}),
    ClientKey: ({"owner": "theirs"}, "Owner", {"name": "mine"}),
    Project: ({"description": "theirs"}, "Description", {"rate_limit_rpm": "9"}),
    Budget: ({"amount_usd": "7"}, "Amount", {"every": "day"}),
    Webhook: ({"description": "theirs"}, "Description", {"url": "https://hooks.example.com/mine"}),
    User: ({"email": "theirs@example.com"}, "Email", {"first_name": "Mine"}),
    Group: ({"name": "theirs"}, "Name", {"name": "mine"}),
}


def kinds() -> list[type[models.Model]]:
    """Whose rows somebody can change by a form."""
    return [kind for kind in admin.site._registry if kind not in WRITTEN_BY_THE_SYSTEM]


def sample(kind: type[models.Model]) -> models.Model:
    """One whose form holds nothing wrong."""
    if kind is PromptTemplate:
        return PromptTemplate.objects.create(name="vote.judge", version=1, text=BUILT_IN["vote.judge"], is_active=True)
    return SAMPLES[kind](1)


def project() -> Project:
    return Project.objects.create(name="team", description="ours", rate_limit_rpm=60)


def url_of(row: models.Model) -> str:
    meta = row._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[quote(str(row.pk))])


def opened(client: Client, row: models.Model) -> Values:
    return values(client.get(url_of(row)), holding="_version")


def save(client: Client, row: models.Model, page: Values, **changes: str) -> Any:
    return client.post(url_of(row), {**page, **changes})


def stored(row: models.Model) -> dict[str, Any]:
    return type(row)._default_manager.filter(pk=row.pk).values().get()


def test_every_form_is_asked() -> None:
    assert set(kinds()) == set(CHANGES)
    assert all(isinstance(page, Admin) for page in admin.site._registry.values())


@pytest.mark.parametrize("kind", CHANGES, ids=lambda kind: kind.__name__)
def test_a_form_that_is_older_than_its_row_changes_nothing_and_says_what_differs(
    kind: type[models.Model], admin_client: Client
) -> None:
    row = sample(kind)
    theirs, label, mine = CHANGES[kind]
    page = opened(admin_client, row)
    kind._default_manager.filter(pk=row.pk).update(**theirs)
    before, entries = stored(row), AuditEntry.objects.count()

    answer = save(admin_client, row, page, **mine)

    assert answer.status_code == 200
    assert [one.label.split()[0].rstrip(",") for one in answer.context["stale"].differences] == [label.split()[0]]
    assert (stored(row), AuditEntry.objects.count()) == (before, entries)
    again = values(answer, holding="_version")
    assert {name: again[name] for name in mine} == {name: [value] for name, value in mine.items()}
    assert again["_version"] == page["_version"]


@pytest.mark.parametrize("kind", CHANGES, ids=lambda kind: kind.__name__)
def test_a_form_is_saved_while_nobody_else_changes_its_row(kind: type[models.Model], admin_client: Client) -> None:
    row = sample(kind)
    answer = save(admin_client, row, opened(admin_client, row))
    assert answer.status_code == 302, text(answer)


@pytest.mark.parametrize("version", ["", "not one", "eyJhIjoxfQ:1:x"])
def test_a_save_that_does_not_say_its_version_is_refused(version: str, admin_client: Client) -> None:
    row = project()
    answer = save(admin_client, row, opened(admin_client, row), _version=version, description="mine")
    assert "does not say what it was made from" in text(answer)
    assert stored(row)["description"] == "ours"


def test_who_changed_it_and_what_it_is_now_are_told(admin_client: Client) -> None:
    row = project()
    page = opened(admin_client, row)
    other = Client()
    other.force_login(User.objects.create_superuser("ada", password="x"))
    assert save(other, row, opened(other, row), description="theirs").status_code == 302
    answer = save(admin_client, row, page, rate_limit_rpm="9")
    (told,) = answer.context["stale"].differences
    assert (told.label, told.now, told.who) == ("Description", "theirs", "ada")
    assert "by ada" in text(answer)
    assert f'href="{url_of(row)}" id="stale-load"' in text(answer)


def test_what_was_typed_is_saved_in_place_of_theirs_once_one_says_so(admin_client: Client) -> None:
    row = project()
    page = opened(admin_client, row)
    Project.objects.filter(pk=row.pk).update(description="theirs")
    told = save(admin_client, row, page, rate_limit_rpm="9").context["stale"]
    again = save(admin_client, row, page, rate_limit_rpm="9", _overwrite=told.version)
    assert again.status_code == 302
    assert (stored(row)["description"], stored(row)["rate_limit_rpm"]) == ("ours", 9)


def test_saying_so_counts_for_what_was_told_and_no_more(admin_client: Client) -> None:
    row = project()
    page = opened(admin_client, row)
    Project.objects.filter(pk=row.pk).update(description="theirs")
    told = save(admin_client, row, page).context["stale"]
    Project.objects.filter(pk=row.pk).update(rate_limit_rpm=7)
    again = save(admin_client, row, page, _overwrite=told.version)
    assert [one.now for one in again.context["stale"].differences] == ["7"]
    assert stored(row)["description"] == "theirs"


def test_rows_below_belong_to_the_form(admin_client: Client) -> None:
    row = alias(1)
    first, second = row.variants.order_by("pk")
    page = opened(admin_client, row)
    AliasVariant.objects.filter(pk=first.pk).update(weight=9)
    second.delete()
    AliasVariant.objects.create(alias=row, model=model(300))
    answer = save(admin_client, row, page)
    labels = [one.label for one in answer.context["stale"].differences]
    assert len(labels) == 3
    assert (first.model_id in labels[0], "which is new" in labels[1], "removed" in labels[2]) == (True, True, True)
    assert row.variants.count() == 2


def test_rights_that_somebody_else_gave_are_not_taken_back(admin_client: Client) -> None:
    row = Group.objects.create(name="few")
    page = opened(admin_client, row)
    row.permissions.add(Permission.objects.order_by("pk")[0])
    answer = save(admin_client, row, page, name="others")
    assert [(one.label, one.now) for one in answer.context["stale"].differences] == [("Permissions", "1 chosen")]
    assert row.permissions.count() == 1


def test_a_credential_that_was_renewed_meanwhile_is_told(admin_client: Client, open_vault: None) -> None:
    row = provider(1, cred_store="vault")
    page = opened(admin_client, row)
    assert save(admin_client, row, opened(admin_client, row), credential="sk-theirs").status_code == 302
    answer = save(admin_client, row, page, credential="sk-mine")
    assert [one.label for one in answer.context["stale"].differences] == ["Credential"]
    assert "sk-theirs" not in text(answer)


def test_a_prompt_that_was_put_in_force_meanwhile_is_told(admin_client: Client) -> None:
    row = sample(PromptTemplate)
    page = opened(admin_client, row)
    assert save(admin_client, row, opened(admin_client, row), note="theirs").status_code == 302
    answer = save(admin_client, row, page, note="mine")
    assert [one.label for one in answer.context["stale"].differences] == ["The version in force"]
    assert PromptTemplate.objects.count() == 2


def test_who_logs_in_meanwhile_changes_no_form(admin_client: Client) -> None:
    row = User.objects.create_user("ada", password="x")
    page = opened(admin_client, row)
    Client().force_login(row)
    assert save(admin_client, row, page, first_name="Ada").status_code == 302
    assert stored(row)["last_login"] is not None


def test_a_wrong_value_keeps_the_version_that_the_form_was_made_from(admin_client: Client) -> None:
    row = project()
    page = opened(admin_client, row)
    wrong = save(admin_client, row, page, rate_limit_rpm="many")
    Project.objects.filter(pk=row.pk).update(description="theirs")
    answer = save(admin_client, row, values(wrong, holding="_version"), rate_limit_rpm="9")
    assert [one.label for one in answer.context["stale"].differences] == ["Description"]


def test_who_may_only_look_gets_no_version(db: None) -> None:
    client, viewer = Client(), User.objects.create_user("viewer", password="x", is_staff=True)
    viewer.groups.add(Group.objects.get(name="Viewer"))
    client.force_login(viewer)
    assert 'name="_version"' not in text(client.get(url_of(project())))


@pytest.mark.parametrize("right", ["view", "add", "delete"])
def test_rows_below_that_one_may_not_change_are_in_no_ones_way(right: str) -> None:
    row, client = alias(1), Client()
    user = User.objects.create_user("few", password="x", is_staff=True)
    codenames = ["view_alias", "change_alias", "view_aliasvariant", f"{right}_aliasvariant"]
    user.user_permissions.add(*Permission.objects.filter(codename__in=codenames))
    client.force_login(user)
    page = opened(client, row)
    assert save(client, row, page, sticky_by="api_key").status_code == 302
    assert stored(row)["sticky_by"] == "api_key"
    assert row.variants.count() == 2
    assert save(client, row, page).context["stale"] is not None
