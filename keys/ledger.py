"""What one process may still spend. A budget's row in the database is the only authority; this process takes leases
from it, reserves and settles in memory, and gives back what it does not need. Amounts are nano-dollars. Belongs to the
event loop; knows no database: `bank` does, in threads.

    bank ──lease──▶ Holding: granted = free + reserved + spent
    reserve: free → reserved         before a call, its upper bound
    settle:  reserved → spent, free  after it, by a charge that the journal carries to the database

Whatever happens to the process, granted is the most that it can have spent of the budget."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from time import monotonic, time
from typing import Final, NamedTuple, Protocol

import msgspec
from django.db.utils import DatabaseError

from keys.auth import BudgetRecord
from telemetry.journal import Charge

PATIENCE_SECONDS: Final = 1.5  # for other processes to give back what they hold of a budget that is nearly spent
PAUSE_SECONDS: Final = 0.1
REFUSED_SECONDS: Final = 1.0  # for so long nobody asks the database again about an empty budget
IDLE_SECONDS: Final = 10.0


@dataclass(slots=True, eq=False)
class Holding:
    """This process's lease of one period of a budget. `ends_at`, `used_at`: Unix time."""

    lease: str
    period: int
    starts_at: float
    ends_at: float
    granted: int = 0
    free: int = 0
    spent: int = 0
    used_at: float = 0.0

    @property
    def reserved(self) -> int:
        return self.granted - self.free - self.spent

    def grow(self, amount: int) -> None:
        """Negative: some that is free goes."""
        self.granted += amount
        self.free += amount


class Grant(NamedTuple):
    """`amount`: for the lease, 0 where that is not enough. `handed_in`: what it had before, and is in it. `remaining`:
    of the lease, with that and with what was charged and not booked yet. `spent`: settled by now; `elsewhere`: in
    leases of other processes."""

    lease: str
    period: int
    starts_at: float
    ends_at: float
    amount: int
    handed_in: int
    remaining: int
    spent: int
    elsewhere: int


class Pace(NamedTuple):
    """How a budget stands: nano-dollars spent, as of some seconds ago, and which share of its period is over."""

    period: int
    spent: int
    elapsed: float


class Return(NamedTuple):
    """Of a lease, to the bank. `is_last`: it is used no more."""

    lease: str
    amount: int
    is_last: bool


class Bank(Protocol):
    """The database. Each method runs in a thread, and raises what Django raises; `grant` also BudgetGone."""

    def grant(self, budget_id: int, lease: str, *, most: int, least: int, have: int) -> Grant: ...

    def give_back(self, one: Return) -> None: ...


class OutcomeUnknown(DatabaseError):
    """Whether the bank did it, nobody can say: the connection broke while it committed."""


class BudgetGone(Exception):
    """There is no such budget any more: nobody has to heed it."""


class BudgetExceeded(Exception):
    """`needed`: the least that it takes. `resets_at`: Unix time; infinite for a budget without periods."""

    def __init__(self, budget: BudgetRecord, *, needed: int, spent: int, resets_at: float) -> None:
        super().__init__(budget.whose)
        self.budget = budget
        self.needed = needed
        self.spent = spent
        self.resets_at = resets_at


@dataclass(slots=True, eq=False)
class _Account:
    """`holdings`: the newest last; older ones wait for their reservations to end. `at_hand`: the newest, while nobody
    waits for an amount: whoever comes later waits behind."""

    record: BudgetRecord
    holdings: list[Holding] = field(default_factory=list)
    at_hand: Holding | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    refused_until: float = 0.0
    refused: int = 0
    """Of such an amount, and more, the bank had nothing; for less it may have."""
    asking: int = 0
    """Questions to the bank that are under way, even if nobody waits for them any more."""
    period: int = 0
    """The newest, which `spent` and `ends_at` are of."""
    elsewhere: int = 0
    """Spent of it, but for what the holdings have."""
    ends_at: float = inf
    is_short: bool = False
    """Somebody waits for an amount."""

    @property
    def is_busy(self) -> bool:
        return self.asking > 0 or self.lock.locked()

    @property
    def spent(self) -> int:
        return self.elsewhere + self._spent_here()

    @spent.setter
    def spent(self, amount: int) -> None:
        self.elsewhere = amount - self._spent_here()

    def _spent_here(self) -> int:
        return sum(one.spent for one in self.holdings if one.period == self.period)

    def drop(self, holding: Holding) -> None:
        if holding.period == self.period:
            self.elsewhere += holding.spent
        self.holdings.remove(holding)
        self.look()

    def look(self) -> None:
        """After what is at hand may have changed."""
        self.at_hand = self.holdings[-1] if self.holdings and not self.is_short else None


