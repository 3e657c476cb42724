from __future__ import annotations

import json
from contextlib import suppress
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.output_schema import SCHEMA_SECONDS, BadSchema, GaveUp, check_schema, problems_of

PERSON = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$defs": {"name": {"type": "string", "pattern": "^[A-Z]"}},
    "type": "object",
    "properties": {"name": {"$ref": "#/$defs/name"}, "tags": {"type": "array", "uniqueItems": True}},
    "required": ["name"],
    "additionalProperties": False,
}


def problems(schema: Any, value: Any) -> tuple[str, ...]:
    return problems_of(json.dumps(schema).encode(), value)


def test_what_fits_has_no_problems() -> None:
    assert problems(PERSON, {"name": "Ada", "tags": [1, "1", True]}) == ()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"name": "ada"}, "$.name"),
        ({}, "'name' is a required property"),
        ({"name": "Ada", "age": 7}, "additional properties are not allowed: 'age'"),
        ({"name": "Ada", "tags": [1, 1.0]}, "not unique"),
        ([], "not of type 'object'"),
    ],
)
def test_each_problem_says_where_and_why(value: Any, words: str) -> None:
    assert words in problems(PERSON, value)[0]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (b"[]", "no JSON object"),
        (b"{", "not JSON"),
        (b'{"type":"nothing"}', "nothing"),
        (b'{"$ref":"https://example.com/a"}', "leads out"),
        (b'{"$ref":"file:///etc/passwd"}', "leads out"),
        (b'{"$ref":"#/a"}', "refers to nothing"),
        (b'{"$ref":"#"}', "nested too deeply"),
        (b'{"pattern":"("}', "no regular expression"),
        (b'{"pattern":"(a{1000}){1000}"}', "too large"),
        (b'{"a":"' + b"x" * 140_000 + b'"}', "larger"),
        (b'{"not":' * 50_000 + b"{}" + b"}" * 50_000, "larger"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: bytes, words: str) -> None:
    with pytest.raises(BadSchema, match=words):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{}] * 40_000},
        {"required": [one for number in range(9_000) for one in (number, str(number))]},
        {"$schema": "http://json-schema.org/draft-04/schema#", "enum": [*range(9_000), *map(str, range(9_000))]},
    ],
)
def test_no_schema_is_looked_at_for_long(schema: Any) -> None:
    """The library's own look at the latter two compares each with each."""
    begun = process_time()
    with suppress(BadSchema):
        check_schema(json.dumps(schema, separators=(",", ":")).encode())
    assert process_time() - begun < 5 * SCHEMA_SECONDS


@pytest.mark.parametrize("draft", ["draft-04/schema#", "draft-06/schema#", "draft-07/schema#", "draft/2019-09/schema"])
def test_every_draft_is_known(draft: str) -> None:
    name = f"http{'s' if '2019' in draft else ''}://json-schema.org/{draft}"
    schema = {"$schema": name, "properties": {"a": {"type": "integer"}}}
    assert "integer" in problems(schema, {"a": "b"})[0]
    with pytest.raises(BadSchema, match=r"a\.type"):
        check_schema(json.dumps({"$schema": name, "properties": {"a": {"type": "intger"}}}).encode())


def test_a_pattern_that_never_ends_is_given_up() -> None:
    with pytest.raises(GaveUp):
        problems_of(b'{"pattern":"^(a|a|aa)+$"}', "a" * 5_000 + "b", seconds=0.2)


schemas = st.recursive(
    st.booleans() | st.integers(-2, 9) | st.sampled_from(["object", "string", "#", "#/properties/a", "^a+$"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "properties", "items", "anyOf", "oneOf", "not", "if", "then", "$ref", "required", "enum", "const",
             "pattern", "multipleOf", "minimum", "$id", "$schema", "$defs", "a", "prefixItems", "dependentSchemas"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=10,
)  # fmt: skip


answers = st.none() | st.integers() | st.text(max_size=4) | st.lists(st.integers(), max_size=3) | st.just({"a": 1})


@settings(max_examples=200, deadline=None)
@given(schemas, answers)
def test_no_schema_raises_anything_else(schema: Any, value: Any) -> None:
    with suppress(BadSchema, GaveUp):
        problems_of(json.dumps(schema).encode(), value)
