"""How a request says what it wants: aliases, modes of one's own, directives, and turns of a conversation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Reply, Upstream

LITERAL_KEY = KEY[:-2] + "21"
ALIAS_KEY = KEY[:-2] + "22"
PARTIAL_KEY = KEY[:-2] + "23"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[
            {"id": f"p{number}", "type": "openai", "base_url": upstream.url, "dialects": ["openai-chat"]}
            for number in range(3)
        ],
        models=[
            {
                "id": "small",
                "provider_id": "p0",
                "weight": 2,
                "input_per_1k": "0.001",
                "output_per_1k": "0.001",
                "abilities": ["structured_output"],
            },
            {"id": "large", "provider_id": "p1", "weight": 9, "input_per_1k": "0.01", "output_per_1k": "0.01"},
            {"id": "other", "provider_id": "p2", "weight": 5, "input_per_1k": "0.005", "output_per_1k": "0.005"},
        ],
        keys=[
            {"key": KEY},
            {"key": LITERAL_KEY, "allow_directives": False},
            {"key": ALIAS_KEY, "allowed_models": ["split"]},
            {"key": PARTIAL_KEY, "allowed_models": ["large"]},
        ],
        aliases=[
            {"name": "split", "variants": [{"model_id": "small", "weight": 3}, {"model_id": "large", "weight": 1}]},
            {
                "name": "turns",
                "sticky_by": "round_robin",
                "variants": [{"model_id": "small", "weight": 1}, {"model_id": "large", "weight": 1}],
            },
            {
                "name": "by-key",
                "sticky_by": "api_key",
                "variants": [{"model_id": "small", "weight": 1}, {"model_id": "large", "weight": 1}],
            },
            {"name": "off", "enabled": False, "variants": [{"model_id": "small", "weight": 1}]},
        ],
        profiles=[{"name": "capable", "cost": 0, "latency": 0, "failure": 0, "capability": 1}],
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def _forget(upstream: Upstream) -> Iterator[None]:
    yield
    upstream.forget()


def ask(gateway: Gateway, model: str, *turns: str, key: str = KEY, **headers: str) -> httpx.Response:
    """`turns`: of the user and of the model in alternation."""
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(turns or ("Hi",))]
    sent = {"Authorization": f"Bearer {key}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return gateway.post("/v1/chat/completions", {"model": model, "messages": messages}, headers=sent)


def answered(gateway: Gateway, model: str, *turns: str, **options: str) -> str:
    answer = ask(gateway, model, *turns, **options)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-tokenhub-model"]


# -- aliases ---------------------------------------------------------------------------------------------------------
def test_an_alias_splits_requests_by_its_weights_and_says_so(gateway: Gateway) -> None:
    seen: Counter[str] = Counter()
    for _ in range(200):
        answer = ask(gateway, "split")
        seen[answer.headers["x-tokenhub-model"]] += 1
        assert (answer.headers["x-tokenhub-alias"], answer.headers["x-tokenhub-reason"]) == ("split", "alias-variant")
    assert set(seen) == {"small", "large"}
    assert 120 <= seen["small"] <= 178  # 150 expected; five standard deviations


def test_an_alias_in_turn_alternates(gateway: Gateway) -> None:
    models = [answered(gateway, "turns") for _ in range(6)]
    assert models[:2] * 3 == models
    assert set(models) == {"small", "large"}


def test_an_alias_by_key_stays(gateway: Gateway) -> None:
    assert len({answered(gateway, "by-key") for _ in range(8)}) == 1


def test_turns_of_a_conversation_stay_where_it_began(gateway: Gateway) -> None:
    for number in range(10):
        first = f"Conversation {number}"
        where = answered(gateway, "split", first)
        for turns in ((first, "Yes", "And?"), (first, "Yes", "And?", "So", "Well?")):
            assert answered(gateway, "split", *turns) == where


def test_they_stay_there_whichever_worker_they_meet(upstream: Upstream, tmp_path: Path) -> None:
    with Gateway(
        tmp_path,
        providers=[{"id": f"p{number}", "type": "openai", "base_url": upstream.url} for number in range(4)],
        models=[{"id": f"m{number}", "provider_id": f"p{number}"} for number in range(4)],
        aliases=[{"name": "split", "variants": [{"model_id": f"m{number}", "weight": 1} for number in range(4)]}],
        workers=2,
    ) as gateway:
        for number in range(10):
            first = f"Conversation {number}"
            where = answered(gateway, "split", first)
            for _ in range(4):  # each on a connection of its own
                assert answered(gateway, "split", first, "Yes", "And?") == where


def test_a_failed_variant_is_followed_by_the_other(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(Reply(status=429, headers={"retry-after": "0"}))
    answer = ask(gateway, "turns")
    assert answer.status_code == 200
    assert answer.headers["x-tokenhub-reason"] == "failover-rate_limited"
    assert answer.headers["x-tokenhub-model"] in {"small", "large"}
    upstream.next(Reply(status=429, headers={"retry-after": "0"}))
    assert ask(gateway, "turns", X_TokenHub_Fallback="none").status_code == 429


def test_a_key_may_use_an_alias_that_it_names_or_the_variants_that_it_may_use(gateway: Gateway) -> None:
    assert answered(gateway, "split", key=ALIAS_KEY) in {"small", "large"}
    assert ask(gateway, "small", key=ALIAS_KEY).json()["error"]["code"] == "model_not_allowed"
    assert {answered(gateway, "split", key=PARTIAL_KEY) for _ in range(8)} == {"large"}


def test_aliases_are_listed_and_disabled_ones_unknown(gateway: Gateway) -> None:
    listed = {row["id"] for row in gateway.get("/v1/models", **gateway.headers()).json()["data"]}
    assert {"split", "turns", "small", "tokenhub/capable"} <= listed
    assert "off" not in listed
    assert ask(gateway, "off").status_code == 404
    assert "split" in ask(gateway, "splitt").json()["error"]["hint"]


def test_the_alias_and_the_candidates_are_in_the_log(gateway: Gateway) -> None:
    answer = ask(gateway, "tokenhub/capable")
    ask(gateway, "split")
    wanted = answer.headers["x-tokenhub-request-id"].replace("-", "")
    query = "SELECT alias, mode, detail FROM telemetry_requestlog WHERE request_id = ?"
    gateway.wait_until(lambda: bool(gateway.query(query, wanted)))
    (row,) = gateway.query(query, wanted)
    assert row["mode"] == "capable"
    assert '"model":"large"' in row["detail"].replace(" ", "").partition("candidates")[2]
    gateway.wait_until(lambda: bool(gateway.query("SELECT 1 FROM telemetry_requestlog WHERE alias = 'split'")))


# -- modes -------------------------------------------------------------------------------------------------------------
def test_a_profile_of_ones_own_is_a_mode(gateway: Gateway) -> None:
    assert answered(gateway, "tokenhub/capable") == "large"
    assert answered(gateway, "auto", X_TokenHub_Mode="capable") == "large"
    assert answered(gateway, "auto", X_TokenHub_Mode="cheap") == "small"


def test_a_profile_by_a_built_in_name_takes_its_place(gateway: Gateway) -> None:
    gateway.configure(profiles=[{"name": "planning", "cost": 1, "latency": 0, "failure": 0, "capability": 0}])
    gateway.wait_until(lambda: answered(gateway, "tokenhub/planning") == "small", seconds=5)


# -- directives --------------------------------------------------------------------------------------------------------
def test_a_directive_chooses_and_is_not_passed_on(gateway: Gateway, upstream: Upstream) -> None:
    assert answered(gateway, "auto", "@@tokenhub mode=capable\nWhat is 1 + 1?") == "large"
    assert upstream.requests[-1].json["messages"] == [{"role": "user", "content": "What is 1 + 1?"}]
    assert answered(gateway, "auto", "@@tokenhub min_weight=6 mode=cheap\nHi", X_TokenHub_Mode="capable") == "large"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"max_tokens": 9, "system": "@@tokenhub mode=capable\nx"}),
        ("/v1/responses", {"instructions": "@@tokenhub mode=capable\nx", "input": "Hi"}),
        ("/v1/chat", {"request": {"messages": [{"role": "user", "content": "@@tokenhub mode=capable\nHi"}]}}),
    ],
)
def test_directives_work_on_every_chat_endpoint(gateway: Gateway, path: str, body: dict[str, Any]) -> None:
    if path == "/v1/messages":
        body = {**body, "messages": [{"role": "user", "content": "Hi"}]}
    if path != "/v1/chat":
        body = {**body, "model": "auto"}
    answer = gateway.post(path, body)
    assert (answer.status_code, answer.headers["x-tokenhub-model"]) == (200, "large"), answer.text


def test_a_bad_directive_names_its_key(gateway: Gateway) -> None:
    error = ask(gateway, "auto", "@@tokenhub budget=lots\nHi").json()["error"]
    assert (error["code"], error["param"]) == ("invalid_directive", "budget")


def test_a_key_without_directives_passes_their_text_on(gateway: Gateway, upstream: Upstream) -> None:
    text = "@@tokenhub mode=capable\nHi"
    assert answered(gateway, "tokenhub/cheap", text, key=LITERAL_KEY) == "small"
    assert upstream.requests[-1].json["messages"][0]["content"] == text


def test_a_directive_asks_for_a_schema(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(Reply(body=b'{"id":"c","choices":[{"message":{"role":"assistant","content":"{}"},'
                             b'"finish_reason":"stop"}]}'))  # fmt: skip
    answered(gateway, "small", '@@tokenhub\noutput_schema={"type": "object"}\n@@end\nHi')
    assert upstream.requests[-1].json["response_format"]["json_schema"]["schema"] == {"type": "object"}
