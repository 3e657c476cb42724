"""How much a model is to think: efforts, budgets in tokens, and what each family of models takes. Pure.

The budgets are OpenRouter's and LiteLLM's orders of magnitude; providers document none for their own efforts."""

from __future__ import annotations

import re
from typing import Final

MIN_BUDGET: Final = 1024
_BUDGETS: Final = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16_384, "xhigh": 32_768, "max": 65_536}
_LOW_UNTIL: Final = 4096
_MEDIUM_UNTIL: Final = 12_288

_CLAUDE_ADAPTIVE = re.compile(r"claude-(?!3)[a-z]+-(?:4-[6-9]|[5-9]|\d\d)(?!\d)")
_CLAUDE_SILENT = re.compile(r"claude-(?:instant|2|3-(?:5|opus|sonnet|haiku))")
_CLAUDE_SCHEMA = re.compile(r"claude-(?!3)[a-z]+-(?:4-[5-9]|[5-9]|\d\d)(?!\d)|claude-opus-4-1")
_CLAUDE_FIXED = re.compile(r"claude-(?!3)[a-z]+-(?:4-[7-9]|[5-9]|\d\d)(?!\d)")
_CLAUDE_ONE_KNOB = re.compile(r"claude-(?!3)[a-z]+-4-[1-6](?!\d)")
_OPENAI = re.compile(r"(?:^|/)(?:gpt-\d|chatgpt-|o\d)")
_OPENAI_SILENT = re.compile(r"(?:^|/)(?:gpt-(?:3|4)|chatgpt-)")
_OPENAI_XHIGH = re.compile(r"(?:^|/)gpt-(?:5\.[2-9]|[6-9]|\d\d)|codex-max")


def budget_of(effort: str) -> int:
    return _BUDGETS.get(effort, _BUDGETS["medium"])


def effort_of(budget_tokens: int) -> str:
    if budget_tokens <= _LOW_UNTIL:
        return "low"
    return "medium" if budget_tokens <= _MEDIUM_UNTIL else "high"


def may_reason(model: str, abilities: frozenset[str]) -> bool:
    """Whether the model may be told how much to think. An operator's word counts before a name; a name that says
    nothing may."""
    if abilities:
        return "reasoning" in abilities
    return not _CLAUDE_SILENT.search(model) and not _OPENAI_SILENT.search(model)


def is_openai_model(model: str) -> bool:
    return _OPENAI.search(model) is not None


def is_openai_reasoner(model: str) -> bool:
    return is_openai_model(model) and not _OPENAI_SILENT.search(model)


def takes_adaptive_thinking(model: str) -> bool:
    """Claude models that choose their budget themselves, by effort; later ones take no budget at all."""
    return _CLAUDE_ADAPTIVE.search(model) is not None


def samples_in_one_way(model: str) -> bool:
    """Claude models that refuse every temperature, top_p and top_k."""
    return _CLAUDE_FIXED.search(model) is not None


def takes_one_of_temperature_and_top_p(model: str) -> bool:
    return _CLAUDE_ONE_KNOB.search(model) is not None


def takes_output_schema(model: str) -> bool:
    """Claude models with structured output of their own."""
    return _CLAUDE_SCHEMA.search(model) is not None


def openai_effort(effort: str, model: str) -> str:
    """The nearest effort that the model knows."""
    if effort in {"xhigh", "max"} and is_openai_model(model) and not _OPENAI_XHIGH.search(model):
        return "high"
    return "xhigh" if effort == "max" else effort


def claude_effort(effort: str) -> str:
    return "low" if effort in {"minimal", "none"} else effort
