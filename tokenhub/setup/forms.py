"""The forms of the set-up. What a preset implies is filled in where a field was left empty."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from unfold.widgets import (
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from providers.models import CredentialStore, Provider
from providers.presets import BY_ID, PLACE_HOLDER, PRESETS
from providers.types import TYPES
from routing.models import Alias, Model


class ProviderCard(forms.Form):
    """`provider`, after a valid one: not saved."""

    preset = forms.ChoiceField(choices=[(one.id, one.title) for one in PRESETS], initial=PRESETS[0].id)
    name = forms.CharField(
        required=False,
        max_length=200,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="How it is called here.",
    )
    base_url = forms.CharField(
        label="Address",
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false", "inputmode": "url"}),
    )
    credential = forms.CharField(
        label="API key",
        required=False,
        max_length=4000,
        widget=UnfoldAdminPasswordWidget(render_value=False, attrs={"autocomplete": "new-password"}),
        help_text="Goes into the vault, and is never shown again.",
    )
    provider: Provider

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        preset = BY_ID.get(cleaned.get("preset", ""))
        if preset is None or self.errors:
            return cleaned
        base = cleaned["base_url"] or preset.base_url
        if not base:
            raise ValidationError({"base_url": "Its address, please: http://HOST[:PORT] or https://HOST."})
        if PLACE_HOLDER in base:
            raise ValidationError({"base_url": f"Put your resource's name in place of {PLACE_HOLDER}."})
        credential = cleaned["credential"]
        if preset.needs_credential and not credential:
            raise ValidationError({"credential": f"{preset.title} wants a key: {preset.keys_at}."})
        self.provider = Provider(
            id=cleaned["name"] or preset.id,
            type=preset.type,
            base_url="" if base.rstrip("/") == TYPES[preset.type].base_url else base,
            dialects=list(preset.dialects),
            cred_store=CredentialStore.VAULT if credential else CredentialStore.NONE,
        )
        try:
            self.provider.full_clean()  # a name that is taken, too: a stored credential goes to its own address alone
        except ValidationError as problem:
            self.add_errors(problem)
        return cleaned

    def add_errors(self, problem: ValidationError) -> None:
        """Of the model, beside the fields of this form."""
        places = {"id": "name", "base_url": "base_url", "cred_store": "credential"}
        for field, messages in problem.message_dict.items():
            self.add_error(places.get(field), messages)

    def ask_again(self) -> None:
        """For the credential that was typed: no page is sent one, and without it the next attempt would save none."""
        if self.data.get("credential"):
            self.fields["credential"].widget.attrs["required"] = True
            self.add_error("credential", "Nothing was saved. Give the key again: it is never sent back to a page.")


class CredentialCard(forms.Form):
    """For a provider that is here already."""

    credential = forms.CharField(
        label="API key",
        max_length=4000,
        widget=UnfoldAdminPasswordWidget(render_value=False, attrs={"autocomplete": "new-password"}),
        help_text="Takes the old one's place in the vault, and is never shown again.",
    )


class KeyCard(forms.Form):
    name = forms.CharField(
        max_length=200,
        initial="my-application",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
        help_text="Which application uses it. Limits, scopes and budgets are on the key's own page, once it is made.",
    )


class RequestCard(forms.Form):
    """Nothing of it reaches Django: the page sends the request itself, as a client would."""

    model = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    message = forms.CharField(
        initial="Hello! Who are you, in one sentence?", widget=UnfoldAdminTextareaWidget(attrs={"rows": 2})
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        aliases = Alias.objects.filter(enabled=True).values_list("name", flat=True)
        models = Model.objects.filter(enabled=True, provider__enabled=True).values_list("id", flat=True)
        names = [(one, one) for one in [*aliases[:100], *models[:500]]]
        self.fields["model"].choices = [("tokenhub/auto", "tokenhub/auto: the router decides"), *names]  # type: ignore[attr-defined]


class PastedKey(forms.Form):
    """For a request without a key that was made on the same page. Nothing of it reaches Django either."""

    key = forms.CharField(
        label="Client key",
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "off", "placeholder": "tokenhub_…"}),
        help_text="It stays in this page: the browser sends it to /v1 alone.",
    )
