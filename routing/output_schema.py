"""JSON Schemas from strangers, held against answers within bounds: size, time, and no address is ever fetched. Pure,
but it computes for up to CHECK_SECONDS: not on an event loop. The libraries are loaded with the first schema.

What takes long is stopped between two keywords, and within a regular expression."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from itertools import islice
from time import monotonic
from typing import Any, Final

import msgspec

from routing.bounded_regex import BadPattern, compiled

CHECK_SECONDS: Final = 1.0
TRIAL_SECONDS: Final = 0.25
SCHEMA_SECONDS: Final = 2.0
MAX_SCHEMA_BYTES: Final = 131_072
MAX_PROBLEMS: Final = 5
MAX_SHOWN: Final = 200
_DATA: Final = frozenset({"const", "enum", "default", "examples"})
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_TRIALS: Final[tuple[Any, ...]] = ({}, [], "", 0, None)
_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_sorted = msgspec.json.Encoder(order="sorted").encode
_limit = threading.local()


class BadSchema(ValueError):
    """The schema cannot be used; the message says why."""


class GaveUp(Exception):
    """Whether the answer fits cannot be told, or not in time. The message says why."""


def check_schema(text: bytes) -> None:
    """Raises BadSchema."""
    _validator(text)


def problems_of(text: bytes, value: Any, *, seconds: float = CHECK_SECONDS) -> tuple[str, ...]:
    """Where the value breaks which rule of the schema; the first few. Raises BadSchema, GaveUp."""
    return _within(seconds, lambda: tuple(map(_described, islice(_validator(text).iter_errors(value), MAX_PROBLEMS))))


def _within(seconds: float, check: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    _limit.deadline = monotonic() + seconds
    try:
        return check()
    except TimeoutError:
        raise GaveUp(f"the check took longer than {seconds:g} seconds") from None
    except RecursionError:
        raise GaveUp("the schema or the answer is nested too deeply") from None
    except GaveUp:
        raise
    except Exception as problem:  # what a stranger's schema may refer to, or divide by, the library does not foresee
        raise GaveUp(f"the schema cannot be applied ({type(problem).__name__})") from None


def _described(error: Any) -> str:
    from jsonschema.exceptions import best_match

    error = best_match([error]) or error  # of alternatives, the one that nearly fits
    rule = f'"{error.validator}": {_encode(error.validator_value).decode("utf-8", "replace")[:MAX_SHOWN]}'
    path = error.json_path[:MAX_SHOWN]
    if len(error.message) > MAX_SHOWN:  # it repeats the value
        return f"{path} breaks the rule {rule}"
    return f"{path}: {error.message} (rule {rule})"


# -- the schema itself ---------------------------------------------------------------------------------------------
@lru_cache(maxsize=64)
def _validator(text: bytes) -> Any:
    """Raises BadSchema."""
    if len(text) > MAX_SCHEMA_BYTES:
        raise BadSchema(f"it is larger than {MAX_SCHEMA_BYTES} bytes")
    try:
        schema = _any(text)
    except RecursionError:
        raise BadSchema("it is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise BadSchema(f"it is not JSON: {problem}") from None
    if not isinstance(schema, dict):
        raise BadSchema("it is no JSON object")
    references = _look_through(schema)
    return _compiled(schema, references)


def _look_through(schema: dict[str, Any]) -> set[str]:
    """What it refers to. Raises BadSchema for what is not taken. Data in it may look like a schema, and is let pass:
    whatever this walk overlooks is refused again when it is used."""
    references, names, waiting = set[str](), set[str](), list[Any]([schema])
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        if not isinstance(one, dict):
            continue
        names |= one.keys()
        for name, value in one.items():
            if name in _REFERENCES and isinstance(value, str):
                if not value.startswith("#"):
                    shown = value[:MAX_SHOWN]
                    raise BadSchema(f"{name} {shown!r} leads out of it; only references that begin with # are taken")
                references.add(value)
            elif name == "pattern" and isinstance(value, str):
                _usable(value)
            elif name == "patternProperties" and isinstance(value, dict):
                for pattern in value:
                    _usable(pattern)
            if name not in _DATA or (name in {"enum", "examples"} and not isinstance(value, list)):
                waiting.append(value)
    if {"unevaluatedProperties", "patternProperties"} <= names:
        raise BadSchema("unevaluatedProperties and patternProperties are not taken together")
    has_bases = any("$id" in one for one in _objects(schema) if one is not schema)
    return set() if has_bases else references


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _compiled(schema: dict[str, Any], references: set[str]) -> Any:
    """Raises BadSchema."""
    from jsonschema import Draft202012Validator, validators
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    draft: Any = validators.validator_for(schema, default=Draft202012Validator)
    judge = _judge(draft)

    def wrong() -> tuple[str, ...]:
        return tuple(
            f"{one.json_path[:MAX_SHOWN]}: {one.message[:MAX_SHOWN]}" for one in islice(judge.iter_errors(schema), 1)
        )

    try:
        for problem in _within(SCHEMA_SECONDS, wrong):
            raise BadSchema(problem)
    except GaveUp as problem:
        raise BadSchema(str(problem)) from None
    for one in _objects(schema):  # by it, the library would go over to its own, boundless validator
        if isinstance(one.get("$schema"), str):
            del one["$schema"]
    validator = _bounded(draft)(schema, registry=Registry())
    resolver = validator._resolver  # noqa: SLF001  the library offers no other look at it
    for reference in references:
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise BadSchema(f"{reference[:MAX_SHOWN]!r} refers to nothing in it") from None

    def trial() -> tuple[str, ...]:
        for value in _TRIALS:
            next(validator.iter_errors(value), None)
        return ()

    try:
        _within(TRIAL_SECONDS, trial)
    except GaveUp as problem:
        raise BadSchema(str(problem)) from None
    return validator


@cache
def _judge(draft: Any) -> Any:
    """A bounded validator of the draft's schemas themselves."""
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
    from referencing import Registry
    from referencing.jsonschema import specification_with

    def bare(contents: Any) -> Any:
        return {name: value for name, value in contents.items() if name != "$schema"}  # see _compiled

    resources = [
        (uri, specification_with(contents["$schema"]).create_resource(bare(contents)))
        for uri in REGISTRY
        if isinstance(contents := REGISTRY.contents(uri), dict)
    ]
    registry: Registry[Any] = Registry().with_resources(resources)
    return _bounded(draft)(bare(draft.META_SCHEMA), registry=registry)


