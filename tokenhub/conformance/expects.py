"""What many cases expect of an answer. Raises BrokenRule."""

from __future__ import annotations

import json
from typing import Any, Final

from tokenhub.conformance.rules import need, short
from tokenhub.conformance.scripts import SCRIPTS
from tokenhub.conformance.values import (
    Said,
    Stop,
    Tool,
)

_CITY: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Where, as “people” call it"}},
    "required": ["city"],
}
_NOTHING: Final[dict[str, Any]] = {"type": "object", "properties": {}}
TOOLS: Final = (Tool("weather", "Tells the weather.", _CITY), Tool("clock", "Tells the time.", _NOTHING))


def says(said: Said, name: str) -> None:
    """The answer is the script's text and ends by itself."""
    script = SCRIPTS[name]
    need(said.error is None, f"the stream ends with {said.error}")
    need(said.text == script.text, f"the text is {short(said.text)}, the upstream said {short(script.text)}")
    need(not said.calls, f"the tool calls {said.calls} came from nowhere")
    need(said.stop is script.stop, f"the answer ends as {said.stop}, not {script.stop}")


def calls_are(said: Said, name: str) -> None:
    script = SCRIPTS[name]
    need(said.error is None, f"the stream ends with {said.error}")
    got = [(one.name, json.loads(one.arguments)) for one in said.calls]
    wanted = [(one.name, one.arguments) for one in script.calls]
    need(got == wanted, f"the calls are {short(got)}, the upstream made {short(wanted)}")
    need(said.text == script.text, f"the text is {short(said.text)}, the upstream said {short(script.text)}")
    need(said.stop is Stop.TOOLS, f"the answer ends as {said.stop}, not {Stop.TOOLS}")
