"""The image's own steps, run without an engine: its files are copied as .dockerignore lets them in, deploy/venv
installs, deploy/start starts, deploy/healthy looks, SIGTERM ends it. The root file system may be read-only, so nothing
changes beside the data folder."""

from __future__ import annotations

import fnmatch
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.gateway import HTTP, ROOT, Gateway, environment, free_port

DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")


def ignored(name: str) -> bool:
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.removeprefix("**/") for line in patterns if line and not line.startswith("#")]
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def context(folder: Path) -> Path:
    """What `COPY . .` copies."""
    return shutil.copytree(ROOT, folder, ignore=lambda _, names: {name for name in names if ignored(name)})


def contents(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*")}


def run(*command: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_dockerfile_calls_the_scripts_that_are_tested_here_and_is_not_root() -> None:
    assert "RUN deploy/venv python3 requirements.lock" in DOCKERFILE
    assert "RUN deploy/docs " in DOCKERFILE
    assert re.search(r'^ENTRYPOINT \["deploy/start"\]$', DOCKERFILE, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .*CMD \["deploy/healthy"\]$', DOCKERFILE, re.MULTILINE)
    assert re.search(r"^USER (?!0\b|root\b)\d+:\d+$", DOCKERFILE, re.MULTILINE)
    assert DOCKERFILE.count("\nFROM ") == 2
    for name in ("venv", "docs", "start", "healthy"):
        assert os.access(ROOT / "deploy" / name, os.X_OK)


def test_the_image_starts_is_healthy_ends_and_writes_nothing_beside_its_data(tmp_path: Path) -> None:
    copy = context(tmp_path / "tokenhub")
    assert not {"tests", "data", ".git", ".env"} & {path.name for path in copy.iterdir()}
    (copy / ".venv").symlink_to(sys.prefix)
    built = run("deploy/docs", cwd=copy, env=dict(os.environ))
    assert built.returncode == 0, built.stderr
    before = contents(copy)
    variables = DOCKERFILE.partition("\nENV ")[2].partition("\nUSER ")[0]
    told = dict(re.findall(r"(TOKENHUB_[A-Z_]+|PYTHON[A-Z]+)=(\S+)", variables))
    assert told["TOKENHUB_LISTEN_ADDR"] == "0.0.0.0:8080"
    port = free_port()
    env = environment(tmp_path / "data", told) | {
        "TOKENHUB_DATA_DIR": str(tmp_path / "data"), "TOKENHUB_LISTEN_ADDR": f"127.0.0.1:{port}",
        "TOKENHUB_ENV": "production",
    }  # fmt: skip
    unhealthy = run("deploy/healthy", cwd=copy, env=env)
    assert unhealthy.returncode != 0
    assert "nobody answers" in unhealthy.stderr
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(["deploy/start"], cwd=copy, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        Gateway.wait_until(
            lambda: server.poll() is not None or run("deploy/healthy", cwd=copy, env=env).returncode == 0, seconds=60
        )
        assert server.poll() is None, (tmp_path / "log").read_text()
        assert run("deploy/healthy", "alive", cwd=copy, env=env).returncode == 0  # though it has no model
        shown = HTTP.get(f"http://127.0.0.1:{port}/docs/quickstart/")
        assert (shown.status_code, b"Quick start" in shown.content) == (200, True)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=40) == 0
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
    assert contents(copy) == before
    assert (tmp_path / "data/tokenhub.sqlite3").exists()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """Of a package that is made here, so that no index is asked."""
    wheel = tmp_path / "wheels/tokenhub_tiny-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    info = "tokenhub_tiny-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("tokenhub_tiny.py", "ANSWER = 42\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tokenhub-tiny\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"tokenhub_tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    path = tmp_path / "requirements.lock"
    path.write_text(f"tokenhub-tiny==1.0 \\\n    --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n")
    return path


def test_the_installer_makes_an_environment_of_what_is_locked_and_refuses_what_was_changed(
    tmp_path: Path, lock: Path
) -> None:
    folder = tmp_path / "tokenhub"
    (folder / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "deploy/venv", folder / "deploy/venv")
    wheels = str(lock.parent / "wheels")
    offline = {
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels, "UV_NO_INDEX": "1", "UV_FIND_LINKS": wheels,
        "UV_CACHE_DIR": str(tmp_path / "cache"),
    }  # fmt: skip
    env = dict(os.environ) | offline
    right = lock.read_text()
    lock.write_text(re.sub("sha256:.{4}", "sha256:0000", right))
    assert run("deploy/venv", sys.executable, str(lock), cwd=folder, env=env).returncode != 0
    lock.write_text(right)
    done = run("deploy/venv", sys.executable, str(lock), cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    said = run(".venv/bin/python", "-c", "import tokenhub_tiny; print(tokenhub_tiny.ANSWER)", cwd=folder, env=env)
    assert said.stdout == "42\n"


@pytest.mark.parametrize("script", ["engine", "compose-test"])
def test_without_an_engine_it_is_said_plainly(script: str, tmp_path: Path) -> None:
    for name in ("sh", "dirname"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = run(str(ROOT / "deploy" / script), cwd=tmp_path, env={"PATH": str(tmp_path)})
    assert done.returncode != 0
    assert "There is no container engine here" in done.stderr


def test_the_bill_of_materials_has_every_locked_package_once() -> None:
    done = run(sys.executable, "deploy/sbom", cwd=ROOT, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([a-z0-9][\w.-]*)(?:\[[^\]]+\])?==([^\s;]+)", lock, re.MULTILINE | re.IGNORECASE))
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    found = [(one["name"], one["version"]) for one in made["components"]]
    assert len(found) == len(set(found)) > 50
    assert set(found) == {(name.lower(), version) for name, version in locked}
    assert sum(len(one["hashes"]) for one in made["components"]) == lock.count("--hash=sha256:")


def test_the_bill_of_materials_leaves_nothing_out_silently() -> None:
    loader = importlib.machinery.SourceFileLoader("sbom", str(ROOT / "deploy/sbom"))
    spec = importlib.util.spec_from_loader("sbom", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    with pytest.raises(ValueError, match="not understood"):
        module.components("django==5.2.1 \\\n    --hash=sha256:" + "0" * 64 + "\n-e git+ssh://somewhere\n")
