"""The documentation as a site: built strictly, loads nothing from elsewhere, and is given out by `/docs/`, which gives
out nothing else."""

from __future__ import annotations

import gzip
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn

from tests.support.gateway import ROOT, Gateway
from tokenhub.docs_site import DocsSite

pytest.importorskip("mkdocs", reason="MkDocs is not installed: make .venv/dev")
CHROMIUM = shutil.which("chromium")


class Loads(HTMLParser):
    """What a browser fetches by itself when it shows a page; and scripts in attributes, which no policy would allow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        wanted = values.get("src") if tag != "link" else values.get("href")
        if wanted and not (tag == "link" and values.get("rel") in {"canonical", "next", "prev"}):
            self.found.append(wanted)
        self.handlers += [name for name in values if name.startswith("on")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, ROOT / "deploy/docs", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(DocsSite(site), log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        Gateway.wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


def test_every_page_is_in_the_site(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site).parent for path in site.rglob("index.html")}
    assert {page.parent if page.name == "README.md" else page.with_suffix("") for page in pages} <= built


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    elsewhere, missing = set[str](), set[str]()
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.found
        assert loads.handlers == []
        for target in loads.found:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                elsewhere.add(target)
            elif not (page.parent / parts.path).resolve().exists():
                missing.add(f"{page.relative_to(site)}: {target}")
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    elsewhere |= {one for one in re.findall(r"(?:url\(|@import\s+)[\"']?([^\"')\s]+)", styles) if "//" in one[:8]}
    assert elsewhere == set()
    assert missing == set()


def test_the_same_content_is_not_built_again(site: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in site.rglob("*")}
    subprocess.run([sys.executable, ROOT / "deploy/docs", site], cwd=ROOT, capture_output=True, timeout=60, check=True)
    assert {path: path.stat().st_mtime_ns for path in site.rglob("*")} == before


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("", "text/html; charset=utf-8"),
        ("quickstart/", "text/html; charset=utf-8"),
        ("search/search_index.json", "application/json"),
        ("assets/images/favicon.png", "image/png"),
    ],
)
def test_files_have_their_types(served: str, path: str, kind: str) -> None:
    answer = httpx.get(f"{served}/docs/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_has_a_hash_in_its_name_is_kept_and_the_rest_is_asked_for_again(served: str, site: Path) -> None:
    script = next(site.glob("assets/javascripts/bundle.*.js")).relative_to(site)
    kept = httpx.get(f"{served}/docs/{script}")
    assert "immutable" in kept.headers["cache-control"]
    assert kept.headers["content-type"].startswith("text/javascript")
    page = httpx.get(f"{served}/docs/")
    assert page.headers["cache-control"] == "no-cache"
    again = httpx.get(f"{served}/docs/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_pages_come_packed_to_those_who_can_unpack(served: str, site: Path) -> None:
    plain = httpx.get(f"{served}/docs/", headers={"accept-encoding": "identity"})
    packed = httpx.get(f"{served}/docs/", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert plain.content == packed.content == (site / "index.html").read_bytes()
    assert gzip.decompress((site / "index.html.gz").read_bytes()) == plain.content


@pytest.mark.parametrize(
    "path",
    ["../manage.py", "%2e%2e/manage.py", "..%2fmanage.py", "/etc/passwd", "%2fetc%2fpasswd", ".digest", "index.html.gz",
     "assets", "quickstart/..", "nowhere", "%00", "..%5cmanage.py"],
)  # fmt: skip
def test_nothing_else_is_given_out(served: str, path: str) -> None:
    host = urlsplit(served).netloc.partition(":")
    with socket.create_connection((host[0], int(host[2])), timeout=20) as raw:
        raw.sendall(f"GET /docs/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while chunk := raw.recv(65536):
            head += chunk
    assert head.split(b" ", 2)[1] in {b"404", b"400"}
    assert b"root:" not in head
    assert b"DJANGO_SETTINGS" not in head


def test_a_folder_without_its_slash_leads_to_the_one_with_it(served: str) -> None:
    for path, target in [("", "/docs/"), ("/quickstart", "/docs/quickstart/")]:
        answer = httpx.get(f"{served}/docs{path}")
        assert (answer.status_code, answer.headers["location"]) == (308, target)


def test_head_has_no_body_and_nothing_is_written(served: str) -> None:
    head = httpx.head(f"{served}/docs/", headers={"accept-encoding": "identity"})
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 1000
    assert httpx.post(f"{served}/docs/").status_code == 405


def test_a_site_that_is_not_built_says_how_and_is_there_as_soon_as_it_is(site: Path, tmp_path: Path) -> None:
    served = DocsSite(tmp_path / "site")
    answer = served.answer("/docs/", {})
    assert answer.status == 503
    assert b"make docs" in answer.body
    assert b"default-src 'none'" in dict(answer.headers)[b"content-security-policy"]
    shutil.copytree(site, tmp_path / "site")
    assert served.answer("/docs/", {}).status == 200
    (tmp_path / "site/quickstart/index.html").unlink()
    assert served.answer("/docs/quickstart/", {}).status == 503  # not built anew, and gone


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_and_searches_it_within_its_policy(served: str) -> None:
    from playwright.sync_api import sync_playwright

    complaints, asked = list[str](), set[str]()
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )  # fmt: skip
        page = browser.new_page()
        page.on("console", lambda one: complaints.append(one.text) if one.type in {"error", "warning"} else None)
        page.on("pageerror", lambda one: complaints.append(str(one)))
        page.on("request", lambda one: asked.add(urlsplit(one.url).netloc))
        page.goto(f"{served}/docs/reference/errors/")
        page.locator("input.md-search__input").first.fill("budget")
        page.locator("a.md-search-result__link").first.wait_for(state="attached", timeout=30_000)
        browser.close()
    assert complaints == []
    assert asked == {urlsplit(served).netloc}
