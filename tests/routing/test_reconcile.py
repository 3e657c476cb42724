"""The request log beside exports as providers give them."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from providers.models import CredentialStore, Provider, ProviderType
from routing.models import Model
from routing.reconcile import BadExport, Usage, read, reconcile
from telemetry.models import RequestLog

DAY = date(2026, 3, 1)


@pytest.fixture
def log(db: None) -> None:
    for name in ("up", "other"):
        Provider.objects.create(
            id=name, type=ProviderType.VLLM, base_url="http://10.0.0.5:8000", cred_store=CredentialStore.NONE
        )
    Model.objects.create(id="fast", upstream_model="gpt-5", provider_id="up")
    request(23, 59, "fast", 100, 10, "0.001")
    request(0, 0, "fast", 50, 5, "0.0005")
    request(0, 0, "fast", 999, 999, "9", provider_id="other")
    request(0, 0, "fast", 0, 0, None, status=502)


def request(hour: int, minute: int, model: str, tokens: int, output: int, cost: str | None, **fields: Any) -> None:
    defaults: dict[str, Any] = {"provider_id": "up", "status": 200}
    RequestLog.objects.create(
        request_id=uuid4(),
        created_at=datetime(2026, 3, 1, hour, minute, tzinfo=UTC),
        endpoint="/v1/chat/completions",
        model_id=model,
        input_tokens=tokens,
        output_tokens=output,
        cost_usd=None if cost is None else Decimal(cost),
        **{**defaults, **fields},
    )


OPENAI_API = {
    "object": "page",
    "data": [
        {
            "object": "bucket",
            "start_time": 1772323200,
            "end_time": 1772409600,
            "results": [
                {"model": "gpt-5-2025-08-07", "input_tokens": 150, "input_cached_tokens": 20, "output_tokens": 15,
                 "num_model_requests": 2, "project_id": None},
            ],
        }
    ],
}  # fmt: skip
ANTHROPIC_API = {
    "data": [
        {
            "starting_at": "2026-03-01T00:00:00Z",
            "ending_at": "2026-03-02T00:00:00Z",
            "results": [
                {"model": "gpt-5", "uncached_input_tokens": 100, "cache_read_input_tokens": 30, "output_tokens": 15,
                 "cache_creation": {"ephemeral_5m_input_tokens": 15, "ephemeral_1h_input_tokens": 5}},
            ],
        }
    ]
}  # fmt: skip
OPENAI_CSV = (
    "start_time,end_time,start_time_iso,model,num_model_requests,input_tokens,output_tokens\n"
    "1772323200,1772409600,2026-03-01T00:00:00+00:00,gpt-5-2025-08-07,1,100,10\n"
    "1772323200,1772409600,2026-03-01T00:00:00+00:00,gpt-5,1,50,5\n"
)
ANTHROPIC_CSV = (
    "usage_date_utc,model_version,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,"
    "usage_input_tokens_cache_read,usage_output_tokens\n"
    '2026-03-01,gpt-5,"1,00",20,30,15\n'
)


@pytest.mark.django_db
@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(
    "text", [json.dumps(OPENAI_API), json.dumps(ANTHROPIC_API), OPENAI_CSV, "\ufeff" + ANTHROPIC_CSV]
)
def test_what_agrees_is_said_to_agree_whatever_the_form(text: str) -> None:
    (line,) = reconcile("up", read(text))
    assert (line.day, line.model) == (DAY, "fast")
    assert (line.difference("input_tokens"), line.difference("output_tokens")) == (0, 0)
    assert line.difference("cost_usd") is None
    assert not line.is_off(0)


@pytest.mark.django_db
@pytest.mark.usefixtures("log")
def test_what_only_one_side_has_is_a_difference() -> None:
    export = {(DAY, "o9"): Usage(requests=3, input_tokens=7), (date(2026, 3, 2), "gpt-5"): Usage(requests=1)}
    lines = reconcile("up", export)
    found = {(line.day, line.model): line.difference("requests") for line in lines}
    assert found == {(DAY, "fast"): 2, (DAY, "o9"): -3, (date(2026, 3, 2), "fast"): -1}
    assert all(line.is_off(1) for line in lines)


@pytest.mark.django_db
@pytest.mark.usefixtures("log")
def test_the_command_shows_the_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "export.csv"
    file.write_text("date;model;requests;cost\n2026-03-01;gpt-5;2;$0.0020\n")
    call_command("reconcile", "up", str(file))
    shown = capsys.readouterr().out
    assert "-0.0005 (-25.00 %)" in shown
    assert shown.splitlines()[-1].startswith("total")
    call_command("reconcile", "up", str(file), json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["difference"] == {"requests": 0, "input_tokens": None, "output_tokens": None, "cost_usd": -0.0005}
    call_command("reconcile", "up", str(file), tolerance=30.0)
    with pytest.raises(CommandError, match="1 of 1 lines are off by more than 20 %"):
        call_command("reconcile", "up", str(file), tolerance=20.0)


@pytest.mark.django_db
@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no row"),
        ("{", "no JSON"),
        ('{"a": 1}', "no list of rows"),
        ("a,b\n1,2\n", "has no day"),
        ("date,cost\n2026-03-01,2\n", "has no model"),
        ("date,model\n2026-03-01,m\n", "has no number"),
        ("date,model,cost\n2026-03-01,m,much\n", "is no number"),
        ("date,model,cost\nyesterday,m,1\n", "is no day"),
        ("date,model,cost\n2026-03-01,m,Infinity\n", "is no number"),
    ],
)
def test_a_bad_export_is_refused_by_name(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "export"
    file.write_text(text)
    with pytest.raises(CommandError, match=problem):
        call_command("reconcile", "up", str(file))


@pytest.mark.django_db
@pytest.mark.usefixtures("log")
def test_a_provider_or_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no provider 'gone'\\. Known: other, up"):
        call_command("reconcile", "gone", str(tmp_path))
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("reconcile", "up", str(tmp_path / "none"))


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["data", "results", "model", "date", "cost", "amount"]), inner)).map(json.dumps))  # fmt: skip
def test_no_export_fails_otherwise(text: str) -> None:
    with suppress(BadExport):
        read(text)
