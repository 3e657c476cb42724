"""Streams towards a client: the grammar of Responses event by event, and all three dialects as the official packages
read them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from providers.formats.canonical import (
    ChatRequest,
    Ended,
    Finished,
    PartEnded,
    RefusalDelta,
    Started,
    StopReason,
    StreamEvent,
    TextDelta,
    ThinkingDelta,
    ToolDelta,
    ToolStarted,
    UsageSeen,
)
from providers.formats.dialect import ClientError, Usage, WireError
from providers.formats.errors import UnreadableAnswer
from providers.formats.registry import DIALECTS, relay
from providers.formats.sse import Framer
from tests.support.canonical import CHAT, MESSAGES, RESPONSES, said, streams

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
ERROR = ClientError(502, "upstream_error", "The provider broke off.", request_id="r")


def rendered(events: list[StreamEvent], asked: ChatRequest | None = None) -> list[dict[str, Any]]:
    return read(DIALECTS[RESPONSES].stream_renderer(show_usage=True, asked=asked).render(events))


def read(stream: bytes) -> list[dict[str, Any]]:
    shown = []
    for frame in Framer().feed(stream):
        event = json.loads(frame.data)
        assert frame.event.decode() == event["type"]
        shown.append(event)
    return shown


# -- the grammar -----------------------------------------------------------------------------------------------------
class Reader:
    """Builds the output as a client would, and fails at the first event that stands where it must not."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        self.output: list[Any] = []
        self.open: dict[int, dict[str, Any]] = {}
        self.pieces: dict[tuple[int, int], str] = {}
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        created, in_progress, *inner, last = events
        assert (created["type"], in_progress["type"]) == ("response.created", "response.in_progress")
        assert created["response"] == in_progress["response"]
        assert created["response"]["status"] == "in_progress"
        assert created["response"]["output"] == []
        for event in inner:
            getattr(self, event["type"].removeprefix("response.").replace(".", "_"))(event)
        assert self.open == {}, "an item has no end"
        assert last["type"] == f"response.{last['response']['status']}"
        assert last["type"] in {"response.completed", "response.incomplete"}
        self.response = last["response"]
        assert self.response["output"] == self.output
        for name in created["response"].keys() - {"status", "output", "usage", "incomplete_details"}:
            assert self.response[name] == created["response"][name]

    def output_item_added(self, event: dict[str, Any]) -> None:
        item = event["item"]
        assert event["output_index"] == len(self.output)
        assert item["id"] not in [one["id"] for one in self.output]
        assert item.get("status", "in_progress") == "in_progress"
        assert item.get("content", []) == item.get("summary", []) == []
        assert item.get("arguments", "") == item.get("input", "") == ""
        self.output.append(item)
        self.open[event["output_index"]] = {**item, "parts": [], "said": None}

    def output_item_done(self, event: dict[str, Any]) -> None:
        item, one = event["item"], self.open.pop(event["output_index"])
        assert (item["id"], item["type"]) == (one["id"], one["type"])
        assert item.get("status", "completed") == "completed"
        for name in ("call_id", "name", "namespace"):
            assert item.get(name) == one.get(name)
        match item["type"]:
            case "message":
                assert item["content"] == one["parts"]
            case "reasoning":
                assert item["summary"] == one["parts"]
            case "function_call":
                assert item["arguments"] == one["said"]
                json.loads(item["arguments"])
            case "custom_tool_call":
                assert item["input"] == one["said"]
        self.output[event["output_index"]] = item

    def _item(self, event: dict[str, Any], kind: str) -> dict[str, Any]:
        one = self.open[event["output_index"]]
        assert event["item_id"] == one["id"]
        assert one["type"] == kind
        return one

    def _add(self, event: dict[str, Any], place: int) -> None:
        self.pieces[event["output_index"], place] += event["delta"]

    def content_part_added(self, event: dict[str, Any]) -> None:
        one = self._item(event, "message")
        assert event["content_index"] == len(one["parts"])
        assert not event["part"].get("text") and not event["part"].get("refusal")  # noqa: PT018  (one promise)
        one["parts"].append(None)
        self.pieces[event["output_index"], event["content_index"]] = ""

    def output_text_delta(self, event: dict[str, Any]) -> None:
        self._item(event, "message")
        self._add(event, event["content_index"])

    refusal_delta = output_text_delta

    def output_text_done(self, event: dict[str, Any]) -> None:
        self._item(event, "message")
        assert event["text"] == self.pieces[event["output_index"], event["content_index"]]

    def refusal_done(self, event: dict[str, Any]) -> None:
        self._item(event, "message")
        assert event["refusal"] == self.pieces[event["output_index"], event["content_index"]]

    def content_part_done(self, event: dict[str, Any]) -> None:
        one, part = self._item(event, "message"), event["part"]
        text = part["text"] if part["type"] == "output_text" else part["refusal"]
        assert text == self.pieces.pop((event["output_index"], event["content_index"]))
        assert one["parts"][event["content_index"]] is None
        one["parts"][event["content_index"]] = part

    def reasoning_summary_part_added(self, event: dict[str, Any]) -> None:
        one = self._item(event, "reasoning")
        assert event["summary_index"] == len(one["parts"])
        one["parts"].append(None)
        self.pieces[event["output_index"], event["summary_index"]] = ""

    def reasoning_summary_text_delta(self, event: dict[str, Any]) -> None:
        self._item(event, "reasoning")
        self._add(event, event["summary_index"])

    def reasoning_summary_text_done(self, event: dict[str, Any]) -> None:
        assert event["text"] == self.pieces[event["output_index"], event["summary_index"]]

    def reasoning_summary_part_done(self, event: dict[str, Any]) -> None:
        one = self._item(event, "reasoning")
        assert event["part"]["text"] == self.pieces.pop((event["output_index"], event["summary_index"]))
        one["parts"][event["summary_index"]] = event["part"]

    def function_call_arguments_delta(self, event: dict[str, Any]) -> None:
        self._item(event, "function_call")
        self.pieces.setdefault((event["output_index"], 0), "")
        self._add(event, 0)

    def function_call_arguments_done(self, event: dict[str, Any]) -> None:
        one = self._item(event, "function_call")
        assert event["arguments"] == self.pieces.pop((event["output_index"], 0))
        one["said"] = event["arguments"]

    def custom_tool_call_input_delta(self, event: dict[str, Any]) -> None:
        self._item(event, "custom_tool_call")
        self.pieces[event["output_index"], 0] = event["delta"]

    def custom_tool_call_input_done(self, event: dict[str, Any]) -> None:
        one = self._item(event, "custom_tool_call")
        assert event["input"] == self.pieces.pop((event["output_index"], 0))
        one["said"] = event["input"]


