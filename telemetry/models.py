"""What happened: the request log and how far each journal segment has been read. Rows hold copied names and ids and
no foreign keys, so that history survives the deletion of what it speaks of."""

from __future__ import annotations

import uuid
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import URLValidator
from django.db import models
from django.db.models import Q

from telemetry.journal import COUNT_TOKENS
from telemetry.tsdb.models import Sample, Series, SeriesLevel, SeriesUnrolled

__all__ = [
    "AuditEntry", "AuditHead", "Capture", "DeliveryState", "JournalSegment", "RequestLog", "Sample", "Series",
    "SeriesLevel", "SeriesUnrolled", "Webhook", "WebhookDelivery",
]  # fmt: skip


class RequestLog(models.Model):
    """One finished request. Written by the journal's ingester only. On PostgreSQL the table has a partition for each
    month (see telemetry.partitions), and `request_id` is unique together with `created_at`, which an entry of the
    journal brings along: a line that is read twice is one row there, too."""

    request_id = models.UUIDField(unique=True, editable=False)
    client_request_id = models.CharField(max_length=128, blank=True)
    created_at = models.DateTimeField()
    api_key_id = models.CharField(max_length=40, blank=True)
    api_key_name = models.CharField(max_length=200, blank=True)
    project = models.CharField(max_length=200, blank=True)
    endpoint = models.CharField(max_length=60)
    dialect = models.CharField(max_length=30, blank=True)
    requested_model = models.CharField(max_length=200, blank=True)
    alias = models.CharField(max_length=200, blank=True)
    mode = models.CharField(max_length=60, blank=True)
    model_id = models.CharField(max_length=200, blank=True)
    provider_id = models.CharField(max_length=200, blank=True)
    routing_reason = models.CharField(max_length=80, blank=True)
    status = models.PositiveSmallIntegerField()
    error_class = models.CharField(max_length=40, blank=True)
    error_code = models.CharField(max_length=60, blank=True)
    stream = models.BooleanField(default=False)
    input_tokens = models.PositiveBigIntegerField(default=0)
    cached_input_tokens = models.PositiveBigIntegerField(default=0)
    cache_write_tokens = models.PositiveBigIntegerField(default=0)
    output_tokens = models.PositiveBigIntegerField(default=0)
    reasoning_tokens = models.PositiveBigIntegerField(default=0)
    total_tokens = models.PositiveBigIntegerField(default=0)
    usage_estimated = models.BooleanField(default=False)
    estimated_cost_usd = models.DecimalField(max_digits=20, decimal_places=9, null=True)
    cost_usd = models.DecimalField(max_digits=20, decimal_places=9, null=True)
    latency_ms = models.PositiveIntegerField(default=0)
    time_to_first_chunk_ms = models.PositiveIntegerField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    client_disconnected = models.BooleanField(default=False)
    tags = models.JSONField(default=list, blank=True)
    detail = models.JSONField(default=dict, blank=True, help_text="The attempts, one by one.")

    class Meta:
        ordering = ["-created_at", "-id"]
        verbose_name = "request"
        verbose_name_plural = "request log"
        indexes = [  # ascending: new rows go to each one's end. Those with a condition leave out what most rows have
            models.Index(fields=["created_at"], name="requestlog_at"),
            models.Index(fields=["api_key_id", "created_at"], name="requestlog_key_at"),
            models.Index(fields=["model_id", "created_at"], name="requestlog_model_at"),
            models.Index(fields=["provider_id", "created_at"], name="requestlog_provider_at"),
            models.Index(fields=["project", "created_at"], name="requestlog_project_at", condition=Q(project__gt="")),
            models.Index(fields=["alias", "created_at"], name="requestlog_alias_at", condition=Q(alias__gt="")),
            models.Index(
                fields=["created_at", "id", "status"], name="requestlog_failed_at", condition=Q(status__gt=399)
            ),
            models.Index(fields=["status", "created_at"], name="requestlog_status_at", condition=Q(status__gte=400)),
            models.Index(
                fields=["error_code", "created_at"], name="requestlog_error_at", condition=Q(error_code__gt="")
            ),
            models.Index(
                fields=["client_request_id", "created_at"],
                name="requestlog_client_at",
                condition=Q(client_request_id__gt=""),
            ),
        ]

    def __str__(self) -> str:
        return str(self.request_id)

    @property
    def asked_for(self) -> str:
        """A model, an alias or `auto`; nothing where the request was refused before that could be read."""
        return self.requested_model or ("auto" if self.mode or self.model_id else "")

    @property
    def counts_tokens(self) -> bool:
        """It asked how long a request is, and no model answered it."""
        return self.endpoint == COUNT_TOKENS


