from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from unfold.widgets import UnfoldAdminPasswordWidget

from tokenhub.adminkit import ReadOnlyAdmin
from vault import services
from vault.errors import VaultError
from vault.models import Secret, VaultState


def _password(label: str, autocomplete: str) -> forms.CharField:
    widget = UnfoldAdminPasswordWidget(render_value=False, attrs={"autocomplete": autocomplete})
    return forms.CharField(label=label, widget=widget, strip=False, max_length=1000)


class UnlockForm(forms.Form):
    password = _password("Vault password", "current-password")


class InitializeForm(forms.Form):
    password = _password("New vault password", "new-password")
    again = _password("The same again", "new-password")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("password") != cleaned.get("again"):
            raise forms.ValidationError("The two passwords differ.")
        return cleaned


class RotateForm(InitializeForm):
    old_password = _password("Present vault password", "current-password")
    field_order = ("old_password", "password", "again")


@admin.register(VaultState)
class VaultAdmin(ReadOnlyAdmin):
    """One page in place of a list: state, and what can be done in it."""

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not request.user.has_perm("tokenhub.administer"):
            raise PermissionDenied
        state = services.status()
        entry: type[forms.Form] = UnlockForm if state.initialized else InitializeForm
        wanted = request.POST.get("do", "")
        asks = wanted == "lock" and request.POST.get("sure") != "yes"
        unlock = entry(request.POST if wanted == "unlock" else None)
        rotate = RotateForm(request.POST if wanted == "rotate" else None)
        if request.method == "POST" and not asks and (done := _act(wanted, unlock, rotate)):
            messages.success(request, done)
            return redirect("admin:vault_vaultstate_changelist")
        context = {
            **self.admin_site.each_context(request),
            "title": "Vault",
            "opts": self.opts,
            "state": state,
            "unlock": unlock,
            "rotate": rotate,
            "asks": asks,
            "secrets": list(Secret.objects.only("name", "fingerprint", "updated_at", "last_used_at")),
        }
        return TemplateResponse(request, "vault/page.html", context)


def _act(wanted: str, unlock: forms.Form, rotate: forms.Form) -> str:
    """What was done, in a sentence; empty when a form has an error to show."""
    if wanted == "lock":
        services.lock()
        return "The vault is locked. Providers with a credential are out of reach until it is unlocked."
    form = rotate if wanted == "rotate" else unlock
    if not form.is_valid():
        return ""
    try:
        if wanted == "rotate":
            count = services.rotate(
                old_password=form.cleaned_data["old_password"], new_password=form.cleaned_data["password"]
            )
            return f"The password is changed, and {count} secrets are sealed anew."
        services.unlock_or_initialize(password=form.cleaned_data["password"])
    except VaultError as problem:
        form.add_error(None, problem.message)
        return ""
    return "The vault is open."
