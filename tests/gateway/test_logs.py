"""The log of a running gateway at its most talkative, while everything goes wrong: ids are there, secrets are not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.gateway import KEY, VAULT_PASSWORD, Gateway, free_port
from tests.support.upstream import Fault, Reply, Upstream

CREDENTIAL = "sk-proj-a-credential-of-the-provider-0123456789"
PLAIN_CREDENTIAL = "credential-without-a-form"
ADMIN_TOKEN = "the-admins-token-0123456789"
METRICS_TOKEN = "the-metrics-token-0123456789"
WRONG_KEY = "tokenhub_" + "cd" * 32
WRONG_TOKEN = "a-wrong-token-9876543210"
WRONG_PASSWORD = "a-wrong-password-1234"
PROMPT = "words-of-the-prompt"
SECRETS = [
    KEY, WRONG_KEY, CREDENTIAL, PLAIN_CREDENTIAL, ADMIN_TOKEN, METRICS_TOKEN, WRONG_TOKEN, WRONG_PASSWORD,
    VAULT_PASSWORD, PROMPT,
]  # fmt: skip


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[
            {"id": "p", "type": "openai", "base_url": upstream.url, "credential": CREDENTIAL},
            {"id": "q", "type": "openai", "base_url": upstream.url, "credential": PLAIN_CREDENTIAL},
            {"id": "gone", "type": "openai", "base_url": f"http://127.0.0.1:{free_port()}", "credential": CREDENTIAL},
        ],
        models=[
            {"id": "m", "provider_id": "p"},
            {"id": "n", "provider_id": "q"},
            {"id": "gone", "provider_id": "gone"},
        ],
        env={
            "TOKENHUB_LOG_LEVEL": "debug",
            "TOKENHUB_ADMIN_TOKEN": ADMIN_TOKEN,
            "TOKENHUB_METRICS_TOKEN": METRICS_TOKEN,
        },
    ) as running:
        yield running


def lines(gateway: Gateway) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.log().splitlines() if line.startswith("{")]


def as_admin(gateway: Gateway, token: str = ADMIN_TOKEN) -> httpx.Client:
    return httpx.Client(base_url=f"{gateway.base}/admin/v1", headers={"Authorization": f"Bearer {token}"}, timeout=30)


def test_nothing_that_goes_wrong_puts_a_secret_into_the_log(gateway: Gateway, upstream: Upstream) -> None:
    echo = json.dumps({"error": {"message": f"bad key {CREDENTIAL} and {PLAIN_CREDENTIAL} for {PROMPT}"}}).encode()
    bad = [Reply(status=401, body=echo), Reply(status=500, body=echo), Reply(status=400, body=echo)]
    bad += [Reply(fault=fault) for fault in (Fault.HTML, Fault.BROKEN_JSON, Fault.RESET_BEFORE_HEAD, Fault.NOT_HTTP)]
    for model in ("m", "n", "gone"):
        for stream in (False, True):
            for reply in bad[:3] if model == "n" else bad:
                upstream.next(reply, reply)
                gateway.chat(model, PROMPT, stream=stream)
                upstream.forget()
    gateway.post("/v1/chat/completions", b'{"model": "m", ' + PROMPT.encode(), headers=gateway.headers())
    gateway.post("/v1/chat/completions", {"model": "m"}, headers={"Authorization": f"Bearer {WRONG_KEY}"})
    gateway.post("/v1/messages", {"model": "m"}, headers={"x-api-key": WRONG_KEY})
    gateway.get("/metrics", Authorization=f"Bearer {WRONG_TOKEN}")
    gateway.get("/metrics", Authorization=f"Bearer {METRICS_TOKEN}")
    with as_admin(gateway, WRONG_TOKEN) as wrong, as_admin(gateway) as right:
        wrong.get("/providers")
        right.post("/vault/unlock", json={"admin_password": WRONG_PASSWORD})
        right.put("/providers/p2", json={"type": "nonsense", "credential": CREDENTIAL})
        right.post("/apikeys", content=b'{"name": ')
        right.get("/none-such?token=" + WRONG_TOKEN)
    gateway.post("/admin/login/", b"username=a&password=" + WRONG_PASSWORD.encode(), headers={})
    gateway.get(f"/login-link/{WRONG_TOKEN}/")
    assert len(lines(gateway)) > 5
    log = gateway.log()
    assert [secret for secret in SECRETS if secret in log] == []
    assert "Traceback" not in log


def test_a_line_of_the_control_plane_bears_the_id_that_its_client_gets(gateway: Gateway) -> None:
    with as_admin(gateway) as admin:
        answer = admin.post("/apikeys", json={"name": "fresh"})
    assert answer.status_code == 200
    mine = [line for line in lines(gateway) if line.get("request_id") == answer.headers["x-tokenhub-request-id"]]
    assert {"admin_api", "audit"} <= {line["event"] for line in mine}
    assert answer.json()["key"] not in gateway.log()
