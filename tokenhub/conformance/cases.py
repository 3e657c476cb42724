"""The golden conversations. Each is played for every pair of a client's and an upstream's dialect that it names, whole
and as a stream. A case raises BrokenRule when something is wrong and Skipped where it means nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tokenhub.conformance import cases_errors as errors
from tokenhub.conformance import cases_further as further
from tokenhub.conformance import cases_parts as parts
from tokenhub.conformance import cases_text as text
from tokenhub.conformance import cases_tools as tools
from tokenhub.conformance.play import Play
from tokenhub.conformance.values import CHAT, DIALECTS, EMBEDDINGS, MESSAGES, RESPONSES


@dataclass(frozen=True, slots=True)
class Case:
    """`upstreams`: empty for what no upstream has a part in."""

    name: str
    play: Callable[[Play], None]
    clients: tuple[str, ...] = DIALECTS
    upstreams: tuple[str, ...] = DIALECTS
    modes: tuple[bool, ...] = (False, True)


_WHOLE: Final = (False,)
_STREAM: Final = (True,)
CASES: Final = (
    Case("plain text", text.plain),
    Case("unicode", text.unicode),
    Case("long text", text.long),
    Case("conversation", text.conversation),
    Case("other spelling", text.other_spelling),
    Case("empty answer", text.empty_answer),
    Case("usage", text.usage),
    Case("usage not asked for", text.usage_hidden, clients=(CHAT,), modes=_STREAM),
    Case("arrives as it is said", text.arrives, modes=_STREAM),
    Case("one byte at a time", text.bytewise, modes=_STREAM),
    Case("CRLF and comments", text.windows, modes=_STREAM),
    Case("one tool call", tools.one_tool),
    Case("parallel tool calls", tools.parallel_tools),
    Case("tool without arguments", tools.empty_arguments),
    Case("tool results", tools.tool_results),
    Case("tool loop", tools.tool_loop),
    Case("tool result is an error", tools.failed_tool, clients=(MESSAGES,)),
    Case("tool choice required", tools.choice_required),
    Case("tool choice by name", tools.choice_named),
    Case("tool choice none", tools.choice_none),
    Case("image in base64", parts.image_data),
    Case("image by URL", parts.image_url),
    Case("document in base64", parts.document),
    Case("reasoning", parts.thinking),
    Case("reasoning handed back", parts.thinking_handed_back),
    Case("redacted reasoning", parts.redacted_thinking, upstreams=(MESSAGES,)),
    Case("moves to another upstream", parts.moves),
    Case("structured output", text.structured),
    Case("stop by length", text.cut_by_length),
    Case("stop within a tool call", text.cut_in_call),
    Case("stop sequence", text.stop_sequence),
    Case("refusal", text.refusal),
    Case("dropped parameters", errors.dropped, clients=(CHAT,), upstreams=(MESSAGES,)),
    Case("strict parameters", errors.strict, clients=(CHAT,), upstreams=(MESSAGES,)),
    Case("earlier response by id", errors.earlier_response, clients=(RESPONSES,)),
    Case("count tokens", further.count_tokens, clients=(MESSAGES,), modes=_WHOLE),
    Case("embeddings", further.embeddings, clients=(CHAT,), upstreams=(EMBEDDINGS,), modes=_WHOLE),
    Case("list of models", further.models, clients=(CHAT, MESSAGES), upstreams=(), modes=_WHOLE),
    Case("one model", further.one_model, clients=(CHAT, MESSAGES), upstreams=(), modes=_WHOLE),
    Case("unknown model", errors.unknown_model, upstreams=()),
    Case("bad key", errors.bad_key, upstreams=()),
    Case("upstream rejects", errors.rejected),
    Case("upstream is broken", errors.upstream_broken),
    Case("upstream dies mid-stream", errors.cut_stream, modes=_STREAM),
    Case("upstream fails mid-stream", errors.failed_stream, modes=_STREAM),
    Case("upstream fails at once", errors.failed_at_once),
    Case("upstream limits the rate", errors.limited),
)
"""What may make a gateway wary of an upstream stands last."""
