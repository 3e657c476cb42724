"""Every address that Django serves to people, asked to change something: without a token, by a stranger, by staff who
may nothing, by staff who may only look. By enumeration: a new page is asked by being there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse

import tokenhub.urls  # noqa: F401  registers the pages
from telemetry.models import AuditEntry
from tests.admin.pages import named_urls, rows_of
from tests.admin.samples import SAMPLES

pytestmark = pytest.mark.django_db
OWN = {  # one's own session and password, and what answers a POST as it does a GET; none asks for a right
    "admin:logout", "admin:login", "admin:password_change", "admin:password_change_done", "admin:index", "admin:jsi18n",
    "admin:search", "admin:autocomplete", "admin:app_list", "admin:view_on_site", "setup:index",
    "dashboard-state",  # shows each what they may see
}  # fmt: skip
VERBS = ("get", "post", "put", "patch", "delete")


@pytest.fixture
def urls(db: None) -> dict[str, tuple[str, str]]:
    """By name: the address, and the primary key of the row that it is about."""
    rows = {kind._meta.label_lower: str(make(1).pk) for kind, make in SAMPLES.items()}
    return dict(_addresses(rows))


def _addresses(rows: dict[str, str]) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, pattern in named_urls():
        wanted = {*pattern.pattern.converters, *pattern.pattern.regex.groupindex}
        row = rows.get(rows_of(name), "1")
        values = {  # in the order of their names, which is that of every address with two of them
            "object_id": quote(row), "id": row, "app_label": "routing", "content_type_id": "1",
            "request_id": "00000000-0000-7000-8000-000000000000",
        }  # fmt: skip
        yield name, (reverse(name, args=[values[one] for one in sorted(wanted)]), row)


def form(row: str) -> dict[str, str]:
    return {"post": "yes", "name": "changed", "action": "delete_selected", "_selected_action": row, "do": "lock"}


def test_every_address_is_asked(urls: dict[str, tuple[str, str]]) -> None:
    assert len(urls) > 80
    assert {"setup:provider", "keys_clientkey_rotate", "vault_vaultstate_changelist"} <= {
        one.removeprefix("admin:") for one in urls
    }


def test_nothing_is_changed_without_a_token(urls: dict[str, tuple[str, str]]) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root", password="x"))
    before = AuditEntry.objects.count()
    for name, (url, row) in urls.items():
        assert client.post(url, form(row)).status_code in {403, 405}, name
    assert AuditEntry.objects.count() == before


def test_a_stranger_changes_nothing(urls: dict[str, tuple[str, str]], client: Client) -> None:
    before = AuditEntry.objects.count()
    for name, (url, row) in urls.items():
        if name not in OWN:
            answer = client.post(url, form(row))
            assert answer.status_code == 302, name
            assert answer["location"].startswith(reverse("admin:login")), name
    assert AuditEntry.objects.count() == before


def test_staff_without_a_right_see_and_change_nothing(urls: dict[str, tuple[str, str]], staff_client: Client) -> None:
    before = AuditEntry.objects.count()
    for name, (url, row) in urls.items():
        for verb in VERBS if name not in OWN else ():
            answer = getattr(staff_client, verb)(url, form(row))
            if (name[:6], verb) == ("setup:", "get"):  # the address of a form leads to the page that has it
                assert answer.status_code in {302, 403}, name
                continue
            assert answer.status_code in {403, 405}, (verb, name)
    assert AuditEntry.objects.count() == before


def test_a_viewer_changes_nothing(urls: dict[str, tuple[str, str]]) -> None:
    client, viewer = Client(), User.objects.create_user("viewer", password="x", is_staff=True)
    viewer.groups.add(Group.objects.get(name="Viewer"))
    client.force_login(viewer)
    before = AuditEntry.objects.count()
    for name, (url, row) in urls.items():
        if name not in OWN:
            assert client.post(url, form(row)).status_code < 500, name
    assert AuditEntry.objects.count() == before
