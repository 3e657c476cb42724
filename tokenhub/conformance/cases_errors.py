"""Conversations that go wrong: each error in the client's own shape, and no stream that ends in silence."""

from __future__ import annotations

from typing import Final

from tokenhub.conformance.play import Play
from tokenhub.conformance.rules import need, short
from tokenhub.conformance.scripts import RETRY_AFTER, SCRIPTS, WORDS_OF_400, WORDS_OF_429
from tokenhub.conformance.values import MESSAGES, RESPONSES, Ask, Said, Trouble

FOREIGN: Final = ("n", "seed", "logprobs")


def unknown_model(play: Play) -> None:
    play.model = "no-such-model-anywhere"
    heard, trouble = play.refused("plain", Ask("Hello?"))
    need(heard.status == 404, f"status {heard.status}, not 404")
    _is(play, trouble, "not_found_error", "model_not_found")


def bad_key(play: Play) -> None:
    play.key = "tokenhub_" + "0" * 64
    heard, trouble = play.refused("plain", Ask("Hello?"))
    need(heard.status == 401, f"status {heard.status}, not 401")
    _is(play, trouble, "authentication_error", "")


def rejected(play: Play) -> None:
    heard, trouble = play.refused("error-rejected", Ask("Refuse this."))
    need(heard.status == 400, f"status {heard.status}, not 400")
    need(WORDS_OF_400 in trouble.message, f"the upstream's words are lost: {trouble.message!r}")
    _is(play, trouble, "invalid_request_error", "")


def limited(play: Play) -> None:
    heard, trouble = play.refused("error-limited", Ask("Too much."))
    need(heard.status == 429, f"status {heard.status}, not 429")
    after = heard.headers.get("retry-after", "")
    need(
        after.isdigit() and 1 <= int(after) <= RETRY_AFTER, f"Retry-After is {after!r}, the upstream said {RETRY_AFTER}"
    )
    _is(play, trouble, "rate_limit_error", "")
    need(
        play.is_tokenhub is False or WORDS_OF_429 in trouble.message,
        f"the upstream's words are lost: {trouble.message!r}",
    )


def upstream_broken(play: Play) -> None:
    heard, _ = play.refused("error-broken", Ask("Break."))
    need(heard.status >= 500, f"status {heard.status}, not one of a broken server")


def cut_stream(play: Play) -> None:
    _broke_off(play.say("cut", Ask("Die half-way.")))


def failed_stream(play: Play) -> None:
    _broke_off(play.say("fails", Ask("Fail half-way.")))


def failed_at_once(play: Play) -> None:
    """The stream's first event is an error: whether the client gets a status or a stream with an error is the gateway's
    choice, but no answer."""
    heard, told = play.post("fails-at-once", Ask("Fail at once."))
    if heard.status != 200 or not play.stream:
        need(heard.status >= 500, f"status {heard.status}, not one of a broken server")
        play.client.error(heard.json())
        return
    said = play.client.stream(heard.events, told)
    need(said.error is not None, "the stream ends as if the answer were complete")


def earlier_response(play: Play) -> None:
    """Only an upstream of that dialect can know it; a gateway without a memory says so."""
    ask = Ask("Go on.", further={"previous_response_id": "resp_earlier"})
    if play.dialect == RESPONSES:
        play.say("plain", ask)
        return
    heard, _ = play.post("plain", ask)
    play.only_tokenhub()
    need(heard.status == 400, f"status {heard.status}, not 400")
    trouble = play.client.error(heard.json())
    need("previous_response_id" in trouble.message, f"the message does not name the field: {trouble.message!r}")


def dropped(play: Play) -> None:
    play.say("plain", Ask("Hello.", further=_foreign()))
    play.only_tokenhub()
    warning = play.heard.headers.get("x-tokenhub-warning", "") if play.heard is not None else ""
    kind, _, names = warning.partition("=")
    need(kind == "dropped", f"X-TokenHub-Warning is {warning!r}")
    need(set(FOREIGN) <= set(names.split(",")), f"X-TokenHub-Warning names {names!r}, not all of {FOREIGN}")


def strict(play: Play) -> None:
    heard, _ = play.post("plain", Ask("Hello.", further=_foreign()), headers={"x-tokenhub-strict": "true"})
    play.only_tokenhub()
    need(heard.status == 400, f"status {heard.status}, not 400")
    trouble = play.client.error(heard.json())
    need(trouble.code == "unsupported_parameter", f"the code is {trouble.code!r}, not unsupported_parameter")


def _foreign() -> dict[str, object]:
    """What Anthropic has no word for."""
    return {"n": 2, "seed": 7, "logprobs": True}


def _is(play: Play, trouble: Trouble, anthropic_type: str, code: str) -> None:
    if play.client.dialect == MESSAGES:
        need(trouble.type == anthropic_type, f"the error's type is {trouble.type!r}, not {anthropic_type}")
    elif code:
        need(trouble.code == code, f"the error's code is {trouble.code!r}, not {code}")


def _broke_off(said: Said) -> None:
    need(said.error is not None, "the stream ends as if the answer were complete")
    whole = SCRIPTS["cut"].text
    need(said.text, "nothing of what the upstream said before arrived")
    need(whole.startswith(said.text), f"the text before the error is {short(said.text)}")
    need(len(said.text) < len(whole), "the whole text came, though the upstream never said it")
