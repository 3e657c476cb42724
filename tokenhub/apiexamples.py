"""Bodies that the OpenAPI document shows, by method and path: data. In this order each is taken by a fresh installation
with an open vault; a test sends them all."""

from __future__ import annotations

from typing import Any, Final

EXAMPLES: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("post", "/providers"): {
        "id": "box",
        "type": "vllm",
        "base_url": "http://10.0.0.5:8000",
        "endpoints": ["http://10.0.0.6:8000"],
        "cred_store": "vault",
        "api_key": "what the server was started with",
    },
    ("post", "/models"): {
        "id": "org/small",
        "provider_id": "box",
        "weight": 4,
        "max_context_tokens": 32_768,
        "input_per_1k": 0.0002,
        "output_per_1k": "0.0006",
        "abilities": ["tools"],
    },
    ("patch", "/models/{id}"): {"weight": 7, "enabled": True},
    ("post", "/prices"): {
        "model_id": "org/small",
        "starts_at": "2030-01-01T00:00:00Z",
        "input_per_1k": 0.0001,
        "output_per_1k": 0.0003,
    },
    ("put", "/aliases/{id}"): {"variants": [{"model_id": "org/small", "weight": 1}], "sticky_by": "api_key"},
    ("post", "/profiles"): {"name": "frugal", "cost": 0.8, "latency": 0.1, "failure": 0.05, "capability": 0.05},
    ("put", "/routing-config"): {"default_mode": "cheap", "default_max_budget_usd": 0.02},
    ("post", "/routing/simulate"): {"token_count": 2000, "mode": "high_confidence", "abilities": ["tools"]},
    ("post", "/projects"): {"name": "shop", "rate_limit_rpm": 600, "budget_usd": 50, "budget_period": "month"},
    ("post", "/apikeys"): {
        "name": "shop, production",
        "project": "shop",
        "scopes": ["chat"],
        "expires_in": "720h",
        "rotation_days": 30,
        "monthly_budget_usd": 20,
        "rate_limit_rps": 5,
    },
    ("put", "/budget"): {"budget_usd": 500, "budget_period": "month"},
    ("post", "/webhooks"): {"url": "https://example.com/tokenhub", "events": ["budget_threshold"]},
    ("put", "/vault/secrets/{id}"): {"value": "a value that never comes back"},
    ("post", "/config/import"): {"models": [{"id": "org/small", "weight": 5}]},
}
