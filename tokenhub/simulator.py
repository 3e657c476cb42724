"""The what-if simulator: what the router would do with a request of some kind today, for one setting or two side by
side. Nobody is called, and nothing is kept: the question is in the page's address, which can be passed on."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from time import monotonic
from typing import Any, Final

from django import forms
from django.contrib import admin
from django.contrib.auth.decorators import permission_required
from django.http import HttpRequest, HttpResponse, QueryDict
from django.template.response import TemplateResponse
from django.urls import path
from django.urls.resolvers import URLPattern
from django.utils.timezone import localtime
from django.views.decorators.http import require_GET
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from keys.models import Budget, ClientKey
from keys.services import Standing, standings
from routing import simulation
from routing.api import live_health, live_snapshot
from routing.eligibility import BYTES_PER_TOKEN, EXPECTED_OUTPUT_TOKENS
from routing.errors import ApiError
from routing.health import Health
from routing.models import Ability
from routing.policy import MAX_BUDGET_USD, MAX_LATENCY_MS, MAX_WEIGHT
from routing.pricing import HIDDEN_TOKENS, upper_bound_nano
from routing.purse import LEAST_OUTPUT_TOKENS
from routing.snapshot import Snapshot
from routing.words import exclusion_in_words, reason_in_words
from telemetry.money import dollars
from vault.keyring import KEYRING

PERMISSION: Final = "routing.view_model"
MAX_TOKENS: Final = 10_000_000
KEYS_OFFERED: Final = 200
_PARTS: Final = ("cost", "latency", "failure")
_FIELDS_OF: Final = {"model": "model_hint", "api_key_id": "key"}
"""The form's names for what the router calls otherwise."""