# -- keywords --------------------------------------------------------------------------------------------------------
@cache
def _bounded(draft: Any) -> Any:
    """The draft's validator with a look at the clock in each keyword, and bounded regular expressions."""
    from jsonschema import validators

    own: dict[str, Any] = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }
    keywords = {name: _timed(own.get(name, check)) for name, check in draft.VALIDATORS.items()}
    return validators.extend(draft, keywords)  # type: ignore[no-untyped-call]


def _timed(check: Any) -> Any:
    def timed(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        _seconds_left()
        return check(validator, value, instance, schema)

    return timed


def _seconds_left() -> float:
    left: float = _limit.deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _error(message: str) -> Any:
    from jsonschema import ValidationError

    return ValidationError(message)


def _pattern(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[Any]:
    if validator.is_type(instance, "string") and not _found(pattern, instance):
        yield _error(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: dict[str, Any], instance: Any, _: Any) -> Iterator[Any]:
    if not validator.is_type(instance, "object"):
        return
    for pattern, subschema in patterns.items():
        for name, value in instance.items():
            if _found(pattern, name):
                yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, subschema: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not validator.is_type(instance, "object"):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    extras = [name for name in instance if name not in known and not any(_found(pattern, name) for pattern in patterns)]
    if subschema is False and extras:
        yield _error(f"additional properties are not allowed: {', '.join(map(repr, extras[:MAX_PROBLEMS]))}")
    elif isinstance(subschema, dict):
        for name in extras:
            yield from validator.descend(instance[name], subschema, path=name)


def _unique_items(validator: Any, wanted: Any, instance: Any, _: Any) -> Iterator[Any]:
    """The library compares each with each."""
    if not wanted or not validator.is_type(instance, "array"):
        return
    if len({_sorted(_plain(one)) for one in instance}) < len(instance):
        yield _error("its items are not unique")


def _plain(value: Any) -> Any:
    """With 1.0 as 1: the same number in JSON."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_plain(one) for one in value]
        case dict():
            return {name: _plain(one) for name, one in value.items()}
    return value


# -- regular expressions ---------------------------------------------------------------------------------------------
def _found(pattern: str, text: str) -> bool:
    try:
        search = compiled(pattern).search
    except BadPattern as problem:
        raise GaveUp(str(problem)) from None
    return search(text, timeout=_seconds_left(), concurrent=True) is not None


def _usable(pattern: str) -> None:
    """Raises BadSchema."""
    try:
        compiled(pattern)
    except BadPattern as problem:
        raise BadSchema(str(problem)) from None
