"""The what-if simulator's page."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from keys import playground, services
from keys.bank import DatabaseBank
from keys.models import Budget, Subject
from routing import services as routing
from routing.models import Model
from routing.runtime import Runtime
from routing.snapshot_build import build_snapshot
from tests.admin.forms import text
from tests.admin.samples import model

pytestmark = pytest.mark.django_db

PAGE = "/admin/simulator/"
CHEAP, DEAR = "org/model_1", "org/model_2"


@pytest.fixture
def pair(db: None) -> None:
    model(1, weight=2, input_per_1k="0.001", output_per_1k="0.001")
    model(2, weight=9, input_per_1k="0.01", output_per_1k="0.01", abilities=["vision"])


def results(client: Client, **asked: str) -> list[Any]:
    answer: Any = client.get(PAGE, {name.replace("_", "-", 1): value for name, value in asked.items()})
    assert answer.status_code == 200
    return [side.result for side in answer.context["sides"]]


def test_strangers_are_sent_to_the_login_and_staff_need_the_permission(client: Client, staff_client: Client) -> None:
    assert client.get(PAGE)["location"] == f"{reverse('admin:login')}?next={PAGE}"
    assert staff_client.get(PAGE).status_code == 403
    User.objects.get(username="clerk").user_permissions.add(Permission.objects.get(codename="view_model"))
    assert staff_client.get(PAGE).status_code == 200
    assert staff_client.post(PAGE).status_code == 405


def test_without_a_model_it_says_what_to_do(admin_client: Client) -> None:
    page = text(admin_client.get(PAGE))
    assert "There is no model to choose from yet" in page
    assert "Nobody could answer" in page


def test_it_shows_who_would_answer_and_the_parts_of_each_score(admin_client: Client, pair: None) -> None:
    (found,) = results(admin_client, a_mode="cheap")
    assert found["decision"]["model_id"] == CHEAP
    assert [one["model_id"] for one in found["eligible"]] == [CHEAP, DEAR]
    widths = [[float(bar["width"]) for bar in one["bars"]] for one in found["eligible"]]
    assert sum(widths[0]) < sum(widths[1]) <= 100.01
    assert "The router chose it by its score; its weight is 2." in text(admin_client.get(PAGE, {"a-mode": "cheap"}))


def test_exclusions_are_told_in_words(admin_client: Client, pair: None) -> None:
    answer = admin_client.get(PAGE, {"a-min_weight": "5", "a-budget": "0.001"})
    assert "Its weight is below the least that was asked for." in text(answer)
    assert "It would cost more than the ceiling." in text(answer)
    (found,) = results(admin_client, a_abilities="vision")
    assert [one["words"] for one in found["excluded"]] == ["It cannot do vision."]


def test_a_second_setting_begins_as_the_first(admin_client: Client, pair: None) -> None:
    one, other = results(admin_client, a_mode="cheap", a_tokens="5000", compare="1")
    assert one["decision"] == other["decision"]
    assert "Both take org/model_1." in text(admin_client.get(PAGE, {"a-mode": "cheap", "compare": "1"}))


def test_two_settings_stand_side_by_side_and_their_difference_in_a_sentence(admin_client: Client, pair: None) -> None:
    asked = {"a-mode": "cheap", "b-tokens": "1000", "b-min_weight": "5", "compare": "1"}
    answer: Any = admin_client.get(PAGE, asked)
    chosen = [side.result["decision"]["model_id"] for side in answer.context["sides"]]
    assert chosen == [CHEAP, DEAR]
    assert answer.context["verdict"] == (
        "A takes org/model_1, B takes org/model_2. A costs less: the other costs 10.0 times as much."
    )


def test_what_cannot_be_asked_is_an_error_at_its_field(admin_client: Client, pair: None) -> None:
    asked = {"a-tokens": "-1", "a-budget": "NaN", "a-mode": "hasty", "a-min_weight": "11", "a-key": "nobody"}
    answer: Any = admin_client.get(PAGE, asked)
    assert set(answer.context["sides"][0].form.errors) == {"tokens", "budget", "mode", "min_weight", "key"}
    unknown: Any = admin_client.get(PAGE, {"a-model_hint": "org/model_3"})
    assert set(unknown.context["sides"][0].form.errors) == {"model_hint"}


def test_it_answers_as_a_client_key_would_be_served(admin_client: Client, pair: None) -> None:
    key = services.issue(name="shop", allowed_models=[DEAR]).record
    play = playground.issue(owner="admin").record
    (found,) = results(admin_client, a_mode="cheap", a_key=str(key.pk))
    assert found["decision"]["model_id"] == DEAR
    assert str(play.pk) not in text(admin_client.get(PAGE))


def test_budgets_of_the_client_key_are_told_and_whether_they_can_pay(admin_client: Client, pair: None) -> None:
    key = services.issue(name="shop", project="web").record
    services.set_budget(subject=Subject.KEY, subject_id=str(key.pk), amount_usd=Decimal("0.0001"), every="day")
    services.set_budget(subject=Subject.PROJECT, subject_id="web", amount_usd=Decimal(5), every="total")
    (found,) = results(admin_client, a_mode="cheap", a_key=str(key.pk))
    assert [(one["mood"], one["told"].split(";")[0]) for one in found["budgets"]] == [
        ("bad", "$0.00 of $0.0001 per day are spent"), ("good", "$0.00 of $5.00 per total are spent."),
    ]  # fmt: skip
    page = text(admin_client.get(PAGE, {"a-key": str(key.pk)}))
    assert "cannot pay the $0.00472 that it may cost at least: 429" in page
    (nobody,) = results(admin_client, a_mode="cheap")
    assert nobody["budgets"] == []


def test_what_workers_hold_of_a_budget_is_told(admin_client: Client, pair: None) -> None:
    key = services.issue(name="shop").record
    services.set_budget(subject=Subject.KEY, subject_id=str(key.pk), amount_usd=Decimal("0.0055"), every="day")
    DatabaseBank(holder="w", host="h").grant(Budget.objects.get().pk, "", most=1_000_000, least=1_000_000)
    (found,) = results(admin_client, a_mode="cheap", a_key=str(key.pk))
    assert [(one["mood"], "$0.001 are held by workers" in one["told"]) for one in found["budgets"]] == [("wait", True)]


def test_a_model_without_a_price_says_so(admin_client: Client, pair: None) -> None:
    model(3, weight=9)
    (found,) = results(admin_client)
    assert {one["model_id"]: one["is_priced"] for one in found["eligible"]} == {
        CHEAP: True, DEAR: True, "org/model_3": False,
    }  # fmt: skip
    assert "It has no price: it counts as much as the dearest one" in text(
        admin_client.get(PAGE, {"a-model_hint": "org/model_3"})
    )


def test_names_of_keys_are_offered_to_those_alone_who_may_see_keys(staff_client: Client) -> None:
    services.issue(name="the shop's")
    User.objects.get(username="clerk").user_permissions.add(Permission.objects.get(codename="view_model"))
    assert "the shop" not in text(staff_client.get(PAGE))


def test_in_a_worker_it_costs_few_queries_however_many_models_there_are(
    admin_client: Client, pair: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cost(**asked: str) -> int:
        runtime.snapshot = build_snapshot()
        with CaptureQueriesContext(connection) as queries:
            assert admin_client.get(PAGE, asked).status_code == 200
        return len(queries)

    runtime = Runtime()
    runtime.ready = True
    monkeypatch.setattr("routing.runtime._RUNTIME", runtime)
    cost()
    few = cost()
    for number in range(10, 30):
        model(number)
    assert cost(compare="1") == few <= 15


def test_a_worker_that_is_not_up_to_date_yet_does_not_show_what_was(
    admin_client: Client, pair: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime()
    runtime.snapshot, runtime.ready = build_snapshot(), True
    monkeypatch.setattr("routing.runtime._RUNTIME", runtime)
    routing.save(model=Model(id="new", provider=Model.objects.get(id=CHEAP).provider))
    (found,) = results(admin_client)
    assert "new" in {one["model_id"] for one in found["eligible"]}
