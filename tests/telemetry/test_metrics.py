"""Counters of one process and of several: bounded, summed once, never going back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import metrics_shared
from telemetry.metrics import MAX_SERIES, MAX_TARGETS, Count, Family, Foreign, Metrics, Page, Series, alone
from telemetry.metrics_page import merged, render
from telemetry.metrics_shared import Shared, begin_run

ROOT = Path(__file__).resolve().parents[2]
LINES = "tokenhub_journal_lines_total"


def single(page: Page, name: str = LINES) -> float:
    ((_, value),) = page.series[name]
    assert not isinstance(value, list)
    return value


class Worker:
    """Counts lines, in this process."""

    def __init__(self, run: Path) -> None:
        self.lines = 0
        self.shared = Shared(run, lambda _: Page(time(), alone({LINES: self.lines, "tokenhub_workers": 1})))
        self.shared.start()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    folder = begin_run(tmp_path / "metrics")
    yield folder
    metrics_shared._ITS_RUN = None


# -- one process -----------------------------------------------------------------------------------------------------
def test_what_comes_after_the_most_series_is_counted_under_other() -> None:
    counts = Metrics()
    for number in range(MAX_SERIES + 500):
        counts.requests["normal", f"m{number}", "p", "200"].n += 1
        counts.requests["normal", f"m{number}", "p", "500"].n += 1
    other = {key: one.n for key, one in counts.requests.items() if "other" in key}
    assert other == {("other", "other", "other", "200"): 1500, ("other", "other", "other", "500"): 1500}
    assert sum(one.n for one in counts.requests.values()) == 2 * (MAX_SERIES + 500)
    assert len(counts.requests) == MAX_SERIES + 2


def test_models_beyond_the_most_share_their_figures() -> None:
    counts = Metrics()
    for number in range(MAX_TARGETS + 10):
        counts.targets[f"m{number}", "p"].latency.observe(3)
    assert sum(counts.targets["other", "other"].latency.counts) == 10
    assert b'tokenhub_request_latency_ms_count{model="other",provider="other"} 10.0' in render(Page(0, counts.series()))


def test_a_family_counts_what_it_knows_after_it_is_full() -> None:
    family: Family[Count] = Family(("model",), Count, 1)
    family["a",].n += 1
    family["b",].n += 1
    family["a",].n += 1
    assert {key: one.n for key, one in family.items()} == {("a",): 2, ("other",): 1}


def test_labels_are_escaped() -> None:
    rows: Series = [(('a"b\\c\nd', "p"), 5)]
    assert b'{model="a\\"b\\\\c\\nd",provider="p"}' in render(Page(0, {"tokenhub_cost_usd_total": rows}))


def test_buckets_add_up() -> None:
    counts = Metrics()
    for value in (1.0, 5.0, 7.0, 10**7):
        counts.targets["m", "p"].latency.observe(value)
    text = render(Page(0, counts.series())).decode()
    assert 'tokenhub_request_latency_ms_bucket{model="m",provider="p",le="5"} 2.0' in text
    assert 'tokenhub_request_latency_ms_bucket{model="m",provider="p",le="10"} 3.0' in text
    assert 'tokenhub_request_latency_ms_bucket{model="m",provider="p",le="+Inf"} 4.0' in text
    assert 'tokenhub_request_latency_ms_sum{model="m",provider="p"} 10000013.0' in text


# -- sums --------------------------------------------------------------------------------------------------------------
KEYS = st.tuples(st.sampled_from("abc"))
Counters = dict[tuple[str], int]
COUNTERS = st.dictionaries(KEYS, st.integers(0, 10**12), max_size=3)


@given(st.lists(COUNTERS, max_size=4), st.lists(COUNTERS, max_size=4))
def test_counters_are_summed_over_the_living_and_the_ended(living: list[Counters], ended: list[Counters]) -> None:
    def pages(counters: list[Counters]) -> list[Page]:
        return [Page(1, {"tokenhub_provider_skips_total": list(one.items())}) for one in counters]

    whole = merged(pages(living), [merged([], pages(ended))])
    sums = dict(whole.series.get("tokenhub_provider_skips_total", []))
    for key in [("a",), ("b",), ("c",)]:
        assert sums.get(key, 0) == sum(one.get(key, 0) for one in [*living, *ended])


def test_gauges_are_of_the_living_alone_and_merged_by_their_meaning() -> None:
    def page(workers: int, lag: float, version: int) -> Page:
        return Page(
            1,
            alone(
                {
                    "tokenhub_workers": workers,
                    "tokenhub_event_loop_lag_seconds": lag,
                    "tokenhub_snapshot_version": version,
                }
            ),
        )

    whole = merged([page(1, 0.5, 7), page(1, 0.1, 6)], [page(1, 9.0, 1)])
    assert single(whole, "tokenhub_workers") == 2
    assert single(whole, "tokenhub_event_loop_lag_seconds") == 0.5
    assert single(whole, "tokenhub_snapshot_version") == 6


def test_figures_of_the_client_library_are_summed_by_sample() -> None:
    def page(count: float, memory: float, start: float) -> Page:
        return Page(
            1,
            {},
            [
                Foreign("django_x", "counter", "x", [("django_x_total", {"view": "v"}, count)]),
                Foreign("process_resident_memory_bytes", "gauge", "m", [("process_resident_memory_bytes", {}, memory)]),
                Foreign("process_start_time_seconds", "gauge", "s", [("process_start_time_seconds", {}, start)]),
            ],
        )

    text = render(merged([page(1, 10, 5), page(2, 20, 3)], [page(4, 40, 1)])).decode()
    assert 'django_x_total{view="v"} 7' in text
    assert "process_resident_memory_bytes 30" in text
    assert "process_start_time_seconds 3" in text


# -- workers ---------------------------------------------------------------------------------------------------------
def test_a_worker_is_seen_by_another_one_and_its_own_figures_are_live(run: Path) -> None:
    one, other = Worker(run), Worker(run)
    other.lines = 5
    other.shared.total()
    one.lines = 3
    assert single(one.shared.total()) == 8
    one.lines = 4
    assert single(one.shared.total()) == 9
    assert single(one.shared.total(), "tokenhub_workers") == 2
    one.shared.stop()
    other.shared.stop()


def test_what_a_worker_showed_once_outlives_it_and_is_counted_once(run: Path) -> None:
    one = Worker(run)
    for number in range(1, 5):
        other = Worker(run)
        other.lines = 10
        assert single(other.shared.total()) == number * 10
        other.shared.stop()
    for _ in range(3):
        assert single(one.shared.total()) == 40
    assert single(one.shared.total(), "tokenhub_workers") == 1
    assert len(list(run.glob("*.page"))) == 2  # its own, and one for all that are gone
    one.shared.stop()


def test_a_fold_that_was_cut_short_counts_nobody_twice(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Worker(run), Worker(run)
    other.lines = 10
    other.shared.stop()
    with monkeypatch.context() as patched:  # as if killed between writing the fold and deleting what is in it
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        assert single(one.shared.total()) == 10
    assert len(list(run.glob("*.page"))) == 3
    assert single(one.shared.total()) == 10
    assert len(list(run.glob("*.page"))) == 2
    assert single(one.shared.total()) == 10
    one.shared.stop()


def test_a_disk_that_takes_nothing_leaves_the_own_figures(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    one, other = Worker(run), Worker(run)
    other.lines = 2
    other.shared.stop()
    one.lines = 1
    monkeypatch.setattr(Path, "write_bytes", full)
    assert single(one.shared.total()) == 3
    one.shared.stop()


CHILD = """
import sys, time
from pathlib import Path
from telemetry.metrics import Page, alone
from telemetry.metrics_shared import Shared, its_run
shared = Shared(Path(sys.argv[1]), lambda _: Page(time.time(), alone({"tokenhub_journal_lines_total": 7})))
shared.start(); shared.total(); print("ready", flush=True); time.sleep(60)
"""


def test_a_killed_worker_is_found_out_and_its_counters_stay(run: Path) -> None:
    one = Worker(run)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(run)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert single(one.shared.total()) == 7
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert single(one.shared.total()) == 7
        assert len(list(run.glob("*.lock"))) == 3  # run, fold, and the one that lives
    finally:
        child.kill()
        child.wait()
        one.shared.stop()


def test_a_new_server_begins_at_nothing_and_clears_what_others_left(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    script = (
        "import sys; from pathlib import Path; from telemetry.metrics_shared import begin_run; "
        "print(begin_run(Path(sys.argv[1])).name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    left = folder / done.stdout.strip()
    assert left.is_dir()
    mine = begin_run(folder)
    also_mine = begin_run(folder)
    assert not left.exists()
    assert mine.is_dir()
    assert also_mine != mine
    metrics_shared._ITS_RUN = None
