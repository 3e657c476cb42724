"""What percentiles need of many numbers, in a few dozen bytes: how many fell into each of buckets whose width grows
with the number (DDSketch, Masson et al. 2019). A percentile is wrong by at most one part in a hundred, whatever the
numbers and however sketches were merged: to merge is to add. Numbers are whole and not negative. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, exp, log
from struct import pack, unpack, unpack_from
from typing import Final

RELATIVE_ERROR: Final = 0.01
_GROWTH: Final = log((1 + 0.0098) / (1 - 0.0098))  # of a bucket's upper end; the rest to 1 % is for rounding
_MIDDLE: Final = 2 / (1 + exp(_GROWTH))
_WIDTHS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}

_BEGIN: Final = (1 + exp(-_GROWTH)) / 2  # of a bucket, and its end, beside its middle
_END: Final = (1 + exp(_GROWTH)) / 2

Sketch = dict[int, int]
"""Bucket to count. Bucket 0 is the number zero; bucket n > 0 ends at exp((n - 1) * growth)."""


def bucket_of(number: int) -> int:
    return ceil(log(number) / _GROWTH) + 1 if number > 0 else 0


def middle_of(bucket: int) -> float:
    """At most 1 % away from each number of the bucket."""
    return exp((bucket - 1) * _GROWTH) * _MIDDLE if bucket else 0.0


def add_to(sketch: Sketch, other: Mapping[int, int]) -> None:
    for bucket, count in other.items():
        sketch[bucket] = sketch.get(bucket, 0) + count


def add_encoded(sketch: Sketch, encoded: bytes) -> None:
    """As `add_to`, of what `encode` made."""
    if not encoded:
        return
    width = encoded[0]
    many = (len(encoded) - 1) // (2 + width)
    told = unpack_from(f"<{many}H{many}{_WIDTHS[width]}", encoded, 1)
    get = sketch.get
    for bucket, count in zip(told[:many], told[many:], strict=True):
        sketch[bucket] = get(bucket, 0) + count


def encode(sketch: Mapping[int, int]) -> bytes:
    """The width of a count in bytes; the buckets, two bytes each; their counts."""
    if not sketch:
        return b""
    buckets, largest = sorted(sketch), max(sketch.values())
    width = 1 if largest < 1 << 8 else 2 if largest < 1 << 16 else 4 if largest < 1 << 32 else 8
    many = len(buckets)
    return pack(f"<B{many}H{many}{_WIDTHS[width]}", width, *buckets, *[sketch[one] for one in buckets])


def merged(encoded: Iterable[bytes]) -> Sketch:
    """Of what `encode` made. Thousands of small ones are put side by side first, which takes a third of the time."""
    buckets = {width: bytearray() for width in _WIDTHS}
    counts = {width: bytearray() for width in _WIDTHS}
    for one in encoded:
        if one:
            width = one[0]
            middle = (len(one) - 1) // (2 + width) * 2 + 1
            buckets[width] += one[1:middle]
            counts[width] += one[middle:]
    sketch: Sketch = {}
    get = sketch.get
    for width, code in _WIDTHS.items():
        many = len(buckets[width]) // 2
        told = zip(unpack(f"<{many}H", buckets[width]), unpack(f"<{many}{code}", counts[width]), strict=True)
        for bucket, count in told:
            sketch[bucket] = get(bucket, 0) + count
    return sketch


def percentile(sketch: Mapping[int, int], percent: int) -> float:
    """The smallest number that at least so many of a hundred do not exceed. Raises ValueError when there is none."""
    rank, seen = max(1, -(-percent * sum(sketch.values()) // 100)), 0
    for bucket in sorted(sketch):
        seen += sketch[bucket]
        if seen >= rank:
            return middle_of(bucket)
    raise ValueError("a percentile of nothing")


def told(number: float) -> float:
    """A percentile as it is shown: in as few digits as leave it within 1 % of each whole number that it may stand for.
    A whole number, short of a few between 59 and 1,183; the very number below 50."""
    least, most = int(number * _BEGIN) + 1, int(number * _END)
    for shown in (round(number), round(number, 1), round(number, 2)):
        if shown - least <= RELATIVE_ERROR * least and most - shown <= RELATIVE_ERROR * most:
            return shown
    return number
