"""The installation's own rows."""

from __future__ import annotations

from django.db import models


class LoginLink(models.Model):
    """A one-time login link: 256 random bits, of which only the digest is stored."""

    digest = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    class Meta:
        permissions = [("administer", "Can administer TokenHub: the vault and the admin token")]

    def __str__(self) -> str:
        return f"login link until {self.expires_at:%H:%M}"


class Outcome(models.TextChoices):
    OK = "ok"
    FAILED = "failed"


class JobState(models.Model):
    """Of a job of tokenhub/jobs.py: its next run, the one under way, and the last. Written by tokenhub/job_runs.py."""

    name = models.CharField("job", max_length=60)
    host = models.CharField(max_length=32, blank=True, help_text="For a job that each host has of its own.")
    next_at = models.DateTimeField("next run", null=True, help_text="None: only when somebody asks.")
    asked_by = models.CharField(max_length=200, blank=True)

    holder = models.CharField(max_length=32, blank=True, editable=False)
    running_since = models.DateTimeField(null=True)
    lease_until = models.DateTimeField(null=True, editable=False)

    last_started_at = models.DateTimeField("last run", null=True)
    last_ms = models.PositiveBigIntegerField("duration in ms", null=True)
    last_outcome = models.CharField("outcome", max_length=10, choices=Outcome.choices, blank=True)
    last_result = models.CharField("what came of it", max_length=500, blank=True)
    last_by = models.CharField("started by", max_length=200, blank=True)

    class Meta:
        verbose_name = "background job"
        constraints = [models.UniqueConstraint(fields=["name", "host"], name="job_once_per_host")]

    def __str__(self) -> str:
        return f"{self.name} on {self.host}" if self.host else self.name
