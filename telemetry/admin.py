from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from unfold.contrib.filters.admin import FieldTextFilter, RangeDateTimeFilter
from unfold.paginator import InfinitePaginator
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from telemetry import captures, export, webhooks
from telemetry.log_filters import InfinitePaginator as LogPaginator
from telemetry.log_filters import KeyFilter, LogList, OutcomeFilter, ValueFilter, YesNoFilter
from telemetry.models import AuditEntry, RequestLog, Webhook, WebhookDelivery
from telemetry.money import dollars, price_shown
from tokenhub.adminkit import Admin, ReadOnlyAdmin, action, display


class RequestLogAdmin(ReadOnlyAdmin):
    """Millions of rows: its filters are telemetry.log_filters', and only the order of the index can be asked for.
    Registered by tokenhub.admin, which adds what of a request's story other apps know."""

    list_display = (
        "at", "outcome", "model_shown", "provider_id", "client_key", "tokens", "cost_shown", "latency_shown", "reason",
    )  # fmt: skip
    list_filter = (
        OutcomeFilter,
        ("created_at", RangeDateTimeFilter),
        ("model_id", ValueFilter),
        ("provider_id", ValueFilter),
        ("api_key_id", KeyFilter),
        ("project", ValueFilter),
        ("alias", ValueFilter),
        ("error_code", ValueFilter),
        ("stream", YesNoFilter),
        ("client_disconnected", YesNoFilter),
    )
    list_filter_submit = True
    search_fields = ("client_request_id",)
    search_help_text = "A request id: the client's own, or TokenHub's"
    ordering = ("-created_at", "-id")
    sortable_by = ()
    paginator = LogPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    empty_title = "No request yet"
    empty_hint = "Every request leaves a row here within a second: what was asked, who answered, what it cost and why."
    fieldsets = (
        (None, {"fields": (("created_at", "status", "error_code"), ("request_id", "client_request_id"))}),
        ("Who asked", {"fields": (("api_key_name", "project", "tags"), ("endpoint", "dialect", "stream_shown"))}),
        (
            "Who answered",
            {
                "fields": (
                    ("requested_model", "mode", "alias"),
                    ("model_id", "provider_id", "routing_reason"),
                )
            },
        ),
        ("What was learned", {"fields": ("reward_shown",)}),
        ("Beside another request", {"fields": ("beside",)}),
        ("Part of a plan", {"fields": ("plan_shown",)}),
        (
            "Tokens and cost",
            {
                "fields": (
                    ("input_tokens", "cached_input_tokens", "cache_write_tokens"),
                    ("output_tokens", "reasoning_tokens", "estimated_shown"),
                    ("estimated_cost_usd", "cost_usd"),
                )
            },
        ),
        ("Time", {"fields": (("latency_ms", "time_to_first_chunk_ms", "left_shown"),)}),
    )

    actions_detail = ("capture",)

    def has_capture_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return request.user.has_perm("telemetry.view_capture")

    @action(description="Prompt and answer", url_path="capture", permissions=["capture"])
    def capture(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """What was captured. Each reading is in the audit log."""
        row = self.get_object(request, object_id)
        if row is None or not self.has_view_permission(request, row) or not self.has_capture_permission(request):
            raise PermissionDenied
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": f"Prompt and answer of {row}",
            "opts": self.opts,
            "row": row,
        }
        try:
            context["kept"], context["captured"] = captures.read(request_id=row.request_id)
        except captures.NotCaptured:
            context["problem"] = "Nothing is kept of this request: nobody wanted it captured, or its time is over."
        except captures.Locked:
            context["problem"] = "It cannot be read while the vault is locked. Unlock the vault, and come back."
        except captures.Unreadable:
            context["problem"] = "It cannot be read: it was changed, or its key was removed from the vault."
        response = TemplateResponse(request, "telemetry/capture.html", context)
        response["Cache-Control"] = "no-store"
        return response

    def get_readonly_fields(self, request: HttpRequest, obj: RequestLog | None = None) -> tuple[str, ...]:
        rows = (field.name for field in RequestLog._meta.fields)  # noqa: SLF001  Django's documented interface
        return (
            *rows,
            "stream_shown",
            "estimated_shown",
            "left_shown",
            "reward_shown",
            "beside",
            "aside_answer",
            "plan_shown",
        )

    def get_fieldsets(self, request: HttpRequest, obj: RequestLog | None = None) -> Any:
        found = super().get_fieldsets(request, obj)
        detail = obj.detail if obj is not None else {}
        idle = set() if "shadow_of" in detail or "judge_of" in detail else {"Beside another request"}
        if detail.get("reward") is None:
            idle.add("What was learned")
        if not detail.get("plan"):
            idle.add("Part of a plan")
        return [one for one in found if one[0] not in idle]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[RequestLog], search_term: str
    ) -> tuple[QuerySet[RequestLog], bool]:
        """Done by the list, with the filters."""
        return queryset, False

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[LogList]:
        return LogList

    def get_queryset(self, request: HttpRequest) -> QuerySet[RequestLog]:
        rows: QuerySet[RequestLog] = super().get_queryset(request)
        return rows if request.resolver_match and "object_id" in request.resolver_match.kwargs else rows.defer("detail")

    @display(description="At")
    def at(self, row: RequestLog) -> str:
        return f"{localtime(row.created_at):%Y-%m-%d %H:%M:%S}"

    @display(description="Client key")
    def client_key(self, row: RequestLog) -> str:
        return row.api_key_name

    @display(description="Reason")
    def reason(self, row: RequestLog) -> str:
        return row.routing_reason

    @display(description="Outcome", label={"ok": "success", "left": "warning", "counted": "info", "failed": "danger"})
    def outcome(self, row: RequestLog) -> tuple[str, str]:
        if row.client_disconnected:
            return "left", "left"
        if row.status < 400 and not row.error_code:
            return ("counted", "counted") if row.counts_tokens else ("ok", "ok")
        return "failed", f"{row.status} {row.error_code}".strip()

    @display(description="Model")
    def model_shown(self, row: RequestLog) -> str:
        if row.counts_tokens and row.model_id:
            return f"{row.model_id}  (tokens counted, nothing asked)"
        asked = row.asked_for
        if not asked:
            return "nothing was asked for"
        return row.model_id if asked == row.model_id else f"{row.model_id or '-'}  (asked: {asked})"

    @display(description="Tokens in / out")
    def tokens(self, row: RequestLog) -> str:
        about = "≈ " if row.usage_estimated else ""
        return f"{about}{row.input_tokens:,} / {row.output_tokens:,}".replace(" ", "\N{NO-BREAK SPACE}")

    @display(description="Cost")
    def cost_shown(self, row: RequestLog) -> str | None:
        return None if row.cost_usd is None else dollars(row.cost_usd)

    @display(description="Time")
    def latency_shown(self, row: RequestLog) -> str:
        first = f" (first {row.time_to_first_chunk_ms:,})" if row.time_to_first_chunk_ms is not None else ""
        return f"{row.latency_ms:,}\N{NO-BREAK SPACE}ms{first}"

    @display(description="Reward")
    def reward_shown(self, row: RequestLog) -> str:
        parts = row.detail.get("reward_parts", {}).items()
        told = ", ".join(f"{name} {one['value']:.3g} (weight {one['weight']:g})" for name, one in parts)
        shown = f"{row.detail['reward']:.3f}: {told}" if told else f"{row.detail['reward']:.3f}"
        if pressure := row.detail.get("pressure"):
            shown += f". A dollar counted {pressure:.3g} points, for a budget was ahead of its pace."
        return shown

    @display(description="Stream")
    def stream_shown(self, row: RequestLog) -> str:
        """In words, as the two below: neither answer is a fault, which a red cross would say."""
        return "yes" if row.stream else "no"

    @display(description="Usage estimated")
    def estimated_shown(self, row: RequestLog) -> str:
        return "yes" if row.usage_estimated else "no"

    @display(description="Client disconnected")
    def left_shown(self, row: RequestLog) -> str:
        return "yes" if row.client_disconnected else "no"

    @display(description="Made for")
    def beside(self, row: RequestLog) -> str:
        if judged := row.detail.get("judge_of"):
            return f"judging the answer to {judged}"
        return f"a copy of {row.detail.get('shadow_of', '')}"

    @display(description="Of")
    def plan_shown(self, row: RequestLog) -> str:
        plan, leg = row.detail.get("plan", ""), row.detail.get("leg")
        return f"the leg {leg} of {plan}" if leg else f"the whole run {plan}; its legs have their own rows, and costs"


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    list_display = ("number", "at", "actor", "action", "what", "changed", "source", "source_address")
    list_filter = (
        ("created_at", RangeDateTimeFilter),
        ("action", FieldTextFilter),
        ("actor", FieldTextFilter),
        ("resource", FieldTextFilter),
        ("source", FieldTextFilter),
    )
    list_filter_submit = True
    search_fields = ("request_id",)
    search_help_text = "A request id"
    ordering = ("-number",)
    paginator = InfinitePaginator
    show_full_result_count = False
    actions = ("export_csv", "export_json")
    empty_title = "No change yet"
    empty_hint = "Every change of the configuration, every login and every use of the vault leaves an entry here."
    fieldsets = (
        (None, {"fields": (("number", "created_at", "action"), ("resource", "resource_name"))}),
        ("Who", {"fields": (("actor", "source", "source_address"), "request_id")}),
        ("What changed", {"fields": ("change_table",)}),
        ("Proof", {"fields": ("hash",)}),
    )
    readonly_fields = ("change_table",)

    @display(description="At", ordering="created_at")
    def at(self, entry: AuditEntry) -> str:
        return f"{localtime(entry.created_at):%Y-%m-%d %H:%M:%S}"

    @display(description="What")
    def what(self, entry: AuditEntry) -> str:
        return entry.resource_name or entry.resource

    @display(description="Changed")
    def changed(self, entry: AuditEntry) -> str:
        names = list(json.loads(entry.changes))
        return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")

    @display(description="Fields")
    def change_table(self, entry: AuditEntry) -> SafeString:
        told = [_per_million(name, values) for name, values in json.loads(entry.changes).items()]
        return render_to_string("telemetry/changes.html", {"changes": told})

    @admin.action(description="Export as CSV")
    def export_csv(self, request: HttpRequest, queryset: QuerySet[AuditEntry]) -> StreamingHttpResponse:
        return export.response(queryset, "csv")

    @admin.action(description="Export as JSON")
    def export_json(self, request: HttpRequest, queryset: QuerySet[AuditEntry]) -> StreamingHttpResponse:
        return export.response(queryset, "json")


