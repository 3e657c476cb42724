"""`/healthz`, `/readyz`, `/metrics`: small ASGI applications beside the data plane."""

from __future__ import annotations

import asyncio
import hmac
from typing import Any, Final

import msgspec
from django.conf import settings
from django.db import close_old_connections, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import DatabaseError

from keys.auth import AuthError, authenticate
from routing.runtime import Runtime, runtime
from telemetry.logs import EventLogger
from telemetry.metrics import Series
from telemetry.metrics_page import render
from tokenhub.gauges import GAUGES
from vault.keyring import KEYRING

log = EventLogger(__name__)


async def _respond(send: Any, status: int, body: bytes, content_type: bytes = b"application/json") -> None:
    headers = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _started() -> Runtime | None:
    held = runtime()
    try:
        await held.start()
    except (DatabaseError, OSError) as problem:
        log.error("not_ready", error=type(problem).__name__)
        return None
    return held


async def healthz(scope: Any, receive: Any, send: Any) -> None:
    held = await _started()
    snapshot = held.snapshot if held is not None else None
    if snapshot is None or not snapshot.targets:
        count = snapshot.provider_count if snapshot is not None else 0
        await _respond(
            send, 503, msgspec.json.encode({"status": "nothing to route to", "adapters": count, "models": 0})
        )
        return
    body = {"status": "ok", "adapters": snapshot.provider_count, "models": len(snapshot.targets)}
    await _respond(send, 200, msgspec.json.encode(body))


def _database_state() -> tuple[str, str]:
    """State of the database and of its migrations."""
    try:
        executor = MigrationExecutor(connection)
        pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
        return "ok", "ok" if not pending else f"{len(pending)} missing: run manage.py migrate"
    except DatabaseError as problem:
        log.error("database_unreachable", error=type(problem).__name__)
        return "unreachable", "unknown"
    finally:
        close_old_connections()


class DatabaseLook:
    """One look at a time, whose finding goes to all who asked meanwhile: anybody may ask, and threads are few."""

    def __init__(self) -> None:
        self._looking: asyncio.Future[tuple[str, str]] | None = None

    async def state(self) -> tuple[str, str]:
        """Belongs to the event loop."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(asyncio.to_thread(_database_state))
        return await asyncio.shield(self._looking)


_LOOK: Final = DatabaseLook()


async def readyz(scope: Any, receive: Any, send: Any) -> None:
    """A locked vault is a state, not a failure: providers without a credential go on working."""
    held = await _started()
    database, migrations = await _LOOK.state()
    journal = "ok" if held is not None and not held.journal.is_failing else "failing"
    ready = held is not None and database == migrations == journal == "ok"
    body = {
        "status": "ok" if ready else "not ready",
        "database": database,
        "migrations": migrations,
        "vault": "unlocked" if KEYRING.is_open else "locked",
        "journal": journal,
    }
    await _respond(send, 200 if ready else 503, msgspec.json.encode(body))


async def metrics(scope: Any, receive: Any, send: Any) -> None:
    held = await _started()
    if held is None:
        await _respond(send, 503, b"not ready\n", b"text/plain")
        return
    if not _may_read_metrics(held, dict(scope["headers"])):
        await _respond(send, 401, b"Send TOKENHUB_METRICS_TOKEN or a client key as a bearer token.\n", b"text/plain")
        return
    kept = await GAUGES.read()
    body = await asyncio.to_thread(_rendered, held, kept)
    await _respond(send, 200, body, b"text/plain; version=0.0.4; charset=utf-8")


def _rendered(held: Runtime, gauges: dict[str, Series]) -> bytes:
    page = held.all_metrics.total()
    page.series |= gauges
    return render(page)


def _may_read_metrics(held: Runtime, headers: dict[bytes, bytes]) -> bool:
    if settings.TOKENHUB_PUBLIC_METRICS:
        return True
    token: str = settings.TOKENHUB_METRICS_TOKEN
    if token and hmac.compare_digest(headers.get(b"authorization", b""), b"Bearer " + token.encode()):
        return True
    try:
        from time import time

        authenticate(held.snapshot.keys, headers, now=time())
    except AuthError:
        return False
    return True
