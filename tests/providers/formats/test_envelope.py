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
from providers.formats.registry import DIALECTS

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


def test_anthropic_takes_a_limit_of_0_which_fills_its_cache() -> None:
    body = b'{"model":"m","max_tokens":0,"messages":[{}]}'
    assert DIALECTS["anthropic-messages"].read_envelope(body).max_output_tokens == 0
    with pytest.raises(InvalidRequest):
        DIALECTS["anthropic-messages"].read_envelope(body.replace(b":0", b":-1"))
    with pytest.raises(InvalidRequest):
        DIALECTS["openai-chat"].read_envelope(body)


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


@pytest.mark.parametrize("body", [b'{"messages":[1],"a":{"x":1,"x":2}}', b'{"messages":[{"n":1,"n":1}],"n":1}'])
def test_names_inside_values_are_the_upstreams_business(body: bytes) -> None:
    assert Envelope.read(body).body == body


# -- what goes on ------------------------------------------------------------------------------------------------------
SPELLINGS = [
    "1.0", "-0.0", "1e5", "1E+05", "0.10", "123456789012345678901234567890", "5e-324", "true", "null", '"\\u00e9"',
    '"é 😀"', '"\\ud83d\\ude00"', '"\\/"', '"a\\u0000b"', "[ 1 ,\t2.50 ]", '{ "b": 1, "a" : [ ] }', "{}", "[]", '""',
]  # fmt: skip
spellings = st.sampled_from(SPELLINGS)


@st.composite
def fields(draw: st.DrawFn) -> dict[str, str]:
    """Names to values as they are spelled; always messages, sometimes what `with_model` changes."""
    found = {f"f{name}": draw(spellings) for name in draw(st.lists(st.integers(0, 9), max_size=5))}
    found["messages"] = f"[{draw(spellings)}]"
    for name, values in (
        ("model", ['"m"', '"\\u006d"', '"other"', '""', "null"]),
        ("stream", ["true", "false", "null"]),
        ("stream_options", ["null", "{}", '{"include_usage": false, "x": 1.0}', '{"include_usage":true}']),
    ):
        if draw(st.booleans()):
            found[name] = draw(st.sampled_from(values))
    return {name: found[name] for name in draw(st.permutations(list(found)))}


def spelled_values(body: bytes) -> dict[str, str]:
    """The top-level values of a body, as they are spelled, in its order."""
    text, found, decoder = body.decode(), dict[str, str](), json.JSONDecoder()
    at = text.index("{") + 1
    while (start := text.find('"', at)) >= 0:
        name, at = decoder.raw_decode(text, start)
        start = at + len(text[at:]) - len(text[at:].lstrip(" :\t\n"))
        _, at = decoder.raw_decode(text, start)
        found[name] = text[start:at]
    return found


@given(fields(), st.booleans(), spaces)
@settings(max_examples=300, deadline=None)
def test_only_the_model_and_the_asked_usage_change(given_fields: dict[str, str], ask_usage: bool, gap: str) -> None:
    pairs = [f'"{name}"{gap}:{gap}{value}{gap}' for name, value in given_fields.items()]
    body = f"{{{gap}{','.join(pairs)}}}".encode()
    changed = Envelope.read(body).with_model("m", ask_usage=ask_usage)
    options = json.loads(given_fields.get("stream_options", "null")) or {}
    asks = ask_usage and given_fields.get("stream") == "true" and not options.get("include_usage")
    after = spelled_values(changed)
    assert json.loads(after.pop("model")) == "m"
    kept = {name: value for name, value in given_fields.items() if name != "model"}
    if asks:
        assert json.loads(after["stream_options"]) == {**options, "include_usage": True}
        kept["stream_options"] = after["stream_options"]
    assert after == kept
    assert list(after) == list(kept)
    if not asks and json.loads(given_fields.get("model", "null")) == "m":
        assert changed is body


def test_what_the_client_put_into_stream_options_keeps_its_spelling() -> None:
    body = b'{"messages":[1],"stream":true,"stream_options":{"x": 1.0,"include_usage":false,"y":"\\u00e9"}}'
    changed = Envelope.read(body).with_model("m", ask_usage=True)
    assert b'"x":1.0' in changed
    assert b'"y":"\\u00e9"' in changed
    assert json.loads(changed)["stream_options"]["include_usage"] is True


@pytest.mark.parametrize("name", ["m", 'a"b', "org/model:7b@x+1", "é😀", "\\"])
def test_any_name_of_a_model_can_be_asked_for(name: str) -> None:
    assert json.loads(Envelope.read(BODY).with_model(name, ask_usage=False))["model"] == name


# -- what comes from outside -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "value",
    [b"NaN", b"-Infinity", b"01", b"1.", b"'x'", b"\xff", b'"\xff"', b'"\xed\xa0\x80"', b'"\n"', b"tru", b"[1,]", b""],
)
@pytest.mark.parametrize("around", [(b'{"messages":[', b"]}"), (b'{"messages": [1], "x": ', b"}"), (b"{", b":1}")])
def test_what_is_no_json_is_refused_wherever_it_stands(value: bytes, around: tuple[bytes, bytes]) -> None:
    with pytest.raises(InvalidRequest):
        Envelope.read(around[0] + value + around[1])


@pytest.mark.parametrize("half", [b"\\ud800", b"\\udfff", b"\\ud800 and more", b"\\ud800\\u0041"])
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(half: bytes) -> None:
    for body in (
        b'{"messages":[1],"' + half + b'":1}',
        b'{"messages":[1],"model":"' + half + b'"}',
        b'{"messages":["' + half + b'"]}',
    ):
        with pytest.raises(InvalidRequest):
            Envelope.read(body)


@pytest.mark.parametrize("depth", [100, 900, 1_100, 100_000])
@pytest.mark.parametrize("shape", [(b"[", b"1", b"]"), (b'{"a":', b"1", b"}")])
@pytest.mark.parametrize("gap", [b"", b"  "])
def test_no_depth_raises_anything_but_a_refusal(depth: int, shape: tuple[bytes, bytes, bytes], gap: bytes) -> None:
    opening, middle, closing = shape
    body = b'{"messages":[1],' + gap + b'"x":' + opening * depth + middle + closing * depth + b"}"
    with contextlib.suppress(InvalidRequest):
        Envelope.read(body).with_model("other", ask_usage=True)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid body with a few bytes put in, taken out or overwritten."""
    body = bytearray(
        b'{"model": "m", "stream":true, "stream_options":{"include_usage":null}, "n":1, "max_tokens": 7, '
        b'"messages": [{"role":"user","content":"h\\u00e9 \xc3\xa9"}], "tools": [], "response_format":{"a":1e5}}'
    )
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body) - 1))
        body[at : at + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"\\", b"{", b"}", b"[", b",", b":", b"\\ud800", b"1e999"])
        )
    return bytes(body)


@given(mutated() | st.binary(max_size=200) | st.text(max_size=100).map(lambda t: f'{{"messages":[{t}]}}'.encode()))
@settings(max_examples=500, deadline=None)
def test_no_bytes_raise_anything_but_a_refusal(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        Envelope.read(body).with_model("other", ask_usage=True)
