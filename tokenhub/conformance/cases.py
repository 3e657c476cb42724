"""The golden conversations. Each is played for every pair of a client's and an upstream's dialect that it names, whole
and as a stream. A case raises BrokenRule when something is wrong and Skipped where it means nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tokenhub.conformance.cases_errors import (
    bad_key,
    cut_stream,
    dropped,
    earlier_response,
    failed_at_once,
    failed_stream,
    limited,
    rejected,
    strict,
    unknown_model,
    upstream_broken,
)
from tokenhub.conformance.cases_further import count_tokens, embeddings, models, one_model
from tokenhub.conformance.play import Play, Skipped
from tokenhub.conformance.rules import need, short
from tokenhub.conformance.says_responses import reasoning_id
from tokenhub.conformance.scripts import ANSWER, PAUSE_SECONDS, SCHEMA, SCRIPTS, STOP_SEQUENCE
from tokenhub.conformance.values import (
    CHAT,
    DIALECTS,
    EMBEDDINGS,
    MESSAGES,
    RESPONSES,
    Ask,
    Document,
    Image,
    Result,
    Said,
    Stop,
    Tool,
    Usage,
)

_CITY: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Where, as “people” call it"}},
    "required": ["city"],
}
_NOTHING: Final[dict[str, Any]] = {"type": "object", "properties": {}}
TOOLS: Final = (Tool("weather", "Tells the weather.", _CITY), Tool("clock", "Tells the time.", _NOTHING))
PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
PAPER: Final = Document("a paper.pdf", "JVBERi0xLjQKJcOkw7zDtsOfCg==")
PICTURE_URL: Final = "https://example.com/pictures/a%20lake.png?size=large&v=2"


def plain(play: Play) -> None:
    ask = Ask("Say that all is well — “please”.", system="You are terse. Grüße.", max_tokens=321)
    said = play.say("plain", ask)
    _says(said, "plain")
    need(play.received.system == ask.system, f"the upstream received as system {short(play.received.system)}")
    texts = play.received.of("text")
    need(len(texts) == 1 and texts[0].role == "user", f"the upstream received the texts {texts}")
    need(texts[0].text.startswith(ask.text), f"the upstream received {short(texts[0].text)}")
    need(play.received.max_tokens == ask.max_tokens, f"the upstream received max tokens {play.received.max_tokens}")


def unicode(play: Play) -> None:
    _says(play.say("unicode", Ask("Unicode, please: " + SCRIPTS["unicode"].text)), "unicode")
    need(SCRIPTS["unicode"].text in play.received.of("text")[0].text, "the upstream received another text")


def long(play: Play) -> None:
    _says(play.say("long", Ask("At length, please.")), "long")


def conversation(play: Play) -> None:
    system = "Answer each question."
    _says(play.say("plain", Ask("The first question.", system=system)), "plain")
    _says(play.say("unicode", Ask("The second question.", system=system, history=play.history)), "unicode")
    _says(play.say("plain", Ask("The third question.", system=system, history=play.history)), "plain")
    roles = [part.role for part in play.received.of("text")]
    need(roles == ["user", "assistant", "user", "assistant", "user"], f"the upstream received turns of {roles}")
    texts = [part.text for part in play.received.of("text")]
    need(texts[1] == SCRIPTS["plain"].text, f"the first answer came back as {short(texts[1])}")
    need(texts[3] == SCRIPTS["unicode"].text, f"the second answer came back as {short(texts[3])}")
    need(play.received.system == system, f"the upstream received as system {short(play.received.system)}")


def other_spelling(play: Play) -> None:
    """Instructions of a developer, blocks where a text would do, and a text where blocks would do."""
    ask = Ask("Say it otherwise.", system="You are terse.", otherwise=True)
    _says(play.say("plain", ask), "plain")
    need(play.received.system == ask.system, f"the upstream received as system {short(play.received.system)}")
    need(play.received.of("text")[0].text.startswith(ask.text), "the upstream received another text")
    _says(play.say("plain", Ask("Shortest.", otherwise=True)), "plain")
    need(play.received.of("text")[0].text.startswith("Shortest."), "the upstream received another text")


def empty_answer(play: Play) -> None:
    """A model may say nothing; the conversation goes on all the same."""
    _says(play.say("empty", Ask("Say nothing.")), "empty")
    if not play.client.dialect == play.dialect == MESSAGES:  # Anthropic itself takes no empty turn back
        _says(play.say("plain", Ask("And now?", history=play.history)), "plain")


def usage(play: Play) -> None:
    said = play.say("plain", Ask("How much was it?"))
    script = SCRIPTS["plain"].usage
    written = script.written if play.dialect == MESSAGES else 0
    if play.client.dialect == CHAT and said.usage is not None and not play.is_tokenhub:
        written = said.usage.written  # no field of OpenAI's
    reasoning = script.reasoning if play.dialect != MESSAGES else 0
    expected = Usage(script.input, script.cached, written, script.output, reasoning)
    if play.client.dialect == MESSAGES:
        expected = expected._replace(reasoning=None)
    if play.client.dialect == RESPONSES and said.usage is not None:
        expected = expected._replace(written=said.usage.written)  # told by newer versions only
    need(said.usage == expected, f"the usage is {said.usage}, not {expected}")


def usage_hidden(play: Play) -> None:
    """The grammar refuses a usage chunk that was not asked for."""
    if not play.stream:
        raise Skipped("only streams can hide their usage")
    _says(play.say("plain", Ask("Do not tell.", hide_usage=True)), "plain")


def arrives(play: Play) -> None:
    """The upstream pauses half-way; what it said before must be here before it goes on."""
    if not play.stream:
        raise Skipped("only streams arrive piece by piece")
    _says(play.say("slow", Ask("Slowly, please.")), "slow")
    need(play.heard, "nothing was heard")
    events = play.heard.events if play.heard is not None else []
    took = events[-1].at - events[len(events) // 3].at
    need(took > PAUSE_SECONDS / 2, f"the stream came at once ({took:.2f} s), though the upstream paused in its middle")


def bytewise(play: Play) -> None:
    _calls(play.say("bytes", Ask("Byte by byte, please.", tools=TOOLS)), "bytes")


def windows(play: Play) -> None:
    _calls(play.say("windows", Ask("With CRLF and comments, please.", tools=TOOLS)), "windows")


# -- tools ---------------------------------------------------------------------------------------------------------
def one_tool(play: Play) -> None:
    said = play.say("tools-one", Ask("How is the weather?", tools=TOOLS))
    _calls(said, "tools-one")
    received = [(one.name, one.description, one.schema) for one in play.received.tools]
    sent = [(one.name, one.description, one.schema) for one in TOOLS]
    need(received == sent, f"the upstream received the tools {short(received)}")


def parallel_tools(play: Play) -> None:
    _calls(play.say("tools-parallel", Ask("Do it all at once.", tools=TOOLS)), "tools-parallel")


def empty_arguments(play: Play) -> None:
    _calls(play.say("tools-empty", Ask("What time is it?", tools=TOOLS)), "tools-empty")


def tool_results(play: Play) -> None:
    first = play.say("tools-parallel", Ask("Do it all at once.", tools=TOOLS))
    results = tuple(Result(one.id, f"{number}: “sunny” in {one.id}") for number, one in enumerate(first.calls))
    _says(play.say("plain", Ask(history=play.history, results=results, tools=TOOLS)), "plain")
    calls, got = play.received.of("call"), play.received.of("result")
    script = SCRIPTS["tools-parallel"].calls
    seen = [(one.name, json.loads(one.text)) for one in calls]
    need(seen == [(one.name, one.arguments) for one in script], f"the upstream received the calls {short(seen)}")
    need([one.id for one in got] == [one.id for one in calls], "the results' order or ids are not those of the calls")
    for result, sent in zip(got, results, strict=True):
        need(result.text.startswith(sent.text), f"the result {short(sent.text)} arrived as {short(result.text)}")


def tool_loop(play: Play) -> None:
    """Two rounds of calls and a word of the user's between; ids of different rounds do not meet."""
    first = play.say("tools-one", Ask("How is the weather?", tools=TOOLS))
    results = tuple(Result(one.id, "rain") for one in first.calls)
    second = play.say("tools-empty", Ask("And the time?", history=play.history, results=results, tools=TOOLS))
    results = tuple(Result(one.id, "noon") for one in second.calls)
    _says(play.say("plain", Ask(history=play.history, results=results, tools=TOOLS)), "plain")
    kinds = [(one.role, one.kind) for one in play.received.parts if one.kind != "text"]
    expected = [("assistant", "call"), ("tool", "result")] * 2
    need([kind for _, kind in kinds] == [kind for _, kind in expected], f"the upstream received {kinds}")
    texts = [one.text for one in play.received.of("text")]
    need(any(one.startswith("And the time?") for one in texts), "what the user said beside the result was lost")
    need(SCRIPTS["tools-one"].text in texts, "what the model said before its call was lost")


