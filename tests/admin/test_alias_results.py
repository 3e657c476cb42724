"""How the variants of an alias do beside one another."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.utils import quote
from django.test import Client
from django.urls import reverse
from django.utils import timezone

import tokenhub.urls  # noqa: F401  registers the pages
from routing.alias_results import results, rows_of
from routing.models import Alias, AliasVariant, Feedback
from telemetry.models import RequestLog
from tests.admin.forms import text
from tests.admin.samples import model, request_row
from tests.admin.test_queries import within_budget

pytestmark = pytest.mark.django_db
GOOD, BAD = "org/model_1", "org/model_2"


@pytest.fixture
def chat(db: None) -> Alias:
    """Three quarters to the good one."""
    alias = Alias.objects.create(name="org/chat")
    AliasVariant.objects.create(alias=alias, model=model(1), weight=3)
    AliasVariant.objects.create(alias=alias, model=model(2), weight=1)
    return alias


def asked(first: str, answered: str = "", *, reward: float | None = None, **fields: Any) -> RequestLog:
    attempts = [{"model": one, "provider": "p"} for one in dict.fromkeys([first, answered or first])]
    defaults = {
        "request_id": uuid4(), "created_at": timezone.now(), "endpoint": "/v1/chat", "status": 200, "latency_ms": 100,
        "alias": "org/chat", "model_id": answered or first, "routing_reason": "alias-variant", "cost_usd": "0.01",
        "detail": {"attempts": attempts, **({} if reward is None else {"reward": reward})},
    }  # fmt: skip
    return RequestLog(**defaults | fields)


def figures(alias: Alias) -> dict[str, tuple[int, int]]:
    found = results(alias, now=timezone.now() + timedelta(seconds=1), days=7)
    return {one.model_id: (one.requests, one.successes) for one in found.variants}


def test_a_request_counts_for_the_variant_that_was_asked_first(chat: Alias) -> None:
    RequestLog.objects.bulk_create(
        [
            asked(GOOD),
            asked(BAD, GOOD, routing_reason="failover-transient"),
            asked(BAD, status=502, error_code="all_models_failed"),
            asked(BAD, client_disconnected=True),
            asked(GOOD, created_at=timezone.now() - timedelta(days=9)),
            asked(GOOD, alias="other"),
            asked("org/model_3"),
        ]
    )
    request_row(1, alias="org/chat", detail={})  # refused: nobody was asked
    assert figures(chat) == {GOOD: (1, 1), BAD: (2, 0), "org/model_3": (1, 1)}


def test_rewards_are_what_is_known_by_now(chat: Alias) -> None:
    late, scored = asked(GOOD, reward=0.2), asked(GOOD)
    RequestLog.objects.bulk_create([late, scored, asked(GOOD, reward=0.4), asked(GOOD)])
    Feedback.objects.create(request_id=late.request_id, api_key_id="k", model_id=GOOD, reward=0.9)
    Feedback.objects.create(request_id=scored.request_id, api_key_id="k", model_id=GOOD, score=0.7)
    (best, _) = results(chat, now=timezone.now() + timedelta(seconds=1), days=7).variants
    assert sorted(best.rewards) == [0.4, 0.7, 0.9]


def test_a_shadow_stands_by_itself(chat: Alias) -> None:
    AliasVariant.objects.filter(model_id=BAD).update(is_shadow=True)
    RequestLog.objects.bulk_create([asked(GOOD), asked(BAD, routing_reason="shadow")])
    found = results(chat, now=timezone.now() + timedelta(seconds=1), days=7)
    assert [(one.model_id, one.is_shadow, one.requests) for one in found.variants] == [(GOOD, False, 1), (BAD, True, 1)]


def test_the_page_tells_a_difference_beyond_chance_and_no_other(chat: Alias, admin_client: Client) -> None:
    rng = Random(3)
    RequestLog.objects.bulk_create(
        [asked(GOOD, latency_ms=100 + rng.randrange(50), reward=0.8 + rng.random() / 10) for _ in range(60)]
        + [asked(BAD, latency_ms=400 + rng.randrange(50), reward=0.8 + rng.random() / 10) for _ in range(60)]
        + [asked(BAD, GOOD) for _ in range(20)]
    )
    url = reverse("admin:routing_alias_compare", args=[quote("org/chat")])
    answer: Any = within_budget(admin_client, url)
    first, second = answer.context["variants"]
    assert (first["share"], second["share"], first["hints"]) == (75.0, 25.0, [])
    assert second["hints"] == [("bad", "fails more"), ("bad", "slower")]
    assert "75.0 %" in text(answer)
    assert f'href="{reverse("admin:routing_alias_change", args=[quote("org/chat")])}"' in text(answer)


def test_few_requests_are_not_compared(chat: Alias, admin_client: Client) -> None:
    RequestLog.objects.bulk_create([asked(GOOD), asked(BAD, GOOD)])
    page = text(admin_client.get(reverse("admin:routing_alias_compare", args=[quote("org/chat")])))
    assert "too few requests to compare" in page


def test_without_a_request_the_page_says_what_to_do(chat: Alias, admin_client: Client) -> None:
    page = text(admin_client.get(reverse("admin:routing_alias_compare", args=[quote("org/chat")]), {"days": "30"}))
    assert "No request named the alias in these days." in page


def test_its_requests_are_found_by_the_index_of_aliases(chat: Alias) -> None:
    assert "requestlog_alias_at" in rows_of(chat.name, timezone.now(), 7).explain()
