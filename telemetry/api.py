from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import Http404, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from telemetry import captures, export, search, stats, webhooks
from telemetry.journal import Attempt, Candidate
from telemetry.models import AuditEntry, RequestLog, Webhook
from telemetry.serializers import (
    AuditExportSerializer,
    AuditFiltersSerializer,
    AuditSerializer,
    CaptureSerializer,
    DeliverySerializer,
    EventFiltersSerializer,
    FiltersSerializer,
    LogDetailSerializer,
    LogRowSerializer,
    StatsSerializer,
    WebhookSecretSerializer,
    WebhookSerializer,
    WindowSerializer,
)
from tokenhub import apikit
from tokenhub.apikit import (
    COUNTED,
    PAGING,
    ApiError,
    Done,
    Paging,
    Records,
    View,
    done,
    invalid,
    page_of,
    paged,
    rights,
    tag_of,
    whole,
)


class PageSerializer(serializers.Serializer[Any]):
    total = serializers.IntegerField(help_text=f"Exact up to {COUNTED}.")
    total_capped = serializers.BooleanField()
    limit = serializers.IntegerField()
    offset = serializers.IntegerField()
    next_cursor = serializers.CharField(allow_null=True, help_text="Of the next page, as `cursor`.")


class LogPageSerializer(PageSerializer):
    items = LogRowSerializer(many=True)
    searched_back_to = serializers.DateTimeField(
        allow_null=True, help_text="The page is not full, and older requests were not looked at: `next_cursor` does."
    )


CURSOR = OpenApiParameter(
    "cursor",
    {"type": "string", "pattern": "^[0-9]{1,17}-[0-9]{1,17}$"},
    description="`next_cursor` of the page before, in place of `offset`.",
)


class Logs(View):
    rights = rights(RequestLog)

    @extend_schema(
        operation_id="logs_list",
        parameters=[FiltersSerializer, *(one for one in paged() if one.name != "cursor"), CURSOR],
        responses=LogPageSerializer,
    )
    def get(self, request: Request) -> Response:
        """The request log, newest first."""
        return Response(_page(request))


def _checked(query: dict[str, str], serializer: type[serializers.Serializer[Any]]) -> dict[str, Any]:
    """Raises ApiError, ValidationError."""
    for name, value in query.items():
        if "\0" in value:
            raise invalid(name, "it holds a NUL character.")
    checked = serializer(data=query)
    checked.is_valid(raise_exception=True)
    return dict(checked.validated_data)


def _page(request: Request) -> dict[str, Any]:
    """Raises ApiError."""
    limit = whole(request, "limit", default=Paging.LIMIT, minimum=1, maximum=Paging.MAX_LIMIT)
    offset = whole(request, "offset", default=0, minimum=0, maximum=apikit.COUNTED)
    cursor = request.query_params.get("cursor")
    if cursor is not None and offset:
        raise invalid("cursor", "give cursor or offset, not both.")
    try:
        after = None if cursor is None else search.place_of(cursor)
    except ValueError:
        raise invalid("cursor", "take it from `next_cursor` of the page before.") from None
    rows, terms = _wanted({name: str(value) for name, value in request.query_params.items() if name not in PAGING})
    page = search.page(rows, terms, limit=limit, offset=offset, after=after, counted=apikit.COUNTED)
    return {
        "items": LogRowSerializer(page.rows, many=True).data,
        "total": page.total,
        "total_capped": page.is_capped,
        "limit": limit,
        "offset": offset,
        "next_cursor": page.next_cursor,
        "searched_back_to": page.back_to,
    }


def _wanted(query: dict[str, str]) -> tuple[QuerySet[RequestLog], list[search.Term]]:
    rows, terms = RequestLog.objects.defer("detail"), []
    for name, value in _checked(query, FiltersSerializer).items():
        match name:
            case "from":
                rows = rows.filter(created_at__gte=value)
            case "to":
                rows = rows.filter(created_at__lt=value)
            case "created_at":
                rows = rows.filter(search.moment(value))
            case "request_id":
                terms.append(search.named(value))
            case "tags":
                terms.append(search.tagged(value))
            case _:
                terms.append(search.equal(name, value))
    return rows, terms


