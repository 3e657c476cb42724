"""The shared limits' scripts for Redis, and the commands that call them. The arithmetic is that of `keys.limits`, on
Redis' own clock. Knows no connection.

Of an owner Redis keeps two keys: `…:b`, when it was written, what each bucket lacks then, in seconds until it is full,
and when somebody last found the tokens' full; and `…:c`, a sorted set of its requests under way, by the end of their
leases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha1
from struct import Struct
from typing import Final, NamedTuple

from keys.limits import Limits

PREFIX: Final = b"tokenhub:limits:"
LEASE_SECONDS: Final = 6.0  # for so long a request counts that its worker does not speak of
IDS_AT_ONCE: Final = 2_000
_SPEC: Final = Struct("<ddddddI")
DEBTS: Final = Struct("<ddd")
REFUSAL: Final = Struct("<BBd")
"""The first byte: whose limit it is, from 1; 0 where all let it in. Then which limit, and how long to wait. An answer
of either kind goes on with each owner's `DEBTS`, and ends with its moment."""
UNDO: Final = b""
"""In place of the moment at which a request was let in: it was none."""
REDIS_CLOCK: Final = "local time = redis.call('TIME')\nlocal now = time[1] + time[2] / 1e6"

_STATE: Final = """
local function state(key)
  local held = redis.call('GET', key)
  if not held then return {0, 0, 0, 0} end
  local at, second, minute, tokens = struct.unpack('<dddd', held)
  local full = #held > 32 and struct.unpack('<d', held, 33) or 0  -- 32: by a version before
  local passed = math.max(now - at, 0)
  return {math.max(second - passed, 0), math.max(minute - passed, 0), math.max(tokens - passed, 0), full}
end
local function keep(key, debts)
  local longest = math.max(debts[1], debts[2], debts[3])
  local packed = struct.pack('<ddddd', now, debts[1], debts[2], debts[3], debts[4])
  redis.call('SET', key, packed, 'PX', string.format('%.0f', math.ceil(longest * 1000) + 1000))
end
"""
# all are looked at before anything is taken; whoever makes the request wait longest is named; the clock ticks in µs
_ENTER: Final = """
local id, lease, tokens = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local owners, longest, whose, which = #ARGV - 3, 0, 0, 0
local before, after, most = {}, {}, {}
for i = 1, owners do
  local spec = {struct.unpack('<ddddddI4', ARGV[3 + i])}
  local debts = state(KEYS[2 * i - 1])
  local taken = {0, 0, 0, debts[3] > 0 and debts[4] or now}
  most[i] = spec[7]
  if most[i] > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[2 * i], '-inf', now)
    if redis.call('ZCARD', KEYS[2 * i]) >= most[i] and longest < 1 then longest, whose, which = 1, i, 0 end
  end
  for b = 1, 3 do
    local rate, burst = spec[2 * b - 1], spec[2 * b]
    if rate > 0 then
      local amount = b == 3 and tokens or 1
      local over = debts[b] + math.min(amount, burst) / rate - burst / rate
      if over > 1e-6 and over > longest then longest, whose, which = over, i, b end
      taken[b] = debts[b] + amount / rate
    end
  end
  before[i], after[i] = debts, taken
end
local answer = whose > 0 and struct.pack('<BBd', whose, which, longest) or struct.pack('<B', 0)
local told = whose > 0 and before or after
for i = 1, owners do
  answer = answer .. struct.pack('<ddd', told[i][1], told[i][2], told[i][3])
  if whose == 0 then
    keep(KEYS[2 * i - 1], after[i])
    if most[i] > 0 then
      redis.call('ZADD', KEYS[2 * i], now + lease, id)
      redis.call('PEXPIRE', KEYS[2 * i], lease * 2000)
    end
  end
end
return answer .. struct.pack('<d', now)
"""
# what was not used comes back unless the bucket was full in the meantime: then it is there already
_LEAVE: Final = """
local id, more, undo = ARGV[1], tonumber(ARGV[2]), ARGV[3] == ''
local since = undo and now or struct.unpack('<d', ARGV[3])
for i = 1, #ARGV - 3 do
  local spec = {struct.unpack('<ddddddI4', ARGV[3 + i])}
  if spec[7] > 0 then redis.call('ZREM', KEYS[2 * i], id) end
  if undo or (spec[5] > 0 and more ~= 0) then
    local debts = state(KEYS[2 * i - 1])
    if more > 0 and debts[3] <= 0 then debts[4] = now end
    if spec[5] > 0 and (more > 0 or undo or debts[4] <= since) then
      debts[3] = math.max(debts[3] + more / spec[5], 0)
    end
    if undo and spec[1] > 0 then debts[1] = math.max(debts[1] - 1 / spec[1], 0) end
    if undo and spec[3] > 0 then debts[2] = math.max(debts[2] - 1 / spec[3], 0) end
    keep(KEYS[2 * i - 1], debts)
  end
end
return 0
"""
_HOLD: Final = """
local lease = tonumber(ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], now + lease, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], lease * 2000)
return 0
"""
_BEAT: Final = """
local lease = tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + lease, ARGV[1])
redis.call('PEXPIRE', KEYS[1], lease * 2000)
return redis.call('ZCARD', KEYS[1])
"""


