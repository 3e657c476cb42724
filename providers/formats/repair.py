"""Histories as coding agents leave them: calls whose result never came, results whose call was cut off, the same call
twice. Every provider refuses those, so what is rendered for one is mended first: each call is followed at once by one
result of its own, and nothing that was said is lost. A history without faults stays as it is. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from providers.formats.canonical import Message, Part, Text, ToolCall, ToolResult

NO_RESULT: Final = "The call was interrupted; there is no result."


def repaired(messages: Sequence[Message]) -> list[Message]:
    if _is_sound(messages):
        return list(messages)
    calls_once, first_ids = _without_repeated_calls(messages)
    results, orphans = _matched(calls_once, first_ids)
    out: list[Message] = []
    for number, message in enumerate(calls_once):
        parts: list[Part] = []
        for place, part in enumerate(message.parts):
            if not isinstance(part, ToolResult):
                parts.append(part)
            elif (number, place) in orphans:
                parts += [Text(f"The result of the tool call {part.call_id}:"), *part.parts]
        if parts or not message.parts:
            out.append(replace(message, parts=tuple(parts)))
        calls = [part for part in message.parts if isinstance(part, ToolCall)]
        if calls:
            out.append(Message("user", tuple(results[number, call.id] for call in calls)))
    return _joined(out)


def _is_sound(messages: Sequence[Message]) -> bool:
    """Results follow at once upon their calls, each once, in whatever order; no id stands twice."""
    open_calls: set[str] = set()
    used: set[str] = set()
    for message in messages:
        if message.role == "user":
            for part in message.parts:
                if isinstance(part, ToolResult):
                    if part.call_id not in open_calls:
                        return False
                    open_calls.discard(part.call_id)
                elif open_calls:
                    return False
            continue
        if open_calls:
            return False
        calls = [part.id for part in message.parts if isinstance(part, ToolCall)]
        open_calls = set(calls)
        if len(open_calls) != len(calls) or not used.isdisjoint(calls):
            return False
        used |= open_calls
    return not open_calls


def _without_repeated_calls(messages: Sequence[Message]) -> tuple[list[Message], dict[str, str]]:
    """A turn that says one call twice says it once; two calls under one id get ids of their own, in different turns
    too: some servers count from 0 in each. Also the id that each new one stands for."""
    out: list[Message] = []
    first_ids: dict[str, str] = {}
    used: set[str] = set()
    for message in messages:
        seen: set[tuple[str, str, str]] = set()
        parts: list[Part] = []
        for part in message.parts:
            if isinstance(part, ToolCall):
                if (call := (part.id, part.name, part.arguments)) in seen:
                    continue
                seen.add(call)
                if part.id in used:
                    own = f"{part.id}_{len(used)}"
                    while own in used:
                        own += "_"
                    first_ids[own] = part.id
                    part = replace(part, id=own)
                used.add(part.id)
            parts.append(part)
        out.append(replace(message, parts=tuple(parts)))
    return out, first_ids


def _matched(
    messages: Sequence[Message], first_ids: Mapping[str, str]
) -> tuple[dict[tuple[int, str], ToolResult], set[tuple[int, int]]]:
    """Each call's result by the number of its turn and its id; where the results stand that belong to no call. Of
    several results for one call the last holds."""
    waiting: dict[str, deque[tuple[int, str]]] = {}
    answered: dict[str, tuple[int, str]] = {}
    results: dict[tuple[int, str], ToolResult] = {}
    orphans: set[tuple[int, int]] = set()
    for number, message in enumerate(messages):
        for part in message.parts:
            if isinstance(part, ToolCall):  # an id that is used again begins anew
                waiting.pop(first_ids.get(part.id, part.id), None)
                answered.pop(first_ids.get(part.id, part.id), None)
        for place, part in enumerate(message.parts):
            if isinstance(part, ToolCall):
                waiting.setdefault(first_ids.get(part.id, part.id), deque()).append((number, part.id))
                results[number, part.id] = ToolResult(part.id, (Text(NO_RESULT),), is_error=True)
            elif isinstance(part, ToolResult):
                if queue := waiting.get(part.call_id):
                    answered[part.call_id] = queue.popleft()
                if (call := answered.get(part.call_id)) is not None:
                    results[call] = replace(part, call_id=call[1])
                else:
                    orphans.add((number, place))
    return results, orphans


def _joined(messages: list[Message]) -> list[Message]:
    """Results and what the user said after them stand in one turn, as they did."""
    out: list[Message] = []
    for message in messages:
        last = out[-1] if out else None
        if (
            last is not None
            and message.role == last.role == "user"
            and not message.name
            and isinstance(last.parts[-1] if last.parts else None, ToolResult)
        ):
            out[-1] = replace(last, parts=(*last.parts, *message.parts))
        else:
            out.append(message)
    return out
