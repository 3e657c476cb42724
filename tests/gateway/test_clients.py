"""The official packages as clients, and recorded provider traffic, through a real server over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.support import cassettes
from tests.support.cassettes import Cassette, names
from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Reply, Upstream, closed_port

MODELS = ("by-openai", "by-anthropic")
ALONE = {"X-TokenHub-Fallback": "none"}  # so that no earlier test's failures send a request elsewhere
ANSWERED = cassettes.WHOLE + cassettes.STREAMS


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One upstream model behind each dialect."""
    prices = {"input_per_1k": "0.001", "output_per_1k": "0.002", "max_context_tokens": 1_000_000}
    abilities = {"abilities": ["tools", "vision", "documents", "structured_output"]}
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[
            {"id": "openai", "type": "openai", "base_url": upstream.url, "credential": "sk-of-openai"},
            {"id": "anthropic", "type": "anthropic", "base_url": upstream.url + "/v1", "credential": "sk-of-anthropic"},
        ],
        models=[
            {"id": "by-openai", "provider_id": "openai", "upstream_model": "up-openai", **prices, **abilities},
            {"id": "by-anthropic", "provider_id": "anthropic", "upstream_model": "up-anthropic", **prices, **abilities},
        ],
        env={"TOKENHUB_RATE_LIMIT_RPS": "0"},
    ) as running:
        yield running


@pytest.fixture
def openai_client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.base}/v1", api_key=KEY, max_retries=0, default_headers=ALONE) as client:
        yield client


@pytest.fixture
def anthropic_client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.base, api_key=KEY, max_retries=0, default_headers=ALONE) as client:
        yield client


USER: list[Any] = [{"role": "user", "content": "Hi"}]


# -- the official packages -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", MODELS)
def test_the_openai_package_gets_whole_answers(openai_client: openai.OpenAI, upstream: Upstream, model: str) -> None:
    answer = openai_client.chat.completions.create(model=model, messages=USER)
    assert (answer.choices[0].message.content or "").startswith("Well met by moonlight")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 8)
    sent = upstream.requests[-1]
    assert sent.json["model"] == model.replace("by-", "up-")
    assert KEY not in str(sent.headers)


