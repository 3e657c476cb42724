"""`make stack`: the commands of the systemd units, with a PostgreSQL, a Redis, a Prometheus and a Temporal, answer a
chat and a plan, run jobs, and show in Prometheus."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import psycopg
import pytest
import redis

from tests.support.gateway import ROOT, Gateway, free_port

UP = "All of it is up."


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("stack", str(ROOT / "deploy/stack"))
    spec = importlib.util.spec_from_loader("stack", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_it_starts_what_the_units_start_where_it_lies(script: ModuleType, tmp_path: Path) -> None:
    stack = script.Stack(tmp_path, 1)
    stack.environment()
    for path in (ROOT / "deploy/systemd").glob("*.service"):
        command, variables = script.unit(path.stem, stack.places)
        assert os.access(command[0], os.X_OK) or ".venv" in command[0]
        assert Path(command[0]).is_relative_to(ROOT)
        assert variables["TOKENHUB_DATA_DIR"] == str(tmp_path / "data")
        assert not [
            one for one in (*command, *variables.values()) if "/opt/" in one or "/var/lib/" in one or "%" in one
        ]
    assert {path.stem for path in (ROOT / "deploy/systemd").glob("*.service")} - {"tokenhub-daphne"} == set(
        script.UNITS
    )
    assert (tmp_path / "credentials/vault-password").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "etc/environment").stat().st_mode & 0o777 == 0o600


def test_databases_are_open_to_nobody_without_their_passwords(script: ModuleType) -> None:
    if script.MISSING:
        pytest.skip(f"not installed: {', '.join(script.MISSING)}")
    folder = Path(tempfile.mkdtemp(prefix="tokenhub-stack-"))
    folder.chmod(0o755)  # PostgreSQL refuses to be root's, and has to get in
    stack = script.Stack(folder / "stack", 1)
    try:
        stack.postgres()
        stack.redis()
        stack.environment()
        told = dict(line.split("=", 1) for line in (folder / "stack/etc/environment").read_text().splitlines())
        url = told["TOKENHUB_DATABASE_URL"]
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        without = re.sub(r":[0-9a-f]{64}@", "@", url)
        assert without != url
        socket = f"host={folder}/stack/postgres port={stack.ports['postgres']} user=tokenhub dbname=postgres"
        for address in (without, socket):
            with pytest.raises(psycopg.OperationalError, match="no password supplied"):
                psycopg.connect(address, passfile="/nonexistent")
        assert redis.Redis.from_url(told["TOKENHUB_REDIS_URL"]).ping()
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=stack.ports["redis"]).ping()
        words = Path(f"/proc/{stack.running[-1][1].pid}/cmdline").read_bytes()
        assert (folder / "stack/credentials/redis-password").read_bytes() not in words
    finally:
        stack.end()
        shutil.rmtree(folder, ignore_errors=True)


def test_what_is_not_installed_is_said_plainly(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "deploy/stack", tmp_path / "stack"],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "apt-get install" in done.stderr
    assert "redis-server" in done.stderr
    assert not (tmp_path / "stack").exists()


class Up:
    def __init__(self, said: str, folder: Path) -> None:
        self.said, self.folder = said, folder
        self.base, self.prometheus = re.findall(r"http://127\.0\.0\.1:\d+", said)
        self.headers = {"Authorization": f"Bearer {re.findall(r'tokenhub_[0-9a-f]{64}', said)[0]}"}

    def post(self, path: str, body: Any) -> httpx.Response:
        return httpx.post(f"{self.base}{path}", json=body, headers=self.headers, timeout=60)

    def value(self, query: str) -> float:
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": query}, timeout=30).json()
        return float(answer["data"]["result"][0]["value"][1]) if answer["data"]["result"] else 0.0


@pytest.fixture(scope="module")
def up(script: ModuleType) -> Iterator[Up]:
    if script.MISSING:
        pytest.skip(f"not installed: {', '.join(script.MISSING)}")
    folder = Path(tempfile.mkdtemp(prefix="tokenhub-stack-"))
    folder.chmod(0o755)  # PostgreSQL refuses to be root's, and has to get in
    said = folder / "said"
    with said.open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, ROOT / "deploy/stack", folder / "stack", "--port", str(free_port())],
            stdout=told, stderr=told, start_new_session=True,
        )  # fmt: skip
    try:
        Gateway.wait_until(lambda: process.poll() is not None or UP in said.read_text(), seconds=110)
        assert process.poll() is None, said.read_text()
        yield Up(said.read_text(), folder / "stack")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=110) == 0
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_chat_and_a_plan_are_answered_and_prometheus_shows_them(up: Up) -> None:
    messages = [{"role": "user", "content": "Hello!"}]
    assert up.post("/v1/chat", {"request": {"messages": messages}}).status_code == 200
    plan = {"request": {"messages": messages}, "orchestration": {"mode": "refine"}}
    assert up.post("/v1/plan", plan).status_code == 200
    run = up.post("/v1/plan", plan | {"background": True})
    assert run.status_code == 202
    place = f"{up.base}/v1/plan/{run.json()['id']}"
    Gateway.wait_until(
        lambda: httpx.get(place, headers=up.headers, timeout=30).json()["status"] == "completed", seconds=90
    )
    Gateway.wait_until(lambda: up.value('sum(tokenhub_requests_total{status=~"20[02]"})') >= 3, seconds=60)
    assert up.value("up") == 1
    assert up.value("tokenhub_workers") == 2
    assert up.value("tokenhub_database_up") == 1
    if "not found" not in up.said:
        assert up.value("tokenhub_temporal_up") == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_beat_and_the_celery_worker_run_the_jobs(up: Up) -> None:
    token = (up.folder / "data/admin-token").read_text().strip()

    def by_celery() -> bool:
        answer = httpx.get(f"{up.base}/admin/v1/jobs", headers={"Authorization": f"Bearer {token}"}, timeout=30)
        return any(one["last_outcome"] == "ok" for one in answer.json()["items"])

    Gateway.wait_until(by_celery, seconds=100)
    assert "succeeded" in (up.folder / "logs/tokenhub-celery.log").read_text()
