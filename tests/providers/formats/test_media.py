"""What of a request is data of media, and what is text however it looks."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import pytest

from providers.formats.media import Media
from providers.formats.registry import DIALECTS

PNG = b64encode(b"\x89PNG\r\n" + bytes(3000)).decode()
PDF = b64encode(b"%PDF-1.7\n" + bytes(3000)).decode()
LETTERS = "0123456789abcdef" * 100
TEXT = b64encode(b"Words, and no pages. " * 100).decode()
LINK = "https://files.example/one"


def media(dialect: str, body: Mapping[str, Any]) -> Media:
    envelope = DIALECTS[dialect].read_envelope(json.dumps({"model": "m", **body}).encode())
    return envelope.media if envelope.has_media else Media()


def chat(*parts: Any) -> Media:
    return media("openai-chat", {"messages": [{"role": "user", "content": [*parts]}]})


def responses(*parts: Any) -> Media:
    return media("openai-responses", {"input": [{"role": "user", "content": [*parts]}]})


def anthropic(*parts: Any) -> Media:
    return media("anthropic-messages", {"messages": [{"role": "user", "content": [*parts]}], "max_tokens": 9})


def source(kind: str, data: str) -> dict[str, str]:
    return {"type": "base64", "media_type": kind, "data": data}


def of_image(data: str, count: int = 1) -> Media:
    return Media(images=count, data=len(data) * count)


def of_pdf(data: str) -> Media:
    return Media(data=len(data), pages=len(data))


def of_recording(data: str) -> Media:
    return Media(data=len(data), recordings=len(data))


ELSEWHERE = Media(has_more_elsewhere=True)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": LETTERS}, Media()),
        ({"type": "text", "text": f'"type": "image" "image_url" ;base64,{PNG}'}, Media()),
        ({"type": "image_url", "image_url": {"url": LINK}}, Media(images=1)),
        ({"type": "image_url", "image_url": LINK}, Media(images=1)),
        ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}, of_image(PNG)),
        ({"type": "image_url", "image_url": {"url": f"DATA:image/png;x=y;base64,{PNG}"}}, of_image(PNG)),
        ({"image_url": {"url": LINK}}, Media(images=1)),
        ({"type": "image_url", "image_url": {"url": LINK, "detail": LETTERS}, "text": LETTERS}, Media(images=1)),
        ({"type": "image_url", "image_url": {"url": f"data:text/plain;base64,{LETTERS}"}}, Media(images=1)),
        ({"type": "image_url", "image_url": {"url": f"data:image/svg+xml;base64,{LETTERS}"}}, Media(images=1)),
        ({"type": "image_url", "image_url": {"url": f"data:image/png,{LETTERS}"}}, Media(images=1)),
        ({"type": "image_url", "image_url": {"url": LETTERS}}, Media(images=1)),
        ({"type": "image_url", "image_url": {"url": 7}}, Media(images=1)),
        ({"type": "image_url", "image_url": None}, Media(images=1)),
        ({"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}"}}, of_pdf(PDF)),
        ({"type": "file", "file": {"file_data": PDF, "filename": "One.PDF"}}, of_pdf(PDF)),
        ({"type": "file", "file": {"file_data": PDF, "filename": "one.txt"}}, Media()),
        ({"type": "file", "file": {"file_data": f"data:text/plain;base64,{PDF}"}}, Media()),
        ({"type": "file", "file": {"file_data": f"data:application/pdf;base64,{TEXT}"}}, Media()),
        ({"type": "file", "file": {"file_data": TEXT, "filename": "one.pdf"}}, Media()),
        ({"type": "file", "file": {"file_id": "file-1"}}, ELSEWHERE),
        ({"type": "file", "file": LETTERS}, ELSEWHERE),
        ({"type": "input_audio", "input_audio": {"data": LETTERS, "format": "mp3"}}, of_recording(LETTERS)),
        ({"type": "input_audio", "input_audio": LETTERS}, Media()),
        ({"type": "video_url", "video_url": {"url": LINK}}, ELSEWHERE),
        ({"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{LETTERS}"}}, Media()),
        ({"type": "no one knows it", "data": LETTERS, "image": {"source": source("image/png", PNG)}}, Media()),
    ],
)
def test_parts_of_chat(part: dict[str, Any], expected: Media) -> None:
    assert chat(part) == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "input_text", "text": f"input_image {LETTERS}"}, Media()),
        ({"type": "input_image", "image_url": LINK}, Media(images=1)),
        ({"type": "input_image", "file_id": "file-1"}, Media(images=1)),
        ({"type": "input_image", "image_url": f"data:image/jpeg;base64,{PNG}"}, of_image(PNG)),
        ({"type": "input_image", "image_url": f"data:application/pdf;base64,{PDF}"}, Media(1, len(PDF), len(PDF))),
        ({"type": "input_file", "file_data": PDF}, of_pdf(PDF)),
        ({"type": "input_file", "file_data": TEXT, "filename": "words.txt"}, Media()),
        ({"type": "input_file", "file_url": LINK}, ELSEWHERE),
        ({"type": "input_file", "file_id": "file-1"}, ELSEWHERE),
        ({"type": "input_audio", "input_audio": {"data": LETTERS, "format": "wav"}}, of_recording(LETTERS)),
    ],
)
def test_parts_of_responses(part: dict[str, Any], expected: Media) -> None:
    assert responses(part) == expected


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": LINK}]},
            Media(images=1),
        ),
        ({"type": "function_call_output", "call_id": "c", "output": f'{{"type": "image", "x": "{LETTERS}"}}'}, Media()),
        (
            {"type": "computer_call_output", "output": {
                "type": "computer_screenshot", "image_url": f"data:image/png;base64,{PNG}"}},
            of_image(PNG),
        ),
        ({"type": "image_generation_call", "id": "i", "result": PNG}, of_image(PNG)),
        ({"type": "image_generation_call", "id": "i"}, Media(images=1)),
        ({"type": "item_reference", "id": "msg_1"}, ELSEWHERE),
        ({"type": "function_call", "name": "f", "arguments": json.dumps({"type": "image", "data": LETTERS})}, Media()),
    ],
)  # fmt: skip
def test_items_of_responses(item: dict[str, Any], expected: Media) -> None:
    assert media("openai-responses", {"input": [item]}) == expected


IMAGE = {"type": "image", "source": source("image/png", PNG)}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": json.dumps(IMAGE)}, Media()),
        (IMAGE, of_image(PNG)),
        ({"type": "image", "source": {"type": "url", "url": LINK}}, Media(images=1)),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, Media(images=1)),
        ({"type": "image", "source": source("text/plain", LETTERS)}, Media(images=1)),
        ({"type": "image", "source": {"type": "text", "media_type": "image/png", "data": LETTERS}}, Media(images=1)),
        ({"type": "document", "source": source("application/pdf", PDF)}, of_pdf(PDF)),
        ({"type": "document", "source": source("text/plain", PDF)}, Media()),
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": LETTERS}}, Media()),
        ({"type": "document", "source": {"type": "text", "media_type": "application/pdf", "data": PDF}}, Media()),
        ({"type": "document", "source": {"type": "content", "content": [IMAGE]}}, of_image(PNG)),
        ({"type": "document", "source": {"type": "content", "content": LETTERS}}, Media()),
        ({"type": "document", "source": {"type": "url", "url": LINK}}, ELSEWHERE),
        ({"type": "document", "source": {"type": "file", "file_id": "f"}}, ELSEWHERE),
        ({"type": "document"}, ELSEWHERE),
        ({"type": "container_upload", "file_id": "f"}, ELSEWHERE),
        ({"type": "tool_result", "tool_use_id": "t", "content": [IMAGE, IMAGE]}, of_image(PNG, 2)),
        ({"type": "tool_result", "tool_use_id": "t", "content": json.dumps(IMAGE)}, Media()),
        ({"type": "tool_use", "id": "t", "name": "draw", "input": IMAGE}, Media()),
        ({"type": "tool_use", "id": "t", "name": "draw", "input": {"content": [IMAGE]}}, Media()),
        (
            {"type": "web_fetch_tool_result", "tool_use_id": "t", "content": {
                "type": "web_fetch_result", "url": LINK,
                "content": {"type": "document", "source": source("application/pdf", PDF)}}},
            of_pdf(PDF),
        ),
    ],
)  # fmt: skip
def test_parts_of_anthropic(part: dict[str, Any], expected: Media) -> None:
    assert anthropic(part) == expected


def test_all_parts_of_all_messages_count() -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    turns = [{"role": "tool", "tool_call_id": "c", "content": [part, part]}, {"role": "user", "content": [part]}]
    assert media("openai-chat", {"messages": turns}) == of_image(PNG, 3)


def test_media_outside_of_the_conversation_are_text() -> None:
    user = {"role": "user", "content": "Hi"}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"default": IMAGE}}}
    assert media("openai-chat", {"messages": [user], "tools": [tool], "input": [{"content": [IMAGE]}]}) == Media()
    assert media("openai-responses", {"input": "Hi", "messages": [{"content": [IMAGE]}]}) == Media()


@pytest.mark.parametrize(
    "part",
    [
        r'{"type":"im\u0061ge","source":{"type":"url","url":"https://x"}}',
        r'{"\u0074ype":"image","source":{"type":"url","url":"https://x"}}',
        '{"type" :\n"image","source":{"type":"url","url":"https://x"}}',
    ],
)
def test_an_image_counts_however_it_is_written(part: str) -> None:
    body = f'{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":[{part}]}}]}}'
    envelope = DIALECTS["anthropic-messages"].read_envelope(body.encode())
    assert envelope.has_media
    assert envelope.media == Media(images=1)


@pytest.mark.parametrize("odd", ["1e999", "1" * 5000])
def test_nothing_is_left_out_of_what_cannot_be_read(odd: str) -> None:
    part = f'{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{PNG}"}},"x":{odd}}}'
    body = f'{{"model":"m","messages":[{{"role":"user","content":[{part}]}}]}}'
    assert DIALECTS["openai-chat"].read_envelope(body.encode()).media == ELSEWHERE