class Capture(models.Model):
    """What a request's client sent and got, sealed; see telemetry.captures."""

    request_id = models.UUIDField(primary_key=True, editable=False)
    sealed = models.BinaryField()
    captured_at = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return str(self.request_id)


class JournalSegment(models.Model):
    """How many bytes of a journal file are in the database. Advanced in the transaction that inserts their rows."""

    name = models.CharField(max_length=200, primary_key=True)
    offset = models.PositiveBigIntegerField(default=0)
    unreadable = models.PositiveIntegerField(
        default=0, help_text="Lines that failed their checksum and were set aside."
    )
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return self.name


class AuditEntry(models.Model):
    """One change, and the hash that chains it to the one before. Only ever added; see telemetry.audit."""

    TOLD = (
        "actor", "source", "source_address", "request_id", "action", "resource", "resource_name", "changes",
    )  # fmt: skip

    number = models.BigIntegerField(primary_key=True)
    created_at = models.DateTimeField("at")
    actor = models.CharField(max_length=200)
    source = models.CharField(max_length=20)
    source_address = models.CharField("address", max_length=64, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    action = models.CharField(max_length=60)
    resource = models.CharField(max_length=300, blank=True)
    resource_name = models.CharField(max_length=300, blank=True)
    changes = models.TextField(default="{}", help_text="JSON text: field to [before, after].")
    hash = models.CharField(max_length=64)

    class Meta:
        ordering = ["-number"]
        verbose_name = "audit entry"
        verbose_name_plural = "audit log"
        indexes = [
            models.Index(fields=["-created_at"], name="audit_created"),
            models.Index(fields=["action", "-number"], name="audit_action"),
            models.Index(fields=["actor", "-number"], name="audit_actor"),
            models.Index(fields=["resource", "-number"], name="audit_resource"),
        ]

    def __str__(self) -> str:
        return f"{self.number} {self.action} {self.resource}".strip()


class AuditHead(models.Model):
    """The end of the chain: its lock, and what tells that the last entries were removed."""

    number = models.BigIntegerField(default=0)
    hash = models.CharField(max_length=64)

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


class KeySpending(models.Model):
    """What a client key spent in a month, in nano-dollars: telemetry.spending."""

    pk = models.CompositePrimaryKey("key_id", "month")
    key_id = models.CharField(max_length=40)
    month = models.DateField()
    cost_nano = models.BigIntegerField(default=0)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.key_id} {self.month:%Y-%m}"


class Webhook(models.Model):
    """Where events are sent. Its secret is derived; see telemetry.webhooks."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    url = models.CharField(max_length=1000, validators=[URLValidator(schemes=["http", "https"])])
    description = models.CharField(max_length=200, blank=True)
    events = models.JSONField(default=list, blank=True, help_text="Empty: every event.")
    enabled = models.BooleanField(default=True)
    generation = models.PositiveIntegerField(default=1, editable=False)
    created_at = models.DateTimeField(auto_now_add=True, editable=False)
    updated_at = models.DateTimeField(auto_now=True, editable=False)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.url

    def clean(self) -> None:
        try:
            parts = urlsplit(self.url)
        except ValueError:
            return  # the field says so
        if parts.username or parts.password:
            raise ValidationError({"url": "No user and password here: receivers check the signature."})
        try:
            self.place()
        except ValueError:
            raise ValidationError({"url": "Its host or its port is none that can be called."}) from None

    def place(self) -> tuple[str, int, str]:
        """Host and port, and both as a Host header has them; a host of other letters as DNS knows it. Raises
        ValueError."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        host = host if host.isascii() else host.encode("idna").decode("ascii")
        shown = f"[{host}]" if ":" in host else host
        default = 443 if parts.scheme == "https" else 80
        return host, parts.port or default, f"{shown}:{parts.port}" if parts.port else shown


class DeliveryState(models.TextChoices):
    WAITING = "waiting", "Waiting"
    DELIVERED = "delivered", "Delivered"
    GIVEN_UP = "given_up", "Given up"


class WebhookDelivery(models.Model):
    """One event for one webhook; its id is the `webhook-id` of every attempt."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=60)
    body = models.TextField()
    state = models.CharField(max_length=20, choices=DeliveryState.choices, default=DeliveryState.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField("next attempt")
    last_status = models.PositiveSmallIntegerField("last answer", null=True)
    last_error = models.CharField("last problem", max_length=300, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    delivered_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "webhook delivery"
        verbose_name_plural = "webhook deliveries"
        indexes = [models.Index(fields=["state", "next_at"], name="delivery_due")]

    def __str__(self) -> str:
        return f"{self.event} {self.id}"
