"""The groups that come with TokenHub: what each may, at every endpoint and method of the URL configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.test import Client

from tests.adminapi.api import Api, ok, refused
from tokenhub import roles
from tokenhub.api import urlpatterns

pytestmark = pytest.mark.django_db
HARMLESS = {("POST", "session"), ("POST", "routing/simulate"), ("POST", "routing/evaluate")}
SECRET = "vault/secrets"


def endpoints() -> Iterator[tuple[str, str]]:
    """Method and path of everything that is handled."""
    for one in urlpatterns:
        path = str(one.pattern).replace("<path:id>", "x").replace("<str:id>", "x")
        callback: Any = one.callback
        actions = getattr(callback, "actions", None)
        view: Any = getattr(callback, "cls", None) or callback.view_class
        methods = actions or [name for name in view.http_method_names if hasattr(view, name)]
        for method in methods:
            if method.upper() not in {"OPTIONS", "HEAD"} and path:
                yield method.upper(), path


ENDPOINTS = sorted(set(endpoints()))
CHANGES = [one for one in ENDPOINTS if one[0] != "GET" and one not in HARMLESS]
READS = [path for method, path in ENDPOINTS if method == "GET"]


def member(role: str) -> Api:
    user = User.objects.create_user(f"member-{role}", password="x", is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return Api(client=client)


def test_the_url_configuration_is_looked_at() -> None:
    assert len(CHANGES) > 30
    assert len(READS) > 25
    assert ("POST", "vault/unlock") in CHANGES


def test_a_viewer_changes_nothing(db: None) -> None:
    viewer = member("Viewer")
    for method, path in CHANGES:
        refused(viewer.call(method, path, {}), "permission_denied")


def test_a_viewer_reads_everything_but_secrets(db: None) -> None:
    viewer = member("Viewer")
    for path in READS:
        answer = viewer.get(path)
        if path.startswith(SECRET) or path.endswith("/capture"):
            refused(answer, "permission_denied")
        else:
            assert answer.status_code in {200, 400, 404}, (path, answer.content)


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (
            "Operator",
            {
                "providers",
                "models",
                "prices",
                "aliases",
                "profiles",
                "routing-config",
                "webhooks",
                "tsdb",
                "workflows",
                "jobs",
            },
        ),
        ("Key manager", {"apikeys", "projects", "budget"}),
    ],
)
def test_a_role_changes_its_own_part_alone(role: str, may: set[str]) -> None:
    clerk = member(role)
    for method, path in CHANGES:
        answer = clerk.call(method, path, {})
        if path.partition("/")[0] in may:
            assert answer.status_code in {200, 400, 404, 503}, (method, path, answer.content)
        else:
            refused(answer, "permission_denied")


def test_an_admin_may_everything(db: None) -> None:
    admin = member("Admin")
    for method, path in ENDPOINTS:
        if path not in {"admin-token/rotate", "session"}:
            assert admin.call(method, path, {}).status_code not in {401, 403}, (method, path)
    assert ok(admin.post("admin-token/rotate"))["token"]
    assert admin.client.get("/admin/vault/vaultstate/").status_code == 200


def test_every_kind_of_row_is_either_seen_by_viewers_or_not() -> None:
    """Whoever adds a model decides: `VIEWED` or `WITHHELD` in tokenhub/roles.py."""
    known = {one._meta.label_lower for one in apps.get_models()}
    assert set(roles.VIEWED) | set(roles.WITHHELD) == known
    assert not set(roles.VIEWED) & set(roles.WITHHELD)


def test_every_right_of_a_role_exists(db: None) -> None:
    held = {f"{one.content_type.app_label}.{one.codename}" for one in Permission.objects.select_related("content_type")}
    for rights in roles.ROLES.values():
        assert rights <= held


def test_each_migrate_sets_the_rights_anew_and_leaves_other_groups_alone(db: None) -> None:
    own = Group.objects.create(name="Ours")
    own.permissions.add(Permission.objects.get(codename="change_provider"))
    Group.objects.get(name="Viewer").permissions.set(own.permissions.all())
    Group.objects.get(name="Operator").delete()
    call_command("migrate", verbosity=0)
    for name, rights in roles.ROLES.items():
        found = Group.objects.get(name=name).permissions.select_related("content_type")
        assert {f"{one.content_type.app_label}.{one.codename}" for one in found} == rights
    assert own.permissions.count() == 1
