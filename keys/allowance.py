"""What the next requests of a busy client key may take without asking each of its limits and budgets: for a few
milliseconds, a part of what this process took ahead of its limits (`limit_lease`) and holds of its budgets (`ledger`).
What is left then goes back to them, and so does, later, what is under way. Belongs to the event loop.

    lease ──passes, tokens──▶ Allowance ──▶ requests: one check, whatever number of limits and budgets
    holding ──reservation───▶

A key that asks seldom, or is near a limit or the end of a budget, gets none: each of its requests asks for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from math import inf
from typing import Final

from keys.auth import BudgetRecord, KeyRecord
from keys.ledger import Ledger, Reservation
from keys.limit_lease import Lease
from keys.limit_table import LimitTable
from keys.limits import NOTHING, Standings
from telemetry.journal import Charge

SECONDS: Final = 0.01  # so old may be what clients are told, who ask a thousand times a second
BUSY_SECONDS: Final = 0.001  # who asks its limits again so soon is busy
LEAST: Final = 8  # requests
MOST: Final = 128
USED: Final = 4  # by fewer, it costs more than it spares
PART: Final = 4  # of what a budget has at hand, no more than one part
Later = Callable[[float, Callable[[], None]], object]


class Allowance:
    """`passes`, `tokens`, `free` (nano-dollars): left of it. `ended`: of its requests, `spent`: by them, as far as
    leases and holdings do not know yet. `used`: passes, between its last renewal and pause. `lines`: what its clients
    are told of their limits. `until`: it must be renewed then. Holds one part of its leases, as long as they last, and
    ends with them."""

    __slots__ = (
        "_drawn", "_table", "ended", "free", "is_closed", "leases", "lines", "passes", "place", "places", "reserved",
        "spent", "tokens", "until", "used",
    )  # fmt: skip

    def __init__(self, table: LimitTable, leases: list[Lease]) -> None:
        self._table = table
        self.leases = leases
        self.is_closed = False
        self.lines = b""
        self.until = 0.0
        self.passes = self.ended = self.free = self.spent = self.used = self._drawn = 0
        self.tokens = 0.0
        self.reserved: list[Reservation] = []
        self.places: list[tuple[str, int]] = []
        """Lease and period of each."""
        self.place: tuple[str, int] | None = None
        """Of the only one."""

    def pause(self) -> None:
        """Until it is renewed: its leases have all of it back."""
        self.used = self._drawn - self.passes
        self._drawn = 0
        tokens = self.tokens if self.tokens < inf else 0.0
        for lease in self.leases:
            self._table.take_back(lease, self.passes, tokens, self.ended)
        self.passes = self.ended = 0
        self.tokens = 0.0
        self.until = 0.0

    def renew(self, now: float) -> None:
        """Its leases must last."""
        for lease in self.leases:
            lease.fill()
        self.lines = lines_of(self.leases, now)
        self.passes, self.tokens = MOST, inf  # tokens stay so where nothing limits them
        for lease in self.leases:
            part = 2 if lease.limits.project else 1  # a project's are there for its other keys, too
            self.passes = min(self.passes, lease.passes // part)
            self.tokens = min(self.tokens, lease.tokens / part)
        for lease in self.leases:
            lease.passes -= self.passes
            lease.tokens -= self.tokens if self.tokens < inf else 0.0
        self.until = min(now + SECONDS, *(lease.until for lease in self.leases))
        self._drawn = self.passes

    def close(self) -> None:
        self.pause()
        self._give_back(self.free, self.spent)
        self.is_closed = True
        self.free = self.spent = 0

    # -- money ---------------------------------------------------------------------------------------------------------
    def fund(self, ledger: Ledger, budgets: Sequence[BudgetRecord], amount: int) -> bool:
        """For as many requests as may come, each of that amount, out of what this process has at hand. Whether there is
        enough for one."""
        if self.is_closed:
            return False
        whole = min(amount * (self.passes + 1), ledger.at_hand(budgets) // PART)
        held = ledger.reserve_at_once(budgets, whole) if whole >= amount * LEAST else None
        if held is None:
            return False
        if not self.reserved:
            self.reserved = held
            self.places = [(one.holding.lease, one.holding.period) for one in held]
            self.place = self.places[0] if len(self.places) == 1 else None
        elif [one.holding for one in held] == [one.holding for one in self.reserved]:
            for one, more in zip(self.reserved, held, strict=True):
                one.amount += more.amount
        else:  # of another period, or lease: the old ones must end first
            for one in held:
                one.holding.free += whole
            return False
        self.free += whole
        return True

    def settle(self, amount: int, cost: int) -> list[Charge]:
        """Of a request that took the amount. The charges must go into the journal before the answer's end goes out."""
        charged = cost if cost < amount else amount
        if not self.is_closed:
            self.free += amount - charged
            self.spent += charged
        else:
            self._give_back(amount - charged, charged)
        if not cost:
            return []
        return self.charges(charged, cost - charged)

    def charges(self, nano: int, overrun: int = 0) -> list[Charge]:
        return [Charge(lease, period, nano, overrun) for lease, period in self.places]

    def carve(self, amount: int) -> list[Reservation]:
        """In place of what a request took: reservations of its own."""
        for one in self.reserved:
            one.amount -= amount
        return [Reservation(one.account, one.holding, amount) for one in self.reserved]

    def _give_back(self, free: int, spent: int) -> None:
        for one in self.reserved:
            one.amount -= free + spent
            one.holding.free += free
            one.holding.spent += spent

    # -- limits --------------------------------------------------------------------------------------------------------
    def leave(self, more_tokens: float, since: float) -> None:
        """One of its requests, let in at `since`, is over, and took so many more tokens than was said."""
        if self.is_closed:
            self._table.leave_all(self.leases, more_tokens, since)
        else:
            self.ended += 1
            self.tokens -= more_tokens

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`lines`, one by one."""
        lines = (line.partition(b": ") for line in self.lines.splitlines())
        return [(name, value) for name, _, value in lines if name]


class Allowances:
    """Of one process. `later` calls something after so many seconds."""

    def __init__(self, table: LimitTable, later: Later) -> None:
        self._table = table
        self._later = later
        self._open: dict[int, KeyRecord] = {}

    def offer(self, key: KeyRecord, leases: list[Lease], now: float) -> None:
        """To the requests after one that its limits have let in, which asked for itself. A busy key gets an allowance,
        and keeps it while it is. The one that it has must be paused by then."""
        is_busy, one = True, key.allowance
        for lease in leases:
            is_busy = is_busy and now - lease.asked_at < BUSY_SECONDS and lease.passes >= 2 * LEAST
            lease.asked_at = now
        if one is not None:
            if one.leases == leases and one.used >= USED:
                one.renew(now)
            else:
                self._close(key, one)
        elif is_busy:
            one = Allowance(self._table, leases)
            one.renew(now)
            key.grant(one)
            self._open[id(key)] = key
            self._later(min(lease.until for lease in leases) - now, partial(self._close, key, one))

    def _close(self, key: KeyRecord, one: Allowance) -> None:
        if key.allowance is one:
            one.close()
            key.grant(None)
            del self._open[id(key)]

    def close_all(self) -> None:
        for key in list(self._open.values()):
            if key.allowance is not None:
                self._close(key, key.allowance)


def headers_of(leases: Sequence[Lease], now: float) -> list[tuple[bytes, bytes]]:
    """What a client is told of its limits: of whoever has the least left."""
    return reduce(Standings.tightest, (one.standings(now) for one in leases), NOTHING).told()


def lines_of(leases: Sequence[Lease], now: float) -> bytes:
    """The same as the last lines of an answer's head."""
    if len(leases) == 1:
        return leases[0].lines(now)
    return b"".join(b"%b: %b\r\n" % header for header in headers_of(leases, now)) + b"\r\n"
