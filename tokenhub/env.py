"""Reads TOKENHUB_* variables. A bad value never stops the import: the default stands in and the problem is kept for
`manage.py check`, which explains it. `NAME_FILE` names a file that holds the value, for secrets."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

T = TypeVar("T")
FATAL = ("TOKENHUB_DATABASE_URL", "TOKENHUB_DATA_DIR")
NO_WORDS: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Variable:
    """One documented setting; `default` is the text shown to people."""

    name: str
    default: str
    help: str


class Environment:
    def __init__(self, source: dict[str, str] | None = None) -> None:
        self._source = dict(os.environ) if source is None else source
        self.variables: dict[str, Variable] = {}
        self.problems: list[tuple[str, str]] = []
        self.given: set[str] = set()

    @property
    def fatal(self) -> list[tuple[str, str]]:
        """Problems with which nothing should be served: the default would be somebody else's database."""
        return [(name, problem) for name, problem in self.problems if name in FATAL]

    def read(self, name: str, default: T, parse: Callable[[str], T], help_text: str, *, shown: str | None = None) -> T:
        """The variable's value, or `default` when it is unset, empty or does not parse."""
        self.variables[name] = Variable(name, str(default) if shown is None else shown, help_text)
        raw = self._raw(name)
        if raw is None or raw == "":
            return default
        try:
            value = parse(raw)
        except (ValueError, InvalidOperation) as problem:
            standing_in = "" if name in FATAL else f". Using the default ({self.variables[name].default or 'empty'})"
            self.problems.append((name, f"{problem}{standing_in}"))
            return default
        self.given.add(name)
        return value

    def _raw(self, name: str) -> str | None:
        file_name = self._source.get(f"{name}_FILE")
        if not file_name:
            return self._source.get(name)
        if self._source.get(name):
            self.problems.append((name, f"both {name} and {name}_FILE are set; the file is used"))
        try:
            return Path(file_name).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as problem:
            self.problems.append((name, f"the file {file_name} named by {name}_FILE cannot be read ({problem})"))
            return None


def boolean(raw: str) -> bool:
    match raw.strip().lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
    raise ValueError(f"{raw!r} is neither true nor false")


def whole(minimum: int = 0, maximum: int | None = None) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        try:
            value = int(raw)
        except ValueError:
            raise ValueError(f"{raw!r} is not a whole number") from None
        if value < minimum or (maximum is not None and value > maximum):
            limit = f"from {minimum} to {maximum}" if maximum is not None else f"of at least {minimum}"
            raise ValueError(f"{value} is out of range: a number {limit} is needed")
        return value

    return parse


def seconds(raw: str) -> float:
    try:
        value = float(raw)
    except ValueError:
        raise ValueError(f"{raw!r} is not a number of seconds") from None
    if not 0 < value <= 86_400:
        raise ValueError(f"{raw} is out of range: more than 0 and at most 86400 seconds")
    return value


def share(raw: str) -> float:
    try:
        value = float(raw)
    except ValueError:
        raise ValueError(f"{raw!r} is not a share such as 0.05") from None
    if not 0 <= value <= 1:
        raise ValueError(f"{raw} is out of range: a share from 0 to 1")
    return value


def weights(*names: str) -> Callable[[str], dict[str, float]]:
    """Of `name=number,name=number`; names that are left out are not in it."""

    def parse(raw: str) -> dict[str, float]:
        found = {}
        for one in words(raw):
            name, _, number = one.partition("=")
            if name.strip() not in names:
                raise ValueError(f"{name.strip()!r} is not one of {', '.join(names)}")
            try:
                value = float(number)
            except ValueError:
                raise ValueError(f"{one!r} is not NAME=NUMBER") from None
            if not 0 <= value <= 1000:
                raise ValueError(f"{one} is out of range: a weight from 0 to 1000")
            found[name.strip()] = value
        return found

    return parse


def dollars(raw: str) -> Decimal:
    try:
        value = Decimal(raw)
    except InvalidOperation:
        raise ValueError(f"{raw!r} is not an amount in dollars") from None
    if not value.is_finite() or value < 0:
        raise ValueError(f"{raw!r} is not an amount in dollars")
    return value


