"""The admin's look and menu, as data."""

from __future__ import annotations

from typing import Any

from django.templatetags.static import static
from django.urls import reverse_lazy


def _item(title: str, icon: str, model: str, permission: str = "") -> dict[str, Any]:
    app, name = model.split(".")
    needed = permission or f"{app}.view_{name}"
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{app}_{name}_changelist"),
        "permission": lambda request: request.user.has_perm(needed),
    }


def _page(title: str, icon: str, name: str, permission: str) -> dict[str, Any]:
    """Of no model: a view by the name of its URL."""
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(name),
        "permission": lambda request: request.user.has_perm(permission),
    }


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "TokenHub",
    "SITE_HEADER": "TokenHub",
    "SITE_SYMBOL": "hub",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("favicon.svg")}],
    "STYLES": [lambda request: static("tokenhub/admin.css")],
    "SCRIPTS": [lambda request: static("tokenhub/admin.js"), lambda request: static("tokenhub/copy.js")],
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "tokenhub.dashboard.context",
    "ENVIRONMENT": "tokenhub.dashboard.environment",
    "COLORS": {
        "primary": {
            "50": "oklch(97.7% .013 236.62)",
            "100": "oklch(95.1% .026 236.824)",
            "200": "oklch(90.1% .058 230.902)",
            "300": "oklch(82.8% .111 230.318)",
            "400": "oklch(74.6% .16 232.661)",
            "500": "oklch(68.5% .169 237.323)",
            "600": "oklch(50% .134 242.749)",
            "700": "oklch(44.3% .11 240.79)",
            "800": "oklch(39.1% .09 240.876)",
            "900": "oklch(29.3% .066 243.157)",
            "950": "oklch(24% .05 243.157)",
        }
    },
    "SIDEBAR": {
        "show_search": False,
        "navigation": [
            {
                "title": "",
                "items": [
                    {"title": "Overview", "icon": "dashboard", "link": reverse_lazy("admin:index")},
                    {"title": "Set-up", "icon": "rocket_launch", "link": reverse_lazy("setup:index")},
                    _page("Live", "stream", "live", "telemetry.view_requestlog"),
                    _page("Playground", "play_circle", "playground", "keys.use_playground"),
                    _item("Request log", "receipt_long", "telemetry.requestlog"),
                    _item("Runs", "account_tree", "orchestration.planrun"),
                    _item("Audit log", "history", "telemetry.auditentry"),
                    _item("Webhooks", "webhook", "telemetry.webhook"),
                    _item("Webhook deliveries", "outbox", "telemetry.webhookdelivery"),
                    _item("Background jobs", "schedule", "tokenhub.jobstate"),
                ],
            },
            {
                "title": "Routing",
                "separator": True,
                "items": [
                    _item("Providers", "cloud", "providers.provider"),
                    _item("Models", "neurology", "routing.model"),
                    _item("Prices", "sell", "routing.price"),
                    _page("Health", "ecg_heart", "health-page", "providers.view_provider"),
                    _page("Leaderboard", "leaderboard", "leaderboard", "telemetry.view_series"),
                    _item("Aliases", "alt_route", "routing.alias"),
                    _item("Routing profiles", "tune", "routing.routingprofile"),
                    _item("Prompts", "edit_note", "orchestration.prompttemplate"),
                    _item("Feedback", "thumbs_up_down", "routing.feedback"),
                    _page("What was learned", "school", "learning", "routing.view_feedback"),
                    _page("What-if simulator", "science", "simulator", "routing.view_model"),
                    _item("Evaluate a policy", "query_stats", "routing.policyevaluation"),
                ],
            },
            {
                "title": "Access",
                "separator": True,
                "items": [
                    _item("Client keys", "key", "keys.clientkey"),
                    _item("Projects", "folder_shared", "keys.project"),
                    _item("Budgets", "savings", "keys.budget"),
                    _item("Vault", "encrypted", "vault.vaultstate"),
                    _item("Users", "person", "auth.user"),
                    _item("Groups", "group", "auth.group"),
                ],
            },
        ],
    },
}
