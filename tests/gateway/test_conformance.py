"""`manage.py conformance` against ourselves, against a gateway that runs already, and against one that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.support.gateway import KEY, ROOT, Gateway, free_port
from tests.support.upstream import Upstream

SECONDS = 95


def conformance(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command to its end. It must need nothing of this installation's settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TOKENHUB_", "DJANGO_"))}
    command = [sys.executable, str(ROOT / "manage.py"), "conformance", "--timeout", "60", *arguments]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said, complained = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()  # takes the gateway that it started along
            raise
    return subprocess.CompletedProcess(command, process.returncode, said, complained)


def test_the_gateway_passes_every_case() -> None:
    done = conformance("--json")
    assert done.stdout, done.stderr[-3000:]
    told = json.loads(done.stdout)
    failed = [one for one in told["results"] if one["outcome"] == "failed"]
    assert failed == []
    assert done.returncode == 0, done.stderr[-3000:]
    assert told["passed"] > 400
    assert {one["reason"] for one in told["results"] if one["outcome"] == "skipped"} <= {
        "the Responses API has no stop sequences"
    }
    pairs = {(one["client"], one["upstream"], one["stream"]) for one in told["results"] if one["case"] == "plain text"}
    assert len(pairs) == 18


def test_a_running_gateway_is_checked_as_far_as_its_models_reach(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    provider: dict[str, Any] = {"type": "openai", "dialects": ["openai-chat"], "cred_store": "none"}
    with Gateway(
        tmp_path,
        providers=[{"id": "p", "base_url": f"http://{listen}", **provider}],
        models=[{"id": "m", "provider_id": "p"}],
    ) as gateway:
        done = conformance(
            gateway.base, "--key", KEY, "--listen", listen, "--model", "openai-chat=m", "--only", "plain", "--client",
            "anthropic-messages",
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "plain text  ok ok      - -" in done.stdout
    assert "skipped 2: no model was named for openai-responses" in done.stdout
    assert "2 passed, 0 failed, 4 skipped" in done.stdout


def test_a_wrong_gateway_fails_with_reasons() -> None:
    with Upstream() as wrong:
        done = conformance(
            wrong.url, "--key", "k", "--listen", "127.0.0.1:0", "--model", "openai-chat=m", "--client", "openai-chat",
            "--upstream", "openai-chat", "--only", "tool",
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "FAILED  one tool call, openai-chat → openai-chat, stream: " in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--key", "k"], "belong to the URL"),
        (["ftp://h", "--key", "k"], "no address"),
        (["http://h", "--key", "k"], "needs --key, --listen"),
        (["http://h", "--key", "k", "--listen", "127.0.0.1:0", "--model", "chat=m"], "--model chat"),
        (["http://h", "--key", "k", "--listen", "nowhere", "--model", "openai-chat=m"], "--listen"),
        (["--only", "no such case"], "no case"),
    ],
)
def test_bad_usage_is_told_apart(arguments: list[str], problem: str) -> None:
    with pytest.raises(CommandError, match=problem) as refused:
        call_command("conformance", *arguments)
    assert refused.value.returncode == 2


def test_bad_usage_has_an_exit_code_of_its_own() -> None:
    done = conformance("--client", "smtp")
    assert (done.returncode, "invalid choice" in done.stderr) == (2, True)