@pytest.mark.parametrize("name", [MESSAGES, CHAT, RESPONSES])
@given(data=st.data())
@FEW
def test_any_stream_keeps_the_grammar_of_responses(name: str, data: st.DataObject) -> None:
    sent = DIALECTS[name].stream_renderer(show_usage=True).render(data.draw(streams(name).filter(has_sound_calls)))
    parser = DIALECTS[name].stream_parser()
    events = parser.feed(sent) + parser.close()
    shown = Reader(rendered(events))
    meant = said(events)
    content = [part for item in shown.output if item["type"] == "message" for part in item["content"]]
    assert "".join(part.get("text", "") + part.get("refusal", "") for part in content) == meant.spoken
    calls = [item for item in shown.output if item["type"] == "function_call"]
    assert [[item["call_id"], item["name"], item["arguments"]] for item in calls] == meant.calls
    assert (shown.response["usage"] or {}).get("output_tokens") == (meant.usage.output_tokens if meant.usage else None)


def has_sound_calls(events: list[StreamEvent]) -> bool:
    """The readers want arguments that are JSON; Anthropic's stumbles over half of a bare `null`, `true` or `false`."""
    for _, _, arguments in said(events).calls:
        try:
            if json.loads(arguments) in (None, True, False):
                return False
        except ValueError:
            return False
    return True


def of(*events: StreamEvent, reason: StopReason = StopReason.END) -> list[StreamEvent]:
    usage = UsageSeen(Usage(input_tokens=3, cached_input_tokens=1, output_tokens=4, reasoning_tokens=2))
    return [Started("i", "m", 7), *events, Finished(reason), usage, Ended()]


def test_the_events_of_a_text() -> None:
    shown = rendered(of(TextDelta("Hel"), TextDelta("lo"), PartEnded()))
    assert [event["type"] for event in shown] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert shown[-1]["response"]["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 7,
    }
    Reader(shown)


