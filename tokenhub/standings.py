"""Pages on how models do: the leaderboard, what the bandit learned, and health. They read the time series and what all
workers wrote down, never the request log."""

from __future__ import annotations

from time import time
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.auth.decorators import permission_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path
from django.urls.resolvers import URLPattern
from django.utils.dateparse import parse_datetime
from django.views.decorators.http import require_GET, require_http_methods

from routing.api import own_store
from routing.health_store import health_report
from routing.learned import Learned, curve, learned
from telemetry.tsdb.leaders import Leader, leaders
from telemetry.tsdb.metrics import METRICS
from telemetry.tsdb.query import Line, Question, ask
from tokenhub import job_runs
from tokenhub.jobs import JOBS

DAY: Final = 86_400
PERIODS: Final = {"1": "1 day", "7": "7 days", "30": "30 days"}
REWARD_DAYS: Final = 14
LINES: Final = 6
"""Models in the plot of rewards: more cannot be told apart."""


def _period(request: HttpRequest) -> str:
    wanted = request.GET.get("days", "")
    return wanted if wanted in PERIODS else "7"


def _shown(request: HttpRequest, template: str, title: str, **context: Any) -> HttpResponse:
    return TemplateResponse(request, template, {**admin.site.each_context(request), "title": title, **context})


# -- the leaderboard ---------------------------------------------------------------------------------------------------
ORDERS: Final[dict[str, tuple[str, bool]]] = {
    "requests": ("Requests", True),
    "success": ("Success", True),
    "reward": ("Reward", True),
    "p50": ("Latency", False),
    "cost_of_one": ("Cost of one", False),
}
"""By what it can be ordered: a label, and whether more is better."""


@permission_required("telemetry.view_series", raise_exception=True)
@require_GET
def leaderboard(request: HttpRequest) -> HttpResponse:
    days = _period(request)
    order = request.GET.get("order", "")
    order = order if order in ORDERS else "requests"
    found = leaders(until=int(time()) + 1, seconds=int(days) * DAY)
    found.sort(key=lambda one: _rank(one, order))
    total = sum(one.requests for one in found) or 1
    return _shown(
        request,
        "tokenhub/leaderboard.html",
        "Leaderboard",
        leaders=[(one, f"{100 * one.requests / total:.2f}") for one in found],
        periods=PERIODS,
        days=days,
        orders={name: label for name, (label, _) in ORDERS.items()},
        order=order,
    )


def _rank(one: Leader, order: str) -> tuple[bool, float, str]:
    """What was not measured comes last."""
    value, (_, more_is_better) = getattr(one, order), ORDERS[order]
    return value is None, -(value or 0) if more_is_better else (value or 0), one.model_id


# -- what was learned --------------------------------------------------------------------------------------------------
@permission_required("routing.view_feedback", raise_exception=True)
@require_GET
def learning(request: HttpRequest) -> HttpResponse:
    now = time()
    found = learned(now=now, key=request.GET.get("context", ""))
    rewards = Question(
        METRICS["reward"], "avg", int(now) - REWARD_DAYS * DAY, int(now), step=DAY, group_by=("model_id",)
    )
    return _shown(
        request,
        "tokenhub/learning.html",
        "What was learned",
        found=found,
        **_curves(found),
        lines=_lines(ask(rewards).lines),
        reward_days=REWARD_DAYS,
    )


def _curves(found: Learned) -> dict[str, Any]:
    """Every model's curve on one scale, which is as wide as the widest needs."""
    low = max(min((one.low for one in found.estimates), default=0.0) - 0.02, 0.0)
    high = min(max((one.high for one in found.estimates), default=1.0) + 0.02, 1.0)
    width = high - low or 1.0

    def place(value: float) -> str:
        return f"{100 * (value - low) / width:.2f}"

    rows = []
    for one in found.estimates:
        points = " ".join(f"{100 * x:.2f},{30 - 28 * y:.2f}" for x, y in curve(one.posterior, low, high))
        rows.append({"estimate": one, "points": f"0,30 {points} 100,30", "mean": place(one.mean)})
    return {"rows": rows, "scale_low": low, "scale_high": high}


def _lines(lines: list[Line]) -> list[dict[str, Any]]:
    """Mean rewards of the days as polylines from 0 to 100, the models with the most days first. A day without any
    breaks none: its neighbours are joined."""
    known = [(line.labels["model_id"], [point for point in line.points if point[1] is not None]) for line in lines]
    known = sorted(((name, points) for name, points in known if name and points), key=lambda one: -len(one[1]))[:LINES]
    moments = sorted({at for line in lines for at, _ in line.points})
    if not known or len(moments) < 2:
        return []
    first, span = moments[0], moments[-1] - moments[0]
    values = [float(value or 0) for _, points in known for _, value in points]
    low, high = min(values), max(values)
    width = high - low or 1.0
    drawn = []
    for number, (name, points) in enumerate(known):
        places = [(1 + 97 * (at - first) / span, 36 - 34 * (float(value or 0) - low) / width) for at, value in points]
        drawn.append(
            {
                "name": name,
                "colour": number,
                "points": " ".join(f"{x:.2f},{y:.2f}" for x, y in places),
                "dots": [(f"{x:.2f}", f"{y:.2f}") for x, y in places],
                "latest": float(points[-1][1] or 0),
                "low": low,
                "high": high,
            }
        )
    return drawn


# -- health ------------------------------------------------------------------------------------------------------------
_PROBE: Final = "probe_providers"
_STATES: Final = ("down", "degraded", "healthy")
_MOMENTS: Final = ("cooldown_until", "last_success_at")


@permission_required("providers.view_provider", raise_exception=True)
@require_http_methods(["GET", "POST"])
def health(request: HttpRequest) -> HttpResponse:
    may_probe = request.user.has_perm("tokenhub.change_jobstate")
    if request.method == "POST":
        if not may_probe:
            raise PermissionDenied
        _probe(request)
        return redirect("health-page")
    providers = health_report(store=own_store())["providers"]
    providers.sort(key=lambda one: (_STATES.index(one["state"]), one["provider_id"]))
    models = [model for one in providers for model in one["models"]]
    for one in (*providers, *models):  # moments, which the page shows in its time zone
        one |= {name: parse_datetime(one[name]) for name in _MOMENTS if one.get(name)}
    return _shown(
        request,
        "tokenhub/health.html",
        "Health",
        providers=providers,
        counts=[(state, sum(one["state"] == state for one in models)) for state in reversed(_STATES)],
        may_probe=may_probe,
    )


def _probe(request: HttpRequest) -> None:
    try:
        job_runs.ask(job=JOBS[_PROBE])
    except job_runs.AlreadyRunning:
        messages.warning(request, "The providers are being asked already.")
    except job_runs.QueueUnreachable:
        messages.error(request, "Redis cannot be reached. They are asked when Celery is back.")
    else:
        messages.success(request, "The providers are asked within a second. Load the page again for what they say.")


leaderboard_urls: list[URLPattern] = [path("", admin.site.admin_view(leaderboard), name="leaderboard")]
learning_urls: list[URLPattern] = [path("", admin.site.admin_view(learning), name="learning")]
health_urls: list[URLPattern] = [path("", admin.site.admin_view(health), name="health-page")]
