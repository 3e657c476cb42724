"""Webhooks: what a receiver gets, how often, and where nothing is sent."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from telemetry import events, webhooks
from telemetry.event_ring import FileRing
from telemetry.models import AuditEntry, DeliveryState, Webhook, WebhookDelivery
from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Upstream
from tokenhub import admin_token


class Receiver:
    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(outer.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self.server.server_port}/hook?a=1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


@pytest.fixture
def hook(db: None, receiver: Receiver, settings: Settings) -> Webhook:
    settings.TOKENHUB_WEBHOOK_NETWORKS = ("127.0.0.0/8", "::1/128")
    webhook = Webhook(url=receiver.url)
    webhooks.save(webhook=webhook)
    return webhook


def delivery() -> WebhookDelivery:
    return WebhookDelivery.objects.latest("created_at")


def is_signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """As the receiver checks it, from the specification alone."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.split("_", 1)[1])
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return headers["webhook-signature"] == f"v1,{wanted}"


def test_an_event_arrives_signed(hook: Webhook, receiver: Receiver) -> None:
    assert webhooks.publish("budget_threshold", {"percent": 50}) == 1
    assert webhooks.send_next()
    assert not webhooks.send_next()
    ((headers, body),) = receiver.got
    told = json.loads(body)
    assert (told["type"], told["data"]) == ("budget_threshold", {"percent": 50})
    assert is_signed(webhooks.secret_of(hook), headers, body)
    assert headers["host"].startswith("localhost:")
    assert (delivery().state, delivery().last_status) == (DeliveryState.DELIVERED, 200)
    assert str(delivery().pk) == headers["webhook-id"]


def test_a_rotated_secret_signs_and_the_old_one_does_not(hook: Webhook, receiver: Receiver) -> None:
    old = webhooks.secret_of(hook)
    fresh = webhooks.rotate(webhook=hook)
    webhooks.publish("budget_threshold", {})
    webhooks.send_next()
    ((headers, body),) = receiver.got
    assert is_signed(fresh, headers, body)
    assert not is_signed(old, headers, body)
    assert fresh not in " ".join(AuditEntry.objects.values_list("changes", flat=True))


@pytest.mark.parametrize("status", [500, 404, 301])
def test_what_is_not_taken_is_sent_again_under_the_same_id(hook: Webhook, receiver: Receiver, status: int) -> None:
    receiver.status = status
    webhooks.publish("budget_threshold", {})
    assert webhooks.send_next()
    assert not webhooks.send_next()
    assert (delivery().state, delivery().last_status) == (DeliveryState.WAITING, status)
    assert len(receiver.got) == 1  # redirects are not followed
    receiver.status = 204
    WebhookDelivery.objects.update(next_at=timezone.now())
    assert webhooks.send_next()
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert delivery().state == DeliveryState.DELIVERED


def test_waits_grow_and_end(hook: Webhook, receiver: Receiver) -> None:
    receiver.status = 500
    webhooks.publish("budget_threshold", {})
    waits = []
    while delivery().state == DeliveryState.WAITING:
        WebhookDelivery.objects.update(next_at=timezone.now())
        webhooks.send_next()
        waits.append(delivery().next_at - timezone.now())
    assert len(receiver.got) == len(webhooks.WAITS) + 1
    assert waits[:-1] == sorted(waits[:-1])
    assert delivery().state == DeliveryState.GIVEN_UP
    webhooks.again(delivery=delivery())
    receiver.status = 200
    assert webhooks.send_next()
    assert delivery().state == DeliveryState.DELIVERED


def test_a_receiver_that_is_gone_is_tried_again(hook: Webhook, receiver: Receiver) -> None:
    receiver.server.server_close()
    webhooks.publish("budget_threshold", {})
    webhooks.send_next()
    assert delivery().state == DeliveryState.WAITING
    assert "Connect" in delivery().last_error


def test_a_host_in_other_letters_is_called_by_its_name_in_dns(hook: Webhook, receiver: Receiver) -> None:
    hook.url = f"http://ｌｏｃａｌｈｏｓｔ:{receiver.server.server_port}/hook"  # noqa: RUF001  not those letters
    hook.save()
    webhooks.publish("budget_threshold", {})
    webhooks.send_next()
    assert delivery().state == DeliveryState.DELIVERED
    assert receiver.got[0][0]["host"] == f"localhost:{receiver.server.server_port}"


@pytest.mark.parametrize("url", ["http://localhost:99999/", f"http://{'a' * 64}.example/"])
def test_an_address_that_cannot_be_called_is_given_up_as_any_other(hook: Webhook, url: str) -> None:
    Webhook.objects.update(url=url)
    webhooks.publish("budget_threshold", {})
    for _ in range(len(webhooks.WAITS) + 1):
        WebhookDelivery.objects.update(next_at=timezone.now())
        assert webhooks.send_next()
    assert delivery().state == DeliveryState.GIVEN_UP
    assert "can be called" in delivery().last_error


@pytest.mark.django_db
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "[::ffff:10.0.0.1]"]
)
def test_private_addresses_are_refused(host: str, receiver: Receiver) -> None:
    webhooks.save(webhook=Webhook(url=f"http://{host}:{receiver.server.server_port}/"))
    webhooks.publish("budget_threshold", {})
    webhooks.send_next()
    assert "TOKENHUB_WEBHOOK_NETWORKS" in delivery().last_error
    assert receiver.got == []


