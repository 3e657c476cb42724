"""What is set up, told from the rows and the vault themselves: nothing here is a flag that somebody once set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.http import HttpRequest

from keys.models import ClientKey
from providers.models import Provider, ProviderType
from routing.models import Model
from telemetry.models import RequestLog
from vault import services as vault


@dataclass(frozen=True, slots=True)
class Step:
    """`may`: whether this person may do it; `fact`: what is there, in a few words."""

    id: str
    title: str
    hint: str
    done: bool
    fact: str
    may: bool


_RIGHTS: Final = {
    "vault": ["tokenhub.administer"],
    "provider": ["providers.add_provider"],
    "models": ["routing.add_model"],
    "key": ["keys.add_clientkey"],
    "request": ["keys.use_playground", "telemetry.view_requestlog"],
}


def may(user: AbstractBaseUser | AnonymousUser, step: str) -> bool:
    return bool(user.has_perms(_RIGHTS[step]))  # type: ignore[union-attr]  # the user model has it


def steps(request: HttpRequest) -> list[Step]:
    state = vault.status()
    real = Provider.objects.filter(enabled=True).exclude(type=ProviderType.SANDBOX)
    providers = list(real.values_list("id", flat=True)[:4])
    models = Model.objects.filter(enabled=True, provider__in=real).count()
    requests = RequestLog.objects.all()
    if providers:  # the sandbox's answers say nothing of them
        requests = requests.filter(provider_id__in=real.values("id"), status__lt=400)
    key = ClientKey.objects.lasting().filter(enabled=True).only("name").first()
    found: list[tuple[str, str, str, bool, str]] = [
        (
            "vault", "Open the vault", "It keeps the providers' credentials encrypted.",
            state.initialized and not state.locked,
            "open" if state.initialized and not state.locked else "locked" if state.initialized else "",
        ),
        (
            "provider", "Add a provider", "OpenAI, Anthropic, vLLM, Ollama, or any compatible service.",
            bool(providers), ", ".join(providers[:3]) + (", …" if len(providers) > 3 else ""),
        ),
        (
            "models", "Pick its models", "Prices and limits come from the catalogue.",
            models > 0, f"{models} model{'' if models == 1 else 's'}" if models else "",
        ),
        ("key", "Make a client key", "One for each application.", key is not None, key.name if key else ""),
        (
            "request", "Send a request",
            "None of your providers has answered yet." if providers else "And see why which model answered.",
            requests.exists(), "",
        ),
    ]  # fmt: skip
    return [Step(*one, may=may(request.user, one[0])) for one in found]


def first_open(found: list[Step]) -> str:
    """The step to do next; empty when all is done."""
    return next((one.id for one in found if not one.done), "")


def context(request: HttpRequest, *, step: str = "") -> dict[str, Any]:
    """For `tokenhub/setup/setup.html`: the steps, and the one that is open."""
    found = steps(request)
    current = step if step in _RIGHTS else first_open(found) or "provider"
    return {
        "steps": found,
        "all_done": all(one.done for one in found),
        "step": next(one for one in found if one.id == current),
    }
