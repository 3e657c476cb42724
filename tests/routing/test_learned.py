"""What was learned, as people see it."""

from __future__ import annotations

import msgspec
import pytest

from routing.bandit import Arm, Bandit, Context, Posterior
from routing.learned import curve, learned
from routing.models import BanditDelta
from tests.admin.samples import model

pytestmark = pytest.mark.django_db
NOW = 1_764_028_800.0
CODE, CHAT = Context(task="code", language="latin"), Context(task="tell", language="latin")


def teach(rewards: dict[tuple[str, Context], list[float]]) -> None:
    """As a worker would write it down."""
    bandit = Bandit()
    for (name, context), values in rewards.items():
        for value in values:
            bandit.learn(context, name, value, now=NOW)
    BanditDelta.objects.create(origin="w", payload=msgspec.json.encode(bandit.deltas()).decode())


def test_models_are_told_by_their_mean_rewards_and_how_many_there_were() -> None:
    model(1, id="good"), model(2, id="bad"), model(3, id="new"), model(4, id="off", enabled=False)
    teach({("good", CODE): [0.9] * 40, ("bad", CODE): [0.2] * 30})
    found = learned(now=NOW)
    told = {one.model_id: one for one in found.estimates}
    assert list(told) == ["good", "new", "bad"]
    assert told["good"].mean == pytest.approx(0.9, abs=0.05)
    assert told["bad"].mean == pytest.approx(0.2, abs=0.08)
    assert told["good"].rewards == pytest.approx(40)
    assert told["new"].rewards == 0
    width = {name: one.high - one.low for name, one in told.items()}
    assert width["good"] < width["new"]
    assert found.context is None


def test_a_context_is_told_apart_and_those_with_most_rewards_come_first() -> None:
    model(1, id="m")
    teach({("m", CODE): [0.9] * 20, ("m", CHAT): [0.5] * 60})
    found = learned(now=NOW, key=CODE.key)
    assert [place.key for place in found.contexts] == [CHAT.key, CODE.key]
    assert found.context is not None
    assert found.context.label == "small, “code”, latin, 1 turn"
    (here,) = found.estimates
    assert here.rewards == pytest.approx(80)
    assert here.here == pytest.approx(20)
    assert here.mean > learned(now=NOW, key=CHAT.key).estimates[0].mean


def test_what_nobody_can_read_and_a_context_that_is_not_known_are_passed_over() -> None:
    model(1, id="m")
    BanditDelta.objects.create(origin="w", payload="{")
    found = learned(now=NOW, key="no|such|context")
    assert (found.context, len(found.estimates), found.contexts) == (None, 1, [])


def test_it_says_what_the_bandit_itself_believes() -> None:
    model(1, id="m", weight=7)
    bandit = Bandit()
    for value in (0.3, 0.9, 0.8):
        bandit.learn(CODE, "m", value, now=NOW)
    BanditDelta.objects.create(origin="w", payload=msgspec.json.encode(bandit.deltas()).decode())
    (one,) = learned(now=NOW, key=CODE.key).estimates
    assert one.mean == pytest.approx(bandit.posterior(CODE, Arm("m", weight=7), NOW).mean, abs=1e-9)


def test_a_curve_is_highest_where_its_distribution_is() -> None:
    """Beta(8, 4) has its mode at 0.7; a very narrow one does not overflow."""
    points = curve(Posterior(8, 4), 0.0, 1.0)
    assert max(points, key=lambda one: one[1])[0] == pytest.approx(0.7, abs=0.02)
    narrow = curve(Posterior(9e6, 1e6), 0.0, 1.0)
    assert max(height for _, height in narrow) == 1.0
