"""Rate limits of several hosts, decided in Redis: one call lets a request in, another one, which nobody waits for,
says that it is over. Loaded where TOKENHUB_REDIS_URL is set, and nowhere else.

While Redis is away each host counts in its own table (`keys.limit_table`) and has its share: one of as many as Redis
knew of last. It goes on from what Redis said last, so an outage gives nobody a fresh bucket. A request under way is
known by a name whose lease its worker renews, wherever it was let in: Redis learns of it again after an outage, and
forgets it soon after its worker is dead."""

from __future__ import annotations

import asyncio
import os
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Final

from keys.limit_scripts import DEBTS, LEASE_SECONDS, REFUSAL, UNDO, Owner, Scripts, bulks, moment_of
from keys.limit_table import TABLE, Addresses, LimitTable, owner_of_address
from keys.limits import LimitExceeded, Limits, Standings
from keys.redis_pipe import Pipe, Server
from telemetry.logs import EventLogger

if TYPE_CHECKING:
    from collections.abc import Iterable

log = EventLogger(__name__)
BEAT_SECONDS: Final = LEASE_SECONDS / 3
REMEMBERED: Final = 16_384
NOBODY: Final = (0.0, 0.0, 0.0)


class Ticket:
    """One request's way past its limits. `decided` is awaited once; `close` ends it, at any moment."""

    __slots__ = (
        "_address", "_is_asked", "_is_closed", "_is_shared", "_owners", "_problem", "_shared", "_since", "_standings",
        "_tabled", "_tokens", "_waiter", "id", "moment", "name",
    )  # fmt: skip

    def __init__(self, shared: SharedLimits, owners: list[Owner], address: str, tokens: int) -> None:
        self.id = shared.fresh_id()
        self.name = bulks(self.id)
        self._shared = shared
        self._owners = owners
        self._address = address
        self._tokens = tokens
        self._since = monotonic()
        self._standings = Standings()
        self._problem: LimitExceeded | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.moment = UNDO
        """When Redis let it in, by its clock."""
        self._tabled: list[tuple[Limits, float]] = []
        """What this host's table knows of it, and what a token is worth there."""
        self._is_shared = self._is_closed = False
        self._is_asked = True

    async def decided(self) -> Standings:
        """Raises LimitExceeded."""
        if self._is_asked:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._problem is not None:
            raise self._problem
        return self._standings

    def close(self, used_tokens: int) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._is_asked:
            return  # the answer is on its way, and undoes it
        more = used_tokens - self._tokens
        if self._tabled:
            now = monotonic()
            for limits, worth in self._tabled:
                self._shared.table.leave(limits, more * worth, now, since=self._since)
        if self._problem is None:
            self._shared.left(self, self._owners, more if self._is_shared else 0, self.moment)

    # -- answers -------------------------------------------------------------------------------------------------------
    def answered(self, reply: bytes | None) -> None:
        """Redis' word; None: there will be none."""
        self._is_asked = False
        if self._is_closed:
            if reply is not None and not reply[0]:
                self._shared.left(self, self._owners, -self._tokens, UNDO)
            return
        if reply is None:
            self.ask_table()
        elif reply[0]:
            self._refused(reply)
        else:
            self._admitted(reply)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _admitted(self, reply: bytes) -> None:
        self._is_shared, self.moment = True, moment_of(reply)
        shared, now, at, standings = self._shared, monotonic(), 1, self._standings
        for one in self._owners:
            limits, debts = one.limits, DEBTS.unpack_from(reply, at)
            at += DEBTS.size
            if limits.whose:
                standings = standings.tightest(limits.standings(debts, 0.0))
                shared.remember(limits, now, debts)
        self._standings = standings
        shared.hold(self, self._owners)

    def _refused(self, reply: bytes) -> None:
        whose, which, wait = REFUSAL.unpack_from(reply)
        now, at = monotonic(), REFUSAL.size
        for one in self._owners:
            debts = DEBTS.unpack_from(reply, at)
            at += DEBTS.size
            if one.limits.whose:
                self._shared.remember(one.limits, now, debts)
            else:
                self._shared.addresses.learn(self._address, now + debts[0])
        limits = self._owners[whose - 1].limits
        self._problem = LimitExceeded(limits, which, retry_after_seconds=wait)

    # -- without Redis -------------------------------------------------------------------------------------------------
    def ask_table(self) -> None:
        """The address has been looked at by then."""
        self._is_asked = False
        shared, standings = self._shared, self._standings
        self._since = now = monotonic()
        try:
            for one in self._owners:
                if one.limits.whose:
                    limits = shared.own_share(one.limits, now)
                    standings = standings.tightest(shared.table.enter(limits, self._tokens, now).standings(now))
                    self._tabled.append((limits, 1.0))
        except LimitExceeded as problem:
            for limits, _ in self._tabled:
                shared.table.leave(limits, -self._tokens, now, undo=True)
            self._tabled, self._problem = [], problem
            return
        self._standings = standings
        shared.hold(self, self._owners)

    def adopt(self, now: float) -> None:
        """The host's own table learns of a request that Redis has let in. Its tokens were taken from the whole, so they
        are a part of one in the share, which is as long in coming back."""
        if self._tabled:
            return
        for one in self._owners:
            if one.limits.concurrent:
                limits = self._shared.own_share(one.limits, now)
                self._shared.table.adopt(limits, NOBODY, 1, now)
                whole, share = one.limits.tokens, limits.tokens
                worth = share.rate / whole.rate if whole is not None and share is not None else 1.0
                self._tabled.append((limits, worth))

    def concurrent_owners(self) -> Iterable[bytes]:
        return (one.limits.owner for one in self._owners if one.limits.concurrent)