def failed_tool(play: Play) -> None:
    first = play.say("tools-one", Ask("How is the weather?", tools=TOOLS))
    result = Result(first.calls[0].id, "no such city", is_error=True)
    _says(play.say("plain", Ask(history=play.history, results=(result,), tools=TOOLS)), "plain")
    got = play.received.of("result")
    need(len(got) == 1 and "no such city" in got[0].text, f"the upstream received the results {got}")
    need(got[0].is_error or play.dialect != MESSAGES, "the upstream was not told that the result is an error")


def choice_required(play: Play) -> None:
    play.say("tools-one", Ask("Use one.", tools=TOOLS, tool_choice="required", one_call_at_a_time=True))
    need(play.received.tool_choice == "required", f"the upstream received the choice {play.received.tool_choice!r}")
    need(play.received.one_call_at_a_time, "the upstream was not told to make one call at a time")


def choice_named(play: Play) -> None:
    said = play.say("tools-one", Ask("Use that one.", tools=TOOLS, tool_choice="weather"))
    need(play.received.tool_choice == "weather", f"the upstream received the choice {play.received.tool_choice!r}")
    need(len(said.calls) == 1, f"{len(said.calls)} calls came")


def choice_none(play: Play) -> None:
    _says(play.say("plain", Ask("Use none.", tools=TOOLS, tool_choice="none")), "plain")
    choice, tools = play.received.tool_choice, play.received.tools
    need(choice == "none" or not tools, f"the upstream received the choice {choice!r}")


