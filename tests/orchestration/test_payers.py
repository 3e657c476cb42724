"""Who pays for a run that goes on in the background: the key that started it, as it is by now."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from keys.auth import KeyRecord
from orchestration.payers import Payers
from routing.errors import ApiError
from routing.snapshot import Snapshot

KEY = KeyRecord("k", "shop", "", (), frozenset(), frozenset(), True, True, None)


def payers(*keys: KeyRecord) -> Any:
    held: Any = SimpleNamespace(snapshot=Snapshot(keys={str(place): key for place, key in enumerate(keys)}))
    return Payers(held)


def test_a_key_that_may_still_be_used_pays() -> None:
    assert payers(replace(KEY, id="other"), KEY).key("k") is KEY


def test_a_secret_that_was_replaced_does_not_end_its_keys_runs() -> None:
    assert payers(KEY, replace(KEY, expires_at=1.0)).key("k") is KEY


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ([], "invalid_api_key"),
        ([replace(KEY, enabled=False)], "disabled_api_key"),
        ([replace(KEY, expires_at=1.0)], "expired_api_key"),
    ],
)
def test_a_key_that_may_not_be_used_any_more_ends_its_runs(keys: list[KeyRecord], code: str) -> None:
    with pytest.raises(ApiError) as refused:
        payers(*keys).key("k")
    assert refused.value.code == code


def test_a_changed_configuration_is_seen() -> None:
    one = payers(KEY)
    assert one.key("k") is KEY
    one._runtime.snapshot = Snapshot()
    with pytest.raises(ApiError):
        one.key("k")
