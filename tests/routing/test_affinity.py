"""Conversations stay where they began, whichever worker gets the next turn."""

from __future__ import annotations

import os

import pytest

from routing.affinity import TTL_SECONDS, WAYS, Affinity, Conversation, conversation

TARGETS = {"one": object(), "two": object()}


def later(name: str) -> Conversation:
    return Conversation(name.encode().ljust(16, b"."), is_later=True)


def test_what_is_remembered_is_known_for_a_while() -> None:
    affinity, talk = Affinity(), later("a")
    assert affinity.target(talk, 0.0, TARGETS) == ""
    affinity.remember(talk, "one", 0.0)
    assert affinity.target(talk, 10.0, TARGETS) == "one"
    assert affinity.target(talk._replace(is_later=False), 10.0, TARGETS) == ""
    affinity.remember(talk, "two", 20.0)
    assert affinity.target(talk, 30.0, TARGETS) == "two"
    assert affinity.target(talk, 21.0 + TTL_SECONDS, TARGETS) == ""


def test_a_target_that_is_gone_is_nobodys_home() -> None:
    affinity = Affinity()
    affinity.remember(later("a"), "gone", 0.0)
    assert affinity.target(later("a"), 1.0, TARGETS) == ""
    assert affinity.target(later("a"), 1.0, {"gone": object()}) == "gone"


def test_a_full_set_forgets_its_oldest() -> None:
    affinity = Affinity(sets=1)
    for at in range(WAYS + 1):
        affinity.remember(later(str(at)), "one", float(at))
    known = [affinity.target(later(str(at)), 10.0, TARGETS) for at in range(WAYS + 1)]
    assert known == ["", *["one"] * WAYS]


def test_a_torn_entry_is_forgotten() -> None:
    affinity = Affinity(sets=1)
    affinity.remember(later("a"), "one", 0.0)
    affinity._table[20:21] = bytes([affinity._table[20] ^ 1])
    assert affinity.target(later("a"), 1.0, TARGETS) == ""
    affinity.remember(later("a"), "two", 2.0)
    assert affinity.target(later("a"), 3.0, TARGETS) == "two"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_workers_share_it() -> None:
    affinity = Affinity()
    child = os.fork()
    if child == 0:
        affinity.remember(later("a"), "two", 0.0)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert affinity.target(later("a"), 1.0, TARGETS) == "two"


def test_a_conversation_is_known_by_what_precedes_the_first_answer() -> None:
    first = conversation("key", b'"sys"', b'[{"role":"user","content":"Hi"}]')
    later_ = conversation(
        "key", b'"sys"', b'[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yo"},{"role":"user"}]'
    )
    assert (first.is_later, later_.is_later) == (False, True)
    assert first.identity == later_.identity
    assert conversation("other", b'"sys"', b'[{"role":"user","content":"Hi"}]').identity != first.identity
    assert conversation("key", b"", b"{broken").is_later is False
