"""The commands as a person runs them: as processes, on a data folder of their own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.gateway import ROOT, Gateway, environment, free_port, migrated_database, run_manage


class Quickstart:
    """`manage.py quickstart` until it said that it is ready."""

    def __init__(self, folder: Path, port: int, *command: str, **more: str) -> None:
        """`command`: what to start in place of it; `more`: variables of its environment."""
        env = {name: value for name, value in environment(folder).items() if name != "TOKENHUB_VAULT_PASSWORD"}
        self.output = ""
        with (folder / "out").open("w") as out, (folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                command or [sys.executable, "manage.py", "quickstart", "--listen", f"127.0.0.1:{port}"],
                cwd=ROOT, env={**env, "TOKENHUB_LISTEN_ADDR": f"127.0.0.1:{port}", **more}, stdout=out, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        Gateway.wait_until(lambda: self._is_ready(folder), seconds=40)

    def _is_ready(self, folder: Path) -> bool:
        self.output = (folder / "out").read_text()
        assert self.process.poll() is None, self.output
        return "Hello!" in self.output or "earlier run" in self.output

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


def test_quickstart_prints_a_login_link_a_key_and_a_curl_line_that_answers(tmp_path: Path) -> None:
    port = free_port()
    first = Quickstart(tmp_path, port)
    try:
        assert '"audit"' not in first.output.partition("TokenHub is ready")[0]
        (key,) = set(re.findall(r"tokenhub_[0-9a-f]{64}", first.output))
        (link,) = re.findall(r"http://\S+/login-link/\S+", first.output)
        assert "curl -i http" in first.output  # the README explains the headers with it
        line = first.output[first.output.index("curl ") :].partition("\n\n")[0].replace("\\\n", " ")
        answer = subprocess.run(
            [*shlex.split(line)[:1], "-sS", *shlex.split(line)[1:]], capture_output=True, text=True, timeout=20,
            check=True,
        )  # fmt: skip
        assert "built-in model" in answer.stdout
        assert httpx.get(link).status_code == 200
        redirect = httpx.get(f"http://127.0.0.1:{port}/")
        assert (redirect.status_code, redirect.headers["location"]) == (302, "/admin/")
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").json() == {"status": "ok", "adapters": 1, "models": 4}
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'tokenhub_requests_total{mode="",model="sandbox/swift",provider="sandbox",status="200"} 1.0' in metrics
    finally:
        first.stop()
    second = Quickstart(tmp_path, port)
    try:
        assert not re.findall(r"tokenhub_[0-9a-f]{64}", second.output)
        assert "made on an earlier run" in second.output
        headers = {"Authorization": f"Bearer {key}"}
        body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
        again = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", headers=headers, json=body, timeout=20)
        assert again.status_code == 200
    finally:
        second.stop()
    for name in ("tokenhub.sqlite3", "django_secret"):
        assert key.encode() not in (tmp_path / name).read_bytes()


def test_quickstart_without_a_sandbox_says_what_the_curl_line_needs_first(tmp_path: Path) -> None:
    made = Quickstart(tmp_path, free_port(), TOKENHUB_SANDBOX="false")
    made.stop()
    assert '"model": "auto"' in made.output
    assert "Try it      (once a provider and a model are set up" in made.output


def test_a_server_that_is_stopped_while_it_starts_its_workers_ends_at_once(tmp_path: Path) -> None:
    port = free_port()
    address = ("--listen", f"127.0.0.1:{port}", "--workers", "8")
    made = Quickstart(tmp_path, port, sys.executable, "manage.py", "quickstart", *address)
    made.stop()  # bounded by less than what workers get that did not hear of it
    assert made.process.returncode == 0


def test_make_run_ends_its_server_when_it_is_killed(tmp_path: Path) -> None:
    """By its id alone, as a service manager does it, with no group of processes that a terminal would tell."""
    port = free_port()
    rest = (f"BIN={Path(sys.executable).parent}", "DOCS=true")
    made = Quickstart(tmp_path, port, "make", "--old-file=.venv/run", "run", *rest)
    try:
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    finally:
        made.stop()

    def is_free() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    Gateway.wait_until(is_free, seconds=20)


def test_serve_says_in_a_sentence_what_is_missing(tmp_path: Path) -> None:
    def refusal(*arguments: str, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", "serve", *arguments],
            cwd=ROOT, env=environment(tmp_path, env), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "Run `manage.py migrate` first" in refusal("--listen", f"127.0.0.1:{free_port()}")
    shutil.copyfile(migrated_database(), tmp_path / "tokenhub.sqlite3")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot be used" in refusal("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert "HOST:PORT" in refusal("--listen", "nowhere")
    assert "neither sqlite nor postgres" in refusal(TOKENHUB_DATABASE_URL="mysql://x/y")
    assert "--workers" in refusal("--listen", f"127.0.0.1:{free_port()}", "--workers", "0")


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_the_vault_opens_from_the_environment_under_other_servers_too(tmp_path: Path, server: str) -> None:
    with Gateway(tmp_path, server=server) as gateway:
        assert gateway.get("/readyz").json()["vault"] == "unlocked"


def test_unlock_and_lock_reach_every_worker_of_a_running_server(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("a long enough password\n")
    without = {"TOKENHUB_VAULT_PASSWORD": ""}
    with Gateway(tmp_path / "data", workers=2, env=without) as gateway:

        def states() -> set[str]:
            return {gateway.get("/readyz").json()["vault"] for _ in range(12)}

        def vault(*arguments: str) -> str:
            return run_manage("vault", *arguments, folder=gateway.folder, env=without)

        assert states() == {"locked"}
        assert "not made yet" in vault("status")
        vault("unlock", "--password-file", str(password))
        assert states() == {"unlocked"}
        assert "vault: open" in vault("status")
        vault("lock")
        assert states() == {"locked"}
        assert (gateway.folder / "vault.sock").stat().st_mode & 0o777 == 0o600
        assert password.read_text().strip() not in gateway.log()
