"""What the browser's tests share: chromium, a gateway of one's own with a superuser, and a tab that is logged in.

Everything is of a module: playwright keeps an event loop running in its thread, and a test of another module that asks
Django's ORM would be refused there. For the same reason no test here uses the ORM; `fill` and `Gateway.configure` are
processes of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.browser.tab import ARGUMENTS, CHROMIUM, NO_CHROMIUM, Tab
from tests.support.gateway import HTTP, ROOT, Gateway, environment

expect.set_options(timeout=30_000)  # a busy machine is no defect
PASSWORD = "a superuser's password"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not CHROMIUM.exists():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=NO_CHROMIUM))


def fill(gateway: Gateway, *, rows: int = 2) -> dict[str, str]:
    """Rows of every kind; the primary key of one of each, by `app.model`."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/browser/fill.py"), str(rows)], env=environment(gateway.folder, gateway.env),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, str] = json.loads(done.stdout)
    return found


def log_in(gateway: Gateway, context: BrowserContext, *, name: str = "root", password: str = PASSWORD) -> None:
    """Through the login page, without the browser; its cookies go into the context."""
    url = f"{gateway.base}/admin/login/"
    HTTP.cookies.clear()  # it is shared, and may be logged in already
    shown = HTTP.get(url, timeout=60)
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', shown.text)
    assert token is not None
    sent = {"username": name, "password": password, "csrfmiddlewaretoken": token[1], "next": "/admin/"}
    answer = HTTP.post(
        url, data=sent, headers={"Cookie": f"csrftoken={shown.cookies['csrftoken']}", "Referer": url}, timeout=60
    )
    assert answer.status_code == 302, answer.text[:2000]
    cookies = [{"name": name, "value": value, "url": gateway.base} for name, value in answer.cookies.items()]
    HTTP.cookies.clear()
    context.add_cookies(cookies)  # type: ignore[arg-type]


def superuser(gateway: Gateway, *, name: str = "root") -> None:
    gateway.configure(superusers=[{"username": name, "email": f"{name}@example.com", "password": PASSWORD}])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Empty but for a client key and the superuser `root`. A module that wants another one makes its own fixture."""
    made = Gateway(tmp_path_factory.mktemp("browser") / "data")
    superuser(made)
    with made:
        yield made


@pytest.fixture(scope="module")
def context(browser: Browser, gateway: Gateway) -> Iterator[BrowserContext]:
    """Logged in as `root`; its cookies and its theme last for the module."""
    made = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce", base_url=gateway.base)
    log_in(gateway, made)
    yield made
    made.close()


@pytest.fixture
def tab(context: BrowserContext, gateway: Gateway) -> Iterator[Tab]:
    """A fresh tab, logged in. What went wrong in it fails the test at its end."""
    made = Tab(context, gateway.base)
    yield made
    made.page.close()
    made.calm()
