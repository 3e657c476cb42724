"""Names of tools that a provider refuses for their length, as agents make them of a server's and a tool's name: OpenAI
takes 64 characters, Anthropic 128. They go out shortened, and come back as they were. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Final

from providers.formats.canonical import ChatRequest, Message, Part, ToolCall, ToolStarted

MAX_LENGTH: Final = 64


def short_name(name: str) -> str:
    """The same name always gives the same one."""
    if len(name) <= MAX_LENGTH:
        return name
    return f"{name[: MAX_LENGTH - 9]}_{sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"


def shortened(request: ChatRequest) -> tuple[ChatRequest, dict[str, str]]:
    """The request with short names, and the long ones by them; itself where nothing is too long."""
    long = {short_name(tool.name): tool.name for tool in request.tools if len(tool.name) > MAX_LENGTH}
    if not long:
        return request, long
    choice = request.tool_choice
    short = replace(
        request,
        tools=[replace(tool, name=short_name(tool.name)) for tool in request.tools],
        tool_choice=replace(choice, name=short_name(choice.name)) if choice is not None else None,
        messages=[_with_short_names(message) for message in request.messages],
    )
    return short, long


def _with_short_names(message: Message) -> Message:
    parts: list[Part] = [
        replace(part, name=short_name(part.name)) if isinstance(part, ToolCall) else part for part in message.parts
    ]
    return replace(message, parts=tuple(parts))


def restored(part: Part, long: Mapping[str, str]) -> Part:
    if isinstance(part, ToolCall) and part.name in long:
        return replace(part, name=long[part.name])
    return part


def restored_event(event: ToolStarted, long: Mapping[str, str]) -> ToolStarted:
    return replace(event, name=long[event.name]) if event.name in long else event
