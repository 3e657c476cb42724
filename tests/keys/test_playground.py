"""The playground's keys: short-lived, a person's own, and cleaned up."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from keys import playground, services
from keys.models import ClientKey
from telemetry import retention
from telemetry.models import AuditEntry

pytestmark = pytest.mark.django_db


def test_a_key_ends_within_the_hour_and_may_chat_and_plan_alone() -> None:
    key = playground.issue(owner="ann").record
    assert (key.owner, sorted(key.scopes), key.is_playground) == ("ann", ["chat", "plan"], True)
    assert key.expires_at is not None
    assert timedelta(0) < key.expires_at - timezone.now() <= timedelta(hours=1)
    assert AuditEntry.objects.latest("number").action == "apikey.issue"


def test_a_person_has_a_few_and_the_oldest_makes_room() -> None:
    first = playground.issue(owner="ann").record
    other = playground.issue(owner="bob").record
    for _ in range(playground.AT_ONCE):
        playground.issue(owner="ann")
    assert not ClientKey.objects.filter(pk=first.pk).exists()
    assert ClientKey.objects.filter(owner="ann").count() == playground.AT_ONCE
    assert ClientKey.objects.filter(pk=other.pk).exists()


def test_nobody_ends_the_key_of_another_nor_one_of_an_application() -> None:
    own = playground.issue(owner="ann").record
    lasting = services.issue(name="shop", owner="bob").record
    assert playground.end(owner="bob", key_id=str(own.pk)) is False
    assert playground.end(owner="bob", key_id=str(lasting.pk)) is False
    assert playground.end(owner="ann", key_id=str(own.pk)) is True
    assert [key.pk for key in ClientKey.objects.all()] == [lasting.pk]
    assert AuditEntry.objects.latest("number").action == "apikey.delete"


def test_pruning_drops_what_is_over_and_no_expired_key_of_an_application() -> None:
    over, fresh = playground.issue(owner="ann").record, playground.issue(owner="ann").record
    lasting = services.issue(name="shop", expires_at=timezone.now() - timedelta(days=1)).record
    ClientKey.objects.filter(pk=over.pk).update(expires_at=timezone.now() - timedelta(minutes=1))
    assert playground.prune in retention.PRUNERS
    assert playground.prune() == 1
    assert {key.pk for key in ClientKey.objects.all()} == {fresh.pk, lasting.pk}
    assert [key.pk for key in ClientKey.objects.lasting()] == [lasting.pk]
