from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from unfold.contrib.filters.admin import BooleanRadioFilter, FieldTextFilter, RangeDateTimeFilter
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from orchestration import services
from orchestration.models import LegState, PlanRun, PromptTemplate
from orchestration.prompts import BUILT_IN
from telemetry.money import dollars
from tokenhub.adminkit import Admin, ReadOnlyAdmin, action, display

_STATES = {"completed": "success", "running": "info", "queued": "info", "failed": "danger", "cancelled": "warning"}


@admin.register(PlanRun)
class PlanRunAdmin(ReadOnlyAdmin):
    list_display = ("started", "mode", "state_shown", "client_key", "legs_shown", "cost_shown", "took", "background")
    list_filter = (
        "state",
        "mode",
        ("created_at", RangeDateTimeFilter),
        ("api_key_name", FieldTextFilter),
        ("is_background", BooleanRadioFilter),
    )
    list_filter_submit = True
    search_fields = ("id__exact", "api_key_name", "project")
    search_help_text = "A run's id, the client key or the project"
    ordering = ("-created_at",)
    actions = ("cancel",)
    empty_title = "No run yet"
    empty_hint = "Every request to /v1/plan leaves a row here for a day: its steps as they are taken, and their cost."
    fieldsets = (
        (None, {"fields": (("mode", "state", "is_partial", "error_code"), ("id", "is_background", "resumed"))}),
        ("Who asked", {"fields": (("api_key_name", "project"),)}),
        ("Cost, in dollars", {"fields": (("estimated_cost_usd", "cost_usd"),)}),
        ("Time", {"fields": (("created_at", "finished_at", "expires_at"),)}),
        ("Legs", {"fields": ("leg_table",)}),
    )
    readonly_fields = ("leg_table",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[PlanRun]:
        found: QuerySet[PlanRun] = super().get_queryset(request)
        return found.defer("sealed_plan", "sealed_outcome").annotate(
            begun=Count("legs"), done=Count("legs", filter=~Q(legs__state=LegState.RUNNING))
        )

    @display(description="Started", ordering="created_at")
    def started(self, run: PlanRun) -> str:
        return f"{localtime(run.created_at):%Y-%m-%d %H:%M:%S}"

    @display(description="State", label=_STATES, ordering="state")
    def state_shown(self, run: PlanRun) -> str:
        return str(run.state)

    @display(description="Client key", ordering="api_key_name")
    def client_key(self, run: PlanRun) -> str:
        return run.api_key_name

    @display(description="Legs done")
    def legs_shown(self, run: Any) -> str:
        return f"{run.done} of {run.begun}" if run.done < run.begun else str(run.done)

    @display(description="Cost so far", ordering="cost_usd")
    def cost_shown(self, run: PlanRun) -> str | None:
        return None if run.cost_usd is None else dollars(run.cost_usd)

    @display(description="Took")
    def took(self, run: PlanRun) -> str | None:
        return f"{(run.finished_at - run.created_at).total_seconds():.1f} s" if run.finished_at is not None else None

    @display(description="In the background", boolean=True, ordering="is_background")
    def background(self, run: PlanRun) -> bool:
        return run.is_background

    @display(description="What was called")
    def leg_table(self, run: PlanRun) -> SafeString:
        return render_to_string("orchestration/legs.html", {"legs": run.legs.defer("sealed_result")})

    @admin.action(description="Cancel")
    def cancel(self, request: HttpRequest, queryset: QuerySet[PlanRun]) -> None:
        if not request.user.has_perm("orchestration.change_planrun"):
            messages.error(request, "You lack the permission to change runs.")
            return
        over = 0
        for run in queryset:
            try:
                services.cancel(run=run)
            except services.AlreadyOver:
                over += 1
        if over:
            messages.warning(request, f"{over} of them were over already.")
        else:
            messages.success(request, "They are cancelled: no further model is called.")


class PromptForm(forms.ModelForm):  # type: ignore[type-arg]  # generic for the type checker only
    name = forms.ChoiceField(choices=[(one, one) for one in BUILT_IN], widget=UnfoldAdminSelectWidget)
    text = forms.CharField(
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 14}),
        help_text="What stands in {{braces}} is filled in. Saving makes a new version, which is in force at once.",
    )

    class Meta:
        model = PromptTemplate
        fields = ("name", "text", "note")

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if "text" in cleaned:
            services.check_prompt(cleaned.get("name", self.instance.name), cleaned["text"])
        return cleaned


