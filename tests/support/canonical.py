"""Values of the canonical form for hypothesis: requests and answers that one dialect can express whole, streams that
say such an answer, and what a stream said in the end. Each restriction stands with its reason."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple

import msgspec
from hypothesis import strategies as st
from msgspec import Raw

from providers.formats.canonical import (
    ChatRequest,
    ChatResponse,
    Document,
    Ended,
    Failed,
    Finished,
    Image,
    Message,
    OutputSchema,
    Part,
    PartEnded,
    Reasoning,
    Refusal,
    RefusalDelta,
    Started,
    StopReason,
    StreamEvent,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    Tool,
    ToolCall,
    ToolChoice,
    ToolDelta,
    ToolResult,
    ToolStarted,
    UsageSeen,
)
from providers.formats.dialect import UpstreamModel, Usage, WireError

CHAT: Final = "openai-chat"
RESPONSES: Final = "openai-responses"
MESSAGES: Final = "anthropic-messages"
NAMES: Final = (CHAT, RESPONSES, MESSAGES)
Name = Literal["openai-chat", "openai-responses", "anthropic-messages"]

# -- pieces --------------------------------------------------------------------------------------------------------
texts = st.text(max_size=20)
some_text = st.text(min_size=1, max_size=20)
words = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789_-", min_size=1, max_size=12)
plain_text = some_text.map(lambda text: f"a{text}b")  # Anthropic takes no blank text, and no end in white space
base64_text = st.text("ABCabc0123+/", min_size=4, max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(texts, json_values, max_size=3)


@st.composite
def object_texts(draw: st.DrawFn) -> str:
    """A JSON object in one of the spellings that models use."""
    value = draw(json_objects)
    return json.dumps(value, ensure_ascii=draw(st.booleans()), separators=draw(st.sampled_from([None, (",", ":")])))


raw_objects = object_texts().map(lambda text: Raw(text.encode()))
# without a type they become an object's
argument_schemas = raw_objects.map(lambda raw: Raw(b'{"type":"object","properties":' + bytes(raw) + b"}"))
marks = st.none() | st.just(Raw(b'{"type":"ephemeral"}'))
counts = st.integers(0, 2**28)  # three of them make an input that can be true
data_images = st.builds(Image, st.just(""), base64_text, st.sampled_from(["image/png", "image/webp"]))
url_images = st.builds(Image, st.sampled_from(["https://e.org/a.png", "http://e.org/?b=data:image"]))
pdfs = st.builds(Document, st.just(""), base64_text, st.just("application/pdf"), words)


@st.composite
def usages(draw: st.DrawFn, *, audio: bool) -> Usage:
    """Parts of the input are never more than the input: Anthropic counts them beside each other."""
    cached, written, fresh, reasoning, rest = (draw(counts) for _ in range(5))
    heard, spoken = (draw(counts), draw(counts)) if audio else (0, 0)
    return Usage(cached + written + fresh, cached, written, reasoning + rest, reasoning, heard, spoken)


# -- requests ------------------------------------------------------------------------------------------------------
class Asked(NamedTuple):
    """A request that the dialect can say whole to that model."""

    request: ChatRequest
    model: UpstreamModel


def requests(name: str) -> st.SearchStrategy[Asked]:
    return {CHAT: chat_requests, RESPONSES: responses_requests, MESSAGES: messages_requests}[name]()


@st.composite
def tools(draw: st.DrawFn, name: str) -> list[Tool]:
    names = draw(st.lists(words, max_size=3, unique=True))
    shown: list[Tool] = []
    for one in names:
        description = draw(texts)
        match name:
            case "openai-chat":  # it has no word for a caching mark
                tool = Tool(one, description, draw(st.none() | argument_schemas), draw(st.none() | st.booleans()))
            case "openai-responses":  # nor has this, and it always says a schema and whether it is strict
                tool = Tool(one, description, draw(argument_schemas), draw(st.booleans()))
            case _:  # a schema is always said; tools are strict or say nothing of it
                tool = Tool(one, description, draw(argument_schemas), draw(st.sampled_from([None, True])), draw(marks))
        shown.append(tool)
    return shown


@st.composite
def choices(draw: st.DrawFn, known: list[Tool]) -> ToolChoice | None:
    """Only with tools: without any there is nothing to choose, and it is left out."""
    if not known:
        return None
    named = st.sampled_from(known).map(lambda tool: ToolChoice("named", tool.name))
    return draw(st.none() | st.sampled_from([ToolChoice(), ToolChoice("none"), ToolChoice("required")]) | named)


@st.composite
def schemas(draw: st.DrawFn) -> OutputSchema:
    if draw(st.booleans()):
        return OutputSchema(None)
    return OutputSchema(draw(raw_objects), draw(words), draw(st.none() | st.booleans()), draw(texts))


@st.composite
def chat_requests(draw: st.DrawFn) -> Asked:
    known = draw(tools(CHAT))
    request = ChatRequest(
        messages=draw(chat_histories()),
        tools=known,
        tool_choice=draw(choices(known)),
        parallel_tool_calls=draw(st.none() | st.booleans()) if known else None,  # said with tools only
        max_output_tokens=draw(st.none() | st.integers(1, 2**31 - 1)),
        temperature=draw(st.none() | st.floats(0, 2)),
        top_p=draw(st.none() | st.floats(0, 1)),
        stop=draw(st.lists(texts, max_size=3)),
        stream=draw(st.booleans()),
        user=draw(texts),
        output_schema=draw(st.none() | schemas()),
        # a budget or a wish for a summary has no word here
        reasoning=draw(st.none() | efforts.map(lambda effort: Reasoning(effort, named="reasoning_effort"))),
        logprobs=draw(st.none() | st.integers(0, 20)),
        others=draw(st.fixed_dictionaries({}, optional={
            "seed": st.integers(), "n": st.integers(2, 9), "presence_penalty": st.floats(-2, 2).filter(bool),
            "logit_bias": st.dictionaries(words, st.integers(-100, 100), min_size=1, max_size=2),
        })),
    )  # fmt: skip
    return Asked(request, UpstreamModel("some-model"))


efforts = st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"])  # max is xhigh to OpenAI


@st.composite
def chat_histories(draw: st.DrawFn) -> list[Message]:
    """A tool's result is a message of its own here, which holds text alone; an answer says its thoughts (one text),
    then its texts, then its refusal, then its calls."""
    messages: list[Message] = []
    names = st.just("") | words
    for turn in range(draw(st.integers(1, 4))):
        match draw(st.sampled_from(["system", "user", "assistant"])):
            case "system":
                parts: list[Part] = draw(st.lists(st.builds(Text, texts), min_size=1, max_size=2))
                messages.append(Message("system", tuple(parts), draw(names)))
            case "user":
                detailed = st.builds(replace, data_images | url_images, detail=st.sampled_from(["", "low", "high"]))
                parts = draw(st.lists(st.builds(Text, texts) | detailed | pdfs, min_size=1, max_size=3))
                messages.append(Message("user", tuple(parts), draw(names)))
            case _:
                thoughts = draw(st.lists(st.builds(Thinking, some_text, source=st.just(CHAT)), max_size=1))
                said = draw(st.lists(st.builds(Text, texts), max_size=2))
                refused = draw(st.lists(st.builds(Refusal, some_text), max_size=1))
                calls = draw(st.lists(st.builds(ToolCall, words, words, some_text), max_size=2, unique_by=call_id))
                if not (refused or calls or any(text.text for text in said)):  # what says nothing is left out
                    said.append(Text("x"))
                calls = [replace(call, id=f"{turn}_{call.id}") for call in calls]
                messages.append(Message("assistant", (*thoughts, *said, *refused, *calls), draw(names)))
                results = st.lists(st.builds(Text, texts), min_size=1, max_size=2)
                messages += [Message("user", (ToolResult(call.id, tuple(draw(results))),)) for call in calls]
    return messages


def call_id(call: ToolCall) -> str:
    return call.id


@st.composite
def responses_requests(draw: st.DrawFn) -> Asked:
    known = draw(tools(RESPONSES))
    is_openai = draw(st.booleans())  # what only OpenAI's models take is said to them alone, and these do not reason
    request = ChatRequest(
        messages=draw(responses_histories()),
        tools=known,
        tool_choice=draw(choices(known)),
        parallel_tool_calls=draw(st.none() | st.booleans()) if known else None,
        max_output_tokens=draw(st.none() | st.integers(16, 2**31 - 1)),  # OpenAI takes no less
        temperature=draw(st.none() | st.floats(0, 2)),
        top_p=draw(st.none() | st.floats(0, 1)),
        stream=draw(st.booleans()),
        user=draw(texts),
        output_schema=draw(st.none() | schemas()),
        reasoning=None if is_openai else draw(
            st.none() | st.builds(Reasoning, efforts, st.none(), st.sampled_from(["", "auto", "detailed"]))),
        logprobs=draw(st.none() | st.integers(0, 20)),
        others=draw(st.fixed_dictionaries({}, optional={
            "service_tier": st.just("flex"), "safety_identifier": some_text, "prompt_cache_key": some_text,
            "verbosity": st.sampled_from(["low", "high"]),
        })) if is_openai else {},
    )  # fmt: skip
    return Asked(request, UpstreamModel("gpt-4.1" if is_openai else "some-model"))


@st.composite
def responses_histories(draw: st.DrawFn) -> list[Message]:
    """Instructions are one text, and not empty. Answers do not stand beside each other: their items would be one turn.
    Reasoning is handed back only with what its provider encrypted."""
    detailed = st.builds(replace, data_images | url_images, detail=st.sampled_from(["", "low", "original"]))
    linked = st.builds(Document, st.just("https://e.org/a.pdf"), name=st.just("") | words)
    media = detailed | pdfs | linked
    messages = draw(st.lists(some_text.map(lambda text: Message("system", (Text(text),))), max_size=1))
    roles = draw(st.lists(st.sampled_from(["user", "assistant", "system"]), max_size=3))
    for turn, role in enumerate(["user", *roles]):
        if role == "system":
            messages.append(Message("system", tuple(draw(st.lists(st.builds(Text, texts), min_size=1, max_size=2)))))
        elif role == "user" or messages[-1].role == "assistant":
            user = draw(st.lists(st.builds(Text, texts) | media, min_size=1, max_size=3))
            messages.append(Message("user", tuple(user)))
        else:
            calls = st.builds(ToolCall, words, words, some_text)
            thoughts = st.builds(Thinking, texts, some_text, source=st.just(RESPONSES), id=words)
            said = st.builds(Text, texts) | st.builds(Refusal, texts) | thoughts | calls
            parts: list[Part] = [
                replace(part, id=f"{turn}_{place}_{part.id}") if isinstance(part, ToolCall) else part
                for place, part in enumerate(draw(st.lists(said, min_size=1, max_size=4)))
            ]
            messages.append(Message("assistant", tuple(parts)))
            # several texts alone would be joined to one
            results = st.lists(st.builds(Text, texts), min_size=1, max_size=1) | st.tuples(
                st.builds(Text, texts), media
            )
            messages += [
                Message("user", (ToolResult(part.id, tuple(draw(results))),))
                for part in parts
                if isinstance(part, ToolCall)
            ]
    return messages


@st.composite
def messages_requests(draw: st.DrawFn) -> Asked:
    known = draw(tools(MESSAGES))
    choice = draw(choices(known))
    is_forced = choice is not None and choice.mode in {"required", "named"}
    # thinking goes with no forced call, no other sampling and, here, with the history of a turn that thought
    thinks = not is_forced and draw(st.booleans())
    some_efforts, summaries = st.sampled_from(["", "low", "high", "max"]), st.sampled_from(["", "auto"])
    adaptive = st.builds(Reasoning, some_efforts, st.none(), summaries, st.just("thinking"))
    one_knob = draw(st.sampled_from(["temperature", "top_p"]))  # the model takes no two
    request = ChatRequest(
        messages=draw(messages_histories()),
        tools=known,
        tool_choice=choice,
        # it can be switched off, and only in a choice that may call at all
        parallel_tool_calls=False if choice is not None and choice.mode != "none" and draw(st.booleans()) else None,
        max_output_tokens=draw(st.integers(1, 2**31 - 1)),  # always said
        temperature=draw(st.none() | st.floats(0, 1)) if one_knob == "temperature" and not thinks else None,
        top_p=draw(st.none() | st.floats(0, 1)) if one_knob == "top_p" and not thinks else None,
        stop=draw(st.lists(plain_text, max_size=3)),
        stream=draw(st.booleans()),
        user=draw(texts),
        reasoning=draw(adaptive) if thinks else None,
        # elsewhere the answer is the arguments of a tool
        output_schema=draw(st.none() | st.builds(OutputSchema, raw_objects, strict=st.just(True))) if thinks else None,
        others={} if thinks else draw(st.fixed_dictionaries({}, optional={"top_k": st.integers(2, 99)})),
    )
    return Asked(request, UpstreamModel("claude-opus-4-6"))


@st.composite
def messages_histories(draw: st.DrawFn) -> list[Message]:
    """The system speaks once and first; user and assistant take turns; results begin the turn after their calls."""
    marked = st.builds(Text, plain_text, marks)
    media = st.one_of(
        st.builds(replace, data_images | url_images, cache_control=marks),
        st.builds(replace, pdfs, cache_control=marks),
        st.builds(Document, st.just(""), texts, st.just("text/plain"), st.just("") | words, marks),
        st.builds(Document, st.just("https://e.org/a.pdf"), name=st.just("") | words, cache_control=marks),
    )
    system = draw(st.lists(marked, max_size=2))
    messages = [Message("system", tuple(system))] if system else []
    begin, calls = draw(st.integers(0, 1)), list[ToolCall]()
    for turn in range(begin, begin + draw(st.integers(1, 4))):
        if turn % 2 == 0:
            user: list[Part] = [*draw(st.lists(marked | media, min_size=0 if calls else 1, max_size=3))]
            results = st.lists(st.builds(Text, some_text, marks) | media, max_size=2).map(tuple)
            answered = [ToolResult(call.id, draw(results), draw(st.booleans()), draw(marks)) for call in calls]
            messages.append(Message("user", (*answered, *user)))
            calls = []
        else:
            signed = st.builds(Thinking, texts, some_text, source=st.just(MESSAGES))
            redacted = st.builds(Thinking, redacted=some_text, source=st.just(MESSAGES))
            # ids of other letters are replaced; arguments that are no object are wrapped
            called = st.builds(ToolCall, words, words, object_texts(), marks)
            parts: list[Part] = [
                replace(part, id=f"{turn}_{place}_{part.id}") if isinstance(part, ToolCall) else part
                for place, part in enumerate(
                    draw(st.lists(marked | signed | redacted | called, min_size=1, max_size=4)))
            ]  # fmt: skip
            messages.append(Message("assistant", tuple(parts)))
            calls = [part for part in parts if isinstance(part, ToolCall)]
    if calls:
        messages.append(Message("user", tuple(ToolResult(call.id, ()) for call in calls)))
    return messages


# -- answers -------------------------------------------------------------------------------------------------------
def answers(name: str) -> st.SearchStrategy[ChatResponse]:
    return {CHAT: chat_answers, RESPONSES: responses_answers, MESSAGES: messages_answers}[name]()


logprobs = st.lists(
    st.fixed_dictionaries(
        {"token": texts, "bytes": st.just([]), "logprob": st.integers(-9, 0), "top_logprobs": st.just([])}
    ),
    min_size=1,
    max_size=2,
).map(lambda entries: Raw(msgspec.json.encode(entries)))


@st.composite
def foreign_thoughts(draw: st.DrawFn, *names: str) -> Thinking:
    """What another dialect's provider signed, encrypted or redacted; Responses alone names its parts."""
    source = draw(st.sampled_from(names))
    if source == MESSAGES and draw(st.booleans()):
        return Thinking(redacted=draw(some_text), source=source)
    identity = draw(words) if source == RESPONSES else ""
    return Thinking(draw(texts), draw(some_text), "", source, identity)


