"""Webhooks: events that are sent to addresses of the operator's, signed and repeated until they are taken.

`publish` writes a delivery for each webhook that wants the event, in the transaction of what happened; a thread in
every worker sends them. A delivery is taken by one worker at a time, for as long as one attempt may last; so each
arrives at least once, and its id tells repetitions.

Signed as Standard Webhooks says (standardwebhooks.com): `webhook-id`, `webhook-timestamp`, and `webhook-signature`, the
HMAC-SHA256 of `id.timestamp.body`. The secret is derived from the server's own key and stored nowhere.

Private addresses are refused after resolution, unless TOKENHUB_WEBHOOK_NETWORKS allows them; the connection goes to the
address that was looked at, and follows no redirect."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import json
import socket
import threading
from datetime import timedelta
from functools import partial
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import DatabaseError, close_old_connections, transaction
from django.utils import timezone

from telemetry import events
from telemetry.logs import EventLogger
from telemetry.models import DeliveryState, Webhook, WebhookDelivery
from tokenhub import turn

log = EventLogger(__name__)
TEST: Final = "test"
EVENTS: Final = (*events.RARE, "workflow_completed", "workflow_failed", TEST)
"""Events of requests are none: there are too many of them, and the request log has them all."""
POLL_SECONDS: Final = 2.0
TIMEOUT_SECONDS: Final = 10.0
HELD: Final = timedelta(seconds=60)
WAITS: Final = tuple(timedelta(seconds=one) for one in (5, 30, 120, 600, 3600, 3 * 3600, 6 * 3600, 12 * 3600))
KEPT: Final = timedelta(days=30)
PRUNED_AT_ONCE: Final = 100
MAX_SHOWN: Final = 300
_sent = threading.Event()


# -- saving ----------------------------------------------------------------------------------------------------------
@transaction.atomic
def save(*, webhook: Webhook) -> None:
    """Raises ValidationError."""
    unknown = sorted(set(map(str, webhook.events)) - set(EVENTS)) if isinstance(webhook.events, list) else ["?"]
    if unknown:
        raise ValidationError({"events": f"There is no event {unknown[0]!r}. Events: {', '.join(EVENTS)}."})
    webhook.full_clean()
    webhook.save()


@transaction.atomic
def delete(*, webhook: Webhook) -> None:
    turn.take()
    webhook.delete()


@transaction.atomic
def rotate(*, webhook: Webhook) -> str:
    """A new secret; the old one signs nothing any more. Raises Webhook.DoesNotExist."""
    turn.take()
    webhook.refresh_from_db(from_queryset=Webhook.objects.select_for_update(no_key=True))
    webhook.generation += 1
    save(webhook=webhook)
    return secret_of(webhook)


def secret_of(webhook: Webhook) -> str:
    told = f"tokenhub.webhook:{webhook.pk}:{webhook.generation}".encode()
    raw = hmac.new(settings.SECRET_KEY.encode(), told, sha256).digest()
    return "whsec_" + base64.b64encode(raw).decode()


def signature(secret: str, delivery_id: str, timestamp: int, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = hmac.new(key, f"{delivery_id}.{timestamp}.".encode() + body, sha256).digest()
    return "v1," + base64.b64encode(signed).decode()


# -- publishing ------------------------------------------------------------------------------------------------------
def announce(event: str, data: dict[str, Any], *, durably: bool = True) -> None:
    """Tells the webhooks and whoever listens. To be called in the transaction of what happened; where that fails,
    nobody hears of it. Not `durably`: the event, but no delivery. Raises DatabaseError."""
    if durably and event in EVENTS:
        publish(event, data)
    transaction.on_commit(partial(events.publish, event, data))


def publish(event: str, data: dict[str, Any], *, only: Webhook | None = None) -> int:
    """To be called in the transaction of what happened. How many webhooks get it. Raises DatabaseError."""
    now = timezone.now()
    wanted = [only] if only is not None else [one for one in Webhook.objects.filter(enabled=True) if _wants(one, event)]
    body = json.dumps({"type": event, "timestamp": now.isoformat(), "data": data}, default=str)
    for webhook in wanted:
        WebhookDelivery.objects.create(webhook=webhook, event=event, body=body, next_at=now)
    if wanted:
        transaction.on_commit(_sent.set)
    return len(wanted)


def _wants(webhook: Webhook, event: str) -> bool:
    return not webhook.events or event in webhook.events


def again(*, delivery: WebhookDelivery) -> None:
    """Sends one anew that was given up, or waits."""
    delivery.state, delivery.next_at = DeliveryState.WAITING, timezone.now()
    delivery.save(update_fields=["state", "next_at"])
    transaction.on_commit(_sent.set)


# -- sending ---------------------------------------------------------------------------------------------------------
class Sender:
    """A thread of a worker."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook-sender", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        _sent.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                while not self._stop.is_set() and send_next():
                    pass
            except DatabaseError as problem:
                log.warning("webhooks_not_sent", error=type(problem).__name__)
            except Exception:  # the thread must outlive a defect
                log.exception("webhooks_not_sent")
            finally:
                close_old_connections()
            _sent.wait(POLL_SECONDS)
            _sent.clear()


