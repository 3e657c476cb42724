"""Every page of the admin, from the URL configuration itself: a new page is tested by being there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from django.contrib.admin.utils import quote
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from tests.admin.samples import WRITTEN_BY_THE_SYSTEM

NO_PAGES: Final = {  # what answers with no page of its own to somebody who is logged in
    "admin:logout", "admin:jsi18n", "admin:autocomplete", "admin:view_on_site", "admin:login", "admin:search",
    "dashboard-state", "dashboard-figures", "live-flows", "explain", "playground-key", "playground-end",
    "playground-told",
    "setup:vault", "setup:provider", "setup:test", "setup:key", "setup:try", "setup:request",
}  # fmt: skip


def named_urls() -> Iterator[tuple[str, URLPattern]]:
    """Of the admin and of the pages beside it, without its API: name with namespace, pattern."""
    for one in get_resolver().url_patterns:
        if isinstance(one, URLResolver) and str(one.pattern) != "admin/v1/":
            space = f"{one.namespace or one.app_name}:" if one.namespace or one.app_name else ""
            yield from ((f"{space}{found.name}", found) for found in _patterns(one) if found.name)


def _patterns(resolver: URLResolver) -> Iterator[URLPattern]:
    for one in resolver.url_patterns:
        if isinstance(one, URLResolver):
            yield from _patterns(one)
        else:
            yield one


def rows_of(name: str) -> str:
    """`app.model` of a page of one kind of rows."""
    return ".".join(name.removeprefix("admin:").split("_")[:2])


def page_urls(samples: Mapping[str, str]) -> dict[str, str]:
    """By name, but for those that are refused to everybody. `samples`: by `app.model`, the primary key of the row to
    show."""
    found = {}
    refused = {
        f"admin:{rows._meta.app_label}_{rows._meta.model_name}_{verb}"
        for rows in WRITTEN_BY_THE_SYSTEM
        for verb in ("add", "delete")
    }
    for name, pattern in named_urls():
        if name in NO_PAGES or name in refused:
            continue
        wanted = set(pattern.pattern.converters) | set(pattern.pattern.regex.groupindex)
        if wanted == {"app_label"}:
            found[name] = reverse(name, args=["routing"])
        elif wanted in ({"object_id"}, {"id"}):
            found[name] = reverse(name, args=[quote(samples[rows_of(name)])])
        elif not wanted:
            found[name] = reverse(name)
        else:
            raise AssertionError(f"{name}: tests/admin/pages.py cannot fill in {sorted(wanted)}")
    return found
