"""Answers in the form that was asked for, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream
from tests.support.wire import encode

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
GOOD, BAD = '{"age": 7}', '{"age": "seven"}'
USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
COST = (100 * 0.001 + 10 * 0.002) / 1000
AS_JSON = {"type": "json", "schema": SCHEMA}


@pytest.fixture(scope="module")
def server() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(server: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    prices = {"input_per_1k": "0.001", "output_per_1k": "0.002"}
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[
            {"id": "chat", "type": "openai", "base_url": server.url, "dialects": ["openai-chat"]},
            {"id": "claude", "type": "anthropic", "base_url": server.url},
        ],
        models=[
            {"id": "native", "provider_id": "chat", "abilities": ["structured_output"], **prices},
            {"id": "wordy", "provider_id": "chat", "abilities": ["tools"], **prices},
            {"id": "claude", "provider_id": "claude", "abilities": ["structured_output"], **prices},
        ],
    ) as running:
        yield running


@pytest.fixture
def upstream(server: Upstream) -> Upstream:
    server.forget()
    server.requests.clear()
    return server


def said(text: str | None, **message: Any) -> Reply:
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text, **message},
    }
    return Reply(
        body=encode({"id": "c1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": USAGE})
    )


def streamed(*texts: str) -> Reply:
    deltas: list[dict[str, Any]] = [{"content": text} for text in texts]
    chunks: list[dict[str, Any]] = [{"id": "c1", "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({"id": "c1", "choices": [], "usage": USAGE})
    return Reply(events=(*(b"data: %b\n\n" % encode(chunk) for chunk in chunks), b"data: [DONE]\n\n"))


def ask(gateway: Gateway, model: str = "native", *, stream: bool = False, **fields: Any) -> Any:
    request = {"messages": [{"role": "user", "content": "How old?"}], "model_hint": model, "stream": stream}
    return gateway.post("/v1/chat", {"request": request, **fields})


def text_of(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["response"]["choices"][0]["message"]["content"])


def streamed_text(answer: Any) -> str:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    chunks = [json.loads(line) for line in lines]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))


def test_a_fitting_answer_is_passed_on_and_native_means_are_used(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said(GOOD))
    assert text_of(ask(gateway, output_format=AS_JSON)) == GOOD
    (asked,) = upstream.requests
    assert asked.json["response_format"]["json_schema"]["schema"] == SCHEMA
    assert asked.json["messages"] == [{"role": "user", "content": "How old?"}]


def test_a_model_without_native_means_is_told_in_words(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said(GOOD))
    assert text_of(ask(gateway, "wordy", output_format={"type": "json", "schema": json.dumps(SCHEMA)})) == GOOD
    (asked,) = upstream.requests
    assert "response_format" not in asked.json
    first = asked.json["messages"][0]
    assert first["role"] == "system"
    assert json.dumps(SCHEMA) in first["content"]


def test_a_wrong_answer_is_repaired_and_both_are_paid_for(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said(BAD), said(GOOD))
    answer = ask(gateway, output_format=AS_JSON)
    assert text_of(answer) == GOOD
    _, again = upstream.requests
    *_, theirs, ours = again.json["messages"]
    assert theirs == {"role": "assistant", "content": BAD}
    assert "$.age: 'seven' is not of type 'integer'" in ours["content"]
    assert again.json["response_format"]["json_schema"]["schema"] == SCHEMA
    assert answer.json()["cost_usd"] == pytest.approx(2 * COST)
    assert len(answer.json()["attempts"]) == 2
    gateway.wait_until(lambda: _row(gateway, answer) is not None)
    row = _row(gateway, answer)
    assert row is not None
    assert (row["input_tokens"], row["output_tokens"], row["attempts"]) == (200, 20, 2)
    assert float(row["cost_usd"]) == pytest.approx(2 * COST)


def _row(gateway: Gateway, answer: Any) -> dict[str, Any] | None:
    own = answer.headers["x-tokenhub-request-id"].replace("-", "")
    return next((row for row in gateway.rows() if str(row["request_id"]).replace("-", "") == own), None)


def test_an_answer_that_never_fits_is_an_error_with_its_text_and_its_cost(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("old"), said(BAD))
    answer = ask(gateway, output_format=AS_JSON)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "output_schema_mismatch"
    assert error["details"]["output"] == BAD
    assert "integer" in error["details"]["problems"][0]
    gateway.wait_until(lambda: _row(gateway, answer) is not None)
    row = _row(gateway, answer)
    assert row is not None
    assert (row["status"], row["error_code"]) == (422, "output_schema_mismatch")
    assert float(row["cost_usd"]) == pytest.approx(2 * COST)


def test_no_repair_goes_beyond_the_requests_budget(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said(BAD), said(GOOD))
    answer = ask(gateway, output_format={**AS_JSON, "max_tokens": 10}, policy={"max_budget_usd": COST * 1.1})
    assert answer.status_code == 422
    assert len(upstream.requests) == 1


def test_a_failing_repair_is_the_providers_error_and_the_first_answer_is_paid_for(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.next(said(BAD), Reply(status=400))
    answer = ask(gateway, output_format=AS_JSON)
    assert answer.json()["error"]["code"] == "upstream_rejected"
    gateway.wait_until(lambda: _row(gateway, answer) is not None)
    row = _row(gateway, answer)
    assert row is not None
    assert float(row["cost_usd"]) == pytest.approx(COST)


@pytest.mark.parametrize(
    "text", [f"Here you are:\n```json\n{GOOD}\n```\nDone.", f"<think>hm {{}}</think>{GOOD}", f" {GOOD} "]
)
def test_what_surrounds_json_is_taken_away(gateway: Gateway, upstream: Upstream, text: str) -> None:
    upstream.next(said(text))
    assert text_of(ask(gateway, output_format=AS_JSON)) == GOOD


def test_json_without_a_schema_is_an_object_or_an_array(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("seven"), said('{"a": 1}'))
    assert text_of(ask(gateway, output_format={"type": "json"})) == '{"a": 1}'
    assert upstream.requests[0].json["response_format"] == {"type": "json_object"}
    assert "JSON" in upstream.requests[0].json["messages"][0]["content"]


def test_xml_is_well_formed(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("<a><b></a>"), said("Sure!\n```xml\n<a><b/></a>\n```"))
    assert text_of(ask(gateway, output_format={"type": "xml"})) == "<a><b/></a>"
    assert "XML" in upstream.requests[0].json["messages"][0]["content"]
    upstream.next(said('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'), said("<a/>"))
    assert text_of(ask(gateway, output_format={"type": "xml"})) == "<a/>"


@pytest.mark.parametrize("kind", ["markdown", "text"])
def test_an_outer_fence_is_taken_away(gateway: Gateway, upstream: Upstream, kind: str) -> None:
    upstream.next(said(f"```{kind}\n# Title\n\nWords.\n```"))
    assert text_of(ask(gateway, output_format={"type": kind})) == "# Title\n\nWords."


def test_max_tokens_reaches_the_model(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("hi"))
    ask(gateway, output_format={"max_tokens": 17})
    assert upstream.requests[0].json["max_tokens"] == 17


def test_thoughts_are_taken_out_of_answers(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("<think>hm</think>\nYes.", reasoning_content="hm", reasoning="hm"))
    answer = ask(gateway, output_format={"strip_think": True})
    assert text_of(answer) == "Yes."
    message = answer.json()["response"]["choices"][0]["message"]
    assert not {"reasoning", "reasoning_content"} & message.keys()
    assert answer.json()["response"]["usage"] == USAGE


def test_thoughts_are_taken_out_of_streams(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(streamed("<th", "ink>h", "m</thi", "nk>\n", "Y", "es. 1 <", " 2"))
    answer = ask(gateway, stream=True, output_format={"strip_think": True})
    assert streamed_text(answer) == "Yes. 1 < 2"
    assert answer.text.rstrip().endswith("data: [DONE]")


def test_a_stream_that_fits_ends_well(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(streamed("<think>x</think>", '{"ag', 'e": 7}'))
    answer = ask(gateway, stream=True, output_format={**AS_JSON, "strip_think": True})
    assert json.loads(streamed_text(answer)) == {"age": 7}
    assert answer.text.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize("text", [BAD, f"Sure: {GOOD}"])
def test_a_stream_that_does_not_fit_ends_with_the_error(gateway: Gateway, upstream: Upstream, text: str) -> None:
    upstream.next(streamed(text[:5], text[5:]))
    answer = ask(gateway, stream=True, output_format=AS_JSON)
    last = json.loads(answer.text.rstrip().splitlines()[-1][6:])
    assert last["error"]["code"] == "output_schema_mismatch"
    assert "[DONE]" not in answer.text
    gateway.wait_until(lambda: _row(gateway, answer) is not None)
    row = _row(gateway, answer)
    assert row is not None
    assert row["status"] == 422
    assert float(row["cost_usd"]) == pytest.approx(COST)


@pytest.mark.parametrize(
    ("field", "schema", "words"),
    [
        ("output_format", {"type": "nothing"}, "nothing"),
        ("output_format", "{", "no JSON object"),
        ("output_format", {"$ref": "http://somewhere/else"}, "leads out"),
        ("output_schema", {"pattern": "("}, "regular expression"),
    ],
)
def test_a_bad_schema_is_refused_by_name(
    gateway: Gateway, upstream: Upstream, field: str, schema: Any, words: str
) -> None:
    request: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "model_hint": "native"}
    body: dict[str, Any] = {"request": request}
    if field == "output_schema":
        request[field] = schema
    else:
        body[field] = {"schema": schema}
    answer = gateway.post("/v1/chat", body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == ("request.output_schema" if field == "output_schema" else "output_format.schema")
    assert words in error["message"]
    assert not upstream.requests


def test_a_schema_is_for_json_alone(gateway: Gateway, upstream: Upstream) -> None:
    answer = ask(gateway, output_format={"type": "xml", "schema": SCHEMA})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "output_format.schema")


DIRECTIVE = f"@@tokenhub output_schema={json.dumps(SCHEMA)}\nHow old?"


def test_a_directives_schema_is_kept_on_every_endpoint(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said(BAD), said(GOOD))
    answer = gateway.post(
        "/v1/chat/completions", {"model": "native", "messages": [{"role": "user", "content": DIRECTIVE}]}
    )
    assert answer.json()["choices"][0]["message"]["content"] == GOOD
    upstream.next(said(BAD), said(f"```json\n{GOOD}\n```"))
    answer = gateway.post("/v1/responses", {"model": "native", "input": DIRECTIVE})
    assert answer.json()["output"][0]["content"][0]["text"] == GOOD, answer.text
    upstream.next(said(BAD), said(GOOD))
    answer = gateway.post(
        "/v1/messages",
        {"model": "native", "max_tokens": 50, "messages": [{"role": "user", "content": DIRECTIVE}]},
    )
    assert answer.json()["content"] == [{"type": "text", "text": GOOD}], answer.text
    upstream.next(said(BAD), said(BAD))
    answer = gateway.post(
        "/v1/messages",
        {"model": "native", "max_tokens": 50, "messages": [{"role": "user", "content": DIRECTIVE}]},
    )
    assert answer.status_code == 422
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_directives_bad_schema_is_an_invalid_directive(gateway: Gateway, upstream: Upstream) -> None:
    text = '@@tokenhub output_schema={"type":"nothing"}\nHow old?'
    answer = gateway.post("/v1/responses", {"model": "native", "input": text})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_directive")


def test_another_dialects_model_is_repaired_too(gateway: Gateway, upstream: Upstream) -> None:
    def message(text: str) -> Reply:
        call = {"type": "tool_use", "id": "t1", "name": "output", "input": json.loads(text)}
        usage = {"input_tokens": 100, "output_tokens": 10}
        return Reply(
            body=encode(
                {
                    "id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [call],
                    "stop_reason": "tool_use", "usage": usage,
                }
            )
        )  # fmt: skip

    upstream.next(message(BAD), message(GOOD))
    answer = ask(gateway, "claude", output_format=AS_JSON)
    assert json.loads(text_of(answer)) == {"age": 7}
    assert answer.json()["cost_usd"] == pytest.approx(2 * COST)


def test_what_a_model_writes_says_nothing_about_its_health(gateway: Gateway, upstream: Upstream) -> None:
    for _ in range(6):
        upstream.next(said(BAD), said(BAD))
        assert ask(gateway, output_format=AS_JSON).status_code == 422
    upstream.next(said(GOOD))
    answer = ask(gateway, output_format=AS_JSON)
    assert (text_of(answer), len(answer.json()["attempts"])) == (GOOD, 1)
