"""Who may answer a step of a plan."""

from __future__ import annotations

import pytest

from orchestration.casting import leg_key
from orchestration.steps import Leg
from routing.snapshot import Alias, Snapshot, Variant
from tests.support.targets import key, target

SNAPSHOT = Snapshot(aliases={"mix": Alias("mix", "request", (Variant(target("a"), 0.5), Variant(target("b"), 0.5)))})


@pytest.mark.parametrize(
    ("may", "only", "allowed"),
    [
        ([], ["mix", "c"], {"mix", "c"}),
        (["mix"], ["mix", "c"], {"mix"}),
        (["a", "c"], ["mix", "c"], {"a", "c"}),
        (["c"], ["a", "b"], {""}),
    ],
    ids=["every model", "the alias", "some of the alias's", "what it may use by now"],
)
def test_a_step_is_held_to_the_models_of_its_key(may: list[str], only: list[str], allowed: set[str]) -> None:
    assert leg_key(key(models=may), Leg("voter-1", "voter", only=only), SNAPSHOT).allowed_models == allowed