@pytest.mark.parametrize("model", MODELS)
def test_the_openai_package_gets_streams(openai_client: openai.OpenAI, model: str) -> None:
    chunks = list(
        openai_client.chat.completions.create(
            model=model, messages=USER, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith("Well met by moonlight")
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_shows_usage_only_to_who_asked(openai_client: openai.OpenAI, model: str) -> None:
    chunks = list(openai_client.chat.completions.create(model=model, messages=USER, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("model", MODELS)
def test_the_anthropic_package_gets_whole_answers(anthropic_client: anthropic.Anthropic, model: str) -> None:
    answer = anthropic_client.messages.create(model=model, max_tokens=100, messages=USER)
    assert answer.content[0].type == "text"
    assert answer.content[0].text.startswith("Well met by moonlight")
    assert (answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens) == ("end_turn", 11, 8)


@pytest.mark.parametrize("model", MODELS)
def test_the_anthropic_package_gets_streams(anthropic_client: anthropic.Anthropic, model: str) -> None:
    with anthropic_client.messages.stream(model=model, max_tokens=100, messages=USER) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text.startswith("Well met by moonlight")
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 8)


@pytest.mark.parametrize("model", MODELS)
def test_the_packages_understand_errors(
    openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic, upstream: Upstream, model: str
) -> None:
    upstream.next(Reply(status=400))
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client.chat.completions.create(model=model, messages=USER)
    assert refused.value.code == "upstream_rejected"
    assert "told to answer 400" in str(refused.value)
    with pytest.raises(anthropic.NotFoundError, match="no model 'by-nobody'"):
        anthropic_client.messages.create(model="by-nobody", max_tokens=5, messages=USER)


def test_the_packages_list_the_models(openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic) -> None:
    assert set(MODELS) <= {model.id for model in openai_client.models.list()}
    assert set(MODELS) <= {model.id for model in anthropic_client.models.list()}
    assert openai_client.models.retrieve("by-openai").owned_by == "openai"


def test_each_provider_gets_its_own_credential_and_nothing_of_the_clients(gateway: Gateway, upstream: Upstream) -> None:
    extra = {"X-Forwarded-For": "10.1.1.1", "Cookie": "a=b", "OpenAI-Organization": "o", "X-Custom": "kept"}
    for model in MODELS:
        gateway.post(
            "/v1/chat/completions?beta=true&api_key=x",
            {"model": model, "messages": USER},
            headers={**gateway.headers(), **ALONE, **extra},
        )
        sent = upstream.requests[-1].headers
        assert not {"x-forwarded-for", "cookie", "openai-organization"} & set(sent)
        assert "api_key" not in upstream.requests[-1].path
        if model == "by-openai":
            assert sent["authorization"] == "Bearer sk-of-openai"
            assert sent["x-custom"] == "kept"
            assert upstream.requests[-1].path.endswith("?beta=true")
        else:
            assert sent["x-api-key"] == "sk-of-anthropic"
            assert sent["anthropic-version"]


def test_the_answers_headers_and_the_log_say_who_answered_and_what_it_cost(gateway: Gateway) -> None:
    answer = gateway.post(
        "/v1/chat/completions",
        {"model": "by-openai", "messages": USER},
        headers={**gateway.headers(), **ALONE, "X-Request-ID": "mine-1"},
    )
    shown = answer.headers
    assert shown["x-request-id"] == "mine-1"
    assert (shown["x-tokenhub-model"], shown["x-tokenhub-provider"]) == ("by-openai", "openai")
    assert (shown["x-tokenhub-reason"], shown["x-tokenhub-attempts"]) == ("model-hint", "1")
    assert float(shown["x-tokenhub-cost-usd"]) == pytest.approx((11 * 0.001 + 8 * 0.002) / 1000)
    ours = shown["x-tokenhub-request-id"].replace("-", "")
    Gateway.wait_until(lambda: _row(gateway, ours) is not None)
    row = _row(gateway, ours)
    assert row is not None
    assert (row["client_request_id"], row["input_tokens"], row["output_tokens"]) == ("mine-1", 11, 8)
    assert float(row["cost_usd"]) == pytest.approx(float(shown["x-tokenhub-cost-usd"]))


def _row(gateway: Gateway, request_id: str) -> dict[str, Any] | None:
    found = gateway.query("SELECT * FROM telemetry_requestlog WHERE request_id = ?", request_id)
    return found[0] if found else None


def test_the_routers_choice_comes_with_its_reason_and_the_whole_of_v1_chat(gateway: Gateway) -> None:
    answer = gateway.post(
        "/v1/chat", {"request": {"messages": USER}, "policy": {"mode": "cheap", "max_budget_usd": 1}}
    ).json()
    assert answer["negotiated_model"] in MODELS
    assert answer["routing_reason"] == "routed-weight-5"
    assert answer["response"]["choices"][0]["message"]["content"].startswith("Well met")
    assert answer["cost_usd"] > 0
    assert answer["attempts"][0]["error_class"] is None


# -- recorded traffic ----------------------------------------------------------------------------------------------
def replay(upstream: Upstream, cassette: Cassette) -> Reply:
    if cassette.is_stream:
        return Reply(events=tuple(event + b"\n\n" for event in cassette.body.split(b"\n\n") if event.strip()))
    return Reply(status=cassette.status, body=cassette.body)


def post(gateway: Gateway, cassette: Cassette, *, model: str) -> httpx.Response:
    path = "/v1/messages" if cassette.is_anthropic else "/v1/chat/completions"
    return gateway.post(path, {**cassette.request, "model": model}, headers={**gateway.headers(), **ALONE})


@pytest.mark.parametrize(
    "cassette", cassettes.WHOLE + cassettes.STREAMS, ids=names(cassettes.WHOLE + cassettes.STREAMS)
)
def test_recorded_answers_pass_unchanged_where_both_sides_speak_alike(
    gateway: Gateway, upstream: Upstream, cassette: Cassette
) -> None:
    upstream.next(replay(upstream, cassette))
    answer = post(gateway, cassette, model="by-anthropic" if cassette.is_anthropic else "by-openai")
    assert answer.status_code == 200
    assert answer.content.rstrip() == cassette.body.rstrip()
    sent = upstream.requests[-1].json
    assert sent == {**cassette.request, "model": sent["model"]}


@pytest.mark.parametrize("cassette", cassettes.ERRORS, ids=names(cassettes.ERRORS))
def test_recorded_errors_keep_the_providers_words(gateway: Gateway, upstream: Upstream, cassette: Cassette) -> None:
    upstream.next(replay(upstream, cassette))
    answer = post(gateway, cassette, model="by-anthropic" if cassette.is_anthropic else "by-openai")
    body = answer.json()
    expected = {400: (400, "upstream_rejected"), 404: (502, "upstream_error"), 429: (429, "upstream_rate_limited")}
    assert (answer.status_code, answer.headers["x-tokenhub-error-code"]) == expected[cassette.status]
    recorded = cassette.json.get("error", cassette.json)["message"]
    assert recorded in body["error"]["message"]


@pytest.mark.parametrize("cassette", cassettes.STREAMS, ids=names(cassettes.STREAMS))
def test_recorded_streams_reach_a_client_of_the_other_dialect(
    gateway: Gateway,
    upstream: Upstream,
    openai_client: openai.OpenAI,
    anthropic_client: anthropic.Anthropic,
    cassette: Cassette,
) -> None:
    """Text and tool calls as the other official package reads them are those that were recorded."""
    expected = _recorded(cassette)
    upstream.next(replay(upstream, cassette))
    if cassette.is_anthropic:
        tools: list[Any] = [{"type": "function", "function": {"name": "f"}}]
        with openai_client.chat.completions.stream(model="by-anthropic", messages=USER, tools=tools) as stream:
            said = stream.get_final_completion().choices[0].message
        assert (said.content or "") == expected[0]
        assert [(one.function.name, json.loads(one.function.arguments)) for one in said.tool_calls or ()] == expected[1]
    else:
        with anthropic_client.messages.stream(model="by-openai", max_tokens=100, messages=USER) as other:
            blocks = other.get_final_message().content
        assert "".join(block.text for block in blocks if block.type == "text") == expected[0]
        assert [(block.name, block.input) for block in blocks if block.type == "tool_use"] == expected[1]


def _recorded(cassette: Cassette) -> tuple[str, list[tuple[str, Any]]]:
    """Text and calls, read out of the recording without any of our code."""
    text, calls = "", {}
    for line in cassette.body.decode().splitlines():
        if not line.startswith("data: {"):
            continue
        data = json.loads(line[6:])
        if cassette.is_anthropic:
            block, delta = data.get("content_block") or {}, data.get("delta") or {}
            if block.get("type") == "tool_use":
                calls[data["index"]] = [block["name"], ""]
            text += delta.get("text", "")
            if "partial_json" in delta:
                calls[data["index"]][1] += delta["partial_json"]
            continue
        for choice in data["choices"]:
            text += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls") or ():
                known = calls.setdefault(call["index"], [call["function"].get("name"), ""])
                known[1] += call["function"].get("arguments") or ""
    return text, [(name, json.loads(written or "{}")) for name, written in calls.values()]


def test_a_tool_loop_works_across_the_dialects(
    openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic, upstream: Upstream
) -> None:
    """The call's id that a client was given comes back to the provider with the result."""
    parallel = cassettes.load("anthropic_messages_json_tools_parallel")
    upstream.next(Reply(body=parallel.body), Reply())
    tools: list[Any] = [{"type": "function", "function": {"name": "retrieve_entity_info", "parameters": {}}}]
    first = openai_client.chat.completions.create(model="by-anthropic", messages=USER, tools=tools).choices[0].message
    calls = first.tool_calls or []
    assert len(calls) == 4
    results: list[Any] = [{"role": "tool", "tool_call_id": call.id, "content": f"age of {call.id}"} for call in calls]
    history: list[Any] = [*USER, first.to_dict(), *results]
    openai_client.chat.completions.create(model="by-anthropic", messages=history, tools=tools)
    sent = upstream.requests[-1].json["messages"]
    assert [block["tool_use_id"] for block in sent[2]["content"]] == [call.id for call in calls]
    assert sent[1]["content"] == parallel.json["content"]


def test_an_upstream_that_writes_one_byte_at_a_time_is_read(openai_client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.next(Reply(one_byte=True))
    chunks = openai_client.chat.completions.create(model="by-anthropic", messages=USER, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).startswith("Well met")


def test_a_vllm_of_several_endpoints_is_used_in_turn_and_a_dead_one_left_out(tmp_path: Path) -> None:
    with Upstream() as first, Upstream() as second:
        endpoints = [second.url + "/v1", f"http://127.0.0.1:{closed_port()}"]
        with Gateway(
            tmp_path,
            providers=[{"id": "v", "type": "vllm", "base_url": first.url, "endpoints": endpoints}],
            models=[{"id": "m", "provider_id": "v"}],
        ) as gateway:
            answers = [gateway.chat("m") for _ in range(12)]
            messages = gateway.post("/v1/messages", {"model": "m", "max_tokens": 5, "messages": USER})
        assert {answer.status_code for answer in answers} == {200}
        assert len(first.requests) >= 4
        assert len(second.requests) >= 4
        assert messages.json()["type"] == "message"  # a vLLM speaks it natively
        assert any(request.path == "/v1/messages" for request in first.requests + second.requests)
