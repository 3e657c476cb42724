"""Responses, token counts and embeddings over a real server, and what a client sees of a silent upstream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from time import monotonic
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Fault, Reply, Upstream

USER = [{"role": "user", "content": "How long is this?"}]
EMBEDDINGS_KEY = KEY[:-2] + "11"
PLAN_KEY = KEY[:-2] + "12"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    kinds = ("openai", "anthropic", "vllm")
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[{"id": kind, "type": kind, "base_url": upstream.url} for kind in kinds],
        models=[
            *({"id": kind, "provider_id": kind, "input_per_1k": "0.01", "output_per_1k": "0.02"} for kind in kinds),
            {
                "id": "embed",
                "provider_id": "openai",
                "input_per_1k": "0.01",
                "output_per_1k": "0",
                "abilities": ["embeddings"],
            },
        ],
        keys=[
            {"key": KEY},
            {"key": EMBEDDINGS_KEY, "scopes": ["embeddings"]},
            {"key": PLAN_KEY, "scopes": ["plan"]},
        ],
        env={"TOKENHUB_STREAM_KEEPALIVE_SECS": "0.2", "TOKENHUB_STREAM_IDLE_TIMEOUT_SECS": "1"},
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def _forget(upstream: Upstream) -> Iterator[None]:
    yield
    upstream.forget()


def count(gateway: Gateway, model: str, text: str = "How long is this?") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return gateway.post("/v1/messages/count_tokens", body)


# -- counting tokens -----------------------------------------------------------------------------------------------
def test_tokens_are_counted_by_the_provider_that_can(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(Reply(body=b'{"input_tokens": 4711}'))
    answer = count(gateway, "anthropic")
    assert (answer.status_code, answer.json()) == (200, {"input_tokens": 4711})
    assert "x-tokenhub-estimated" not in answer.headers
    assert upstream.requests[-1].path == "/v1/messages/count_tokens"
    assert upstream.requests[-1].json == {"model": "anthropic", "messages": USER}


def test_a_provider_without_a_count_gets_an_estimate_that_says_so(gateway: Gateway, upstream: Upstream) -> None:
    asked = len(upstream.requests)
    answer = count(gateway, "openai", "word " * 400)
    assert answer.headers["x-tokenhub-estimated"] == "true"
    assert 300 < answer.json()["input_tokens"] < 900
    assert len(upstream.requests) == asked


def test_an_estimate_learns_from_what_the_provider_counts(gateway: Gateway, upstream: Upstream) -> None:
    before = count(gateway, "openai", "word " * 400).json()["input_tokens"]
    usage = {"prompt_tokens": before * 3, "completion_tokens": 1, "total_tokens": before * 3 + 1}
    for _ in range(20):
        upstream.next(Reply(usage=usage))
        assert gateway.chat("openai", "word " * 400).status_code == 200
    after = count(gateway, "openai", "word " * 400).json()["input_tokens"]
    assert before * 2 < after < before * 3.3


def test_a_provider_that_lacks_the_endpoint_is_not_asked_at_each_turn(gateway: Gateway, upstream: Upstream) -> None:
    asked = len(upstream.requests)
    upstream.next(Reply(status=404, body=b'{"detail": "Not Found"}'))
    for _ in range(7):
        answer = count(gateway, "vllm")
        assert (answer.status_code, answer.headers["x-tokenhub-estimated"]) == (200, "true")
    assert len(upstream.requests) == asked + 1
    assert gateway.chat("vllm").status_code == 200  # and it is not taken for a broken one


def test_a_count_that_is_refused_is_refused(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(Reply(status=400, body=b'{"type":"error","error":{"type":"invalid_request_error","message":"No."}}'))
    answer = count(gateway, "anthropic")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "No.")


def test_counting_is_free(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(Reply(body=b'{"input_tokens": 5}'))
    assert "x-tokenhub-cost-usd" not in count(gateway, "anthropic").headers
    counted = "SELECT status, cost_usd FROM telemetry_requestlog WHERE endpoint = '/v1/messages/count_tokens'"
    gateway.wait_until(lambda: bool(gateway.query(counted)))
    assert {row["cost_usd"] or 0 for row in gateway.query(counted)} == {0}


# -- embeddings ----------------------------------------------------------------------------------------------------
def embed(gateway: Gateway, model: str, key: str = KEY) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return gateway.post("/v1/embeddings", {"model": model, "input": ["one", "two"]}, headers=headers)


@pytest.mark.parametrize("key", [KEY, EMBEDDINGS_KEY])
def test_embeddings_pass_through_and_are_paid_by_their_input(gateway: Gateway, upstream: Upstream, key: str) -> None:
    body = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,-1]}],"model":"e",'
    body += b'"usage":{"prompt_tokens":2000,"total_tokens":2000}}'
    upstream.next(Reply(body=body))
    answer = embed(gateway, "embed", key)
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["x-tokenhub-cost-usd"] == "0.02"


def test_a_named_models_embeddings_never_come_from_another(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(*[Reply(status=500)] * 3)
    answer = embed(gateway, "embed")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")


def test_embeddings_need_a_scope_and_a_provider_that_has_them(gateway: Gateway) -> None:
    refused = embed(gateway, "embed", PLAN_KEY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "scope_not_allowed")
    unable = embed(gateway, "anthropic")
    assert (unable.status_code, unable.json()["error"]["param"]) == (400, "model")
    assert "anthropic-messages" in unable.json()["error"]["message"]


def test_the_router_embeds_with_models_that_embed_and_chats_with_the_others(
    gateway: Gateway, upstream: Upstream
) -> None:
    assert embed(gateway, "auto").headers["x-tokenhub-model"] == "embed"
    assert gateway.chat("tokenhub/cheap").headers["x-tokenhub-model"] != "embed"


# -- responses -----------------------------------------------------------------------------------------------------
def test_a_response_that_refers_to_a_stored_one_needs_a_provider_that_stores(
    gateway: Gateway, upstream: Upstream
) -> None:
    body = {"model": "anthropic", "input": "Hi", "previous_response_id": "resp_1"}
    refused = gateway.post("/v1/responses", body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert refused.json()["error"]["param"] == "previous_response_id"
    native = b'{"id":"resp_2","object":"response","output":[],"usage":{"input_tokens":1,"output_tokens":1}}'
    upstream.next(Reply(body=native))
    answer = gateway.post("/v1/responses", {**body, "model": "openai"})
    assert (answer.status_code, answer.content) == (200, native)
    assert upstream.requests[-1].json["previous_response_id"] == "resp_1"


@pytest.mark.parametrize(("path", "model"), [("/v1/responses", "openai"), ("/v1/messages", "vllm")])
def test_a_service_that_lacks_an_endpoint_is_asked_by_chat_from_then_on(
    gateway: Gateway, upstream: Upstream, path: str, model: str
) -> None:
    """Compatible services seldom have all of them, and their operator need not know."""
    body = {"model": model, "max_tokens": 50, "input": "Hi", "messages": USER}
    body.pop("messages" if path == "/v1/responses" else "input")
    asked = len(upstream.requests)
    upstream.next(Reply(status=404, body=b'{"detail": "Not Found"}'))
    for attempts in ("2", "1", "1"):
        answer = gateway.post(path, body)
        assert (answer.status_code, answer.headers["x-tokenhub-reason"]) == (200, "model-hint"), answer.text
        assert answer.headers["x-tokenhub-attempts"] == attempts
    assert [request.path for request in upstream.requests[asked:]] == [path, *["/v1/chat/completions"] * 3]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"), ({"input": []}, "input"), ({"input": 5}, "input"), ({"input": "Hi", "model": 5}, "model"),
        ({"input": "Hi", "max_output_tokens": 0}, "max_output_tokens"),
    ],
)  # fmt: skip
def test_a_bad_response_request_names_its_field(gateway: Gateway, body: dict[str, Any], param: str) -> None:
    answer = gateway.post("/v1/responses", {"model": "openai", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_names_of_dropped_parameters_cannot_break_the_header(gateway: Gateway) -> None:
    body = {"model": "anthropic", "messages": USER, "a\r\nx-evil: 1": 1, "é,b": 2, **{f"f{n}": 1 for n in range(500)}}
    answer = gateway.post("/v1/chat/completions", body)
    assert answer.status_code == 200
    assert "x-evil" not in answer.headers
    assert answer.headers["x-tokenhub-warning"].startswith("dropped=a??x-evil:?1,??b,f0,f1")


# -- a silent upstream ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "model", "ending"),
    [
        ("/v1/chat/completions", "openai", '"code":"upstream_timeout"'),
        ("/v1/chat/completions", "anthropic", '"code":"upstream_timeout"'),
        ("/v1/messages", "openai", "event: error"),
        ("/v1/responses", "anthropic", "event: response.failed"),
    ],
)
def test_a_silent_upstream_is_bridged_by_comments_until_the_limit(
    gateway: Gateway, upstream: Upstream, path: str, model: str, ending: str
) -> None:
    upstream.next(Reply(fault=Fault.HANG_MIDWAY, at=4))
    body: dict[str, Any] = {"model": model, "stream": True, "max_tokens": 50, "messages": USER}
    if path == "/v1/responses":
        body = {"model": model, "stream": True, "input": "Hi"}
    started = monotonic()
    text = gateway.post(path, body, headers={**gateway.headers(), "X-TokenHub-Fallback": "none"}).text
    assert text.count(": keep-alive\n\n") >= 3
    assert text.rstrip().rpartition("\n\n")[2].count(ending) == 1, text[-500:]
    assert 0.9 < monotonic() - started < 5


def test_comments_before_the_first_event_do_not_rule_out_another_model(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(*[Reply(headers={"content-type": "text/event-stream"}, body=b": PROCESSING\n\n: PROCESSING\n\n")] * 3)
    answer = gateway.post("/v1/chat/completions", {"model": "openai", "stream": True, "messages": USER})
    assert answer.status_code == 200
    assert answer.headers["x-tokenhub-reason"].startswith("failover-")
    assert "PROCESSING" not in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    json.loads(answer.text.partition("data: ")[2].partition("\n\n")[0])


# -- what nobody here can do -------------------------------------------------------------------------------------------
def test_the_packages_do_not_repeat_what_no_model_can_do(gateway: Gateway) -> None:
    sent: list[Any] = []
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    body: Any = {"model": "auto", "messages": USER, "tools": [tool]}
    with (
        openai.DefaultHttpxClient(event_hooks={"request": [sent.append]}) as http,
        openai.OpenAI(base_url=f"{gateway.base}/v1", api_key=KEY, max_retries=2, http_client=http) as client,
        pytest.raises(openai.APIStatusError) as refused,
    ):
        client.chat.completions.create(**body)
    assert (refused.value.status_code, refused.value.code) == (502, "no_eligible_models")
    assert "lacks_tools" in refused.value.message
    assert len(sent) == 1
