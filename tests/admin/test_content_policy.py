"""What a page may load and run: nothing of others, and no script that stands in the page itself."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from django.test import Client

import tokenhub.urls  # noqa: F401  registers the pages
from tests.admin.forms import text
from tests.admin.pages import page_urls
from tests.admin.samples import SAMPLES
from tokenhub.content_policy import POLICY

pytestmark = pytest.mark.django_db
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "form": "action"}


class Suspicions(HTMLParser):
    """Inline scripts, handlers in attributes, and addresses on other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        is_data = given.get("type", "").endswith("json")
        if tag == "script" and "src" not in given and not is_data:
            self.found.append("an inline script")
        if urlsplit(given.get(LOADED.get(tag, ""), "")).netloc:
            self.found.append(f"{tag} {given[LOADED[tag]]}")
        self.found += [f"{tag} {name}={value}" for name, value in given.items() if name.startswith("on")]
        self.found += [f"{tag} {name}" for name, value in given.items() if value.strip().startswith("javascript:")]


def suspicions(page: str) -> list[str]:
    parser = Suspicions()
    parser.feed(page)
    return parser.found


def test_what_is_looked_for_is_found() -> None:
    bad = "<script>1</script><b onclick='x'></b><script src=https://cdn.example/x.js></script><a href='javascript:x'>"
    assert len(suspicions(bad)) == 4
    assert suspicions('<script type="application/json">{}</script><script src="/static/x.js"></script>') == []


def test_every_page_carries_the_policy_and_no_script_of_its_own(admin_client: Client) -> None:
    samples = {kind._meta.label_lower: str(make(1).pk) for kind, make in SAMPLES.items()}
    urls = [*page_urls(samples).values(), "/admin/v1/docs"]
    for url in urls:
        answer = admin_client.get(url)
        assert answer["Content-Security-Policy"] == POLICY, url
        assert suspicions(text(answer)) == [], url


@pytest.mark.parametrize("url", ["/admin/login/", "/login-link/x/", "/admin/nowhere/"])
def test_strangers_get_the_policy_too(url: str, client: Client) -> None:
    answer = client.get(url, follow=True)
    assert answer["Content-Security-Policy"] == POLICY
    assert suspicions(text(answer)) == []


def test_answers_that_are_no_pages_need_none(admin_client: Client) -> None:
    assert "Content-Security-Policy" not in admin_client.get("/admin/v1/info")


def test_nothing_inline_is_allowed_to_run() -> None:
    scripts = next(one for one in POLICY.split("; ") if one.startswith("script-src"))
    assert "unsafe-inline" not in scripts
    assert "default-src 'none'" in POLICY
    assert "http" not in POLICY
