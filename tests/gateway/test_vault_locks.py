"""What clients see when the vault locks under them, and where secrets are not to be found afterwards."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx

from tests.support.gateway import HTTP, KEY, VAULT_PASSWORD, Gateway
from tests.support.upstream import Reply, Upstream

CREDENTIAL = "sk-live-0123456789abcdef-lock"


def test_locking_lets_calls_under_way_end_and_leaves_keyless_providers_at_work(tmp_path: Path) -> None:
    with (
        Upstream() as upstream,
        Upstream() as keyless,
        Gateway(
            tmp_path,
            providers=[
                {"id": "paid", "type": "openai", "base_url": upstream.url, "credential": CREDENTIAL},
                {"id": "own", "type": "vllm", "base_url": keyless.url, "dialects": ["openai-chat"]},
            ],
            models=[{"id": "m", "provider_id": "paid"}, {"id": "own", "provider_id": "own"}],
            workers=2,
        ) as gateway,
    ):
        token = {"Authorization": f"Bearer {(tmp_path / 'admin-token').read_text().strip()}"}
        assert gateway.chat("m").status_code == 200
        assert gateway.chat("own").status_code == 200
        upstream.next(Reply(words=40, interval=0.05))
        begun, seen = threading.Event(), []

        def stream() -> None:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
            url = f"{gateway.base}/v1/chat/completions"
            with HTTP.stream("POST", url, json=body, headers=gateway.headers(), timeout=30) as answer:
                for line in answer.iter_lines():
                    seen.append(line)
                    begun.set()

        reader = threading.Thread(target=stream)
        reader.start()
        assert begun.wait(20)
        locked = gateway.post("/admin/v1/vault/lock", {}, headers=token)
        assert locked.json()["vault_locked"] is True
        for _ in range(6):  # whichever worker
            refused = gateway.chat("m")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "vault_locked")
            assert gateway.chat("own").status_code == 200
        reader.join(30)
        assert "data: [DONE]" in seen
        assert gateway.get("/readyz").status_code == 200

        assert (
            gateway.post("/admin/v1/vault/unlock", {"admin_password": "a wrong one"}, headers=token).status_code == 403
        )
        assert gateway.chat("m").status_code == 503
        unlocked = gateway.post("/admin/v1/vault/unlock", {"admin_password": VAULT_PASSWORD}, headers=token)
        assert unlocked.json()["vault_locked"] is False
        assert gateway.chat("m").status_code == 200

        shown = [unlocked.text, locked.text, *(answers(gateway, token))]
        gateway.rows(at_least=17)
        gateway.stop()
        written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        for secret in (CREDENTIAL, VAULT_PASSWORD, KEY):
            assert not [text for text in shown if secret in text], "in an answer of the admin API"
            assert not [data for data in written if secret.encode() in data], "in a file"


def test_a_record_that_was_changed_is_never_sent_and_the_next_model_answers(tmp_path: Path) -> None:
    with Upstream() as upstream, Upstream() as keyless:
        gateway = Gateway(
            tmp_path,
            providers=[
                {"id": "paid", "type": "openai", "base_url": upstream.url, "credential": CREDENTIAL},
                {"id": "own", "type": "vllm", "base_url": keyless.url, "dialects": ["openai-chat"]},
            ],
            models=[{"id": "m", "provider_id": "paid"}, {"id": "own", "provider_id": "own"}],
        )
        (row,) = gateway.query("SELECT name, sealed FROM vault_secret")
        flipped = row["sealed"][:20] + bytes([row["sealed"][20] ^ 1]) + row["sealed"][21:]
        gateway.execute("UPDATE vault_secret SET sealed = ? WHERE name = ?", flipped, row["name"])
        with gateway:
            answer = gateway.chat("m")
            assert (answer.status_code, answer.headers["x-tokenhub-model"]) == (200, "own")
            (logged,) = gateway.rows(at_least=1)
            first, _ = json.loads(logged["detail"])["attempts"]
            assert first["error_class"] == "auth"
            assert not upstream.requests
            assert "request_failed" not in gateway.log()


def answers(gateway: Gateway, token: dict[str, str]) -> list[str]:
    """Of every part of the admin API that tells of secrets, keys, and what happened."""
    paths = ("vault/secrets", "providers", "providers/paid", "apikeys", "audit", "logs", "health", "info", "models")
    found: list[httpx.Response] = [HTTP.get(f"{gateway.base}/admin/v1/{path}", headers=token) for path in paths]
    assert {one.status_code for one in found} == {200}
    assert json.loads(found[0].text)["items"]
    return [one.text for one in found]
