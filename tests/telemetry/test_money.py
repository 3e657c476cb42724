from __future__ import annotations

import json
import shutil
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from telemetry.money import dollars, price_shown

ROOT = Path(__file__).resolve().parents[2]
AMOUNTS = {
    "0": "$0.00", "0.000000001": "$0.000000001", "0.000012": "$0.000012", "0.0000123456": "$0.0000123",
    "0.0005": "$0.0005", "0.0125": "$0.0125", "0.5": "$0.50", "0.25678": "$0.257", "0.9996": "$1.00", "1": "$1.00",
    "1234567.8": "$1,234,567.80", "-0.000012": "-$0.000012",
}  # fmt: skip


@pytest.mark.parametrize(("amount", "shown"), AMOUNTS.items())
def test_no_amount_looks_like_nothing(amount: str, shown: str) -> None:
    assert dollars(Decimal(amount)) == shown


def test_a_float_is_written_as_its_decimal() -> None:
    assert (dollars(0.1), dollars(1e-9), dollars(3)) == ("$0.10", "$0.000000001", "$3.00")


def test_what_is_not_known_is_a_dash() -> None:
    assert (dollars(None), dollars(float("nan"))) == ("-", "-")


def test_exact_amounts_keep_every_digit() -> None:
    assert dollars(Decimal("0.001234567"), exact=True) == "$0.001234567"
    assert dollars(Decimal("1500.10"), exact=True) == "$1,500.10"


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (None, "no price"),
        ("0", "free"),
        ("0.00015", "$0.15"),
        ("0.0006", "$0.60"),
        ("0.015", "$15.00"),
        ("0.000000001", "$0.000001"),
    ],
)
def test_prices_are_said_per_million_tokens(stored: str | None, shown: str) -> None:
    assert price_shown(stored) == shown


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_browser_writes_the_same() -> None:
    script = (
        f"import {{ dollars }} from {json.dumps((ROOT / 'static/tokenhub/money.js').as_uri())};"
        f"console.log(JSON.stringify({json.dumps(list(AMOUNTS))}.map(dollars)));"
    )
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == list(AMOUNTS.values())
