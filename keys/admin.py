from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Count, OuterRef, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.safestring import SafeString
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
)

from keys import admin_money, services
from keys.models import LIMIT_FIELDS, Budget, ClientKey, Project, Scope, Subject
from keys.refusals import refusing
from keys.snippets import snippets
from telemetry import spending
from telemetry.money import dollars
from tokenhub.adminkit import Admin, WordsField, action, display

_LIMITS = (("rate_limit_rps", "rate_limit_burst"), ("rate_limit_rpm", "rate_limit_tpm"), "max_concurrent")
_SAID: Final[dict[str, dict[str, str]]] = {
    "rate_limit_burst": {
        "label": "Burst of requests",
        "help_text": "So many may come at the same moment before the rate per second holds. Empty: a second's worth.",
    },
    "max_concurrent": {"label": "Open requests", "help_text": "Asked and not yet answered; a stream until its end."},
}


class ClientKeyForm(forms.ModelForm):  # type: ignore[type-arg]  # generic for the type checker only
    scopes = forms.MultipleChoiceField(
        required=False,
        choices=Scope.choices,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="None chosen: every scope.",
    )
    allowed_models = WordsField(help_text="Ids of models and aliases, one per line. Empty: every one.")
    tags = WordsField(help_text="Words to find requests by, one per line.")

    class Meta:
        model = ClientKey
        fields = (
            "name", "owner", "project", "tags", "scopes", "allowed_models", "allow_fallback", "allow_directives",
            "capture", "enabled", "expires_at", "rotation_days", *LIMIT_FIELDS,
        )  # fmt: skip

    def clean_expires_at(self) -> datetime | None:
        """A key that is here may be ended so; a new one would be refused from its first request on."""
        expires_at: datetime | None = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= timezone.now() and self.instance._state.adding:  # noqa: SLF001  Django's documented interface
            raise ValidationError("This moment is over: the key would never work. Empty: it does not expire.")
        return expires_at


class GraceForm(forms.Form):
    hours = forms.IntegerField(
        label="Grace in hours",
        required=False,
        min_value=0,
        max_value=720,
        initial=0,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="For so long the old secret works, too. 0: it is refused from now on.",
    )

    @property
    def grace(self) -> timedelta | None:
        return timedelta(hours=self.cleaned_data["hours"] or 0) or None


class LimitedForms:
    """Of a page with limits: two of them are counted in requests, and told apart."""

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        options |= _SAID.get(db_field.name, {})
        return super().formfield_for_dbfield(db_field, request, **options)  # type: ignore[misc]  # of what it is mixed into


class ToldMoney:
    """Columns and a field about the money of a row: of a client key or a project."""

    @display(description="Budget")
    def budget(self, row: Any) -> str | None:
        return admin_money.budget_told(row.standing)

    @display(description="Spent")
    def spent(self, row: Any) -> str | None:
        """Of its budget; without one, this month."""
        told = admin_money.spent_told(row.standing, refuses=row.refuses)
        return told or f"{dollars(row.spent_usd)} this month"

    @display(description="Budgets")
    def budgets(self, row: ClientKey | Project) -> SafeString:
        return admin_money.money_of(row).budgets


