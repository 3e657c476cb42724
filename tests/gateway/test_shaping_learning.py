"""What the form of answers teaches the mode that learns; and how often a model is asked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.test_shaping import AS_JSON, BAD, COST, GOOD, said
from tests.support.gateway import Gateway
from tests.support.upstream import Upstream


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        server.when(said(BAD), model="sloppy")
        server.when(said(GOOD), model="careful")
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with Gateway(
        tmp_path_factory.mktemp("gateway"),
        providers=[{"id": "p", "type": "openai", "base_url": upstream.url, "dialects": ["openai-chat"]}],
        models=[
            {"id": name, "provider_id": "p", "input_per_1k": "0.001", "output_per_1k": "0.002"}
            for name in ("sloppy", "careful")
        ],
        env={"TOKENHUB_OUTPUT_REPAIRS": "2"},
    ) as running:
        yield running


def ask(gateway: Gateway, model: str) -> Any:
    request = {"messages": [{"role": "user", "content": "How old?"}], "model_hint": model}
    return gateway.post("/v1/chat", {"request": request, "output_format": AS_JSON})


def test_a_model_is_asked_again_as_often_as_the_operator_says(gateway: Gateway, upstream: Upstream) -> None:
    upstream.next(said("old"), said(BAD), said(GOOD))
    answer = ask(gateway, "sloppy")
    assert answer.json()["cost_usd"] == pytest.approx(3 * COST)
    assert [one["model"] for one in answer.json()["attempts"]] == ["sloppy"] * 3
    assert ask(gateway, "sloppy").status_code == 422


def test_models_that_keep_the_form_are_preferred(gateway: Gateway) -> None:
    for _ in range(30):
        ask(gateway, "tokenhub/thompson")
    seen = Counter(ask(gateway, "tokenhub/thompson").status_code for _ in range(30))
    assert seen[200] >= 21, seen  # one half, if the form taught nothing
