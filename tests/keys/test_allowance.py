"""An allowance is a short cut: what comes and goes by it, limits and budgets end as if each request had asked them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keys.limit_table
import routing.admission
from keys.allowance import BUSY_SECONDS, SECONDS, Allowance, Allowances
from keys.auth import BudgetRecord, KeyRecord
from keys.ledger import Grant, Ledger, Reserved, Return
from keys.limit_lease import LEASE_SECONDS
from keys.limit_table import LimitTable, owner_of
from keys.limits import Bucket, Limits
from providers.formats.registry import DIALECTS
from routing.admission import Admission
from telemetry.journal import Charge, Entry
from tests.support.targets import prices, target

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
REQUESTS, TOKENS, CALLS, CAP = 1e6, 1e9, 40_000, 10**9
BOUND = 1000
TARGET = target(priced=prices(0, 1_000_000))
BODY = b'{"model":"m1","messages":[{"role":"user","content":"Hi"}],"max_tokens":1}'
ENVELOPE = DIALECTS["openai-chat"].read_envelope(BODY)
CALL: Any = SimpleNamespace(envelope=ENVELOPE)
"""One attempt costs `BOUND` at most."""
BUDGETS = tuple(BudgetRecord(number, CAP, "total", f"of {number}") for number in (1, 2))


class Bank:
    """Grants what is asked for, and all of the cap at once."""

    def grant(self, budget_id: int, lease: str, *, most: int, least: int, have: int) -> Grant:
        return Grant(f"lease {budget_id}", budget_id, 0.0, inf, CAP, have, CAP, 0, 0)

    def give_back(self, one: Return) -> None:
        raise AssertionError(one)


class House:
    """One process with a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, project: bool = True, cap: int = CAP) -> None:
        self.now = 1000.0
        for module in (keys.limit_table, routing.admission):
            monkeypatch.setattr(module, "monotonic", lambda: self.now)
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.table = LimitTable(sets=1)
        self.table.lease_by(self.later)
        self.allowances = Allowances(self.table, self.later)
        bucket = {"minute": Bucket(1e-9, REQUESTS), "tokens": Bucket(1e-9, TOKENS), "concurrent": CALLS}
        own = Limits(owner_of("key", "a"), "This client key", **bucket)  # type: ignore[arg-type]
        other = Limits(owner_of("project", "p"), "The project", **bucket, project="p")  # type: ignore[arg-type]
        self.limits = (own, other) if project else (own,)
        self.key = KeyRecord(
            "id", "app", "", (), frozenset(), frozenset(), True, True, None, budgets=BUDGETS, limits=self.limits
        )
        self.ledger = Ledger(Bank())
        self.ledger.collect = self.allowances.close_all
        for budget in BUDGETS:
            one = asyncio.run(self.ledger.reserve(budget, most=1, least=1))
            Reserved([one]).settle(0)
            one.holding.grow(cap - CAP)
        monkeypatch.setattr(routing.admission, "TABLE", self.table)
        parts = {"ledger": self.ledger, "allowances": self.allowances, "shared_limits": None, "money_fail_open": False}
        self.runtime: Any = SimpleNamespace(**parts)
        self.holdings = [account.holdings[-1] for account in self.ledger._accounts.values()]

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self.due.append((self.now + seconds, call))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (first := min(self.due, key=lambda one: one[0], default=None)) and first[0] <= until:
            self.due.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = until

    def arrive(self) -> Admission:
        guest = Admission(self.runtime, "127.0.0.1")
        guest.key = self.key
        return guest

    def enter(self, tokens: int) -> Admission:
        guest = self.arrive()
        guest.admit(self.key, tokens)
        guest.cover_at_once(CALL, TARGET)
        return guest

    def leave(self, guest: Admission, used: int, cost: int, *, is_held: bool = True) -> list[Charge]:
        """`is_held`: as a whole answer, which the journal completes, or else as a stream does."""
        guest._used_tokens = used
        if not is_held:
            charges = guest.settle(cost)
            guest.leave()
            return charges
        guest.complete(entry := Entry("id", 0, "/", 200, cost_nano=cost))
        return entry.charges

    def close(self) -> None:
        self.allowances.close_all()
        self.table.sweep(inf)


