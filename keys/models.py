"""Client keys: ours, given to applications, of which only the digest is stored. Projects, which group them. Budgets,
and what is spent and leased of them."""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

NANO: Final = 1_000_000_000


class Scope(models.TextChoices):
    CHAT = "chat", "Chat"
    PLAN = "plan", "Plan"
    EMBEDDINGS = "embeddings", "Embeddings"


class Limited(models.Model):
    """Whoever has rate limits. Empty: none."""

    rate_limit_rps = models.FloatField(
        "requests per second", null=True, blank=True, validators=[MinValueValidator(0.001), MaxValueValidator(1e6)]
    )
    rate_limit_burst = models.PositiveIntegerField(
        "requests at once",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(10**6)],
        help_text="Of those per second. Empty: a second's worth, and one at least.",
    )
    rate_limit_rpm = models.PositiveIntegerField(
        "requests per minute", null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(10**8)]
    )
    rate_limit_tpm = models.PositiveBigIntegerField(
        "tokens per minute",
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(10**12)],
        help_text="Input and output. Estimated when a request comes, corrected by what its answer took.",
    )
    max_concurrent = models.PositiveIntegerField(
        "requests at the same time", null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(10**5)]
    )

    class Meta:
        abstract = True

    def clean(self) -> None:
        super().clean()
        if self.rate_limit_burst and not self.rate_limit_rps:
            raise ValidationError({"rate_limit_burst": "Limits nothing without requests per second: set those, too."})


LIMIT_FIELDS: Final = (
    "rate_limit_rps", "rate_limit_burst", "rate_limit_rpm", "rate_limit_tpm", "max_concurrent",
)  # fmt: skip


class ClientKeyQuerySet(models.QuerySet["ClientKey"]):
    def due(self, now: datetime) -> list[ClientKey]:
        """Enabled keys that want a new secret by now."""
        rotating = self.filter(enabled=True, rotation_days__isnull=False)
        return [one for one in rotating if one.rotation_due_at is not None and one.rotation_due_at <= now]

    def lasting(self) -> ClientKeyQuerySet:
        """Those of applications: without the playground's."""
        return self.filter(is_playground=False)

    def servable(self) -> ClientKeyQuerySet:
        """Keys that a request may name, disabled and expired ones too: they get an error of their own."""
        return self.only(
            "id",
            "name",
            "owner",
            "tags",
            "project",
            "digest",
            "scopes",
            "allowed_models",
            "allow_fallback",
            "allow_directives",
            "capture",
            "enabled",
            "expires_at",
            "old_digest",
            "old_digest_until",
            *LIMIT_FIELDS,
        )


