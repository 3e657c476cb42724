"""Runs of `/v1/plan`, as far as they outlive their worker, and the prompts that operators put in place of the built-in
ones. What clients asked and models said is sealed; see `orchestration.sealing`. No foreign keys to other apps."""

from __future__ import annotations

from typing import Final

from django.db import models
from django.db.models import Q


class RunState(models.TextChoices):
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    COMPLETED = "completed", "Completed"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


DURABLE: Final = "temporal"
"""The holder, and the host, of runs that Temporal drives: whichever of its workers is at work writes in this name."""
OPEN_STATES = (RunState.QUEUED, RunState.RUNNING)


class PlanRun(models.Model):
    """`holder`: the process that works on it, as long as its lease is not over; nobody else writes to an open run, but
    for who cancels it: by taking it away from its holder. `client_until`: of a run whose client waits while Temporal
    drives it; the client's server renews it, and once it is over, nobody wants the answer any more."""

    id = models.UUIDField(primary_key=True, editable=False)
    state = models.CharField(max_length=20, choices=RunState.choices, default=RunState.RUNNING)
    mode = models.CharField(max_length=60)
    is_background = models.BooleanField("in the background", default=False)
    api_key_id = models.CharField(max_length=40, blank=True)
    api_key_name = models.CharField("client key", max_length=200, blank=True)
    project = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField("started")
    finished_at = models.DateTimeField("ended", null=True)
    expires_at = models.DateTimeField("kept until")
    estimated_cost_usd = models.DecimalField(max_digits=20, decimal_places=9, null=True)
    cost_usd = models.DecimalField("cost so far", max_digits=20, decimal_places=9, null=True)
    is_partial = models.BooleanField("ended by money or time", default=False)
    error_code = models.CharField(max_length=60, blank=True)
    holder = models.CharField(max_length=20, blank=True)
    host = models.CharField(max_length=40, blank=True)
    lease_until = models.DateTimeField(null=True)
    client_until = models.DateTimeField(null=True)
    resumed = models.PositiveSmallIntegerField("times taken up again", default=0)
    sealed_plan = models.BinaryField(null=True)
    sealed_outcome = models.BinaryField(null=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "run"
        indexes = [
            models.Index(fields=["-created_at"], name="planrun_created"),
            models.Index(fields=["expires_at"], name="planrun_expires"),
            models.Index(fields=["lease_until"], name="planrun_open", condition=Q(state__in=["queued", "running"])),
            models.Index(fields=["client_until"], name="planrun_client", condition=Q(client_until__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.mode} {self.id}"

    @property
    def runner(self) -> str:
        return "temporal" if self.host == DURABLE else "in_process"

    @property
    def is_kept(self) -> bool:
        """With what is asked and said, so that another process can go on."""
        return self.is_background or self.client_until is not None


class LegState(models.TextChoices):
    RUNNING = "running", "Running"
    COMPLETED = "completed", "Completed"
    FAILED = "failed", "Failed"
    LOST = "lost", "Lost with its worker"
    CANCELLED = "cancelled", "Cancelled"


class PlanLeg(models.Model):
    """One call within a run. One that was lost with its worker is called once more, as a further attempt."""

    run = models.ForeignKey(PlanRun, on_delete=models.CASCADE, related_name="legs")
    name = models.CharField("leg", max_length=60)
    attempt = models.PositiveSmallIntegerField(default=1)
    role = models.CharField(max_length=20)
    state = models.CharField(max_length=20, choices=LegState.choices, default=LegState.RUNNING)
    model_id = models.CharField("model", max_length=200, blank=True)
    provider_id = models.CharField("provider", max_length=200, blank=True)
    request_id = models.UUIDField()
    started_at = models.DateTimeField("started")
    finished_at = models.DateTimeField("ended", null=True)
    latency_ms = models.PositiveIntegerField(default=0)
    input_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)
    cost_usd = models.DecimalField("cost", max_digits=20, decimal_places=9, null=True)
    error_code = models.CharField(max_length=60, blank=True)
    sealed_result = models.BinaryField(null=True)

    class Meta:
        ordering = ["id"]
        verbose_name = "leg"
        constraints = [models.UniqueConstraint(fields=["run", "name", "attempt"], name="planleg_attempt")]

    def __str__(self) -> str:
        return f"{self.name} {self.attempt}"


class Prompts(models.QuerySet["PromptTemplate"]):
    def in_force(self) -> dict[str, str]:
        """By name, in place of the built-in ones."""
        return dict(self.filter(is_active=True).values_list("name", "text"))


class PromptTemplate(models.Model):
    """A version of a prompt; never changed, but followed by others. The active one is in force, else the built-in."""

    name = models.CharField(max_length=100)
    version = models.PositiveIntegerField()
    text = models.TextField()
    note = models.CharField(max_length=200, blank=True, help_text="What this version is for.")
    is_active = models.BooleanField("in force", default=False)
    created_at = models.DateTimeField("made", auto_now_add=True)
    created_by = models.CharField("made by", max_length=200, blank=True)

    objects = Prompts.as_manager()

    class Meta:
        ordering = ["name", "-version"]
        verbose_name = "prompt"
        constraints = [
            models.UniqueConstraint(fields=["name", "version"], name="prompt_version"),
            models.UniqueConstraint(fields=["name"], condition=Q(is_active=True), name="prompt_active"),
        ]

    def __str__(self) -> str:
        return f"{self.name}, version {self.version}"
