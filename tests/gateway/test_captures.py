"""Captured prompts and answers over running gateways: kept for whom it was asked for, and in plain text nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import HTTP, KEY, VAULT_PASSWORD, Gateway, run_manage
from tests.support.upstream import Fault, Reply, Upstream

QUIET_KEY, PROJECT_KEY, NARROW_KEY = (KEY[:-2] + end for end in ("31", "32", "33"))
PROMPT = "thesecretquestion of jo@example.org, card 4111 1111 1111 1111, EMP-123456"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[Upstream, Upstream]]:
    with Upstream() as real, Upstream() as other:
        yield real, other


def gateway_at(folder: Path, upstreams: tuple[Upstream, Upstream], **env: str) -> Gateway:
    real, other = upstreams
    return Gateway(
        folder,
        providers=[
            {"id": "real", "type": "openai", "base_url": real.url, "dialects": ["openai-chat"]},
            {"id": "other", "type": "openai", "base_url": other.url, "dialects": ["openai-chat"]},
        ],
        models=[{"id": "m", "provider_id": "real"}, {"id": "s", "provider_id": "other"}],
        aliases=[{"name": "a", "variants": [{"model_id": "m"}, {"model_id": "s", "weight": 100, "is_shadow": True}]}],
        projects=[{"name": "seen", "capture": True}],
        keys=[
            {"key": KEY, "capture": True},
            {"key": QUIET_KEY},
            {"key": PROJECT_KEY, "project": "seen"},
            {"key": NARROW_KEY, "allowed_models": ["m"]},
        ],
        env={"TOKENHUB_CAPTURE_REDACT": '["email", "card", "EMP-[0-9]{6}"]', **env},
    )


@pytest.fixture(scope="module")
def gateway(upstreams: tuple[Upstream, Upstream], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway_at(tmp_path_factory.mktemp("gateway"), upstreams) as running:
        yield running


def ask(gateway: Gateway, text: str = PROMPT, *, key: str = KEY, model: str = "m", **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    return gateway.post(CHAT, body, headers={"Authorization": f"Bearer {key}"})


def admin(gateway: Gateway) -> dict[str, str]:
    return {"Authorization": f"Bearer {(gateway.folder / 'admin-token').read_text().strip()}"}


def capture_of(gateway: Gateway, request_id: str) -> httpx.Response:
    """As soon as the request is in the log."""
    own = request_id.replace("-", "")
    gateway.wait_until(lambda: bool(gateway.query("SELECT 1 FROM telemetry_requestlog WHERE request_id = ?", own)))
    return HTTP.get(f"{gateway.base}/admin/v1/logs/{request_id}/capture", headers=admin(gateway), timeout=30)


def captured(gateway: Gateway, answer: httpx.Response) -> dict[str, Any]:
    found = capture_of(gateway, answer.headers["x-tokenhub-request-id"])
    assert found.status_code == 200, found.text
    assert found.headers["cache-control"] == "no-store"
    return dict(found.json())


@pytest.mark.parametrize("stream", [False, True])
def test_prompt_and_answer_are_kept_redacted_as_the_client_sent_and_got_them(gateway: Gateway, stream: bool) -> None:
    answer = ask(gateway, stream=stream)
    assert answer.status_code == 200
    kept = captured(gateway, answer)
    prompt = json.loads(kept["prompt"])
    assert prompt["messages"][0]["content"] == "thesecretquestion of [email], card [card], [redacted]"
    assert prompt["model"] == "m"
    if stream:
        pieces = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        said = "".join(one["choices"][0]["delta"].get("content") or "" for one in pieces if one["choices"])
        assert json.loads(kept["answer"])["text"] == said != ""
    else:
        assert json.loads(kept["answer"]) == answer.json()


def test_what_a_stream_says_in_pieces_is_redacted_whole(gateway: Gateway, upstreams: tuple[Upstream, Upstream]) -> None:
    events = [
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
         "choices": [{"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": None}]}
        for piece in ("write to j", "o@exam", "ple.org", " now")
    ]  # fmt: skip
    ending = {**events[0], "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    lines = [b"data: " + json.dumps(one).encode() + b"\n\n" for one in [*events, ending]]
    upstreams[0].next(Reply(events=(*lines, b"data: [DONE]\n\n")))
    assert json.loads(captured(gateway, ask(gateway, stream=True))["answer"])["text"] == "write to [email] now"


def test_nothing_is_kept_of_keys_that_do_not_say_so(gateway: Gateway) -> None:
    answer = ask(gateway, key=QUIET_KEY)
    assert answer.status_code == 200
    assert capture_of(gateway, answer.headers["x-tokenhub-request-id"]).status_code == 404
    assert captured(gateway, ask(gateway, key=PROJECT_KEY))["prompt"]  # its project says so


def test_refused_and_abandoned_requests_are_kept_as_far_as_they_came(
    gateway: Gateway, upstreams: tuple[Upstream, Upstream]
) -> None:
    refused = ask(gateway, model="unknown")
    assert refused.status_code == 404
    assert "thesecretquestion" in captured(gateway, refused)["prompt"]
    upstreams[0].next(Reply(words=8, fault=Fault.HANG_MIDWAY, at=5))
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
    headers = {"Authorization": f"Bearer {KEY}"}
    with HTTP.stream("POST", f"{gateway.base}{CHAT}", json=body, headers=headers, timeout=30) as answer:
        text = next(answer.iter_text())
        request_id = answer.headers["x-tokenhub-request-id"]
        assert text
    found = capture_of(gateway, request_id)
    assert found.status_code == 200
    assert json.loads(found.json()["answer"])["text"]


def test_a_shadow_answer_is_sealed_and_no_key_has_a_shadow_that_it_may_not_use(
    gateway: Gateway, upstreams: tuple[Upstream, Upstream]
) -> None:
    _, other = upstreams
    other.requests.clear()
    assert ask(gateway, model="a", key=NARROW_KEY).status_code == 200
    own = ask(gateway, model="a", key=QUIET_KEY).headers["x-tokenhub-request-id"]
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = [row for row in gateway.rows() if row["routing_reason"] == "shadow"]
        return bool(found)

    gateway.wait_until(there)
    (row,) = found
    assert json.loads(row["detail"])["shadow_of"] == own
    assert "answer" not in json.loads(row["detail"])
    kept = capture_of(gateway, row["request_id"]).json()
    assert (kept["prompt"], bool(kept["answer"])) == ("", True)
    assert len(other.requests) == 1


def test_each_reading_is_audited(gateway: Gateway) -> None:
    answer = ask(gateway)
    captured(gateway, answer)
    own = answer.headers["x-tokenhub-request-id"]
    rows = gateway.query("SELECT * FROM telemetry_auditentry WHERE resource = ?", f"logs/{own}")
    assert [row["action"] for row in rows] == ["capture.read"]


def test_a_changed_vault_password_keeps_them_readable_and_a_locked_vault_keeps_nothing(
    upstreams: tuple[Upstream, Upstream], tmp_path: Path
) -> None:
    with gateway_at(tmp_path, upstreams) as gateway:
        before = ask(gateway)
        captured(gateway, before)
        change = {"old_password": VAULT_PASSWORD, "new_password": "another password"}
        assert gateway.post("/admin/v1/vault/rotate", change, headers=admin(gateway)).status_code == 200
        assert "thesecretquestion" in captured(gateway, before)["prompt"]
        tries: list[httpx.Response] = []

        def is_kept_again() -> bool:  # as soon as the worker has the key as it is now
            tries.append(ask(gateway))
            return capture_of(gateway, tries[-1].headers["x-tokenhub-request-id"]).status_code == 200

        gateway.wait_until(is_kept_again)
        assert gateway.post("/admin/v1/vault/lock", {}, headers=admin(gateway)).status_code == 200
        assert capture_of(gateway, before.headers["x-tokenhub-request-id"]).status_code == 503
        locked = ask(gateway)
        assert locked.status_code == 200
        assert capture_of(gateway, locked.headers["x-tokenhub-request-id"]).status_code == 404
        assert "capture_not_stored" in gateway.log()
        assert f"tokenhub_captures_lost_total {len(tries)}.0" in gateway.get("/metrics").text
        unlock = {"admin_password": "another password"}
        assert gateway.post("/admin/v1/vault/unlock", unlock, headers=admin(gateway)).status_code == 200
        assert "thesecretquestion" in captured(gateway, ask(gateway))["prompt"]


def test_no_file_holds_plain_text_and_what_is_old_is_removed(
    upstreams: tuple[Upstream, Upstream], tmp_path: Path
) -> None:
    upstreams[0].next(Reply(body=json.dumps({
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "aquietword"}}],
    }).encode()))  # fmt: skip
    words = (b"thesecretquestion", b"aquietword", b"moonlight")
    with gateway_at(tmp_path, upstreams) as gateway:
        answer = ask(gateway, model="a")
        assert "aquietword" in answer.text
        (journal,) = (tmp_path / "journal").glob("*.journal")
        assert b'"capture"' in journal.read_bytes()
        assert "aquietword" in captured(gateway, answer)["answer"]
        gateway.wait_until(lambda: any(row["routing_reason"] == "shadow" for row in gateway.rows()))
        for file in tmp_path.rglob("*"):
            if file.is_file():
                data = file.read_bytes()
                assert not [one for one in words if one in data], file
        gateway.execute("UPDATE telemetry_capture SET expires_at = '2020-01-01 00:00:00'")
        assert capture_of(gateway, answer.headers["x-tokenhub-request-id"]).status_code == 404
        run_manage("prune", folder=tmp_path)
        assert gateway.query("SELECT * FROM telemetry_capture") == []
