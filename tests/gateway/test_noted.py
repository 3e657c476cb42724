"""What the request log keeps beside figures: which limit refused a request, the warning and the wait that its client
was told, and the model that was named in a body that was refused. Over a running gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from itertools import count
from typing import Any

import httpx
import pytest

from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Upstream

SLOW, WORDY, OF_PROJECT = (f"{KEY[:-2]}{end}" for end in ("31", "32", "33"))
USER = [{"role": "user", "content": "Hi"}]
ADDRESSES = count(int(ip_address("10.0.0.1")))
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with (
        Upstream() as upstream,
        Gateway(
            tmp_path_factory.mktemp("noted") / "data",
            providers=[{"id": "p", "type": "openai", "base_url": upstream.url, "dialects": ["openai-chat"]}],
            models=[{"id": "m", "provider_id": "p"}],
            projects=[{"name": "web", "rate_limit_rps": 0.01}],
            keys=[
                {"key": KEY}, {"key": SLOW, "rate_limit_rpm": 1}, {"key": WORDY, "rate_limit_tpm": 50},
                {"key": OF_PROJECT, "project": "web"},
            ],
            env={
                "TOKENHUB_TRUSTED_PROXIES": "127.0.0.1", "TOKENHUB_RATE_LIMIT_RPS": "1",
                "TOKENHUB_RATE_LIMIT_BURST": "2",
            },
        ) as made,
    ):  # fmt: skip
        yield made


def send(gateway: Gateway, body: Any, *, path: str = CHAT, key: str = KEY, address: str = "") -> httpx.Response:
    """From an address of its own, unless one is given."""
    headers = {"X-Forwarded-For": address or str(ip_address(next(ADDRESSES))), "Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{gateway.base}{path}", content=content, headers=headers, timeout=30)


def row_of(gateway: Gateway, answer: httpx.Response) -> dict[str, Any]:
    wanted = answer.headers["x-tokenhub-request-id"]
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [one for one in gateway.rows() if str(one["request_id"]).replace("-", "") == wanted.replace("-", "")]
        return bool(found)

    gateway.wait_until(is_there)
    return {**found[0], "detail": json.loads(found[0]["detail"])}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (SLOW, {"limit": "rpm", "value": 1}),
        (WORDY, {"limit": "tpm", "value": 50}),
        (OF_PROJECT, {"limit": "rps", "value": 0.01, "at_once": 1, "project": "web"}),
    ],
)  # fmt: skip
def test_a_rate_limit_that_refused_is_noted_with_its_value_and_the_wait(
    gateway: Gateway, key: str, expected: dict[str, Any]
) -> None:
    body = {"model": "m", "messages": USER, "max_tokens": 40}
    send(gateway, body, key=key)
    refused = send(gateway, body, key=key)
    assert (refused.status_code, "details" in refused.json()["error"]) == (429, False)
    row = row_of(gateway, refused)
    told = row["detail"]["refusal"]
    assert 0 < told.pop("wait_seconds") <= row["detail"]["retry_after"] == int(refused.headers["retry-after"])
    assert told == expected
    assert row["requested_model"] == "m"


def test_the_limit_of_an_address_is_noted_with_the_address(gateway: Gateway) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send(gateway, b"{", address="192.0.2.7"), range(40)))
    refused = next(one for one in answers if one.status_code == 429)
    told = row_of(gateway, refused)["detail"]["refusal"]
    assert told.pop("wait_seconds") > 0
    assert told == {"limit": "address", "address": "192.0.2.7", "value": 1, "at_once": 2}


def test_a_warning_is_noted_as_its_client_got_it_and_nothing_where_there_is_none(gateway: Gateway) -> None:
    body = {"model": "m", "messages": USER, "max_tokens": 40}
    warned = send(gateway, {**body, "top_k": 5}, path="/v1/messages")
    assert warned.headers["x-tokenhub-warning"] == "dropped=top_k"
    assert row_of(gateway, warned)["detail"]["warning"] == "dropped=top_k"
    silent = row_of(gateway, send(gateway, body))["detail"]
    assert {"warning", "retry_after", "refusal"}.isdisjoint(silent)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (CHAT, {"model": "m", "messages": USER, "max_tokens": -1}, "m"),
        (CHAT, {"model": "m", "messages": "Hi"}, "m"),
        (CHAT, {"model": "m", "messages": USER, "stream": "yes"}, "m"),
        (CHAT, {"model": 5, "messages": USER}, ""),
        (CHAT, {"messages": []}, ""),
        (CHAT, b'{"model": "m", ', ""),
        (CHAT, b"[1]", ""),
        ("/v1/chat", {"request": {"messages": USER, "model_hint": "m", "stream": "yes"}}, "m"),
        ("/v1/chat", {"request": "m"}, ""),
        ("/v1/responses", {"model": "m", "input": []}, "m"),
        ("/v1/embeddings", {"model": "m"}, "m"),
    ],
)
def test_the_model_of_a_refused_body_is_noted_as_far_as_it_can_be_read(
    gateway: Gateway, path: str, body: Any, named: str
) -> None:
    refused = send(gateway, body, path=path)
    assert refused.status_code == 400, refused.text
    row = row_of(gateway, refused)
    assert (row["requested_model"], row["mode"], row["alias"]) == (named, "", "")
