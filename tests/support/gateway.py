"""A TokenHub of one's own for a test: a data folder, a database, and a real server process on a free port.

    with Gateway(tmp_path, providers=[…], models=[…]) as gateway:
        gateway.post("/v1/chat/completions", {...})
        gateway.rows()          # the request log, once it is ingested
        gateway.kill()          # SIGKILL to the whole group
        gateway.start()         # again, on the same folder

The database is copied from one that was migrated once per run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from tests.support.once import once

ROOT = Path(__file__).resolve().parents[2]
KEY = "tokenhub_" + "ab" * 32
VAULT_PASSWORD = "a test's vault password"
START_SECONDS = 60.0


class _PerThread(httpx.BaseTransport):
    """A pool for each thread, and no certificates, which take 40 ms to read. A pool of httpcore
    1.0.9 that threads share may close a connection that it has just given to another one."""

    def __init__(self) -> None:
        self._own = threading.local()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if not hasattr(self._own, "pool"):
            self._own.pool = httpx.HTTPTransport(
                verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), trust_env=False,
                limits=httpx.Limits(max_keepalive_connections=0),
            )  # fmt: skip
        pool: httpx.HTTPTransport = self._own.pool
        return pool.handle_request(request)


HTTP = httpx.Client(transport=_PerThread(), trust_env=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def migrated_database() -> Path:
    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run_manage("migrate", "--verbosity", "0", folder=Path(folder))
            with sqlite3.connect(Path(folder) / "tokenhub.sqlite3") as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            shutil.copyfile(Path(folder) / "tokenhub.sqlite3", path)

    return once("tokenhub.sqlite3", make)


def environment(folder: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("TOKENHUB_", "DJANGO_"))}
    env |= {
        "TOKENHUB_DATA_DIR": str(folder),
        "TOKENHUB_ENV": "development",
        "TOKENHUB_LOG_FORMAT": "json",
        "TOKENHUB_VAULT_PASSWORD": VAULT_PASSWORD,
        "TOKENHUB_RATE_LIMIT_RPS": "0",
        "TOKENHUB_CREDENTIALS_FILE": str(folder / "credentials"),  # never the one of whoever runs the tests
        "TOKENHUB_PROBE_SECONDS": "0",  # a probe would take replies meant for a request
        "PYTHONUNBUFFERED": "1",
    }
    return env | dict(extra or {})


def run_manage(*arguments: str, folder: Path, env: Mapping[str, str] | None = None, stdin: str = "") -> str:
    """`manage.py …` to its end; its standard output. Fails the test with its standard error."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *arguments],
        env=environment(folder, env), input=stdin, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"manage.py {arguments[0]}: {done.stderr[-3000:]}"
    return done.stdout


