"""Codex itself does small jobs over TokenHub, for models of each dialect."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.agents.conftest import DOT, UPSTREAMS, Answered, Ran, installed, run
from tests.agents.scripted import Answer, Asked, Call, Dialect, Scripted, too_long
from tests.support.gateway import KEY, Gateway

CONFIG = """
model_provider = "tokenhub"
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.tokenhub]
name = "TokenHub"
base_url = "{base}/v1"
wire_api = "responses"
env_key = "TOKENHUB_API_KEY"
request_max_retries = 0
stream_max_retries = 1
"""


@pytest.fixture
def codex(gateway: Gateway, work: Path, tmp_path: Path) -> Callable[..., Ran]:
    binary = installed("@openai/codex-*/vendor/*/**/codex")

    def start(*prompt: str, model: str, key: str = KEY, config: str = "") -> Ran:
        (tmp_path / "codex").mkdir(exist_ok=True)
        (tmp_path / "codex" / "config.toml").write_text(config + CONFIG.format(base=gateway.base))
        env = {"CODEX_HOME": str(tmp_path / "codex"), "TOKENHUB_API_KEY": key}
        options = ["--dangerously-bypass-approvals-and-sandbox", "--skip-git-repo-check", "--json", "--model", model]
        return run([binary, "exec", *options, *prompt], home=tmp_path, cwd=work, env=env)

    return start


def items(ran: Ran) -> list[dict[str, Any]]:
    """What it did and said, in order; the warning about a model that it does not know left out."""
    assert ran.code == 0, ran.err or ran.out
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert events[-1]["type"] == "turn.completed", events
    done = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item for item in done if "Model metadata" not in item.get("message", "")]


def tool(asked: Asked, ending: str) -> str:
    """The one tool so called: tools of a namespace have more of a name in other dialects."""
    (name,) = [name for name in asked.tools if name.endswith(ending)]
    return name


@pytest.mark.parametrize("dialect", UPSTREAMS)
def test_it_writes_a_file_and_reads_it(
    codex: Callable[..., Ran], upstream: Scripted, answered: Answered, work: Path, dialect: str
) -> None:
    def script(asked: Asked) -> Answer:
        match len(asked.results):
            case 0:
                write = {"cmd": "printf 'ill met — “moonlight”' > hello.txt"}
                return Answer("I write it.", calls=(Call("exec_command", write, id="call_write"),))
            case 1:
                calls = (
                    Call("exec_command", {"cmd": "cat hello.txt"}, id="call_read"),
                    Call("exec_command", {"cmd": "exit 3"}, id="call_fail"),
                )
                return Answer(calls=calls)
            case _:
                return Answer("It is done.")

    upstream.script = script
    told = items(codex("Write hello.txt, then read it", model=f"by-{dialect}"))
    assert [one["text"] for one in told if one["type"] == "agent_message"] == ["I write it.", "It is done."]
    assert sorted(one["exit_code"] for one in told if one["type"] == "command_execution") == [0, 0, 3]
    assert (work / "hello.txt").read_text() == "ill met — “moonlight”"
    assert [asked.dialect for asked in upstream.asked] == [dialect] * 3
    assert upstream.asked[-1].calls == dict.fromkeys(("call_write", "call_read", "call_fail"), "exec_command")
    results = upstream.asked[-1].results
    assert "moonlight" in results["call_read"]
    assert "exited with code 3" in results["call_fail"]
    for row in answered(3):
        assert (row["input_tokens"], row["output_tokens"]) == (120, 30)


@pytest.mark.parametrize("dialect", UPSTREAMS)
def test_it_knows_the_tools_of_its_namespaces_again(
    codex: Callable[..., Ran], upstream: Scripted, answered: Answered, dialect: str
) -> None:
    def script(asked: Asked) -> Answer:
        if asked.results:
            return Answer("So be it.")
        if asked.dialect == "responses":
            return Answer(calls=(Call("wait_agent", {"targets": ["nobody"]}, namespace="multi_agent_v1"),))
        return Answer(calls=(Call(tool(asked, "wait_agent"), {"targets": ["nobody"]}),))

    upstream.script = script
    assert items(codex("Wait for nobody", model=f"by-{dialect}"))[-1]["text"] == "So be it."
    assert "invalid agent id" in upstream.asked[-1].results["call_1"]
    answered(2)


@pytest.mark.parametrize("dialect", UPSTREAMS)
def test_its_tool_that_takes_free_text_gets_free_text(
    codex: Callable[..., Ran], upstream: Scripted, answered: Answered, work: Path, dialect: str
) -> None:
    patch = '*** Begin Patch\n*** Add File: hello.txt\n+ill met by\n+"moonlight"\n*** End Patch\n'

    def script(asked: Asked) -> Answer:
        if asked.results:
            return Answer("It is done.")
        if asked.dialect == "responses":
            return Answer(calls=(Call("apply_patch", patch),))
        (only,) = asked.parameters("apply_patch")["properties"]
        return Answer(calls=(Call("apply_patch", {only: patch}),))

    upstream.script = script
    told = items(codex("Patch hello.txt", model=f"gpt-5.5-by-{dialect}"))
    assert [one["type"] for one in told] == ["file_change", "agent_message"]
    assert (work / "hello.txt").read_text() == 'ill met by\n"moonlight"\n'
    assert upstream.asked[-1].calls == {"call_1": "apply_patch"}
    assert "Success" in upstream.asked[-1].results["call_1"]
    answered(2)


@pytest.mark.parametrize("dialect", UPSTREAMS)
def test_it_shows_an_image(
    codex: Callable[..., Ran], upstream: Scripted, answered: Answered, work: Path, dialect: str
) -> None:
    (work / "dot.png").write_bytes(DOT)
    call = Call("view_image", {"path": str(work / "dot.png")})
    upstream.script = lambda asked: Answer("A dot.") if asked.results else Answer(calls=(call,))
    assert items(codex("Look", model=f"by-{dialect}"))[-1]["text"] == "A dot."
    assert "call_1" in upstream.asked[-1].results
    assert base64.b64encode(DOT).decode() in json.dumps(upstream.asked[-1].body)
    answered(2)


@pytest.mark.parametrize("dialect", sorted(set(UPSTREAMS) - {"chat"}))
def test_reasoning_is_shown_and_comes_back_as_it_was(
    codex: Callable[..., Ran], upstream: Scripted, answered: Answered, dialect: str
) -> None:
    call = Call("exec_command", {"cmd": "true"})
    upstream.script = lambda asked: (
        Answer("Ready.") if asked.results else Answer("Well.", calls=(call,), reasoning="Let me think.")
    )
    told = items(codex("Think", model=f"by-{dialect}"))
    assert told[0]["type"] == "reasoning"
    assert told[0]["text"] == "Let me think."
    assert told[-1]["text"] == "Ready."
    body = upstream.asked[-1].body
    if dialect == "messages":
        said = next(one for one in body["messages"] if one["role"] == "assistant")
        assert said["content"][0] == {"type": "thinking", "thinking": "Let me think.", "signature": "c2lnbmVk"}
    else:
        said = next(one for one in body["input"] if one["type"] == "reasoning")
        assert said["encrypted_content"] == "c2VhbGVk"
    answered(2)


def test_it_goes_on_with_a_model_of_another_dialect(
    codex: Callable[..., Ran], upstream: Scripted, answered: Answered
) -> None:
    """And what that model cannot read of the first one's thinking is there again for the first one."""
    call = Call("exec_command", {"cmd": "true"})
    upstream.script = lambda asked: (
        Answer("Ready.") if asked.results else Answer("Well.", calls=(call,), reasoning="Let me think.")
    )
    assert items(codex("Go", model="by-messages"))[-1]["text"] == "Ready."
    for model in ("by-responses", "by-chat", "by-messages"):
        assert items(codex("resume", "--last", "Go on", model=model))[-1]["text"] == "Ready."
    there, elsewhere = upstream.asked[-1].body, [asked.body for asked in upstream.asked[2:4]]
    thought = {"type": "thinking", "thinking": "Let me think.", "signature": "c2lnbmVk"}
    assert thought in next(one["content"] for one in there["messages"] if one["role"] == "assistant")
    assert "c2lnbmVk" not in json.dumps(elsewhere)
    assert "seal" not in json.dumps(elsewhere)
    assert all(asked.results.keys() == {"call_1"} for asked in upstream.asked[1:])
    answered(5)