# -- images --------------------------------------------------------------------------------------------------------
def image_data(play: Play) -> None:
    _says(play.say("plain", Ask("What is it?", image=Image(data=PIXEL, media_type="image/png"))), "plain")
    got = [part.text for part in play.received.of("image")]
    need(got == [PIXEL], f"the upstream received the images {short(got)}")


def image_url(play: Play) -> None:
    _says(play.say("plain", Ask("What is it?", image=Image(url=PICTURE_URL))), "plain")
    got = [part.text for part in play.received.of("image")]
    need(got == [PICTURE_URL], f"the upstream received the images {short(got)}")


def document(play: Play) -> None:
    _says(play.say("plain", Ask("What does it say?", document=PAPER)), "plain")
    got = [(part.text, part.name) for part in play.received.of("document")]
    need(got == [(PAPER.data, PAPER.name)], f"the upstream received the documents {short(got)}")


# -- reasoning -----------------------------------------------------------------------------------------------------
def thinking(play: Play) -> None:
    said = play.say("thinking", Ask("Think first.", reasoning=True))
    need(play.received.reasoning, "the upstream was not asked to reason")
    need(said.thinking == SCRIPTS["thinking"].thinking, f"the client was shown the thoughts {short(said.thinking)}")
    _says(said, "thinking")
    _says(play.say("plain", Ask("Go on.", history=play.history, reasoning=True)), "plain")
    texts = [part.text for part in play.received.of("text")]
    need(SCRIPTS["thinking"].text in texts, "the answer after the thoughts was lost in the next turn")


def thinking_handed_back(play: Play) -> None:
    """Within a tool's round its provider insists on its own reasoning, unchanged and in its place."""
    script = SCRIPTS["thinking-tools"]
    first = play.say("thinking-tools", Ask("Think, then look.", tools=TOOLS, reasoning=True))
    need(first.thinking == script.thinking, f"the client was shown the thoughts {short(first.thinking)}")
    _calls(first, "thinking-tools")
    if play.dialect != CHAT and play.client.dialect == CHAT and not first.seals and not play.is_tokenhub:
        raise Skipped("the gateway's chat answers have no place for signed reasoning")
    results = tuple(Result(one.id, "sunny") for one in first.calls)
    _says(play.say("plain", Ask(history=play.history, results=results, tools=TOOLS, reasoning=True)), "plain")
    thoughts = play.received.of("thinking")
    if play.dialect == CHAT:  # has no word for it; some services take it back as it was
        need(all(one.text == script.thinking for one in thoughts), f"the upstream received the thoughts {thoughts}")
        return
    need(len(thoughts) == 1, f"the upstream received {len(thoughts)} thoughts back instead of 1")
    need(thoughts[0].text == script.thinking, f"the thoughts came back as {short(thoughts[0].text)}")
    need(
        thoughts[0].seal == script.seal, f"their signature or encrypted content came back as {short(thoughts[0].seal)}"
    )
    need(
        play.dialect != RESPONSES or thoughts[0].id.startswith(reasoning_id(0)[:7]),
        f"their id came back as {thoughts[0].id!r}",
    )
    kinds = [part.kind for part in play.received.parts if part.role == "assistant"]
    need(kinds == ["thinking", "call"], f"the upstream received the model's turn as {kinds}")