@admin.register(PromptTemplate)
class PromptTemplateAdmin(Admin):
    form = PromptForm
    list_display = ("name", "version", "in_force", "note", "created_at", "created_by")
    list_filter = ("name", "is_active")
    search_fields = ("name", "text", "note")
    actions = ("put_in_force", "use_built_in")
    actions_list = ("prompts",)
    empty_title = "The built-in prompts are in force"
    empty_hint = "A prompt that is added here takes the place of a built-in one. Each change of it is a new version."

    @action(description="Prompts in force", url_path="in-force", permissions=["view"])
    def prompts(self, request: HttpRequest) -> HttpResponse:
        """All of them, the built-in ones too."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        active = {one.name: one for one in PromptTemplate.objects.filter(is_active=True)}
        context = {
            **self.admin_site.each_context(request),
            "title": "Prompts in force",
            "opts": self.opts,
            "prompts": [
                {"name": name, "text": active[name].text if name in active else text, "row": active.get(name)}
                for name, text in BUILT_IN.items()
            ],
            "may_add": self.has_add_permission(request),
        }
        return TemplateResponse(request, "orchestration/prompts.html", context)

    @display(description="In force", boolean=True, ordering="is_active")
    def in_force(self, prompt: PromptTemplate) -> bool:
        return prompt.is_active

    def get_readonly_fields(self, request: HttpRequest, obj: PromptTemplate | None = None) -> tuple[str, ...]:
        return ("name", "version", "is_active", "created_at", "created_by") if obj is not None else ()

    def get_fields(self, request: HttpRequest, obj: PromptTemplate | None = None) -> Any:
        if obj is None:
            return ("name", "text", "note")
        return (("name", "version", "is_active"), ("created_at", "created_by"), "text", "note")

    def unshown(self, obj: PromptTemplate) -> dict[str, Any]:
        """Saving a version puts a new one in force."""
        active = PromptTemplate.objects.filter(name=obj.name, is_active=True).values_list("version", flat=True).first()
        return {"The version in force": active}

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Of the prompt that is named in the address: its text as it is in force."""
        name = request.GET.get("name", "")
        if name not in BUILT_IN:
            return {}
        return {"name": name, "text": PromptTemplate.objects.in_force().get(name, BUILT_IN[name])}

    def save_model(self, request: HttpRequest, obj: PromptTemplate, form: Any, change: bool) -> None:
        made = services.add_prompt(name=obj.name, text=obj.text, note=obj.note)
        obj.pk, obj.version, obj.is_active = made.pk, made.version, made.is_active

    def delete_model(self, request: HttpRequest, obj: PromptTemplate) -> None:
        services.delete_prompt(prompt=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[PromptTemplate]) -> None:
        for prompt in queryset:
            services.delete_prompt(prompt=prompt)

    @admin.action(description="Put in force", permissions=["change"])
    def put_in_force(self, request: HttpRequest, queryset: QuerySet[PromptTemplate]) -> None:
        for prompt in queryset:
            try:
                services.activate(prompt=prompt)
            except ValidationError as problem:
                messages.error(request, f"{prompt}: {' '.join(problem.messages)}")
                return
        messages.success(request, "In force from the next run on.")

    @admin.action(description="Go back to the built-in prompt", permissions=["change"])
    def use_built_in(self, request: HttpRequest, queryset: QuerySet[PromptTemplate]) -> None:
        for name in set(queryset.values_list("name", flat=True)):
            services.revert(name=name)
        messages.success(request, "The built-in prompt is in force from the next run on. The versions are kept.")
