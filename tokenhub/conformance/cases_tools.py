"""Conversations with tools."""

from __future__ import annotations

import json

from tokenhub.conformance.expects import TOOLS, calls_are, says
from tokenhub.conformance.play import Play
from tokenhub.conformance.rules import need, short
from tokenhub.conformance.scripts import SCRIPTS
from tokenhub.conformance.values import (
    MESSAGES,
    Ask,
    Result,
)


def one_tool(play: Play) -> None:
    said = play.say("tools-one", Ask("How is the weather?", tools=TOOLS))
    calls_are(said, "tools-one")
    received = [(one.name, one.description, one.schema) for one in play.received.tools]
    sent = [(one.name, one.description, one.schema) for one in TOOLS]
    need(received == sent, f"the upstream received the tools {short(received)}")


def parallel_tools(play: Play) -> None:
    calls_are(play.say("tools-parallel", Ask("Do it all at once.", tools=TOOLS)), "tools-parallel")


def empty_arguments(play: Play) -> None:
    calls_are(play.say("tools-empty", Ask("What time is it?", tools=TOOLS)), "tools-empty")


def tool_results(play: Play) -> None:
    first = play.say("tools-parallel", Ask("Do it all at once.", tools=TOOLS))
    results = tuple(Result(one.id, f"{number}: “sunny” in {one.id}") for number, one in enumerate(first.calls))
    says(play.say("plain", Ask(history=play.history, results=results, tools=TOOLS)), "plain")
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
    says(play.say("plain", Ask(history=play.history, results=results, tools=TOOLS)), "plain")
    kinds = [(one.role, one.kind) for one in play.received.parts if one.kind != "text"]
    expected = [("assistant", "call"), ("tool", "result")] * 2
    need([kind for _, kind in kinds] == [kind for _, kind in expected], f"the upstream received {kinds}")
    texts = [one.text for one in play.received.of("text")]
    need(any(one.startswith("And the time?") for one in texts), "what the user said beside the result was lost")
    need(SCRIPTS["tools-one"].text in texts, "what the model said before its call was lost")


def failed_tool(play: Play) -> None:
    first = play.say("tools-one", Ask("How is the weather?", tools=TOOLS))
    result = Result(first.calls[0].id, "no such city", is_error=True)
    says(play.say("plain", Ask(history=play.history, results=(result,), tools=TOOLS)), "plain")
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
    says(play.say("plain", Ask("Use none.", tools=TOOLS, tool_choice="none")), "plain")
    choice, tools = play.received.tool_choice, play.received.tools
    need(choice == "none" or not tools, f"the upstream received the choice {choice!r}")