def redacted_thinking(play: Play) -> None:
    script = SCRIPTS["redacted"]
    first = play.say("redacted", Ask("Think in secret.", tools=TOOLS, reasoning=True))
    _calls(first, "redacted")
    if play.client.dialect == CHAT and not first.seals and not play.is_tokenhub:
        raise Skipped("the gateway's chat answers have no place for redacted reasoning")
    results = tuple(Result(one.id, "noon") for one in first.calls)
    _says(play.say("plain", Ask(history=play.history, results=results, tools=TOOLS, reasoning=True)), "plain")
    seals = [part.seal for part in play.received.of("thinking")]
    need(seals == [script.redacted], f"the upstream received as redacted reasoning {seals}")


def moves(play: Play) -> None:
    """What another upstream said, called and signed: the calls go on, its signatures stay away from whoever did not
    make them."""
    others = {one: model for one, model in play.others.items() if one in DIALECTS and one != play.dialect}
    if not others:
        raise Skipped("there is no model of another upstream dialect to move to")
    first = play.say("thinking-tools", Ask("Think, then look.", tools=TOOLS, reasoning=True))
    results = tuple(Result(one.id, "sunny") for one in first.calls)
    history = play.history
    for dialect, model in others.items():
        play.model = model
        ask = Ask(history=history, results=results, tools=TOOLS, reasoning=True)
        _says(play.say("plain", ask), "plain")
        calls, got = play.received.of("call"), play.received.of("result")
        need([one.name for one in calls] == ["weather"], f"{dialect} received the calls {calls}")
        need([one.id for one in got] == [one.id for one in calls], f"{dialect} received the results {got} for {calls}")
        seals = [part.seal for part in play.received.of("thinking") if part.seal]
        need(not seals, f"{dialect} received the signed reasoning of {play.dialect}: {short(seals)}")


# -- the answer's form and end ---------------------------------------------------------------------------------------
def structured(play: Play) -> None:
    said = play.say("schema", Ask("Describe Zürich.", schema=SCHEMA))
    asked = play.received.schema or (play.received.tools[0].schema if len(play.received.tools) == 1 else None)
    need(asked is not None, "the upstream was not given the schema")
    properties = (asked or {}).get("properties")
    need(properties == SCHEMA["properties"], f"the upstream received a schema with the properties {short(properties)}")
    need(not said.calls, f"the client got the tool calls {said.calls}, which it did not offer")
    try:
        read = json.loads(said.text)
    except ValueError:
        read = None
    need(read == ANSWER, f"the answer's text is not the JSON that the upstream said: {short(said.text)}")
    need(said.stop is Stop.END, f"the answer ends as {said.stop}, not {Stop.END}")


def cut_by_length(play: Play) -> None:
    said = play.say("length", Ask("Go on and on."))
    need(said.text == SCRIPTS["length"].text, f"the text is {short(said.text)}")
    need(said.stop is Stop.LENGTH, f"the answer ends as {said.stop}, not {Stop.LENGTH}")


def cut_in_call(play: Play) -> None:
    said = play.say("length-in-call", Ask("How is the weather?", tools=TOOLS))
    need([one.name for one in said.calls] == ["weather"], f"the calls are {said.calls}")
    need(said.stop is Stop.LENGTH, f"the answer ends as {said.stop}, not {Stop.LENGTH}")


def stop_sequence(play: Play) -> None:
    if play.client.dialect == RESPONSES or play.dialect == RESPONSES:
        raise Skipped("the Responses API has no stop sequences")
    said = play.say("sequence", Ask("Count.", stop=(STOP_SEQUENCE, "\n\n---")))
    need(STOP_SEQUENCE in play.received.stop, f"the upstream received the stop sequences {play.received.stop}")
    need(said.text == SCRIPTS["sequence"].text, f"the text is {short(said.text)}")
    tells = play.client.dialect == MESSAGES and play.dialect == MESSAGES
    need(said.stop in ({Stop.SEQUENCE} if tells else {Stop.SEQUENCE, Stop.END}), f"the answer ends as {said.stop}")
    need(not tells or said.stop_sequence == STOP_SEQUENCE, f"the stop sequence is {said.stop_sequence!r}")


