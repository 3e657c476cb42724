"""Log lines: the request they belong to, and no secret whatever is logged."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.consumers import ChatCompletions
from routing.runtime import Runtime
from telemetry.logs import REQUEST_ID, EventLogger, Formatter
from telemetry.redaction import MASK, Redactor

log = EventLogger("tests.logs")
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
WORD = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", min_size=16, max_size=60)
ANYTHING = st.text(min_size=8, max_size=40).filter(lambda text: text.isprintable() and " " not in text)
NAMES = st.sampled_from(
    ["password", "Password", "TOKENHUB_VAULT_PASSWORD", "secret", "client_secret", "api_key", "apiKey", "x-api-key",
     "X-Goog-Api-Key", "access_token", "refreshToken", "api_keys", "token", "credential", "provider_credentials",
     "Authorization", "cookie", "private_key", "passphrase"]
)  # fmt: skip
TEXTS = st.text(max_size=30).filter(lambda text: not text or not text[-1].isalnum())

FORMS: dict[str, st.SearchStrategy[tuple[str, str]]] = {
    "client key": HEX.map(lambda key: (key, f"tokenhub_{key}")),
    "credential": WORD.map(lambda word: (word, f"sk-{word}")),
    "credential in parts": WORD.map(lambda word: (word, f"sk-ant-api03-{word}-{word}")),
    "bearer": WORD.map(lambda word: (word, f"Bearer {word}")),
    "header line": WORD.map(lambda word: (word, f"authorization: Basic {word}\n")),
    "header pair": st.tuples(NAMES, WORD).map(lambda both: (both[1], str((both[0].encode(), both[1].encode())))),
    "address": ANYTHING.map(lambda word: (quote(word, safe=""), f"redis://user:{quote(word, safe='')}@host:6379/0")),
    "address without user": WORD.map(lambda word: (word, f"redis://:{word}@host:6379/0")),
    "query": WORD.map(lambda word: (word, f"https://host/path?key={word}&b=1")),
    "assigned": st.tuples(NAMES, WORD).map(lambda both: (both[1], f"{both[0]}={both[1]}")),
    "in JSON": st.tuples(NAMES, ANYTHING).map(lambda both: (json.dumps(both[1])[1:-1], json.dumps({both[0]: both[1]}))),
    "in JSON in JSON": st.tuples(NAMES, WORD).map(lambda both: (both[1], json.dumps(json.dumps({both[0]: both[1]})))),
    "in Python": st.tuples(NAMES, WORD).map(lambda both: (both[1], repr({both[0]: both[1], "other": None}))),
    "private key": WORD.map(
        lambda word: (word, f"-----BEGIN RSA PRIVATE KEY-----\n{word}\n{word}\n-----END RSA PRIVATE KEY-----")
    ),
}
SECRETS = st.sampled_from(sorted(FORMS)).flatmap(FORMS.__getitem__)


def line(shape: str, message: str, data: dict[str, Any], problem: BaseException | None = None) -> str:
    record = logging.LogRecord("n", logging.ERROR, "f", 1, message, None, None)
    record.data = data
    if problem is not None:
        record.exc_info = (type(problem), problem, problem.__traceback__)
    return Formatter(shape).format(record)


def raised(text: str) -> BaseException:
    try:
        raise ValueError(text) from KeyError(text)
    except ValueError as problem:
        return problem


PLACES: dict[str, Callable[[str, str], str]] = {
    "message": lambda shape, text: line(shape, text, {}),
    "value": lambda shape, text: line(shape, "e", {"reason": text}),
    "name": lambda shape, text: line(shape, "e", {text: 1}),
    "deep": lambda shape, text: line(shape, "e", {"a": [{"b": (text, [text])}]}),
    "bytes": lambda shape, text: line(shape, "e", {"body": text.encode("utf-8", "replace")}),
    "object": lambda shape, text: line(shape, "e", {"problem": ValueError(text)}),
    "traceback": lambda shape, text: line(shape, "e", {}, raised(text)),
    "repr in traceback": lambda shape, text: line(shape, "e", {}, raised(repr(text))),
}


@given(SECRETS, st.sampled_from(sorted(PLACES)), st.sampled_from(["json", "console"]), TEXTS, TEXTS)
def test_no_secret_passes_wherever_it_stands(
    secret: tuple[str, str], place: str, shape: str, before: str, after: str
) -> None:
    hidden, shown = secret
    after = f" {after}"
    text = PLACES[place](shape, f"{before}{shown}{after}")
    outside = PLACES[place](shape, f"{before}{after}")
    assert hidden not in text or hidden in outside


@given(NAMES, st.text(min_size=1, max_size=60), st.sampled_from(["json", "console"]))
def test_a_value_whose_name_is_secret_is_masked_whatever_it_is(name: str, value: str, shape: str) -> None:
    for data in ({name: value}, {"a": {name: value}}, {name: [value]}, {"headers": [(name, value)]}):
        text = line(shape, "e", data)
        assert MASK in text
        if len(value) > 8:
            assert value not in text


@given(st.text(max_size=200))
def test_any_text_can_be_logged(text: str) -> None:
    assert json.loads(line("json", text, {"a": text}, raised(text)))["level"] == "error"


def test_what_is_no_secret_stays_as_it_is() -> None:
    for text in (
        "tokenhub_requests_total", "input_tokens=512 max_tokens: 16", "task-force-report", "disk-usage", "model=gpt-4o",
        "http://127.0.0.1:8080/v1/models?limit=5", "postgres://host/name", "path=/admin/v1/apikeys", "key=value",
        "secrets rotated", "Bearer", "2026-11-26T12:00:00.000Z", "monkey=1",
    ):  # fmt: skip
        assert Redactor().text(text) == text
    assert Redactor().pairs({"secrets": 3, "token": None, "tokens_in": 5}) == {
        "secrets": 3,
        "token": None,
        "tokens_in": 5,
    }


def test_secrets_of_the_installation_are_masked_without_a_form() -> None:
    redactor = Redactor(("correct horse battery", "short", ""))
    assert redactor.text("it was correct horse battery staple, short") == f"it was {MASK} staple, short"


HOSTILE = [
    "sk-", "sk-a", "sk-1", "password=", "://", "://a:", "eyJ", "eyJaaaaaaaa.", "bearer ", "a", "tokenhub_", "\\", "'",
    "password='\\", "-----BEGIN PRIVATE KEY-----",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_no_time(piece: str) -> None:
    started = perf_counter()
    Redactor().text(piece * (100_000 // len(piece)))
    assert perf_counter() - started < 10


def test_a_long_line_is_cut() -> None:
    assert len(Redactor().text("a " * 100_000)) < 70_000


# -- the request's id --------------------------------------------------------------------------------------------------
@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """What is logged meanwhile, as JSON."""
    found: list[dict[str, Any]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(self.format(record)))

    handler = Handler()
    handler.setFormatter(Formatter())
    logging.getLogger().addHandler(handler)
    yield found
    logging.getLogger().removeHandler(handler)


def test_lines_of_concurrent_requests_bear_their_own_ids(lines: list[dict[str, Any]]) -> None:
    async def one(name: str) -> None:
        REQUEST_ID.set(name)
        await asyncio.sleep(0)
        log.warning("on_the_loop", name=name)
        await asyncio.to_thread(log.warning, "in_a_thread", name=name)
        logging.getLogger("somebody.else").warning("name %s", name)

    async def all_of_them() -> None:
        await asyncio.gather(*(asyncio.create_task(one(f"r{number}")) for number in range(20)))

    asyncio.run(all_of_them())
    assert len(lines) == 60
    assert all(one["request_id"] == one.get("name", one["event"].removeprefix("name ")) for one in lines)


def test_a_line_outside_of_any_request_has_no_id(lines: list[dict[str, Any]]) -> None:
    log.warning("alone")
    assert "request_id" not in lines[0]


def test_a_line_of_the_data_plane_bears_the_id_that_its_client_gets(lines: list[dict[str, Any]]) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise RuntimeError("the server's own trouble")

    async def ask() -> None:
        runtime = Runtime()  # without a journal that is open: it says so in the log
        runtime.ready = True
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("routing.runtime._RUNTIME", runtime)
            scope = {"type": "http", "method": "POST", "headers": [], "client": ("127.0.0.1", 1), "query_string": b""}
            await ChatCompletions()(scope, receive, send)

    asyncio.run(ask())
    headers = dict(sent[0]["headers"])
    failed = [one for one in lines if one["event"] == "journal_write_failed"]
    assert failed
    assert {one["request_id"] for one in failed} == {headers[b"x-tokenhub-request-id"].decode()}
