from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import pytest

from routing.bandit import RewardWeights
from routing.scoring import PROFILES
from tokenhub import settings
from tokenhub.env import (
    Environment,
    boolean,
    collector,
    listen_argument,
    networks,
    public_url,
    redis_url,
    share,
    time_zone,
    weights,
    whole,
)


def test_a_bad_value_leaves_the_default_and_is_explained() -> None:
    env = Environment({"N": "many"})
    assert env.read("N", 7, whole(1), "a number") == 7
    ((name, problem),) = env.problems
    assert name == "N"
    assert "'many' is not a whole number" in problem
    assert "default (7)" in problem


def test_a_secret_comes_from_a_file_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("pass word\n")
    env = Environment({"S_FILE": str(tmp_path / "secret")})
    assert env.read("S", "", str, "a secret") == "pass word"
    missing = Environment({"S_FILE": str(tmp_path / "none")})
    assert missing.read("S", "x", str, "a secret") == "x"
    assert "cannot be read" in missing.problems[0][1]


@pytest.mark.parametrize(("raw", "expected"), [("yes", True), ("0", False), ("TRUE", True), ("off", False)])
def test_flags_are_read(raw: str, expected: bool) -> None:
    assert boolean(raw) is expected


@pytest.mark.parametrize(
    ("parse", "raw"),
    [
        (time_zone, "Mars/X"),
        (networks, "10.0.0.0/8, abc"),
        (public_url, "example.org"),
        (share, "5"),
        (share, "nan"),
        (weights("a", "b"), "c=1"),
        (weights("a"), "a"),
        (weights("a"), "a=-1"),
        (share, "much"),
    ],
)
def test_what_cannot_be_meant_is_refused(parse: object, raw: str) -> None:
    with pytest.raises(ValueError, match=r"no|neither|not|out of range"):
        parse(raw)  # type: ignore[operator]


@pytest.mark.parametrize(
    "raw",
    [
        "redis://h",
        "redis://:p%40ss@h:6380/2",
        "rediss://user:pass@[::1]:6379/0?socket_timeout=0.1",
        "unix:///run/redis.sock?db=3",
        "unix://:pass@/run/redis.sock",
    ],
)
def test_addresses_of_redis_are_read(raw: str) -> None:
    assert redis_url(raw) == raw


@pytest.mark.parametrize(
    "raw",
    [
        "s3cret",
        "http://s3cret@h",
        "redis://:s3cret@",
        "redis://:s3cret@h:port/0",
        "redis://:s3cret@h:99999/0",
        "redis://:s3cret@h/s3cret",
        "redis://s3cret@h/0",
        "redis://h/0?s3cret=1",
        "redis://h/0?s3cret",
        "redis://h/0#s3cret",
        "redis://:s3cret@h/0?socket_timeout=never",
        "redis://:s3cret@h/0?socket_timeout=nan",
        "redis://:s3cret@[h/0",
        "unix://s3cret",
    ],
)
def test_what_is_said_of_a_wrong_address_of_redis_holds_nothing_of_it(raw: str) -> None:
    env = Environment({"R": raw})
    assert env.read("R", "", redis_url, "an address") == ""
    ((_, problem),) = env.problems
    assert problem.startswith(("it ", "the "))
    assert "s3cret" not in problem


def test_weights_are_those_that_are_named() -> None:
    assert weights("a", "b", "c")("a=1, b = 0.5") == {"a": 1.0, "b": 0.5}
    assert settings.TOKENHUB_REWARD_WEIGHTS == {}
    shown = settings.ENV.variables["TOKENHUB_REWARD_WEIGHTS"].default
    names = [one.name for one in fields(RewardWeights)]
    assert weights(*names)(shown) == asdict(RewardWeights())


def test_the_modes_of_the_settings_are_those_of_the_router() -> None:
    assert set(settings.MODES) == set(PROFILES)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["manage.py", "serve", "--listen", "0.0.0.0:80"], "0.0.0.0:80"),
        (["manage.py", "quickstart", "--workers", "2", "--listen=[::]:80"], "[::]:80"),
        (["manage.py", "serve"], None),
        (["manage.py", "check", "--listen", "x:1"], None),
    ],
)
def test_what_follows_from_the_address_follows_from_the_commands_too(
    arguments: list[str], expected: str | None
) -> None:
    assert listen_argument(arguments) == expected


def test_a_wrong_database_is_fatal_and_a_wrong_number_is_not() -> None:
    env = Environment({"TOKENHUB_DATABASE_URL": "many", "TOKENHUB_WORKERS": "many"})
    env.read("TOKENHUB_DATABASE_URL", 1, whole(1), "")
    env.read("TOKENHUB_WORKERS", 1, whole(1), "")
    assert [name for name, _ in env.fatal] == ["TOKENHUB_DATABASE_URL"]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("localhost:4318", "http://localhost:4318/v1/traces"),
        ("https://otel.example.com", "https://otel.example.com/v1/traces"),
        ("http://h:1/base/", "http://h:1/base/v1/traces"),
        ("http://h:1/v1/traces", "http://h:1/v1/traces"),
    ],
)
def test_a_collectors_address_gets_its_path(raw: str, expected: str) -> None:
    assert collector(raw) == expected


@pytest.mark.parametrize("raw", ["", "ftp://h:1", "http://", "h:99999", "http://h?a=1"])
def test_what_is_no_collectors_address_is_refused(raw: str) -> None:
    with pytest.raises(ValueError, match="is neither HOST:PORT nor"):
        collector(raw)
