"""A Redis of one's own for a test: a server in a temporary folder on a free port, ended by its process id. It can be
stopped in the middle, and started again empty."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

import redis

from tests.support.certificate import write_certificate
from tests.support.gateway import Gateway, free_port


def why_not() -> str:
    """Empty when a server can be started here."""
    return (
        "" if shutil.which("redis-server") else "redis-server is not installed (Debian: apt-get install redis-server)"
    )


class Redis:
    def __init__(self, *options: str, tls: bool = False) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="tokenhub-redis-"))
        self.url = f"redis{'s' if tls else ''}://127.0.0.1:{self.port}/0"
        self.patient_url = f"{self.url}?socket_timeout=20"
        """For tests of what holds while Redis is there: on a busy machine it may be slow."""
        self._options = list(options)
        if tls:
            self.certificate, key = write_certificate(self.folder)
            self._options += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            for name, path in (("cert", self.certificate), ("key", key), ("ca-cert", self.certificate)):
                self._options += [f"--tls-{name}-file", str(path)]
        self._process: subprocess.Popen[bytes] | None = None

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
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """At once; what it knew is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)
            self._process = None

    def client(self) -> Any:
        return redis.Redis(port=self.port)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
