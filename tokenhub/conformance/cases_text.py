"""Conversations in text: what is said, how it arrives, how it ends."""

from __future__ import annotations

import json

from tokenhub.conformance.expects import TOOLS, calls_are, says
from tokenhub.conformance.play import Play, Skipped
from tokenhub.conformance.rules import need, short
from tokenhub.conformance.scripts import ANSWER, PAUSE_SECONDS, SCHEMA, SCRIPTS, STOP_SEQUENCE
from tokenhub.conformance.values import (
    CHAT,
    MESSAGES,
    RESPONSES,
    Ask,
    Stop,
    Usage,
)


def plain(play: Play) -> None:
    ask = Ask("Say that all is well — “please”.", system="You are terse. Grüße.", max_tokens=321)
    said = play.say("plain", ask)
    says(said, "plain")
    need(play.received.system == ask.system, f"the upstream received as system {short(play.received.system)}")
    texts = play.received.of("text")
    need(len(texts) == 1 and texts[0].role == "user", f"the upstream received the texts {texts}")
    need(texts[0].text.startswith(ask.text), f"the upstream received {short(texts[0].text)}")
    need(play.received.max_tokens == ask.max_tokens, f"the upstream received max tokens {play.received.max_tokens}")


def unicode(play: Play) -> None:
    says(play.say("unicode", Ask("Unicode, please: " + SCRIPTS["unicode"].text)), "unicode")
    need(SCRIPTS["unicode"].text in play.received.of("text")[0].text, "the upstream received another text")


def long(play: Play) -> None:
    says(play.say("long", Ask("At length, please.")), "long")


def conversation(play: Play) -> None:
    system = "Answer each question."
    says(play.say("plain", Ask("The first question.", system=system)), "plain")
    says(play.say("unicode", Ask("The second question.", system=system, history=play.history)), "unicode")
    says(play.say("plain", Ask("The third question.", system=system, history=play.history)), "plain")
    roles = [part.role for part in play.received.of("text")]
    need(roles == ["user", "assistant", "user", "assistant", "user"], f"the upstream received turns of {roles}")
    texts = [part.text for part in play.received.of("text")]
    need(texts[1] == SCRIPTS["plain"].text, f"the first answer came back as {short(texts[1])}")
    need(texts[3] == SCRIPTS["unicode"].text, f"the second answer came back as {short(texts[3])}")
    need(play.received.system == system, f"the upstream received as system {short(play.received.system)}")


def other_spelling(play: Play) -> None:
    """Instructions of a developer, blocks where a text would do, and a text where blocks would do."""
    ask = Ask("Say it otherwise.", system="You are terse.", otherwise=True)
    says(play.say("plain", ask), "plain")
    need(play.received.system == ask.system, f"the upstream received as system {short(play.received.system)}")
    need(play.received.of("text")[0].text.startswith(ask.text), "the upstream received another text")
    says(play.say("plain", Ask("Shortest.", otherwise=True)), "plain")
    need(play.received.of("text")[0].text.startswith("Shortest."), "the upstream received another text")


def empty_answer(play: Play) -> None:
    """A model may say nothing; the conversation goes on all the same."""
    says(play.say("empty", Ask("Say nothing.")), "empty")
    if not play.client.dialect == play.dialect == MESSAGES:  # Anthropic itself takes no empty turn back
        says(play.say("plain", Ask("And now?", history=play.history)), "plain")


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
    says(play.say("plain", Ask("Do not tell.", hide_usage=True)), "plain")


def arrives(play: Play) -> None:
    """The upstream pauses half-way; what it said before must be here before it goes on."""
    if not play.stream:
        raise Skipped("only streams arrive piece by piece")
    says(play.say("slow", Ask("Slowly, please.")), "slow")
    need(play.heard, "nothing was heard")
    events = play.heard.events if play.heard is not None else []
    took = events[-1].at - events[len(events) // 3].at
    need(took > PAUSE_SECONDS / 4, f"the stream came at once ({took:.2f} s), though the upstream paused in its middle")


def bytewise(play: Play) -> None:
    calls_are(play.say("bytes", Ask("Byte by byte, please.", tools=TOOLS)), "bytes")


def windows(play: Play) -> None:
    calls_are(play.say("windows", Ask("With CRLF and comments, please.", tools=TOOLS)), "windows")


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
