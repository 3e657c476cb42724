"""Every change that an operator makes: prompts, and the end of a run."""

from __future__ import annotations

from typing import Final

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Max

from orchestration import store
from orchestration.models import OPEN_STATES, PlanRun, PromptTemplate
from orchestration.prompts import BUILT_IN
from orchestration.steps import placeholders
from telemetry import audit
from tokenhub import turn

OPTIONAL: Final = frozenset({"labels", "done"})
"""Places that a prompt may do without."""


class AlreadyOver(Exception):
    """The run ended before it could be cancelled."""


@transaction.atomic
def cancel(*, run: PlanRun) -> PlanRun:
    """Whoever works on it stops within a second or two. Raises AlreadyOver."""
    if not PlanRun.objects.filter(pk=run.pk, state__in=OPEN_STATES).exists():
        raise AlreadyOver
    before = run.state
    cancelled = store.cancel(run.pk)
    if cancelled is None:
        raise AlreadyOver
    audit.record(
        "workflow.cancel", resource=f"workflow/{run.pk}", name=str(run), changes={"state": [before, cancelled.state]}
    )
    return cancelled


# -- prompts -----------------------------------------------------------------------------------------------------------
def check_prompt(name: str, text: str) -> None:
    """Raises ValidationError."""
    if name not in BUILT_IN:
        raise ValidationError({"name": f"There is no prompt {name!r}; there are {', '.join(BUILT_IN)}."})
    if not text.strip():
        raise ValidationError({"text": "A prompt says something."})
    known, found = placeholders(BUILT_IN[name]), placeholders(text)
    if unknown := sorted(found - known):
        there = ", ".join(f"{{{{{one}}}}}" for one in sorted(known)) or "no places"
        raise ValidationError({"text": f"There is no {{{{{unknown[0]}}}}} in this prompt. It knows {there}."})
    if missing := sorted(known - found - OPTIONAL):
        raise ValidationError({"text": f"It needs {{{{{missing[0]}}}}}: what the models said before stands there."})


@transaction.atomic
def add_prompt(*, name: str, text: str, note: str = "") -> PromptTemplate:
    """A new version, in force from now on. Raises ValidationError."""
    check_prompt(name, text)
    turn.take()  # before the newest is looked up: each number is given once
    newest = PromptTemplate.objects.filter(name=name).aggregate(newest=Max("version"))["newest"] or 0
    prompt = PromptTemplate(
        name=name, version=newest + 1, text=text.strip(), note=note, created_by=audit.origin().who()[:200]
    )
    prompt.full_clean()
    _retire(name)
    prompt.is_active = True
    prompt.save()
    return prompt


@transaction.atomic
def activate(*, prompt: PromptTemplate) -> None:
    """Raises ValidationError where the version does not suit the mode any more."""
    check_prompt(prompt.name, prompt.text)
    _retire(prompt.name)
    prompt.is_active = True
    prompt.save(update_fields=["is_active"])


@transaction.atomic
def revert(*, name: str) -> None:
    """To the built-in one."""
    _retire(name)


def _retire(name: str) -> None:
    turn.take()
    for prompt in PromptTemplate.objects.select_for_update().filter(name=name, is_active=True):
        prompt.is_active = False
        prompt.save(update_fields=["is_active"])


@transaction.atomic
def delete_prompt(*, prompt: PromptTemplate) -> None:
    """If it was in force, the built-in one is from now on."""
    prompt.delete()
