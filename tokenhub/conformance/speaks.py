"""The clients: how each dialect asks, and how it hands back a tool's result. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tokenhub.conformance import grammar_chat, grammar_messages, grammar_responses
from tokenhub.conformance.sse import Event
from tokenhub.conformance.values import CHAT, MESSAGES, RESPONSES, Ask, Image, Said, Trouble

BUDGET_TOKENS = 2048


class Client(Protocol):
    dialect: str
    path: str

    def headers(self, key: str) -> dict[str, str]: ...

    def body(self, ask: Ask, *, model: str, stream: bool) -> dict[str, Any]: ...

    def turns(self, ask: Ask) -> list[Any]:
        """What the ask adds to the conversation: its results and its text."""

    def whole(self, body: Any) -> Said: ...

    def stream(self, events: Sequence[Event], ask: Ask) -> Said: ...

    def error(self, body: Any) -> Trouble: ...


class Chat:
    dialect = CHAT
    path = "/v1/chat/completions"

    def headers(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"}

    def body(self, ask: Ask, *, model: str, stream: bool) -> dict[str, Any]:
        role = "developer" if ask.otherwise else "system"
        system = [{"role": role, "content": ask.system}] if ask.system else []
        body: dict[str, Any] = {
            "model": model,
            "messages": [*system, *ask.history, *self.turns(ask)],
            "max_completion_tokens": ask.max_tokens,
        }
        if ask.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {"name": one.name, "description": one.description, "parameters": one.schema},
                }
                for one in ask.tools
            ]
        if ask.tool_choice:
            named = {"type": "function", "function": {"name": ask.tool_choice}}
            body["tool_choice"] = ask.tool_choice if ask.tool_choice in _MODES else named
        if ask.one_call_at_a_time:
            body["parallel_tool_calls"] = False
        if ask.schema is not None:
            shape = {"name": "answer", "schema": ask.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        if ask.stop:
            body["stop"] = list(ask.stop)
        if ask.reasoning:
            body["reasoning_effort"] = "medium"
        if stream:
            body["stream"] = True
            if not ask.hide_usage:
                body["stream_options"] = {"include_usage": True}
        return {**body, **ask.further}

    def turns(self, ask: Ask) -> list[Any]:
        turns: list[Any] = [{"role": "tool", "tool_call_id": one.call_id, "content": one.text} for one in ask.results]
        parts: list[Any] = [{"type": "text", "text": ask.text}] if ask.text else []
        if ask.image is not None:
            parts.append({"type": "image_url", "image_url": {"url": _url(ask.image)}})
        if (file := ask.document) is not None:
            data = f"data:{file.media_type};base64,{file.data}"
            parts.append({"type": "file", "file": {"filename": file.name, "file_data": data}})
        if parts:
            turns.append({"role": "user", "content": parts if len(parts) > 1 or ask.otherwise else ask.text})
        return turns

    def whole(self, body: Any) -> Said:
        return grammar_chat.read_whole(body)

    def stream(self, events: Sequence[Event], ask: Ask) -> Said:
        return grammar_chat.read_stream(events, usage_asked=not ask.hide_usage)

    def error(self, body: Any) -> Trouble:
        return grammar_chat.read_error(body)


class Messages:
    dialect = MESSAGES
    path = "/v1/messages"

    def headers(self, key: str) -> dict[str, str]:
        return {"x-api-key": key, "anthropic-version": "2023-06-01"}

    def body(self, ask: Ask, *, model: str, stream: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": ask.max_tokens,
            "messages": [*ask.history, *self.turns(ask)],
        }
        if ask.system:
            body["system"] = [{"type": "text", "text": ask.system}] if ask.otherwise else ask.system
        if ask.tools:
            body["tools"] = [
                {"name": one.name, "description": one.description, "input_schema": one.schema} for one in ask.tools
            ]
        choice: dict[str, Any] = {}
        if ask.tool_choice:
            mode = {"required": "any"}.get(ask.tool_choice, ask.tool_choice)
            choice = {"type": mode} if ask.tool_choice in _MODES else {"type": "tool", "name": ask.tool_choice}
        if ask.one_call_at_a_time:
            choice = {"type": "auto", **choice, "disable_parallel_tool_use": True}
        if choice:
            body["tool_choice"] = choice
        if ask.schema is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": ask.schema}}
        if ask.stop:
            body["stop_sequences"] = list(ask.stop)
        if ask.reasoning:
            body["thinking"] = {"type": "enabled", "budget_tokens": BUDGET_TOKENS}
        if stream:
            body["stream"] = True
        return {**body, **ask.further}

    def turns(self, ask: Ask) -> list[Any]:
        blocks: list[dict[str, Any]] = []
        for one in ask.results:
            block = {"type": "tool_result", "tool_use_id": one.call_id, "content": one.text}
            blocks.append({**block, "is_error": True} if one.is_error else block)
        if ask.image is not None:
            data = {"type": "base64", "media_type": ask.image.media_type, "data": ask.image.data}
            source = {"type": "url", "url": ask.image.url} if ask.image.url else data
            blocks.append({"type": "image", "source": source})
        if (file := ask.document) is not None:
            source = {"type": "base64", "media_type": file.media_type, "data": file.data}
            blocks.append({"type": "document", "source": source, "title": file.name})
        if ask.otherwise and not blocks:
            return [{"role": "user", "content": ask.text}]
        if ask.text:
            blocks.append({"type": "text", "text": ask.text})
        return [{"role": "user", "content": blocks}] if blocks else []

    def whole(self, body: Any) -> Said:
        return grammar_messages.read_whole(body)

    def stream(self, events: Sequence[Event], ask: Ask) -> Said:
        return grammar_messages.read_stream(events)

    def error(self, body: Any) -> Trouble:
        return grammar_messages.read_error(body)


class Responses:
    dialect = RESPONSES
    path = "/v1/responses"

    def headers(self, key: str) -> dict[str, str]:
        return {"authorization": f"Bearer {key}"}

    def body(self, ask: Ask, *, model: str, stream: bool) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "input": self._input(ask),
            "max_output_tokens": ask.max_tokens,
            "store": False,
        }
        if ask.system and not ask.otherwise:
            body["instructions"] = ask.system
        if ask.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "name": one.name,
                    "description": one.description,
                    "parameters": one.schema,
                    "strict": False,
                }
                for one in ask.tools
            ]
        if ask.tool_choice:
            named = {"type": "function", "name": ask.tool_choice}
            body["tool_choice"] = ask.tool_choice if ask.tool_choice in _MODES else named
        if ask.one_call_at_a_time:
            body["parallel_tool_calls"] = False
        if ask.schema is not None:
            shape = {"type": "json_schema", "name": "answer", "schema": ask.schema, "strict": True}
            body["text"] = {"format": shape}
        if ask.reasoning:
            body["reasoning"] = {"effort": "medium", "summary": "auto"}
            body["include"] = ["reasoning.encrypted_content"]
        if stream:
            body["stream"] = True
        return {**body, **ask.further}

    def _input(self, ask: Ask) -> Any:
        if ask.otherwise and not ask.system and not ask.history and not ask.results:
            return ask.text
        system = [{"role": "developer", "content": ask.system}] if ask.system and ask.otherwise else []
        return [*system, *ask.history, *self.turns(ask)]

    def turns(self, ask: Ask) -> list[Any]:
        turns: list[Any] = [
            {"type": "function_call_output", "call_id": one.call_id, "output": one.text} for one in ask.results
        ]
        parts: list[Any] = [{"type": "input_text", "text": ask.text}] if ask.text else []
        if ask.image is not None:
            parts.append({"type": "input_image", "image_url": _url(ask.image), "detail": "auto"})
        if (file := ask.document) is not None:
            data = f"data:{file.media_type};base64,{file.data}"
            parts.append({"type": "input_file", "filename": file.name, "file_data": data})
        return [*turns, {"role": "user", "content": parts}] if parts else turns

    def whole(self, body: Any) -> Said:
        return grammar_responses.read_whole(body)

    def stream(self, events: Sequence[Event], ask: Ask) -> Said:
        return grammar_responses.read_stream(events)

    def error(self, body: Any) -> Trouble:
        return grammar_chat.read_error(body)


CLIENTS: dict[str, Client] = {CHAT: Chat(), MESSAGES: Messages(), RESPONSES: Responses()}
_MODES = frozenset({"auto", "none", "required"})


def _url(image: Image) -> str:
    return image.url or f"data:{image.media_type};base64,{image.data}"
