from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.journal import Entry
from telemetry.sketch import RELATIVE_ERROR, Sketch, add_encoded, add_to, bucket_of, encode, merged, percentile, told
from telemetry.tsdb.models import MEASURES, PARTS
from telemetry.tsdb.totals import LARGEST, Totals, labels_of

PERCENTS = (1, 50, 90, 95, 99, 100)
numbers = st.integers(0, 1 << 62) | st.integers(0, 5000) | st.sampled_from([0, 1, 49, 50, 51, 100, 1000])


def sketch_of(values: list[int]) -> Sketch:
    sketch: Sketch = {}
    for value in values:
        add_to(sketch, {bucket_of(value): 1})
    return sketch


def exact(values: list[int], percent: int) -> int:
    return sorted(values)[ceil(percent * len(values) / 100) - 1]


def test_what_is_told_is_short_and_within_one_percent() -> None:
    for number in (*range(5000), *range(5000, 2_000_000, 997), 10**12 + 7):
        shown = told(percentile(sketch_of([number]), 50))
        assert abs(shown - number) <= RELATIVE_ERROR * number
        assert shown == number or number >= 50
        assert isinstance(shown, int) or len(f"{shown:g}".partition(".")[2]) == 1 or number in {69, 70, 89, 90}


@given(st.lists(st.lists(numbers, max_size=40), min_size=1, max_size=12).filter(any))
def test_percentiles_of_merged_sketches_are_within_one_percent_however_they_were_split(parts: list[list[int]]) -> None:
    whole: Sketch = {}
    for part in parts:
        add_encoded(whole, encode(sketch_of(part)))
    assert whole == merged(encode(sketch_of(part)) for part in parts)
    values = [value for part in parts for value in part]
    for percent in PERCENTS:
        wanted = exact(values, percent)
        assert abs(percentile(whole, percent) - wanted) <= RELATIVE_ERROR * wanted


@given(st.lists(st.lists(numbers, max_size=20), max_size=6))
def test_to_merge_is_to_add(parts: list[list[int]]) -> None:
    whole: Sketch = {}
    for part in parts:
        add_encoded(whole, encode(sketch_of(part)))
    assert whole == sketch_of([value for part in parts for value in part])


@given(st.dictionaries(st.integers(0, 2**16 - 1), st.integers(1, 2**64 - 1), max_size=30))
def test_a_sketch_outlives_its_encoding(sketch: Sketch) -> None:
    assert merged([encode(sketch)]) == sketch


def test_few_numbers_take_three_bytes_each() -> None:
    assert len(encode(sketch_of([120, 450, 900, 20_000]))) == 1 + 4 * 3
    assert encode({}) == b""


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile({}, 50)


# -- totals ------------------------------------------------------------------------------------------------------------

entries = st.builds(
    Entry,
    id=st.just("x"),
    at=st.just(0),
    endpoint=st.just("chat"),
    status=st.sampled_from([200, 429, 499, 502]),
    model=st.sampled_from(["", "m"]),
    error_class=st.sampled_from(["", "transient"]),
    error_code=st.sampled_from(["", "rate_limit_exceeded", "upstream_error"]),
    latency_ms=st.integers(0, 100_000),
    first_chunk_ms=st.none() | st.integers(0, 10_000),
    cost_nano=st.none() | st.integers(0, 10**12),
    input_tokens=st.integers(0, 10**6),
    output_tokens=st.integers(0, 10**5),
    reward=st.none() | st.floats(0, 1),
    at_home=st.booleans(),
)


def total_of(some: list[Entry]) -> Totals:
    totals = Totals()
    for entry in some:
        totals.add(entry, labels_of(entry))
    return totals


@given(st.lists(st.lists(entries, max_size=6), max_size=5))
def test_rows_of_parts_merge_to_the_row_of_the_whole(parts: list[list[Entry]]) -> None:
    merged = Totals()
    for part in parts:
        merged.merge(total_of(part).row())
    assert merged.row() == total_of([entry for part in parts for entry in part]).row()


@pytest.mark.parametrize("number", [LARGEST + 1, 2**63 - 1, -5])
def test_a_number_that_nobody_can_mean_does_not_break_a_sum(number: int) -> None:
    entry = Entry(id="x", at=0, endpoint="chat", status=200, cost_nano=number)
    row = total_of([entry] * 1000).row()
    assert 0 <= row[4 + 5 * MEASURES.index("cost_nano") + PARTS.index("sum")] <= 1000 * LARGEST < 2**63


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"status": 200}, ""),
        ({"status": 499}, ""),  # the client left
        ({"status": 502, "error_class": "timeout", "error_code": "upstream_error"}, "timeout"),
        ({"status": 429, "error_code": "rate_limit_exceeded"}, "rate_limit_exceeded"),
        ({"status": 503}, "unknown"),
        ({"status": 400, "error_class": "invalid_request", "error_code": "upstream_rejected"}, "invalid_request"),
        ({"status": 502, "error_class": "invalid_request", "error_code": "all_models_failed"}, "all_models_failed"),
    ],
)
def test_a_fault_has_a_class(fields: dict[str, object], wanted: str) -> None:
    entry = Entry(**{"id": "x", "at": 0, "endpoint": "chat", **fields})  # type: ignore[arg-type]
    assert labels_of(entry).error_class == wanted


def test_many_are_merged_like_few() -> None:
    parts = [sketch_of([number * 7919 % 100_003 for number in range(at, at + 60)]) for at in range(0, 6000, 60)]
    parts += [{5: 300, 9: 1 << 40}] * 1100
    whole: Sketch = {}
    for part in parts:
        add_to(whole, part)
    assert merged(encode(part) for part in parts) == whole
