from __future__ import annotations

from uuid import UUID, uuid4

import argon2.low_level
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from vault.crypto import (
    FORMAT,
    KEY_BYTES,
    SALT_BYTES,
    Parameters,
    derive_key,
    new_data_key,
    new_salt,
    seal,
    secret_context,
    unseal,
    unwrap_data_key,
    wrap_data_key,
)
from vault.errors import Damaged, WrongPassword

VAULT = UUID(int=1)
SECRET = UUID(int=2)
CIPHER = AESGCM(bytes(range(32)))
CONTEXT = secret_context(VAULT, SECRET, "provider:openai")
CHEAP = Parameters(passes=1, memory_kib=64, lanes=1)
SALT = b"s" * SALT_BYTES
KEY = b"k" * KEY_BYTES
DATA_KEY = b"d" * KEY_BYTES


def wrapped() -> bytes:
    return wrap_data_key(DATA_KEY, KEY, vault_id=VAULT, salt=SALT, parameters=CHEAP)


@pytest.mark.parametrize("password", ["correct horse battery staple", "pässwörd 🔑", ""])
def test_the_derived_key_is_what_the_reference_implementation_of_argon2id_says(password: str) -> None:
    expected = argon2.low_level.hash_secret_raw(
        password.encode(), SALT, time_cost=3, memory_cost=65_536, parallelism=4, hash_len=32,
        type=argon2.low_level.Type.ID, version=0x13,
    )  # fmt: skip
    assert derive_key(password, SALT, Parameters()) == expected


def test_the_default_cost_is_three_passes_over_64_mib_in_four_lanes_with_a_salt_of_16_bytes() -> None:
    assert Parameters() == Parameters(passes=3, memory_kib=65_536, lanes=4)
    assert len(new_salt()) == 16


def test_salts_and_data_keys_are_never_the_same_twice() -> None:
    assert len({new_salt() for _ in range(100)}) == 100
    assert len({new_data_key() for _ in range(100)}) == 100


@given(st.binary(max_size=500))
def test_what_was_sealed_opens_in_its_place(plaintext: bytes) -> None:
    assert unseal(CIPHER, seal(CIPHER, plaintext, CONTEXT), CONTEXT) == plaintext


def test_the_same_value_sealed_twice_looks_different() -> None:
    assert seal(CIPHER, b"value", CONTEXT) != seal(CIPHER, b"value", CONTEXT)


@pytest.mark.parametrize(
    "context",
    [
        secret_context(VAULT, SECRET, "provider:other"),
        secret_context(VAULT, uuid4(), "provider:openai"),
        secret_context(uuid4(), SECRET, "provider:openai"),
        b"",
    ],
    ids=["name", "id", "vault", "nothing"],
)
def test_a_record_moved_to_another_place_does_not_open(context: bytes) -> None:
    with pytest.raises(Damaged):
        unseal(CIPHER, seal(CIPHER, b"value", CONTEXT), context)


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_two_names_have_the_same_context(one: str, other: str) -> None:
    assert (secret_context(VAULT, SECRET, one) == secret_context(VAULT, SECRET, other)) is (one == other)


@given(st.data())
def test_a_record_with_any_bit_flipped_does_not_open(data: st.DataObject) -> None:
    sealed = bytearray(seal(CIPHER, b"sk-a-credential", CONTEXT))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Damaged):
        unseal(CIPHER, bytes(sealed), CONTEXT)


@given(st.data())
def test_a_record_cut_or_lengthened_does_not_open(data: st.DataObject) -> None:
    sealed = seal(CIPHER, b"sk-a-credential", CONTEXT)
    cut = sealed[: data.draw(st.integers(0, len(sealed) - 1))]
    longer = sealed + data.draw(st.binary(min_size=1, max_size=20))
    for changed in (cut, longer):
        with pytest.raises(Damaged):
            unseal(CIPHER, changed, CONTEXT)


def test_another_key_does_not_open_a_record() -> None:
    with pytest.raises(Damaged):
        unseal(AESGCM(new_data_key()), seal(CIPHER, b"value", CONTEXT), CONTEXT)


def test_the_data_key_unwraps_with_the_key_that_wrapped_it() -> None:
    assert unwrap_data_key(wrapped(), KEY, vault_id=VAULT, salt=SALT, parameters=CHEAP) == DATA_KEY


@pytest.mark.parametrize(
    ("key", "vault_id", "salt", "parameters"),
    [
        (b"x" * KEY_BYTES, VAULT, SALT, CHEAP),
        (KEY, SECRET, SALT, CHEAP),
        (KEY, VAULT, b"t" * SALT_BYTES, CHEAP),
        (KEY, VAULT, SALT, Parameters(passes=1, memory_kib=64, lanes=2)),
    ],
    ids=["key", "vault", "salt", "parameters"],
)
def test_the_data_key_is_bound_to_its_vault_salt_and_cost(
    key: bytes, vault_id: UUID, salt: bytes, parameters: Parameters
) -> None:
    with pytest.raises(WrongPassword):
        unwrap_data_key(wrapped(), key, vault_id=vault_id, salt=salt, parameters=parameters)


@given(st.data())
def test_a_wrapped_data_key_with_any_bit_flipped_does_not_unwrap(data: st.DataObject) -> None:
    changed = bytearray(wrapped())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((WrongPassword, Damaged)):
        unwrap_data_key(bytes(changed), KEY, vault_id=VAULT, salt=SALT, parameters=CHEAP)


@pytest.mark.parametrize("raw", [b"", b"\x01", b"\x02" + bytes(60), bytes(61)])
def test_a_wrapped_data_key_of_another_shape_is_damage_and_no_wrong_password(raw: bytes) -> None:
    with pytest.raises(Damaged):
        unwrap_data_key(raw, KEY, vault_id=VAULT, salt=SALT, parameters=CHEAP)


def test_sealing_is_aes_256_gcm_as_its_authors_defined_it() -> None:
    """McGrew and Viega, The Galois/Counter Mode of Operation, test case 16."""
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    context = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    plaintext = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    sealed = bytes.fromhex(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )
    assert unseal(AESGCM(key), FORMAT + nonce + sealed, context) == plaintext