def _ending(parts: list[Part], reason: StopReason) -> StopReason:
    """OpenAI tells neither apart: an answer that ends with calls ends for them, one that refuses for that."""
    if reason is StopReason.LENGTH:
        return reason
    if any(isinstance(part, ToolCall) for part in parts):
        return StopReason.TOOL_CALLS
    return StopReason.REFUSAL if any(isinstance(part, Refusal) for part in parts) else StopReason.END


def _numbered(parts: list[Part]) -> list[Part]:
    """No two parts of an answer have one id."""
    return [
        replace(part, id=f"{place}_{part.id}") if isinstance(part, ToolCall | Thinking) and part.id else part
        for place, part in enumerate(parts)
    ]


@st.composite
def chat_answers(draw: st.DrawFn) -> ChatResponse:
    """Thoughts, one text, one refusal and calls, in this order. Thoughts all have a signature, or they are one text."""
    own = st.lists(st.builds(Thinking, some_text, source=st.just(CHAT)), max_size=1)
    thoughts = draw(own | st.lists(foreign_thoughts(MESSAGES, RESPONSES), max_size=2))
    parts: list[Part] = _numbered([
        *thoughts,
        *draw(st.lists(st.builds(Text, some_text, logprobs=st.none() | logprobs), max_size=1)),
        *draw(st.lists(st.builds(Refusal, some_text), max_size=1)),
        *draw(st.lists(st.builds(ToolCall, words, words, some_text), max_size=2)),
    ])  # fmt: skip
    return ChatResponse(
        id=f"chatcmpl-{draw(words)}",
        model=draw(texts),
        parts=tuple(parts),
        stop_reason=_ending(parts, draw(st.sampled_from([StopReason.END, StopReason.LENGTH]))),
        usage=draw(st.none() | usages(audio=True)),
        created=draw(st.integers(0, 2**40)),
        service_tier=draw(st.sampled_from(["", "default", "flex"])),
    )


