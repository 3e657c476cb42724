from __future__ import annotations

import re
from datetime import timedelta
from time import monotonic
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.db.models import F
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from providers.models import CredentialStore, Provider
from providers.outcomes import ErrorClass
from routing.breaker import DOWN_AFTER, DOWN_SECONDS, State
from routing.health import HEAD_START_SECONDS, Change, Health
from routing.health_store import (
    KEPT_SECONDS,
    HealthStore,
    _announce,
    health_report,
    health_states,
)
from routing.models import HealthNotice, HealthRecord, Model
from telemetry import webhooks

pytestmark = pytest.mark.django_db


def worker() -> tuple[Health, HealthStore]:
    health = Health()
    store = HealthStore(health)
    store.load()
    return health, store


def fail(health: Health, error: ErrorClass = ErrorClass.TRANSIENT, *, status: int = 503, **options: Any) -> None:
    health.failed("p", "m", error, now=monotonic(), retry_after=options.get("retry_after"), status=status)


def succeed(health: Health, *, latency_ms: float = 100.0) -> None:
    now = monotonic()
    health.succeeded("p", "m", latency_ms=latency_ms, started=now, now=now)


def take_down(health: Health) -> None:
    for _ in range(DOWN_AFTER):
        fail(health)


# -- what workers tell each other --------------------------------------------------------------------------------------
def test_a_rest_reaches_another_worker_and_so_does_its_end() -> None:
    (one, first), (other, second) = worker(), worker()
    take_down(one)
    first.sync()
    second.sync()
    assert other.resting("p", "m", monotonic()) == "down"
    left = other.rest_seconds("p", "m", monotonic())
    assert left == pytest.approx(DOWN_SECONDS + HEAD_START_SECONDS, abs=0.5)
    succeed(one)
    first.sync()
    second.sync()
    assert other.resting("p", "m", monotonic()) == ""
    assert other.stats("p", "m").state(monotonic()) is State.HEALTHY


def test_a_credential_that_one_worker_saw_refused_is_left_alone_by_all() -> None:
    (one, first), (other, second) = worker(), worker()
    fail(one, ErrorClass.AUTH, status=401)
    first.sync()
    second.sync()
    assert other.resting("p", "another model", monotonic()) == "auth"


def test_a_worker_that_starts_later_rests_too() -> None:
    one, first = worker()
    fail(one, ErrorClass.RATE_LIMITED, status=429, retry_after=120.0)
    first.sync()
    other, _ = worker()
    assert other.rest_seconds("p", "m", monotonic()) == pytest.approx(120.0, abs=0.5)


def test_many_rests_of_one_target_are_one_row() -> None:
    one, first = worker()
    for seconds in range(1, 50):
        fail(one, ErrorClass.RATE_LIMITED, status=429, retry_after=float(seconds))
        first.sync()
    assert HealthNotice.objects.count() == 1


