"""The dashboard's parts: what is wrong now, and the figures; who may see them, and what they cost."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from html import unescape
from pathlib import Path
from time import time
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from keys import services as keys
from keys.models import Budget, BudgetPeriod, Project, Subject
from providers.models import CredentialStore, Provider, ProviderType
from routing.models import HealthNotice, HealthRecord, Model
from telemetry.journal import Entry, encode_line
from telemetry.models import RequestLog
from telemetry.tsdb.store import fold
from tests.admin.forms import text
from tokenhub.models import JobState, Outcome
from vault import services as vault

pytestmark = pytest.mark.django_db
STATE = reverse("dashboard-state")
FIGURES = reverse("dashboard-figures")
QUERIES_OF_A_PAGE = 15
NANO = 1_000_000_000


@pytest.fixture(autouse=True)
def folder(settings: Settings, tmp_path: Path) -> Path:
    """The journal is the test's own."""
    settings.TOKENHUB_DATA_DIR = tmp_path
    (tmp_path / "journal").mkdir()
    return tmp_path


@pytest.fixture
def target(db: None) -> Model:
    provider = Provider.objects.create(
        id="acme/eu", type=ProviderType.VLLM, base_url="http://10.0.0.5:8000", cred_store=CredentialStore.NONE
    )
    return Model.objects.create(id="org/m", provider=provider, **PRICED)


PRICED = {"input_per_1k": 0, "output_per_1k": 0}


def entry(**fields: Any) -> Entry:
    made: dict[str, Any] = {"id": str(uuid4()), "at": int(time() * 1e6), "endpoint": "chat", "status": 200}
    return Entry(**{**made, "model": "org/m", "provider": "acme/eu", **fields})


def note(*entries: Entry) -> None:
    with transaction.atomic():
        fold(entries)


def troubles(client: Client) -> list[tuple[str, str]]:
    answer: Any = client.get(STATE)
    assert answer.status_code == 200
    return [(one.level, one.what) for one in answer.context["state"].troubles]


def sick(model: Model, *, errors: int, model_id: str = "") -> None:
    HealthRecord.objects.create(
        provider_id=model.provider_id, model_id=model_id, calls=9 if model_id else 0, errors=errors,
        consecutive_errors=errors, last_error="transient (HTTP 503)", last_error_at=timezone.now(),
        updated_at=timezone.now(),
    )  # fmt: skip


def resting(model: Model, reason: str, *, model_id: str) -> None:
    now = timezone.now()
    HealthNotice.objects.create(
        origin="other", provider_id=model.provider_id, model_id=model_id, reason=reason, began_at=now,
        until_at=now + timedelta(minutes=1), expires_at=now + timedelta(hours=1),
    )  # fmt: skip


# -- what is wrong ---------------------------------------------------------------------------------------------------
def test_where_all_is_well_the_page_says_so_and_what_it_looked_at(
    admin_client: Client, open_vault: None, target: Model
) -> None:
    shown = text(admin_client.get(STATE))
    assert "Nothing is wrong" in shown
    assert "the vault is open, 1 provider watched, the request log is up to date" in shown


def test_a_locked_vault_comes_first_and_leads_to_its_page(admin_client: Client, open_vault: None) -> None:
    vault.lock()
    JobState.objects.create(name="rollup", last_outcome=Outcome.FAILED, last_result="OSError: disk full")
    assert troubles(admin_client) == [("bad", "The vault is locked"), ("warn", "The job rollup failed")]
    shown = text(admin_client.get(STATE))
    assert f'href="{reverse("admin:vault_vaultstate_changelist")}"' in shown
    assert "disk full" in shown


def test_a_vault_without_a_password_is_a_warning(admin_client: Client) -> None:
    assert troubles(admin_client) == [("warn", "The vault has no password yet")]


def test_a_provider_that_is_down_is_told_with_its_error_and_the_next_try(
    admin_client: Client, open_vault: None, target: Model
) -> None:
    sick(target, errors=6)
    resting(target, "down", model_id="")
    assert troubles(admin_client) == [("bad", "acme/eu is down")]
    shown = text(admin_client.get(STATE))
    assert re.search(r"6 errors in a row; transient \(HTTP 503\); asked again in (6[01]|5\d) s; no success yet", shown)
    assert 'href="/admin/providers/provider/acme_2Feu/change/"' in shown


def test_a_model_that_cools_down_is_told_and_its_provider_is_not_told_twice(
    admin_client: Client, open_vault: None, target: Model
) -> None:
    Model.objects.create(id="other", provider=target.provider, **PRICED)
    sick(target, errors=1, model_id="org/m")
    resting(target, "rate_limited", model_id="org/m")
    assert troubles(admin_client) == [("warn", "org/m at acme/eu cools down")]