def busy(house: House) -> Allowance:
    """After as many requests as it takes."""
    for _ in range(6):
        house.leave(house.enter(10), 10, 0)
        house.wait(BUSY_SECONDS / 2)
    one = house.key.allowance
    assert one is not None
    return one


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("enter"), st.integers(1, 40), st.integers(0, 5000)),
            st.tuples(st.sampled_from(["leave", "stream"]), st.integers(1, 40), st.integers(0, 2 * BOUND)),
            st.tuples(st.just("wait"), st.sampled_from([1e-4, 5e-4, 2e-3, 0.02, 0.1, 0.3]), st.just(0)),
            st.tuples(st.just("collect"), st.just(0), st.just(0)),
        ),
        min_size=5,
        max_size=60,
    ),
    st.booleans(),
)
def test_limits_and_budgets_end_as_if_each_request_had_asked_them(
    steps: list[tuple[str, float, int]], project: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        house = House(patch, project=project)
        inside: list[Admission] = []
        entered = used = charged = overrun = 0

        def end(guest: Admission, cost: int, *, is_held: bool = True) -> None:
            nonlocal used, charged, overrun
            used += 3 * cost
            charges = house.leave(guest, 3 * cost, cost, is_held=is_held)
            assert [one.lease for one in charges] == (["lease 1", "lease 2"] if cost else [])
            charged += charges[0].nano if charges else 0
            overrun += charges[0].overrun if charges else 0

        costs = 0
        for what, number, amount in steps:
            if what == "enter":
                inside += [house.enter(amount) for _ in range(int(number))]
                entered += int(number)
            elif what in {"leave", "stream"}:
                going, inside = inside[: int(number)], inside[int(number) :]
                costs += amount * len(going)
                for guest in going:
                    end(guest, amount, is_held=what == "leave")
            elif what == "wait":
                house.wait(number)
            else:
                house.ledger.surrender()
            for holding in house.holdings:
                assert holding.free >= 0
                assert holding.reserved >= 0
        for guest in inside:
            end(guest, 7)
            costs += 7
        house.close()
        now = house.now
        for one in house.limits:
            told = house.table.enter(one, 0.0, now).standings(now)
            assert told.requests is not None
            assert told.tokens is not None
            assert told.requests.remaining == REQUESTS - entered - 1
            assert told.tokens.remaining == TOKENS - used
            house.table.leave(one, 0.0, now)
        assert charged + overrun == costs
        for holding in house.holdings:
            assert (holding.free, holding.spent, holding.reserved) == (CAP - charged, charged, 0)


def test_no_request_under_way_is_forgotten_or_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch)
    busy(house)
    inside = [house.enter(10) for _ in range(50)]
    assert any(guest.allowance is not None for guest in inside)
    house.close()
    place = house.table._find(0, house.limits[0].owner)
    assert house.table._living(place) == 50
    for guest in inside:
        house.leave(guest, 10, 1)
    house.close()
    assert house.table._living(place) == 0


def test_a_key_that_asks_seldom_asks_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch)
    for _ in range(50):
        house.leave(house.enter(10), 10, 1)
        house.wait(2 * BUSY_SECONDS)
        assert house.key.allowance is None


def test_an_idle_allowance_is_closed_when_its_leases_end(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch)
    one = busy(house)
    house.enter(10)
    assert one.free > 0
    house.wait(LEASE_SECONDS)
    assert house.key.allowance is None
    assert [holding.reserved for holding in house.holdings] == [BOUND, BOUND]


def test_a_request_that_arrived_before_its_lease_gets_back_the_tokens_that_it_did_not_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House(monkeypatch, project=False)
    slow = house.arrive()
    house.wait(0.05)
    one = busy(house)
    slow.admit(house.key, 5000)
    assert slow.allowance is one
    house.close()
    house.leave(slow, 100, 0)
    told = house.table.enter(house.limits[0], 0, house.now).standings(house.now)
    assert told.tokens is not None
    assert told.tokens.remaining == TOKENS - 6 * 10 - 100


def test_whoever_needs_what_an_allowance_holds_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, cap=1000 * BOUND)
    busy(house)
    guest = house.enter(10)
    assert guest.taken
    assert house.ledger.at_hand(BUDGETS) < 999 * BOUND
    house.ledger.surrender()
    assert house.ledger.at_hand(BUDGETS) == 999 * BOUND


def test_near_the_end_of_a_budget_each_request_reserves_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, cap=20 * BOUND)
    busy(house)
    guests = [house.enter(10) for _ in range(25)]
    assert sum(1 for guest in guests if guest.taken) == 0
    assert sum(1 for guest in guests if guest.purse is not None and guest.purse.held) == 20


def test_a_request_that_needs_another_attempt_takes_its_reservation_along(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch)
    busy(house)
    guest = house.enter(10)
    assert guest.taken
    assert [held.amount for held in guest.beside().held] == [BOUND, BOUND]
    assert not guest.cover_at_once(CALL, TARGET)
    house.close()
    assert [holding.reserved for holding in house.holdings] == [BOUND, BOUND]
    charges = house.leave(guest, 10, BOUND + 5)
    assert [(charge.nano, charge.overrun) for charge in charges] == [(BOUND, 5), (BOUND, 5)]
    assert [holding.reserved for holding in house.holdings] == [0, 0]


def test_what_is_told_of_limits_is_never_older_than_an_allowance_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(monkeypatch, project=False)
    one = busy(house)
    for asked in range(6, 206):
        guest = house.enter(10)
        if guest.allowance is not None:
            assert house.now < one.until <= house.now + SECONDS
            assert dict(one.headers())[b"x-ratelimit-limit-requests"] == b"%d" % REQUESTS
            told = int(dict(one.headers())[b"x-ratelimit-remaining-requests"])
            assert REQUESTS - asked <= told <= REQUESTS - asked + 3 * SECONDS / BUSY_SECONDS
        house.wait(BUSY_SECONDS / 3)
        house.leave(guest, 10, 1)
        if house.key.allowance is not None:
            one = house.key.allowance