def test_what_was_heard_once_is_not_handed_over_again(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    one, first = worker()
    handed: list[object] = []
    other = Health()
    second = HealthStore(other, post=handed.append)
    fail(one, ErrorClass.RATE_LIMITED, status=429, retry_after=30.0)
    first.sync()
    second.sync()
    assert len(handed) == 1
    with django_assert_num_queries(1):
        second.sync()
    assert len(handed) == 1


@pytest.mark.django_db(transaction=True)
def test_what_could_not_be_told_is_told_later() -> None:
    (one, first), (other, second) = worker(), worker()
    fail(one, ErrorClass.RATE_LIMITED, status=429, retry_after=30.0)

    def refuse(*_: object) -> None:
        raise DatabaseError

    with connection.execute_wrapper(refuse), pytest.raises(DatabaseError):
        first.sync()
    first.sync()
    second.sync()
    assert other.resting("p", "m", monotonic()) == "rate_limited"


def test_a_clock_that_is_ahead_rests_nothing_for_longer_than_was_said() -> None:
    one, first = worker()
    fail(one, ErrorClass.RATE_LIMITED, status=429, retry_after=30.0)
    first.sync()
    ahead = timedelta(hours=1)
    HealthNotice.objects.update(began_at=F("began_at") + ahead, until_at=F("until_at") + ahead)
    other, _ = worker()
    assert other.rest_seconds("p", "m", monotonic()) == pytest.approx(30.0, abs=0.5)


def test_notices_are_removed_when_nobody_needs_them() -> None:
    one, first = worker()
    fail(one, ErrorClass.RATE_LIMITED, status=429, retry_after=30.0)
    first.sync()
    row = HealthNotice.objects.get()
    assert row.until_at is not None
    assert abs(row.expires_at - row.until_at - timedelta(seconds=KEPT_SECONDS)) < timedelta(milliseconds=1)
    HealthNotice.objects.update(expires_at=timezone.now())
    _, second = worker()
    second.sync()
    assert not HealthNotice.objects.exists()


def test_others_are_woken_for_news_and_not_too_often() -> None:
    woken: list[int] = []
    health = Health()
    store = HealthStore(health, wake=lambda: woken.append(1))
    health.wake = store.wake
    for _ in range(50):
        fail(health, ErrorClass.RATE_LIMITED, status=429, retry_after=0.000_001)
    assert len(woken) == 1


# -- what outlives a restart -------------------------------------------------------------------------------------------
def test_figures_survive_a_restart() -> None:
    health, store = worker()
    for _ in range(3):
        succeed(health, latency_ms=250.0)
    fail(health)
    health.counted("p", "m", guessed=100, tokens=200)
    store.save()
    again, _ = worker()
    before, after = health.stats("p", "m"), again.stats("p", "m")
    assert (after.calls, after.errors, after.consecutive_errors) == (4, 1, 1)
    assert after.latency_ms == before.latency_ms
    assert after.failure == pytest.approx(before.failure)
    assert after.tokens_per_guess == before.tokens_per_guess
    assert after.last_error == before.last_error == "transient (HTTP 503)"
    assert after.last_success_at == pytest.approx(before.last_success_at, abs=0.1)


def test_a_target_that_was_down_long_ago_is_half_open_after_a_restart() -> None:
    health, store = worker()
    take_down(health)
    store.save()
    again, _ = worker()
    assert again.stats("p", "m").state(monotonic()) is State.DOWN
    assert again.admitted("p", "m", monotonic())
    assert again.admitted("p", "m", monotonic()) is None
    succeed(again)
    assert again.admitted("p", "m", monotonic()) == 0.0


def test_calls_of_all_workers_add_up(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    workers = [worker() for _ in range(3)]
    for turn in range(4):
        for health, store in workers:
            succeed(health, latency_ms=100.0 if turn else 300.0)
            fail(health)
            store.save()
    row = HealthRecord.objects.get(model_id="m")
    assert (row.calls, row.errors) == (24, 12)
    assert 100.0 < row.latency_ms < 300.0
    with django_assert_num_queries(0):
        workers[0][1].save()


def test_many_targets_are_saved_with_few_queries(django_assert_max_num_queries: DjangoAssertNumQueries) -> None:
    health, store = worker()
    for number in range(200):
        health.succeeded("p", f"m{number}", latency_ms=1.0, started=1.0, now=2.0)
    with django_assert_max_num_queries(8):
        store.save()
    assert HealthRecord.objects.count() == 200


# -- who probes --------------------------------------------------------------------------------------------------------
# -- for people --------------------------------------------------------------------------------------------------------
@pytest.fixture
def rows() -> None:
    for name in ("p", "q"):
        provider = Provider.objects.create(id=name, type="openai", cred_store=CredentialStore.NONE)
        Model.objects.create(id="m" if name == "p" else "n", provider=provider)
    off = Provider.objects.create(id="off", type="openai", enabled=False)
    Model.objects.create(id="unused", provider=off)


@pytest.mark.usefixtures("rows")
def test_the_report_has_the_shape_of_the_contract() -> None:
    health, store = worker()
    succeed(health, latency_ms=120.0)
    take_down(health)
    store.sync()
    report = health_report(store=store)
    assert [one["provider_id"] for one in report["providers"]] == ["p", "q"]
    p, q = report["providers"]
    fields = {
        "state", "total_requests", "total_errors", "consec_errors", "avg_latency_ms", "last_error", "last_success_at",
        "cooldown_until",
    }  # fmt: skip
    assert set(p) == fields | {"provider_id", "models"}
    (model,) = p["models"]
    assert set(model) == fields | {"model_id"}
    assert (p["state"], model["state"], q["state"]) == ("down", "down", "healthy")
    for one in (p, model):
        assert (one["total_requests"], one["total_errors"], one["consec_errors"]) == (6, 5, 5)
        assert one["avg_latency_ms"] == 120.0
        assert one["last_error"] == "transient (HTTP 503)"
        assert one["last_success_at"].endswith("Z")
    assert p["cooldown_until"][:19] == model["cooldown_until"][:19] > timezone.now().isoformat()
    assert {name: q[name] for name in sorted(fields)} == {
        "avg_latency_ms": None, "consec_errors": 0, "cooldown_until": None, "last_error": None,
        "last_success_at": None, "state": "healthy", "total_errors": 0, "total_requests": 0,
    }  # fmt: skip


@pytest.mark.usefixtures("rows")
def test_the_report_asks_a_fixed_number_of_queries(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    health, store = worker()
    for number in range(50):
        Model.objects.create(id=f"m{number}", provider_id="p")
        health.succeeded("p", f"m{number}", latency_ms=1.0, started=1.0, now=2.0)
    store.save()
    with django_assert_num_queries(4):
        health_report()
    with django_assert_num_queries(2):
        assert health_states()["p", "m1"] is State.HEALTHY


@pytest.mark.usefixtures("rows")
def test_the_list_of_models_shows_their_health(admin_client: Client) -> None:
    health, store = worker()
    take_down(health)
    store.sync()
    page = admin_client.get(reverse("admin:routing_model_changelist")).content.decode()
    cells = {
        name: re.sub(r"<[^>]*>|\s", "", cell)
        for name, cell in zip(
            re.findall(r"field-id.*?>([a-z]+)</a>", page, re.DOTALL),
            re.findall(r"field-health[^>]*>(.*?)</td>", page, re.DOTALL),
            strict=True,
        )
    }
    assert cells == {"m": "down", "n": "healthy", "unused": "healthy"}


# -- who tells of changes ------------------------------------------------------------------------------------------
def announced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str, bool]]:
    """Scope, before, after, and whether webhooks get it; of every change that is told from now on."""
    told: list[tuple[str, str, str, bool]] = []

    def announce(event: str, data: dict[str, Any], *, durably: bool) -> None:
        assert event == "health_change"
        told.append((data["scope"], data["from"], data["to"], durably))

    monkeypatch.setattr(webhooks, "announce", announce)
    return told


def test_a_change_is_told_once_by_whoever_saw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = announced(monkeypatch)
    (one, first), (other, second) = worker(), worker()
    take_down(one)
    take_down(other)  # saw it for itself
    for _ in range(2):
        first.sync()
        second.sync()
    assert [what for what in told if what[0] == "model"] == [("model", "degraded", "down", True)]
    told.clear()
    succeed(other)
    for _ in range(2):
        second.sync()
        first.sync()
    assert ("model", "down", "healthy", True) in told
    assert len([what for what in told if what[0] == "model"]) == 1


def test_whoever_knows_less_does_not_take_back_what_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = announced(monkeypatch)
    down, degraded, healthy = State.DOWN, State.DEGRADED, State.HEALTHY
    for before, after in [
        (degraded, down),
        (healthy, degraded),  # of a worker that has seen two errors so far
        (degraded, healthy),  # and an answer since, which says nothing of the outage
        (down, degraded),
        (down, healthy),  # of one that did not know of the half recovery
        (degraded, healthy),
    ]:
        _announce(Change("p", "m", before, after, ""))
    assert [(what[1], what[2]) for what in told] == [
        ("degraded", "down"), ("down", "degraded"), ("down", "healthy"),
    ]  # fmt: skip


def test_an_outage_that_was_over_before_it_was_told_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = announced(monkeypatch)
    health, store = worker()
    take_down(health)
    succeed(health)
    store.sync()
    assert told == []


def test_what_another_worker_tells_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    (one, first), (other, second) = worker(), worker()
    take_down(one)
    first.sync()
    told = announced(monkeypatch)
    HealthRecord.objects.update(told_state="healthy")  # as if somebody had told of its recovery meanwhile
    second.sync()
    assert other.stats("p", "m").lasting_state is State.DOWN
    assert told == []
    assert not other.changes


def test_a_restart_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one, first = worker()
    take_down(one)
    first.sync()
    told = announced(monkeypatch)
    health, store = worker()
    store.sync()
    assert told == []
    succeed(health)
    store.sync()
    assert ("model", "down", "healthy", True) in told


def test_a_pause_after_a_429_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    told = announced(monkeypatch)
    health, store = worker()
    fail(health, ErrorClass.RATE_LIMITED, status=429, retry_after=30.0)
    store.sync()
    assert told == []


def test_a_refused_credential_is_an_outage_until_it_works_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told = announced(monkeypatch)
    health, store = worker()
    fail(health, ErrorClass.AUTH, status=401)
    fail(health, ErrorClass.AUTH, status=401)
    store.sync()
    assert told == [("provider", "healthy", "down", True)]
    assert health.provider("p").lasting_state is State.DOWN  # also when its rest is over: nobody has shown otherwise
    health.credential_changed("p", monotonic())
    store.sync()
    assert told[1:] == [("provider", "down", "healthy", True)]
