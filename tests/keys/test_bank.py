"""Budgets in the database: whatever processes do, in whatever order, a period is never overdrawn."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from keys.auth import BudgetRecord
from keys.bank import DatabaseBank, book, host_of, release_dead, release_host
from keys.ledger import BudgetExceeded, BudgetGone, Grant, Ledger, OutcomeUnknown, Reserved, Return
from keys.models import NANO, Budget, BudgetPeriod, Lease, Subject
from telemetry.journal import Charge, Entry, Journal

CAP = 1_000_000


def budget(amount: int = CAP) -> Budget:
    return Budget.objects.create(
        subject=Subject.PROJECT, subject_id="p", amount_usd=Decimal(amount) / NANO, every="total"
    )


def period() -> BudgetPeriod:
    return BudgetPeriod.objects.get()


def charged(grant: Grant, nano: int, request_id: str = "") -> Entry:
    entry_id = request_id or "00000000-0000-7000-8000-000000000001"
    return Entry(id=entry_id, at=0, endpoint="/", status=200, charges=[Charge(grant.lease, grant.period, nano)])


@pytest.mark.django_db
def test_a_lease_takes_a_part_of_what_is_left_or_what_is_needed() -> None:
    bank = DatabaseBank(holder="a", host="h")
    made = budget()
    first = bank.grant(made.pk, "", most=10, least=10)
    assert first.amount == CAP // 16
    assert bank.grant(made.pk, first.lease, most=900_000, least=900_000).amount == 900_000
    assert period().leased_nano == CAP // 16 + 900_000
    assert Lease.objects.get().remaining_nano == CAP // 16 + 900_000


@pytest.mark.django_db
def test_what_is_short_is_recalled_from_the_others() -> None:
    made = budget()
    one = DatabaseBank(holder="a", host="h").grant(made.pk, "", most=CAP, least=1)
    assert one.amount == CAP
    assert period().recalled_at is None
    other = DatabaseBank(holder="b", host="h").grant(made.pk, "", most=10, least=1)
    assert (other.amount, other.elsewhere) == (0, CAP)
    assert period().recalled_at is not None
    DatabaseBank(holder="a", host="h").give_back(Return(one.lease, CAP, is_last=True))
    assert DatabaseBank(holder="b", host="h").grant(made.pk, other.lease, most=10, least=1).amount == CAP // 16


@pytest.mark.django_db(transaction=True)
def test_what_a_process_is_giving_back_itself_is_waited_for() -> None:
    made = budget()
    record = BudgetRecord(made.pk, CAP, "total", "of the project p")
    turn = threading.Lock()

    class OneAtATime(DatabaseBank):  # two threads' connections to a database in memory do not wait for each other
        def grant(self, budget_id: int, *args: Any, **fields: Any) -> Grant:
            with turn:
                return super().grant(budget_id, *args, **fields)

        def give_back(self, one: Return) -> None:
            with turn:
                super().give_back(one)

    bank = OneAtATime(holder="a", host="h")
    ledger = Ledger(bank)

    async def give_back_soon() -> None:
        await asyncio.sleep(0.15)
        await asyncio.to_thread(bank.give_back, ledger.returns[0])
        ledger.returns.popleft()

    async def reserve_what_was_just_recalled() -> int:
        Reserved([await ledger.reserve(record, most=CAP * 3 // 4, least=1)]).settle(100)
        ledger.surrender(recalled=ledger.periods())
        asyncio.get_running_loop().create_task(give_back_soon())
        return (await ledger.reserve(record, most=CAP * 3 // 4, least=CAP * 3 // 4)).amount

    assert asyncio.run(reserve_what_was_just_recalled()) == CAP * 3 // 4


@pytest.mark.django_db
def test_who_asks_in_vain_keeps_nothing_that_another_could_use() -> None:
    made = budget()
    first, second = DatabaseBank(holder="a", host="h"), DatabaseBank(holder="b", host="h")
    one = first.grant(made.pk, "", most=CAP // 2, least=1)
    other = second.grant(made.pk, "", most=CAP // 2, least=1)
    assert one.amount == other.amount == CAP // 2
    one = first.grant(made.pk, one.lease, most=CAP * 3 // 4, least=CAP * 3 // 4, have=one.amount)
    assert (one.amount, one.handed_in, one.elsewhere) == (0, CAP // 2, CAP // 2)
    other = second.grant(made.pk, other.lease, most=CAP * 3 // 4, least=CAP * 3 // 4, have=other.amount)
    assert (other.amount, other.elsewhere) == (CAP * 3 // 4, 0)
    assert period().leased_nano == CAP * 3 // 4


@pytest.mark.django_db(transaction=True)
def test_who_asks_for_too_much_takes_nothing_from_those_who_ask_for_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keys.ledger.PATIENCE_SECONDS", 0.2)
    record = BudgetRecord(budget().pk, CAP, "total", "of the project p")

    async def ask() -> None:
        ledger = Ledger(DatabaseBank(holder="a", host="h"))
        await ledger.reserve(record, most=CAP // 10, least=CAP // 10)  # under way all the time
        with pytest.raises(BudgetExceeded):
            await ledger.reserve(record, most=2 * CAP, least=2 * CAP)
        for _ in range(3):
            assert (await ledger.reserve(record, most=CAP // 100, least=1)).amount == CAP // 100

    asyncio.run(ask())


class Breaking(DatabaseBank):
    """Whose connection breaks after a commit, when it is told to."""

    is_broken = False

    def grant(self, *args: Any, **fields: Any) -> Grant:
        done = super().grant(*args, **fields)
        if self.is_broken:
            raise OutcomeUnknown("server closed the connection unexpectedly")
        return done


@pytest.mark.django_db(transaction=True)
def test_what_may_be_anothers_by_now_is_not_spent() -> None:
    record = BudgetRecord(budget().pk, CAP, "total", "of the project p")

    async def ask() -> None:
        bank = Breaking(holder="a", host="h")
        one, other = Ledger(bank), Ledger(DatabaseBank(holder="b", host="h"))
        held = await one.reserve(record, most=CAP * 6 // 10, least=1)
        one.lower_to(held, CAP // 10)
        bank.is_broken = True
        with pytest.raises(OutcomeUnknown):
            await one.reserve(record, most=2 * CAP, least=2 * CAP)
        taken = await other.reserve(record, most=CAP, least=1)
        with pytest.raises(OutcomeUnknown):
            await one.reserve(record, most=1, least=1)
        assert held.amount + taken.amount <= CAP

    asyncio.run(ask())


@pytest.mark.django_db(transaction=True)
def test_a_commit_that_breaks_is_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, made, commit = DatabaseBank(holder="a", host="h"), budget(), connection.commit

    def breaks() -> None:
        commit()
        raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(connection, "commit", breaks)
    with pytest.raises(OutcomeUnknown):
        bank.grant(made.pk, "", most=10, least=1)
    monkeypatch.undo()
    assert Lease.objects.exists()
    with pytest.raises(BudgetGone):
        bank.grant(made.pk + 1, "", most=10, least=1)


@pytest.mark.django_db(transaction=True)
def test_the_pace_of_a_new_period_knows_nothing_of_what_is_under_way_in_the_old_one() -> None:
    made = budget()
    daily, weekly = (BudgetRecord(made.pk, CAP, every, "of the project p") for every in ("day", "week"))

    async def ask() -> None:
        ledger = Ledger(DatabaseBank(holder="a", host="h"))
        await Budget.objects.filter(pk=made.pk).aupdate(every="day")
        old = await ledger.reserve(daily, most=CAP // 2, least=1)
        await Budget.objects.filter(pk=made.pk).aupdate(every="week")
        new = await ledger.reserve(weekly, most=CAP // 10, least=1)
        assert ledger.periods() == [old.holding.period, new.holding.period]
        ledger.saw({old.holding.period: CAP, new.holding.period: 3})
        Reserved([old]).settle(CAP // 2)
        Reserved([new]).settle(40)
        pace = ledger.pace_of(weekly)
        assert pace is not None
        assert (pace.period, pace.spent) == (new.holding.period, 43)
        ledger.saw({old.holding.period: CAP, new.holding.period: CAP // 4})
        assert (pace := ledger.pace_of(weekly)) is not None
        assert pace.spent == CAP // 4

    asyncio.run(ask())


@pytest.mark.django_db(transaction=True)
def test_a_grant_that_nobody_waits_for_any_more_is_given_back() -> None:
    record = BudgetRecord(budget().pk, CAP, "total", "of the project p")
    asked, may_go_on = threading.Event(), threading.Event()

    class Slow(DatabaseBank):
        def grant(self, *args: Any, **fields: Any) -> Grant:
            asked.set()
            may_go_on.wait(20)
            return super().grant(*args, **fields)

    async def ask() -> None:
        bank = Slow(holder="a", host="h")
        ledger = Ledger(bank)
        waiting = asyncio.ensure_future(ledger.reserve(record, most=CAP // 2, least=1))
        await asyncio.to_thread(asked.wait, 20)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        ledger.surrender(everything=True)
        assert not ledger.returns
        may_go_on.set()
        while not ledger.periods():  # noqa: ASYNC110  the ledger tells nobody
            await asyncio.sleep(0.01)
        ledger.surrender(everything=True)
        for one in ledger.returns:
            await asyncio.to_thread(bank.give_back, one)

    asyncio.run(ask())
    assert period().leased_nano == 0


@pytest.mark.django_db
def test_a_closed_lease_lives_until_its_last_charge_came_in() -> None:
    bank = DatabaseBank(holder="a", host="h")
    grant = bank.grant(budget().pk, "", most=1000, least=1000)
    bank.give_back(Return(grant.lease, grant.amount - 300, is_last=True))
    assert Lease.objects.get().remaining_nano == 300
    book([charged(grant, 300)])
    assert not Lease.objects.exists()
    assert (period().settled_nano, period().leased_nano) == (300, 0)
    bank.give_back(Return(grant.lease, 5, is_last=True))  # too late: nothing happens
    assert period().leased_nano == 0


@pytest.mark.django_db
def test_a_living_process_keeps_its_lease_and_a_dead_ones_is_released(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open()
    made, host = budget(), host_of(tmp_path)
    DatabaseBank(holder=journal.holder, host=host).grant(made.pk, "", most=10, least=1)
    DatabaseBank(holder="dead", host=host).grant(made.pk, "", most=10, least=1)
    DatabaseBank(holder="elsewhere", host="another").grant(made.pk, "", most=10, least=1)
    assert release_dead(tmp_path, host) == 1
    assert set(Lease.objects.values_list("holder", flat=True)) == {journal.holder, "elsewhere"}
    journal.close()
    assert release_dead(tmp_path, host) == 0  # what it wrote is still to be read
    for segment in tmp_path.glob("*.journal"):
        segment.unlink()
    assert release_dead(tmp_path, host) == 1
    assert release_host("another") == 1
    assert period().leased_nano == 0


def test_a_folder_has_one_name(tmp_path: Path) -> None:
    assert host_of(tmp_path) == host_of(tmp_path) != host_of(tmp_path / "other")


class Model:
    """One process as the database sees it."""

    def __init__(self, name: str) -> None:
        self.bank = DatabaseBank(holder=name, host="h")
        self.name = name
        self.grant: Grant | None = None
        self.free = 0
        self.unbooked: list[int] = []


class AnyOrder(TestCase):
    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["take", "exchange", "spend", "book", "return", "close", "die"]),
                st.integers(0, 2),
                st.integers(1, CAP),
            ),
            max_size=40,
        )
    )
    def test_nothing_is_overdrawn_or_lost(self, steps: list[tuple[str, int, int]]) -> None:
        made = budget()
        processes = [Model(f"w{number}") for number in range(3)]
        settled = 0
        for number, (step, who, amount) in enumerate(steps):
            one = processes[who]
            match step:
                case "take":
                    lease = one.grant.lease if one.grant is not None else ""
                    one.grant = one.bank.grant(made.pk, lease, most=amount, least=min(amount, 100))
                    one.free += one.grant.amount
                case "exchange" if one.grant is not None:
                    lease, have = one.grant.lease, one.free
                    one.grant = one.bank.grant(made.pk, lease, most=amount, least=amount, have=have)
                    one.free += one.grant.amount - one.grant.handed_in
                    assert one.grant.lease != lease or one.free == one.grant.amount
                case "spend" if one.free:
                    spent = min(amount, one.free)
                    one.free -= spent
                    one.unbooked.append(spent)
                case "book" if one.unbooked and one.grant is not None:
                    settled += sum(one.unbooked)
                    book([charged(one.grant, nano) for nano in one.unbooked])
                    one.unbooked = []
                case "return" if one.free and one.grant is not None:
                    back = min(amount, one.free)
                    one.free -= back
                    one.bank.give_back(Return(one.grant.lease, back, is_last=False))
                case "close" | "die" if one.grant is not None:
                    if step == "close":
                        one.bank.give_back(Return(one.grant.lease, one.free, is_last=True))
                    if one.unbooked:
                        settled += sum(one.unbooked)
                        book([charged(one.grant, nano) for nano in one.unbooked])
                    if step == "die":
                        _release(one.name)
                    processes[who] = Model(f"w{who}-{number}")
            self._holds(settled, processes)

    def _holds(self, settled: int, processes: list[Model]) -> None:
        rows: list[Any] = list(BudgetPeriod.objects.all())
        for row in rows:
            assert row.settled_nano == settled
            assert row.settled_nano + row.leased_nano <= CAP
            assert row.leased_nano == sum(one.free + sum(one.unbooked) for one in processes)
            assert row.leased_nano == sum(lease.remaining_nano for lease in Lease.objects.all())


def _release(holder: str) -> None:
    Lease.objects.filter(holder=holder).update(host="gone")
    release_host("gone")
