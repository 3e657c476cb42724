"""How amounts of money are written for people: everywhere the same, and never so short that something looks like
nothing. Beside it static/tokenhub/money.js, which writes the same in the browser. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

NONE: Final = "-"
_DIGITS: Final = 3
_CENTS: Final = 2
_THOUSANDS_OF_A_MILLION: Final = 1000


def dollars(amount: Decimal | float | None, *, exact: bool = False) -> str:
    """From one dollar on to the cent, below it three digits that say something: $12.30, $0.0125, $0.0000123. `exact`:
    every digit, where sums must be seen to add up."""
    number = _decimal(amount)
    if number is None:
        return NONE
    if number < 0:
        return f"-{dollars(-number, exact=exact)}"
    if exact:
        return _padded(f"{number.normalize():,f}")
    if not number:
        return "$0.00"
    places = max(_DIGITS - 1 - number.adjusted(), _CENTS) if number < 1 else _CENTS
    return _padded(f"{round(number, places):,f}")


def _padded(written: str) -> str:
    """With cents at least, so that amounts below each other are of one kind."""
    whole, _, part = written.partition(".")
    return f"${whole}.{part.rstrip('0').ljust(_CENTS, '0')}"


def per_million(per_thousand: Decimal | float | str | None) -> Decimal | None:
    """A price as people say it, in dollars per million tokens, from one as it is stored; None: there is none."""
    number = _decimal(per_thousand)
    return None if number is None else (number * _THOUSANDS_OF_A_MILLION).normalize()


def price_shown(per_thousand: Decimal | float | str | None) -> str:
    """Per million tokens, in words where it is none or nothing."""
    number = per_million(per_thousand)
    if number is None:
        return "no price"
    return dollars(number, exact=True) if number else "free"


def _decimal(amount: Decimal | float | str | None) -> Decimal | None:
    if amount is None or amount == "":
        return None
    number = amount if isinstance(amount, Decimal) else Decimal(str(amount))
    return number if number.is_finite() else None
