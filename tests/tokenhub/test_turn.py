"""Changes of the configuration beside each other on PostgreSQL: one waits for the other, and neither is a victim."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Group, User
from django.db import connections, transaction
from django.db.models import Model as Row
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone
from psycopg.pq import TransactionStatus

import tokenhub.urls  # noqa: F401  registers the pages
from keys import services as keys
from keys.bank import DatabaseBank, current_period
from keys.ledger import Return
from keys.models import Budget, ClientKey, Lease, Project, Subject
from orchestration import services as prompts
from orchestration.models import PromptTemplate
from orchestration.prompts import BUILT_IN
from providers import services as providers
from providers.models import CredentialStore, Provider
from routing import catalogue
from routing import services as routing
from routing.models import Alias, Model, Price, RoutingDefaults
from telemetry import audit, webhooks
from telemetry.models import AuditEntry, Webhook
from tests.admin.conftest import CHEAP, VAULT_PASSWORD, keyring, quick_passwords  # noqa: F401  fixtures
from tests.admin.forms import submit, values
from tests.admin.samples import SAMPLES, WRITTEN_BY_THE_SYSTEM
from tests.admin.test_mutations import OWN, _addresses
from tests.admin.test_mutations import form as mutation
from tests.adminapi.api import Api
from tests.adminapi.test_roles import CHANGES
from tests.support import postgres
from tokenhub import configuration
from vault import services as vault
from vault.models import Secret, VaultState

pytestmark = pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())
Do = Callable[[], Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[postgres.Postgres]:
    with postgres.Postgres(migrated=True) as running:
        yield running


@pytest.fixture
def database(cluster: postgres.Postgres, django_db_blocker: Any) -> Iterator[postgres.Postgres]:
    with postgres.in_django(cluster.url, django_db_blocker):
        try:
            yield cluster
        finally:
            kinds: tuple[type[Row], ...] = (*SAMPLES, Secret, RoutingDefaults)
            for kind in kinds:
                if kind not in {Group, AuditEntry}:
                    kind._default_manager.all().delete()


@pytest.fixture
def client(database: postgres.Postgres) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x"))
    return client


@pytest.fixture
def rows(database: postgres.Postgres) -> SimpleNamespace:
    """A provider with a credential and two models, an alias of one of them, a webhook, a project with a key."""
    vault.initialize(password=VAULT_PASSWORD, parameters=CHEAP)
    provider = Provider(id="box", type="vllm", base_url="http://10.0.0.5:8000", cred_store=CredentialStore.VAULT)
    providers.save(provider=provider, credential="a-credential")
    models = [Model(id=name, provider=provider) for name in ("one", "two")]
    for model in models:
        routing.save(model=model)
    project = Project(name="shop")
    keys.save_project(project=project)
    key = keys.issue(name="till", project="shop").record
    webhook = Webhook.objects.create(url="https://hooks.example.com/1")
    return SimpleNamespace(provider=provider, one=models[0], two=models[1], project=project, key=key, webhook=webhook)


def beside(database: postgres.Postgres, first: Do, other: Do, then: Do) -> Any:
    """In one transaction `first` and `then`; between them, `other` in a transaction of its own, until it waits for that
    one. What came of `other`."""

    def apart() -> Any:
        try:
            return other()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            first()
            outcome = pool.submit(apart)
            postgres.wait_for_waiting(database.url)
            then()
        return outcome.result(timeout=60)


def nothing() -> None:
    """The end of the transaction is enough: constraints are checked then."""


def form_of(client: Client, row: Any, **changes: Any) -> Do:
    """Its form, which was opened, to be saved."""
    url = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[quote(str(row.pk))])
    posted = {**values(client.get(url), holding="_version"), **changes}

    def save() -> None:
        assert client.post(url, posted).status_code == 302

    return save


def imported(document: dict[str, Any]) -> tuple[Do, Do]:
    """Its first row, and the rest."""
    each = configuration.take_each(document)

    def rest() -> None:
        assert [one.action for one in each] == ["changed"] * (sum(map(len, document.values())) - 1)

    def first() -> None:
        assert next(each).action in {"changed", "created"}

    return first, rest


def test_an_import_and_a_form_of_a_later_row(
    database: postgres.Postgres, client: Client, rows: SimpleNamespace
) -> None:
    document = {"providers": [{"id": "box", "enabled": False}], "models": [{"id": "two", "weight": 3}]}
    first, rest = imported(document)
    url = reverse("admin:routing_model_change", args=["two"])
    posted = {**values(client.get(url), holding="_version"), "max_context_tokens": 9000}
    answer = beside(database, first, lambda: client.post(url, posted), rest)
    assert "Not saved" in answer.content.decode()  # the import was first, and changed that row
    assert Model.objects.get(pk="two").weight == 3


def test_an_import_and_the_list_of_models(database: postgres.Postgres, client: Client, rows: SimpleNamespace) -> None:
    document = {"providers": [{"id": "box", "enabled": False}], "models": [{"id": "two", "weight": 3}]}
    url = reverse("admin:routing_model_changelist")
    posted = {**values(client.get(url), holding="form-0-weight"), "form-0-weight": 9, "_save": "Save"}
    first, rest = imported(document)
    beside(database, first, lambda: client.post(url, posted), rest)
    assert dict(Model.objects.values_list("id", "weight")) == {"one": 9, "two": 3}


def test_an_import_of_a_webhook_and_then_a_budget_and_a_form(
    database: postgres.Postgres, client: Client, rows: SimpleNamespace
) -> None:
    keys.set_budget(subject=Subject.INSTALLATION, amount_usd=Decimal(5))
    document = {"webhooks": [{"id": str(rows.webhook.pk), "description": "ours"}], "budget": {"budget_usd": 7}}
    first, rest = imported(document)
    beside(database, first, form_of(client, rows.provider, enabled=""), rest)
    assert not Provider.objects.get().enabled
    assert Budget.objects.get().amount_usd == 7


def test_an_alias_and_the_form_of_its_model(database: postgres.Postgres, client: Client, rows: SimpleNamespace) -> None:
    body = {"variants": [{"model_id": "one"}]}

    def save() -> None:
        assert Api(client=client).put("aliases/main", body).status_code == 200

    beside(database, save, form_of(client, rows.one, weight=2), nothing)
    assert Alias.objects.get().variants.get().model.weight == 2


def test_a_provider_with_its_credential_and_the_secret_alone(
    database: postgres.Postgres, client: Client, rows: SimpleNamespace
) -> None:
    name, api = rows.provider.secret_name, Api(client=client)
    answer = beside(
        database,
        lambda: providers.save(provider=rows.provider),
        lambda: api.put(f"vault/secrets/{name}", {"value": "of the secret's page"}),
        lambda: vault.put_secret(name=name, value="of the provider's page"),
    )
    assert answer.status_code == 200


def test_a_provider_with_its_credential_and_a_new_password_of_the_vault(
    database: postgres.Postgres, rows: SimpleNamespace
) -> None:
    count = beside(
        database,
        lambda: providers.save(provider=rows.provider),
        lambda: vault.rotate(old_password=VAULT_PASSWORD, new_password="another password"),
        lambda: vault.put_secret(name=rows.provider.secret_name, value="fresh"),
    )
    assert count == 1


def test_a_provider_that_takes_its_models_along_and_the_form_of_one(
    database: postgres.Postgres, client: Client, rows: SimpleNamespace
) -> None:
    url = reverse("admin:routing_model_change", args=["two"])
    posted = values(client.get(url), holding="_version")
    answer = beside(
        database,
        lambda: vault.delete_secret(name=rows.provider.secret_name),
        lambda: client.post(url, posted),
        lambda: providers.delete(provider=rows.provider),
    )
    assert answer.status_code == 302
    assert answer["location"] == reverse("admin:index")  # it does not exist any more
    assert not Model.objects.exists()


def test_the_end_of_a_project_and_a_key_of_it(database: postgres.Postgres, rows: SimpleNamespace) -> None:
    def change() -> None:
        rows.key.refresh_from_db()
        keys.save(key=rows.key)

    beside(
        database,
        lambda: routing.save(model=rows.one),
        lambda: keys.delete_project(project=Project.objects.get()),
        change,
    )
    assert ClientKey.objects.get().project == ""


def test_the_vault_is_opened_while_a_webhook_is_removed(database: postgres.Postgres, rows: SimpleNamespace) -> None:
    """Whoever opens it tells the webhooks of it, which is checked at the end."""
    beside(
        database,
        lambda: vault.unlock(password=VAULT_PASSWORD),
        lambda: webhooks.delete(webhook=rows.webhook),
        nothing,
    )
    assert not Webhook.objects.exists()


def test_a_prompt_and_another_version_of_it(database: postgres.Postgres, rows: SimpleNamespace) -> None:
    name = next(iter(BUILT_IN))
    made = prompts.add_prompt(name=name, text=BUILT_IN[name])
    beside(
        database,
        lambda: routing.save(model=rows.one),
        lambda: prompts.activate(prompt=made),
        lambda: prompts.revert(name=name),
    )
    made.refresh_from_db()
    assert made.is_active


# -- a budget that is deleted while it is spent ------------------------------------------------------------------------
def by_itself(rows: SimpleNamespace) -> Do:
    return lambda: keys.delete_budget(budget=Budget.objects.get())


def with_its_key(rows: SimpleNamespace) -> Do:
    return lambda: keys.delete(key=rows.key)


def with_its_project(rows: SimpleNamespace) -> Do:
    return lambda: keys.delete_project(project=rows.project)


def by_the_api(rows: SimpleNamespace) -> Do:
    return lambda: keys.set_budget(subject=Subject.INSTALLATION, amount_usd=None)


def budget(rows: SimpleNamespace, way: Callable[[SimpleNamespace], Do]) -> Budget:
    """That goes this way."""
    subjects = {with_its_key: (Subject.KEY, str(rows.key.pk)), with_its_project: (Subject.PROJECT, "shop")}
    subject, whose = subjects.get(way, (Subject.INSTALLATION, ""))
    return Budget.objects.create(subject=subject, subject_id=whose, amount_usd=Decimal(5), every="total")


@pytest.mark.parametrize("way", [by_itself, with_its_key, with_its_project, by_the_api])
def test_a_request_gets_its_money_while_the_budget_is_deleted(
    way: Callable[[SimpleNamespace], Do], database: postgres.Postgres, rows: SimpleNamespace
) -> None:
    """As a request does: the period first, then the lease."""
    made, bank = budget(rows, way), DatabaseBank(holder="a", host="h")
    lease = bank.grant(made.pk, "", most=10, least=10).lease
    grants = []
    beside(
        database,
        lambda: current_period(made, timezone.now()),
        way(rows),
        lambda: grants.append(bank.grant(made.pk, lease, most=1000, least=1000)),
    )
    assert grants[0].lease == lease
    assert not Budget.objects.exists() and not Lease.objects.exists()


def test_nothing_is_given_back_to_a_budget_that_is_gone(database: postgres.Postgres, rows: SimpleNamespace) -> None:
    made, bank = budget(rows, by_itself), DatabaseBank(holder="a", host="h")
    lease = bank.grant(made.pk, "", most=10, least=10).lease
    beside(database, by_itself(rows), lambda: bank.give_back(Return(lease, 10, True)), nothing)
    assert not Lease.objects.exists()


# -- what was read before the turn was taken is read again -------------------------------------------------------------
def action(client: Client, name: str, row: Row) -> Do:
    """Of a list, for one row, with yes to its question."""
    url = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_changelist")
    posted = {"action": name, "_selected_action": [str(row.pk)], "sure": "yes"}
    return lambda: client.post(url, posted)


def rotation(client: Client, key: ClientKey) -> Do:
    """With a grace, by its page, which was opened."""
    url = reverse("admin:keys_clientkey_rotate", args=[key.pk])
    posted = {**values(client.get(url), holding="hours"), "hours": "24"}
    return lambda: client.post(url, posted)


def test_a_rotation_does_not_undo_a_revocation(
    database: postgres.Postgres, client: Client, rows: SimpleNamespace
) -> None:
    rotate = rotation(client, rows.key)
    answer = beside(database, lambda: keys.revoke(key=rows.key), rotate, nothing)
    assert "tokenhub_" in answer.content.decode()
    assert not ClientKey.objects.get().enabled


def test_of_two_rotations_at_once_one_is_refused(
    database: postgres.Postgres, client: Client, rows: SimpleNamespace
) -> None:
    rotate, digest = rotation(client, rows.key), rows.key.digest
    answer = beside(database, rotate, rotate, nothing)
    assert "Not rotated" in answer.content.decode()
    assert ClientKey.objects.get().old_digest == digest


def test_a_revocation_does_not_bring_back_a_deleted_key(
    database: postgres.Postgres, client: Client, rows: SimpleNamespace
) -> None:
    revoke = action(client, "revoke", rows.key)
    assert beside(database, lambda: keys.delete(key=rows.key), revoke, nothing).status_code == 302
    assert not ClientKey.objects.exists()


def test_switching_models_off_takes_back_no_price(
    database: postgres.Postgres, client: Client, rows: SimpleNamespace
) -> None:
    rows.one.input_per_1k, rows.one.output_per_1k = Decimal(1), Decimal(2)
    beside(database, lambda: routing.save(model=rows.one), action(client, "disable", rows.one), nothing)
    stored = Model.objects.get(pk="one")
    assert (stored.enabled, stored.input_per_1k) == (False, 1)


def test_each_new_signing_secret_of_a_webhook_is_another_one(
    database: postgres.Postgres, client: Client, rows: SimpleNamespace
) -> None:
    rotate = action(client, "rotate_secret", rows.webhook)
    beside(database, lambda: webhooks.rotate(webhook=rows.webhook), rotate, nothing)
    assert Webhook.objects.get().generation == 3


# -- by enumeration ----------------------------------------------------------------------------------------------------
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
            with in_turn(name, must=name == "admin:keys_clientkey_rotate"):
                client.post(url, mutation(row))


def test_what_the_set_up_and_the_page_of_the_vault_do(client: Client, rows: SimpleNamespace) -> None:
    vault_page = reverse("admin:vault_vaultstate_changelist")
    passwords = {"old_password": VAULT_PASSWORD, "password": "another one", "again": "another one"}
    posts: list[tuple[str, dict[str, Any]]] = [
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
