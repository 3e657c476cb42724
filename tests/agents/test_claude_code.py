"""Claude Code itself does small jobs over TokenHub, for models of each dialect."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agents.conftest import DOT, UPSTREAMS, Answered, Ran, installed, run
from tests.agents.scripted import Answer, Asked, Call, Dialect, Scripted, too_long
from tests.support.gateway import KEY, Gateway


@pytest.fixture
def claude(gateway: Gateway, work: Path, tmp_path: Path) -> Callable[..., Ran]:
    binary = installed("@anthropic-ai/claude-code-*/claude")

    def start(prompt: str, *more: str, model: str, key: str = KEY) -> Ran:
        env = {
            "ANTHROPIC_BASE_URL": gateway.base,
            "ANTHROPIC_AUTH_TOKEN": key,
            "ANTHROPIC_MODEL": model,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
            "CLAUDE_CODE_MAX_RETRIES": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
            "DISABLE_TELEMETRY": "1",
        }
        command = [binary, "-p", prompt, "--output-format", "json", "--allowedTools", "Write,Read,Bash", *more]
        return run(command, home=tmp_path, cwd=work, env=env)

    return start


def last_words(ran: Ran) -> str:
    assert ran.code == 0, ran.err or ran.out
    told = json.loads(ran.out)
    assert told["is_error"] is False
    assert told["permission_denials"] == []
    return str(told["result"])


@pytest.mark.parametrize("dialect", UPSTREAMS)
def test_it_writes_a_file_and_reads_it(
    claude: Callable[..., Ran], upstream: Scripted, answered: Answered, work: Path, dialect: str
) -> None:
    file = str(work / "hello.txt")

    def script(asked: Asked) -> Answer:
        match len(asked.results):
            case 0:
                call = Call("Write", {"file_path": file, "content": "ill met — “moonlight”\n"}, id="call_write")
                return Answer("I write it.", calls=(call,))
            case 1:
                return Answer(calls=(Call("Read", {"file_path": file}, id="call_read"),))
            case _:
                return Answer("It is done.")

    upstream.script = script
    assert last_words(claude("Write hello.txt, then read it", model=f"by-{dialect}")) == "It is done."
    assert (work / "hello.txt").read_text() == "ill met — “moonlight”\n"
    assert [asked.dialect for asked in upstream.asked] == [dialect] * 3
    assert upstream.asked[-1].calls == {"call_write": "Write", "call_read": "Read"}
    assert "successfully" in upstream.asked[-1].results["call_write"]
    assert "moonlight" in upstream.asked[-1].results["call_read"]
    for row in answered(3):
        assert (row["input_tokens"], row["output_tokens"]) == (120, 30)


@pytest.mark.parametrize("dialect", UPSTREAMS)
def test_several_tools_at_once_a_failed_one_and_an_image_come_back(
    claude: Callable[..., Ran], upstream: Scripted, answered: Answered, work: Path, dialect: str
) -> None:
    (work / "dot.png").write_bytes(DOT)
    calls = (
        Call("Bash", {"command": "echo beep; exit 3", "description": "Beep"}, id="call_bash"),
        Call("Read", {"file_path": str(work / "absent.txt")}, id="call_absent"),
        Call("Read", {"file_path": str(work / "dot.png")}, id="call_dot"),
    )
    upstream.script = lambda asked: Answer("I saw it.") if asked.results else Answer(calls=calls)
    assert last_words(claude("Look", model=f"by-{dialect}")) == "I saw it."
    results = upstream.asked[-1].results
    assert set(results) == {call.id for call in calls}
    assert "beep" in results["call_bash"]
    assert "does not exist" in results["call_absent"]
    assert base64.b64encode(DOT).decode() in json.dumps(upstream.asked[-1].body)
    answered(2)


def test_it_goes_on_with_a_model_of_another_dialect(
    claude: Callable[..., Ran], upstream: Scripted, answered: Answered
) -> None:
    """And what that model cannot read of the first one's thinking is there again for the first one."""
    call = Call("Bash", {"command": "true", "description": "Nothing"})
    upstream.script = lambda asked: (
        Answer("Ready.") if asked.results else Answer("Well.", calls=(call,), reasoning="Let me think.")
    )
    for model, more in (("by-messages", ()), ("by-responses", ("-c",)), ("by-chat", ("-c",)), ("by-messages", ("-c",))):
        assert last_words(claude("Go on", *more, model=model)) == "Ready."
    there, elsewhere = upstream.asked[-1].body, [asked.body for asked in upstream.asked[2:4]]
    thought = {"type": "thinking", "thinking": "Let me think.", "signature": "c2lnbmVk"}
    assert thought in next(one["content"] for one in there["messages"] if one["role"] == "assistant")
    assert "c2lnbmVk" not in json.dumps(elsewhere)
    assert "seal" not in json.dumps(elsewhere)
    assert all(asked.results.keys() == {"call_1"} for asked in upstream.asked[1:])
    answered(5)


def test_it_tries_again_where_an_answer_breaks_off(
    claude: Callable[..., Ran], upstream: Scripted, gateway: Gateway
) -> None:
    upstream.script = lambda _: Answer("It is done, and it was no trouble.")
    upstream.asked.clear()
    upstream.break_off(after=4)
    assert last_words(claude("Try", model="by-chat")) == "It is done, and it was no trouble."
    assert len(upstream.asked) == 2


@pytest.mark.parametrize("dialect", UPSTREAMS)
def test_it_learns_that_its_conversation_is_too_long(
    claude: Callable[..., Ran], upstream: Scripted, dialect: Dialect
) -> None:
    upstream.next(too_long(dialect))
    ran = claude("Hi", model=f"by-{dialect}")
    assert json.loads(ran.out)["terminal_reason"] == "prompt_too_long"


def test_its_thinking_comes_back_to_a_messages_upstream_as_it_was(
    claude: Callable[..., Ran], upstream: Scripted, answered: Answered
) -> None:
    call = Call("Bash", {"command": "true", "description": "Nothing"})
    upstream.script = lambda asked: (
        Answer("Ready.") if asked.results else Answer("Well.", calls=(call,), reasoning="Let me think.")
    )
    assert last_words(claude("Think", model="by-messages")) == "Ready."
    said = next(one for one in upstream.asked[-1].body["messages"] if one["role"] == "assistant")
    assert said["content"][0] == {"type": "thinking", "thinking": "Let me think.", "signature": "c2lnbmVk"}
    answered(2)


@pytest.mark.parametrize("dialect", UPSTREAMS)
def test_it_finds_a_tool_by_search(
    claude: Callable[..., Ran], upstream: Scripted, answered: Answered, dialect: str
) -> None:
    call = Call("ToolSearch", {"query": "select:WebFetch"})
    upstream.script = lambda asked: Answer("I have it.") if asked.results else Answer(calls=(call,))
    assert last_words(claude("Search", model=f"by-{dialect}")) == "I have it."
    assert "WebFetch" in upstream.asked[-1].tools
    answered(2)


@pytest.mark.parametrize(
    ("model", "key", "words"),
    [
        ("by-nobody", KEY, "by-nobody"),
        ("by-chat", "tokenhub_" + "0" * 64, "client key is not known"),
    ],
)
def test_it_shows_what_was_wrong(claude: Callable[..., Ran], model: str, key: str, words: str) -> None:
    ran = claude("Hi", model=model, key=key)
    assert ran.code == 1
    assert words in json.loads(ran.out)["result"]
