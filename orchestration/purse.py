"""The money of a run. Each leg reserves from the budgets of its key, as any request does, and from the ceiling that the
client set for the whole run, if it set one: together, the legs never hold more than that. Belongs to the event loop.

What a leg reserves is far more than it will cost. So one that cannot be paid beside others waits until one of them is
settled, and tries again: where money is short, voters are asked one after the other."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from keys.auth import BudgetRecord
from keys.ledger import BudgetExceeded
from routing.purse import Purse, limited
from routing.snapshot import Target
from telemetry.journal import Charge

if TYPE_CHECKING:
    from routing.call import Call


class Funds:
    """Of one run. `ceiling`: what it may cost, in nano-dollars. `share`: of that, of each of the legs that are called
    side by side."""

    def __init__(self, ceiling: int | None, spent: int) -> None:
        self.has_ceiling = ceiling is not None
        self._ceiling = BudgetRecord(0, ceiling or 0, "run", "this plan")
        self._spent = spent
        self._share = 0
        self._held: dict[LegPurse, int] = {}
        self._under_way: set[LegPurse] = set()
        self._settled = asyncio.Event()

    @property
    def _left(self) -> int:
        return self._ceiling.amount - self._spent - sum(self._held.values())

    def divide(self, legs: int) -> None:
        self._share = max(self._left, 0) // legs

    def hold(self, purse: LegPurse, *, most: int, least: int) -> int:
        """All that the purse may spend from now on. Raises BudgetExceeded."""
        if not self.has_ceiling:
            return most
        own = self._held.get(purse, 0)
        free = own + self._left
        if free < least:
            raise BudgetExceeded(self._ceiling, needed=least, spent=self._spent, resets_at=inf)
        self._held[purse] = max(own, min(most, free, max(least, self._share)))
        return self._held[purse]

    def began(self, purse: LegPurse) -> None:
        self._under_way.add(purse)

    async def another_settled(self, purse: LegPurse) -> bool:
        """Once another leg has; False at once when none is under way. Whoever waits is not under way."""
        self._under_way.discard(purse)
        if not self._under_way:
            return False
        await self._settled.wait()
        return True

    def settle(self, purse: LegPurse, cost: int) -> None:
        self._under_way.discard(purse)
        self._held.pop(purse, None)
        self._spent += cost
        self._settled.set()
        self._settled = asyncio.Event()


class LegPurse(Purse, eq=False, kw_only=True):
    """Of one leg. `max_tokens`: of its answer, where the client set no limit."""

    funds: Funds
    max_tokens: int | None = None

    async def cover(self, call: Call, target: Target) -> tuple[Call, int]:
        if self.max_tokens is not None and call.envelope.max_output_tokens is None:
            call = replace(limited(call, target, self.max_tokens), lowered_to=None)
        if not self.budgets and not self.funds.has_ceiling:
            return call, 0
        while True:
            try:
                funded = await super().cover(call, target)
            except BudgetExceeded:
                if not await self.funds.another_settled(self):
                    raise
            else:
                self.funds.began(self)
                return funded

    async def _reserve(self, *, most: int, least: int) -> int:
        return await super()._reserve(most=self.funds.hold(self, most=most, least=least), least=least)

    def settle(self, cost: int) -> list[Charge]:
        self.funds.settle(self, cost)
        return super().settle(cost)
