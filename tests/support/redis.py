"""A Redis of one's own for a test: a server in a temporary folder on a free port, ended by its process id. It can be
stopped in the middle, and started again empty. Or the one at TOKENHUB_TEST_REDIS_URL, whose database the tests may
empty; those that stop it, or want it otherwise, are skipped then."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

import pytest
import redis

from tests.support.certificate import write_certificate
from tests.support.gateway import Gateway, free_port

GIVEN = os.environ.get("TOKENHUB_TEST_REDIS_URL", "")


def why_not() -> str:
    """Empty when there is one, or can be."""
    if GIVEN or shutil.which("redis-server"):
        return ""
    return "redis-server is not installed (Debian: apt-get install redis-server), nor is TOKENHUB_TEST_REDIS_URL set"


class Redis:
    def __init__(self, *options: str, tls: bool = False) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="tokenhub-redis-"))
        self.url = GIVEN or f"redis{'s' if tls else ''}://127.0.0.1:{self.port}/0"
        if GIVEN and (tls or options):
            self._skip()
        self.patient_url = f"{self.url}?socket_timeout=20"
        """For tests of what holds while Redis is there: on a busy machine it may be slow."""
        self._options = list(options)
        if tls:
            self.certificate, key = write_certificate(self.folder)
            self._options += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            for name, path in (("cert", self.certificate), ("key", key), ("ca-cert", self.certificate)):
                self._options += [f"--tls-{name}-file", str(path)]
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def _skip() -> None:
        pytest.skip("it needs a server of its own, and TOKENHUB_TEST_REDIS_URL is somebody's")

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                "--dir", str(self.folder), *self._options,
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        Gateway.wait_until(self._answers, seconds=20)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def pause(self) -> None:
        """It is there and says nothing."""
        if GIVEN:
            self._skip()
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """At once; what it knew is gone."""
        if GIVEN:
            self._skip()
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)
            self._process = None

    def client(self) -> Any:
        return redis.Redis.from_url(GIVEN) if GIVEN else redis.Redis(port=self.port)

    def __enter__(self) -> Self:
        if GIVEN:
            self.client().flushdb()
        else:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if GIVEN:
            return
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