class Reservation(msgspec.Struct, eq=False):
    """An amount of one holding."""

    account: _Account
    holding: Holding
    amount: int

    @property
    def budget(self) -> BudgetRecord:
        return self.account.record


class Reserved(msgspec.Struct, eq=False):
    """What one request holds of each of its budgets."""

    held: list[Reservation] = []

    def settle(self, cost: int) -> list[Charge]:
        """Ends the reservations. The charges must go into the journal before the answer's end goes out."""
        held, self.held = self.held, []
        charges = []
        for one in held:
            holding, amount = one.holding, one.amount
            charged = cost if cost < amount else amount
            holding.free += amount - charged
            holding.spent += charged
            if cost:
                charges.append(Charge(holding.lease, holding.period, charged, cost - charged))
        return charges


class Ledger:
    """One per process."""

    def __init__(self, bank: Bank, *, clock: Callable[[], float] = time) -> None:
        self._bank = bank
        self._clock = clock
        self._accounts: dict[int, _Account] = {}
        self.collect: Callable[[], None] = lambda: None
        """Brings back what allowances hold and do not need."""
        self.returns: deque[Return] = deque()

    def reserve_at_once(self, budgets: Iterable[BudgetRecord], amount: int) -> list[Reservation] | None:
        """All of the amount of each, out of what this process has; None, and nothing is reserved, where it must ask for
        more: `reserve` does."""
        held: list[Reservation] = []
        now = self._clock()
        for budget in budgets:
            account = self._accounts.get(budget.id)
            if (
                account is None
                or (holding := account.at_hand) is None
                or holding.free < amount
                or now >= holding.ends_at
                or account.record is not budget
            ):
                for one in held:
                    one.holding.free += amount
                return None
            holding.free -= amount
            holding.used_at = now
            held.append(Reservation(account, holding, amount))
        return held

    def at_hand(self, budgets: Iterable[BudgetRecord]) -> int:
        """The least that this process has of any of them."""
        found = (self._accounts.get(budget.id) for budget in budgets)
        return min((one.at_hand.free if one is not None and one.at_hand is not None else 0 for one in found), default=0)

    async def reserve(self, budget: BudgetRecord, *, most: int, least: int) -> Reservation:
        """Between `least` and `most`. Raises BudgetExceeded, BudgetGone, and what the bank raises."""
        account = self._account(budget)
        holding = self._current(account)
        if holding is None or holding.free < most or account.is_short:
            holding = await self._more(account, most, least)
        amount = min(most, holding.free)
        holding.free -= amount
        holding.used_at = self._clock()
        return Reservation(account, holding, amount)

    async def raise_to(self, one: Reservation, *, most: int, least: int) -> None:
        """The same reservation, larger, within the period that it began in. Raises as `reserve`; then it is what it
        was."""
        account, holding = one.account, one.holding
        if one.amount >= most:
            return
        if holding.free < most - one.amount and holding is self._current(account):
            await self._more(account, most - one.amount, max(least - one.amount, 0))
        more = min(most - one.amount, holding.free)
        if one.amount + more < least:
            raise _exceeded(account, least)
        holding.free -= more
        one.amount += more

    def lower_to(self, one: Reservation, amount: int) -> None:
        if amount < one.amount:
            one.holding.free += one.amount - amount
            one.amount = amount

    def pace_of(self, budget: BudgetRecord) -> Pace | None:
        """None where nobody knows yet, and for a budget without periods."""
        account = self._accounts.get(budget.id)
        holding = self._current(account) if account is not None else None
        if account is None or holding is None or holding.ends_at == inf:
            return None
        whole = holding.ends_at - holding.starts_at
        return Pace(holding.period, account.spent, (self._clock() - holding.starts_at) / whole)

    # -- giving back ---------------------------------------------------------------------------------------------------
    def surrender(self, *, recalled: Collection[int] = (), everything: bool = False) -> None:
        """Puts into `returns` what this process needs no more: all that is free of leases that nobody used for a while,
        of periods that are over, and of those that are recalled. Until it is handed to the bank it is nobody's."""
        self.collect()
        now = self._clock()
        for account in self._accounts.values():
            for holding in list(account.holdings):
                is_over = everything or now >= holding.ends_at or holding is not account.holdings[-1]
                is_over = is_over or now - holding.used_at > IDLE_SECONDS
                if not is_over and (holding.period not in recalled or account.is_busy):
                    continue  # who waits for more hands in what there is with each question
                is_last = is_over and not holding.reserved and not account.is_busy
                if is_last:
                    account.drop(holding)
                if (free := holding.free) or is_last:
                    holding.grow(-free)
                    account.refused_until = 0.0  # the bank may have more than when it refused
                    self.returns.append(Return(holding.lease, free, is_last))

    def periods(self) -> list[int]:
        """Of which this process holds a lease."""
        return [one.period for account in list(self._accounts.values()) for one in list(account.holdings)]

    def saw(self, spent: Mapping[int, int]) -> None:
        """What is settled of periods by now. Of one that is over, requests may still be under way."""
        for account in self._accounts.values():
            account.spent = max(account.spent, spent.get(account.period, 0))

    # -- more of a budget ----------------------------------------------------------------------------------------------
    def _account(self, budget: BudgetRecord) -> _Account:
        found = self._accounts.get(budget.id)
        if found is None:
            found = self._accounts[budget.id] = _Account(budget)
        elif found.record is not budget:
            if (found.record.amount, found.record.every) != (budget.amount, budget.every):
                found.refused_until = 0.0
            if found.record.every != budget.every:
                for holding in found.holdings:
                    holding.ends_at = 0.0
            found.record = budget
        return found

    def _current(self, account: _Account) -> Holding | None:
        holding = account.holdings[-1] if account.holdings else None
        return holding if holding is not None and self._clock() < holding.ends_at else None

    async def _more(self, account: _Account, most: int, least: int) -> Holding:
        """The current holding, with at least `least` free."""
        async with account.lock:
            try:
                return await self._wait_for(account, most, least)
            finally:
                account.is_short = False
                account.look()

    async def _wait_for(self, account: _Account, most: int, least: int) -> Holding:
        until = monotonic() + PATIENCE_SECONDS
        while True:
            self.collect()
            holding = self._current(account)
            if holding is not None and holding.free >= most:
                return holding
            if monotonic() >= account.refused_until or least < account.refused:
                holding, may_come = await self._ask(account, most, most)
                if holding.free >= most:
                    return holding
                if may_come and monotonic() < until:
                    account.is_short = True
                    account.look()
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                if least < most:
                    holding, _ = await self._ask(account, most, least)
                if holding.free < least:
                    account.refused_until, account.refused = monotonic() + REFUSED_SECONDS, least
            if holding is not None and holding.free >= least:
                return holding
            raise _exceeded(account, least)

    async def _ask(self, account: _Account, most: int, least: int) -> tuple[Holding, bool]:
        """The bank, for at least `least`. Whether more may come soon. A grant is booked even if nobody waits for it
        any more."""
        return await asyncio.shield(asyncio.ensure_future(self._exchange(account, most, least)))

    async def _exchange(self, account: _Account, most: int, least: int) -> tuple[Holding, bool]:
        holding = self._current(account)
        lease, have = (holding.lease, max(holding.free, 0)) if holding is not None else ("", 0)
        on_its_way = self._on_its_way(account)
        if holding is not None:
            holding.grow(-have)  # nobody may spend it in the meantime
        gone = 0
        account.asking += 1
        try:
            grant = await asyncio.to_thread(
                self._bank.grant, account.record.id, lease, most=most, least=least, have=have
            )
            gone = grant.handed_in
        except OutcomeUnknown:
            gone = have  # it may be another's by now; what is not comes back when this process has ended
            raise
        except BudgetGone:
            if self._accounts.get(account.record.id) is account:
                del self._accounts[account.record.id]
            raise
        finally:
            account.asking -= 1
            if holding is not None:
                holding.grow(have - gone)
        holding = self._book(account, grant, on_its_way)
        may_come = grant.elsewhere > 0 or on_its_way > 0 or any(one.reserved for one in account.holdings)
        return holding, may_come

    def _on_its_way(self, account: _Account) -> int:
        """What was surrendered of the account's leases, and the bank may not have yet."""
        leases = {one.lease for one in account.holdings}
        return sum(one.amount for one in tuple(self.returns) if one.lease in leases)

    def _book(self, account: _Account, grant: Grant, on_its_way: int) -> Holding:
        holding = account.holdings[-1] if account.holdings else None
        if holding is None or holding.lease != grant.lease:
            holding = Holding(grant.lease, grant.period, grant.starts_at, grant.ends_at)
            account.holdings.append(holding)
            account.look()
        holding.grow(grant.amount)
        holding.used_at = self._clock()
        booked = min(max(holding.granted + on_its_way - grant.remaining, 0), holding.spent)
        account.period, account.ends_at = grant.period, grant.ends_at
        account.spent = grant.spent + holding.spent - booked
        return holding


def _exceeded(account: _Account, needed: int) -> BudgetExceeded:
    return BudgetExceeded(account.record, needed=needed, spent=account.spent, resets_at=account.ends_at)
