"""Every page of the admin, in a browser: no error, nothing wider than the screen, readable in light and dark, and usable
with a screen reader as far as axe can tell."""

from __future__ import annotations

import pytest

import tokenhub.urls  # noqa: F401  registers the pages
from tests.admin.pages import page_urls
from tests.browser.conftest import fill
from tests.browser.tab import EVERY_LOOK, Tab
from tests.support.gateway import Gateway


@pytest.fixture(scope="module")
def urls(gateway: Gateway) -> dict[str, str]:
    return page_urls(fill(gateway))


def test_no_page_has_an_error_or_is_wider_than_the_screen(tab: Tab, urls: dict[str, str]) -> None:
    """But for those of which one stands for all: they show nothing of their rows' own."""
    assert len(urls) > 60
    for name, url in urls.items():
        if not name.endswith(("_add", "_delete", "_history")):
            tab.check_page(url, axe=False)


@pytest.mark.parametrize("kind", ["changelist", "add", "change", "delete", "history"])
def test_axe_finds_nothing_serious_on_a_page_of_each_kind(kind: str, tab: Tab, urls: dict[str, str]) -> None:
    tab.check_page(urls[f"admin:routing_alias_{kind}"])


def test_axe_finds_nothing_serious_on_pages_that_are_not_a_list_or_a_row(tab: Tab, urls: dict[str, str]) -> None:
    usual = ("_changelist", "_add", "_change", "_delete", "_history")
    for name, url in urls.items():
        if not name.endswith(usual):
            tab.check_page(url)


@pytest.mark.slow
def test_axe_finds_nothing_serious_anywhere_in_any_look(tab: Tab, urls: dict[str, str]) -> None:
    for url in urls.values():
        tab.check_page(url, looks=EVERY_LOOK)