class Configurator:
    """The process that configures: one for all, since each would take most of a second to start."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory()

    def run(self, wanted: Mapping[str, Any]) -> None:
        with self._lock:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, str(ROOT / "tests/support/configure.py"), "--many"],
                    env=environment(Path(self._folder.name)),
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(wanted) + "\n")
            self._process.stdin.flush()
            done = json.loads(self._process.stdout.readline())
        assert done["code"] == 0, done["error"][-3000:]


CONFIGURATOR = Configurator()


class Gateway:
    def __init__(
        self,
        folder: Path,
        *,
        providers: Sequence[Mapping[str, Any]] = (),
        models: Sequence[Mapping[str, Any]] = (),
        keys: Sequence[Mapping[str, Any]] = ({"key": KEY},),
        aliases: Sequence[Mapping[str, Any]] = (),
        profiles: Sequence[Mapping[str, Any]] = (),
        projects: Sequence[Mapping[str, Any]] = (),
        budgets: Sequence[Mapping[str, Any]] = (),
        prompts: Sequence[Mapping[str, Any]] = (),
        env: Mapping[str, str] | None = None,
        workers: int = 1,
        server: str = "serve",
    ) -> None:
        """`server`: serve, uvicorn or daphne."""
        self.folder = folder
        self.env = dict(env or {})
        self.workers = workers
        self.server = server
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.log_path = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "tokenhub.sqlite3").exists():
            shutil.copyfile(migrated_database(), folder / "tokenhub.sqlite3")
        self.configure(
            providers=list(providers),
            models=list(models),
            keys=list(keys),
            aliases=list(aliases),
            profiles=list(profiles),
            projects=list(projects),
            budgets=list(budgets),
            prompts=list(prompts),
        )

    def configure(self, **rows: Sequence[Any]) -> None:
        """Changes the database from another process, as the admin of another worker would."""
        CONFIGURATOR.run({"env": environment(self.folder, self.env), "rows": rows})

    # -- the process ---------------------------------------------------------------------------------------------
    def start(self) -> Self:
        self._spawn()
        self.wait_until(self._answers, seconds=START_SECONDS)
        return self

    def _spawn(self) -> None:
        listen = f"127.0.0.1:{self.port}"
        command = {
            "serve": ["manage.py", "serve", "--listen", listen, "--workers", str(self.workers)],
            "uvicorn": [
                "-m",
                "uvicorn",
                "tokenhub.asgi:application",
                "--port",
                str(self.port),
                "--log-level",
                "warning",
            ],
            "daphne": ["-m", "daphne", "-b", "127.0.0.1", "-p", str(self.port), "tokenhub.asgi:application"],
        }[self.server]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, env=environment(self.folder, self.env), stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the server ended: {self.log()[-3000:]}"
        try:
            return HTTP.get(f"{self.base}/readyz", timeout=5).status_code in {200, 503}
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """SIGKILL to master and workers."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        for sent in (number, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sent)
            except ProcessLookupError:
                break
            try:
                self.process.wait(timeout=20)
                break
            except subprocess.TimeoutExpired:
                continue
        self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        """A test that wants an orderly end says `stop`, which takes longer."""
        self.kill()

    def delete(self) -> None:
        shutil.rmtree(self.folder)

    # -- talking to it -------------------------------------------------------------------------------------------
    def headers(self, **extra: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {KEY}", **{name.replace("_", "-"): value for name, value in extra.items()}}

    def post(
        self, path: str, body: Any, *, headers: Mapping[str, str] | None = None, timeout: float = 30
    ) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(self.headers() if headers is None else headers)}
        return HTTP.post(f"{self.base}{path}", content=content, headers=sent, timeout=timeout)

    def chat(self, model: str, text: str = "hi", **fields: Any) -> httpx.Response:
        return self.post(
            "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        )

    def get(self, path: str, **headers: str) -> httpx.Response:
        return HTTP.get(f"{self.base}{path}", headers=headers, timeout=30)

    # -- what it left behind ---------------------------------------------------------------------------------------
    def rows(self, *, at_least: int = 0, seconds: float = 30.0) -> list[dict[str, Any]]:
        """The request log, oldest first, as soon as it holds so many rows."""
        found: list[dict[str, Any]] = []

        def enough() -> bool:
            nonlocal found
            found = self.query("SELECT * FROM telemetry_requestlog ORDER BY id")
            return len(found) >= at_least

        self.wait_until(enough, seconds=seconds)
        return found

    def query(self, sql: str, *arguments: Any) -> list[dict[str, Any]]:
        connection = sqlite3.connect(self.folder / "tokenhub.sqlite3", timeout=20)
        try:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, arguments)]
        finally:
            connection.close()

    def execute(self, sql: str, *arguments: Any) -> None:
        """Changes rows behind the server's back."""
        connection = sqlite3.connect(self.folder / "tokenhub.sqlite3", timeout=20)
        try:
            with connection:
                connection.execute(sql, arguments)
        finally:
            connection.close()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @staticmethod
    def wait_until(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} seconds"
            time.sleep(0.02)
