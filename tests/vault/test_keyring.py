from __future__ import annotations

import copy
import ctypes
import pickle
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from uuid import UUID

import pytest

from vault.crypto import KEY_BYTES, secret_context, unseal
from vault.errors import Damaged, VaultLocked
from vault.keyring import KEYRING, Keyring, SealedCredential

VAULT = UUID(int=1)
SECRET = UUID(int=2)
KEY = bytes(range(KEY_BYTES))


def open_keyring() -> Keyring:
    keyring = Keyring()
    keyring.load(KEY, VAULT)
    return keyring


def is_open(keyring: Keyring) -> bool:
    """A call, since mypy takes a property to stay as it was."""
    return keyring.is_open


@pytest.fixture
def shared_keyring() -> Iterator[Keyring]:
    """The one of the process, put back as it was."""
    before = KEYRING._page[:]
    yield KEYRING
    KEYRING._page[:] = before


def report_states(keyring: Keyring, pipe: Connection) -> None:
    """A worker: says on each request whether the keyring is open, or does as it is told."""
    while (told := pipe.recv()) != "end":
        if told == "load":
            keyring.load(KEY, VAULT)
        if told == "wipe":
            keyring.wipe()
        pipe.send(keyring.is_open)


@contextmanager
def forked(keyring: Keyring) -> Iterator[Connection]:
    context = get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=report_states, args=(keyring, theirs), daemon=True)
    child.start()
    try:
        yield ours
        ours.send("end")
        child.join(10)
    finally:
        child.kill()


def ask(pipe: Connection, what: str = "state") -> bool:
    pipe.send(what)
    assert pipe.poll(10)
    return bool(pipe.recv())


def test_a_forked_child_sees_its_parent_unlock_and_lock() -> None:
    keyring = Keyring()
    with forked(keyring) as child:
        assert not ask(child)
        keyring.load(KEY, VAULT)
        assert ask(child)
        keyring.wipe()
        assert not ask(child)


def test_a_parent_and_its_other_children_see_a_child_unlock_and_lock() -> None:
    keyring = Keyring()
    with forked(keyring) as one, forked(keyring) as other:
        assert ask(one, "load")
        assert is_open(keyring)
        assert ask(other)
        assert not ask(other, "wipe")
        assert not is_open(keyring)
        assert not ask(one)


def test_a_locked_keyring_neither_seals_nor_opens() -> None:
    sealed = open_keyring().seal(name="n", secret_id=SECRET, plaintext=b"value")
    for locked in (Keyring(), open_keyring()):
        locked.wipe()
        with pytest.raises(VaultLocked):
            locked.seal(name="n", secret_id=SECRET, plaintext=b"value")
        with pytest.raises(VaultLocked):
            locked.open(name="n", secret_id=SECRET, sealed=sealed)
        with pytest.raises(VaultLocked):
            locked.data_key()


def test_an_untouched_keyring_can_be_told_from_one_that_was_locked() -> None:
    opened, wiped = open_keyring(), Keyring()
    wiped.wipe()
    assert [keyring.is_untouched for keyring in (Keyring(), opened, wiped)] == [True, False, False]


def test_what_one_keyring_seals_another_with_the_same_key_opens() -> None:
    sealed = open_keyring().seal(name="n", secret_id=SECRET, plaintext=b"value")
    assert open_keyring().open(name="n", secret_id=SECRET, sealed=sealed) == b"value"
    with pytest.raises(Damaged):
        open_keyring().open(name="another", secret_id=SECRET, sealed=sealed)


def test_locking_leaves_no_byte_of_the_key_in_the_page() -> None:
    keyring = open_keyring()
    assert KEY in keyring._page[:]
    keyring.wipe()
    assert not any(keyring._page[16:])


def test_a_key_of_another_length_is_refused_and_changes_nothing() -> None:
    keyring = Keyring()
    with pytest.raises(ValueError, match="32 bytes"):
        keyring.load(b"short", VAULT)
    assert not is_open(keyring)


def swap_keys(keyring: Keyring, keys: tuple[bytes, bytes]) -> None:
    while True:
        for key in keys:
            keyring.load(key, VAULT)


def opens(keyring: Keyring, records: list[bytes]) -> int:
    """How many of the records the key of this moment opens."""
    cipher, vault_id = keyring._cipher()
    count = 0
    for record in records:
        try:
            unseal(cipher, record, secret_context(vault_id, SECRET, "n"))
        except Damaged:
            continue
        count += 1
    return count


def test_a_reader_never_sees_half_a_key_while_another_process_changes_it() -> None:
    keyring = Keyring()
    keys = (b"a" * KEY_BYTES, b"b" * KEY_BYTES)
    records = []
    for key in keys:
        keyring.load(key, VAULT)
        records.append(keyring.seal(name="n", secret_id=SECRET, plaintext=b"value"))
    writer = get_context("fork").Process(target=swap_keys, args=(keyring, keys), daemon=True)
    writer.start()
    try:
        until, reads = time.monotonic() + 0.5, 0
        while time.monotonic() < until:
            try:
                assert opens(keyring, records) == 1
            except VaultLocked:  # never between two changes: what a reader may get instead of half a key
                continue
            reads += 1
    finally:
        writer.kill()
        writer.join(10)
    assert reads > 10


def test_a_writer_killed_amid_a_change_leaves_a_keyring_that_can_be_opened_again() -> None:
    keyring = open_keyring()
    keyring._page[0] |= 1  # as it is amid a change
    with pytest.raises(VaultLocked):
        keyring.data_key()
    keyring.load(KEY, VAULT)
    assert keyring.data_key() == KEY


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_the_page_with_the_key_is_excluded_from_core_dumps() -> None:
    keyring = open_keyring()
    address = ctypes.addressof(ctypes.c_char.from_buffer(keyring._page))
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            assert "dd" in line.split()
            return
    pytest.fail("the page is not in the list of mappings")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_keyring_cannot_be_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(open_keyring(), protocol)


def test_a_keyring_cannot_be_copied() -> None:
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            duplicate(open_keyring())


def test_no_representation_of_a_keyring_shows_its_key() -> None:
    keyring = open_keyring()
    for shown in (repr(keyring), str(keyring), repr(vars(keyring))):
        assert KEY.hex() not in shown
        assert repr(KEY)[2:-1] not in shown


@dataclass(frozen=True)
class Holder:
    credential: SealedCredential


def test_a_credential_shows_itself_as_three_stars_wherever_it_is() -> None:
    credential = SealedCredential(SECRET, "provider:openai", b"sealed bytes")
    assert (repr(credential), str(credential), f"{credential}", f"{credential!r:>5}") == ("***", "***", "***", "  ***")
    assert repr(Holder(credential)) == "Holder(credential=***)"
    assert repr([{"x": credential}]) == "[{'x': ***}]"


def test_a_credential_reveals_itself_while_the_keyring_is_open_and_no_longer(shared_keyring: Keyring) -> None:
    shared_keyring.load(KEY, VAULT)
    sealed = shared_keyring.seal(name="n", secret_id=SECRET, plaintext="sk-ä".encode())
    credential = SealedCredential(SECRET, "n", sealed)
    assert credential.reveal() == "sk-ä"
    shared_keyring.wipe()
    with pytest.raises(VaultLocked):
        credential.reveal()
