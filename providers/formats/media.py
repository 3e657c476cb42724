"""How much of a conversation is data of images, documents and recordings: only where a provider reads a part as such.
Whatever else looks like it, in texts, in arguments of tools, in fields that nobody knows, is text. Takes the parts of
every dialect, as a body may be passed on or translated. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

_decode = msgspec.json.Decoder().decode
_PDF: Final = "application/pdf"
_PDF_BEGINS: Final = "JVBERi0"  # "%PDF-" in base64
_URLS: Final = ("image_url", "video_url", "audio_url")  # parts that have no type are told by these
_MARKUP: Final = "image/svg+xml"  # which is text


class Media(NamedTuple):
    """`data`: bytes that are no text, in base64; of these `pages` are of PDFs, `recordings` of audio.
    `has_more_elsewhere`: what counts as input does not stand in the body, or nobody can tell."""

    images: int = 0
    data: int = 0
    pages: int = 0
    recordings: int = 0
    has_more_elsewhere: bool = False


UNREADABLE: Final = Media(has_more_elsewhere=True)


def media_of(turns: bytes | memoryview) -> Media:
    """`turns`: messages of OpenAI chat or Anthropic, or items of Responses, as JSON."""
    if not turns:
        return Media()
    try:
        found = _decode(turns)
    except (msgspec.MsgspecError, RecursionError):  # of numbers out of range, say; nothing is left out then
        return UNREADABLE
    tally = _Tally()
    for turn in found if isinstance(found, list) else ():
        if isinstance(turn, dict):
            tally.add_item(turn)
            tally.todo += (turn.get("content"), turn.get("output"))
    while tally.todo:
        part = tally.todo.pop()
        if isinstance(part, list):
            tally.todo += part
        elif isinstance(part, dict):
            tally.add_part(part)
    return Media(tally.images, tally.data, tally.pages, tally.recordings, tally.has_more_elsewhere)


class _Tally:
    """`todo`: contents that may hold parts."""

    def __init__(self) -> None:
        self.images = self.data = self.pages = self.recordings = 0
        self.has_more_elsewhere = False
        self.todo: list[Any] = []

    def add_item(self, item: dict[str, Any]) -> None:
        """Of Responses, by its type."""
        match item.get("type"):
            case "image_generation_call":
                self.images += 1
                self.data += len(_text(item, "result"))
            case "item_reference":
                self.has_more_elsewhere = True

    def add_part(self, part: dict[str, Any]) -> None:
        match part.get("type") or next((name for name in _URLS if name in part), ""):
            case "image_url" | "input_image" | "computer_screenshot":
                url = part.get("image_url")
                self._add_image(*_split(_text(url, "url") if isinstance(url, dict) else _text(part, "image_url")))
            case "image":
                self._add_image(*_base64(part.get("source")))
            case "document":
                self._add_source(part.get("source"))
            case "file":
                self._add_file(part.get("file"))
            case "input_file":
                self._add_file(part)
            case "input_audio":
                recording = len(_text(part.get("input_audio"), "data"))
                self.data += recording
                self.recordings += recording
            case "video_url" | "audio_url" as name:
                if not _text(part.get(name), "url").lower().startswith("data:"):
                    self.has_more_elsewhere = True
            case "container_upload":
                self.has_more_elsewhere = True
            case "tool_result":
                self.todo.append(part.get("content"))
            case "web_fetch_tool_result":
                fetched = part.get("content")
                self.todo.append(fetched.get("content") if isinstance(fetched, dict) else None)

    def _add_image(self, kind: str, data: str) -> None:
        self.images += 1
        if kind.startswith("image/") and kind != _MARKUP:
            self.data += len(data)
        else:
            self._add_document(kind, data)

    def _add_source(self, source: Any) -> None:
        """Of Anthropic's documents."""
        match source.get("type") if isinstance(source, dict) else None:
            case "base64":
                self._add_document(*_base64(source))
            case "content":
                self.todo.append(source.get("content"))
            case "text":
                pass
            case _:
                self.has_more_elsewhere = True

    def _add_file(self, file: Any) -> None:
        """Of OpenAI: what its name and its type say must agree."""
        if not (given := _text(file, "file_data")):
            self.has_more_elsewhere = True
            return
        kind, data = _split(given)
        if not (_text(file, "filename") or ".pdf").lower().endswith(".pdf"):
            kind = "text/plain"
        self._add_document(kind or _PDF, data or given)

    def _add_document(self, kind: str, data: str) -> None:
        """Any other than a PDF may be text, and is no shorter than its tokens."""
        if kind == _PDF and data.startswith(_PDF_BEGINS):
            self.data += len(data)
            self.pages += len(data)


def _split(url: str) -> tuple[str, str]:
    """Media type and base64 of a data URL; empty where it is none."""
    if url[:5].lower() != "data:":
        return "", ""
    head, _, data = url.partition(",")
    kind, *options = head[5:].lower().split(";")
    return (kind.strip(), data) if "base64" in options else ("text/plain", "")


def _base64(source: Any) -> tuple[str, str]:
    """The same of an Anthropic source."""
    if not isinstance(source, dict) or source.get("type") != "base64":
        return "", ""
    return _text(source, "media_type").lower(), _text(source, "data")


def _text(holder: Any, name: str) -> str:
    found = holder.get(name) if isinstance(holder, dict) else None
    return found if isinstance(found, str) else ""
