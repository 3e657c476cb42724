"""The money of a run. Each leg reserves from the budgets of its key, as any request does, and from the ceiling that the
client set for the whole run, if it set one: together, the legs never hold more than that. Belongs to the event loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from keys.auth import BudgetRecord
from keys.ledger import BudgetExceeded, Ledger
from routing.purse import Purse, limited
from routing.snapshot import Target
from telemetry.journal import Charge

if TYPE_CHECKING:
    from routing.call import Call


class Ceiling:
    """What a run may cost, in nano-dollars. `share`: of each of the legs that are called side by side."""

    def __init__(self, amount: int, spent: int) -> None:
        self._budget = BudgetRecord(0, amount, "run", "this plan")
        self.spent = spent
        self._held: dict[LegPurse, int] = {}
        self.share = 0

    @property
    def left(self) -> int:
        return self._budget.amount - self.spent - sum(self._held.values())

    def divide(self, legs: int) -> None:
        self.share = max(self.left, 0) // legs

    def hold(self, purse: LegPurse, *, most: int, least: int) -> int:
        """All that the purse may spend from now on. Raises BudgetExceeded."""
        own = self._held.get(purse, 0)
        free = own + self.left
        if free < least:
            raise BudgetExceeded(self._budget, spent=self.spent, resets_at=inf)
        self._held[purse] = max(own, min(most, free, max(least, self.share)))
        return self._held[purse]

    def settle(self, purse: LegPurse, cost: int) -> None:
        self._held.pop(purse, None)
        self.spent += cost


class LegPurse(Purse):
    """Of one leg. `max_tokens`: of its answer, where the client set no limit."""

    def __init__(
        self,
        ledger: Ledger,
        budgets: Sequence[BudgetRecord],
        *,
        fail_open: bool,
        ceiling: Ceiling | None,
        max_tokens: int | None,
    ) -> None:
        super().__init__(ledger, budgets, fail_open=fail_open)
        self._ceiling = ceiling
        self._max_tokens = max_tokens

    async def cover(self, call: Call, target: Target) -> tuple[Call, int]:
        if self._max_tokens is not None and call.envelope.max_output_tokens is None:
            call = replace(limited(call, target, self._max_tokens), lowered_to=None)
        if not self._budgets and self._ceiling is None:
            return call, 0
        return await super().cover(call, target)

    async def _reserve(self, *, most: int, least: int) -> int:
        if self._ceiling is not None:
            most = self._ceiling.hold(self, most=most, least=least)
        return await super()._reserve(most=most, least=least)

    def settle(self, cost: int) -> list[Charge]:
        if self._ceiling is not None:
            self._ceiling.settle(self, cost)
        return super().settle(cost)
