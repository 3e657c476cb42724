"""A page as a person leaves it: the values that stand in its form, to be changed here and there and posted."""

from __future__ import annotations

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any, Protocol

from django.test import Client

Values = dict[str, list[str]]


class Answer(Protocol):
    """What the test client returns."""

    status_code: int
    content: bytes

    def __getitem__(self, header: str) -> str: ...


class _Form(HTMLParser):
    """The names and values that a browser would send of the first form that holds the field `holding`."""

    def __init__(self, holding: str) -> None:
        super().__init__()
        self._holding = holding
        self._values: Values = {}
        self._select = self._textarea = self._text = ""
        self._inside = False
        self.found: Values | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        name, value = given.get("name", ""), given.get("value", "")
        if tag == "form":
            self._inside, self._values = True, {}
        elif tag == "select":
            self._select = name
            self._add(name)
        elif tag == "option" and self._select and "selected" in given:
            self._add(self._select, value)
        elif tag == "textarea":
            self._textarea, self._text = name, ""
        elif tag == "input" and name and given.get("type") not in {"submit", "button"}:
            if given.get("type") in {"checkbox", "radio"}:
                self._add(name, *([value or "on"] if "checked" in given else []))
            else:
                self._add(name, value)

    def handle_data(self, data: str) -> None:
        self._text += data if self._textarea else ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""
        elif tag == "textarea":
            self._add(self._textarea, self._text.removeprefix("\r\n").removeprefix("\n"))
            self._textarea = ""
        elif tag == "form" and self._inside:
            self._inside = False
            if self.found is None and self._holding in self._values:
                self.found = self._values

    def _add(self, name: str, *values: str) -> None:
        self._values.setdefault(name, []).extend(values)


def text(answer: Answer) -> str:
    return answer.content.decode()


def form_in(page: str, *, holding: str) -> Values | None:
    """The form that holds this field."""
    parser = _Form(holding)
    parser.feed(page)
    return parser.found


def values(answer: Answer, *, holding: str) -> Values:
    """Of the form that holds this field; a test fails that expects a form where there is none."""
    found = form_in(text(answer), holding=holding)
    assert found is not None, f"no form with {holding!r} (status {answer.status_code})"
    return found


def submit(client: Client, url: str, *, holding: str, **changes: Any) -> Any:
    """Opens the page, changes some fields, posts the rest as it stands."""
    return client.post(url, {**values(client.get(url), holding=holding), **changes})


def errors(answer: Any, form: str = "adminform") -> Mapping[str, list[str]]:
    """By field, of the form that was shown again."""
    assert answer.status_code == 200, f"status {answer.status_code}"
    shown = answer.context[form]
    return dict(shown.errors)
