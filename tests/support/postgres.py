"""A PostgreSQL of one's own for a test: a cluster in a temporary folder, on a free port, ended by its process id."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support.gateway import Gateway, free_port

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def why_not() -> str:
    """Empty when a cluster can be started here."""
    if not BINARIES:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and not _account():
        return "PostgreSQL refuses to run as root, and there is no user postgres"
    return ""


def _account() -> str:
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return ""


class Postgres:
    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"postgres://tester@127.0.0.1:{self.port}/postgres"
        self._folder = Path(tempfile.mkdtemp(prefix="tokenhub-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._user = _account() if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self._folder, self._user)

    def _run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(BINARIES[-1] / name), *arguments], user=self._user, cwd=self._folder, capture_output=True, timeout=60,
            check=False,
        )  # fmt: skip

    def __enter__(self) -> Self:
        made = self._run("initdb", "-D", str(self._folder / "data"), "-U", "tester", "-A", "trust", "--no-sync")
        assert made.returncode == 0, made.stderr.decode()
        self.start()
        return self

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                str(BINARIES[-1] / "postgres"), "-D", str(self._folder / "data"), "-p", str(self.port),
                "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._folder}", "-c", "fsync=off",
            ],
            user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        ready = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "tester")
        Gateway.wait_until(lambda: self._run("pg_isready", *ready).returncode == 0, seconds=30)

    def stop(self) -> None:
        """At once, with whatever is connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._process = None

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
