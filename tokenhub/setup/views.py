"""The set-up's pages. Each answers htmx with the part that changes, and everybody else with a whole page around it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from keys import services as keys
from keys.snippets import snippets
from providers import discovery, model_list
from providers import services as providers
from providers.discovery import Look
from providers.model_list import Kind
from providers.models import Provider, ProviderType
from providers.presets import PRESETS
from routing import importing
from telemetry.models import RequestLog
from tokenhub.setup import facts
from tokenhub.setup.forms import KeyCard, PastedKey, ProviderCard, RequestCard
from vault import services as vault
from vault.admin import InitializeForm, UnlockForm
from vault.errors import VaultError

View = Callable[..., HttpResponse]
FEW: int = 12  # of so many models all are ticked


def _page(request: HttpRequest, step: str, *, said: str = "", **extra: Any) -> HttpResponse:
    context = {**panel(request, step), **extra, "said": said}
    if request.headers.get("HX-Request") == "true":
        return render(request, "tokenhub/setup/setup.html", context)
    context |= {**admin.site.each_context(request), "title": "Set-up"}
    return render(request, "tokenhub/setup/page.html", context)


def panel(request: HttpRequest, step: str = "") -> dict[str, Any]:
    """The steps, and the form of the one that is open. Asks no provider anything."""
    context = facts.context(request, step=step)
    match context["step"].id:
        case "vault":
            state = vault.status()
            context |= {"vault": state, "form": UnlockForm() if state.initialized else InitializeForm()}
        case "provider":
            context |= {"form": ProviderCard(), "presets": PRESETS}
        case "models":
            real = Provider.objects.filter(enabled=True).exclude(type=ProviderType.SANDBOX)
            context |= {"providers": real.order_by("-created_at")}
        case "key":
            context |= {"form": KeyCard()}
        case "request":
            context |= {"pasted": PastedKey(), "request_form": RequestCard()}
    return context


def _doing(step: str) -> Callable[[View], View]:
    """For whoever may do this step. Answers are kept nowhere: one of them holds a key."""

    def decorate(view: View) -> View:
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not facts.may(request.user, step):
                raise PermissionDenied
            return view(request, *args, **kwargs)

        return never_cache(admin.site.admin_view(checked))

    return decorate


def _posted(view: View) -> View:
    """Whoever only goes to its address, as after a login, gets the set-up."""

    @require_http_methods(["GET", "HEAD", "POST"])
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return view(request, *args, **kwargs) if request.method == "POST" else redirect("setup:index")

    return checked


@never_cache
@require_GET
def index(request: HttpRequest) -> HttpResponse:
    return _page(request, request.GET.get("step", ""))


@_posted
@_doing("vault")
def open_vault(request: HttpRequest) -> HttpResponse:
    entry: type[forms.Form] = UnlockForm if vault.status().initialized else InitializeForm
    form = entry(request.POST)
    if form.is_valid():
        try:
            vault.unlock_or_initialize(password=form.cleaned_data["password"])
        except VaultError as problem:
            form.add_error(None, problem.message)
        else:
            return _page(request, "", said="The vault is open.")
    return _page(request, "vault", form=form)


@_posted
@_doing("provider")
def test_connection(request: HttpRequest) -> HttpResponse:
    """Of what is in the form; nothing is saved."""
    form = ProviderCard(request.POST)
    if not form.is_valid():
        errors = [f"{form.fields[name].label or name.title()}: {' '.join(map(str, said))}" if name in form.fields
                  else " ".join(map(str, said)) for name, said in form.errors.items()]  # fmt: skip
        return render(request, "tokenhub/setup/connection.html", {"errors": errors})
    look = discovery.best(discovery.look(form.provider, credential=form.cleaned_data["credential"]))
    return render(request, "tokenhub/setup/connection.html", {"look": look})


@_posted
@_doing("provider")
def add_provider(request: HttpRequest) -> HttpResponse:
    form = ProviderCard(request.POST)
    if form.is_valid():
        try:
            providers.save(provider=form.provider, credential=form.cleaned_data["credential"])
        except ValidationError as problem:
            form.add_errors(problem)
        else:
            said = f"{form.provider.pk} is saved."
            return _models(request, form.provider, said=said) if facts.may(request.user, "models") else _page(
                request, "", said=said
            )  # fmt: skip
    return _page(request, "provider", form=form)


@_doing("models")
def pick_models(request: HttpRequest) -> HttpResponse:
    """A GET asks the provider for its list; a POST takes models of it, or such as are named."""
    name = (request.POST if request.method == "POST" else request.GET).get("provider", "")
    provider = Provider.objects.filter(pk=name).first()
    if provider is None:
        return _page(request, "models", said="Choose a provider first.")
    if request.method != "POST":
        return _models(request, provider)
    look = discovery.best(discovery.look(provider))
    named = dict.fromkeys(request.POST.get("names", "").split())
    listed = list(look.models)
    known = {one.id for one in listed}
    listed += model_list.read({"data": [{"id": one} for one in named if one not in known]}) or []
    wanted = {*request.POST.getlist("model"), *named}
    if not wanted:
        return _models(request, provider, said="No model was ticked or named.")
    try:
        offers = [_edited(request, one) for one in importing.offered(provider, listed)]
    except ValidationError as problem:
        return _models(request, provider, said=" ".join(problem.messages))
    taken = importing.take(provider=provider, offers=offers, only=wanted)
    skipped = "; ".join(f"{one.id}: {one.reason}" for one in taken if one.state == "skipped")
    created = sum(one.state == "created" for one in taken)
    said = f"{created} model{' is' if created == 1 else 's are'} added."
    if skipped or not taken:
        return _models(request, provider, said=f"{said} {skipped}")
    return _page(request, "" if not facts.context(request)["all_done"] else "models", said=said)


def _edited(request: HttpRequest, offer: importing.Offered) -> importing.Offered:
    """With what stands in its row of the form. Raises ValidationError."""
    name = offer.listed.id
    if f"context:{name}" not in request.POST:
        return offer
    try:
        context = int(request.POST[f"context:{name}"] or 0) or None
        told = {kind: request.POST.get(f"{kind}:{name}", "").strip() for kind in ("input", "output")}
        prices = {kind: Decimal(text) if text else None for kind, text in told.items()}
    except (ValueError, InvalidOperation):
        raise ValidationError(f"{offer.id}: context and prices are numbers.") from None
    return offer.with_edits(per_million=prices, max_context_tokens=context)


def _models(request: HttpRequest, provider: Provider, *, said: str = "") -> HttpResponse:
    look: Look = discovery.best(discovery.look(provider))
    offers = importing.offered(provider, look.models) if look.problem is None else []
    offers = [one for one in offers if one.listed.kind is not Kind.OTHER]
    return _page(
        request, "models", said=said, provider=provider, look=look, offers=offers, tick_all=len(offers) <= FEW,
        default_context=importing.DEFAULT_CONTEXT_TOKENS,
    )  # fmt: skip


@_posted
@_doing("key")
def make_key(request: HttpRequest) -> HttpResponse:
    form = KeyCard(request.POST)
    if form.is_valid():
        try:
            issued = keys.issue(name=form.cleaned_data["name"], owner=request.user.get_username())
        except ValidationError as problem:
            form.add_error("name", problem.messages)
        else:
            return _page(request, "key", **key_card(request, issued))
    return _page(request, "key", form=form)


def key_card(request: HttpRequest, issued: keys.IssuedKey) -> dict[str, Any]:
    """What `tokenhub/setup/key_card.html` shows, in this one answer."""
    base = (settings.TOKENHUB_PUBLIC_URL or f"{request.scheme}://{request.get_host()}").rstrip("/")
    return {
        "key": issued.record,
        "plaintext": issued.plaintext,
        "base": base,
        "snippets": snippets(base=base, key=issued.plaintext),
    }


@_doing("request")
@require_GET
def try_request(request: HttpRequest) -> HttpResponse:
    """The form that sends a request with the key that the page around it shows."""
    return render(request, "tokenhub/setup/request.html", {"request_form": RequestCard()})


@_doing("request")
@require_GET
def request_row(request: HttpRequest, request_id: UUID) -> HttpResponse:
    """The row of a request that was just sent; a part that asks again while the row is on its way."""
    row = RequestLog.objects.filter(request_id=request_id).first()
    tries = int(request.GET["tries"]) if request.GET.get("tries", "").isdecimal() else 0
    context = {"row": row, "request_id": request_id, "tries": tries + 1, "waiting": row is None and tries < 30}
    return render(request, "tokenhub/setup/request_row.html", context)
