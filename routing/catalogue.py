"""Prices from a catalogue: what they would change, and changing it. Prices that the operator set are never touched."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from django.db import transaction
from django.utils import timezone

from providers.models import ProviderType
from providers.types import TYPES
from routing.models import PRICE_FIELDS, Model, Price, PriceSource
from telemetry import audit
from telemetry.money import price_shown
from tokenhub import turn

SECONDS: Final = 30
Tiers = dict[int, dict[str, Decimal]]


class CatalogueUnusable(Exception):
    """`message` says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class Offer:
    """What the catalogue says of a model. `changes`: field to [now, catalogue], in dollars per 1,000 tokens; tiers are
    named `above 200000 input_per_1k`. `state`: unknown, same, new (had no price), changed, or kept, which is the
    operator's and differs."""

    model: Model
    state: str
    catalogue_id: str = ""
    changes: dict[str, list[str | None]] = field(default_factory=dict)
    prices: dict[str, Decimal] = field(default_factory=dict)
    tiers: Tiers = field(default_factory=dict)
    other: tuple[str, ...] = ()
    """Prices for what TokenHub does not count, such as searches."""

    @property
    def told(self) -> list[tuple[str, str, str]]:
        """The changes as people say them: what, now, catalogue; per million tokens."""
        return [
            (name.removesuffix("_per_1k").replace("_", " "), price_shown(now), price_shown(then))
            for name, (now, then) in self.changes.items()
        ]

    @property
    def is_applicable(self) -> bool:
        return self.state in {"new", "changed"}


def offers() -> list[Offer]:
    """Of every model, by its id. Raises CatalogueUnusable."""
    models = list(Model.objects.exclude(provider__type=ProviderType.SANDBOX).select_related("provider"))
    questions = []
    for one in models:
        kind = TYPES[one.provider.type]
        questions.append([one.upstream_model or one.id, one.provider.base_url or kind.base_url])
    answers = look_up(questions)
    tiers: dict[str, Tiers] = {}
    dated = set()
    for price in Price.objects.all():
        if price.source == PriceSource.OPERATOR:
            dated.add(price.model_id)
        elif price.above_input_tokens:
            values = {name: getattr(price, name) for name in PRICE_FIELDS if getattr(price, name) is not None}
            tiers.setdefault(price.model_id, {})[price.above_input_tokens] = values
    return [
        _offer(model, answer, tiers.get(model.id, {}), has_own=model.id in dated)
        for model, answer in zip(models, answers, strict=True)
    ]


def _offer(model: Model, answer: dict[str, Any] | None, tiers: Tiers, *, has_own: bool) -> Offer:
    if answer is None:
        return Offer(model, "unknown")
    prices = {name: Decimal(text) for name, text in answer["prices"].items()}
    offered = tiers_of(answer)
    now = {name: getattr(model, name) for name in PRICE_FIELDS}
    changes = _diff(now, prices, "")
    for above in sorted({*tiers, *offered}):
        changes |= _diff(tiers.get(above, {}), offered.get(above, {}), f"above {above} ")
    has_price = any(one is not None for one in now.values())
    is_own = has_own or (has_price and model.price_source == PriceSource.OPERATOR)
    state = "same" if not changes else "kept" if is_own else "changed" if has_price else "new"
    return Offer(model, state, answer["catalogue_id"], changes, prices, offered, tuple(answer["other"]))


def tiers_of(answer: dict[str, Any]) -> Tiers:
    return {int(above): {name: Decimal(text) for name, text in one.items()} for above, one in answer["tiers"].items()}


def _diff(now: dict[str, Any], then: dict[str, Decimal], prefix: str) -> dict[str, list[str | None]]:
    return {
        prefix + name: [shown(now.get(name)), shown(then.get(name))]
        for name in PRICE_FIELDS
        if now.get(name) != then.get(name)
    }


def shown(price: Decimal | None) -> str | None:
    return None if price is None else f"{price.normalize():f}"


def apply(*, only: Collection[str] | None = None) -> list[Offer]:
    """Takes over new and changed prices, of the named models or of all; what was taken. Raises CatalogueUnusable."""
    taken = []
    for offer in offers():
        if offer.is_applicable and (only is None or offer.model.pk in only):
            _take(offer)
            taken.append(offer)
    return taken


@transaction.atomic
def _take(offer: Offer) -> None:
    turn.take()
    model = Model.objects.select_for_update(no_key=True).get(pk=offer.model.pk)
    with audit.doing("price.catalogue"):
        for name in PRICE_FIELDS:
            setattr(model, name, offer.prices.get(name))
        model.price_source = PriceSource.CATALOGUE
        model.save()
        for old in Price.objects.filter(model=model, source=PriceSource.CATALOGUE):
            old.delete()
        save_tiers(model, offer.tiers)


def save_tiers(model: Model, tiers: Tiers) -> None:
    now = timezone.now()
    for above, prices in tiers.items():
        price = Price(model=model, starts_at=now, above_input_tokens=above, source=PriceSource.CATALOGUE, **prices)
        price.full_clean()
        price.save()


def look_up(questions: list[list[str]]) -> list[dict[str, Any] | None]:
    """Of [what the provider calls the model, the provider's address]; None: not known. Raises CatalogueUnusable."""
    if not questions:
        return []
    try:
        done = subprocess.run(
            [sys.executable, "-m", "routing.catalogue_reader"],
            input=json.dumps(questions),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
            cwd=Path(__file__).resolve().parents[1],
        )
        answers: list[dict[str, Any] | None] = json.loads(done.stdout)
    except subprocess.CalledProcessError as problem:
        last = (problem.stderr.strip().splitlines() or ["no reason"])[-1]
        raise CatalogueUnusable(f"The price catalogue cannot be read: {last}") from None
    except (OSError, ValueError, subprocess.TimeoutExpired) as problem:
        raise CatalogueUnusable(f"The price catalogue cannot be read: {type(problem).__name__}.") from None
    return answers