def test_calls_whose_arguments_interleave_stay_open_beside_each_other() -> None:
    shown = rendered(
        of(
            ToolStarted(0, "a", "f"), ToolStarted(1, "b", "g"), ToolDelta(1, "{"), ToolDelta(0, '{"x":'),
            ToolDelta(1, "}"), ToolDelta(0, "1}"),
        )
    )  # fmt: skip
    output = Reader(shown).output
    assert [(item["call_id"], item["name"], item["arguments"]) for item in output] == [
        ("a", "f", '{"x":1}'),
        ("b", "g", "{}"),
    ]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert Reader(rendered(of(ToolStarted(0, "a", "f"), PartEnded()))).output[0]["arguments"] == "{}"


def test_a_refusal_beside_a_text_is_a_part_of_the_same_message() -> None:
    shown = Reader(rendered(of(TextDelta("Well. "), RefusalDelta("No."), reason=StopReason.REFUSAL)))
    assert [part["type"] for part in shown.output[0]["content"]] == ["output_text", "refusal"]
    assert shown.response["status"] == "completed"


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        (StopReason.LENGTH, "max_output_tokens"),
        (StopReason.CONTEXT, "max_output_tokens"),
        (StopReason.REFUSAL, "content_filter"),
    ],
)
def test_an_answer_that_was_cut_is_incomplete(reason: StopReason, why: str) -> None:
    response = Reader(rendered(of(TextDelta("x"), reason=reason))).response
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": why}


def test_reasoning_text_and_call_are_items_in_their_order() -> None:
    shown = Reader(
        rendered(
            of(
                ThinkingDelta("Hm", source=MESSAGES), ThinkingDelta("", "sig", source=MESSAGES), PartEnded(),
                ThinkingDelta("", "", "sealed", MESSAGES), PartEnded(),
                TextDelta("Well"), PartEnded(), ToolStarted(0, "a", "f"), ToolDelta(0, "{}"), PartEnded(),
                TextDelta("Done"), PartEnded(),
            )
        )
    )  # fmt: skip
    kinds = [item["type"] for item in shown.output]
    assert kinds == ["reasoning", "reasoning", "message", "function_call", "message"]
    assert shown.output[0]["summary"] == [{"type": "summary_text", "text": "Hm"}]
    assert shown.output[1]["summary"] == []
    assert all(item["encrypted_content"] for item in shown.output[:2])


def test_an_empty_answer_has_a_beginning_and_an_end() -> None:
    assert Reader(rendered(of())).output == []


def test_a_stream_that_breaks_off_ends_with_a_failed_response_of_the_same_id_and_the_next_number() -> None:
    renderer = DIALECTS[RESPONSES].stream_renderer(show_usage=True)
    shown = read(renderer.render([Started("i", "m", 7), TextDelta("Hal")]) + renderer.fail(ERROR))
    assert [event["sequence_number"] for event in shown] == list(range(len(shown)))
    assert shown[-1]["type"] == "response.failed"
    response = shown[-1]["response"]
    assert (response["id"], response["status"], response["error"]["code"]) == (
        shown[0]["response"]["id"], "failed", "server_error",
    )  # fmt: skip
    openai.types.responses.ResponseFailedEvent.model_validate(shown[-1])


def test_a_stream_that_never_began_ends_with_a_failed_response_too() -> None:
    (event,) = read(DIALECTS[RESPONSES].stream_renderer(show_usage=True).fail(ERROR))
    assert (event["type"], event["sequence_number"]) == ("response.failed", 0)
    openai.types.responses.ResponseFailedEvent.model_validate(event)


def test_a_stream_repeats_what_was_asked() -> None:
    body = {
        "model": "m", "input": "Hi", "instructions": "Be brief", "temperature": 0.5, "top_p": 0.25,
        "max_output_tokens": 99, "metadata": {"a": "b"}, "parallel_tool_calls": False, "user": "u",
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}],
        "tool_choice": {"type": "function", "name": "f"}, "reasoning": {"effort": "low", "summary": None},
        "text": {"format": {"type": "json_object"}},
    }  # fmt: skip
    asked = DIALECTS[RESPONSES].parse_request(json.dumps(body).encode())
    response = Reader(rendered(of(TextDelta("x")), asked)).response
    for name in body.keys() - {"model", "input"}:
        assert response[name] == body[name], name
    assert response["model"] == "m"
    assert response["created_at"] == 7


# -- the official packages -------------------------------------------------------------------------------------------
@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    logging.getLogger("httpx2").setLevel(logging.WARNING)


Build = Callable[[bytes], Any]


def serving(stream: bytes) -> httpx2.Client:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=stream, headers={"content-type": "text/event-stream"})

    return httpx2.Client(transport=httpx2.MockTransport(answer))


