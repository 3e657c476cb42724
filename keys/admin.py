from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget

from keys import services
from keys.models import ClientKey, Scope
from tokenhub.adminkit import Admin, WordsField, action, display


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
            "enabled", "expires_at",
        )  # fmt: skip


@admin.register(ClientKey)
class ClientKeyAdmin(Admin):
    form = ClientKeyForm
    list_display = ("name", "shown_prefix", "state", "shown_scopes", "owner", "project", "created_at")
    list_filter = ("enabled", "project", "owner")
    search_fields = ("name", "key_prefix", "owner", "project")
    readonly_fields = ("key_prefix", "created_at")
    fieldsets = (
        (None, {"fields": ("name", ("owner", "project"), "tags")}),
        (
            "What it may do",
            {"fields": ("enabled", "expires_at", "scopes", "allowed_models", "allow_fallback", "allow_directives")},
        ),
        ("The key", {"fields": (("key_prefix", "created_at"),)}),
    )
    actions_detail = ("rotate",)
    empty_title = "No client key yet"
    empty_hint = "Each application gets a key of its own, so that its use can be seen, limited and ended by itself."

    def get_fieldsets(self, request: HttpRequest, obj: ClientKey | None = None) -> Any:
        return self.fieldsets if obj is not None else self.fieldsets[:2]

    @display(description="Key")
    def shown_prefix(self, key: ClientKey) -> str:
        return f"{key.key_prefix}…"

    @display(description="State", label={"on": "success", "off": "danger", "expired": "warning"})
    def state(self, key: ClientKey) -> str:
        if not key.enabled:
            return "off"
        return "expired" if key.expires_at is not None and key.expires_at <= timezone.now() else "on"

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
        key = self.get_object(request, object_id)
        if key is None or not self.has_change_permission(request, key):
            raise PermissionDenied
        if request.method == "POST":
            return self._issued(request, services.reissue(key=key))
        context = {
            **self.admin_site.each_context(request),
            "title": f"Rotate {key.name}",
            "key": key,
            "opts": self.opts,
            "action_url": reverse("admin:keys_clientkey_rotate", args=[key.pk]),
        }
        return TemplateResponse(request, "keys/rotate.html", context)

    def _issued(self, request: HttpRequest, issued: services.IssuedKey) -> HttpResponse:
        """Shows the key in this one answer: neither session nor message store ever holds it."""
        context = {
            **self.admin_site.each_context(request),
            "title": "Client key",
            "opts": self.opts,
            "key": issued.record,
            "plaintext": issued.plaintext,
            "base_url": f"{request.scheme}://{request.get_host()}/v1",
        }
        response = TemplateResponse(request, "keys/issued.html", context)
        response["Cache-Control"] = "no-store"
        return response