def prune() -> int:
    """Deliveries that are over. How many went. Raises DatabaseError."""
    over = WebhookDelivery.objects.exclude(state=DeliveryState.WAITING).filter(created_at__lt=timezone.now() - KEPT)
    gone = 0
    while keys := list(over.values_list("pk", flat=True)[:PRUNED_AT_ONCE]):
        gone += WebhookDelivery.objects.filter(pk__in=keys).delete()[0]
    return gone


def send_next() -> bool:
    """Whether there was one that is due."""
    now = timezone.now()
    due = WebhookDelivery.objects.filter(state=DeliveryState.WAITING, next_at__lte=now).order_by("next_at")
    delivery = due.select_related("webhook").first()
    if delivery is None:
        return False
    taken = WebhookDelivery.objects.filter(pk=delivery.pk, next_at=delivery.next_at, state=DeliveryState.WAITING)
    if not taken.update(next_at=now + HELD, attempts=delivery.attempts + 1):
        return True  # another worker was faster
    delivery.attempts += 1
    status, problem = _post(delivery)
    delivery.last_status, delivery.last_error = status, problem[:MAX_SHOWN]
    if not problem:
        delivery.state, delivery.delivered_at = DeliveryState.DELIVERED, timezone.now()
    elif delivery.attempts > len(WAITS):
        delivery.state = DeliveryState.GIVEN_UP
        log.error(
            "webhook_given_up", webhook=str(delivery.webhook_id), about=delivery.event, reason=problem[:MAX_SHOWN]
        )
    else:
        delivery.next_at = timezone.now() + WAITS[delivery.attempts - 1]
        log.warning(
            "webhook_failed", webhook=str(delivery.webhook_id), about=delivery.event, reason=problem[:MAX_SHOWN]
        )
    delivery.save()
    return True


def _post(delivery: WebhookDelivery) -> tuple[int | None, str]:
    """The answer's status, and what went wrong; empty: it was taken."""
    webhook = delivery.webhook
    parts = urlsplit(webhook.url)
    host = ""
    try:
        host, port, named = webhook.place()
        address = allowed_address(host, port)
    except ValueError as problem:  # of a row that `save` has not seen
        return None, f"its address is none that can be called: {problem}"
    except OSError as problem:
        return None, f"{host} is not known: {problem.strerror or problem}"
    except AddressRefused as problem:
        return None, str(problem)
    body = delivery.body.encode()
    timestamp = int(timezone.now().timestamp())
    shown = f"[{address}]" if ":" in address else address
    target = f"{parts.scheme}://{shown}:{port}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")
    headers = {
        "host": named,
        "content-type": "application/json",
        "user-agent": f"TokenHub/{settings.VERSION}",
        "webhook-id": str(delivery.pk),
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret_of(webhook), str(delivery.pk), timestamp, body),
    }
    import httpx  # when there is something to send: it costs a worker megabytes

    try:
        with (
            httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False) as client,
            client.stream("POST", target, content=body, headers=headers, extensions={"sni_hostname": host}) as answer,
        ):
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        return None, f"{type(problem).__name__}: {problem}"
    return status, "" if 200 <= status < 300 else f"it answered {status}"


class AddressRefused(Exception):
    """It is private, and not allowed."""


def allowed_address(host: str, port: int) -> str:
    """One of the host's addresses, if all may be called. Raises OSError, AddressRefused."""
    found = [str(one[4][0]).partition("%")[0] for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    networks = [ipaddress.ip_network(one, strict=False) for one in settings.TOKENHUB_WEBHOOK_NETWORKS]
    for address in found:
        parsed = ipaddress.ip_address(address)
        mapped = getattr(parsed, "ipv4_mapped", None) or parsed
        if (not mapped.is_global or mapped.is_multicast) and not any(mapped in one for one in networks):
            raise AddressRefused(
                f"{host} has the private address {address}. TOKENHUB_WEBHOOK_NETWORKS allows such networks."
            )
    return found[0]
