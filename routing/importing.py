"""A provider's list of models beside what is here already, with the catalogue's prices; and taking models over from it.
Providers know nothing of models' rows: that is why this is here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import transaction

from providers.model_list import Kind, Listed
from providers.models import Provider, ProviderType
from providers.sandbox import SANDBOX_MODELS
from providers.types import TYPES
from routing import catalogue, services
from routing.models import PRICE_FIELDS, Alias, Model, PriceSource
from telemetry import audit
from telemetry.logs import EventLogger

log = EventLogger(__name__)
DEFAULT_CONTEXT_TOKENS: Final = 128_000
ASSUMED_ABILITIES: Final = ("tools",)
"""Of a chat model of which nothing is known: nearly all take tools. One that does not rejects the request, which goes
on to the next; without them no request with tools would ever reach it."""


@dataclass(frozen=True, slots=True)
class Offered:
    """One model of the list. `id`: the name that it has here, or would get. `prices`: by field, in dollars per 1,000
    tokens; empty: not known."""

    id: str
    listed: Listed
    imported: bool
    prices: dict[str, Decimal]
    max_context_tokens: int | None
    answer: dict[str, Any] | None = None
    """The catalogue's."""
    edited: bool = False
    """Prices are the operator's: the catalogue's are not taken."""
    abilities: tuple[str, ...] = ()

    @property
    def is_assumed(self) -> bool:
        """Whether its abilities are known from nowhere."""
        return bool(self.abilities) and not self.listed.abilities

    @property
    def per_million(self) -> dict[str, str]:
        """As people say prices: dollars per million tokens; empty: not known."""
        known = {name: self.prices.get(f"{name}_per_1k") for name in ("input", "output")}
        return {name: "" if price is None else f"{(price * 1000).normalize():f}" for name, price in known.items()}

    def with_edits(
        self,
        *,
        per_million: Mapping[str, Decimal | None],
        max_context_tokens: int | None,
        abilities: Sequence[str] | None = None,
    ) -> Offered:
        """As the operator has it; a price that was emptied is none. Embeddings answer no token: their output is free
        where nothing else is said."""
        given = {name: None if price is None else price / 1000 for name, price in per_million.items()}
        if self.listed.kind is Kind.EMBEDDINGS and given.get("input") is not None and given.get("output") is None:
            given["output"] = Decimal(0)
        changed = any(self.prices.get(f"{name}_per_1k") != price for name, price in given.items())
        prices = {**self.prices} if not changed else {
            f"{name}_per_1k": price for name, price in given.items() if price is not None
        }  # fmt: skip
        can = self.abilities if abilities is None else tuple(abilities)
        return replace(self, prices=prices, max_context_tokens=max_context_tokens, edited=changed, abilities=can)


@dataclass(frozen=True, slots=True)
class Taken:
    """`state`: created, exists or skipped; `reason`: why it was skipped."""

    id: str
    upstream_model: str
    state: str
    reason: str = ""


def offered(provider: Provider, listed: Sequence[Listed]) -> list[Offered]:
    """Without prices if the catalogue cannot be read. Raises DatabaseError."""
    answers = _answers(provider, listed)
    own = {one.upstream_model or one.id: one.id for one in Model.objects.filter(provider=provider).order_by("-id")}
    taken = {*Model.objects.values_list("id", flat=True), *Alias.objects.values_list("name", flat=True)}
    found = []
    for one, answer in zip(listed, answers, strict=True):
        prices = {name: Decimal(text) for name, text in answer["prices"].items()} if answer else {}
        context = one.max_context_tokens or (answer or {}).get("context_window")
        name = own.get(one.id) or (f"{provider.pk}/{one.id}" if one.id in taken else one.id)
        can = one.abilities or (ASSUMED_ABILITIES if one.kind is Kind.CHAT else ())
        found.append(Offered(name, one, one.id in own, prices, context, answer, abilities=can))
    return found


def _answers(provider: Provider, listed: Sequence[Listed]) -> list[dict[str, Any] | None]:
    if provider.type == ProviderType.SANDBOX:
        prices = {
            one.id: {"input_per_1k": str(one.input_per_1k), "output_per_1k": str(one.output_per_1k)}
            for one in SANDBOX_MODELS
        }
        return [{"prices": prices[one.id], "tiers": {}, "other": [], "catalogue_id": "sandbox"} for one in listed]
    base = provider.base_url or TYPES[provider.type].base_url
    try:
        return catalogue.look_up([[one.id, base] for one in listed])
    except catalogue.CatalogueUnusable as problem:
        log.warning("catalogue_unusable", reason=problem.message)
        return [None] * len(listed)


def unknown(offers: Sequence[Offered], only: Collection[str]) -> str:
    """The first name that is not in the list; empty: all are."""
    known = {one.listed.id for one in offers} | {one.id for one in offers}
    return next((one for one in only if one not in known), "")


@transaction.atomic
def take(
    *, provider: Provider, offers: Sequence[Offered], only: Collection[str] | None = None, enabled: bool = True
) -> list[Taken]:
    """Creates the models that are named, or all that TokenHub can route; those that are here stay as they are. Raises
    DatabaseError."""
    return [
        _take(provider, one, enabled=enabled)
        for one in offers
        if (one.listed.kind is not Kind.OTHER if only is None else one.id in only or one.listed.id in only)
    ]


def _take(provider: Provider, offer: Offered, *, enabled: bool) -> Taken:
    listed = offer.listed
    if offer.imported:
        return Taken(offer.id, listed.id, "exists")
    model = Model(
        id=offer.id,
        provider=provider,
        upstream_model="" if offer.id == listed.id else listed.id,
        enabled=enabled,
        max_context_tokens=offer.max_context_tokens or DEFAULT_CONTEXT_TOKENS,
        max_output_tokens=listed.max_output_tokens,
        abilities=list(offer.abilities),
        price_source=PriceSource.CATALOGUE if offer.prices and not offer.edited else PriceSource.OPERATOR,
        **{name: offer.prices.get(name) for name in PRICE_FIELDS},
    )
    for known in SANDBOX_MODELS if provider.type == ProviderType.SANDBOX else ():
        if known.id == listed.id:
            model.weight, model.price_source = known.weight, PriceSource.OPERATOR
    try:
        with audit.doing("model.import"), transaction.atomic():
            services.save(model=model)
            if offer.answer and not offer.edited:
                catalogue.save_tiers(model, catalogue.tiers_of(offer.answer))
    except ValidationError as problem:
        return Taken(offer.id, listed.id, "skipped", " ".join(problem.messages))
    return Taken(offer.id, listed.id, "created")
