"""A body is read from outside, goes on as it is, and means one thing only."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.formats.envelope import Envelope
from providers.formats.errors import InvalidRequest

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "h\\u00e9 1.0"}], "temperature": 1.0, "seed": 1e3}'


def test_a_body_that_needs_no_change_goes_on_as_the_same_bytes() -> None:
    assert Envelope.read(BODY).with_model("m", ask_usage=True) is BODY


def test_another_model_changes_nothing_but_the_model() -> None:
    changed = Envelope.read(BODY).with_model("other", ask_usage=True)
    assert json.loads(changed) == {**json.loads(BODY), "model": "other"}
    for kept in (b'[{"role": "user", "content": "h\\u00e9 1.0"}]', b"1.0", b"1e3"):
        assert kept in changed


def test_usage_is_asked_for_in_streams_beside_what_the_client_asked() -> None:
    body = b'{"model":"m","messages":[1],"stream":true,"stream_options":{"x":1}}'
    assert json.loads(Envelope.read(body).with_model("m", ask_usage=True))["stream_options"] == {
        "x": 1,
        "include_usage": True,
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 5), ("stream", "yes"), ("stream_options", []), ("max_tokens", "7"), ("max_tokens", 0),
        ("max_tokens", -3), ("max_completion_tokens", 1.5), ("n", 0), ("n", 1000), ("messages", {}), ("messages", []),
        ("messages", "hi"), ("messages", None),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_its_field(field: str, value: Any) -> None:
    body = {"model": "m", "messages": [{}], field: value}
    with pytest.raises(InvalidRequest) as refused:
        Envelope.read(json.dumps(body).encode())
    assert refused.value.param in {field, "max_tokens"}
    assert field in refused.value.message or "max_tokens" in refused.value.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"null", b"7", b'{"messages": [1],}', b"\xff\xfe", b'{"model": "\xff"}', b"NaN"],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Envelope.read(body)
    assert refused.value.code == "invalid_json"


def test_deep_nesting_is_an_error_of_the_client() -> None:
    with pytest.raises(InvalidRequest):
        Envelope.read(b'{"messages": ' + b"[" * 200_000 + b"]" * 200_000 + b"}")


def test_images_tools_and_schemas_are_noticed() -> None:
    plain = Envelope.read(b'{"messages":[{"role":"user","content":"an image_url"}],"tools":[]}')
    assert not any([plain.has_images, plain.has_tools, plain.has_documents, plain.has_json_schema])
    rich = Envelope.read(
        b'{"messages":[{"content":[{"type":"image_url","image_url":{"url":"x"}},{"type":"document"}]}],'
        b'"tools":[{"type":"function"}],"response_format":{"type":"json_schema"}}'
    )
    assert rich.has_images
    assert rich.has_documents
    assert rich.has_tools
    assert rich.has_json_schema


# -- one name, one value ---------------------------------------------------------------------------------------------
names = st.sampled_from(["model", "messages", "max_tokens", "n", "x", "é", 'q"', "a\\b", "\n", "\u2028", "😀"])
spaces = st.sampled_from(["", " ", "\n", "\t ", "  "])


@st.composite
def spelled(draw: st.DrawFn, name: str) -> str:
    """One of the ways to write a name."""
    out = ""
    for character in name:
        units = character.encode("utf-16-be")
        escaped = "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
        out += draw(st.sampled_from([json.dumps(character, ensure_ascii=False)[1:-1], escaped]))
    return f'"{out}"'


@st.composite
def bodies(draw: st.DrawFn) -> str:
    values = {"messages": '[{"role": "user", "content": "Hi , : \\" x"}]', "model": '"m"', "max_tokens": "7", "n": "1"}
    pairs = ["messages", *draw(st.lists(names, max_size=5))]
    parts = []
    for name in draw(st.permutations(pairs)):
        gaps = [draw(spaces) for _ in range(4)]
        parts.append(f"{gaps[0]}{draw(spelled(name))}{gaps[1]}:{gaps[2]}{values.get(name, '[ 1 , 2 ]')}{gaps[3]}")
    return draw(spaces) + "{" + ",".join(parts) + "}" + draw(spaces)


@given(bodies())
@settings(max_examples=400, deadline=None)
def test_a_name_that_stands_twice_is_refused_however_it_is_spelled(body: str) -> None:
    found: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found[:] = [name for name, _ in pairs]
        return dict(pairs)

    json.loads(body, object_pairs_hook=note)
    if len(set(found)) == len(found):
        Envelope.read(body.encode())
        return
    with pytest.raises(InvalidRequest, match="twice"):
        Envelope.read(body.encode())


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: f'{{"messages":[{text}]}}'.encode()))
@settings(max_examples=300, deadline=None)
def test_no_bytes_raise_anything_but_a_refusal(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        Envelope.read(body)
