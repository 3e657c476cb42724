"""What the official package for Node makes of answers that were translated: its helpers, over each other dialect."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.agents.conftest import NODE, Answered, installed, run
from tests.agents.scripted import INPUT_TOKENS, OUTPUT_TOKENS, Answer, Asked, Call, Scripted, structured
from tests.support.gateway import KEY, Gateway

TEXT = "Ill met by “moonlight”, proud Titania — 🌙."
HERE = {"city": "Zürich", "days": [1, 2]}
THERE = {"city": "Athens", "days": []}
VERDICT = {"good": True, "reason": "it is “done”"}


def script(asked: Asked) -> Answer:
    if "Weather" in asked.tools:
        calls = (Call("Weather", HERE, id="call_here"), Call("Weather", THERE, id="call_there"))
        return Answer(TEXT) if asked.results else Answer("I ask.", calls=calls)
    wants_schema = {"response_format", "tool_choice", "output_config"} & set(asked.body)
    if wants_schema or "format" in asked.body.get("text", {}):
        return structured(asked, VERDICT)
    return Answer(TEXT)


@pytest.mark.parametrize(
    ("helpers", "dialect"),
    [("chat", "messages"), ("chat", "responses"), ("responses", "messages"), ("responses", "chat")],
)
def test_its_helpers_understand_everything(
    gateway: Gateway, upstream: Scripted, answered: Answered, tmp_path: Path, helpers: str, dialect: str
) -> None:
    installed("openai/package.json")
    node = shutil.which("node") or pytest.skip("there is no node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    if int(version.removeprefix("v").split(".")[0]) < 20:
        pytest.skip(f"the package needs Node 20, this is {version.strip()}")
    upstream.script = script
    command = [node, NODE / f"{helpers}.mjs", f"{gateway.base}/v1", f"by-{dialect}"]
    ran = run(command, home=tmp_path, cwd=tmp_path, env={"TOKENHUB_API_KEY": KEY})
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    assert said["whole"] == said["streamed"] == said["ran"] == said["ran_streaming"] == TEXT
    assert len(said["deltas"]) > 2
    assert "".join(said["deltas"]) == TEXT
    assert said["tool_arguments"] == [HERE, THERE] * 2
    assert said["parsed"] == said["parsed_streaming"] == VERDICT
    assert said["refused"] == {"name": "NotFoundError", "status": 404, "code": "model_not_found"}
    shown = [said["usage"][name] for name in ("prompt_tokens", "completion_tokens") if name in said["usage"]]
    shown += [said["usage"][name] for name in ("input_tokens", "output_tokens") if name in said["usage"]]
    assert shown == [INPUT_TOKENS, OUTPUT_TOKENS]
    turns = [asked for asked in upstream.asked if asked.results]
    assert len(turns) == 2
    for asked in turns:
        assert asked.calls == {"call_here": "Weather", "call_there": "Weather"}
        assert asked.results == {"call_here": "sun in Zürich", "call_there": "sun in Athens"}
    assert [asked.dialect for asked in upstream.asked] == [dialect] * 8
