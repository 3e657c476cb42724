"""Looks models up in the catalogue of the package genai-prices. A process of its own, for the catalogue takes 70 MB: a
JSON list of [model, base URL] comes in, a list of prices in dollars per 1,000 tokens goes out; null: not known.

    python -m routing.catalogue_reader < questions.json"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

FIELDS: Final = {
    "input_mtok": "input_per_1k",
    "output_mtok": "output_per_1k",
    "cache_read_mtok": "cached_input_per_1k",
    "cache_write_mtok": "cache_write_per_1k",
    "output_reasoning_mtok": "reasoning_per_1k",
}


def look_up(snapshot: Any, model: str, base_url: str) -> dict[str, Any] | None:
    """By its provider's address only: what another one asks for a model of that name is no price of this one."""
    from genai_prices.types import TieredPrices

    try:
        provider, info = snapshot.find_provider_model(model, None, None, base_url)
    except LookupError:
        return None
    prices = info.get_prices(datetime.now(UTC))
    base: dict[str, Decimal] = {}
    tiers: dict[int, dict[str, Decimal]] = {}
    other = []
    for name, price in vars(prices).items():
        if price is None:
            continue
        field = FIELDS.get(name)
        if field is None:
            other.append(name)
        elif isinstance(price, TieredPrices):
            base[field] = price.base / 1000
            for tier in price.tiers:
                tiers.setdefault(tier.start, {})[field] = tier.price / 1000
        else:
            base[field] = price / 1000
    if "input_per_1k" not in base:
        return None
    base.setdefault("output_per_1k", Decimal(0))  # embeddings answer no token
    return {
        "context_window": info.context_window,
        "catalogue_id": f"{provider.id}/{info.id}",
        "prices": {name: _text(price) for name, price in base.items()},
        "tiers": {above: {name: _text(price) for name, price in one.items()} for above, one in tiers.items()},
        "other": sorted(other),
    }


def _text(price: Decimal) -> str:
    return f"{round(price, 9).normalize():f}"


def main() -> None:
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    json.dump([look_up(snapshot, model, base_url) for model, base_url in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
