"""One row of every kind that the admin shows, by number. For tests of pages, and for `tests/browser/fill.py`, which
makes them in a gateway's database."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import uuid4

from django.contrib.auth.models import Group, User
from django.db import models
from django.utils import timezone

from keys import services as keys
from keys.models import Budget, ClientKey, Project, Subject
from orchestration.models import PlanRun, PromptTemplate
from providers.models import CredentialStore, Provider, ProviderType
from routing.models import Alias, AliasVariant, Feedback, Model, PolicyEvaluation, Price, RoutingProfile
from telemetry import audit
from telemetry.models import AuditEntry, RequestLog, Webhook, WebhookDelivery
from tokenhub.models import JobState
from vault.models import VaultState

Rows = type[models.Model]


def provider(number: int = 0, **fields: Any) -> Provider:
    defaults = {"type": ProviderType.VLLM, "base_url": "http://10.0.0.5:8000", "cred_store": CredentialStore.NONE}
    return Provider.objects.create(**{"id": f"org/provider_{number}", **defaults, **fields})


def model(number: int = 0, **fields: Any) -> Model:
    return Model.objects.create(
        **{
            "id": f"org/model_{number}",
            "provider": fields.pop("provider", None) or provider(number, id=f"org/of_model_{number}"),
            **fields,
        }
    )


def alias(number: int = 0, **fields: Any) -> Alias:
    made = Alias.objects.create(**{"name": f"org/alias_{number}", **fields})
    for place in range(2):
        AliasVariant.objects.create(alias=made, model=model(100 + 2 * number + place))
    return made


def price(number: int = 0) -> Price:
    return Price.objects.create(model=model(500 + number), input_per_1k="0.001", output_per_1k="0.002")


def profile(number: int = 0) -> RoutingProfile:
    return RoutingProfile.objects.create(name=f"mine_{number}", cost=0.1, latency=0.2, failure=0.3, capability=0.4)


def client_key(number: int = 0, **fields: Any) -> ClientKey:
    return keys.issue(**{"name": f"key {number}", **fields}).record


def budget(number: int = 0) -> Budget:
    project = Project.objects.create(name=f"paid/{number}")
    return Budget.objects.create(subject=Subject.PROJECT, subject_id=project.pk, amount_usd=Decimal(5))


def request_row(number: int = 0, **fields: Any) -> RequestLog:
    attempts = [{"model": "m", "provider": "p", "error_class": "timeout", "latency_ms": 7, "message": "too slow"}]
    defaults = {
        "request_id": uuid4(), "created_at": timezone.now(), "endpoint": "/v1/chat/completions", "status": 200,
        "client_request_id": f"client-{number}", "detail": {"attempts": attempts},
    }  # fmt: skip
    return RequestLog.objects.create(**{**defaults, **fields})


def feedback(number: int = 0, *, rows: type[Feedback] = Feedback) -> Feedback:
    return rows.objects.create(request_id=uuid4(), api_key_id="k", model_id=f"m{number}", score=0.5)


def vault_state(number: int = 0) -> VaultState:
    return VaultState.objects.get_or_create(
        id=1, defaults={"passes": 1, "memory_kib": 64, "lanes": 1, "salt": b"s" * 16, "wrapped_data_key": b"w" * 61}
    )[0]


def audit_entry(number: int = 0) -> AuditEntry:
    audit.record("test.done", resource=f"test/{number}", changes={"field": ["before", "<b>after</b>"]})
    return AuditEntry.objects.latest("number")


def webhook(number: int = 0) -> Webhook:
    return Webhook.objects.create(url=f"https://hooks.example.com/{number}")


def plan_run(number: int = 0) -> PlanRun:
    now = timezone.now()
    return PlanRun.objects.create(id=uuid4(), mode="vote", api_key_name=f"key {number}", created_at=now, expires_at=now)


SAMPLES: dict[Rows, Callable[[int], models.Model]] = {
    Provider: provider,
    Model: model,
    Alias: alias,
    RoutingProfile: profile,
    Price: price,
    Feedback: feedback,
    PlanRun: plan_run,
    JobState: lambda number: JobState.objects.create(name="rollup", host=f"host-{number}"),
    PromptTemplate: lambda number: PromptTemplate.objects.create(name="vote.judge", version=number + 1, text="{{x}}"),
    PolicyEvaluation: lambda number: feedback(number, rows=PolicyEvaluation),
    ClientKey: client_key,
    Project: lambda number: Project.objects.create(name=f"team/{number}"),
    Budget: budget,
    RequestLog: request_row,
    AuditEntry: audit_entry,
    Webhook: webhook,
    WebhookDelivery: lambda number: WebhookDelivery.objects.create(
        webhook=webhook(number), event="test", body="{}", next_at=timezone.now()
    ),
    VaultState: vault_state,
    User: lambda number: User.objects.create_user(f"user_{number}", password="x"),
    Group: lambda number: Group.objects.create(name=f"group {number}"),
}
WRITTEN_BY_THE_SYSTEM: set[Rows] = {
    RequestLog, AuditEntry, WebhookDelivery, VaultState, Feedback, PolicyEvaluation, PlanRun, JobState,
}  # fmt: skip
