"""What the page "Evaluate a policy" shows: other policies on the logged traffic of the last days beside what was, with
intervals as numbers and as lines on one scale. Reads the log only when it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import isfinite
from typing import Any, Final

from django import forms
from django.http import QueryDict
from django.utils import timezone
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminSelectMultipleWidget, UnfoldAdminSelectWidget

from routing.errors import ApiError
from routing.learning import MODE
from routing.models import Model, RoutingProfile
from routing.replay import LOGGED, MODEL_PREFIX, RANDOM, replays, shown
from routing.scoring import PROFILES, Profile

MOST: Final = 4
ROWS: Final = (2_000, 10_000, 50_000)
DAYS: Final = 7
ESTIMATORS: Final = (
    ("dr", "Doubly robust"),
    ("snips", "Inverse propensity, self-normalised"),
    ("ips", "Inverse propensity"),
)
_MEASURES: Final = (("reward", "Reward", 1.0), ("cost_usd", "Dollars per 1,000 requests", 1000.0))
"""Name, label, and how many of it one request's stand for."""


class PeriodForm(forms.Form):
    policy = forms.MultipleChoiceField(
        label="Policies",
        widget=UnfoldAdminSelectMultipleWidget(attrs={"size": 8}),
        help_text=f"What would they have chosen? Up to {MOST}; Ctrl + click marks several.",
    )
    days = forms.IntegerField(
        min_value=1,
        max_value=366,
        initial=DAYS,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="The last so many days.",
    )
    rows = forms.TypedChoiceField(
        label="Requests",
        coerce=int,
        choices=[(number, f"the newest {number:,}") for number in ROWS],
        initial=ROWS[1],
        empty_value=None,
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text="More tell more, and take longer.",
    )

    def __init__(self, *args: Any, policies: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["policy"].choices = policies  # type: ignore[attr-defined]

    def clean_policy(self) -> list[str]:
        chosen: list[str] = self.cleaned_data["policy"]
        if len(chosen) > MOST:
            raise forms.ValidationError(f"At most {MOST} at a time.")
        return chosen


def answered(query: QueryDict) -> dict[str, Any]:
    """The form, and what there is to show of its question."""
    profiles = {**PROFILES, **{row.name: _profile(row) for row in RoutingProfile.objects.all()}}
    names = _names(profiles)
    asked = query if "policy" in query else None
    form = PeriodForm(asked, policies=list(names.items()))
    context: dict[str, Any] = {"form": form}
    if asked is None or not form.is_valid():
        return context
    until = timezone.now()
    given = form.cleaned_data
    policies = [LOGGED, *(one for one in given["policy"] if one != LOGGED)]
    since = until - timedelta(days=given["days"])
    try:
        found = [
            shown(one)
            for one in replays(policies, profiles, since=since, until=until, max_rows=given["rows"] or ROWS[1])
        ]
    except ApiError as problem:
        form.add_error("policy", problem.message)
        return context
    return context | {
        "results": [_told(one, names) for one in found],
        "charts": [_chart(found, names, *measure) for measure in _MEASURES] if found[0]["rows"] else [],
        "rows": found[0]["rows"],
        "left_out": found[0]["left_out"],
        "warnings": found[0]["warnings"] if not found[0]["rows"] else [],
    }


def _profile(row: RoutingProfile) -> Profile:
    return Profile(row.cost, row.latency, row.failure, row.capability)


def _names(profiles: Mapping[str, Profile]) -> dict[str, str]:
    """Every policy that can be asked for."""
    models = Model.objects.filter(enabled=True, provider__enabled=True).order_by("pk").values_list("pk", flat=True)
    return {
        **{name: f"mode {name}" for name in profiles if name != MODE},
        **{f"{MODEL_PREFIX}{name}": f"always {name}" for name in models},
        RANDOM: "any model, by chance",
        LOGGED: "as it was",
    }


def _told(result: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A policy's numbers, by every estimator."""

    def number(estimate: Mapping[str, float], unit: float) -> str:
        return f"{unit * estimate['value']:.4f} ({unit * estimate['low']:.4f} to {unit * estimate['high']:.4f})"

    estimators = (("ips", "Mean"),) if result["policy"] == LOGGED else ESTIMATORS
    estimates = [
        {"name": label, **{measure: number(result[measure][key], unit) for measure, _, unit in _MEASURES}}
        for key, label in estimators
        if result["rows"]
    ]
    name = names[result["policy"]]
    warnings = result["warnings"] if result["rows"] and result["policy"] != LOGGED else []
    return {**result, "name": name[:1].upper() + name[1:], "estimates": estimates, "warnings": warnings}


def _chart(
    results: Sequence[Mapping[str, Any]], names: Mapping[str, str], measure: str, label: str, unit: float
) -> dict[str, Any]:
    """Each policy's interval as a line from 0 to 100, on a scale that holds them all; the first is what was."""
    estimates = [one[measure]["ips" if one["policy"] == LOGGED else "dr"] for one in results]
    known = [value for one in estimates for value in (one["low"], one["high"], one["value"]) if isfinite(value)]
    least, most = min(known), max(known)
    width = most - least or 1.0
    base = estimates[0]

    def place(value: float) -> float:
        return round(2 + 96 * (value - least) / width, 2) if isfinite(value) else 2.0

    lines = [
        {
            "name": names[result["policy"]],
            "value": f"{unit * one['value']:.4f}",
            "low": f"{unit * one['low']:.4f}",
            "high": f"{unit * one['high']:.4f}",
            "x": place(one["low"]),
            "width": round(max(place(one["high"]) - place(one["low"]), 0.4), 2),
            "dot": round(place(one["value"]) - 0.6, 2),
            "verdict": "" if one is base else _verdict(one, base, better_is_more=measure == "reward"),
        }
        for result, one in zip(results, estimates, strict=True)
    ]
    return {"label": label, "lines": lines, "base": place(base["value"])}


def _verdict(one: Mapping[str, float], base: Mapping[str, float], *, better_is_more: bool) -> str:
    """Beyond chance only where neither interval reaches the other."""
    if one["low"] > base["high"]:
        return "better" if better_is_more else "dearer"
    if one["high"] < base["low"]:
        return "worse" if better_is_more else "cheaper"
    return "cannot be told apart"
