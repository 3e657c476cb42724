"""Prices by date and by the input's size, and from the catalogue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from providers.formats.dialect import Usage
from providers.models import CredentialStore, Provider, ProviderType
from routing import catalogue, services
from routing.models import Model, Price, PriceSource
from routing.pricing import Prices, cost_nano, plain_cost_nano, upper_bound_nano
from routing.snapshot_build import build_snapshot, prices_of
from telemetry.models import AuditEntry
from tests.support.gateway import Gateway
from tests.support.upstream import Upstream
from tokenhub import admin_token

BASE = Prices(100, 400, 10, 125, 400)
LONG = Prices(200, 600, 20, 250, 600)
TIERED = BASE.with_tiers([(1000, LONG)])


# -- arithmetic ------------------------------------------------------------------------------------------------------
def test_above_the_threshold_all_tokens_cost_the_tiers_price() -> None:
    assert cost_nano(TIERED, Usage(input_tokens=1000, output_tokens=10)) == 100 + 4
    assert cost_nano(TIERED, Usage(input_tokens=1001, output_tokens=10)) == -(-(1001 * 200 + 10 * 600) // 1000)
    assert plain_cost_nano(TIERED, 2000, 0) == 400


def test_the_highest_threshold_that_is_passed_counts() -> None:
    three = BASE.with_tiers([(10, Prices(1, 1, 1, 1, 1)), (1000, LONG), (100, Prices(2, 2, 2, 2, 2))])
    assert [three.of(tokens).input for tokens in (10, 11, 101, 1001)] == [100, 1, 2, 200]


@pytest.mark.parametrize(
    ("tokens", "tiers"), list(product([0, 999, 1000, 1001, 5000], [(), (LONG,), (Prices(1, 1, 1, 1, 1),)]))
)
def test_no_usage_within_a_bound_costs_more_than_it(tokens: int, tiers: tuple[Prices, ...]) -> None:
    prices = BASE.with_tiers([(1000, one) for one in tiers])
    bound = upper_bound_nano(prices, tokens, 50)
    for used, cached, written in product({0, tokens // 2, tokens, min(tokens, 1000)}, (0, 1000), (0, 500)):
        usage = Usage(
            input_tokens=used, cached_input_tokens=cached, cache_write_tokens=written, output_tokens=50,
            reasoning_tokens=20,
        )  # fmt: skip
        assert cost_nano(prices, usage) <= bound


# -- dates -----------------------------------------------------------------------------------------------------------
@pytest.fixture
def model(db: None) -> Model:
    provider = Provider.objects.create(
        id="openai", type=ProviderType.OPENAI, base_url="https://api.openai.com", cred_store=CredentialStore.NONE
    )
    return Model.objects.create(id="gpt-5", provider=provider)


def dated(model: Model, days: float, above: int = 0, **prices: str | None) -> Price:
    values: dict[str, Any] = {name: None if text is None else Decimal(text) for name, text in prices.items()}
    price = Price(model=model, starts_at=timezone.now() + timedelta(days=days), above_input_tokens=above, **values)
    services.save_price(price=price)
    return price


def now_of(model: Model, days: float = 0) -> Prices | None:
    rows = list(Price.objects.order_by("starts_at"))
    return prices_of(Model.objects.get(pk=model.pk), rows, timezone.now() + timedelta(days=days))


def test_the_newest_price_that_has_begun_holds(model: Model) -> None:
    model.input_per_1k, model.output_per_1k = Decimal("0.001"), Decimal("0.002")
    services.save(model=model)
    dated(model, -10, input_per_1k="0.003", output_per_1k="0.004")
    dated(model, +10, input_per_1k="0.005", output_per_1k="0")
    shown = [(one.input, one.output) for days in (-20, 0, 20) if (one := now_of(model, days))]
    assert shown == [(10**6, 2 * 10**6), (3 * 10**6, 4 * 10**6), (5 * 10**6, 0)]
    assert build_snapshot().stale_at == pytest.approx((timezone.now() + timedelta(days=10)).timestamp(), abs=60)


def test_a_tier_has_the_base_price_where_it_says_none_and_ends_with_a_newer_base(model: Model) -> None:
    dated(model, -10, input_per_1k="0.003", output_per_1k="0.004", cached_input_per_1k="0.0003")
    dated(model, -9, above=200_000, input_per_1k="0.006")
    prices = now_of(model)
    assert prices is not None
    long = prices.of(200_001)
    assert (long.input, long.output, long.cached_input) == (6 * 10**6, 4 * 10**6, 3 * 10**5)
    dated(model, -1, input_per_1k="0.001", output_per_1k="0.001")
    newer = now_of(model)
    assert newer is not None
    assert newer.tiers == ()


def test_a_price_without_its_numbers_is_refused(model: Model) -> None:
    with pytest.raises(ValidationError, match="0 is free"):
        dated(model, 0, input_per_1k="0.1")
    with pytest.raises(ValidationError, match="one price at least"):
        dated(model, 0, above=10)


def test_a_price_begins_by_itself_in_a_running_server(tmp_path: Path) -> None:
    with (
        Upstream() as upstream,
        Gateway(
            tmp_path,
            providers=[{"id": "up", "type": "openai", "base_url": upstream.url}],
            models=[{"id": "m", "provider_id": "up", "input_per_1k": "0.001", "output_per_1k": "0"}],
        ) as gateway,
    ):
        token = {"Authorization": f"Bearer {(gateway.folder / 'admin-token').read_text().strip()}"}
        begins = datetime.now(UTC) + timedelta(seconds=4)
        body = {"model_id": "m", "starts_at": begins.isoformat(), "input_per_1k": 1000, "output_per_1k": 0}
        answer = gateway.post("/admin/v1/prices", body, headers=token)
        assert answer.status_code == 200, answer.text

        def cost() -> float:
            return float(gateway.chat("m").headers["x-tokenhub-cost-usd"])

        assert cost() < 0.1
        Gateway.wait_until(lambda: cost() > 0.1, seconds=20)
        assert datetime.now(UTC) >= begins


# -- the catalogue ---------------------------------------------------------------------------------------------------
def test_prices_are_taken_over_and_then_follow_the_catalogue(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("update_prices")
    assert "no price yet" in capsys.readouterr().out
    assert Model.objects.get().input_per_1k is None
    call_command("update_prices", apply=True)
    taken = Model.objects.get()
    assert taken.price_source == PriceSource.CATALOGUE
    assert taken.input_per_1k is not None
    assert taken.output_per_1k is not None
    assert taken.output_per_1k > taken.input_per_1k > 0
    assert AuditEntry.objects.filter(action="price.catalogue").exists()
    Model.objects.update(input_per_1k=Decimal(7))  # as if the catalogue had moved
    assert [one.state for one in catalogue.offers()] == ["changed"]
    catalogue.apply()
    assert Model.objects.get().input_per_1k == taken.input_per_1k
    assert [one.state for one in catalogue.offers()] == ["same"]


def test_what_the_operator_set_is_kept(model: Model) -> None:
    catalogue.apply()
    taken = Model.objects.get()
    taken.input_per_1k = Decimal("0.5")
    services.save(model=taken)
    assert Model.objects.get().price_source == PriceSource.OPERATOR
    assert [one.state for one in catalogue.offers()] == ["kept"]
    assert catalogue.apply() == []
    assert Model.objects.get().input_per_1k == Decimal("0.5")


def test_a_price_with_a_date_is_the_operators_and_is_kept(model: Model) -> None:
    dated(model, -1, input_per_1k="1", output_per_1k="1")
    assert catalogue.apply() == []


def test_tiers_come_with_it_and_are_replaced(model: Model) -> None:
    provider = Provider.objects.create(
        id="google", type=ProviderType.OPENAI, base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        cred_store=CredentialStore.NONE,
    )  # fmt: skip
    gemini = Model.objects.create(id="g", upstream_model="gemini-2.5-pro", provider=provider)
    for _ in range(2):
        catalogue.apply()
        Model.objects.filter(pk="g").update(output_per_1k=Decimal(7))
    catalogue.apply()
    tier = Price.objects.get(model=gemini)
    assert (tier.above_input_tokens, tier.source) == (200_000, PriceSource.CATALOGUE)
    prices = now_of(Model.objects.get(pk="g"))
    assert prices is not None
    assert prices.of(200_001).input > prices.of(200_000).input


def test_another_providers_model_of_that_name_has_no_price(model: Model) -> None:
    Provider.objects.update(base_url="http://10.0.0.5:8000")
    assert [one.state for one in catalogue.offers()] == ["unknown"]


@pytest.mark.django_db
def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(CommandError, match="no model 'gone'"):
        call_command("update_prices", "gone")


def test_the_page_shows_the_difference_and_takes_what_is_ticked(model: Model, admin_client: Client) -> None:
    url = reverse("admin:routing_model_catalogue")
    shown = admin_client.get(url).content.decode()
    assert "no price yet" in shown
    assert 'value="gpt-5"' in shown
    assert admin_client.post(url, {"model": []}).status_code == 302
    assert Model.objects.get().input_per_1k is None
    admin_client.post(url, {"model": ["gpt-5"]})
    assert Model.objects.get().input_per_1k is not None


def test_the_api_has_prices_and_the_catalogue(model: Model) -> None:
    client = Client(headers={"Authorization": f"Bearer {admin_token.current()}"})
    kind = "application/json"
    found = client.get("/admin/v1/prices/catalogue").json()
    assert [(one["model_id"], one["state"]) for one in found] == [("gpt-5", "new")]
    assert client.post("/admin/v1/prices/catalogue", {"models": ["x"]}, content_type=kind).json() == []
    assert len(client.post("/admin/v1/prices/catalogue", {}, content_type=kind).json()) == 1
    body = {"model_id": "gpt-5", "above_input_tokens": 1000, "input_per_1k": 0.25}
    made = client.post("/admin/v1/prices", body, content_type=kind).json()
    assert (made["source"], made["input_per_1k"]) == ("operator", 0.25)
    where = f"/admin/v1/prices/{made['id']}"
    assert client.patch(where, {"input_per_1k": 0.5}, content_type=kind).json()["input_per_1k"] == 0.5
    assert client.patch(where, {"input_per_1k": -1}, content_type=kind).status_code == 400
    assert client.get("/admin/v1/prices/none").status_code == 404
    assert client.delete(where).status_code == 200
    assert client.get("/admin/v1/prices").json()["total"] == 0
