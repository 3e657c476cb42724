"""The page of a request: its story, told from the row."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from decimal import Decimal
from html import unescape
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from keys import services as keys
from providers.models import CredentialStore, Provider, ProviderType
from routing.models import Model, Price
from telemetry.models import RequestLog
from tests.admin.forms import text
from tests.admin.samples import model as any_model
from tests.admin.test_queries import within_budget
from tokenhub.explain import Story, story

pytestmark = pytest.mark.django_db


def row(**fields: Any) -> RequestLog:
    made = {
        "request_id": uuid4(), "created_at": timezone.now(), "endpoint": "/v1/chat/completions", "status": 200,
        "api_key_name": "shop", "requested_model": "gpt", "model_id": "gpt", "provider_id": "acme",
        "routing_reason": "model-hint", "attempts": 1, "latency_ms": 1000,
    }  # fmt: skip
    return RequestLog.objects.create(**{**made, **fields})


def told(**fields: Any) -> Story:
    return story(row(**fields))


def shown(client: Client, made: RequestLog) -> str:
    answer = within_budget(client, reverse("admin:telemetry_requestlog_change", args=[made.pk]))
    return re.sub(r"\s+", " ", unescape(text(answer)))


@pytest.fixture
def model(db: None) -> Model:
    provider = Provider.objects.create(
        id="acme", type=ProviderType.VLLM, base_url="http://10.0.0.5:8000", cred_store=CredentialStore.NONE
    )
    prices = {"input_per_1k": "1", "cached_input_per_1k": "0.1", "output_per_1k": "2", "reasoning_per_1k": "3"}
    return Model.objects.create(id="gpt", provider=provider, **prices)


def test_it_says_in_a_sentence_what_came_of_the_request() -> None:
    assert told().outcome == "gpt at acme answered in 1,000 ms"
    assert (
        told(status=503, error_code="upstream_unavailable").outcome
        == "Failed with 503 upstream_unavailable after 1,000 ms"
    )
    assert told(endpoint="/v1/messages/count_tokens").outcome == "Tokens were counted for gpt at acme in 1,000 ms"
    assert told(client_disconnected=True).outcome == "The client left after 1,000 ms"
    assert [told(**one).mood for one in ({}, {"status": 429}, {"client_disconnected": True})] == ["good", "bad", "warn"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "shop asked for the model gpt. It was asked for by name."),
        (
            {"alias": "best", "requested_model": "best", "routing_reason": "alias-variant"},
            "shop asked for the alias best. The alias stands for it.",
        ),
        (
            {"requested_model": "auto", "mode": "fast", "routing_reason": "routed-weight-7"},
            "shop asked for the router to choose, in the mode fast. The router chose it by its score; its weight is 7.",
        ),
        (
            {"routing_reason": "failover-rate_limited"},
            "shop asked for the model gpt. Another one was asked before, and failed: rate limited.",
        ),
        (
            {"status": 400, "attempts": 0, "routing_reason": "", "model_id": "", "error_code": "invalid_request"},
            "shop asked for the model gpt. It was refused before anybody was asked.",
        ),
        (
            {"api_key_name": "", "status": 401, "attempts": 0, "routing_reason": "", "requested_model": "",
             "model_id": ""},
            "Somebody without a client key called /v1/chat/completions: nothing was asked for. ",
        ),
        (
            {"endpoint": "/v1/messages/count_tokens"},
            "shop asked how many tokens a request to gpt would have. It was asked for by name.",
        ),
    ],
)  # fmt: skip
def test_it_says_what_was_asked_for_and_why_that_one_answered(fields: dict[str, Any], words: str) -> None:
    found = told(**fields)
    assert f"{found.asked} {found.reason}" == words


def test_the_timeline_has_the_attempts_one_after_the_other(admin_client: Client) -> None:
    attempts = [
        {"model": "slow", "provider": "p", "error_class": "rate_limited", "status": 429, "latency_ms": 250,
         "message": "<b>no</b>"},
        {"model": "gpt", "provider": "acme", "status": 200, "latency_ms": 500},
    ]  # fmt: skip
    made = row(detail={"attempts": attempts}, attempts=2, stream=True, time_to_first_chunk_ms=700)
    found = story(made)
    assert [(one.outcome, one.is_answer, one.at, one.width) for one in found.attempts] == [
        ("rate limited (429)", False, 0, 25), ("answered (200)", True, 25, 50),
    ]  # fmt: skip
    assert (found.total_ms, found.beside_ms, found.first_at) == (1000, 250, 70)
    page = text(admin_client.get(reverse("admin:telemetry_requestlog_change", args=[made.pk])))
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    assert '<rect class="ob-strip-bad"' in page


def test_attempts_that_took_longer_than_the_request_fit_onto_its_timeline() -> None:
    """Two that ran beside each other."""
    attempts = [{"model": "a", "provider": "p", "latency_ms": 900}, {"model": "b", "provider": "p", "latency_ms": 600}]
    found = told(detail={"attempts": attempts})
    assert found.total_ms == 1500
    assert sum(one.width for one in found.attempts) == pytest.approx(100)
    assert found.beside_ms == 0


def test_a_request_that_no_budget_could_pay_says_which_and_how_much(admin_client: Client) -> None:
    told = {
        "budget": "the project web", "budget_usd": 5.0, "spent_usd": 4.999, "needed_usd": 0.002, "period": "day",
        "resets_at": "2026-03-02T00:00:00Z",
    }  # fmt: skip
    made = row(status=429, error_code="budget_exceeded", detail={"refusal": told})
    found = story(made).refusal
    assert found is not None
    assert found.sentence.startswith("The budget of the project web could not pay it: less was left")
    facts = dict(found.facts)
    assert (facts["Budget"], facts["Spent at that moment"]) == ("$5.00 per day", "$5.00")
    assert (facts["Not spent yet"], facts["Needed for this request, at least"]) == ("$0.001", "$0.002")
    assert facts["Begins anew"].startswith("2026-03-0")
    page = text(admin_client.get(reverse("admin:telemetry_requestlog_change", args=[made.pk])))
    assert "could not pay it" in page
    assert "$0.001" in page


def test_a_refusal_for_what_others_hold_says_so_and_an_old_one_says_what_is_not_known() -> None:
    told = {"budget": "this client key", "budget_usd": 5.0, "spent_usd": 1.0, "needed_usd": 0.5, "period": "total"}
    held = story(row(status=429, error_code="budget_exceeded", detail={"refusal": told})).refusal
    old = story(row(status=429, error_code="budget_exceeded")).refusal
    assert held is not None
    assert old is not None
    assert "held for requests under way" in held.sentence
    assert dict(held.facts)["Begins anew"] == "never"
    assert old.sentence == "A budget could not pay it. Which one, was not noted."


@pytest.mark.parametrize(
    ("told", "sentence", "facts"),
    [
        (
            {"limit": "rpm", "value": 30, "wait_seconds": 1.25},
            "The limit of requests per minute of the client key shop was reached.",
            {"Limit": "Requests per minute", "Of": "the client key shop", "Its value": "30",
             "Free again after": "1.2 s"},
        ),
        (
            {"limit": "rps", "value": 0.5, "at_once": 2, "project": "web", "wait_seconds": 3},
            "The limit of requests per second of the project web was reached.",
            {"Limit": "Requests per second", "Of": "the project web", "Its value": "0.5, 2 at once",
             "Free again after": "3.0 s"},
        ),
        (
            {"limit": "tpm", "value": 2_000_000, "wait_seconds": 3},
            "The limit of tokens per minute of the client key shop was reached.",
            {"Limit": "Tokens per minute", "Of": "the client key shop", "Its value": "2,000,000",
             "Free again after": "3.0 s"},
        ),
        (
            {"limit": "concurrency", "value": 4, "wait_seconds": 1},
            "The limit of open requests of the client key shop was reached.",
            {"Limit": "Open requests", "Of": "the client key shop", "Its value": "4",
             "Free again after": "1.0 s"},
        ),
        (
            {"limit": "address", "address": "192.0.2.7", "value": 60, "at_once": 120, "wait_seconds": 0.5},
            "The limit of requests per second of the address 192.0.2.7 was reached.",
            {"Limit": "Requests per second", "Of": "the address 192.0.2.7",
             "Its value": "60, 120 at once", "Free again after": "0.5 s",
             "Set by": "TOKENHUB_RATE_LIMIT_RPS, TOKENHUB_RATE_LIMIT_BURST"},
        ),
    ],
)  # fmt: skip
def test_a_request_that_a_rate_limit_refused_says_which_whose_and_how_long(
    told: dict[str, Any], sentence: str, facts: dict[str, str]
) -> None:
    made = row(status=429, error_code="rate_limit_exceeded", api_key_id="k", detail={"refusal": told})
    found = story(made).refusal
    assert found is not None
    assert (found.sentence, dict(found.facts)) == (sentence, facts)
    old = story(row(status=429, error_code="rate_limit_exceeded")).refusal
    assert old is not None
    assert old.sentence == "A rate limit refused it. Which one, was not noted."


def test_a_rate_limits_refusal_leads_to_whoever_has_the_limit(admin_client: Client, staff_client: Client) -> None:
    key = keys.issue(name="shop").record
    fields: dict[str, Any] = {"status": 429, "error_code": "rate_limit_exceeded", "api_key_id": str(key.pk)}
    of_key = row(**fields, detail={"refusal": {"limit": "rpm", "value": 1, "wait_seconds": 1}})
    of_project = row(**fields, detail={"refusal": {"limit": "rpm", "value": 1, "project": "a/b", "wait_seconds": 1}})
    assert f'href="/admin/keys/clientkey/{key.pk}/change/">The client key</a>' in shown(admin_client, of_key)
    assert 'href="/admin/keys/project/a_2Fb/change/">The project</a>' in shown(admin_client, of_project)
    clerk = User.objects.get(username="clerk")
    clerk.user_permissions.add(Permission.objects.get(codename="view_requestlog"))
    assert "The client key</a>" not in shown(staff_client, of_key)


def test_plain_answers_are_words_and_no_crosses(admin_client: Client) -> None:
    page = shown(admin_client, row())
    assert "close_small" not in page
    assert "Client disconnected" in page


LIST = reverse("admin:telemetry_requestlog_changelist")


def test_the_list_says_what_was_asked_for_only_where_that_was_read(admin_client: Client) -> None:
    none = {"model_id": "", "provider_id": "", "status": 400, "attempts": 0}
    row(**none, requested_model="gpt")
    assert "-  (asked: gpt)" in text(admin_client.get(LIST))
    row(**none, requested_model="")
    row(**none, requested_model="", mode="normal")
    page = text(admin_client.get(LIST))
    assert page.count("nothing was asked for") == 1
    assert page.count("-  (asked: auto)") == 1


def test_failures_are_red_in_the_list_and_counted_tokens_are_no_answer(admin_client: Client) -> None:
    row(status=503, error_code="overloaded")
    page = re.sub(r"\s+", " ", text(admin_client.get(LIST)))
    assert re.search(r"bg-red-100[^>]*> 503 overloaded <", page)
    RequestLog.objects.all().delete()
    row(endpoint="/v1/messages/count_tokens")
    page = re.sub(r"\s+", " ", text(admin_client.get(LIST)))
    assert "gpt (tokens counted, nothing asked)" in page
    assert re.search(r"> counted <", page)


def test_a_candidate_without_a_price_says_so(admin_client: Client) -> None:
    priced = any_model(1, input_per_1k="0.1", output_per_1k="0.1")
    candidates = [{"model": one.pk, "provider": "acme", "score": 0.1} for one in (priced, any_model(2))]
    found = story(row(detail={"candidates": candidates}))
    assert [(one.model, one.is_priced) for one in found.candidates] == [(priced.pk, True), ("org/model_2", False)]


def test_candidates_stand_with_their_parts_and_exclusions_in_words(admin_client: Client) -> None:
    candidates = [
        {"model": "gpt", "provider": "acme", "score": 0.25, "cost": 0.4, "latency": 0.1, "capability": 0.2},
        {"model": "big", "provider": "acme", "excluded": "over_budget"},
        {"model": "eye", "provider": "acme", "excluded": "lacks_vision"},
    ]
    made = row(detail={"attempts": [], "candidates": candidates})
    found = story(made)
    assert [(one.model, one.is_chosen, one.score) for one in found.candidates] == [("gpt", True, 0.25)]
    assert found.candidates[0].parts == [
        ("cost", 0.4, 100), ("latency", 0.1, 25), ("failure", 0, 0), ("capability", 0.2, 50),
    ]  # fmt: skip
    assert [one.excluded for one in found.excluded] == ["It would cost more than the ceiling.", "It cannot do vision."]
    page = shown(admin_client, made)
    assert "It would cost more than the ceiling." in page
    assert "The lowest score wins." in page


def test_cost_is_divided_among_the_kinds_of_tokens_and_adds_up(model: Model) -> None:
    usage = {"input_tokens": 100, "cached_input_tokens": 40, "output_tokens": 50, "reasoning_tokens": 20}
    found = told(**usage, cost_usd=Decimal("0.184"))
    assert [(one.name, one.tokens, one.cost_usd) for one in found.kinds] == [
        ("Input, fresh", 60, "$0.06"), ("Input, from a cache", 40, "$0.004"),
        ("Output", 30, "$0.06"), ("Output, thought", 20, "$0.06"),
    ]  # fmt: skip
    assert found.cost_note == ""


def test_what_a_cache_keeps_for_an_hour_is_a_kind_of_its_own(model: Model) -> None:
    usage = {"input_tokens": 100, "cache_write_tokens": 40, "detail": {"hour_cache_write_tokens": 30}}
    found = told(**usage, cost_usd=Decimal("0.13"))
    assert [(one.name, one.tokens, one.cost_usd) for one in found.kinds] == [
        ("Input, fresh", 60, "$0.06"), ("Input, written to a cache", 10, "$0.01"),
        ("Input, written to a cache for an hour", 30, "$0.06"), ("Output", 0, "$0"),
    ]  # fmt: skip
    assert found.cost_note == ""


def test_the_prices_of_that_time_are_taken_and_others_are_not_guessed(model: Model) -> None:
    yesterday = timezone.now() - timedelta(days=1)
    Price.objects.create(model=model, starts_at=timezone.now() - timedelta(hours=1), input_per_1k=9, output_per_1k=9)
    then = told(created_at=yesterday, input_tokens=10, output_tokens=10, cost_usd=Decimal("0.03"))
    assert [one.cost_usd for one in then.kinds] == ["$0.01", "$0.02"]
    changed = told(input_tokens=10, output_tokens=10, cost_usd=Decimal("0.03"))
    assert [one.cost_usd for one in changed.kinds] == [None, None]
    assert "the prices were others at that time" in changed.cost_note
    assert "had no price" in told(cost_usd=None).cost_note
    assert told(cost_usd=None, usage_estimated=True).cost_note.startswith("The provider told no usage")


def test_headers_are_those_that_the_client_got() -> None:
    good = dict(told(cost_usd=Decimal("0.5"), alias="best").headers)
    assert (good["X-TokenHub-Model"], good["X-TokenHub-Cost-USD"], good["X-TokenHub-Alias"]) == ("gpt", "0.5", "best")
    assert "X-TokenHub-Cost-USD" not in dict(told(cost_usd=Decimal("0.5"), stream=True).headers)
    bad = dict(told(status=502, error_code="no_eligible_models", client_request_id="mine").headers)
    assert (bad["X-TokenHub-Error-Code"], bad["X-Request-ID"]) == ("no_eligible_models", "mine")
    assert "X-TokenHub-Model" not in bad
    assert {"X-TokenHub-Warning", "Retry-After"}.isdisjoint(good | bad)
    warned = dict(told(detail={"warning": "dropped=seed; max_tokens=88"}).headers)
    assert warned["X-TokenHub-Warning"] == "dropped=seed; max_tokens=88"
    assert dict(told(status=429, detail={"retry_after": 7}).headers)["Retry-After"] == "7"


def test_the_replay_asks_the_router_for_the_same_kind_of_request(admin_client: Client, model: Model) -> None:
    key = keys.issue(name="shop").record
    made = row(api_key_id=str(key.pk), input_tokens=12, output_tokens=34)
    page = text(admin_client.get(reverse("admin:telemetry_requestlog_change", args=[made.pk])))
    found = re.search(r'<script id="replay-question" type="application/json">(.+?)</script>', page)
    assert found is not None
    question = json.loads(found[1])
    assert question == {"token_count": 12, "output_tokens": 34, "model_hint": "gpt", "api_key_id": str(key.pk)}
    answer = admin_client.post("/admin/v1/routing/simulate", question, content_type="application/json")
    assert answer.json()["decision"]["model_id"] == "gpt"
    assert told(mode="quality", requested_model="auto").question["mode"] == "quality"


def test_the_replay_knows_whether_anybody_answered(admin_client: Client, model: Model) -> None:
    assert "data-answered" in shown(admin_client, row())
    assert "data-answered" not in shown(admin_client, row(status=429, model_id="", provider_id=""))


def test_the_replay_is_for_those_who_may_see_models(staff_client: Client) -> None:
    clerk = User.objects.get(username="clerk")
    clerk.user_permissions.add(Permission.objects.get(codename="view_requestlog"))
    made = row()
    assert "replay-button" not in shown(staff_client, made)
    clerk.user_permissions.add(Permission.objects.get(codename="view_model"))
    assert "replay-button" in shown(staff_client, made)


def test_a_request_that_reached_nobody_says_so(admin_client: Client) -> None:
    page = shown(admin_client, row(status=401, attempts=0, model_id="", provider_id="", detail={}))
    assert "No provider was asked." in page
    assert "Nobody: the request did not come that far." in page
