"""Changes of the configuration beside each other on PostgreSQL: one waits for the other, and neither is a victim."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.db import connections, transaction
from django.db.models import Model as Row
from django.test import Client
from django.urls import reverse
from django.utils import timezone

import tokenhub.urls  # noqa: F401  registers the pages
from keys import bank
from keys import services as keys
from keys.bank import DatabaseBank, current_period
from keys.ledger import Return
from keys.models import Budget, BudgetPeriod, ClientKey, Lease, Project, Subject
from orchestration import services as prompts
from orchestration.prompts import BUILT_IN
from providers import services as providers
from providers.models import Provider
from routing import services as routing
from routing.models import Alias, Model
from telemetry import webhooks
from telemetry.models import Webhook
from tests.admin.conftest import VAULT_PASSWORD
from tests.admin.forms import values
from tests.adminapi.api import Api
from tests.locks.conftest import Do, nothing
from tests.support import postgres
from tests.support.gateway import free_port
from tokenhub import configuration, turn
from vault import services as vault

pytestmark = pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())


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
    subjects: dict[Any, tuple[str, str]] = {
        with_its_key: (Subject.KEY, str(rows.key.pk)),
        with_its_project: (Subject.PROJECT, "shop"),
    }
    subject, whose = subjects.get(way, (Subject.INSTALLATION, ""))
    return Budget.objects.create(subject=subject, subject_id=whose, amount_usd=Decimal(5), every="total")


@pytest.mark.parametrize("way", [by_itself, with_its_key, with_its_project, by_the_api])
def test_a_request_gets_its_money_while_the_budget_is_deleted(
    way: Callable[[SimpleNamespace], Do], database: postgres.Postgres, rows: SimpleNamespace
) -> None:
    """As a request does: the period first, then the lease."""
    made, mine = budget(rows, way), DatabaseBank(holder="a", host="h")
    lease = mine.grant(made.pk, "", most=10, least=10).lease
    grants = []
    beside(
        database,
        lambda: current_period(made, timezone.now()),
        way(rows),
        lambda: grants.append(mine.grant(made.pk, lease, most=1000, least=1000)),
    )
    assert grants[0].lease == lease
    assert not Budget.objects.exists()
    assert not Lease.objects.exists()


def all_budgets(rows: SimpleNamespace) -> list[Row]:
    return list(Budget.objects.order_by("subject"))


def with_their_keys(rows: SimpleNamespace) -> list[Row]:
    return list(ClientKey.objects.order_by("name"))


def with_their_projects(rows: SimpleNamespace) -> list[Row]:
    return list(Project.objects.order_by("name"))


@pytest.mark.parametrize("chosen", [all_budgets, with_their_keys, with_their_projects])
def test_spending_of_several_budgets_goes_on_while_they_are_deleted_together(
    chosen: Callable[[SimpleNamespace], list[Row]],
    database: postgres.Postgres,
    client: Client,
    rows: SimpleNamespace,
) -> None:
    """As the ingester does: the periods by their number, in which the budgets are not."""
    keys.save_project(project=Project(name="branch"))
    other_key = keys.issue(name="a stall").record
    ways: dict[Any, list[tuple[str, str]]] = {
        with_their_keys: [(Subject.KEY, str(rows.key.pk)), (Subject.KEY, str(other_key.pk))],
        with_their_projects: [(Subject.PROJECT, "shop"), (Subject.PROJECT, "branch")],
    }
    for subject, whose in ways.get(chosen, [(Subject.PROJECT, "shop"), (Subject.INSTALLATION, "")]):
        made = Budget.objects.create(subject=subject, subject_id=whose, amount_usd=Decimal(5), every="total")
        with transaction.atomic():
            current_period(made, timezone.now())
    first, second = BudgetPeriod.objects.order_by("pk").values_list("pk", flat=True)
    several = chosen(rows)
    url = reverse(f"admin:{several[0]._meta.app_label}_{several[0]._meta.model_name}_changelist")
    posted = {"action": "delete_selected", "_selected_action": [str(row.pk) for row in several], "post": "yes"}
    answer = beside(
        database,
        lambda: list(bank._locked([first])),
        lambda: client.post(url, posted),
        lambda: list(bank._locked([second])),
    )
    assert answer.status_code == 302
    assert not Budget.objects.exists()


def test_nothing_is_given_back_to_a_budget_that_is_gone(database: postgres.Postgres, rows: SimpleNamespace) -> None:
    made, mine = budget(rows, by_itself), DatabaseBank(holder="a", host="h")
    lease = mine.grant(made.pk, "", most=10, least=10).lease
    beside(database, by_itself(rows), lambda: mine.give_back(Return(lease, 10, True)), nothing)
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


# -- who waits too long ------------------------------------------------------------------------------------------------
def test_a_page_says_that_the_database_was_busy_and_nothing_was_saved(
    database: postgres.Postgres, client: Client, rows: SimpleNamespace
) -> None:
    save = form_of(client, rows.one, weight=9)
    url = reverse("admin:routing_model_change", args=["one"])
    posted = {**values(client.get(url), holding="_version"), "weight": 9}

    def impatient() -> Any:
        with connections["default"].cursor() as cursor:
            cursor.execute("SET lock_timeout = '20ms'")
        try:
            return client.post(url, posted)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        turn.take()
        answer = pool.submit(impatient).result(timeout=60)
    assert (answer.status_code, answer["Retry-After"]) == (503, "1")
    assert "Not saved" in answer.content.decode()
    assert url in answer.content.decode()
    assert Model.objects.get(pk="one").weight != 9
    save()
    assert Model.objects.get(pk="one").weight == 9


def test_a_page_without_a_database_says_so(django_db_blocker: Any) -> None:
    client = Client()
    client.cookies["sessionid"] = "x" * 32
    with postgres.in_django(f"postgres://tester@127.0.0.1:{free_port()}/none", django_db_blocker):
        answer = client.get(reverse("admin:index"))
    assert (answer.status_code, answer["Content-Type"]) == (503, "text/plain; charset=utf-8")
    assert "the database cannot be reached" in answer.content.decode()
