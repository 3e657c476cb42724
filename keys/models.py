"""Client keys: ours, given to applications. Only their digest is stored."""

from __future__ import annotations

import uuid

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q


class Scope(models.TextChoices):
    CHAT = "chat", "Chat"
    PLAN = "plan", "Plan"
    EMBEDDINGS = "embeddings", "Embeddings"


class ClientKeyQuerySet(models.QuerySet["ClientKey"]):
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
            "enabled",
            "expires_at",
        )


class ClientKey(models.Model):
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
    enabled = models.BooleanField(default=True)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: it does not expire.")
    created_at = models.DateTimeField(auto_now_add=True, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects = ClientKeyQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "client key"
        constraints = [models.CheckConstraint(condition=~Q(name=""), name="clientkey_named")]

    def __str__(self) -> str:
        return f"{self.name} ({self.key_prefix}…)"

    def clean(self) -> None:
        errors = {}
        for field in ("scopes", "allowed_models", "tags"):
            value = getattr(self, field)
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                errors[field] = "A list of words."
        if "scopes" not in errors and (unknown := set(self.scopes) - set(Scope.values)):
            errors["scopes"] = f"There is no scope {min(unknown)!r}. Scopes: {', '.join(Scope.values)}."
        if errors:
            raise ValidationError(errors)
