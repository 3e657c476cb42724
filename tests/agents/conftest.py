"""A TokenHub with one scripted model behind each dialect, and a way to start agents that know nothing of this machine.

The agents are packages of `node/`; without them their tests are skipped with the command that installs them."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.agents.scripted import Scripted
from tests.support.gateway import Gateway

NODE = Path(__file__).resolve().parent / "node"
AGENT_SECONDS = 60.0
DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
"""An image of one pixel."""
Answered = Callable[[int], list[dict[str, Any]]]
ABILITIES = ["tools", "vision", "documents", "structured_output", "reasoning"]
UPSTREAMS = {"chat": "openai-chat", "responses": "openai-responses", "messages": "anthropic-messages"}
EXTRA_MODELS = ("gpt-5.5",)
"""Each dialect also has them under `<id>-by-<dialect>`: a name by which Codex takes a model for one that it knows."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with Scripted() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Models `by-chat`, `by-responses` and `by-messages`, named for what their upstream speaks."""
    common = {"input_per_1k": "0.001", "output_per_1k": "0.002", "max_context_tokens": 1_000_000}
    providers = [
        {
            "id": name,
            "type": "anthropic" if name == "messages" else "openai",
            "dialects": [dialect],
            "base_url": upstream.url + "/v1",
            "credential": f"sk-of-{name}",
        }
        for name, dialect in UPSTREAMS.items()
    ]
    models = [
        {"id": id_, "provider_id": name, "abilities": ABILITIES, **common}
        for name in UPSTREAMS
        for id_ in (f"by-{name}", *(f"{extra}-by-{name}" for extra in EXTRA_MODELS))
    ]
    with Gateway(tmp_path_factory.mktemp("gateway"), providers=providers, models=models) as running:
        yield running


@pytest.fixture
def answered(gateway: Gateway, upstream: Scripted) -> Answered:
    """`answered(3)`: the request log of this test, once it has three rows; each must be a plain success."""
    begun = str(datetime.now(UTC).replace(tzinfo=None))
    upstream.asked.clear()

    def rows(count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []

        def enough() -> bool:
            found[:] = [row for row in gateway.rows() if row["created_at"] >= begun]
            return len(found) >= count

        Gateway.wait_until(enough)
        told = [(row["status"], row["error_class"], row["attempts"]) for row in found]
        assert told == [(200, "", 1)] * count
        return found

    return rows


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Where an agent works."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str


def run(command: Sequence[object], *, home: Path, cwd: Path, env: Mapping[str, str]) -> Ran:
    """To its end or AGENT_SECONDS, in an environment of its own; whatever it started ends with it."""
    clean = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LANG": "C.UTF-8", "NO_PROXY": "*", **env}
    process = subprocess.Popen(
        [str(part) for part in command], cwd=cwd, env=clean, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=AGENT_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return Ran(process.returncode, out, err)


def installed(pattern: str) -> Path:
    """A file below node_modules; skips the test where there is none."""
    found = sorted(path for path in (NODE / "node_modules").glob(pattern) if path.is_file())
    if not found:
        pytest.skip("run `npm ci --prefix tests/agents/node`")
    return found[0]
