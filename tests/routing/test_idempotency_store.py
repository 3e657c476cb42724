from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.db.models import F

from routing.idempotency_store import (
    AnswerGone,
    Claim,
    Kept,
    OtherBody,
    StillRunning,
    claim,
    identity_of,
    keep,
    prune,
    release,
    renew,
)
from routing.models import IdempotentCall

pytestmark = pytest.mark.django_db
IDENTITY = identity_of(key_id="k", method="POST", path="/v1/chat", name="n")
DAY = timedelta(days=1, seconds=1)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "host-1-1-alive.journal").touch()
    return folder


def claimed(folder: Path, *, body: bytes = b"{}", holder: str = "alive") -> Claim | Kept:
    return claim(identity=IDENTITY, body=body, request_id=str(uuid4()), holder=holder, journals=folder)


def mine(folder: Path, *, holder: str = "alive") -> Claim:
    found = claimed(folder, holder=holder)
    assert isinstance(found, Claim)
    return found


def aged(by: timedelta) -> None:
    IdempotentCall.objects.update(leased_until=F("leased_until") - by, expires_at=F("expires_at") - by)


def test_a_claim_holds_while_it_is_renewed_and_is_void_when_it_is_not(here: Path) -> None:
    first = mine(here)
    aged(timedelta(seconds=50))
    renew(first)
    aged(timedelta(seconds=50))
    with pytest.raises(StillRunning):
        claimed(here)
    aged(timedelta(seconds=50))
    second = mine(here)
    keep(first, Kept(200, [], b"too late", first.request_id))  # it lost its claim
    keep(second, Kept(200, [(b"x", b"y")], b"right", second.request_id))
    assert claimed(here) == Kept(200, [(b"x", b"y")], b"right", second.request_id)


def test_a_claim_of_a_process_that_is_gone_is_void_on_its_own_host_only(here: Path, tmp_path: Path) -> None:
    mine(here, holder="dead")
    with pytest.raises(StillRunning):
        claimed(tmp_path / "elsewhere")
    mine(here)


def test_an_answer_opens_in_its_own_place_only(here: Path) -> None:
    first = mine(here)
    keep(first, Kept(200, [], b"text", first.request_id))
    IdempotentCall.objects.update(request_id=uuid4())
    with pytest.raises(AnswerGone):
        claimed(here)


def test_another_body_is_refused_until_the_day_is_over(here: Path) -> None:
    first = mine(here)
    with pytest.raises(OtherBody):
        claimed(here, body=b"[]")
    keep(first, Kept(200, [], b"text", first.request_id))
    with pytest.raises(OtherBody):
        claimed(here, body=b"[]")
    aged(DAY)
    assert isinstance(claimed(here, body=b"[]"), Claim)


def test_what_is_released_or_has_expired_leaves_nothing(here: Path) -> None:
    release(mine(here))
    assert not IdempotentCall.objects.exists()
    mine(here)
    assert prune() == 0
    aged(DAY)
    assert prune() == 1