def test_budgets_are_told_by_their_name_from_four_fifths_on(admin_client: Client, open_vault: None) -> None:
    key = keys.issue(name="shop").record
    Project.objects.bulk_create([Project(name="web"), Project(name="idle")])
    now = timezone.now()
    for subject, name, spent in (
        (Subject.KEY, str(key.pk), 10),
        (Subject.PROJECT, "web", 8),
        (Subject.PROJECT, "idle", 7),
    ):
        keys.set_budget(subject=subject, subject_id=name, amount_usd=Decimal(10), every="day")
        budget = Budget.objects.get(subject_id=name)
        BudgetPeriod.objects.create(
            budget=budget, every="day", starts_at=now - timedelta(hours=1), ends_at=now + timedelta(hours=1),
            settled_nano=spent * NANO,
        )  # fmt: skip
    assert troubles(admin_client) == [
        ("bad", "The budget of client key shop is spent"), ("warn", "The budget of project web is spent to 80 %"),
    ]  # fmt: skip


def test_many_failures_of_the_last_minutes_are_told_with_their_classes(admin_client: Client, open_vault: None) -> None:
    note(*[entry(status=401, error_code="missing_api_key")] * 30)  # of strangers
    assert troubles(admin_client) == []
    note(*[entry()] * 9, entry(status=503, error_class="transient"))
    assert troubles(admin_client) == [("warn", "10 % of the requests fail")]
    note(*[entry(status=503, error_class="timeout")] * 5)
    assert troubles(admin_client) == [("bad", "40 % of the requests fail")]
    shown = unescape(text(admin_client.get(STATE)))
    assert "6 of 15 in 15 minutes: 5 timeout, 1 transient." in shown
    assert 'href="/admin/telemetry/requestlog/?outcome=failed"' in shown


def notes(client: Client) -> list[tuple[str, str]]:
    answer: Any = client.get(STATE)
    return [(one.what, one.detail) for one in answer.context["state"].notes]


def test_what_clients_did_wrong_is_a_note_and_no_trouble(admin_client: Client, open_vault: None) -> None:
    codes = ["budget_exceeded"] * 4 + ["model_not_found"] * 2 + ["invalid_request", "rate_limit_exceeded"]
    note(*[entry()] * 8, *[entry(status=400, error_code=one, model="", provider="") for one in codes])
    note(entry(status=400, error_code="upstream_rejected", error_class="invalid_request"))
    assert troubles(admin_client) == []
    ((what, detail),) = notes(admin_client)
    assert what == "53 % of the requests are refused for what clients sent or may spend"
    assert detail.startswith(
        "9 of 17 in 15 minutes: 4 budget_exceeded, 2 invalid_request, 2 model_not_found and 1 other."
    )
    shown = unescape(text(admin_client.get(STATE)))
    assert "Nothing is wrong." in shown
    assert 'href="/admin/telemetry/requestlog/?outcome=client"' in shown


def test_failures_of_ours_and_of_clients_are_told_apart_and_the_difference_to_the_figure_is_said(
    admin_client: Client, open_vault: None
) -> None:
    note(*[entry()] * 14, *[entry(status=429, error_code="budget_exceeded")] * 3)
    note(entry(status=502, error_code="all_models_failed", error_class="invalid_request"))
    note(entry(status=429, error_code="upstream_rate_limited", error_class="rate_limited"))
    note(entry(status=504, error_code="upstream_timeout", error_class="timeout"))
    assert troubles(admin_client) == [("warn", "15 % of the requests fail")]
    assert [what for what, _ in notes(admin_client)] == [
        "15 % of the requests are refused for what clients sent or may spend"
    ]
    shown = unescape(text(admin_client.get(STATE)))
    assert "3 of 20 in 15 minutes: 1 all_models_failed, 1 rate_limited, 1 timeout." in shown
    assert "Not among them, but in the figure of errors: 3 by what clients sent." in shown


def test_causes_that_are_not_named_are_counted(admin_client: Client, open_vault: None) -> None:
    classes = ["timeout"] * 3 + ["transient"] * 2 + ["auth", "rate_limited", "model_unavailable"]
    note(*[entry()] * 2, *[entry(status=502, error_class=one) for one in classes])
    assert "8 of 10 in 15 minutes: 3 timeout, 2 transient, 1 auth and 2 others." in text(admin_client.get(STATE))


def test_a_log_that_lags_is_told(admin_client: Client, open_vault: None, folder: Path) -> None:
    line = encode_line(entry(at=int((time() - 600) * 1e6)))
    (folder / "journal" / "host-1-1-aa.journal").write_bytes(line)
    ((level, what),) = troubles(admin_client)
    assert (level, re.sub(r"\d+", "N", what)) == ("bad", "The request log is N s behind")


def test_staff_hear_only_of_what_they_may_see(staff_client: Client, open_vault: None, target: Model) -> None:
    sick(target, errors=6)
    JobState.objects.create(name="rollup", last_outcome=Outcome.FAILED)
    assert troubles(staff_client) == []
    clerk = User.objects.get(username="clerk")
    clerk.user_permissions.add(Permission.objects.get(codename="view_provider"))
    assert [what for _, what in troubles(staff_client)] == ["acme/eu is degraded"]


# -- figures ---------------------------------------------------------------------------------------------------------
def figures(client: Client, **given: str) -> Any:
    answer: Any = client.get(FIGURES, given)
    assert answer.status_code == 200
    return answer


