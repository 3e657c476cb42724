"""Conversations with pictures, papers and reasoning."""

from __future__ import annotations

from typing import Final

from tokenhub.conformance.expects import TOOLS, calls_are, says
from tokenhub.conformance.play import Play, Skipped
from tokenhub.conformance.rules import need, short
from tokenhub.conformance.says_responses import reasoning_id
from tokenhub.conformance.scripts import SCRIPTS
from tokenhub.conformance.values import (
    CHAT,
    DIALECTS,
    RESPONSES,
    Ask,
    Document,
    Image,
    Result,
)

PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
PAPER: Final = Document("a paper.pdf", "JVBERi0xLjQKJcOkw7zDtsOfCg==")
PICTURE_URL: Final = "https://example.com/pictures/a%20lake.png?size=large&v=2"


def image_data(play: Play) -> None:
    says(play.say("plain", Ask("What is it?", image=Image(data=PIXEL, media_type="image/png"))), "plain")
    got = [part.text for part in play.received.of("image")]
    need(got == [PIXEL], f"the upstream received the images {short(got)}")


def image_url(play: Play) -> None:
    says(play.say("plain", Ask("What is it?", image=Image(url=PICTURE_URL))), "plain")
    got = [part.text for part in play.received.of("image")]
    need(got == [PICTURE_URL], f"the upstream received the images {short(got)}")


def document(play: Play) -> None:
    says(play.say("plain", Ask("What does it say?", document=PAPER)), "plain")
    got = [(part.text, part.name) for part in play.received.of("document")]
    need(got == [(PAPER.data, PAPER.name)], f"the upstream received the documents {short(got)}")


# -- reasoning -----------------------------------------------------------------------------------------------------
def thinking(play: Play) -> None:
    said = play.say("thinking", Ask("Think first.", reasoning=True))
    need(play.received.reasoning, "the upstream was not asked to reason")
    need(said.thinking == SCRIPTS["thinking"].thinking, f"the client was shown the thoughts {short(said.thinking)}")
    says(said, "thinking")
    says(play.say("plain", Ask("Go on.", history=play.history, reasoning=True)), "plain")
    texts = [part.text for part in play.received.of("text")]
    need(SCRIPTS["thinking"].text in texts, "the answer after the thoughts was lost in the next turn")


def thinking_handed_back(play: Play) -> None:
    """Within a tool's round its provider insists on its own reasoning, unchanged and in its place."""
    script = SCRIPTS["thinking-tools"]
    first = play.say("thinking-tools", Ask("Think, then look.", tools=TOOLS, reasoning=True))
    need(first.thinking == script.thinking, f"the client was shown the thoughts {short(first.thinking)}")
    calls_are(first, "thinking-tools")
    if play.dialect != CHAT and play.client.dialect == CHAT and not first.seals and not play.is_tokenhub:
        raise Skipped("the gateway's chat answers have no place for signed reasoning")
    results = tuple(Result(one.id, "sunny") for one in first.calls)
    says(play.say("plain", Ask(history=play.history, results=results, tools=TOOLS, reasoning=True)), "plain")
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
    calls_are(first, "redacted")
    if play.client.dialect == CHAT and not first.seals and not play.is_tokenhub:
        raise Skipped("the gateway's chat answers have no place for redacted reasoning")
    results = tuple(Result(one.id, "noon") for one in first.calls)
    says(play.say("plain", Ask(history=play.history, results=results, tools=TOOLS, reasoning=True)), "plain")
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
        says(play.say("plain", ask), "plain")
        calls, got = play.received.of("call"), play.received.of("result")
        need([one.name for one in calls] == ["weather"], f"{dialect} received the calls {calls}")
        need([one.id for one in got] == [one.id for one in calls], f"{dialect} received the results {got} for {calls}")
        seals = [part.seal for part in play.received.of("thinking") if part.seal]
        need(not seals, f"{dialect} received the signed reasoning of {play.dialect}: {short(seals)}")