@pytest.mark.parametrize("dialect", UPSTREAMS)
def test_it_shortens_its_conversation(
    codex: Callable[..., Ran], upstream: Scripted, answered: Answered, dialect: str
) -> None:
    """It asks for a summary without offering tools, and goes on from there."""
    call = Call("exec_command", {"cmd": "true"})

    def script(asked: Asked) -> Answer:
        if not asked.tools:
            return Answer("So far: nothing was done.")
        return Answer("Ready.") if "nothing was done" in json.dumps(asked.body) else Answer("Well.", calls=(call,))

    upstream.script = script
    config = "model_context_window = 20000\nmodel_auto_compact_token_limit = 100\n"
    assert items(codex("Go", model=f"by-{dialect}", config=config))[-1]["text"] == "Ready."
    assert upstream.asked[1].results.keys() == {"call_1"}
    answered(3)


@pytest.mark.parametrize("dialect", UPSTREAMS)
def test_it_tries_again_where_an_answer_breaks_off(codex: Callable[..., Ran], upstream: Scripted, dialect: str) -> None:
    upstream.script = lambda _: Answer("It is done, and it was no trouble.")
    upstream.asked.clear()
    upstream.break_off(after=5)
    ran = codex("Try", model=f"by-{dialect}")
    assert items(ran)[-1]["text"] == "It is done, and it was no trouble."
    assert "in the middle of its answer" in ran.out
    assert len(upstream.asked) == 2


@pytest.mark.parametrize("dialect", UPSTREAMS)
def test_it_learns_that_its_conversation_is_too_long(
    codex: Callable[..., Ran], upstream: Scripted, dialect: Dialect
) -> None:
    upstream.next(too_long(dialect))
    assert "ran out of room in the model's context window" in codex("Hi", model=f"by-{dialect}").out


@pytest.mark.parametrize(
    ("model", "key", "words"),
    [
        ("by-nobody", KEY, "by-nobody"),
        ("by-chat", "tokenhub_" + "0" * 64, "client key is not known"),
    ],
)
def test_it_shows_what_was_wrong(codex: Callable[..., Ran], model: str, key: str, words: str) -> None:
    ran = codex("Hi", model=model, key=key)
    assert ran.code == 1
    assert words in ran.out
