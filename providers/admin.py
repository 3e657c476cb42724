from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Count, OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Concat
from django.http import HttpRequest, HttpResponse
from unfold.widgets import UnfoldAdminPasswordWidget

from providers import services
from providers.models import SECRET_PREFIX, CredentialStore, Provider
from tokenhub.adminkit import Admin, WordsField, display
from vault.models import Secret


class ProviderForm(forms.ModelForm):  # type: ignore[type-arg]  # generic for the type checker only
    credential = forms.CharField(
        required=False,
        widget=UnfoldAdminPasswordWidget(render_value=False, attrs={"autocomplete": "new-password"}),
        help_text="Goes into the vault and is never shown again. Empty: the stored one stays.",
    )
    endpoints = WordsField(help_text=Provider._meta.get_field("endpoints").help_text)  # noqa: SLF001  Django's interface
    dialects = WordsField(help_text=Provider._meta.get_field("dialects").help_text)  # noqa: SLF001

    class Meta:
        model = Provider
        fields = ("id", "type", "enabled", "base_url", "endpoints", "dialects", "cred_store")
        labels = {"id": "Name", "base_url": "Base address", "cred_store": "Where the credential is"}

    def _post_clean(self) -> None:
        """What the service would refuse is said beside its field, before anything is saved. Last, as it compares
        addresses, which the model has looked at by then."""
        super()._post_clean()  # type: ignore[misc]  # Django's hook, which the stubs leave out
        if not self.errors:
            try:
                services.check(provider=self.instance, credential=self.cleaned_data.get("credential", ""))
            except ValidationError as problem:
                self.add_error(None, problem)


@admin.register(Provider)
class ProviderAdmin(Admin):
    form = ProviderForm
    list_display = ("id", "type", "address", "enabled_shown", "credential_shown", "model_count")
    list_filter = ("type", "enabled")
    search_fields = ("id", "base_url")
    fieldsets = (
        (None, {"fields": ("id", "type", "enabled")}),
        ("Where calls go", {"fields": ("base_url", "endpoints", "dialects")}),
        ("Credential", {"fields": ("cred_store", "credential")}),
    )
    empty_title = "No provider yet"
    empty_hint = (
        "A provider is where requests are sent: OpenAI, Anthropic, a vLLM server, or anything that speaks like one."
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Provider]:
        stored = Secret.objects.filter(name=Concat(Value(SECRET_PREFIX), OuterRef("id")))
        result: QuerySet[Provider] = (
            super()
            .get_queryset(request)
            .annotate(models_count=Count("models"), fingerprint=Subquery(stored.values("fingerprint")[:1]))
        )
        return result

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **options: Any) -> HttpResponse:
        """A form that comes back has lost the credential, as no page is sent one: it says so, or saving it again would
        keep the stored one, or none."""
        form = context["adminform"].form
        if request.method == "POST" and request.POST.get(form.add_prefix("credential")):
            messages.warning(request, "Give the credential again: it was not saved, and is never sent back to a page.")
        return super().render_change_form(request, context, *args, **options)

    def get_readonly_fields(self, request: HttpRequest, obj: Provider | None = None) -> tuple[str, ...]:
        return ("id",) if obj is not None else ()

    def unshown(self, obj: Any) -> dict[str, Any]:
        return {"Credential": obj.fingerprint}

    def impact(self, rows: Sequence[Provider]) -> list[str]:
        """Models are routing's: they are reached through the rows."""
        gone = {row.pk: row.models.count() for row in rows}
        if not (models := sum(gone.values())):
            return []
        told = [f"{models} model{'' if models == 1 else 's'} would go with {'it' if len(rows) == 1 else 'them'}."]
        if not Provider.objects.exclude(pk__in=gone).filter(enabled=True, models__enabled=True).exists():
            told.append("No enabled model would be left to answer anybody.")
        return told

    @display(description="Address")
    def address(self, provider: Provider) -> str:
        more = f" and {len(provider.endpoints)} more" if provider.endpoints else ""
        return (provider.bases[0] + more) if provider.bases else "built in"

    @display(description="State", label={"on": "success", "off": "danger"})
    def enabled_shown(self, provider: Provider) -> str:
        return "on" if provider.enabled else "off"

    @display(description="Credential", label={"missing": "danger", "none needed": "info"})
    def credential_shown(self, provider: Any) -> str:
        if provider.cred_store != CredentialStore.VAULT:
            return "none needed"
        return f"stored · {provider.fingerprint[:6]}" if provider.fingerprint else "missing"

    @display(description="Models", ordering="models_count")
    def model_count(self, provider: Any) -> int:
        return int(provider.models_count)

    def save_model(self, request: HttpRequest, obj: Provider, form: Any, change: bool) -> None:
        services.save(provider=obj, credential=form.cleaned_data.get("credential", ""))

    def delete_model(self, request: HttpRequest, obj: Provider) -> None:
        services.delete(provider=obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Provider]) -> None:
        for provider in queryset:
            services.delete(provider=provider)
