"""The rows of models to pick: what the provider offers, what was typed into each, and what is wrong with that. What was
typed stays as it is until it can be taken."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from django.core.exceptions import ValidationError
from django.forms.models import fields_for_model
from django.http import QueryDict

from providers.model_list import Kind
from routing.importing import DEFAULT_CONTEXT_TOKENS, Offered
from routing.models import Ability, Model

NO_NUMBER: Final = {
    "context": "A whole number of tokens: 128000.",
    "input": "Only a number, with a point: 0.15.",
    "output": "Only a number, with a point: 0.15.",
}
ONE_PRICE: Final = "Give both prices, or none. 0 is free."
NO_PRICE: Final = (
    "No price: client keys with a budget cannot use it, and the router counts it as the dearest. 0 is free."
)
CHAT_ABILITIES: Final = tuple(one for one in Ability if one is not Ability.EMBEDDINGS)
_FIELDS: Final = {"context": "max_context_tokens", "input": "input_per_1k", "output": "output_per_1k"}
_CHECKS: Final = fields_for_model(Model, fields=list(_FIELDS.values()))
_LABELS: Final = {"context": "Context", "input": "Input price", "output": "Output price"}
_WHOLE = re.compile(r"[1-9][0-9]{0,8}")
_PRICE = re.compile(r"[0-9]{1,12}(?:\.[0-9]*)?|\.[0-9]+")


@dataclass(slots=True)
class Cell:
    kind: str
    label: str
    name: str
    value: str
    offered: str
    """What stands in it before somebody types."""
    error: str = ""

    @property
    def inputmode(self) -> str:
        return "numeric" if self.kind == "context" else "decimal"

    @property
    def placeholder(self) -> str:
        return str(DEFAULT_CONTEXT_TOKENS) if self.kind == "context" else "no price"  # where it was emptied

    def number(self) -> Decimal | None:
        """None where it is empty; a price by a million tokens. Notes an error, and is None, where it is no number that
        a model takes."""
        text = self.value.strip()
        pattern, divisor = (_WHOLE, 1) if self.kind == "context" else (_PRICE, 1000)
        if not text:
            return None
        try:
            if not pattern.fullmatch(text):
                raise ValidationError("")
            _CHECKS[_FIELDS[self.kind]].clean(str(Decimal(text) / divisor))
        except ValidationError:
            self.error = NO_NUMBER[self.kind]
            return None
        return Decimal(text)


@dataclass(slots=True)
class Row:
    """`sent`: the form had fields for it."""

    offer: Offered
    ticked: bool
    sent: bool
    cells: list[Cell]
    can: tuple[str, ...]
    """Its abilities, as they are ticked."""
    unpriced: bool = False
    """Wanted without a price: told beside it before it is added."""

    @property
    def choices(self) -> list[tuple[str, str, bool, bool]]:
        """Each ability of chat models: its value, its name, whether it is ticked, whether it was so from the start.
        None for a model that makes embeddings and nothing else."""
        if self.offer.listed.kind is Kind.EMBEDDINGS:
            return []
        offered = self.offer.abilities
        return [(one.value, str(one.label), one.value in self.can, one.value in offered) for one in CHAT_ABILITIES]

    def edited(self) -> Offered:
        """The offer as it stands in the row; errors are noted in the cells."""
        if not self.sent:
            return self.offer
        context, price_in, price_out = (one.number() for one in self.cells)
        prices = self.cells[1:]
        given = [bool(one.value.strip()) for one in prices]
        shown = self.offer.per_million
        changed = any(one.value.strip() != shown[one.kind] for one in prices)
        if given[0] != given[1] and changed and self.offer.listed.kind is not Kind.EMBEDDINGS:
            empty = prices[given.index(False)]
            empty.error = ONE_PRICE
        return self.offer.with_edits(
            per_million={"input": price_in, "output": price_out},
            max_context_tokens=None if context is None else int(context) or None,
            abilities=self.can,
        )

    @property
    def wrong(self) -> bool:
        return any(one.error for one in self.cells)


def rows(offers: Sequence[Offered], *, ticked: Collection[str] | None, typed: QueryDict | None = None) -> list[Row]:
    """`ticked`: by the provider's names; None: all."""
    found = []
    for offer in offers:
        name = offer.listed.id
        own = {"context": str(offer.max_context_tokens or DEFAULT_CONTEXT_TOKENS), **offer.per_million}
        sent = typed is not None and f"context:{name}" in typed
        can = offer.abilities
        if typed is not None and sent and offer.listed.kind is not Kind.EMBEDDINGS:
            ticked_there = typed.getlist(f"can:{name}")
            can = tuple(one.value for one in CHAT_ABILITIES if one in ticked_there)
        cells = [
            Cell(
                kind, f"{label} of {offer.id}", f"{kind}:{name}",
                own[kind] if typed is None or not sent else str(typed.get(f"{kind}:{name}", "")), own[kind],
            )
            for kind, label in _LABELS.items()
        ]  # fmt: skip
        found.append(Row(offer, ticked is None or name in ticked, sent, cells, can))
    return found


def is_unpriced(offer: Offered) -> bool:
    """Whether no cost of it could be told."""
    needed = ["input_per_1k"] if offer.listed.kind is Kind.EMBEDDINGS else ["input_per_1k", "output_per_1k"]
    return not offer.imported and any(name not in offer.prices for name in needed)