class LogCapture(View):
    """What was captured of one request, by its id: ours, or the client's."""

    rights = {"GET": ("telemetry.view_capture",)}

    @extend_schema(responses=CaptureSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002  as in the URL
        """Prompt and answer. Each reading is in the audit log."""
        row = search.newest(id) if "\0" not in id else None
        if row is None:
            raise Http404
        try:
            kept, captured = captures.read(request_id=row.request_id)
        except (captures.NotCaptured, captures.Unreadable):
            raise Http404 from None
        except captures.Locked:
            raise ApiError(
                "vault_locked", "What was captured cannot be read while the vault is locked.", hint="Unlock the vault."
            ) from None
        shown = {
            "request_id": kept.request_id,
            "prompt": captured.prompt,
            "answer": captured.answer,
            "captured_at": kept.captured_at,
            "expires_at": kept.expires_at,
        }
        return Response(CaptureSerializer(shown).data, headers={"Cache-Control": "no-store"})


class Log(View):
    """One request by its id, ours or the client's; the newest of several. `shown` gives a candidate its form, which the
    router knows."""

    rights = rights(RequestLog)
    shown: Callable[[Candidate], dict[str, Any]] = staticmethod(msgspec.structs.asdict)

    @extend_schema(responses=LogDetailSerializer)
    def get(self, request: Request, id: str) -> Response:  # noqa: A002  as in the URL
        row = search.newest(id) if "\0" not in id else None
        if row is None:
            raise Http404
        attempts = msgspec.convert(row.detail.get("attempts", []), list[Attempt])
        candidates = msgspec.convert(row.detail.get("candidates", []), list[Candidate])
        return Response(
            {
                **LogRowSerializer(row).data,
                "attempts": [_attempt(one) for one in attempts],
                "candidates": [self.shown(one) for one in candidates],
                "shadow_of": row.detail.get("shadow_of"),
                "judge_of": row.detail.get("judge_of"),
                "reward": row.detail.get("reward"),
                "reward_parts": row.detail.get("reward_parts") or None,
                "pressure": row.detail.get("pressure"),
                "plan": row.detail.get("plan"),
                "leg": row.detail.get("leg") or None,
            }
        )


def _attempt(one: Attempt) -> dict[str, Any]:
    return {
        "model": one.model,
        "provider": one.provider,
        "error_class": one.error_class or None,
        "status": one.status,
        "latency_ms": one.latency_ms,
        "message": one.message or None,
    }


# -- totals ----------------------------------------------------------------------------------------------------------
class Stats(View):
    rights = rights(RequestLog)

    @extend_schema(parameters=[WindowSerializer], responses=StatsSerializer)
    def get(self, request: Request) -> Response:
        """Requests, errors, tokens, cost and latency of the time up to now, by model and provider."""
        asked = _checked({name: str(value) for name, value in request.query_params.items()}, WindowSerializer)
        window = asked.pop("window", timedelta(days=1))
        return Response(stats.totals(now=timezone.now(), window=window, filters=asked))


# -- audit -----------------------------------------------------------------------------------------------------------
class AuditPageSerializer(PageSerializer):
    items = AuditSerializer(many=True)


class Audit(View):
    rights = rights(AuditEntry)

    @extend_schema(
        operation_id="audit_list",
        parameters=[AuditFiltersSerializer, *paged()],
        responses=AuditPageSerializer,
    )
    def get(self, request: Request) -> Response:
        """Who changed what, newest first."""
        wanted = {name: str(value) for name, value in request.query_params.items() if name not in PAGING}
        return Response(page_of(request, _audited(wanted), AuditSerializer))


class AuditExport(View):
    rights = rights(AuditEntry)

    @extend_schema(
        operation_id="audit_export",
        parameters=[AuditFiltersSerializer, OpenApiParameter("as", enum=["csv", "json"], description="Default: csv.")],
        responses={(200, "text/csv"): str, (200, "application/json"): AuditExportSerializer(many=True)},
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """All entries that fit, oldest first, as a file."""
        wanted = {name: str(value) for name, value in request.query_params.items()}
        kind = wanted.pop("as", "csv")
        if kind not in export.KINDS:
            raise invalid("as", f"one of {', '.join(export.KINDS)}.")
        return export.response(_audited(wanted), kind)


def _audited(query: dict[str, str]) -> QuerySet[AuditEntry]:
    found = AuditEntry.objects.order_by("-pk")
    for name, value in _checked(query, AuditFiltersSerializer).items():
        match name:
            case "from":
                found = found.filter(created_at__gte=value)
            case "to":
                found = found.filter(created_at__lt=value)
            case "resource" if "/" not in value:
                found = found.filter(Q(resource=value) | Q(resource__startswith=f"{value}/"))
            case _:
                found = found.filter(**{name: value})
    return found


# -- webhooks --------------------------------------------------------------------------------------------------------
class Events(View):
    """Who may listen, to what; the stream itself is tokenhub.event_stream, which asks here and passes on refusals."""

    rights = rights(RequestLog)

    @extend_schema(
        operation_id="events_stream",
        parameters=[
            EventFiltersSerializer,
            OpenApiParameter("Last-Event-ID", str, OpenApiParameter.HEADER, description="Goes on after that event."),
        ],
        responses={(200, "text/event-stream"): OpenApiTypes.STR},
    )
    def get(self, request: Request) -> Response:
        """What happens, as Server-Sent Events, until the client leaves."""
        wanted = _checked({name: str(value) for name, value in request.query_params.items()}, EventFiltersSerializer)
        scope = getattr(request._request, "scope", {})  # noqa: SLF001  DRF's interface
        match scope.get("extensions", {}).get("tokenhub.events", {}).get("problem"):
            case "full":
                raise ApiError(
                    "overloaded",
                    "This server has as many listeners as it takes.",
                    hint="Close one, or listen to /admin/v1/events less often.",
                    retry_after_seconds=10.0,
                )
            case "unreadable":
                raise ApiError("overloaded", "The events cannot be read at the moment.", retry_after_seconds=5.0)
        last = str(request.META.get("HTTP_LAST_EVENT_ID", ""))[:100] or wanted.get("last_event_id", "")
        types = wanted["types"].split(",") if "types" in wanted else []
        return Response({**wanted, "types": types, "last_event_id": last})


class Webhooks(Records[Webhook]):
    """Where events are sent, signed. The secret is shown by `POST /webhooks` and by its rotation."""

    rights = rights(Webhook)
    serializer_class = WebhookSerializer
    queryset = Webhook.objects.all()

    def remove(self, record: Webhook) -> None:
        webhooks.delete(webhook=record)

    def _row(self, rows: Any, key: str) -> Webhook | None:
        try:
            return super()._row(rows, str(UUID(key)))
        except ValueError:
            return None

    @extend_schema(responses=WebhookSecretSerializer)
    def create(self, request: Request) -> Response:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return self.secret(serializer.save())

    @extend_schema(request=None, responses=WebhookSecretSerializer)
    @transaction.atomic
    def rotate(self, request: Request, id: str) -> Response:  # noqa: A002  as in the URL
        """A new secret; the old one signs nothing any more."""
        found = self._locked(id)
        if found is None:
            raise Http404
        self.expect(request, found)
        webhooks.rotate(webhook=found)
        return self.secret(found)

    def secret(self, webhook: Webhook) -> Response:
        told = {"ok": True, "id": webhook.pk, "secret": webhooks.secret_of(webhook)}
        return Response(told, headers={"ETag": tag_of(self.shown(str(webhook.pk)))})

    @extend_schema(request=None, responses=Done)
    def test(self, request: Request, id: str) -> Response:  # noqa: A002
        """Sends the event `test`; its deliveries tell what came of it."""
        webhooks.publish("test", {"message": "TokenHub can reach this address."}, only=self.find(id))
        return done()

    @extend_schema(responses=DeliverySerializer(many=True))
    def deliveries(self, request: Request, id: str) -> Response:  # noqa: A002
        """Newest first, of the last 30 days."""
        sent: Any = self.find(id).deliveries.all()
        page: Any = self.paginate_queryset(sent)
        return self.get_paginated_response(DeliverySerializer(page, many=True).data)