def by_responses(stream: bytes) -> Any:
    with (
        openai.OpenAI(api_key="k", http_client=serving(stream)) as client,
        client.responses.stream(model="m", input="Hi") as events,
    ):
        return events.get_final_response()


def by_chat(stream: bytes) -> Any:
    with (
        openai.OpenAI(api_key="k", http_client=serving(stream)) as client,
        client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "Hi"}]) as events,
    ):
        return events.get_final_completion()


def by_messages(stream: bytes) -> Any:
    with (
        anthropic.Anthropic(api_key="k", http_client=serving(stream)) as client,
        client.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]) as events,
    ):
        return events.get_final_message()


def relayed(source: str, target: str, events: list[StreamEvent]) -> bytes:
    sent = DIALECTS[source].stream_renderer(show_usage=True).render(events)
    if source == target:
        return sent
    way = relay(DIALECTS[source], DIALECTS[target], show_usage=True, now=7.0)
    return way.feed(sent) + way.close()


def completed(events: list[StreamEvent]) -> list[StreamEvent]:
    """The package raises for an answer that was cut or withheld."""
    is_cut = {StopReason.LENGTH, StopReason.CONTEXT, StopReason.REFUSAL}
    return [Finished(StopReason.END) if isinstance(one, Finished) and one.reason in is_cut else one for one in events]


@pytest.mark.parametrize("source", [MESSAGES, CHAT, RESPONSES])
@given(data=st.data())
@FEW
def test_the_openai_package_builds_the_response_that_was_streamed(source: str, data: st.DataObject) -> None:
    events = completed(data.draw(streams(source)))
    stream = relayed(source, RESPONSES, events)
    final, last = by_responses(stream), read(stream)[-1]["response"]
    shown = final.model_dump(mode="json", exclude_unset=True)
    assert without_nulls(shown["output"]) == without_nulls(last["output"])
    assert final.output_text == said(events).text
    assert final.status == last["status"]


def without_nulls(value: Any) -> Any:
    """The package adds fields of its own, such as `parsed`, all null."""
    if isinstance(value, dict):
        return {
            name: without_nulls(one) for name, one in value.items() if one is not None and name != "parsed_arguments"
        }
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("source", [MESSAGES, CHAT, RESPONSES])
@given(data=st.data())
@FEW
def test_the_openai_package_builds_the_completion_that_was_streamed(source: str, data: st.DataObject) -> None:
    events = completed(data.draw(streams(source)))
    final = by_chat(relayed(source, CHAT, events))
    meant, message = said(events), final.choices[0].message
    assert (message.content or "") == meant.text
    assert (message.refusal or "") == meant.refusal
    calls = [[call.id, call.function.name, call.function.arguments] for call in message.tool_calls or ()]
    assert calls == meant.calls
    assert final.model == meant.model
    assert (final.usage.completion_tokens if final.usage else None) == (
        meant.usage.output_tokens if meant.usage else None
    )


@pytest.mark.parametrize("source", [MESSAGES, CHAT, RESPONSES])
@given(data=st.data())
@FEW
def test_the_anthropic_package_builds_the_message_that_was_streamed(source: str, data: st.DataObject) -> None:
    events = data.draw(streams(source).filter(has_sound_calls))
    message = by_messages(relayed(source, MESSAGES, events))
    meant = said(events)
    assert "".join(block.text for block in message.content if block.type == "text") == meant.spoken
    assert "".join(block.thinking for block in message.content if block.type == "thinking") == meant.thinking
    calls = [[block.id, block.name, block.input] for block in message.content if block.type == "tool_use"]
    assert calls == [[identity, name, json.loads(arguments)] for identity, name, arguments in meant.calls]
    if meant.usage is not None:
        usage = message.usage
        counted = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
        assert (counted, usage.output_tokens) == (meant.usage.input_tokens, meant.usage.output_tokens)


@pytest.mark.parametrize("client", [RESPONSES, MESSAGES])
def test_an_error_without_a_type_is_one_in_its_own_words(client: str) -> None:
    """As servers write it that know one form of errors for all their endpoints."""
    way = relay(DIALECTS[RESPONSES], DIALECTS[client], show_usage=True, now=1.0)
    assert way.feed(b'data: {"error":{"message":"Out of memory","code":500}}\n\n') == b""
    assert way.error == WireError("Out of memory", code="500")
    other = relay(DIALECTS[RESPONSES], DIALECTS[client], show_usage=True, now=1.0)
    with pytest.raises(UnreadableAnswer):
        other.feed(b'data: {"id":"x"}\n\n')
