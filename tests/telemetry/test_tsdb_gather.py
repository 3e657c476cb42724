from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.sketch import Sketch, add_to, bucket_of, encode
from telemetry.tsdb import gather
from telemetry.tsdb.gather import Table, sketch_of

LARGEST = 2**63 - 1
counts = st.one_of(st.integers(1, 255), st.integers(256, 2**16), st.integers(2**16, 2**33))
sketches = st.dictionaries(st.integers(0, bucket_of(1 << 48)), counts, max_size=5)
rows = st.lists(
    st.tuples(st.integers(0, 99), st.sampled_from("abc"), st.integers(0, LARGEST), sketches, st.integers(0, 7))
)


@given(rows, st.integers(1, 9), st.sampled_from([1, 3, 1000]))
def test_what_it_adds_up_is_what_python_adds_up(
    given: list[tuple[int, str, int, Sketch, int]], chunk: int, at_once: int
) -> None:
    table, told = Table(1, 1), [(at, label, number, encode(sketch)) for at, label, number, sketch, _ in given]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "AT_ONCE", at_once)
        table.take(told[begin : begin + chunk] for begin in range(0, len(told), chunk))
        places = np.array([place for *_, place in given], dtype=np.int64)
        found = [sketch_of(one) for one in table.sketches(0, places, 8)]
        total = table.sums(places, 8)[0]
    assert table.size == len(given)
    assert [list(table.labels)[code] for code in table.codes] == [label for _, label, *_ in given]
    for place in range(8):
        own: Sketch = {}
        for *_, sketch, where in given:
            if where == place:
                add_to(own, sketch)
        assert found[place] == own
        assert total[place] == sum(number for _, _, number, _, where in given if where == place)
