"""schemathesis against the OpenAPI document, over a running server: every check, with the admin token and without. What
is expected beyond its defaults stands in fuzz/schemathesis.toml."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway

TOKEN = "an-admin-token-of-the-environment"  # its rotation is a 409: the run keeps it
FOLDER = Path(__file__).with_name("fuzz")
VAULT = "vault/(un)?lock|vault/rotate"  # apart from the others, which need it open
CATALOGUE = "prices/catalogue"  # a process of two seconds for each call


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(
        tmp_path_factory.mktemp("fuzz"),
        providers=[{"id": "org/box", "type": "vllm", "base_url": "http://127.0.0.1:9"}],
        models=[{"id": "m", "provider_id": "org/box"}],
        env={"TOKENHUB_ADMIN_TOKEN": TOKEN, "TOKENHUB_TRUSTED_PROXIES": "127.0.0.1"},
    ) as running:
        yield running


def find_nothing(gateway: Gateway, *options: str, token: str = TOKEN, seconds: float = 100) -> None:
    document = gateway.folder / "schema.json"
    answer = gateway.get("/admin/v1/schema", Authorization=f"Bearer {TOKEN}")
    document.write_bytes(answer.content)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(FOLDER / "schemathesis.toml"), "run",
        str(document), "--url", gateway.base, "--seed", "1", "--no-color", "--warnings", "off", "--continue-on-failure",
        "--generation-database", "none", "--checks", "all", *options,
    ]  # fmt: skip
    if token:
        command += ["-H", f"Authorization: Bearer {token}"]
    env = {**os.environ, "PYTHONPATH": str(FOLDER)}
    done = subprocess.run(
        command, cwd=gateway.folder, env=env, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_a_short_run_finds_nothing(gateway: Gateway) -> None:
    only = ["--exclude-path-regex", f"{VAULT}|{CATALOGUE}", "--phases", "fuzzing", "--no-shrink"]
    find_nothing(gateway, *only, "--max-examples", "1")


def test_without_a_token_there_is_nothing_to_find(gateway: Gateway) -> None:
    only = ["--exclude-path-regex", VAULT, "--phases", "fuzzing", "--no-shrink"]
    find_nothing(gateway, *only, "--max-examples", "1", token="")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_long_run_finds_nothing(gateway: Gateway) -> None:
    find_nothing(gateway, "--exclude-path-regex", f"{VAULT}|{CATALOGUE}", "--max-examples", "40", seconds=1700)
    find_nothing(gateway, "--exclude-path-regex", VAULT, "--max-examples", "10", token="", seconds=900)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_vault_survives_it(gateway: Gateway) -> None:
    find_nothing(gateway, "--include-path-regex", VAULT, "--max-examples", "5", seconds=500)
