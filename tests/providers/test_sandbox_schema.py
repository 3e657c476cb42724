"""What the generator makes satisfies the schema that it was given, and comes at once whatever that schema is."""

from __future__ import annotations

from time import monotonic
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.sandbox_schema import instance_of

_TREE = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "sandbox value"),
        ({"type": "string", "maxLength": 3}, "san"),
        ({"type": "string", "minLength": 16}, "sandbox value..."),
        ({"type": "string", "format": "date"}, "2025-01-31"),
        ({"type": "integer", "minimum": 10}, 10),
        ({"type": "integer", "exclusiveMinimum": 10}, 11),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "integer", "multipleOf": 5}, 0),
        ({"type": "integer", "minimum": 11, "multipleOf": 5}, 15),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 2}, 1.5),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": ["null", "integer"]}, 1),
        ({"const": {"a": 1}}, {"a": 1}),
        ({"enum": ["x", "y"]}, "x"),
        ({"type": "integer", "default": 7}, 7),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, [1, 1, 1]),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3, "uniqueItems": True}, [1, 2, 3]),
        ({"type": "array", "maxItems": 0, "items": {"type": "integer"}}, []),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"const": "b"}]}, [1, "b"]),
        ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}, {"a": 1}),
        ({"properties": {"a": {"type": "integer"}}}, {"a": 1}),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 1),
        ({"type": "object", "required": ["a"], "anyOf": [{"properties": {"a": {"const": 3}}}]}, {"a": 3}),
        ({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]}, {"a": 1, "b": 2}),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}}, 1),
        (True, "sandbox value"),
    ],
)
def test_a_schema_gets_an_instance(schema: Any, expected: Any) -> None:
    assert instance_of(schema) == expected


def test_recursion_ends_where_the_schema_lets_it() -> None:
    value = instance_of(_TREE)
    depth = 0
    while value is not None:
        assert set(value) == {"next"}
        value, depth = value["next"], depth + 1
    assert depth < 20


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"type": "array", "minItems": 10**8, "items": {"type": "string", "minLength": 10**8}},
        {"type": "object", "properties": {name: {"$ref": "#"} for name in "abcdefgh"}, "required": list("abcdefgh")},
        {"type": "array", "minItems": 50, "items": {"$ref": "#"}},
        {"type": "string", "pattern": "^(a+)+$", "minLength": 40},
    ],
)
def test_a_hostile_schema_costs_little(schema: dict[str, Any]) -> None:
    started = monotonic()
    instance_of(schema)
    assert monotonic() - started < 1


_SCALARS = st.one_of(
    st.fixed_dictionaries({"type": st.just("boolean")}),
    st.fixed_dictionaries({"type": st.just("null")}),
    st.builds(
        lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
        st.integers(-100, 100),
        st.integers(0, 50),
    ),
    st.builds(
        lambda least, span: {"type": "string", "minLength": least, "maxLength": least + span},
        st.integers(0, 30),
        st.integers(0, 30),
    ),
    st.fixed_dictionaries({"enum": st.lists(st.integers() | st.text(), min_size=1, max_size=3)}),
)


def _containers(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    arrays = st.builds(
        lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 3)
    )
    objects = st.builds(
        lambda properties: {"type": "object", "properties": properties, "required": list(properties)},
        st.dictionaries(st.text(max_size=4), inner, max_size=3),
    )
    unions = st.builds(lambda variants: {"anyOf": variants}, st.lists(inner, min_size=1, max_size=2))
    return arrays | objects | unions


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    """A validator for as much of JSON schema as the strategies above use."""
    if "anyOf" in schema:
        return any(_fits(value, variant) for variant in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    match schema["type"]:
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case "integer":
            return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
        case "string":
            return isinstance(value, str) and schema["minLength"] <= len(value) <= schema["maxLength"]
        case "array":
            fits = isinstance(value, list) and len(value) >= schema["minItems"]
            return fits and all(_fits(one, schema["items"]) for one in value)
    fits = isinstance(value, dict) and set(schema["required"]) <= set(value)
    return fits and all(_fits(value[name], inner) for name, inner in schema["properties"].items() if name in value)


@given(st.recursive(_SCALARS, _containers, max_leaves=6))
def test_an_instance_fits_its_schema(schema: dict[str, Any]) -> None:
    assert _fits(instance_of(schema), schema)
