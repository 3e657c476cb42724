"""Rows for a request log as a busy gateway has them after 90 days: few models, keys and projects have most of the
traffic, a few values are rare, and failures come with their codes. The same for the same seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from random import Random
from typing import Any

DAYS = 90
RARE_EVERY = 200_000
"""Every so many rows, one has the model, the alias, the key and the tag that are called `rare`."""
_FAILURES = [
    (400, "invalid_request", "invalid_request", 8), (401, "", "invalid_api_key", 5), (404, "", "model_not_found", 3),
    (429, "rate_limited", "rate_limit_exceeded", 14), (502, "transient", "upstream_error", 6),
    (502, "transient", "all_models_failed", 2), (503, "", "overloaded", 3), (504, "timeout", "upstream_timeout", 1),
]  # fmt: skip


class Skewed:
    """Of so many names, the n-th comes 1/n as often as the first."""

    def __init__(self, names: Sequence[Any]) -> None:
        self.names = names
        self._sums = list(accumulate(1 / (place + 1) for place in range(len(names))))

    def one(self, rng: Random) -> Any:
        return rng.choices(self.names, cum_weights=self._sums)[0]


MODELS = Skewed([f"vendor-{number % 8}/model-{number}-instruct" for number in range(40)])
KEYS = Skewed([f"{number:08x}-0000-4000-8000-{number:012x}" for number in range(500)])
PROJECTS = Skewed([f"project-{number}" for number in range(30)])
ALIASES = Skewed([f"alias-{number}" for number in range(12)])
TAGS = Skewed([f"team-{number}" for number in range(60)])
MODES = Skewed(["normal", "cheap", "thompson", "high_confidence", "planning"])
ENDPOINTS = Skewed(["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings"])


def _kind(rng: Random) -> dict[str, Any]:
    """What many rows have in common."""
    model, key = MODELS.one(rng), KEYS.one(rng)
    status, error_class, error_code = 200, "", ""
    if rng.random() < 0.042:
        status, error_class, error_code, _ = rng.choices(_FAILURES, [one[3] for one in _FAILURES])[0]
    routed, provider = rng.random() < 0.4, model.partition("/")[0]
    attempt = {"model": model, "provider": provider, "status": status, "latency_ms": 100}
    detail: dict[str, Any] = {"attempts": [attempt]} if status != 401 else {}
    if routed:
        scores = ("score", "cost", "latency", "failure", "capability")
        detail["candidates"] = [
            {"model": MODELS.one(rng), "provider": provider, **{name: rng.random() for name in scores}}
            for _ in range(rng.randint(3, 12))
        ]
    alias = ALIASES.one(rng) if rng.random() < 0.15 else ""
    return {
        "api_key_id": key if status != 401 else "", "api_key_name": f"app {key[:8]}",
        "project": PROJECTS.one(rng) if rng.random() < 0.7 else "", "endpoint": ENDPOINTS.one(rng),
        "dialect": "openai-chat", "requested_model": alias or ("auto" if routed else model), "alias": alias,
        "mode": MODES.one(rng) if routed else "", "model_id": model, "provider_id": provider,
        "routing_reason": "routed-weight-5" if routed else "model-hint", "status": status, "error_class": error_class,
        "error_code": error_code, "stream": rng.random() < 0.6,
        "tags": json.dumps([TAGS.one(rng) for _ in range(rng.randint(1, 3))] if rng.random() < 0.3 else []),
        "detail": json.dumps(detail, separators=(",", ":")),
    }  # fmt: skip


_RARE = {
    "api_key_id": "rare", "api_key_name": "rare", "project": "rare", "alias": "rare", "model_id": "rare",
    "provider_id": "rare", "mode": "rare", "status": 418, "error_code": "rare", "error_class": "rare",
    "tags": '["rare"]',
}  # fmt: skip


def uuid7(millis: int, rng: Random) -> str:
    low = rng.getrandbits(62)
    return f"{millis:012x}7{rng.getrandbits(12):03x}{0x8000 | low >> 48:04x}{low & 0xFFFFFFFFFFFF:012x}"


def made(
    columns: Sequence[str], count: int, *, until: datetime, as_text: bool, seed: int = 1
) -> Iterator[tuple[Any, ...]]:
    """Oldest first. `as_text`: as SQLite keeps ids, moments and costs."""
    rng = Random(seed)
    kinds = [_kind(rng) for _ in range(4000)]
    start, step = until - timedelta(days=DAYS), timedelta(days=DAYS) / count
    begin = (start - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1)
    step_ms = step / timedelta(milliseconds=1)
    places = {name: place for place, name in enumerate(columns)}
    templates = []
    for kind in [*kinds, {**kinds[0], **_RARE}]:
        row: list[Any] = [0] * len(columns)
        for name, value in kind.items():
            row[places[name]] = value
        row[places["usage_estimated"]] = row[places["client_disconnected"]] = False
        row[places["attempts"]] = 1 if kind["detail"] != "{}" else 0
        templates.append(row)
    mine = [
        places[name] for name in (
            "request_id", "client_request_id", "created_at", "input_tokens", "output_tokens", "total_tokens",
            "estimated_cost_usd", "cost_usd", "latency_ms", "time_to_first_chunk_ms", "client_disconnected",
        )
    ]  # fmt: skip
    random, randrange = rng.random, rng.randrange
    for number in range(count):
        rare = number % RARE_EVERY == RARE_EVERY // 2
        row = (templates[-1] if rare else templates[randrange(4000)]).copy()
        latency, tokens_in, tokens_out = int(200 / (0.01 + random())), int(100 / (0.01 + random())), randrange(1200)
        at_ms = begin + (number + random()) * step_ms
        at = start + timedelta(milliseconds=at_ms - begin)
        uid, theirs, cost = uuid7(int(at_ms) - latency, rng), "", f"0.{tokens_in * 3 + tokens_out * 15:09d}"
        if random() < 0.4:
            theirs = f"{rng.getrandbits(128):032x}"
        values = (
            uid, theirs, f"{at:%Y-%m-%d %H:%M:%S.%f}" if as_text else at, tokens_in, tokens_out,
            tokens_in + tokens_out, cost, cost, latency, latency // 3, random() < 0.004,
        )  # fmt: skip
        for place, value in zip(mine, values, strict=True):
            row[place] = value
        yield tuple(row)
