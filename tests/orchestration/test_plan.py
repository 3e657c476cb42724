"""`POST /v1/plan` over real sockets: each mode's answer, what it costs, what is refused before anything costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.orchestration.script import (
    ASK,
    COST,
    DEAR,
    DEAR_COST,
    PRICES,
    events_of,
    last_words,
    legs_of,
    nano,
    plan,
    said,
    streamed,
)
from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Reply, Upstream

CHAT_ONLY = "tokenhub_" + "c1" * 32
NARROW = "tokenhub_" + "d2" * 32
POOR = "tokenhub_" + "e3" * 32
COUNTED = "tokenhub_" + "f4" * 32
SHORT = "tokenhub_" + "a5" * 32
PARTLY = "tokenhub_" + "b6" * 32
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
GOOD, BAD = '{"age": 7}', '{"age": "seven"}'
MODELS = [("best", 10), ("good", 8), ("fair", 6), ("poor", 4), ("free", 2)]
BY_WEIGHT = ("normal", "cheap", "high_confidence", "planning", "adversarial")  # whoever was slow before changes nothing


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(server: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[
            {"id": "chat", "type": "openai", "base_url": server.url, "dialects": ["openai-chat"]},
            {"id": "claude", "type": "anthropic", "base_url": server.url},
        ],
        models=[
            *({"id": name, "provider_id": "chat", "weight": weight, **PRICES} for name, weight in MODELS),
            {"id": "unpriced", "provider_id": "chat", "enabled": True, "weight": 0},
            {"id": "handy", "provider_id": "chat", "abilities": ["tools"], "weight": 0, **PRICES},
        ],
        aliases=[
            {"name": "team", "variants": [{"model_id": "fair", "weight": 1}]},
            {"name": "mix", "variants": [{"model_id": "best", "weight": 1000}, {"model_id": "good", "weight": 1}]},
        ],
        profiles=[{"name": name, "cost": 0, "latency": 0, "failure": 0, "capability": 1} for name in BY_WEIGHT],
        keys=[
            {"key": KEY},
            {"key": CHAT_ONLY, "scopes": ["chat"]},
            {"key": NARROW, "scopes": ["plan"], "allowed_models": ["good", "fair"]},
            {"key": PARTLY, "allowed_models": ["good", "fair", "free"]},
            {"key": POOR, "name": "poor"},
            {"key": SHORT, "name": "short"},
            {"key": COUNTED, "rate_limit_rpm": 50, "rate_limit_tpm": 1_000_000, "max_concurrent": 1},
        ],
        budgets=[
            {"of_key": POOR, "subject": "key", "amount_usd": "0.0025"},
            {"of_key": SHORT, "subject": "key", "amount_usd": "0.0018"},
        ],
        prompts=[{"name": "refine.improve", "text": "Improve it, or say {{done}}!"}],
        env={"TOKENHUB_OUTPUT_REPAIRS": "1"},
    ) as running:
        yield running


@pytest.fixture
def upstream(server: Upstream) -> Upstream:
    server.forget()
    server.clear()
    server.requests.clear()
    return server


def told(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


# -- each mode's answer ------------------------------------------------------------------------------------------------
def test_a_plan_is_criticised_and_refined(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("The plan."), said("It lacks a van."), said("The plan, with a van."))
    answer = plan(gateway, "adversarial", primary_model_id="best", review_model_id="good")
    body = told(answer)
    assert body["response"] == {
        "initial_plan": "The plan.",
        "critique": "It lacks a van.",
        "refined_plan": "The plan, with a van.",
        "rounds": [{"critique": "It lacks a van.", "refined_plan": "The plan, with a van."}],
    }
    assert [request.json["model"] for request in upstream.requests] == ["best", "good", "best"]
    assert "It lacks a van." in last_words(upstream.requests[2])
    assert body["negotiated_model"] == "best"
    assert body["routing_reason"] == answer.headers["x-tokenhub-reason"] == "adversarial-orchestration"
    assert body["cost_usd"] == pytest.approx(3 * COST)
    assert body["request_id"] == answer.headers["x-tokenhub-request-id"]
    assert [one["model"] for one in body["attempts"]] == ["best", "good", "best"]
    assert answer.headers["x-tokenhub-attempts"] == "3"
    assert float(answer.headers["x-tokenhub-cost-usd"]) == pytest.approx(3 * COST)
    assert 0 < body["estimated_cost_usd"] == float(answer.headers["x-tokenhub-estimated-cost-usd"])
    assert "partial" not in body


def test_a_router_picks_another_critic_than_the_planner(gateway: Gateway, upstream: Upstream) -> None:
    told(plan(gateway, "adversarial"))
    planner, critic, refiner = (request.json["model"] for request in upstream.requests)
    assert planner == refiner == "best"
    assert critic == "good"


def test_the_plan_alone(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("The plan."))
    assert told(plan(gateway, "adversarial", return_plan_only=True))["response"] == {"initial_plan": "The plan."}
    assert len(upstream.requests) == 1


def test_a_vote_has_distinct_voters_and_a_judge_that_is_none_of_them(gateway: Gateway, upstream: Upstream) -> None:
    upstream.when(said('{"reason": "clear", "selected": "B"}'), model="best")
    answer = told(plan(gateway, "vote"))["response"]
    voters = [one["model"] for one in answer["responses"]]
    assert len(set(voters)) == 3
    assert answer["judge"] == "best" not in voters
    assert answer["judge_parsed"] is True
    asked = next(request for request in upstream.requests if request.json["model"] == "best")
    assert "<candidate B>" in last_words(asked)
    assert answer["responses"][answer["selected"]]["selected"] is True


def test_a_judge_of_ones_own_is_no_voter(gateway: Gateway, upstream: Upstream) -> None:
    answer = told(plan(gateway, "vote", review_model_id="team", primary_model_id="poor", iterations=4))["response"]
    assert answer["judge"] == "fair"
    voters = [one["model"] for one in answer["responses"]]
    assert (len(set(voters)), voters[0], "fair" in voters) == (4, "poor", False)


@pytest.mark.parametrize("hint", ["auto", "tokenhub/cheap"])
def test_a_vote_that_leaves_the_choice_to_the_router(gateway: Gateway, upstream: Upstream, hint: str) -> None:
    answer = told(plan(gateway, "vote", request={**ASK, "model_hint": hint}))["response"]
    assert len({one["model"] for one in answer["responses"]}) == 3


def test_voters_are_asked_at_the_same_time(gateway: Gateway, upstream: Upstream) -> None:
    for model in ("good", "fair", "poor", "free"):
        upstream.when(Reply(delay=0.4), model=model)
    told(plan(gateway, "vote"))
    voters = upstream.requests[:3]
    last_began = max(request.at for request in voters)
    assert all(request.ended_at is not None and request.ended_at > last_began for request in voters)


def test_the_judge_is_asked_for_structure_and_a_lone_label_does(gateway: Gateway, upstream: Upstream) -> None:
    upstream.when(said("**A**"), model="best")
    assert told(plan(gateway, "vote"))["response"]["judge_parsed"] is True
    asked = next(request.json for request in upstream.requests if request.json["model"] == "best")
    assert "selected" in json.dumps(asked["messages"])


def test_a_judge_that_says_nothing_clear_leaves_the_first_voter(gateway: Gateway, upstream: Upstream) -> None:
    upstream.when(said("Both A and B have their merits."), model="best")
    answer = told(plan(gateway, "vote"))["response"]
    assert (answer["selected"], answer["judge_parsed"], answer["judge"]) == (0, False, "best")


def test_a_failed_voter_does_not_fail_the_vote(gateway: Gateway, upstream: Upstream) -> None:
    upstream.when(Reply(status=400), model="poor")
    answer = told(plan(gateway, "vote", primary_model_id="poor", review_model_id="best"))["response"]
    assert len(answer["responses"]) == 2
    assert answer["failed"] == [{"model": "poor", "error": "upstream_rejected"}]


def test_a_voter_that_fails_over_stays_distinct(gateway: Gateway, upstream: Upstream) -> None:
    upstream.when(Reply(status=404), model="good")
    answer = told(plan(gateway, "vote", iterations=2, primary_model_id="good", review_model_id="best"))["response"]
    voters = [one["model"] for one in answer["responses"]]
    assert len(set(voters)) == 2
    assert "good" not in voters


def test_an_answer_is_refined_until_it_is_done(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("One."), said("Two."), said("DONE"))
    answer = told(plan(gateway, "refine", iterations=5, primary_model_id="good"))
    assert answer["response"] == {"refined_response": "Two.", "iterations": 2, "model": "good"}
    assert len(upstream.requests) == 3


def test_a_prompt_of_the_operators_takes_the_built_in_ones_place(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("One."), said("Two."))
    told(plan(gateway, "refine"))
    assert last_words(upstream.requests[1]) == "Improve it, or say DONE!"


def test_planning_gives_the_providers_body(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("The plan."))
    body = told(plan(gateway, "planning"))
    assert body["response"]["choices"][0]["message"]["content"] == "The plan."
    assert body["response"]["usage"]["total_tokens"] == 110
    assert body["negotiated_model"] == "best"


def test_planning_takes_tools(gateway: Gateway, upstream: Upstream) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    asked = {**ASK, "parameters": {"tools": tools}}
    assert plan(gateway, "planning", request=asked, primary_model_id="handy").status_code == 200
    assert upstream.requests[0].json["tools"] == tools


def test_parameters_go_to_the_models_and_not_to_the_judge(gateway: Gateway, upstream: Upstream) -> None:
    asked = {**ASK, "parameters": {"temperature": 0.3, "max_tokens": 50}}
    told(plan(gateway, "vote", request=asked))
    judge = next(request.json for request in upstream.requests if request.json["model"] == "best")
    assert [request.json.get("temperature") for request in upstream.requests].count(0.3) == 3
    assert "temperature" not in judge
    assert judge.get("max_tokens", 0) > 50


# -- the form of the final answer --------------------------------------------------------------------------------------
def test_the_final_answer_has_the_form_and_is_repaired(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("The plan."), said("The critique."), said(BAD), said(f"```json\n{GOOD}\n```"))
    body = told(plan(gateway, "adversarial", output_schema=SCHEMA, primary_model_id="good", review_model_id="fair"))
    assert body["response"]["refined_plan"] == GOOD
    assert body["cost_usd"] == pytest.approx(4 * COST)
    assert "JSON" not in json.dumps(upstream.requests[0].json)
    assert len(legs_of(gateway, body["request_id"], 3)) == 3


def test_an_answer_that_never_fits_is_a_422_with_the_text(gateway: Gateway, upstream: Upstream) -> None:
    upstream.default = said(BAD)
    answer = plan(gateway, "refine", output_schema=SCHEMA, primary_model_id="good")
    upstream.default = Reply()
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["details"]["output"]) == ("output_schema_mismatch", BAD)


def test_a_vote_drops_answers_without_the_form(gateway: Gateway, upstream: Upstream) -> None:
    for model in ("good", "fair", "poor", "free"):
        upstream.when(said(GOOD if model != "fair" else BAD), model=model)
    answer = told(
        plan(gateway, "vote", output_schema=SCHEMA, primary_model_id="fair", review_model_id="best", iterations=3)
    )["response"]
    assert [one["content"] for one in answer["responses"]] == [GOOD, GOOD]
    assert answer["failed"] == [{"model": "fair", "error": "output_schema_mismatch"}]


def test_directives_set_policy_and_form(gateway: Gateway, upstream: Upstream) -> None:
    text = 'Plan it.\n@@tokenhub min_weight=9 output_schema={"type":"object"}'
    upstream.next(said('{"a": 1}'))
    body = told(plan(gateway, "refine", iterations=0, request={"messages": [{"role": "user", "content": text}]}))
    assert body["response"]["refined_response"] == '{"a": 1}'
    assert body["negotiated_model"] == "best"
    assert "@@tokenhub" not in json.dumps(upstream.requests[0].json)


# -- failures ----------------------------------------------------------------------------------------------------------
def test_a_failed_critic_leaves_the_plan(gateway: Gateway, upstream: Upstream) -> None:
    upstream.when(Reply(status=400), model="good")
    answer = told(plan(gateway, "adversarial", review_model_id="good", primary_model_id="fair"))["response"]
    assert answer["refined_plan"] == answer["initial_plan"]
    assert answer["rounds"] == [{"error": "upstream_rejected"}]


def test_a_failed_planner_fails_the_run_with_its_own_error(gateway: Gateway, upstream: Upstream) -> None:
    upstream.when(Reply(status=400), model="fair")
    answer = plan(gateway, "adversarial", primary_model_id="fair")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "upstream_rejected")
    assert "was told to answer 400" in answer.json()["error"]["message"]


def test_a_leg_is_retried_and_fails_over_like_any_request(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(Reply(status=503), said("The plan."))
    body = told(plan(gateway, "planning", primary_model_id="fair"))
    assert [one["error_class"] for one in body["attempts"]] == ["transient", None]


def test_an_answer_without_a_text_is_a_failed_leg(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said(""))
    answer = plan(gateway, "refine", primary_model_id="fair")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")


# -- money and time ----------------------------------------------------------------------------------------------------
LIMITED: Any = {"request": {**ASK, "parameters": {"max_tokens": 20}}}


def test_a_ceiling_that_pays_two_legs_ends_the_run_with_what_there_is(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("The plan.", usage=DEAR), said("The critique.", usage=DEAR))
    body = told(plan(gateway, "adversarial", **LIMITED, policy={"max_budget_usd": 0.0025}, primary_model_id="good"))
    assert body["partial"] is body["response"]["partial"] is True
    assert body["response"]["refined_plan"] == "The plan."
    assert body["response"]["rounds"] == [{"critique": "The critique.", "error": "budget_exceeded"}]
    assert body["cost_usd"] == pytest.approx(2 * DEAR_COST)
    assert len(upstream.requests) == 2


def test_a_keys_budget_that_pays_two_legs_is_never_exceeded(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("The plan.", usage=DEAR), said("The critique.", usage=DEAR))
    body = told(plan(gateway, "adversarial", key=POOR, **LIMITED, primary_model_id="good"))
    assert (body["partial"], len(upstream.requests)) == (True, 2)
    legs = legs_of(gateway, body["request_id"], 3)
    assert [row["error_code"] for row in legs] == ["", "", "budget_exceeded"]
    total = sum(nano(row["cost_usd"]) for row in legs)
    assert total == nano(body["cost_usd"]) == nano(2 * DEAR_COST)
    booked = "SELECT settled_nano FROM keys_budgetperiod WHERE settled_nano = ?"
    gateway.wait_until(lambda: bool(gateway.query(booked, total)))


def test_a_ceiling_that_pays_nothing_is_said_before_anything_costs(gateway: Gateway, upstream: Upstream) -> None:
    answer = plan(gateway, "adversarial", policy={"max_budget_usd": 0.0001}, primary_model_id="good")
    error = refusal(answer, 429, "budget_exceeded")
    assert "this plan" in error["message"]
    assert upstream.requests == []


def test_voters_that_a_ceiling_cannot_pay_at_once_are_asked_one_after_the_other(
    gateway: Gateway, upstream: Upstream
) -> None:
    body = told(plan(gateway, "vote", policy={"max_budget_usd": 0.0018}))
    assert len(body["response"]["responses"]) == 3
    assert body["cost_usd"] <= 0.0018
    ends = sorted(request.ended_at or 0 for request in upstream.requests[:3])
    assert upstream.requests[2].at > ends[0]


def test_a_voter_that_cannot_be_paid_does_not_fail_the_vote(gateway: Gateway, upstream: Upstream) -> None:
    upstream.when(said("Mine.", usage=DEAR))
    body = told(plan(gateway, "vote", policy={"max_budget_usd": 0.0018}))
    answer = body["response"]
    assert len(answer["responses"]) == len(upstream.requests) == 2
    assert [one["error"] for one in answer["failed"]] == ["budget_exceeded"]
    assert (answer["judge"], answer["judge_error"]) == (None, "budget_exceeded")
    assert (answer["judge_parsed"], answer["selected"], body["partial"]) == (False, 0, True)
    assert body["cost_usd"] == pytest.approx(2 * DEAR_COST)


def test_voters_that_a_budget_cannot_pay_at_once_are_asked_one_after_the_other(
    gateway: Gateway, upstream: Upstream
) -> None:
    body = told(plan(gateway, "vote", key=SHORT))
    assert len(body["response"]["responses"]) == 3
    legs = legs_of(gateway, body["request_id"], 4)
    assert sum(nano(row["cost_usd"]) for row in legs) == nano(body["cost_usd"]) <= nano(0.0018)


def test_an_answer_that_money_cut_short_is_partial(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("Half a", finish="length"))
    body = told(plan(gateway, "refine", iterations=0, policy={"max_budget_usd": 0.002}, primary_model_id="good"))
    assert upstream.requests[0].json["max_tokens"] < 1000
    assert body["partial"] is True


def test_at_the_deadline_the_run_ends_with_what_there_is(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("The plan."), Reply(delay=20))
    body = told(
        plan(gateway, "adversarial", policy={"max_latency_ms": 2500}, primary_model_id="good", review_model_id="fair")
    )
    assert body["partial"] is True
    assert body["response"]["refined_plan"] == "The plan."
    (told_of,) = body["response"]["rounds"]
    assert told_of["error"] in {"upstream_timeout", "all_models_failed"}  # or the other model, too, had no time left


def test_a_deadline_before_the_first_answer_is_a_timeout(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(*[Reply(delay=20)] * 4)  # one may go to a late call of the test before
    answer = plan(gateway, "refine", policy={"max_latency_ms": 200}, primary_model_id="fair")
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] in {"upstream_timeout", "all_models_failed"}


def test_a_run_is_one_request_and_its_legs_tokens_towards_the_limits(gateway: Gateway, upstream: Upstream) -> None:
    """Its legs run side by side though the key allows one request at a time."""
    assert plan(gateway, "vote", key=COUNTED).headers["x-ratelimit-remaining-requests"] == "49"
    upstream.next(said("The plan.", usage={"prompt_tokens": 500_000, "completion_tokens": 1, "total_tokens": 500_001}))
    told(plan(gateway, "planning", key=COUNTED))
    left = int(plan(gateway, "planning", key=COUNTED).headers["x-ratelimit-remaining-tokens"])
    assert 300_000 < left < 600_000


# -- the log -----------------------------------------------------------------------------------------------------------
def test_each_leg_leaves_a_row_and_the_runs_own_row_costs_nothing(gateway: Gateway, upstream: Upstream) -> None:
    body = told(plan(gateway, "vote"))
    legs = legs_of(gateway, body["request_id"], 4)
    assert sorted(row["leg"] for row in legs) == ["judge", "voter-1", "voter-2", "voter-3"]
    assert sum(nano(row["cost_usd"]) for row in legs) == nano(body["cost_usd"]) > 0
    wanted = body["request_id"].replace("-", "")
    gateway.wait_until(lambda: bool(gateway.query("SELECT 1 FROM telemetry_requestlog WHERE request_id = ?", wanted)))
    (own,) = gateway.query("SELECT * FROM telemetry_requestlog WHERE request_id = ?", wanted)
    assert (own["cost_usd"], own["total_tokens"], own["status"]) == (None, 0, 200)
    assert own["routing_reason"] == "vote-orchestration"


def test_a_client_that_leaves_ends_the_run(gateway: Gateway, upstream: Upstream) -> None:
    import http.client

    upstream.default = Reply(delay=5)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
    connection.request(
        "POST", "/v1/plan", json.dumps({"request": ASK, "orchestration": {"mode": "vote"}}), gateway.headers()
    )
    upstream.wait_for_requests(3)
    connection.close()
    upstream.default = Reply()
    assert all(request.lost.wait(5) for request in upstream.requests)
    assert len(upstream.requests) == 3
    newest = "SELECT state FROM orchestration_planrun ORDER BY created_at DESC LIMIT 1"
    gateway.wait_until(lambda: gateway.query(newest)[0]["state"] == "cancelled")


# -- refused before anything costs -------------------------------------------------------------------------------------
def refusal(answer: Any, status: int, code: str) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    return error


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"mode": "dream"}, 400, "invalid_request", "orchestration.mode"),
        ({"iterations": 11}, 400, "invalid_request", "orchestration.iterations"),
        ({"iterations": -1}, 400, "invalid_request", "orchestration.iterations"),
        ({"mode": "vote", "iterations": 1}, 400, "invalid_request", "orchestration.iterations"),
        ({"colour": "red"}, 400, "invalid_request", "orchestration"),
        ({"primary_model_id": "bset"}, 404, "model_not_found", "orchestration.primary_model_id"),
        ({"review_model_id": "goood"}, 404, "model_not_found", "orchestration.review_model_id"),
        ({"request": {**ASK, "model_hint": "bset"}}, 404, "model_not_found", "request.model_hint"),
        ({"primary_min_weight": 11}, 400, "invalid_request", "orchestration.primary_min_weight"),
        ({"output_schema": {"type": "nonsense"}}, 400, "invalid_request", "orchestration.output_schema"),
        ({"output_schema": "no json"}, 400, "invalid_request", "orchestration.output_schema"),
        ({"output_schema": ["a list"]}, 400, "invalid_request", "orchestration.output_schema"),
        ({"policy": {"max_budget_usd": 101}}, 400, "invalid_request", "policy.max_budget_usd"),
        ({"policy": {"mode": "dream"}}, 400, "invalid_request", "policy.mode"),
        ({"request": {"messages": []}}, 400, "invalid_request", "messages"),
        ({"request": {"messages": "hi"}}, 400, "invalid_request", "request.messages"),
        ({"request": {"messages": ["hi"]}}, 400, "invalid_request", "request.messages"),
        ({"request": {**ASK, "parameters": {"tools": [{}]}}}, 400, "unsupported_parameter", "request.parameters.tools"),
        ({"request": {**ASK, "parameters": {"n": 2}}}, 400, "unsupported_parameter", "request.parameters.n"),
        ({"stream": True, "background": True}, 400, "invalid_request", "stream"),
        ({"primary_min_weight": 10, "review_min_weight": 10, "mode": "vote"}, 502, "no_eligible_models", None),
        ({"mode": "vote", "iterations": 8}, 502, "no_eligible_models", None),
        ({"mode": "vote", "policy": {"min_weight": 8}}, 502, "no_eligible_models", None),
        ({"primary_model_id": "unpriced", "policy": {"max_budget_usd": 1}}, 400, "invalid_request", "model"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_costs(
    gateway: Gateway, upstream: Upstream, fields: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    mode = fields.pop("mode", "adversarial") if "mode" in fields else "adversarial"
    error = refusal(plan(gateway, mode, **fields), status, code)
    assert error["param"] == param
    assert upstream.requests == []


def test_a_misspelt_model_comes_with_a_hint(gateway: Gateway, upstream: Upstream) -> None:
    error = refusal(plan(gateway, "adversarial", primary_model_id="bset"), 404, "model_not_found")
    assert "best" in error["hint"]


def test_a_bad_directive_is_refused(gateway: Gateway, upstream: Upstream) -> None:
    asked = {"messages": [{"role": "user", "content": "@@tokenhub mode=dream\nHi"}]}
    refusal(plan(gateway, "planning", request=asked), 400, "invalid_directive")


def test_a_key_needs_the_scope(gateway: Gateway, upstream: Upstream) -> None:
    refusal(plan(gateway, "planning", key=CHAT_ONLY), 403, "scope_not_allowed")


def test_a_key_is_held_to_its_models(gateway: Gateway, upstream: Upstream) -> None:
    refusal(plan(gateway, "planning", key=NARROW, primary_model_id="best"), 403, "model_not_allowed")
    refusal(plan(gateway, "vote", key=NARROW), 502, "no_eligible_models")
    told(plan(gateway, "adversarial", key=NARROW))
    assert {request.json["model"] for request in upstream.requests} == {"good", "fair"}


def test_a_voter_named_by_an_alias_is_one_of_those_that_the_key_may_use(gateway: Gateway, upstream: Upstream) -> None:
    told(plan(gateway, "vote", key=PARTLY, primary_model_id="mix", iterations=2))
    assert {request.json["model"] for request in upstream.requests} == {"good", "fair", "free"}


# -- streams -----------------------------------------------------------------------------------------------------------
def test_a_stream_tells_each_step_in_order(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(streamed("The ", "plan."), streamed("A flaw."), streamed("Better."))
    answer = plan(gateway, "adversarial", stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-tokenhub-reason"] == "adversarial-orchestration"
    events = events_of(answer.text)
    assert [name for name, _ in events if name != "delta"] == [
        *["leg_started", "leg_completed"] * 3, "result",
    ]  # fmt: skip
    deltas = [data for name, data in events if name == "delta"]
    assert [one["leg"] for one in deltas] == ["plan", "plan", "critique-1", "refine-1"]
    assert "".join(one["text"] for one in deltas if one["leg"] == "plan") == "The plan."
    names = [name for name, _ in events]
    assert names.index("delta") > names.index("leg_started")
    completed = [data for name, data in events if name == "leg_completed"]
    assert [one["leg"] for one in completed] == ["plan", "critique-1", "refine-1"]
    assert completed[0]["content"] == "The plan."
    result = events[-1][1]
    assert result["response"]["refined_plan"] == "Better."
    assert result["cost_usd"] == pytest.approx(3 * COST)


def test_deltas_come_while_the_model_still_speaks(gateway: Gateway, upstream: Upstream) -> None:
    import httpx

    upstream.next(streamed("one", "two", "three", interval=0.3))
    body = {"request": {**ASK, "stream": True}, "orchestration": {"mode": "planning"}}
    with httpx.stream("POST", f"{gateway.base}/v1/plan", json=body, headers=gateway.headers(), timeout=10) as answer:
        text = ""
        for part in answer.iter_text():
            text += part
            if "event: delta" in text:
                break
        assert upstream.requests[0].ended_at is None


def test_a_streamed_run_that_fails_ends_with_an_error_event(gateway: Gateway, upstream: Upstream) -> None:
    upstream.when(Reply(status=400), model="fair")
    answer = plan(gateway, "adversarial", stream=True, primary_model_id="fair")
    name, data = events_of(answer.text)[-1]
    assert (answer.status_code, name, data["error"]["code"]) == (200, "error", "upstream_rejected")


def test_a_stream_that_breaks_off_is_a_failed_leg(gateway: Gateway, upstream: Upstream) -> None:
    from tests.support.upstream import Fault

    upstream.next(streamed("A plan."), Reply(fault=Fault.NO_TERMINAL_EVENT))
    answer = plan(gateway, "adversarial", stream=True, review_model_id="poor", primary_model_id="good")
    events = events_of(answer.text)
    failed = [data for name, data in events if name == "leg_completed" and data["error"]]
    assert [(one["leg"], one["error"]) for one in failed] == [("critique-1", "upstream_error")]
    assert events[-1][1]["response"]["refined_plan"] == "A plan."
