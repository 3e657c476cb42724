from __future__ import annotations

import pytest

from keys.auth import AuthError, KeyRecord, authenticate, digest_of

KEY = b"tokenhub_" + b"ab" * 32
OTHER = b"tokenhub_" + b"cd" * 32


def record(*, enabled: bool = True, expires_at: float | None = None, scopes: frozenset[str] = frozenset()) -> KeyRecord:
    return KeyRecord(
        id="1", name="app", project="", tags=(), scopes=scopes, allowed_models=frozenset(), allow_fallback=True,
        enabled=enabled, expires_at=expires_at,
    )  # fmt: skip


def refusal(headers: dict[bytes, bytes], known: KeyRecord | None = None) -> str:
    with pytest.raises(AuthError) as caught:
        authenticate({digest_of(KEY): known or record()}, headers, now=1000.0)
    assert KEY.decode() not in caught.value.message + caught.value.hint
    return caught.value.code


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer " + KEY},
        {b"authorization": b"bearer  " + KEY + b" "},
        {b"x-api-key": KEY},
        {b"authorization": b"Bearer sk-something", b"x-api-key": KEY},
        {b"authorization": b"Bearer " + KEY, b"x-api-key": b"sk-something"},
    ],
)
def test_a_key_is_taken_from_either_header(headers: dict[bytes, bytes]) -> None:
    assert authenticate({digest_of(KEY): record()}, headers, now=0.0).name == "app"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({b"authorization": b"Basic abc"}, "missing_api_key"),
        ({b"authorization": b"Bearer "}, "missing_api_key"),
        ({b"authorization": b"Bearer sk-abc"}, "invalid_api_key"),
        ({b"x-api-key": OTHER}, "invalid_api_key"),
        ({b"x-api-key": KEY + b"0"}, "invalid_api_key"),
        ({b"x-api-key": KEY.upper()}, "invalid_api_key"),
        ({b"x-api-key": b"\xff\x00"}, "invalid_api_key"),
    ],
)
def test_what_is_no_known_key_is_refused_by_name(headers: dict[bytes, bytes], code: str) -> None:
    assert refusal(headers) == code


def test_a_known_key_that_may_not_be_used_says_why() -> None:
    assert refusal({b"x-api-key": KEY}, record(enabled=False)) == "disabled_api_key"
    assert refusal({b"x-api-key": KEY}, record(expires_at=1000.0)) == "expired_api_key"


def test_chat_opens_embeddings_and_an_empty_list_opens_all() -> None:
    assert record().has_scope("plan")
    assert record(scopes=frozenset({"chat"})).has_scope("embeddings")
    assert not record(scopes=frozenset({"embeddings"})).has_scope("chat")
