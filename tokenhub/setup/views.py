"""The set-up's pages. Each answers htmx with the part that changes, and everybody else with a whole page around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from keys import services as keys
from keys.snippets import snippets
from providers import discovery, model_list
from providers import services as providers
from providers.discovery import Look
from providers.model_list import Kind, Listed
from providers.models import CredentialStore, Provider, ProviderType
from providers.presets import PRESETS
from routing import importing
from telemetry.models import RequestLog
from tokenhub.setup import facts, picking, words
from tokenhub.setup.forms import CredentialCard, KeyCard, PastedKey, ProviderCard, RequestCard
from vault import services as vault
from vault.admin import InitializeForm, UnlockForm
from vault.errors import VaultError

View = Callable[..., HttpResponse]
UNREACHED = "the provider's list is out of reach. Try again."
FEW: int = 12  # of so many models all are ticked


def _page(request: HttpRequest, step: str, *, said: str = "", wrong: str = "", **extra: Any) -> HttpResponse:
    context = {**panel(request, step), **extra, "said": said, "wrong": wrong}
    if request.headers.get("HX-Request") == "true":
        answer = render(request, "tokenhub/setup/setup.html", context)
        if address := _address(request, context["step"].id, is_done=bool(said) and not wrong):
            answer["HX-Push-Url"] = address
        return answer
    context |= {**admin.site.each_context(request), "title": "Set-up"}
    return render(request, "tokenhub/setup/page.html", context)


def _address(request: HttpRequest, step: str, *, is_done: bool) -> str:
    """Where the browser is now, so that its back button leads through the steps; empty: where it was. The first page,
    which has a step in it, stays the first page, and a form that comes back to be corrected is where it was."""
    before = urlsplit(request.headers.get("HX-Current-URL", ""))
    if not before.path.startswith(reverse("setup:index")):
        return ""
    now = request.get_full_path() if request.method == "GET" else f"{reverse('setup:index')}?step={step}"
    is_other = now != (f"{before.path}?{before.query}" if before.query else before.path)
    return now if is_other and (is_done or request.method == "GET") else ""


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
    return render(request, "tokenhub/setup/connection.html", {"look": look, "hint": words.hint(look)})


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
    form.ask_again()
    return _page(request, "provider", form=form)


@_posted
@_doing("provider")
def give_credential(request: HttpRequest) -> HttpResponse:
    """Another one for a provider that is saved and refuses the one it has; then its models are looked for again."""
    if not request.user.has_perm("providers.change_provider"):
        raise PermissionDenied
    provider = Provider.objects.filter(pk=request.POST.get("provider", "")).first()
    if provider is None:
        return _page(request, "models", wrong="Choose a provider first.")
    form = CredentialCard(request.POST)
    if form.is_valid():
        provider.cred_store = CredentialStore.VAULT
        try:
            providers.save(provider=provider, credential=form.cleaned_data["credential"])
        except ValidationError as problem:
            form.add_error("credential", problem.messages)
        else:
            return _models(request, provider, said="The API key is saved.")
    return _models(request, provider, credential_form=form)


@_doing("models")
def pick_models(request: HttpRequest) -> HttpResponse:
    """A GET asks the provider for its list; a POST takes models of it, or such as are named."""
    posted = request.method == "POST"
    provider = Provider.objects.filter(pk=(request.POST if posted else request.GET).get("provider", "")).first()
    if provider is None:
        return _page(request, "models", wrong="Choose a provider first.")
    if not posted:
        return _models(request, provider)
    look = discovery.best(discovery.look(provider))
    ticked, named = request.POST.getlist("model"), request.POST.get("names", "").split()
    if not ticked and not named:
        return _models(request, provider, look=look, typed=request.POST, wrong="No model was ticked or named.")
    listed = _with(look.models, named)
    if lost := look.problem is not None and bool(ticked):
        typed = [name.removeprefix("context:") for name in request.POST if name.startswith("context:")]
        listed = _with(tuple(listed), [*ticked, *typed])  # out of reach: what was typed is not lost
    found = picking.rows(importing.offered(provider, listed), ticked=ticked, typed=request.POST)
    wanted = {*ticked, *named}
    edited = [one.edited() for one in found if one.offer.listed.id in wanted]
    wrong = sum(one.wrong for one in found)
    if wrong or lost:
        reason = f"{wrong} model{' needs' if wrong == 1 else 's need'} another number."
        told = f"Nothing is added yet: {reason if wrong else UNREACHED}"
        shown = [one for one in found if one.ticked or one.sent or one.offer.listed in look.models]
        return _models(request, provider, look=look, typed=request.POST, rows=shown, wrong=told)
    without = {one.listed.id for one in edited if picking.is_unpriced(one)}
    if not without <= set(request.POST.getlist("unpriced")):
        for one in found:
            one.unpriced = one.offer.listed.id in without
        told = f"Nothing is added yet. Without a price: {', '.join(sorted(without)[:FEW])}. {picking.NO_PRICE}"
        shown = [one for one in found if one.ticked or one.sent or one.offer.listed in look.models]
        return _models(request, provider, look=look, typed=request.POST, rows=shown, wrong=told, without=without)
    taken = importing.take(provider=provider, offers=edited, only=wanted)
    skipped = "; ".join(f"{one.id}: {one.reason}" for one in taken if one.state == "skipped")
    created = sum(one.state == "created" for one in taken)
    said = f"{created} model{' is' if created == 1 else 's are'} added."
    if skipped or not taken:
        return _models(request, provider, look=look, typed=request.POST, wrong=f"{said} {skipped}")
    return _page(request, "" if not facts.context(request)["all_done"] else "models", said=said)


def _with(listed: tuple[Listed, ...], names: list[str]) -> list[Listed]:
    known = {one.id for one in listed}
    return [*listed, *(model_list.read({"data": [one for one in names if one not in known]}) or [])]


def _models(
    request: HttpRequest,
    provider: Provider,
    *,
    look: Look | None = None,
    typed: QueryDict | None = None,
    rows: list[picking.Row] | None = None,
    **extra: Any,
) -> HttpResponse:
    """`typed`: a form that comes back to be corrected."""
    look = look or discovery.best(discovery.look(provider))
    if rows is None:
        offers = importing.offered(provider, look.models) if look.problem is None else []
        offers = [one for one in offers if one.listed.kind is not Kind.OTHER]
        ticked = typed.getlist("model") if typed is not None else None if len(offers) <= FEW else []
        rows = picking.rows(offers, ticked=ticked, typed=typed)
    rows = [one for one in rows if one.ticked or one.sent or one.offer.listed.kind is not Kind.OTHER]
    if look.problem in words.OF_CREDENTIAL and request.user.has_perm("providers.change_provider"):
        extra.setdefault("credential_form", CredentialCard())
    return _page(
        request, "models", provider=provider, look=look, hint=words.hint(look), rows=rows,
        names=typed.get("names", "") if typed is not None else "", **extra,
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
        "has_budget": False,
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
