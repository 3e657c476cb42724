"""A gateway of the suite's own: a data folder, a database and a server process, which end with the suite.

with OwnGateway(upstream.url) as gateway:
    gateway.base, gateway.key, gateway.models"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import httpx

from tokenhub.conformance.values import CHAT, EMBEDDINGS, MESSAGES, RESPONSES

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS: Final = 40.0
STOP_SECONDS: Final = 15.0
_TYPES: Final = {CHAT: "openai", RESPONSES: "openai", EMBEDDINGS: "openai", MESSAGES: "anthropic"}
_NAMES: Final = {  # what they are called at the upstream; a gateway may know by its name what a model can do
    CHAT: "conformance-chat",
    RESPONSES: "gpt-5-conformance",
    EMBEDDINGS: "conformance-embeddings",
    MESSAGES: "claude-sonnet-4-20250514",
}
_ABILITIES: Final = ("tools", "vision", "documents", "structured_output", "reasoning")


class CannotStart(Exception):
    """The text says why."""


class OwnGateway:
    def __init__(self, upstream_url: str) -> None:
        self.key = "tokenhub_" + secrets.token_hex(32)
        self.models = {dialect: f"conformance/{dialect}" for dialect in _TYPES}
        self._upstream_url = upstream_url
        self._folder = tempfile.TemporaryDirectory(prefix="tokenhub-conformance-")
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.base = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        """Raises CannotStart."""
        try:
            self._manage(["manage.py", "migrate", "--verbosity", "0"])
            self._manage(["-m", "tokenhub.conformance.configure"], given=json.dumps(self._rows()))
            self._serve()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(self._process.pid, number)
                    self._process.wait(STOP_SECONDS)
                    break
                except ProcessLookupError:
                    break
                except subprocess.TimeoutExpired:
                    continue
            self._process = None
        self._folder.cleanup()

    def log(self) -> str:
        path = Path(self._folder.name) / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _rows(self) -> dict[str, Any]:
        providers = [
            {"id": dialect, "type": type_, "base_url": self._upstream_url, "dialects": [dialect], "cred_store": "none"}
            for dialect, type_ in _TYPES.items()
        ]
        models = [
            {
                "id": self.models[dialect],
                "provider_id": dialect,
                "upstream_model": _NAMES[dialect],
                "abilities": ["embeddings"] if dialect == EMBEDDINGS else list(_ABILITIES),
                "input_per_1k": "0.001",
                "output_per_1k": "0.002",
                "max_context_tokens": 1_000_000,
            }
            for dialect in _TYPES
        ]
        return {"providers": providers, "models": models, "key": self.key}

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOKENHUB_", "DJANGO_"))}
        return kept | {
            "TOKENHUB_DATA_DIR": self._folder.name,
            "TOKENHUB_ENV": "development",
            "TOKENHUB_RATE_LIMIT_RPS": "0",
            "TOKENHUB_LOG_FORMAT": "json",
        }

    def _manage(self, arguments: Sequence[str], given: str = "") -> None:
        try:
            done = subprocess.run(  # noqa: S603  our own Python and our own modules
                [sys.executable, *arguments], cwd=ROOT, env=self._environment(), input=given, capture_output=True,
                text=True, timeout=START_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise CannotStart(f"{arguments[-1]} does not end within {START_SECONDS:.0f} s") from None
        if done.returncode:
            raise CannotStart(f"{' '.join(arguments)}: {done.stderr[-1000:]}")

    def _serve(self) -> None:
        listen = f"127.0.0.1:{self._port}"
        with (Path(self._folder.name) / "server.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  as above
                [sys.executable, "manage.py", "serve", "--listen", listen, "--workers", "1"], cwd=ROOT,
                env=self._environment(), stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise CannotStart(f"the server does not answer: {self.log()[-1000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.base}/readyz", timeout=5, trust_env=False).status_code in {200, 503}
        except httpx.TransportError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