class SettingForm(forms.Form):
    mode = forms.ChoiceField(required=False, widget=UnfoldAdminSelectWidget)
    model_hint = forms.CharField(
        label="Model or alias",
        required=False,
        max_length=200,
        widget=UnfoldAdminTextInputWidget(attrs={"list": "names", "placeholder": "The router decides"}),
    )
    tokens = forms.IntegerField(
        label="Input tokens", initial=1000, min_value=0, max_value=MAX_TOKENS, widget=UnfoldAdminIntegerFieldWidget
    )
    output_tokens = forms.IntegerField(
        initial=EXPECTED_OUTPUT_TOKENS, min_value=0, max_value=MAX_TOKENS, widget=UnfoldAdminIntegerFieldWidget
    )
    budget = forms.FloatField(
        label="Most dollars",
        required=False,
        min_value=0,
        max_value=MAX_BUDGET_USD,
        widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any"}),
    )
    latency = forms.FloatField(
        label="Most milliseconds",
        required=False,
        min_value=0,
        max_value=MAX_LATENCY_MS,
        widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any"}),
    )
    min_weight = forms.FloatField(
        label="Least weight",
        required=False,
        min_value=0,
        max_value=MAX_WEIGHT,
        widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any"}),
    )
    key = forms.ChoiceField(label="Client key", required=False, widget=UnfoldAdminSelectWidget)
    abilities = forms.MultipleChoiceField(
        label="It must be able to do",
        required=False,
        choices=Ability.choices,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )

    def __init__(self, *args: Any, modes: list[tuple[str, str]], keys: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["mode"].choices = modes  # type: ignore[attr-defined]
        self.fields["key"].choices = keys  # type: ignore[attr-defined]

    def question(self) -> simulation.Question:
        asked = self.cleaned_data
        return simulation.Question(
            mode=asked["mode"] or None,
            token_count=asked["tokens"],
            output_tokens=asked["output_tokens"],
            max_budget_usd=asked["budget"],
            max_latency_ms=asked["latency"],
            min_weight=asked["min_weight"],
            model_hint=asked["model_hint"].strip(),
            abilities=asked["abilities"],
            api_key_id=asked["key"] or None,
        )


@dataclass(slots=True)
class Side:
    """One setting and what comes of it. `result`: None where the form has an error to show."""

    name: str
    form: SettingForm
    result: dict[str, Any] | None = None


@permission_required(PERMISSION, raise_exception=True)
@require_GET
def page(request: HttpRequest) -> HttpResponse:
    snapshot = live_snapshot()
    compares = "compare" in request.GET
    modes = [("", f"{snapshot.default_policy.mode} (the default)"), *((name, name) for name in snapshot.profiles)]
    keys = [("", "Of nobody: every model is allowed"), *_keys(request)]
    sides = []
    for prefix in ("a", "b") if compares else ("a",):
        given = _given(request.GET, prefix)
        sides.append(Side(prefix.upper(), SettingForm(given, prefix=prefix, modes=modes, keys=keys)))
    health = live_health()
    for side in sides:
        if side.form.is_valid():
            side.result = _answered(side.form, snapshot, health)
        if side.result is not None and request.user.has_perm("keys.view_budget"):
            side.result["budgets"] = _budgets(side.form.question(), snapshot, side.result["decision"])
    _scale([side.result for side in sides if side.result is not None])
    context = {
        **admin.site.each_context(request),
        "title": "What-if simulator",
        "sides": sides,
        "compares": compares,
        "verdict": _verdict(sides),
        "names": [*snapshot.aliases, *snapshot.targets],
        "has_models": bool(snapshot.targets),
    }
    return TemplateResponse(request, "tokenhub/simulator.html", context)


def _keys(request: HttpRequest) -> list[tuple[str, str]]:
    if not request.user.has_perm("keys.view_clientkey"):
        return []
    found = ClientKey.objects.lasting().order_by("name").only("id", "name", "key_prefix")[:KEYS_OFFERED]
    return [(str(key.pk), str(key)) for key in found]


def _given(query: QueryDict, prefix: str) -> dict[str, Any]:
    """What stands in the address, on top of what is asked when nothing does. A second setting without values of its own
    begins as the first."""
    own = prefix if any(name.startswith(f"{prefix}-") for name in query) else "a"
    given: dict[str, Any] = {f"{prefix}-tokens": "1000", f"{prefix}-output_tokens": str(EXPECTED_OUTPUT_TOKENS)}
    for name in SettingForm.base_fields:
        values = query.getlist(f"{own}-{name}")
        if values:
            given[f"{prefix}-{name}"] = values if name == "abilities" else values[-1]
    return given


def _answered(form: SettingForm, snapshot: Snapshot, health: Health) -> dict[str, Any] | None:
    try:
        found = simulation.simulate(form.question(), snapshot, health, vault_open=KEYRING.is_open, now=monotonic())
    except ApiError as problem:
        name = _FIELDS_OF.get(problem.param or "", problem.param or "")
        form.add_error(name if name in form.fields else None, " ".join(filter(None, (problem.message, problem.hint))))
        return None
    if found["decision"] is not None:
        found["decision"]["words"] = reason_in_words(found["decision"]["reason"])
    for one in found["eligible"]:
        one["is_priced"] = snapshot.targets[one["model_id"]].prices is not None
    for one in found["excluded"]:
        one["words"] = exclusion_in_words(one["excluded_reason"])
    return found


def _budgets(
    question: simulation.Question, snapshot: Snapshot, decision: dict[str, Any] | None
) -> list[dict[str, str]]:
    """Those of the client key as they are now, and whether they could pay the one who was chosen."""
    key = next((one for one in snapshot.keys.values() if one.id == question.api_key_id), None)
    if key is None or not key.budgets:
        return []
    prices = snapshot.targets[decision["model_id"]].prices if decision is not None else None
    needed = None
    if prices is not None:
        least = min(question.output_tokens, LEAST_OUTPUT_TOKENS)
        most = question.token_count * BYTES_PER_TOKEN + HIDDEN_TOKENS  # as budgets count: every byte is one
        needed = Decimal(upper_bound_nano(prices, most, least)).scaleb(-9)
    whose = {one.id: one.whose for one in key.budgets}
    return [
        {"name": f"The budget of {whose[one.budget.pk]}", **_standing(one, needed)}
        for one in standings(Budget.objects.filter(pk__in=whose).order_by("pk"))
    ]


def _standing(one: Standing, needed: Decimal | None) -> dict[str, str]:
    rest = one.budget.amount_usd - one.spent_usd
    free = rest - one.leased_usd
    told = f"{dollars(one.spent_usd)} of {dollars(one.budget.amount_usd)} per {one.budget.every} are spent"
    if one.leased_usd:
        told += f", {dollars(one.leased_usd)} are held by workers"
    told += f"; anew at {localtime(one.resets_at):%Y-%m-%d %H:%M}." if one.resets_at is not None else "."
    if needed is None:
        return {"mood": "", "verdict": "", "told": told}
    if needed > rest:
        return {
            "mood": "bad",
            "verdict": f"cannot pay the {dollars(needed)} that it may cost at least: 429",
            "told": told,
        }
    if needed > free:
        return {"mood": "wait", "verdict": "can pay once workers give back what they hold", "told": told}
    return {"mood": "good", "verdict": "can pay it", "told": told}


def _scale(results: list[dict[str, Any]]) -> None:
    """The parts of each score as places on one line of 100, the same for both sides."""
    rows = [one for result in results for one in result["eligible"]]
    longest = max(
        (max(sum(one["parts"][part] for part in _PARTS), one["parts"]["capability"]) for one in rows), default=0.0
    )
    for one in rows:
        begin, one["bars"] = 0.0, []
        for part in _PARTS:
            width = 100 * one["parts"][part] / longest if longest else 0.0
            one["bars"].append({"part": part, "x": f"{begin:.2f}", "width": f"{width:.2f}"})
            begin += width
        one["capability_width"] = f"{100 * one['parts']['capability'] / longest if longest else 0.0:.2f}"


def _verdict(sides: list[Side]) -> str:
    """How the two differ, in a sentence."""
    if len(sides) < 2 or any(side.result is None for side in sides):
        return ""
    decisions = [side.result["decision"] for side in sides if side.result is not None]
    if None in decisions:
        nobody = [side.name for side, made in zip(sides, decisions, strict=True) if made is None]
        return f"Nobody could answer with {' and '.join(nobody)}."
    one, other = decisions
    same = one["model_id"] == other["model_id"]
    told = f"Both take {one['model_id']}." if same else f"A takes {one['model_id']}, B takes {other['model_id']}."
    costs = one["estimated_cost_usd"], other["estimated_cost_usd"]
    if None in costs or costs[0] == costs[1] or not min(costs):
        return told
    cheaper, factor = ("A", costs[1] / costs[0]) if costs[0] < costs[1] else ("B", costs[0] / costs[1])
    return f"{told} {cheaper} costs less: the other costs {factor:.1f} times as much."


urlpatterns: list[URLPattern] = [path("", admin.site.admin_view(page), name="simulator")]