@pytest.mark.django_db
@pytest.mark.parametrize("url", ["ftp://a.example/", "no url", "https://user:secret@a.example/", "file:///etc/passwd",
                                 "https://a.example:99999/"])  # fmt: skip
def test_a_bad_address_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        webhooks.save(webhook=Webhook(url=url))


def test_only_wanted_events_are_sent_and_only_while_it_is_on(hook: Webhook) -> None:
    hook.events = ["budget_overrun"]
    webhooks.save(webhook=hook)
    assert webhooks.publish("budget_threshold", {}) == 0
    assert webhooks.publish("budget_overrun", {}) == 1
    hook.enabled = False
    webhooks.save(webhook=hook)
    assert webhooks.publish("budget_overrun", {}) == 0
    hook.events = ["moon"]
    with pytest.raises(ValidationError, match="no event 'moon'"):
        webhooks.save(webhook=hook)


def test_old_deliveries_go_and_waiting_ones_stay(hook: Webhook) -> None:
    for state in DeliveryState.values:
        WebhookDelivery.objects.create(webhook=hook, event="test", body="{}", next_at=timezone.now(), state=state)
    WebhookDelivery.objects.update(created_at=timezone.now() - timedelta(days=31))
    webhooks.prune()
    assert [one.state for one in WebhookDelivery.objects.all()] == [DeliveryState.WAITING]


@pytest.mark.django_db(transaction=True)
def test_what_is_announced_goes_to_webhooks_and_listeners_when_it_is_certain(
    hook: Webhook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bus = events.Bus(lambda: FileRing(tmp_path))
    monkeypatch.setattr(events, "BUS", bus)
    with transaction.atomic():
        webhooks.announce("vault_change", {"action": "lock"})
        webhooks.announce("health_change", {"to": "degraded"}, durably=False)
        webhooks.announce("workflow_started", {"id": "w"})  # none of the webhooks'
        assert not bus._waiting
    with transaction.atomic():
        webhooks.announce("vault_change", {"action": "unlock"})
        transaction.set_rollback(True)
    bus.stop()
    told = [json.loads(payload) for _, payload in FileRing(tmp_path).reader().read(10)]
    assert [one["type"] for one in told] == ["vault_change", "health_change", "workflow_started"]
    (sent,) = WebhookDelivery.objects.all()
    assert json.loads(sent.body)["data"] == {"action": "lock"}


def test_events_of_requests_are_not_for_webhooks(hook: Webhook) -> None:
    assert not set(webhooks.EVENTS) & set(events.OF_REQUESTS)
    hook.events = ["route_success"]
    with pytest.raises(ValidationError, match="route_success"):
        webhooks.save(webhook=hook)


@pytest.mark.django_db
def test_the_api_makes_rotates_tests_and_lists(settings: Settings) -> None:
    client = Client(headers={"Authorization": f"Bearer {admin_token.current()}"})
    kind = "application/json"
    made = client.post("/admin/v1/webhooks", {"url": "https://a.example/x", "events": []}, content_type=kind).json()
    where = f"/admin/v1/webhooks/{made['id']}"
    assert made["secret"].startswith("whsec_")
    assert "secret" not in client.get(where).json()
    assert client.post(f"{where}/rotate", {}, content_type=kind).json()["secret"] != made["secret"]
    assert client.post(f"{where}/test", {}, content_type=kind).status_code == 200
    assert [one["event"] for one in client.get(f"{where}/deliveries").json()["items"]] == ["test"]
    assert client.patch(where, {"enabled": False}, content_type=kind).json()["enabled"] is False
    assert client.patch(where, {"url": "ftp://x"}, content_type=kind).status_code == 400
    assert client.get("/admin/v1/webhooks/none").status_code == 404
    assert client.delete(where).status_code == 200


def test_a_budget_that_fills_up_calls_the_webhook_from_a_running_server(tmp_path: Path, receiver: Receiver) -> None:
    with (
        Upstream() as upstream,
        Gateway(
            tmp_path,
            providers=[{"id": "up", "type": "openai", "base_url": upstream.url}],
            models=[
                {"id": "m", "provider_id": "up", "input_per_1k": "1", "output_per_1k": "0", "max_output_tokens": 9}
            ],
            keys=[{"key": KEY}],
            budgets=[{"of_key": KEY, "amount_usd": "2"}],
            env={"TOKENHUB_WEBHOOK_NETWORKS": "127.0.0.0/8,::1/128"},
            workers=2,
        ) as gateway,
    ):
        token = {"Authorization": f"Bearer {(tmp_path / 'admin-token').read_text().strip()}"}
        made = gateway.post("/admin/v1/webhooks", {"url": receiver.url}, headers=token)
        assert made.status_code == 200, made.text
        while (answer := gateway.chat("m")).status_code == 200:
            pass
        assert answer.json()["error"]["code"] == "budget_exceeded", answer.text
        budget = "SELECT settled_nano FROM keys_budgetperiod"
        Gateway.wait_until(lambda: gateway.query(budget)[0]["settled_nano"] > 10**9, seconds=60)
        Gateway.wait_until(lambda: bool(receiver.got), seconds=60)
        (headers, body) = receiver.got[0]
        assert json.loads(body)["data"]["percent"] == 50
        assert is_signed(made.json()["secret"], headers, body)
