"""Fresh secrets for client keys."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection
from django.utils import timezone

from keys import services
from keys.auth import AuthError, authenticate
from keys.models import ClientKey, Project
from routing.snapshot_build import build_snapshot
from telemetry import webhooks

pytestmark = pytest.mark.django_db


def works(plaintext: str, *, after: timedelta = timedelta()) -> bool:
    now = (timezone.now() + after).timestamp()
    try:
        authenticate(build_snapshot().keys, {b"authorization": b"Bearer " + plaintext.encode()}, now=now)
    except AuthError:
        return False
    return True


def test_without_a_grace_the_old_secret_ends_at_once() -> None:
    first = services.issue(name="app")
    second = services.reissue(key=first.record)
    assert (works(first.plaintext), works(second.plaintext)) == (False, True)


def test_both_secrets_work_through_the_grace() -> None:
    first = services.issue(name="app")
    second = services.reissue(key=first.record, grace=timedelta(hours=1))
    assert works(first.plaintext)
    assert not works(first.plaintext, after=timedelta(minutes=61))
    assert works(second.plaintext, after=timedelta(minutes=61))
    third = services.reissue(key=second.record, grace=timedelta(hours=1))
    assert (works(first.plaintext), works(second.plaintext), works(third.plaintext)) == (False, True, True)


def test_a_revoked_key_is_refused_with_both_secrets_and_an_expired_one_too() -> None:
    first = services.issue(name="app", expires_at=timezone.now() + timedelta(minutes=10))
    second = services.reissue(key=first.record, grace=timedelta(hours=1))
    assert not works(first.plaintext, after=timedelta(minutes=11))
    services.revoke(key=second.record)
    assert not works(first.plaintext)
    assert not works(second.plaintext)


def test_a_secret_is_renewed_only_by_who_knows_which_one() -> None:
    """Or the second of two would end the secret that is in use, in spite of its grace."""
    first = services.issue(name="app")
    stale = ClientKey.objects.get()
    second = services.reissue(key=first.record, grace=timedelta(hours=1))
    with pytest.raises(services.SecretChanged):
        services.reissue(key=stale, grace=timedelta(hours=1))
    assert (works(first.plaintext), works(second.plaintext)) == (True, True)


def test_what_else_was_changed_meanwhile_stays() -> None:
    key = services.issue(name="app").record
    stale = ClientKey.objects.get()
    key.owner = "another team"
    services.save(key=key)
    services.revoke(key=stale)
    stored = ClientKey.objects.get()
    assert (stored.owner, stored.enabled) == ("another team", False)


def rotate(*arguments: str) -> str:
    out = StringIO()
    call_command("keys", "rotate", *arguments, stdout=out)
    return out.getvalue()


def test_the_keys_whose_rotation_is_due_are_rotated() -> None:
    due = services.issue(name="due", rotation_days=30)
    services.issue(name="young", rotation_days=30)
    services.issue(name="never")
    off = services.issue(name="off", rotation_days=1, enabled=False)
    ClientKey.objects.filter(name__in=["due", "off"]).update(rotated_at=timezone.now() - timedelta(days=31))
    assert rotate("--due", "--grace", "24h").count("tokenhub_") >= 1
    assert works(due.plaintext)
    assert ClientKey.objects.get(name="due").digest != due.record.digest
    assert ClientKey.objects.get(name="off").digest == off.record.digest
    assert "No rotation is due" in rotate("--due")
    with pytest.raises(CommandError, match="no duration"):
        rotate("young", "--grace", "soon")
    with pytest.raises(CommandError):
        rotate()


@pytest.mark.parametrize("field", ["tags", "allowed_models"])
@pytest.mark.parametrize("word", ["a\0b", "\udcff"])
def test_a_word_that_no_database_can_hold_is_refused(field: str, word: str) -> None:
    bad: dict[str, Any] = {field: ["fine", word]}
    good: dict[str, Any] = {field: ["fine", "ä😀"]}
    with pytest.raises(ValidationError, match="no text can hold"):
        services.issue(name="app", **bad)
    assert services.issue(name="app", **good).record.pk


# -- who is told ---------------------------------------------------------------------------------------------------
@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(webhooks, "announce", lambda event, data: found.append({"event": event, **data}))
    return found


def test_a_due_key_is_told_of_once_for_each_due_date(told: list[dict[str, Any]]) -> None:
    now = timezone.now()
    due = services.issue(name="app", project="shop", rotation_days=30)
    services.issue(name="later", rotation_days=60)
    services.issue(name="never")
    services.issue(name="disabled", rotation_days=1, enabled=False)
    assert services.tell_due(now + timedelta(days=29)) == 0
    assert services.tell_due(now + timedelta(days=31)) == 1
    assert services.tell_due(now + timedelta(days=32)) == 0
    (one,) = told
    assert (one["event"], one["api_key_name"], one["project"]) == ("key_rotation_due", "app", "shop")
    assert one["api_key_prefix"] in due.plaintext
    assert due.plaintext not in str(one)
    services.reissue(key=due.record)
    assert services.tell_due(now + timedelta(days=29)) == 0
    assert services.tell_due(timezone.now() + timedelta(days=31)) == 1


def test_a_key_whose_event_fails_is_told_of_later(monkeypatch: pytest.MonkeyPatch) -> None:
    services.issue(name="app", rotation_days=1)

    def fail(event: str, data: dict[str, Any]) -> None:
        raise DatabaseError

    with monkeypatch.context() as patch:
        patch.setattr(webhooks, "announce", fail)
        with pytest.raises(DatabaseError):
            services.tell_due(timezone.now() + timedelta(days=2))
    assert services.tell_due(timezone.now() + timedelta(days=2)) == 1


def test_a_key_that_rules_of_today_would_refuse_can_be_revoked_and_rotated() -> None:
    first = services.issue(name="app")
    ClientKey.objects.update(rate_limit_burst=5)  # without requests per second
    second = services.reissue(key=ClientKey.objects.get())
    assert (works(first.plaintext), works(second.plaintext)) == (False, True)
    services.revoke(key=ClientKey.objects.get())
    assert not works(second.plaintext)


def test_the_upgrade_takes_out_bursts_that_limit_nothing() -> None:
    alone, paired = (services.issue(name=name).record.pk for name in ("alone", "paired"))
    ClientKey.objects.update(rate_limit_burst=5)
    ClientKey.objects.filter(pk=paired).update(rate_limit_rps=1.0)
    Project.objects.create(name="web", rate_limit_burst=5)
    upgrade = import_module("keys.migrations.0009_bursts_that_limit_nothing")
    upgrade.take_out(apps, SimpleNamespace(connection=connection))
    found = dict(ClientKey.objects.values_list("pk", "rate_limit_burst"))
    assert found == {alone: None, paired: 5}
    assert Project.objects.get().rate_limit_burst is None