class SharedLimits:
    """Of one worker. Belongs to its event loop."""

    def __init__(self, url: str, *, addresses: Addresses, table: LimitTable = TABLE) -> None:
        self.table = table
        self.addresses = addresses
        self._scripts = scripts = Scripts()
        self._host = table.name.hex().encode()
        self._hosts = 1
        self._pipe = Pipe(
            Server.of(url), loads=scripts.loads(), probe=scripts.beat(self._host), up=self._rose, down=self._fell
        )
        self._has_fallen = False
        self._name, self._counter = os.urandom(6).hex(), count()
        self._owners: dict[tuple[bytes, int], Owner] = {}
        self._address_owners: dict[str, Owner] = {}
        self._shares: dict[tuple[bytes, int], Limits] = {}
        self._seen: dict[bytes, tuple[float, tuple[float, ...]]] = {}
        self._held: dict[bytes, Ticket] = {}
        self._beats: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._pipe.start()
        self._beats = asyncio.get_running_loop().create_task(self._beat_on())

    async def stop(self) -> None:
        if self._beats is not None:
            self._beats.cancel()
            await asyncio.gather(self._beats, return_exceptions=True)
        await self._pipe.stop()

    @property
    def is_up(self) -> bool:
        return self._pipe.is_up

    # -- requests ------------------------------------------------------------------------------------------------------
    def ask(self, limits: tuple[Limits, ...], address: str, tokens: int) -> Ticket | None:
        """None where nothing limits it."""
        owners = [self._owner(one) for one in limits]
        if self.addresses.bucket is not None:
            owners.insert(0, self._owner_of_address(address))
        if not owners:
            return None
        ticket = Ticket(self, owners, address, tokens)
        if self._pipe.is_up:
            self._pipe.send(self._scripts.enter(owners, ticket.name, tokens), ticket.answered)
        else:
            ticket.ask_table()
        return ticket

    def note(self, address: str) -> None:
        """A request that ended before its other limits were asked. It counts, and what all hosts say of its address is
        known with the next one."""
        if self.addresses.bucket is None or not self._pipe.is_up:
            return

        def answered(reply: bytes | None) -> None:
            if reply is not None:
                (debt, _, _) = DEBTS.unpack_from(reply, REFUSAL.size if reply[0] else 1)
                self.addresses.learn(address, monotonic() + debt)

        owner = self._owner_of_address(address)
        self._pipe.send(self._scripts.enter([owner], bulks(b"-"), 0), answered)

    def left(self, ticket: Ticket, owners: list[Owner], more_tokens: int, since: bytes) -> None:
        """`since`: as `Scripts.leave` takes it."""
        self._held.pop(ticket.id, None)
        if not self._pipe.is_up:
            return
        if since != UNDO:
            owners = [one for one in owners if one.settles and (more_tokens or one.limits.concurrent)]
        if owners:
            self._pipe.send(self._scripts.leave(owners, ticket.name, more_tokens, since), _nobody)

    # -- what tickets tell ---------------------------------------------------------------------------------------------
    def fresh_id(self) -> bytes:
        return f"{self._name}{next(self._counter):x}".encode()

    def hold(self, ticket: Ticket, owners: list[Owner]) -> None:
        for one in owners:
            if one.limits.concurrent:
                self._held[ticket.id] = ticket
                return

    def remember(self, limits: Limits, now: float, debts: tuple[float, ...]) -> None:
        if len(self._seen) >= REMEMBERED:
            self._seen.clear()
        self._seen[limits.owner] = (now, debts)

    def own_share(self, limits: Limits, now: float) -> Limits:
        """This host's, with what Redis said last."""
        name = (limits.owner, limits.concurrent)
        share = self._shares.get(name)
        if share is None:
            share = self._shares[name] = limits.share(self._hosts)
        if (seen := self._seen.pop(limits.owner, None)) is not None:
            at, (second, minute, tokens) = seen
            self.table.adopt(share, (at + second, at + minute, at + tokens), 0, now)
        return share

    def _owner(self, limits: Limits) -> Owner:
        name = (limits.owner, limits.concurrent)
        owner = self._owners.get(name)
        if owner is None:
            if len(self._owners) >= REMEMBERED:
                self._owners.clear()
            owner = self._owners[name] = Owner.of(limits)
        return owner

    def _owner_of_address(self, address: str) -> Owner:
        owner = self._address_owners.get(address)
        if owner is None:
            if len(self._address_owners) >= REMEMBERED:
                self._address_owners.clear()
            owner = Owner.of(Limits(owner_of_address(address), "", second=self.addresses.whole))
            self._address_owners[address] = owner
        return owner

    # -- Redis comes and goes ------------------------------------------------------------------------------------------
    def _rose(self, hosts: int) -> None:
        self._hosts = max(self._hosts, hosts)  # after an outage others may not be back yet
        self._shares.clear()
        self.addresses.share(1)
        self._renew()
        if self._has_fallen:
            self._has_fallen = False
            log.info("limits_shared_again", hosts=hosts)

    def _fell(self, reason: str) -> None:
        if self._has_fallen:
            return
        self._has_fallen = True
        log.warning("limits_fell_back", error=reason, hosts=self._hosts)
        self._shares.clear()
        self.addresses.share(self._hosts)
        now = monotonic()
        for ticket in self._held.values():
            ticket.adopt(now)

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            if self._pipe.is_up:
                self._pipe.send(self._scripts.beat(self._host), self._counted)
                self._renew()

    def _counted(self, hosts: int | None) -> None:
        if hosts is not None:
            self._hosts = max(hosts, 1)

    def _renew(self) -> None:
        """Leases of all that are under way, whoever let them in."""
        ids: dict[bytes, list[bytes]] = {}
        for one in self._held.values():
            for owner in one.concurrent_owners():
                ids.setdefault(owner, []).append(one.id)
        for owner, some in ids.items():
            for data in self._scripts.holds(owner, some):
                self._pipe.send(data, _nobody)


def _nobody(_: object) -> None:
    """Waits for it."""
