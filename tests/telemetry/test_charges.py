"""Charges in the journal are handed on once, whatever the disk did to the lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from routing.identity import new_request_id
from telemetry import ingest
from telemetry.journal import Charge, Entry, Segment, encode_line

pytestmark = pytest.mark.django_db(transaction=True)
NAME = "host-1-1-abc.journal"


def entry() -> Entry:
    return Entry(id=new_request_id(), at=1_700_000_000_000_000, endpoint="/", status=200, charges=[Charge("l", 1, 5)])


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    def sink(entries: Sequence[Entry]) -> None:
        found.extend(one.id for one in entries)

    monkeypatch.setattr(ingest, "SINKS", [sink])
    monkeypatch.setattr(ingest, "WATCHERS", [])
    return found


@pytest.mark.parametrize("cut", ["in a line", "between lines"])
@pytest.mark.parametrize("batches", [1, 2])
def test_lines_that_are_written_again_are_charged_once(
    taken: list[str], tmp_path: Path, cut: str, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = entry(), entry(), entry()
    first = encode_line(one) + (encode_line(two)[:30] if cut == "in a line" else b"")
    again = b"\n" + encode_line(one) + encode_line(two) + encode_line(three)
    if batches == 2:
        monkeypatch.setattr(ingest, "BATCH_BYTES", len(encode_line(one)) + 1)
    (tmp_path / NAME).write_bytes(first + again)
    ingest.ingest_all(tmp_path)
    assert taken == [one.id, two.id, three.id]


def test_lines_that_are_written_again_in_a_later_pass_are_charged_once(
    taken: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = entry(), entry()
    (tmp_path / NAME).write_bytes(encode_line(one))
    monkeypatch.setattr(Segment, "is_abandoned", lambda self: False)
    ingest.ingest_all(tmp_path)
    (tmp_path / NAME).write_bytes(encode_line(one) + b"\n" + encode_line(one) + encode_line(two))
    ingest.ingest_all(tmp_path)
    assert taken == [one.id, two.id]


def test_lines_that_are_written_again_in_the_next_segment_are_charged_once(taken: list[str], tmp_path: Path) -> None:
    one, two, three = entry(), entry(), entry()
    (tmp_path / NAME).write_bytes(encode_line(one) + encode_line(two) + encode_line(three)[:40])
    (tmp_path / NAME.replace("-1-abc", "-2-abc")).write_bytes(encode_line(two) + encode_line(three))
    ingest.ingest_all(tmp_path)
    assert taken == [one.id, two.id, three.id]