def refusal(play: Play) -> None:
    said = play.say("refusal", Ask("Say something bad."))
    words = SCRIPTS["refusal"].refusal
    need(said.text + said.refusal == words, f"the refusal's words are {short(said.text + said.refusal)}")
    need(said.stop is Stop.REFUSAL, f"the answer ends as {said.stop}, not {Stop.REFUSAL}")


def _says(said: Said, name: str) -> None:
    """The answer is the script's text and ends by itself."""
    script = SCRIPTS[name]
    need(said.error is None, f"the stream ends with {said.error}")
    need(said.text == script.text, f"the text is {short(said.text)}, the upstream said {short(script.text)}")
    need(not said.calls, f"the tool calls {said.calls} came from nowhere")
    need(said.stop is script.stop, f"the answer ends as {said.stop}, not {script.stop}")


def _calls(said: Said, name: str) -> None:
    script = SCRIPTS[name]
    need(said.error is None, f"the stream ends with {said.error}")
    got = [(one.name, json.loads(one.arguments)) for one in said.calls]
    wanted = [(one.name, one.arguments) for one in script.calls]
    need(got == wanted, f"the calls are {short(got)}, the upstream made {short(wanted)}")
    need(said.text == script.text, f"the text is {short(said.text)}, the upstream said {short(script.text)}")
    need(said.stop is Stop.TOOLS, f"the answer ends as {said.stop}, not {Stop.TOOLS}")


# -- all of them -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Case:
    """`upstreams`: empty for what no upstream has a part in."""

    name: str
    play: Callable[[Play], None]
    clients: tuple[str, ...] = DIALECTS
    upstreams: tuple[str, ...] = DIALECTS
    modes: tuple[bool, ...] = (False, True)


_WHOLE: Final = (False,)
_STREAM: Final = (True,)
CASES: Final = (
    Case("plain text", plain),
    Case("unicode", unicode),
    Case("long text", long),
    Case("conversation", conversation),
    Case("other spelling", other_spelling),
    Case("empty answer", empty_answer),
    Case("usage", usage),
    Case("usage not asked for", usage_hidden, clients=(CHAT,), modes=_STREAM),
    Case("arrives as it is said", arrives, modes=_STREAM),
    Case("one byte at a time", bytewise, modes=_STREAM),
    Case("CRLF and comments", windows, modes=_STREAM),
    Case("one tool call", one_tool),
    Case("parallel tool calls", parallel_tools),
    Case("tool without arguments", empty_arguments),
    Case("tool results", tool_results),
    Case("tool loop", tool_loop),
    Case("tool result is an error", failed_tool, clients=(MESSAGES,)),
    Case("tool choice required", choice_required),
    Case("tool choice by name", choice_named),
    Case("tool choice none", choice_none),
    Case("image in base64", image_data),
    Case("image by URL", image_url),
    Case("document in base64", document),
    Case("reasoning", thinking),
    Case("reasoning handed back", thinking_handed_back),
    Case("redacted reasoning", redacted_thinking, upstreams=(MESSAGES,)),
    Case("moves to another upstream", moves),
    Case("structured output", structured),
    Case("stop by length", cut_by_length),
    Case("stop within a tool call", cut_in_call),
    Case("stop sequence", stop_sequence),
    Case("refusal", refusal),
    Case("dropped parameters", dropped, clients=(CHAT,), upstreams=(MESSAGES,)),
    Case("strict parameters", strict, clients=(CHAT,), upstreams=(MESSAGES,)),
    Case("earlier response by id", earlier_response, clients=(RESPONSES,)),
    Case("count tokens", count_tokens, clients=(MESSAGES,), modes=_WHOLE),
    Case("embeddings", embeddings, clients=(CHAT,), upstreams=(EMBEDDINGS,), modes=_WHOLE),
    Case("list of models", models, clients=(CHAT, MESSAGES), upstreams=(), modes=_WHOLE),
    Case("one model", one_model, clients=(CHAT, MESSAGES), upstreams=(), modes=_WHOLE),
    Case("unknown model", unknown_model, upstreams=()),
    Case("bad key", bad_key, upstreams=()),
    Case("upstream rejects", rejected),
    Case("upstream is broken", upstream_broken),
    Case("upstream dies mid-stream", cut_stream, modes=_STREAM),
    Case("upstream fails mid-stream", failed_stream, modes=_STREAM),
    Case("upstream fails at once", failed_at_once),
    Case("upstream limits the rate", limited),
)
"""What may make a gateway wary of an upstream stands last."""