class Script:
    def __init__(self, body: str, clock: str) -> None:
        self.text = f"{clock}\n{body}".encode()
        self.digest = sha1(self.text, usedforsecurity=False).hexdigest().encode()  # what Redis calls it by
        self.heads = [
            b"*%d\r\n" % (6 + 3 * owners) + bulks(b"EVALSHA", self.digest, b"%d" % (2 * owners)) for owners in range(5)
        ]
        """Of calls with three arguments of their own, by the number of owners: an address, a key, a project."""


class Owner(NamedTuple):
    """Limits, rendered once. `settles`: whether the end of a request matters to them."""

    limits: Limits
    keys: bytes
    spec: bytes
    settles: bool

    @classmethod
    def of(cls, limits: Limits) -> Owner:
        buckets = (limits.second, limits.minute, limits.tokens)
        numbers = [number for one in buckets for number in ((one.rate, one.burst) if one is not None else (0.0, 0.0))]
        name = PREFIX + limits.owner.hex().encode()
        keys = bulks(name + b":b", name + b":c")
        settles = bool(limits.concurrent or limits.tokens)
        return cls(limits, keys, bulks(_SPEC.pack(*numbers, limits.concurrent)), settles)


def bulks(*parts: bytes) -> bytes:
    return b"".join([b"$%d\r\n%b\r\n" % (len(one), one) for one in parts])


def _number(value: int) -> bytes:
    digits = b"%d" % value
    return b"$%d\r\n%b\r\n" % (len(digits), digits)


def moment_of(answer: bytes) -> bytes:
    """Redis' own, of an answer to `enter`: for `leave`."""
    return answer[-8:]


def command(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + bulks(*parts)


class Scripts:
    """`clock`: Lua that sets `now`, in seconds."""

    def __init__(self, clock: str = REDIS_CLOCK, lease_seconds: float = LEASE_SECONDS) -> None:
        self._enter, self._leave = Script(_STATE + _ENTER, clock), Script(_STATE + _LEAVE, clock)
        self._hold, self._beat = Script(_HOLD, clock), Script(_BEAT, clock)
        self._lease = b"%d" % lease_seconds
        self._lease_bulk = bulks(self._lease)

    def loads(self) -> list[bytes]:
        return [command(b"SCRIPT", b"LOAD", one.text) for one in (self._enter, self._leave, self._hold, self._beat)]

    def enter(self, owners: Sequence[Owner], name: bytes, tokens: int) -> bytes:
        """`name`: the request's, by `bulks`."""
        keys, specs = b"".join([one.keys for one in owners]), b"".join([one.spec for one in owners])
        return b"".join((self._enter.heads[len(owners)], keys, name, self._lease_bulk, _number(tokens), specs))

    def leave(self, owners: Sequence[Owner], name: bytes, more_tokens: int, since: bytes) -> bytes:
        """`since`: the moment of its entry, or UNDO."""
        keys, specs = b"".join([one.keys for one in owners]), b"".join([one.spec for one in owners])
        return b"".join((self._leave.heads[len(owners)], keys, name, _number(more_tokens), bulks(since), specs))

    def holds(self, owner: bytes, ids: Sequence[bytes]) -> Iterable[bytes]:
        key = PREFIX + owner.hex().encode() + b":c"
        for first in range(0, len(ids), IDS_AT_ONCE):
            some = ids[first : first + IDS_AT_ONCE]
            yield command(b"EVALSHA", self._hold.digest, b"1", key, self._lease, *some)

    def beat(self, host: bytes) -> bytes:
        """Answered by how many hosts there are."""
        return command(b"EVALSHA", self._beat.digest, b"1", PREFIX + b"hosts", host, self._lease)
