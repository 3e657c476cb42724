"""The documentation is complete and leads nowhere empty: settings, error codes, commands, endpoints, scopes, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from django.apps import apps

from keys.models import Scope
from routing.errors import CODES
from telemetry.events import EVENTS, GAP
from telemetry.webhooks import EVENTS as WEBHOOKS
from tokenhub import asgi
from tokenhub.reference import PAGES as MADE
from tokenhub.settings import ENV

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md")) + [page for page in [ROOT / "README.md"] if page.exists()]
_FENCE = re.compile(r"^[ \t]*```.*?^[ \t]*```", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def table(page: Path) -> dict[str, list[str]]:
    """The rows of a page's tables, by what stands in backticks in their first cell; cells without it."""
    rows = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) > 1:
            for name in re.findall(r"`([^`]+)`", cells[0]):
                rows[name] = cells[1:]
    return rows


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        prose = _INLINE_CODE.sub("", _FENCE.sub("", page.read_text(encoding="utf-8")))
        for target in _LINK.findall(prose):
            if not re.match(r"[a-z]+:", target):
                yield page, target


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> list[str]:
    """Of the project's own apps."""
    own = [Path(app.path) for app in apps.get_app_configs() if Path(app.path).is_relative_to(ROOT)]
    own = [path for path in own if ".venv" not in path.parts]
    files = [file for path in own for file in path.glob("management/commands/*.py")]
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


CONFIGURATION = table(DOCS / "reference" / "settings.md")
MONITORING = table(DOCS / "admin" / "monitoring.md")
ERRORS = table(DOCS / "reference" / "errors.md")


@pytest.mark.parametrize("name", ENV.variables)
def test_every_setting_is_explained_with_its_default(name: str) -> None:
    assert name in CONFIGURATION, f"docs/reference/settings.md has no row for {name}"
    default = ENV.variables[name].default or "empty"
    assert CONFIGURATION[name][0].replace("`", "") == default


def test_no_setting_is_explained_that_does_not_exist() -> None:
    explained = {name for name in CONFIGURATION if name.startswith("TOKENHUB_")}
    assert explained <= set(ENV.variables)


@pytest.mark.parametrize("code", CODES)
def test_every_error_code_is_explained_with_its_status(code: str) -> None:
    assert code in ERRORS, f"docs/reference/errors.md has no row for {code}"
    assert str(CODES[code][0]) in ERRORS[code][0]


@pytest.mark.parametrize("name", [*EVENTS, GAP])
def test_every_event_is_explained(name: str) -> None:
    assert name in MONITORING, f"docs/admin/monitoring.md has no row for {name}"
    for_webhooks = "yes" if name in WEBHOOKS else "no"
    assert name == GAP or MONITORING[name][-1].startswith(for_webhooks)


def test_every_command_is_mentioned() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    missing = [name for name in commands() if not re.search(rf"manage\.py {name}\b", text)]
    assert commands()
    assert missing == []


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_from_the_code_is_as_the_code_is(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == MADE[name](), "run manage.py docs_reference"


@pytest.mark.parametrize("path", [path for path in asgi.ROUTES if not path.startswith("/admin/")])
def test_every_endpoint_is_listed(path: str) -> None:
    listed = {name.partition(" ")[2] for name in table(DOCS / "reference" / "api.md")}
    assert path in listed, f"docs/reference/api.md has no row for {path}"


def test_no_endpoint_is_listed_that_does_not_exist() -> None:
    listed = {name.partition(" ")[2] for name in table(DOCS / "reference" / "api.md") if "/" in name}
    assert {name.removesuffix("/{id}") for name in listed} - {*asgi.ROUTES, "/docs/"} == set()


@pytest.mark.parametrize("scope", Scope.values)
def test_every_scope_is_explained(scope: str) -> None:
    assert scope in table(DOCS / "user" / "authentication.md")


def test_the_example_of_a_dialect_is_the_code() -> None:
    page = (DOCS / "developer" / "add-a-dialect.md").read_text(encoding="utf-8")
    code = (ROOT / "providers" / "formats" / "dialects" / "ollama_chat.py").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) > 5
    assert [block for block in blocks if block not in code] == []


def test_every_relative_link_leads_to_a_file() -> None:
    broken = []
    for page, link in links():
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert broken == []


def test_every_page_can_be_reached_from_the_index() -> None:
    found, waiting, every = set[Path](), [DOCS / "README.md"], list(links())
    while waiting:
        here = waiting.pop()
        found.add(here)
        there = {(page.parent / link.partition("#")[0]).resolve() for page, link in every if page == here}
        waiting += [page for page in PAGES if page in there and page not in found]
    assert [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page not in found] == []
