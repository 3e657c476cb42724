"""Events of many hosts, in one Redis stream: numbered by a script in one order, bounded, and read by every worker that
has listeners. A stream and no Channels layer: that one forgets what it delivered and drops silently when a channel is
full, and so can neither resume nor tell what is missing.

Whatever goes wrong is an OSError, as with the file."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from telemetry.event_ring import Record

if TYPE_CHECKING:
    from redis import Redis

KEEP: Final = 5000
BLOCK_MS: Final = 500
TIMEOUT_SECONDS: Final = 3.0
REFRESH_SECONDS: Final = 0.5
_STREAM: Final = "{tokenhub:events}"
_EPOCH: Final = "{tokenhub:events}:epoch"
_LISTENING: Final = "{tokenhub:events}:listening"
_APPEND: Final = """
redis.call('SET', KEYS[2], ARGV[1], 'NX')
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local number = last[1] and tonumber(string.match(last[1][1], '^%d+')) or 0
for at = 3, #ARGV do
  number = number + 1
  redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[2], string.format('%.0f-0', number), 'e', ARGV[at])
end
return number
"""


class RedisStream:
    def __init__(self, url: str) -> None:
        self._redis = _client(url)
        self._script: Callable[..., Any] = self._redis.register_script(_APPEND)
        self.wanted = bytearray(1)
        self._refresh_at = 0.0

    def close(self) -> None:
        self._redis.close()

    def append(self, payloads: Sequence[bytes]) -> None:
        with _as_os_errors():
            self._script(keys=[_STREAM, _EPOCH], args=[secrets.token_hex(4), KEEP, *payloads])

    def reader(self) -> RedisReader:
        return RedisReader(self._redis)

    def listen(self, seconds: float) -> bool:
        with _as_os_errors():
            was_off = self._redis.set(_LISTENING, 1, ex=max(1, int(seconds)), get=True) is None
        self.wanted[0] = 1
        return was_off

    def refresh(self) -> None:
        if (now := monotonic()) < self._refresh_at:
            return
        self._refresh_at = now + REFRESH_SECONDS
        with _as_os_errors():
            self.wanted[0] = int(bool(self._redis.exists(_LISTENING)))


class RedisReader:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._last = 0
        self.epoch = self._current_epoch()

    def read(self, limit: int) -> list[Record]:
        with _as_os_errors():
            answer: Any = self._redis.xread({_STREAM: f"{self._last}-0"}, count=limit, block=BLOCK_MS)
        found = [(int(name.partition(b"-")[0]), fields[b"e"]) for _, rows in answer or () for name, fields in rows]
        if found:
            self._last = found[-1][0]
        elif (epoch := self._current_epoch()) != self.epoch:  # somebody emptied it: the numbers begin anew
            self.epoch, self._last = epoch, 0
        return found

    def _current_epoch(self) -> str:
        with _as_os_errors():
            self._redis.set(_EPOCH, secrets.token_hex(4), nx=True)
            found: Any = self._redis.get(_EPOCH)
        return found.decode("ascii") if found else ""


def _client(url: str) -> Redis:
    from redis import Redis  # where it is used: it costs a worker 10 MB

    client = Redis.from_url(url, socket_connect_timeout=TIMEOUT_SECONDS, health_check_interval=30)
    # whatever the address says: that is for limits, where requests wait
    client.connection_pool.connection_kwargs["socket_timeout"] = TIMEOUT_SECONDS
    return client


@contextmanager
def _as_os_errors() -> Iterator[None]:
    from redis.exceptions import RedisError

    try:
        yield
    except RedisError as problem:
        raise OSError(f"Redis: {type(problem).__name__}: {problem}") from None
