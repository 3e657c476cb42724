"""A PostgreSQL of one's own for a test: a cluster in a temporary folder, on a free port, ended by its process id; or a
fresh database of the server at TOKENHUB_TEST_POSTGRES_URL, whose user may make databases. The cluster is copied from
one that was made, and migrated if so wanted, once per run."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any, Self

import psycopg
import pytest
from django.db import connections

from tests.support.gateway import Gateway, free_port, run_manage
from tests.support.once import once

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
GIVEN = os.environ.get("TOKENHUB_TEST_POSTGRES_URL", "")


def why_not() -> str:
    """Empty when there is one, or can be."""
    if GIVEN:
        return ""
    if not BINARIES:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql), nor is TOKENHUB_TEST_POSTGRES_URL set"
    if os.geteuid() == 0 and not _account():
        return "PostgreSQL refuses to run as root, and there is no user postgres"
    return ""


def _account() -> str:
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return ""


class Postgres:
    def __init__(
        self, folder: Path | None = None, options: Sequence[str] = ("fsync=off",), *, migrated: bool = False
    ) -> None:
        """`folder`: of a cluster that is used again if it is there, and stays; `options`: of the server."""
        self._migrated, self._options, self._stays = migrated, options, folder is not None
        if GIVEN:
            self._name = f"tokenhub_test_{token_hex(6)}"
            self.url = f"{GIVEN.rpartition('/')[0]}/{self._name}"
            return
        self.port = free_port()
        self.url = f"postgres://tester@127.0.0.1:{self.port}/postgres"
        self._folder = folder or Path(tempfile.mkdtemp(prefix="tokenhub-pg-"))
        self._folder.mkdir(exist_ok=True)
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
        try:
            self._begin()
        except BaseException:  # too slow, say: nobody else ends it
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        if GIVEN:
            self._ask(f"CREATE DATABASE {self._name}")
            if self._migrated:
                self._migrate()
            return
        if self._stays:
            if not (self._folder / "data").exists():
                self._make(self._folder / "data")
        else:
            made = once("postgres-migrated", self._make_migrated) if self._migrated else once("postgres", self._make)
            self._copy(made)
        self.start()

    def _make(self, path: Path) -> None:
        made = self._run(
            "initdb", "-D", str(self._folder / "data"), "-U", "tester", "-A", "trust", "--no-sync", "--wal-segsize=1"
        )
        assert made.returncode == 0, made.stderr.decode()
        (self._folder / "data").rename(path)

    def _make_migrated(self, path: Path) -> None:
        self._copy(once("postgres", self._make))
        self.start()
        self._migrate()
        self.stop()
        (self._folder / "data").rename(path)

    def _migrate(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            env = {"TOKENHUB_DATABASE_URL": self.url}
            run_manage("migrate", "--verbosity", "0", folder=Path(folder), env=env)

    def _copy(self, cluster: Path) -> None:
        subprocess.run(["cp", "-a", "--", str(cluster), str(self._folder / "data")], timeout=60, check=True)

    @staticmethod
    def _ask(statement: str) -> None:
        with psycopg.connect(GIVEN, autocommit=True) as connection:
            connection.execute(statement.encode())

    def start(self) -> None:
        options = [part for one in self._options for part in ("-c", one)]
        self._process = subprocess.Popen(
            [
                str(BINARIES[-1] / "postgres"), "-D", str(self._folder / "data"), "-p", str(self.port),
                "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._folder}", *options,
            ],
            user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        ready = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "tester")
        Gateway.wait_until(lambda: self._run("pg_isready", *ready).returncode == 0, seconds=30)

    def stop(self) -> None:
        """At once, with whatever is connected."""
        if GIVEN:
            pytest.skip("it stops its server, and TOKENHUB_TEST_POSTGRES_URL is somebody's")
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._process = None

    def __exit__(self, *_: object) -> None:
        if GIVEN:
            self._ask(f"DROP DATABASE IF EXISTS {self._name} WITH (FORCE)")
            return
        self.stop()
        if not self._stays:
            shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def in_django(url: str, blocker: Any) -> Iterator[None]:
    """Django in this process works on it meanwhile, each thread by its own connection. `blocker`: pytest-django's."""
    from django.contrib.contenttypes.models import ContentType

    from tokenhub.settings import _database

    before = connections["default"]
    ContentType.objects.clear_cache()  # each database numbers them by itself
    connections.settings["default"] = connections.configure_settings({"default": _database(url)})["default"]
    with blocker.unblock():
        connections["default"] = connections.create_connection("default")
        try:
            yield
        finally:
            connections["default"].close()
            connections.settings["default"], connections["default"] = before.settings_dict, before
            ContentType.objects.clear_cache()


def wait_for_waiting(url: str, count: int = 1) -> None:
    """Until so many connections wait for a lock."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(url, autocommit=True) as connection:
        Gateway.wait_until(lambda: connection.execute(asked).fetchone() == (count,), seconds=30)