def test_the_tiles_count_the_window_and_compare_it_with_the_one_before(admin_client: Client) -> None:
    now = int(time() * 1e6)
    note(
        *[entry(cost_nano=NANO, input_tokens=10, output_tokens=5, latency_ms=20, first_chunk_ms=50)] * 3,
        entry(status=503, error_class="transient", latency_ms=900),
        entry(at=now - 30 * 3600 * 1_000_000, cost_nano=NANO, latency_ms=10),
    )  # fmt: skip
    tiles = {one.name: one for one in figures(admin_client).context["tiles"]}
    assert (tiles["Requests"].value, tiles["Requests"].more, tiles["Requests"].change) == ("4", "1 before", 300)
    assert (tiles["Errors"].value, tiles["Errors"].more) == ("25.0 %", "1 failed")
    assert (tiles["Cost"].value, tiles["Cost"].change) == ("$3.00", 200)
    assert (tiles["Tokens"].value, tiles["Tokens"].more) == ("45", "30 in, 15 out")
    assert (tiles["Latency, median"].value, tiles["Latency, median"].good) == ("20 ms", False)
    assert (tiles["First chunk, p95"].value, tiles["First chunk, p95"].change) == ("50 ms", None)


@pytest.mark.filterwarnings("ignore:DateTimeField RequestLog.created_at received a naive")  # from unfold's filter
@pytest.mark.parametrize("by", ["model", "provider", "project", "key"])
def test_every_tile_and_row_leads_to_the_requests_that_it_counts(by: str, admin_client: Client) -> None:
    row: dict[str, Any] = {"api_key_id": "k", "project": "web", "model_id": "org/m", "provider_id": "acme/eu"}
    row |= {"endpoint": "chat", "api_key_name": "shop"}
    for status in (200, 503):
        RequestLog.objects.create(request_id=uuid4(), created_at=timezone.now(), status=status, **row)
        note(entry(status=status, project="web"))
    RequestLog.objects.create(request_id=uuid4(), created_at=timezone.now() - timedelta(days=3), status=200, **row)
    context = figures(admin_client, by=by).context
    (found,) = context["rows"]
    counted = {
        **{one.url: 2 for one in context["tiles"]}, found.url: 2, found.errors_url: 1,
        next(one.url for one in context["tiles"] if one.name == "Errors"): 1,
        next(one.url for one in context["tiles"] if one.name.startswith("First")): 0,
    }  # fmt: skip
    for url, count in counted.items():
        answer: Any = admin_client.get(url)
        assert len(answer.context["cl"].result_list) == count, url


def test_unknown_windows_and_labels_are_the_default(admin_client: Client) -> None:
    context = figures(admin_client, window="99y", by="id; --").context
    assert (context["window"], context["by"]) == ("24h", "model")


def test_nothing_at_all_says_what_to_do(admin_client: Client) -> None:
    assert "No request in this time" in text(figures(admin_client, window="7d"))


def test_names_of_models_are_escaped(admin_client: Client) -> None:
    note(entry(model="<script>alert(1)</script>"))
    shown = text(figures(admin_client))
    assert "<script>alert" not in shown
    assert "&lt;script&gt;alert" in shown


def test_figures_are_for_those_who_may_see_the_time_series(staff_client: Client, client: Client) -> None:
    assert staff_client.get(FIGURES).status_code == 403
    assert reverse("dashboard-figures") not in text(staff_client.get(reverse("admin:index")))
    clerk = User.objects.get(username="clerk")
    clerk.user_permissions.add(Permission.objects.get(codename="view_sample"))
    assert figures(staff_client, by="key").context["by"] == "model"  # names of keys are the request log's
    for url in (STATE, FIGURES):
        assert client.get(url).status_code == 302
        assert staff_client.post(url).status_code == 405


@pytest.mark.parametrize("url", [reverse("admin:index"), STATE, FIGURES, FIGURES + "?by=key&window=30d"])
def test_a_page_costs_the_same_few_queries_however_much_there_is(
    url: str, admin_client: Client, open_vault: None, target: Model
) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert admin_client.get(url).status_code == 200
        return len(queries)

    cost()  # content types are read once per process
    few = cost()
    sick(target, errors=6)
    for number in range(20):
        note(entry(model=f"m{number}", project=f"p{number}", status=503))
        Model.objects.create(id=f"m{number}", provider=target.provider, **PRICED)
        RequestLog.objects.create(
            request_id=uuid4(), created_at=timezone.now(), endpoint="chat", status=200, api_key_id=f"k{number}"
        )
        JobState.objects.create(name="rollup", host=f"h{number}", last_outcome=Outcome.FAILED)
    assert cost() == few <= QUERIES_OF_A_PAGE


def test_no_part_counts_the_request_log(admin_client: Client) -> None:
    """What it reads of it, if anything, has a limit."""
    for url in (STATE, FIGURES, FIGURES + "?by=key"):
        with CaptureQueriesContext(connection) as queries:
            admin_client.get(url)
        of_log = [one["sql"] for one in queries if "requestlog" in one["sql"]]
        assert [one for one in of_log if "LIMIT" not in one] == []