@st.composite
def responses_answers(draw: st.DrawFn) -> ChatResponse:
    """Parts in any order. There is no count of audio, and always a service tier."""
    own = st.builds(Thinking, texts, texts, source=st.just(RESPONSES), id=words)
    plain = st.builds(Thinking, some_text, source=st.just(CHAT))
    said = st.one_of(
        st.builds(Text, texts, logprobs=st.none() | logprobs), st.builds(Refusal, some_text), own, plain,
        foreign_thoughts(MESSAGES, CHAT), st.builds(ToolCall, words, words, some_text),
    )  # fmt: skip
    parts = _numbered(draw(st.lists(said, max_size=4)))
    return ChatResponse(
        id=f"resp_{draw(words)}",
        model=draw(texts),
        parts=tuple(parts),
        stop_reason=_ending(parts, draw(st.sampled_from([StopReason.END, StopReason.LENGTH]))),
        usage=draw(st.none() | usages(audio=False)),
        created=draw(st.integers(0, 2**40)),
        service_tier=draw(st.sampled_from(["default", "flex"])),
    )


@st.composite
def messages_answers(draw: st.DrawFn) -> ChatResponse:
    """Parts in any order; a refusal is text. There is no time, no count of audio, and always a usage."""
    signed = st.builds(Thinking, texts, some_text, source=st.just(MESSAGES))
    redacted = st.builds(Thinking, redacted=some_text, source=st.just(MESSAGES))
    plain = st.builds(Thinking, some_text, source=st.just(CHAT))
    said = st.one_of(
        st.builds(Text, texts), signed, redacted, plain, foreign_thoughts(RESPONSES, CHAT),
        st.builds(ToolCall, words, words, object_texts()),
    )  # fmt: skip
    reason = draw(st.sampled_from(list(StopReason)))
    return ChatResponse(
        id=f"msg_{draw(words)}",
        model=draw(texts),
        parts=tuple(_numbered(draw(st.lists(said, max_size=4)))),
        stop_reason=reason,
        usage=draw(usages(audio=False)),
        stop_sequence=draw(some_text) if reason is StopReason.STOP_SEQUENCE else None,
        service_tier=draw(st.sampled_from(["", "default", "priority"])),
    )