class ClientKey(Limited):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200, help_text="Which application uses it.")
    owner = models.CharField(max_length=200, blank=True)
    tags = models.JSONField(default=list, blank=True, help_text='A list of words, such as ["team-a"].')
    project = models.CharField(max_length=200, blank=True)
    key_prefix = models.CharField(max_length=24, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.JSONField(default=list, blank=True, help_text="Empty: every scope.")
    allowed_models = models.JSONField(
        default=list, blank=True, help_text="Ids of models, and aliases. Empty: every one."
    )
    allow_fallback = models.BooleanField(
        default=True, help_text="When the asked-for model fails, others may answer in its place."
    )
    allow_directives = models.BooleanField(
        default=True,
        help_text="@@tokenhub lines in messages are obeyed. Off for whoever forwards the text of strangers.",
    )
    capture = models.BooleanField(
        "capture prompts and answers",
        default=False,
        help_text="They are kept for some days, encrypted, for those who may read them. Tell the key's users.",
    )
    rotation_days = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(3650)],
        help_text="After so many days a new secret is due: `manage.py keys rotate --due`. Empty: never.",
    )
    rotated_at = models.DateTimeField(default=timezone.now, editable=False)
    rotation_told_for = models.DateTimeField(null=True, editable=False)
    """The due date that the event key_rotation_due was last published for."""
    old_digest = models.CharField(max_length=64, blank=True, db_index=True, editable=False)
    old_digest_until = models.DateTimeField(null=True, blank=True, editable=False)
    enabled = models.BooleanField(default=True)
    is_playground = models.BooleanField(default=False, db_default=False, editable=False)
    """Made by keys.playground, and dropped by it."""
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: it does not expire.")
    created_at = models.DateTimeField(auto_now_add=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ClientKeyQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "client key"
        permissions = [("use_playground", "Can send requests from the playground")]
        constraints = [models.CheckConstraint(condition=~Q(name=""), name="clientkey_named")]

    def __str__(self) -> str:
        return f"{self.name} ({self.key_prefix}…)"

    @property
    def rotation_due_at(self) -> datetime | None:
        return None if self.rotation_days is None else self.rotated_at + timedelta(days=self.rotation_days)

    def clean(self) -> None:
        errors: dict[str, str] = {}
        for field in ("scopes", "allowed_models", "tags"):
            value = getattr(self, field)
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                errors[field] = "A list of words."
            elif not all(map(_is_text, value)):
                errors[field] = "A word has a character that no text can hold."
        if "scopes" not in errors and (unknown := set(self.scopes) - set(Scope.values)):
            errors["scopes"] = f"There is no scope {min(unknown)!r}. Scopes: {', '.join(Scope.values)}."
        try:
            super().clean()
        except ValidationError as problem:
            errors |= {name: " ".join(told) for name, told in problem.message_dict.items()}
        if errors:
            raise ValidationError(errors)


def _is_text(word: str) -> bool:
    """Neither a NUL character, which PostgreSQL refuses, nor half of a surrogate pair, which nobody can send."""
    return re.search("[\0\ud800-\udfff]", word) is None


class Project(Limited):
    """Groups client keys, which name it; limits and a budget on it hold for all of them together."""

    name = models.CharField(max_length=200, primary_key=True)
    description = models.CharField(max_length=1000, blank=True)
    capture = models.BooleanField(
        "capture prompts and answers",
        default=False,
        help_text="Of all its client keys. They are kept for some days, encrypted, for those who may read them.",
    )
    created_at = models.DateTimeField(auto_now_add=True, editable=False)

    class Meta:
        ordering = ["name"]
        constraints = [models.CheckConstraint(condition=~Q(name=""), name="project_named")]

    def __str__(self) -> str:
        return self.name


class Subject(models.TextChoices):
    KEY = "key", "Client key"
    PROJECT = "project", "Project"
    INSTALLATION = "installation", "Whole installation"


class Every(models.TextChoices):
    DAY = "day", "Day"
    WEEK = "week", "Week"
    MONTH = "month", "Month"
    TOTAL = "total", "Ever"


class Budget(models.Model):
    """What may be spent in each period. Of a request that several budgets concern, all must hold."""

    subject = models.CharField(max_length=20, choices=Subject.choices, default=Subject.KEY)
    subject_id = models.CharField(
        max_length=200, blank=True, help_text="The client key's id, or the project's name. Empty for the installation."
    )
    amount_usd = models.DecimalField(
        "amount in US dollars",
        max_digits=18,
        decimal_places=9,
        validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(10**9))],
    )
    every = models.CharField(
        max_length=10, choices=Every.choices, default=Every.MONTH, help_text="Begins anew with each, by the time zone."
    )
    created_at = models.DateTimeField(auto_now_add=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True, editable=False)

    class Meta:
        ordering = ["subject", "subject_id"]
        constraints = [
            models.UniqueConstraint(fields=["subject", "subject_id"], name="budget_once"),
            models.CheckConstraint(condition=Q(amount_usd__gte=0), name="budget_not_negative"),
            models.CheckConstraint(
                condition=Q(subject="installation", subject_id="") | (~Q(subject="installation") & ~Q(subject_id="")),
                name="budget_of_somebody",
            ),
        ]

    def __str__(self) -> str:
        whose = f"{self.subject} {self.subject_name}".strip()
        return f"${self.amount_usd.normalize():f} per {self.every} of {whose}"

    @property
    def whose(self) -> str:
        """As a client is told it, and the log keeps it of a refusal."""
        match Subject(self.subject):
            case Subject.KEY:
                return "this client key"
            case Subject.PROJECT:
                return f"the project {self.subject_id!r}"
            case Subject.INSTALLATION:
                return "this installation"

    @property
    def subject_name(self) -> str:
        """As people know it: a key by its name and prefix. `key_name`: where a list has looked for all at once."""
        if self.subject != Subject.KEY:
            return self.subject_id
        known = self.__dict__.get("key_name") or ClientKey.objects.filter(pk=self.subject_id).first()
        return str(known or self.subject_id)

    @property
    def amount_nano(self) -> int:
        return int(self.amount_usd * NANO)


class BudgetPeriod(models.Model):
    """One period of a budget, in nano-dollars. `leased`: in the hands of processes; with `settled` it never exceeds the
    budget when a lease is granted. `overrun`: what calls cost beyond what was reserved for them, borne by the
    installation."""

    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="periods")
    every = models.CharField(max_length=10, choices=Every.choices)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True)
    settled_nano = models.BigIntegerField(default=0)
    leased_nano = models.BigIntegerField(default=0)
    overrun_nano = models.BigIntegerField(default=0)
    recalled_at = models.DateTimeField(null=True)
    alerted_percent = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["-starts_at"]
        constraints = [models.UniqueConstraint(fields=["budget", "every", "starts_at"], name="budget_period_once")]

    def __str__(self) -> str:
        return f"{self.budget} from {self.starts_at:%Y-%m-%d}"


class Lease(models.Model):
    """An amount of a period that one process may spend without asking. `holder` as in the names of its journal's
    segments; `host`: of the journal's folder, whose reader releases what a dead process held."""

    id = models.CharField(max_length=32, primary_key=True)
    period = models.ForeignKey(BudgetPeriod, on_delete=models.CASCADE, related_name="leases")
    holder = models.CharField(max_length=40, db_index=True)
    host = models.CharField(max_length=40)
    remaining_nano = models.BigIntegerField(default=0)
    is_closed = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at"]

    def __str__(self) -> str:
        return f"{self.remaining_nano / NANO:.6f} USD at {self.holder}"
