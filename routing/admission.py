"""What one request is let in by and paid with: the limits of its client key and its project, and the budgets. Most
requests of a busy key take both from its allowance, which is why their steps stand here one after the other; all others
enter the table of limits, or ask the Redis that hosts share, and have a purse. Belongs to the event loop.

    admit ──▶ cover, before each attempt ──▶ settle, into the journal's line ──▶ leave, once that is written"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from keys.allowance import headers_of
from keys.limit_table import TABLE
from keys.limits import LimitExceeded
from routing.errors import ApiError
from routing.purse import HOUR, UNUSUAL, Purse
from telemetry.journal import Charge, Entry

if TYPE_CHECKING:
    from keys.allowance import Allowance
    from keys.auth import KeyRecord
    from keys.limit_lease import Lease
    from keys.limits import Standings
    from keys.shared_limits import Ticket
    from routing.call import Call
    from routing.runtime import Runtime
    from routing.snapshot import Target

Headers = list[tuple[bytes, bytes]]


class Admission:
    """`key`: whose limits and budgets. `allowance`: by which its limits let it in, in place of leases of its own;
    `taken`: of that one's money; `purse`: in place of that. `ticket`, `standings`: where hosts share limits.
    `is_noted`: its address's limit has nothing more to learn of it. `spent_nano`: by answers that came before the one
    that the client gets; `tokens_elsewhere`: taken by its legs."""

    __slots__ = (
        "_admitted", "_admitted_at", "_is_held", "_lines", "_tokens", "_used_tokens", "address", "allowance",
        "is_noted", "key", "purse", "runtime", "spent_nano", "standings", "started_at", "taken", "ticket",
        "tokens_elsewhere",
    )  # fmt: skip

    def __init__(self, runtime: Runtime, address: str) -> None:
        self.runtime = runtime
        self.address = address
        self.started_at = monotonic()
        self.key: KeyRecord | None = None
        self.allowance: Allowance | None = None
        self.purse: Purse | None = None
        self.standings: Standings | None = None
        self.ticket: Ticket | None = None
        self.is_noted = True
        self.taken = self.spent_nano = self.tokens_elsewhere = self._tokens = self._used_tokens = 0
        self._admitted: list[Lease] = []
        self._admitted_at = 0.0
        self._is_held = False
        """The journal's next write settles it."""
        self._lines = b""

    # -- limits --------------------------------------------------------------------------------------------------
    def admit(self, key: KeyRecord, tokens: int = 0) -> None:
        """Lets the request in, as far as the limits of its key and its project go. `tokens`: that it may take. Raises
        ApiError. Where hosts share their limits, it asks, and `admitted` must follow."""
        self._tokens = tokens
        self._admitted_at = now = monotonic()
        allowance = key.allowance
        if allowance is not None and now < allowance.until and allowance.passes > 0 and tokens <= allowance.tokens:
            allowance.passes -= 1
            allowance.tokens -= tokens
            self.allowance = allowance
            return
        if (shared := self.runtime.shared_limits) is not None:
            self.is_noted = True
            self.ticket = shared.ask(key.limits, self.address, tokens)
            return
        if allowance is not None:
            allowance.pause()
        try:
            self._admitted = TABLE.enter_all(key.limits, tokens, now)
        except LimitExceeded as problem:
            raise self._refusal(problem) from None
        self.runtime.allowances.offer(key, self._admitted, now)

    async def admitted(self) -> None:
        """Once the limits that hosts share have let the request in, where `admit` asked them. Raises ApiError."""
        if self.ticket is not None:
            try:
                self.standings = await self.ticket.decided()
            except LimitExceeded as problem:
                raise self._refusal(problem) from None

    def _refusal(self, problem: LimitExceeded) -> ApiError:
        if not problem.limits.whose:
            return self.address_refusal(problem.retry_after_seconds)
        self.runtime.metrics.rate_limited += 1
        return ApiError(
            "rate_limit_exceeded",
            f"{problem.limits.whose} is limited to {problem.what}.",
            hint="Wait as Retry-After says, or ask the operator for more.",
            retry_after_seconds=problem.retry_after_seconds,
            noted={**problem.noted(), "wait_seconds": problem.retry_after_seconds},
        )

    def address_refusal(self, retry_after_seconds: float) -> ApiError:
        self.runtime.metrics.rate_limited += 1
        told: dict[str, object] = {"limit": "address", "address": self.address, "wait_seconds": retry_after_seconds}
        if (bucket := self.runtime.addresses.bucket) is not None:
            told |= {"value": bucket.rate, "at_once": bucket.burst}
        return ApiError(
            "rate_limit_exceeded",
            "Too many requests from this address.",
            hint="Wait as Retry-After says.",
            retry_after_seconds=retry_after_seconds,
            noted=told,
        )

    def leave(self) -> None:
        """It is accounted for, and counts no more as under way."""
        if self.ticket is not None:
            self.ticket.close(self._used_tokens)
        elif self.allowance is not None:
            self.allowance.leave(self._used_tokens - self._tokens, self._admitted_at)
            self.allowance = None
        elif self._admitted:
            TABLE.leave_all(self._admitted, self._used_tokens - self._tokens, self._admitted_at)
            self._admitted = []

    def limit_headers(self) -> Headers:
        """What the client is told of its limits."""
        if self.allowance is not None:
            return self.allowance.headers()
        if self._admitted:
            return headers_of(self._admitted, monotonic())
        return self.standings.told() if self.standings is not None else []

    # -- money ---------------------------------------------------------------------------------------------------
    def cover_at_once(self, call: Call, target: Target) -> bool:
        """Of a first attempt, whose call can go as it is and is like most are, out of what this process has at hand."""
        envelope, bound = call.envelope, target.bound
        if (
            self.taken
            or self.purse is not None
            or bound is None
            or envelope.has_media
            or not UNUSUAL.isdisjoint(envelope.fields)
            or (target.may_cache_for_an_hour and HOUR in envelope.body)
        ):
            return False
        limit = envelope.max_output_tokens
        if limit is None:
            limit = target.max_output_tokens
            if limit is None:
                if envelope.n:
                    return False
                limit = 0
        most = (envelope.messages_size * bound.input + limit * envelope.n * bound.output + bound.rest) // 1000
        allowance = self.allowance
        if allowance is not None and (allowance.free >= most or self._fund(allowance, most)):
            allowance.free -= most
            self.taken = most
            return True
        purse = self._own_purse()
        held = purse.ledger.reserve_at_once(purse.budgets, most)
        if held is None:
            return False
        purse.held = held
        return True

    def _fund(self, allowance: Allowance, most: int) -> bool:
        assert self.key is not None  # noqa: S101  `admit` asked for one
        return allowance.fund(self.runtime.ledger, self.key.budgets, most)

    async def cover(self, call: Call, target: Target) -> tuple[Call, int]:
        """As a purse does."""
        return await self._own_purse().cover(call, target)

    def over(self, amount: int) -> None:
        self._own_purse().over(amount)

    def beside(self) -> Purse:
        return self._own_purse()

    def _own_purse(self) -> Purse:
        """With what was taken of the allowance."""
        if self.purse is None:
            key, runtime = self.key, self.runtime
            assert key is not None  # noqa: S101  `admit` asked for one
            self.purse = Purse(ledger=runtime.ledger, budgets=key.budgets, fail_open=runtime.money_fail_open)
            self.purse.spent = self.spent_nano
            if self.taken and self.allowance is not None:
                self.purse.held, self.taken = self.allowance.carve(self.taken), 0
        return self.purse

    def settle(self, cost: int) -> list[Charge]:
        """Ends what is reserved. The charges must go into the journal before the answer's end goes out."""
        if self.purse is not None:
            return self.purse.settle(cost)
        if self.taken and self.allowance is not None:
            taken, self.taken = self.taken, 0
            return self.allowance.settle(taken, cost)
        return []

    # -- both ----------------------------------------------------------------------------------------------------
    def complete(self, entry: Entry) -> None:
        """Ahead of the answer, once the journal takes its line: settles what the entry cost; `leave`, where no ticket
        does it."""
        allowance = self.allowance
        if allowance is None or allowance.is_closed:
            entry.charges = self.settle(entry.cost_nano or 0)
            if self.ticket is None:
                self.leave()
            return
        allowance.ended += 1  # what the two do, most of the time
        allowance.tokens += self._tokens - self._used_tokens
        taken, cost = self.taken, entry.cost_nano
        if cost and cost <= taken:
            allowance.free += taken - cost
            allowance.spent += cost
            if (place := allowance.place) is not None:
                lease, period = place
                entry.charges = [Charge(lease, period, cost)]
            else:
                entry.charges = allowance.charges(cost)
        elif taken or self.purse is not None:
            entry.charges = self.settle(cost or 0)