# -- streams -------------------------------------------------------------------------------------------------------
@st.composite
def streams(draw: st.DrawFn, name: str) -> list[StreamEvent]:
    """A stream that says such an answer, in pieces of any size, as a parser would tell it."""
    return draw(streamed(draw(answers(name))))


@st.composite
def streamed(draw: st.DrawFn, answer: ChatResponse) -> list[StreamEvent]:
    events: list[StreamEvent] = [Started(answer.id, answer.model, answer.created, None, answer.service_tier)]
    calls = 0
    for part in answer.parts:
        match part:
            case Text():
                pieces = draw(cuts(part.text))
                events += [
                    TextDelta(piece, part.logprobs if place == 0 else None) for place, piece in enumerate(pieces)
                ]
            case Refusal():
                events += [RefusalDelta(piece) for piece in draw(cuts(part.text))]
            case Thinking(redacted=redacted) if redacted:
                events.append(ThinkingDelta("", "", redacted, part.source, part.id))
            case Thinking():
                events += [
                    ThinkingDelta(piece, source=part.source, id=part.id) for piece in draw(cuts(part.text)) if piece
                ]
                for place, piece in enumerate(draw(cuts(part.signature))):
                    if piece or place == 0:
                        events.append(ThinkingDelta("", piece, "", part.source, part.id))
            case ToolCall():
                events.append(ToolStarted(calls, part.id, part.name))
                events += [ToolDelta(calls, piece) for piece in draw(cuts(part.arguments)) if piece]
                calls += 1
        events.append(PartEnded())
    if answer.usage is not None and draw(st.booleans()):
        events.append(UsageSeen(answer.usage))
    events.append(Finished(answer.stop_reason, answer.stop_sequence))
    if answer.usage is not None:
        events.append(UsageSeen(answer.usage))
    return [*events, Ended()]


