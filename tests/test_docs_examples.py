"""The examples of the README, the quick start and the user guide, run as they stand, page by page, against what
`make run` starts. Blocks of `sh` share a shell, blocks of `python` a program; only the address and the key are others.
Blocks of other languages show what comes out, or what a person does."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.gateway import ROOT, Gateway, environment, free_port

DOCS = ROOT / "docs"
NODE = ROOT / "tests" / "agents" / "node"
PAGES = {
    page.stem: page
    for page in [
        ROOT / "README.md", DOCS / "quickstart.md", *sorted((DOCS / "user").glob("*.md")),
        DOCS / "reference" / "errors.md",
    ]
}  # fmt: skip
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHELL = """\
curl() { command curl --silent --show-error --write-out '%{stderr}curl %{http_code} %{url}\\n' "$@"; }
"""


class Block(NamedTuple):
    language: str
    line: int
    text: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(one[1], text.count("\n", 0, one.start(2)), one[2]) for one in _FENCE.finditer(text)]


_TYPED = [name for name, page in PAGES.items() if any(one.language == "sh" for one in blocks(page))]


def in_place(found: list[Block]) -> str:
    """Each at its own line of the page, so that an error names it."""
    lines = [""]
    for block in found:
        lines += [""] * (block.line - len(lines) + 1)
        lines += block.text.splitlines()
    return "\n".join(lines[1:]) + "\n"


class Running(NamedTuple):
    base: str
    key: str


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """What `make run` starts, in an empty folder, and the key that it prints."""
    folder = tmp_path_factory.mktemp("examples")
    base, log = f"http://127.0.0.1:{(port := free_port())}", folder / "log"
    command = [sys.executable, str(ROOT / "manage.py"), "quickstart", "--listen", f"127.0.0.1:{port}"]
    with log.open("wb") as told:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(folder / "data"), stdout=told, stderr=told, start_new_session=True
        )
    try:
        Gateway.wait_until(lambda: process.poll() is not None or b"Try it" in log.read_bytes(), seconds=100)
        found = re.search(r"^ *(tokenhub_[0-9a-f]{64})$", log.read_text(), re.MULTILINE)
        assert found, log.read_text()
        yield Running(base, found[1])
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=45)


def substituted(text: str, hub: Running) -> str:
    return text.replace("http://127.0.0.1:8080", hub.base).replace("tokenhub_…", hub.key)


def reader(hub: Running) -> dict[str, str]:
    """The environment of somebody who reads the page."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return kept | {"TOKENHUB": hub.base, "TOKENHUB_KEY": hub.key, "PYTHONIOENCODING": "utf-8", "NO_PROXY": "127.0.0.1"}


def typed(page: Path, hub: Running, folder: Path) -> tuple[subprocess.CompletedProcess[str], int]:
    """What came of a page's shell, and how many refusals the page shows."""
    every = blocks(page)
    script, refused = _SHELL, 0
    for block, after in zip(every, [*every[1:], Block("", 0, "")], strict=True):
        if block.language == "sh":
            script += f"echo '# {page.name}:{block.line + 1}' >&2\n{block.text}"
            refused += after.language == "json" and '{"error"' in after.text
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail"], input=substituted(script, hub), env=reader(hub), cwd=folder,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    return done, refused


@pytest.fixture(scope="module")
def shells(
    hub: Running, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[subprocess.CompletedProcess[str], int]]:
    """All pages side by side: plans take their time, and no core."""
    folder = tmp_path_factory.mktemp("shells")
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(_TYPED, pool.map(lambda name: typed(PAGES[name], hub, folder), _TYPED), strict=True))


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("name", _TYPED)
def test_what_is_typed_into_a_shell_works(
    name: str, shells: dict[str, tuple[subprocess.CompletedProcess[str], int]]
) -> None:
    done, refused = shells[name]
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout[-2000:]}"
    statuses = [line for line in done.stderr.splitlines() if line.startswith("curl ")]
    failed = [line for line in statuses if int(line.split()[1]) >= 400]
    assert len(failed) == refused, f"{done.stderr}\n{done.stdout[-2000:]}"


def test_the_programs_run(hub: Running, tmp_path: Path) -> None:
    """In one process, for the packages take seconds to load; each page in a namespace of its own."""
    for name, page in PAGES.items():
        found = [one for one in blocks(page) if one.language == "python"]
        if importlib.util.find_spec("langchain_openai") is None:
            found = [one for one in found if "langchain_openai" not in one.text]
        if found:
            (tmp_path / f"{name}.py").write_text(substituted(in_place(found), hub), encoding="utf-8")
    programs = sorted(tmp_path.glob("*.py"))
    assert len(programs) > 3
    run_all = "import runpy, sys\nfor program in sys.argv[1:]: print(program); runpy.run_path(program)"
    done = subprocess.run(
        [sys.executable, "-c", run_all, *programs], env=reader(hub), cwd=tmp_path, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
@pytest.mark.skipif(not (NODE / "node_modules").exists(), reason="npm ci --prefix tests/agents/node was not run")
def test_the_programs_for_node_run(hub: Running) -> None:
    found = [one.text for page in PAGES.values() for one in blocks(page) if one.language == "js"]
    assert found
    for text in found:
        done = subprocess.run(
            ["node", "--input-type=module", "-"], input=text, env=reader(hub), cwd=NODE, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "[sandbox]" in done.stdout


def test_the_examples_are_found() -> None:
    languages = [one.language for page in PAGES.values() for one in blocks(page)]
    assert languages.count("sh") > 20
    assert languages.count("python") >= 10
