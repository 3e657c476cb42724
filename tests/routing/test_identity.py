from __future__ import annotations

import os
from time import time
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.identity import client_request_id, new_request_id


def test_an_id_is_a_uuid_of_version_7_of_now() -> None:
    before = int(time() * 1000)
    for _ in range(200):
        text = new_request_id()
        read = UUID(text)
        assert (str(read), read.version, read.variant) == (text, 7, RFC_4122)
        assert before <= read.int >> 80 <= int(time() * 1000) + 1


def test_ids_do_not_repeat() -> None:
    assert len({new_request_id() for _ in range(20_000)}) == 20_000


def test_ids_of_a_forked_process_are_not_its_parents() -> None:
    """The random part: within a millisecond nothing else tells two processes' ids apart."""
    inlet, outlet = os.pipe()
    child = os.fork()
    if not child:
        os.write(outlet, "".join(new_request_id()[14:] for _ in range(20)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(inlet, 10_000).decode()
    os.close(inlet)
    os.close(outlet)
    assert theirs
    assert not any(new_request_id()[14:] in theirs for _ in range(20))


@pytest.mark.parametrize("raw", [b"a", b"x" * 128, b"req_1-2/3:4", b"!~"])
def test_a_clients_own_visible_id_is_kept(raw: bytes) -> None:
    assert client_request_id(raw) == raw.decode()


@pytest.mark.parametrize(
    "raw", [None, b"", b"x" * 129, b"a b", b"a\r\nset-cookie: x", b"a\n", b"\x7f", "é".encode(), b"\x00", b"\t"]
)
def test_any_other_id_of_a_client_is_dropped(raw: bytes | None) -> None:
    assert client_request_id(raw) == ""


@given(st.binary(max_size=140))
def test_what_is_echoed_is_visible_ascii(raw: bytes) -> None:
    echoed = client_request_id(raw)
    assert echoed.isascii()
    assert echoed.isprintable()
    assert " " not in echoed
    assert len(echoed) <= 128
