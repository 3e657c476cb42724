"""The money of one request, of which two attempts are begun side by side."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from keys.auth import BudgetRecord
from keys.bank import DatabaseBank
from keys.ledger import Grant, Ledger, Reserved
from keys.models import NANO, Budget, Subject
from providers.formats.registry import DIALECTS
from routing.admission import Admission
from routing.call import Call
from routing.eligibility import needs_of
from routing.policy import Policy
from routing.pricing import upper_bound_nano
from routing.purse import Purse, least_output, most_input, most_output
from routing.snapshot import Snapshot, Target
from tests.support.targets import key, prices, provider, target

CAP = NANO
TARGET = target(max_output=100, priced=prices(1000, 1000))


def budget(name: str) -> BudgetRecord:
    made = Budget.objects.create(
        subject=Subject.PROJECT, subject_id=name, amount_usd=Decimal(CAP) / NANO, every="total"
    )
    return BudgetRecord(made.pk, CAP, "total", name)


def call(**further: Any) -> Call:
    dialect = DIALECTS["openai-chat"]
    body = {"model": "m1", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100, **further}
    envelope = dialect.read_envelope(msgspec.json.encode(body))
    return Call(
        snapshot=Snapshot(), key=key(), dialect=dialect, envelope=envelope,
        policy=Policy("normal", allow_fallback=True), hint=None, needs=needs_of(envelope), started_at=0.0,
    )  # fmt: skip


def most(*parts: dict[str, Any], of: Target = TARGET) -> int:
    body = {"model": "m1", "messages": [{"role": "user", "content": parts}], "max_tokens": 100}
    return most_input(DIALECTS["openai-chat"].read_envelope(msgspec.json.encode(body)), of)


def test_the_bound_counts_text_by_its_bytes_and_media_by_what_they_are() -> None:
    data, link = "JVBERi0x" * 10_000, "https://files.example/one"
    assert 80_000 < most({"type": "text", "text": f"data:application/pdf;base64,{data}"}) < 81_000
    assert 17_084 < most({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}) < 17_384
    assert 17_084 < most({"type": "image_url", "image_url": {"url": link}}) < 17_384
    assert 4_700 < most({"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}}) < 5_000
    assert 80_700 < most({"type": "file", "file": {"file_data": f"data:application/pdf;base64,{data}"}}) < 81_000
    pdf = {"file_data": f"data:application/pdf;base64,{data * 10}"}
    assert 700 < most({"type": "file", "file": pdf}) - TARGET.max_context_tokens < 1_000
    assert most({"type": "file", "file": {"file_id": "file-1"}}) == TARGET.max_context_tokens


def test_images_take_no_more_than_the_context_except_where_more_is_billed_than_read() -> None:
    """OpenAI bills gpt-4o-mini 33 times the tokens of gpt-4o for the same image."""
    image = {"type": "image_url", "image_url": {"url": "https://images.example/one.png"}}
    texts = 900 + 5 * len(msgspec.json.encode(image))
    small, mini = target(context=20_000), target(upstream_model="gpt-4o-mini-2024-07-18", context=128_000)
    assert 20_000 < most(*[image] * 5, of=small) < 20_000 + texts
    assert 5 * 48_169 < most(*[image] * 5, of=mini) < 5 * 48_169 + texts


def test_an_answer_is_not_limited_to_less_than_the_thoughts_that_are_wanted() -> None:
    def least(thinking: bytes) -> int:
        body = b'{"model":"m1","messages":[{"role":"user","content":"Hi"}],"max_tokens":9000%b}' % thinking
        return least_output(DIALECTS["anthropic-messages"].read_envelope(body))

    assert least(b',"thinking":{"type":"enabled","budget_tokens":2048}') == 2048 + 16
    for other in (
        b"",
        b',"thinking":{"type":"adaptive"}',
        b',"thinking":{"budget_tokens":"many"}',
        b',"thinking":null',
    ):
        assert least(other) == 16


def test_the_bound_of_what_anthropics_cache_keeps_for_an_hour_is_twice_as_high() -> None:
    claude = target(at=provider(type_="anthropic", dialects=("anthropic-messages",)))
    kept = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert most(kept, of=claude) == 2 * most(kept)


async def covered(purse: Purse, asked: Call) -> int:
    return (await purse.cover(asked, TARGET))[1]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_at_hand", [False, True])
def test_a_hedge_that_begins_while_the_first_one_waits_for_money_is_paid_once(*, is_at_hand: bool) -> None:
    """`is_at_hand`: of one of two budgets the process has enough when the second one begins."""
    budgets = [budget("one"), budget("other")]
    asked, may_go_on = threading.Event(), threading.Event()

    class Slow(DatabaseBank):
        def grant(self, budget_id: int, *args: Any, **fields: Any) -> Grant:
            if budget_id == budgets[1].id or not is_at_hand:
                asked.set()
                may_go_on.wait(20)
            return super().grant(budget_id, *args, **fields)

    async def hedge() -> None:
        ledger, one = Ledger(Slow(holder="a", host="h")), call()
        purse = Purse(ledger=ledger, budgets=budgets)
        first = asyncio.ensure_future(covered(purse, one))
        await asyncio.to_thread(asked.wait, 20)
        second = asyncio.ensure_future(covered(purse, one))
        await asyncio.sleep(0)
        may_go_on.set()
        bound = upper_bound_nano(prices(1000, 1000), most_input(one.envelope, TARGET), 100)
        assert tuple(await asyncio.gather(first, second)) == (bound, bound)
        assert [held.amount for held in purse.held] == [2 * bound, 2 * bound]
        charges = purse.settle(bound)
        assert [charge.nano for charge in charges] == [bound, bound]
        assert len({charge.period for charge in charges}) == 2

    asyncio.run(hedge())


@pytest.mark.django_db(transaction=True)
def test_a_budget_that_is_deleted_between_two_attempts_is_charged_no_more_and_the_others_are() -> None:
    gone, kept = budget("gone"), budget("kept")

    async def ask() -> list[int]:
        ledger, one = Ledger(DatabaseBank(holder="a", host="h")), call()
        purse = Purse(ledger=ledger, budgets=[gone, kept])
        bound = await covered(purse, one)
        purse.open -= bound
        await asyncio.to_thread(Budget.objects.filter(pk=gone.id).delete)
        purse.spent = CAP // 2
        assert await covered(purse, one) == bound
        charges = purse.settle(CAP // 2 + 1)
        assert not ledger.reserve_at_once([gone], 1)
        return [charge.nano for charge in charges]

    assert asyncio.run(ask()) == [CAP // 2 + 1]


def payer_of(ledger: Ledger, whose: BudgetRecord) -> Admission:
    runtime: Any = SimpleNamespace(ledger=ledger, money_fail_open=False)
    payer = Admission(runtime, "127.0.0.1")
    payer.key = replace(key(), budgets=(whose,))
    return payer


@pytest.mark.django_db(transaction=True)
def test_an_ordinary_request_reserves_at_once_what_any_other_would() -> None:
    whose = budget("one")

    async def ask() -> None:
        ledger = Ledger(DatabaseBank(holder="a", host="h"))
        Reserved([await ledger.reserve(whose, most=CAP // 100, least=1)]).settle(0)
        further: dict[str, Any]
        for further in ({}, {"n": 3}, {"max_tokens": None}, {"max_completion_tokens": 7}):
            one = call(**further)
            payer = payer_of(ledger, whose)
            assert payer.cover_at_once(one, TARGET)
            tokens = most_input(one.envelope, TARGET)
            bound = upper_bound_nano(prices(1000, 1000), tokens, most_output(one.envelope, TARGET) * one.envelope.n)
            assert payer.purse is not None
            assert [held.amount for held in payer.purse.held] == [bound]
            payer.settle(0)
        for further in ({"service_tier": "priority"}, {"previous_response_id": "r"}):
            assert not payer_of(ledger, whose).cover_at_once(call(**further), TARGET)

    asyncio.run(ask())
