"""Every form, action and endpoint of the admin takes the turn before it locks a row of the configuration. By
enumeration: a new one is asked by being there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.db import connections, transaction
from django.db.models import Model as Row
from django.test import Client, RequestFactory
from django.urls import reverse
from psycopg.pq import TransactionStatus

import tokenhub.urls  # noqa: F401  registers the pages
from orchestration.models import PromptTemplate
from orchestration.prompts import BUILT_IN
from routing import catalogue
from routing import services as routing
from routing.models import Model, Price
from telemetry import audit
from tests.admin.conftest import VAULT_PASSWORD
from tests.admin.forms import submit, values
from tests.admin.samples import SAMPLES, WRITTEN_BY_THE_SYSTEM
from tests.admin.test_mutations import OWN, _addresses
from tests.admin.test_mutations import form as mutation
from tests.adminapi.api import Api
from tests.adminapi.test_roles import CHANGES
from tests.locks.conftest import Do, nothing
from tests.support import postgres
from vault.models import VaultState

pytestmark = pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())
LOCKS = re.compile(r'^(?:INSERT INTO|UPDATE|DELETE FROM) "(\w+)"|FROM "(\w+)".* FOR (?:NO KEY )?UPDATE')
VERSION, HEAD = "routing_configversion", "telemetry_audithead"
KINDS: tuple[type[Row], ...] = (*audit._watched, VaultState, User.groups.through, User.user_permissions.through)
CONFIGURATION = {kind._meta.db_table for kind in KINDS}


class Watch:
    """Around each statement: what locks a row of the configuration before its transaction has the turn, or the head of
    the audit log in one that takes the turn later."""

    def __init__(self) -> None:
        self.early: list[str] = []
        self.turns = 0
        self._has, self._head = False, ""

    def __call__(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        session = context["connection"].connection
        if session.info.transaction_status == TransactionStatus.IDLE:  # a transaction begins, or this is all of one
            self._has, self._head = False, ""
        text = str(sql)
        if found := LOCKS.search(text):
            table = found[1] or found[2]
            if table == VERSION and not self._has:
                self.turns, self._has = self.turns + 1, True
                self.early += [self._head] if self._head else []
            elif table == HEAD and not self._has:
                self._head = text
            elif table in CONFIGURATION and not self._has:
                self.early.append(text)
        return execute(sql, params, many, context)


@contextmanager
def in_turn(what: object, *, must: bool = True) -> Iterator[None]:
    """`must`: it changes something, or the test tests nothing."""
    watch = Watch()
    with connections["default"].execute_wrapper(watch):
        yield
    assert not watch.early, (what, watch.early)
    assert watch.turns or not must, what


def test_the_watch_sees_who_is_early(rows: SimpleNamespace) -> None:

    @transaction.atomic
    def change(early: Do) -> None:
        early()
        routing.save(model=rows.one)

    for early in (
        lambda: Model.objects.select_for_update().first(),
        lambda: Model.objects.update(weight=1),
        lambda: audit.record("test.done"),
    ):
        with pytest.raises(AssertionError, match="UPDATE"), in_turn("early"):
            change(early)


def test_every_form_and_every_action_of_the_admin(client: Client, database: postgres.Postgres) -> None:
    request = RequestFactory().get("/")
    request.user = User.objects.get()
    changed = set()
    for kind, page in admin.site._registry.items():
        name = f"admin:{kind._meta.app_label}_{kind._meta.model_name}"
        listed = reverse(f"{name}_changelist")
        for number, action in enumerate(page.get_actions(request), 1):
            row = SAMPLES[kind](number)
            BEFORE.get(action, nothing)()
            posted = {"action": action, "_selected_action": row.pk, "post": "yes", "sure": "yes"}
            with in_turn((name, action), must=kind not in WRITTEN_BY_THE_SYSTEM and action not in IDLE):
                assert client.post(listed, posted).status_code in {200, 302}, (name, action)
        if kind in WRITTEN_BY_THE_SYSTEM:
            continue
        row = SAMPLES[kind](50)
        with in_turn(name):
            submit(client, reverse(f"{name}_change", args=[quote(str(row.pk))]), holding="_version")
        row = SAMPLES[kind](51)
        with in_turn(name):
            answer = client.post(reverse(f"{name}_delete", args=[quote(str(row.pk))]), {"post": "yes"})
        assert answer.status_code == 302
        changed.add(kind)
    assert changed == set(SAMPLES) - WRITTEN_BY_THE_SYSTEM


BEFORE: dict[str, Do] = {
    "enable": lambda: Model.objects.update(enabled=False),
    "put_in_force": lambda: PromptTemplate.objects.update(text=BUILT_IN["vote.judge"]),
    "use_built_in": lambda: PromptTemplate.objects.filter(version=3).update(is_active=True),
}
"""What there must be for an action to change something."""
IDLE = {"send_test"}
"""Actions that change no row of the configuration."""


def test_every_other_address_of_the_admin(client: Client, rows: SimpleNamespace) -> None:
    """By the form of tests/admin/test_mutations.py, whatever comes of it."""
    known = {kind._meta.label_lower: str(make(70).pk) for kind, make in SAMPLES.items()}
    for name, (url, row) in _addresses(known):
        if name not in OWN and not name.startswith("setup:") and not name.endswith(COMMON):
            with in_turn(name, must=False):
                client.post(url, mutation(row))


def test_what_the_set_up_and_the_pages_of_the_vault_and_of_rotation_do(client: Client, rows: SimpleNamespace) -> None:
    vault_page = reverse("admin:vault_vaultstate_changelist")
    passwords = {"old_password": VAULT_PASSWORD, "password": "another one", "again": "another one"}
    rotation = reverse("admin:keys_clientkey_rotate", args=[rows.key.pk])
    posts: list[tuple[str, dict[str, Any]]] = [
        (rotation, values(client.get(rotation), holding="hours")),
        (vault_page, {"do": "rotate", **passwords}),
        (vault_page, {"do": "lock", "sure": "yes"}),
        (vault_page, {"do": "unlock", "password": "another one"}),
        (reverse("setup:provider"), {"preset": "vllm", "name": "fresh", "base_url": "http://127.0.0.1:9"}),
        (reverse("setup:key"), {"name": "first"}),
    ]
    for url, posted in posts:
        with in_turn((url, posted)):
            assert client.post(url, posted).status_code in {200, 302}


COMMON = ("_changelist", "_change", "_history", "_delete")
"""Each asked as a person would; so are those of the set-up, which ask providers."""

# of a path: its row, and what is sent
CALLS: dict[tuple[str, str], tuple[str, Any]] = {
    ("PATCH", "providers/x"): ("box", {"enabled": False}),
    ("POST", "providers"): ("", {"id": "fresh", "type": "sandbox"}),
    ("POST", "providers/x/import-models"): ("fresh", {}),
    ("PATCH", "models/x"): ("one", {"weight": 8}),
    ("POST", "models"): ("", {"id": "three", "provider_id": "fresh"}),
    ("POST", "prices"): ("", {"model_id": "one", "starts_at": "2026-01-01T00:00:00Z", "input_per_1k": 1,
                              "output_per_1k": 1}),
    ("PATCH", "prices/x"): ("price", {"input_per_1k": 2}),
    ("DELETE", "prices/x"): ("price", None),
    ("PUT", "aliases/x"): ("main", {"variants": [{"model_id": "one"}]}),
    ("DELETE", "aliases/x"): ("main", None),
    ("POST", "profiles"): ("", {"name": "ours", "cost": 1, "latency": 0, "failure": 0, "capability": 0}),
    ("PATCH", "profiles/x"): ("ours", {"cost": 0.5, "latency": 0.5}),
    ("DELETE", "profiles/x"): ("ours", None),
    ("POST", "projects"): ("", {"name": "shop", "budget_usd": 5}),
    ("PATCH", "projects/x"): ("shop", {"budget_usd": 6}),
    ("POST", "apikeys"): ("", {"name": "fresh", "budget_usd": 5}),
    ("PATCH", "apikeys/x"): ("key", {"budget_usd": 6}),
    ("POST", "apikeys/x/rotate"): ("key", {}),
    ("DELETE", "projects/x"): ("shop", None),
    ("DELETE", "apikeys/x"): ("key", None),
    ("POST", "webhooks"): ("", {"url": "https://hooks.example.com/2"}),
    ("PATCH", "webhooks/x"): ("webhook", {"description": "ours"}),
    ("POST", "webhooks/x/rotate"): ("webhook", None),
    ("DELETE", "webhooks/x"): ("webhook", None),
    ("PUT", "budget"): ("", {"budget_usd": 5}),
    ("DELETE", "budget"): ("", None),
    ("PUT", "routing-config"): ("", {"default_mode": "cheap"}),
    ("PUT", "vault/secrets/x"): ("s", {"value": "v"}),
    ("DELETE", "vault/secrets/x"): ("s", None),
    ("POST", "config/import"): ("", {"webhooks": [{"id": str(UUID(int=1)), "url": "https://a.example"}],
                                     "models": [{"id": "one", "weight": 2}], "budget": {"budget_usd": 3}}),
    ("DELETE", "models/x"): ("one", None),
    ("DELETE", "providers/x"): ("box", None),
    ("POST", "vault/rotate"): ("", {"old_password": VAULT_PASSWORD, "new_password": "another one"}),
    ("POST", "vault/lock"): ("", {}),
    ("POST", "vault/unlock"): ("", {"admin_password": "another one"}),
}  # fmt: skip
NO_CHANGE = {"jobs/x/run", "providers/x/test", "tsdb/prune", "tsdb/retention", "webhooks/x/test", "workflows/x/cancel"}
"""Of the configuration."""
ELSEWHERE = {"prices/catalogue", "admin-token/rotate"}
"""One asks a process of its own (`catalogue._take` is below), the other changes a file."""


def test_every_endpoint_of_the_admin_api(client: Client, rows: SimpleNamespace) -> None:
    assert {(method, path) for method, path in CHANGES if path not in NO_CHANGE | ELSEWHERE} == set(CALLS)
    api = Api(client=client)
    for (method, path), (row, body) in CALLS.items():
        price = Price.objects.first()
        known = {"key": rows.key.pk, "webhook": rows.webhook.pk, "price": price.pk if price is not None else ""}
        place = f"/{known.get(row, row)}"
        with in_turn((method, path)):
            answer = api.call(method, re.sub(r"/x(?=/|$)", place, path), body)
            assert answer.status_code == 200, (method, path, answer.content)


def test_prices_of_the_catalogue(rows: SimpleNamespace) -> None:
    offer = catalogue.Offer(rows.one, "new", prices={"input_per_1k": Decimal(1)})
    with in_turn("catalogue"):
        catalogue._take(offer)