def _per_million(name: str, values: list[Any]) -> tuple[str, list[Any]]:
    """Prices as people say them; the entry itself keeps the fields of the API, which are per 1,000 tokens."""
    if not name.endswith("_per_1k"):
        return name, values
    return f"{name.removesuffix('_per_1k')}, per million tokens", [
        None if one is None else price_shown(one) for one in values
    ]


class WebhookForm(forms.ModelForm):  # type: ignore[type-arg]  # generic for the type checker only
    events = forms.MultipleChoiceField(
        required=False,
        choices=[(one, one) for one in webhooks.EVENTS if one != "test"],
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="None ticked: every event.",
    )

    class Meta:
        model = Webhook
        fields = ("url", "description", "events", "enabled")


@admin.register(Webhook)
class WebhookAdmin(Admin):
    form = WebhookForm
    list_display = ("url", "description", "events_shown", "enabled", "last")
    search_fields = ("url", "description")
    actions = ("send_test", "rotate_secret")
    empty_title = "No webhook yet"
    empty_hint = (
        "A webhook gets alerts of budgets, health, the vault and key rotation as signed POST requests, repeated until"
        " it takes them."
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Webhook | None = None) -> tuple[str, ...]:
        return ("secret",) if obj is not None and self.has_change_permission(request, obj) else ()

    @display(description="Signing secret")
    def secret(self, webhook: Webhook) -> str:
        return webhooks.secret_of(webhook)

    @display(description="Events")
    def events_shown(self, webhook: Webhook) -> str:
        return ", ".join(webhook.events) or "every event"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Webhook]:
        return super().get_queryset(request).prefetch_related("deliveries")  # type: ignore[no-any-return]

    @display(description="Last delivery", label={"delivered": "success", "waiting": "warning", "given_up": "danger"})
    def last(self, webhook: Webhook) -> str | None:
        return next((one.state for one in webhook.deliveries.all()), None)

    def save_model(self, request: HttpRequest, obj: Webhook, form: Any, change: bool) -> None:
        webhooks.save(webhook=obj)

    @admin.action(description="Send a test event", permissions=["change"])
    def send_test(self, request: HttpRequest, queryset: QuerySet[Webhook]) -> None:
        for webhook in queryset:
            webhooks.publish("test", {"message": "TokenHub can reach this address."}, only=webhook)
        messages.success(request, "Sent. The deliveries tell what came of it.")

    @admin.action(description="Make a new signing secret", permissions=["change"])
    def rotate_secret(self, request: HttpRequest, queryset: QuerySet[Webhook]) -> None:
        for webhook in queryset:
            with suppress(Webhook.DoesNotExist):  # it was deleted meanwhile
                webhooks.rotate(webhook=webhook)
        messages.success(request, "New secrets are on the webhooks' pages. The old ones sign nothing any more.")


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "event", "webhook", "state_shown", "attempts", "last_status", "last_error")
    list_filter = ("state", "event", "webhook")
    search_fields = ("event", "webhook__url", "last_error")
    list_select_related = ("webhook",)
    ordering = ("-created_at",)
    actions = ("send_again",)
    empty_title = "Nothing sent yet"
    empty_hint = "Every event that a webhook wants leaves a row here, with what its receiver answered."

    @display(description="State", label={"delivered": "success", "waiting": "warning", "given up": "danger"})
    def state_shown(self, delivery: WebhookDelivery) -> str:
        return delivery.get_state_display().lower()

    @admin.action(description="Send again")
    def send_again(self, request: HttpRequest, queryset: QuerySet[WebhookDelivery]) -> None:
        if not request.user.has_perm("telemetry.change_webhook"):
            messages.error(request, "You lack the permission to change webhooks.")
            return
        for delivery in queryset:
            webhooks.again(delivery=delivery)
        messages.success(request, "They are sent again.")