@admin.register(ClientKey)
class ClientKeyAdmin(ToldMoney, LimitedForms, Admin):
    form = ClientKeyForm
    list_display = (
        "name",
        "shown_prefix",
        "state",
        "shown_scopes",
        "owner",
        "project",
        "budget",
        "spent",
        "last_used_at",
    )
    list_filter = ("enabled", "project", "owner")
    search_fields = ("name", "key_prefix", "owner", "project")
    readonly_fields = (
        "budgets",
        "spent_this_month",
        "key_prefix",
        "created_at",
        "rotated_at",
        "last_used_at",
        "old_digest_until",
    )
    fieldsets = (
        (None, {"fields": ("name", ("owner", "project"), "tags")}),
        (
            "What it may do",
            {
                "fields": (
                    "enabled",
                    ("expires_at", "rotation_days"),
                    "scopes",
                    "allowed_models",
                    "allow_fallback",
                    "allow_directives",
                    "capture",
                )
            },
        ),
        ("How much", {"fields": _LIMITS}),
        ("Money", {"fields": ("budgets", "spent_this_month")}),
        ("The key", {"fields": (("key_prefix", "created_at", "rotated_at"), ("last_used_at", "old_digest_until"))}),
    )
    actions = ("revoke",)
    actions_detail = ("rotate",)
    empty_title = "No client key yet"
    empty_hint = "Each application gets a key of its own, so that its use can be seen, limited and ended by itself."

    def get_fieldsets(self, request: HttpRequest, obj: ClientKey | None = None) -> Any:
        return self.fieldsets if obj is not None else self.fieldsets[:3]

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found = super().get_changelist_instance(request)
        standings = services.standings_of(Subject.KEY, [str(row.pk) for row in found.result_list])
        spent = spending.spent([str(row.pk) for row in found.result_list], spending.month_of(timezone.now()))
        refuse = refusing(standings.values())
        for row in found.result_list:
            row.standing, row.spent_usd = standings.get(str(row.pk)), spent.get(str(row.pk), Decimal(0))
            row.refuses = row.standing is not None and row.standing.budget.pk in refuse
        return found

    def impact(self, rows: Sequence[ClientKey]) -> list[str]:
        since = timezone.now() - timedelta(days=7)
        fresh = [
            (row.last_used_at, row.name)
            for row in rows
            if row.enabled and row.last_used_at and row.last_used_at > since
        ]
        if not fresh:
            return []
        count = f"{len(fresh)} of them were" if len(rows) > 1 else "It was"
        at, name = max(fresh)
        last = f"{timezone.localtime(at):%Y-%m-%d %H:%M}"
        return [f"{count} used within the last week, {name} at {last}: the application will be refused."]

    @admin.action(description="Revoke", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ClientKey]) -> HttpResponse | None:
        """They stay in the list, and are refused."""
        rows = list(queryset)
        title = "Revoke these client keys? They are refused within a second."
        if page := self.ask_before(request, rows, title=title, impact=self.impact(rows), button="Revoke them"):
            return page
        for key in rows:
            services.revoke(key=key)
        what = "1 client key is" if len(rows) == 1 else f"{len(rows)} client keys are"
        messages.success(request, f"{what} revoked.")
        return None

    @display(description="Spent this month")
    def spent_this_month(self, key: ClientKey) -> str:
        return admin_money.money_of(key).spent

    @display(description="Key")
    def shown_prefix(self, key: ClientKey) -> str:
        return f"{key.key_prefix}…"

    @display(
        description="State",
        label={"on": "success", "off": "danger", "expired": "warning", "rotation due": "warning"},
    )
    def state(self, key: ClientKey) -> str:
        if not key.enabled:
            return "off"
        now, due = timezone.now(), key.rotation_due_at
        if key.expires_at is not None and key.expires_at <= now:
            return "expired"
        return "rotation due" if due is not None and due <= now else "on"

    @display(description="Scopes")
    def shown_scopes(self, key: ClientKey) -> str:
        return ", ".join(key.scopes) or "all"

    # -- writing -------------------------------------------------------------------------------------------------
    def save_model(self, request: HttpRequest, obj: ClientKey, form: Any, change: bool) -> None:
        if change:
            services.save(key=obj)
        else:
            request.issued_key = services.reissue(key=obj)  # type: ignore[attr-defined]  # for response_add only

    def response_add(self, request: HttpRequest, obj: ClientKey, post_url_continue: str | None = None) -> HttpResponse:
        return self._issued(request, request.issued_key)  # type: ignore[attr-defined]

    def delete_model(self, request: HttpRequest, obj: ClientKey) -> None:
        services.delete(key=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ClientKey]) -> None:
        ids = [str(key.pk) for key in queryset]
        services.lock_money(Budget.objects.filter(subject=Subject.KEY, subject_id__in=ids))
        for key in queryset:
            services.delete(key=key)

    # -- a new secret for a key ------------------------------------------------------------------------------------
    @action(description="Rotate", url_path="rotate-link", permissions=["change"])
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """A link to the page that asks first: a GET changes nothing."""
        return self.rotate_view(request, object_id)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.rotate_view)
        return [path("<path:object_id>/rotate/", view, name="keys_clientkey_rotate"), *super().get_urls()]

    def rotate_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Of the secret that the page was made for: a second click, or a second person, ends no other one."""
        key = self.get_object(request, object_id)
        if key is None or not self.has_change_permission(request, key):
            raise PermissionDenied
        form = GraceForm(request.POST if request.method == "POST" else None)
        stale = form.is_bound and not constant_time_compare(request.POST.get("secret", ""), _mark(key))
        if not stale and form.is_valid():
            try:
                return self._issued(request, services.reissue(key=key, grace=form.grace))
            except services.SecretChanged:
                stale, key = True, self.get_object(request, object_id)
        if key is None:  # it was deleted at the same moment
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": f"Rotate {key.name}",
            "form": form,
            "key": key,
            "secret": _mark(key),
            "stale": stale,
            "in_grace": key.old_digest_until is not None and key.old_digest_until > timezone.now(),
            "opts": self.opts,
            "action_url": reverse("admin:keys_clientkey_rotate", args=[key.pk]),
        }
        return TemplateResponse(request, "keys/rotate.html", context)

    def _issued(self, request: HttpRequest, issued: services.IssuedKey) -> HttpResponse:
        """Shows the key in this one answer: neither session nor message store ever holds it."""
        base = (settings.TOKENHUB_PUBLIC_URL or f"{request.scheme}://{request.get_host()}").rstrip("/")
        context = {
            **self.admin_site.each_context(request),
            "title": "Client key",
            "opts": self.opts,
            "key": issued.record,
            "plaintext": issued.plaintext,
            "base": base,
            "snippets": snippets(base=base, key=issued.plaintext),
            "has_budget": admin_money.has_budget(issued.record),
        }
        response = TemplateResponse(request, "keys/issued.html", context)
        response["Cache-Control"] = "no-store"
        return response


def _mark(key: ClientKey) -> str:
    """Tells its secrets apart, and nothing else about them."""
    return salted_hmac("keys.rotate", key.digest, algorithm="sha256").hexdigest()


# -- projects and budgets --------------------------------------------------------------------------------------------
@admin.register(Project)
class ProjectAdmin(ToldMoney, LimitedForms, Admin):
    list_display = ("name", "key_count", "budget", "spent", "created_at")
    search_fields = ("name", "description")
    fieldsets = (
        (None, {"fields": ("name", "description", "capture")}),
        ("How much", {"fields": _LIMITS}),
        ("Money", {"fields": ("budgets", "spent_this_month")}),
    )
    empty_title = "No project yet"
    empty_hint = "A project groups client keys, which name it: a budget on it holds for all of them together."

    def get_readonly_fields(self, request: HttpRequest, obj: Project | None = None) -> tuple[str, ...]:
        return () if obj is None else ("name", "budgets", "spent_this_month")

    def get_fieldsets(self, request: HttpRequest, obj: Project | None = None) -> Any:
        return self.fieldsets if obj is not None else self.fieldsets[:2]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Project]:
        keys = ClientKey.objects.filter(project=OuterRef("name")).order_by().values("project")
        found: QuerySet[Project] = super().get_queryset(request)
        return found.annotate(keys=keys.annotate(count=Count("pk")).values("count"))

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found = super().get_changelist_instance(request)
        standings = services.standings_of(Subject.PROJECT, [row.pk for row in found.result_list])
        spent = admin_money.spent_by_projects([row.pk for row in found.result_list if row.pk not in standings])
        refuse = refusing(standings.values())
        for row in found.result_list:
            row.standing, row.spent_usd = standings.get(row.pk), spent.get(row.pk, Decimal(0))
            row.refuses = row.standing is not None and row.standing.budget.pk in refuse
        return found

    def impact(self, rows: Sequence[Project]) -> list[str]:
        names = [row.pk for row in rows]
        keys = ClientKey.objects.filter(project__in=names).count()
        budgets = Budget.objects.filter(subject=Subject.PROJECT, subject_id__in=names).count()
        told = [f"{keys} client keys go on without its limits."] if keys else []
        return told + ([f"{budgets} budgets go with it."] if budgets else [])

    @display(description="Client keys")
    def key_count(self, project: Project) -> int:
        return getattr(project, "keys", None) or 0

    @display(description="Spent this month")
    def spent_this_month(self, project: Project) -> str:
        return f"{admin_money.money_of(project).spent}, by the client keys that it has now"

    def save_model(self, request: HttpRequest, obj: Project, form: Any, change: bool) -> None:
        services.save_project(project=obj)

    def delete_model(self, request: HttpRequest, obj: Project) -> None:
        services.delete_project(project=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Project]) -> None:
        names = [project.name for project in queryset]
        services.lock_money(Budget.objects.filter(subject=Subject.PROJECT, subject_id__in=names))
        for project in queryset:
            services.delete_project(project=project)


class BudgetForm(forms.ModelForm):  # type: ignore[type-arg]
    whose = forms.ChoiceField(
        widget=UnfoldAdminSelectWidget, help_text="Of a request that several budgets concern, all must hold."
    )

    class Meta:
        model = Budget
        fields = ("whose", "amount_usd", "every")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "whose" not in self.fields:
            return
        taken = set(Budget.objects.exclude(pk=self.instance.pk).values_list("subject", "subject_id"))
        keys = [(f"key:{key.pk}", str(key)) for key in ClientKey.objects.only("id", "name", "key_prefix")]
        projects = [(f"project:{name}", name) for name in Project.objects.values_list("name", flat=True)]
        groups = {"": [("installation:", "the whole installation")], "Projects": projects, "Client keys": keys}
        self.fields["whose"].choices = [  # type: ignore[attr-defined]
            (title, [one for one in listed if tuple(one[0].split(":", 1)) not in taken])
            for title, listed in groups.items()
        ]
        if self.instance.pk:
            self.initial["whose"] = f"{self.instance.subject}:{self.instance.subject_id}"

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if "whose" in cleaned:
            self.instance.subject, _, self.instance.subject_id = cleaned["whose"].partition(":")
        return cleaned


@admin.register(Budget)
class BudgetAdmin(Admin):
    form = BudgetForm
    list_display = ("whose", "amount", "every", "spent", "leased", "overrun", "resets")
    list_filter = ("subject", "every")
    search_fields = ("subject_id",)
    empty_title = "No budget yet"
    empty_hint = "A budget says what a client key, a project or the whole installation may spend, and holds."

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found = super().get_changelist_instance(request)
        ids = [row.subject_id for row in found.result_list if row.subject == Subject.KEY]
        names = {str(key.pk): key.name for key in ClientKey.objects.filter(pk__in=ids).only("id", "name")}
        standings = services.standings(found.result_list)
        refuse = refusing(standings)
        for row, standing in zip(found.result_list, standings, strict=True):
            row.standing, row.key_name = standing, names.get(row.subject_id, row.subject_id)
            row.refuses = row.pk in refuse
        return found

    def impact(self, rows: Sequence[Budget]) -> list[str]:
        return ["From then on nothing stops what it stops now."]

    @display(description="Whose", ordering="subject_id")
    def whose(self, budget: Budget) -> str:
        if budget.subject == Subject.INSTALLATION:
            return "the whole installation"
        name = getattr(budget, "key_name", budget.subject_id)
        return f"{budget.get_subject_display().lower()} {name}"

    @display(description="Budget", ordering="amount_usd")
    def amount(self, budget: Budget) -> str:
        return dollars(budget.amount_usd)

    @display(description="Spent")
    def spent(self, budget: Budget) -> str | None:
        return admin_money.spent_told(getattr(budget, "standing", None), refuses=getattr(budget, "refuses", False))

    @display(description="In leases")
    def leased(self, budget: Budget) -> str:
        return dollars(budget.standing.leased_usd)  # type: ignore[attr-defined]  # of rows in the list

    @display(description="Overrun")
    def overrun(self, budget: Budget) -> str | None:
        over = budget.standing.overrun_usd  # type: ignore[attr-defined]
        return dollars(over) if over else None

    @display(description="Begins anew")
    def resets(self, budget: Budget) -> str | None:
        at = budget.standing.resets_at  # type: ignore[attr-defined]
        return f"{timezone.localtime(at):%Y-%m-%d %H:%M}" if at is not None else None

    def save_model(self, request: HttpRequest, obj: Budget, form: Any, change: bool) -> None:
        services.save_budget(budget=obj)

    def delete_model(self, request: HttpRequest, obj: Budget) -> None:
        services.delete_budget(budget=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Budget]) -> None:
        services.lock_money(queryset)
        for budget in queryset:
            services.delete_budget(budget=budget)
