"""What clients ask beside a conversation: tokens, vectors, models."""

from __future__ import annotations

import base64
import struct
from typing import Any
from urllib.parse import quote

from tokenhub.conformance.play import Heard, Play
from tokenhub.conformance.rules import a_count, a_list, a_text, an_object, need, short
from tokenhub.conformance.scripts import TOKENS_COUNTED
from tokenhub.conformance.upstream import VECTOR
from tokenhub.conformance.values import MESSAGES


def count_tokens(play: Play) -> None:
    body = {"model": play.model, "system": "Be brief.", "messages": [{"role": "user", "content": "How long is this?"}]}
    heard = play.heard = play.request("POST", "/v1/messages/count_tokens", body)
    answer = _ok(heard)
    tokens = a_count(answer.get("input_tokens"), "input_tokens")
    if play.dialect == MESSAGES:
        need(tokens == TOKENS_COUNTED, f"input_tokens is {tokens}, the upstream counted {TOKENS_COUNTED}")
        return
    need(tokens > 0, "input_tokens is 0")
    if play.is_tokenhub:
        need(heard.headers.get("x-tokenhub-estimated") == "true", "an estimate is not marked as one")


def embeddings(play: Play) -> None:
    for form in ("float", "base64"):
        body = {"model": play.model, "input": ["one", "two"], "encoding_format": form}
        answer = _ok(play.request("POST", "/v1/embeddings", body))
        need(answer.get("object") == "list", f"object is {short(answer.get('object'))}, not list")
        rows = a_list(answer.get("data"), "data")
        need([row.get("index") for row in rows] == [0, 1], f"the rows are {short(rows)}")
        for row in rows:
            need(row.get("object") == "embedding", f"object is {short(row.get('object'))}, not embedding")
            vector = row.get("embedding")
            if form == "base64":
                vector = list(struct.unpack(f"<{len(VECTOR)}f", base64.b64decode(a_text(vector, "embedding"))))
            need(vector == list(VECTOR), f"the vector is {short(vector)}")
        a_count(an_object(answer.get("usage"), "usage").get("prompt_tokens"), "usage.prompt_tokens")


def models(play: Play) -> None:
    answer = _ok(play.request("GET", "/v1/models"))
    rows = a_list(answer.get("data"), "data")
    for row in rows:
        _is_model(play, row)
    need(any(row["id"] == play.model for row in rows), f"{play.model} is not listed")
    if play.client.dialect == MESSAGES:
        need(isinstance(answer.get("has_more"), bool), f"has_more is {short(answer.get('has_more'))}")
        need(answer.get("first_id") == rows[0]["id"], f"first_id is {short(answer.get('first_id'))}")
        need(answer.get("last_id") == rows[-1]["id"], f"last_id is {short(answer.get('last_id'))}")
    else:
        need(answer.get("object") == "list", f"object is {short(answer.get('object'))}, not list")


def one_model(play: Play) -> None:
    row = _ok(play.request("GET", f"/v1/models/{quote(play.model)}"))
    _is_model(play, row)
    need(row["id"] == play.model, f"id is {short(row['id'])}")


def _is_model(play: Play, row: Any) -> None:
    model = an_object(row, "a model")
    a_text(model.get("id"), "a model's id", filled=True)
    if play.client.dialect == MESSAGES:
        need(model.get("type") == "model", f"type is {short(model.get('type'))}, not model")
        a_text(model.get("display_name"), "display_name", filled=True)
        a_text(model.get("created_at"), "created_at", filled=True)
    else:
        need(model.get("object") == "model", f"object is {short(model.get('object'))}, not model")
        a_count(model.get("created"), "created")
        a_text(model.get("owned_by"), "owned_by", filled=True)


def _ok(heard: Heard) -> dict[str, Any]:
    need(heard.status == 200, f"status {heard.status}: {heard.content[:300].decode('utf-8', 'replace')}")
    return an_object(heard.json(), "the answer")