@st.composite
def cuts(draw: st.DrawFn, text: str) -> list[str]:
    """The text in one to three pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=2)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@dataclass
class Said:
    """What a stream said, whatever pieces it came in. `spoken`: text and refusal in their order; `thoughts`: text,
    signature, redacted, source, id of each."""

    model: str = ""
    text: str = ""
    refusal: str = ""
    spoken: str = ""
    thoughts: list[list[str]] = field(default_factory=list)
    calls: list[list[str]] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: Usage | None = None
    has_ended: bool = False
    error: WireError | None = None

    @property
    def thinking(self) -> str:
        return "".join(thought[0] for thought in self.thoughts)


def said(events: list[StreamEvent]) -> Said:
    """Also checks what a renderer relies on: one beginning, one end, deltas of calls that have begun."""
    out = Said()
    thinks = False
    for number, event in enumerate(events):
        assert not out.has_ended, "nothing follows the end"
        assert out.error is None, "nothing follows an error"
        if isinstance(event, ThinkingDelta):
            if not thinks or event.redacted:
                out.thoughts.append(["", "", "", "", ""])
            thinks = not event.redacted
            thought = out.thoughts[-1]
            thought[0] += event.text
            thought[1] += event.signature
            thought[2] += event.redacted
            if event.signature or event.redacted or not thought[1]:  # who signed it, not who passed the text on
                thought[3], thought[4] = event.source, event.id or thought[4]
            continue
        if not isinstance(event, UsageSeen):
            thinks = False
        match event:
            case Started():
                assert number == 0
                out.model, out.usage = event.model, event.usage
            case TextDelta():
                out.text += event.text
                out.spoken += event.text
                out.logprobs += msgspec.json.decode(event.logprobs) if event.logprobs is not None else []
            case RefusalDelta():
                out.refusal += event.text
                out.spoken += event.text
            case ToolStarted():
                assert event.index == len(out.calls)
                out.calls.append([event.id, event.name, ""])
            case ToolDelta():
                out.calls[event.index][2] += event.arguments
            case Finished():
                out.reason, out.stop_sequence = event.reason, event.stop_sequence
            case UsageSeen():
                out.usage = event.usage
            case Ended():
                out.has_ended = True
            case Failed():
                out.error = event.error
            case PartEnded():
                pass
    return _with_names_that_matter(out)


def said_whole(answer: ChatResponse) -> Said:
    """What a stream of that answer says."""
    out = Said(answer.model, reason=answer.stop_reason, stop_sequence=answer.stop_sequence, usage=answer.usage)
    out.has_ended = True
    for part in answer.parts:
        match part:
            case Text():
                out.text += part.text
                out.spoken += part.text
                out.logprobs += msgspec.json.decode(part.logprobs) if part.logprobs is not None else []
            case Refusal():
                out.refusal += part.text
                out.spoken += part.text
            case Thinking():
                out.thoughts.append([part.text, part.signature, part.redacted, part.source, part.id])
            case ToolCall():
                out.calls.append([part.id, part.name, part.arguments])
    return _with_names_that_matter(out)


def _with_names_that_matter(out: Said) -> Said:
    """The name of a thought is handed back only with what binds it."""
    for thought in out.thoughts:
        if not (thought[1] or thought[2]):
            thought[4] = ""
    return out