def one_of(*choices: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if raw not in choices:
            raise ValueError(f"{raw!r} is not one of {', '.join(choices)}")
        return raw

    return parse


def words(raw: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in raw.split(",") if part.strip())


REDACTIONS = ("email", "card", "iban", "phone")


def redactions(raw: str) -> tuple[str, ...]:
    """Names with commas between them, or a JSON list of names and of regular expressions."""
    if not raw.strip().startswith("["):
        for one in (found := words(raw)):
            if one not in REDACTIONS:
                raise ValueError(f"{one!r} is not one of {', '.join(REDACTIONS)}; expressions stand in a JSON list")
        return found
    try:
        listed = json.loads(raw)
    except ValueError:
        listed = None
    if not isinstance(listed, list) or not all(isinstance(one, str) and one for one in listed):
        raise ValueError("it is no JSON list of strings")
    import regex  # only where it is needed

    for one in listed:
        try:
            regex.compile(one, regex.VERSION0)
        except (regex.error, RecursionError, OverflowError):
            raise ValueError(f"{one!r} is no regular expression") from None
    return tuple(listed)


def pairs(raw: str) -> dict[str, str]:
    """`name=value` with commas between."""
    found = {}
    for one in words(raw):
        name, equals, value = (part.strip() for part in one.partition("="))
        if not equals or not name or not value:
            raise ValueError(f"{one!r} is not of the form name=value")
        found[name] = value
    return found


def time_zone(raw: str) -> str:
    try:
        ZoneInfo(raw)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"{raw!r} is no time zone such as Europe/Berlin") from None
    return raw


def networks(raw: str) -> tuple[str, ...]:
    found = words(raw)
    for one in found:
        try:
            ipaddress.ip_network(one, strict=False)
        except ValueError:
            raise ValueError(f"{one!r} is neither an address nor a network such as 10.0.0.0/8") from None
    return found


def public_url(raw: str) -> str:
    parts = urlsplit(raw)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
        raise ValueError(f"{raw!r} is not http://HOST or https://HOST")
    return raw


def issuer(raw: str) -> str:
    """Of OpenID Connect: it may have a path, and is compared as it stands."""
    parts = urlsplit(raw)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise ValueError(f"{raw!r} is not http://HOST[/PATH] or https://HOST[/PATH]")
    return raw


def redis_url(raw: str) -> str:
    """What is said of a wrong one holds nothing of it: it may carry a password."""
    wanted = "redis://HOST:PORT/NUMBER, rediss://HOST:PORT/NUMBER or unix:///PATH?db=NUMBER"
    try:
        parts = urlsplit(raw)
        port, query = parts.port, dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError(f"it is not {wanted}") from None
    if parts.scheme == "unix":
        number, is_whole = query.get("db", "0"), not parts.port and parts.path.startswith("/") and len(parts.path) > 1
    else:
        number = query.get("db") or parts.path.strip("/") or "0"
        is_whole = parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and port != 0
    if not is_whole or parts.fragment:
        raise ValueError(f"it is not {wanted}")
    if not (number.isascii() and number.isdigit()):
        raise ValueError("the database in it is not a number")
    if parts.username and not parts.password:
        raise ValueError("it names a user without a password")
    if unknown := query.keys() - {"db", "socket_timeout"}:
        raise ValueError(f"it has {len(unknown)} parameters other than db and socket_timeout")
    try:
        timeout = float(query.get("socket_timeout", "0.25"))
    except ValueError:
        timeout = 0.0
    if not 0.01 <= timeout <= 60:
        raise ValueError("the socket_timeout in it is not a number of seconds from 0.01 to 60")
    return raw


def collector(raw: str) -> str:
    """The address that takes traces: of HOST:PORT, or of an http(s) address with or without the path."""
    parts = urlsplit(raw if "://" in raw else f"http://{raw}")
    try:
        is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or parts.query or parts.fragment:
        raise ValueError(f"{raw!r} is neither HOST:PORT nor http://HOST:PORT")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1/traces')}/v1/traces"


def listen_argument(arguments: Sequence[str]) -> str | None:
    """What `serve` and `quickstart` are told by --listen: other settings follow from it."""
    if arguments[1:2] not in (["serve"], ["quickstart"]):
        return None
    for at, argument in enumerate(arguments):
        if argument.startswith("--listen="):
            return argument.partition("=")[2]
        if argument == "--listen":
            return next(iter(arguments[at + 1 :]), None)
    return None


def address(raw: str) -> str:
    host, colon, port = raw.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{raw!r} is not HOST:PORT")
    return raw
