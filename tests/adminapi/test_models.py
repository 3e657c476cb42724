"""Models, aliases and profiles by the API."""

from __future__ import annotations

from typing import Any

import pytest

from providers.models import Provider
from routing.models import Alias, AliasVariant, Model, RoutingProfile
from routing.snapshot_build import build_snapshot, config_version
from tests.adminapi.api import Api, ok, refused

pytestmark = pytest.mark.django_db

ID = "org/model/one"


# -- models --------------------------------------------------------------------------------------------------------
def test_a_model_whose_id_has_slashes_comes_and_goes(api: Api, provider: Provider) -> None:
    shown = ok(api.post("models", {"id": ID, "provider_id": "org/box", "weight": 7, "abilities": ["tools"]}))
    assert (shown["weight"], shown["enabled"], shown["input_per_1k"]) == (7, True, None)
    assert ok(api.get(f"models/{ID}")) == shown
    assert ok(api.get("models"))["items"] == [shown]
    assert ID in build_snapshot().targets
    assert ok(api.delete(f"models/{ID}")) == {"ok": True}
    refused(api.get(f"models/{ID}"), "not_found")
    assert build_snapshot().targets == {}


def test_null_is_no_price_and_nought_is_free(api: Api, model: Model) -> None:
    shown = ok(api.get(f"models/{ID}"))
    assert (shown["input_per_1k"], shown["output_per_1k"], shown["cached_input_per_1k"]) == (0.001, 0, None)
    shown = ok(api.patch(f"models/{ID}", {"input_per_1k": None, "cache_write_per_1k": 0.0000005}))
    assert (shown["input_per_1k"], shown["output_per_1k"], shown["cache_write_per_1k"]) == (None, 0, 5e-07)
    assert ok(api.patch(f"models/{ID}", {"input_per_1k": "0.25"}))["input_per_1k"] == 0.25


def test_what_a_second_post_leaves_out_stays(api: Api, model: Model) -> None:
    shown = ok(api.post("models", {"id": ID, "enabled": False}))
    assert (shown["enabled"], shown["input_per_1k"], shown["weight"]) == (False, 0.001, 6)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"weight": 11}, "weight"),
        ({"weight": -1}, "weight"),
        ({"weight": 1.5}, "weight"),
        ({"weight": None}, "weight"),
        ({"provider_id": "nobody"}, "provider_id"),
        ({"provider_id": None}, "provider_id"),
        ({"provider_id": {}}, "provider_id"),
        ({"input_per_1k": -1}, "input_per_1k"),
        ({"input_per_1k": "much"}, "input_per_1k"),
        ({"input_per_1k": 1e-10}, "input_per_1k"),
        ({"input_per_1k": 10**20}, "input_per_1k"),
        ({"abilities": ["flying"]}, "abilities[0]"),
        ({"abilities": "tools"}, "abilities"),
        ({"abilities": [{}]}, "abilities[0]"),
        ({"max_context_tokens": 0}, "max_context_tokens"),
        ({"max_context_tokens": 10**30}, "max_context_tokens"),
        ({"max_output_tokens": -5}, "max_output_tokens"),
        ({"upstream_model": "x" * 201}, "upstream_model"),
        ({"id": "other"}, "id"),
        ({"created_by": "me"}, "created_by"),
    ],
)
def test_a_wrong_field_of_a_model_is_named(api: Api, model: Model, change: dict[str, Any], param: str) -> None:
    refused(api.patch(f"models/{ID}", change), "invalid_request", param)
    model.refresh_from_db()
    assert model.weight == 6


def test_a_model_needs_a_provider(api: Api, provider: Provider) -> None:
    refused(api.post("models", {"id": "a"}), "invalid_request", "provider_id")
    refused(api.post("models", {"id": "a b", "provider_id": "org/box"}), "invalid_request", "id")
    refused(api.post("models", {"provider_id": "org/box"}), "invalid_request", "id")


# -- aliases -------------------------------------------------------------------------------------------------------
def variants(*rows: tuple[Any, ...]) -> dict[str, Any]:
    return {"variants": [dict(zip(("model_id", "weight", "is_shadow"), row, strict=False)) for row in rows]}


def test_an_alias_is_put_read_replaced_and_deleted(api: Api, model: Model, provider: Provider) -> None:
    Model.objects.create(id="two", provider=provider)
    shown = ok(api.put("aliases/org/best", variants((ID, 3), ("two", 10, True)) | {"sticky_by": "api_key"}))
    assert shown["variants"] == [
        {"model_id": ID, "weight": 3, "is_shadow": False},
        {"model_id": "two", "weight": 10, "is_shadow": True},
    ]
    assert (shown["name"], shown["sticky_by"], shown["enabled"]) == ("org/best", "api_key", True)
    assert ok(api.get("aliases/org/best")) == ok(api.get("aliases"))["items"][0] == shown
    version = config_version()
    replaced = ok(api.put("aliases/org/best", {"name": "org/best", "enabled": False, **variants(("two",))}))
    assert (replaced["sticky_by"], replaced["enabled"]) == ("request", False)
    assert replaced["variants"] == [{"model_id": "two", "weight": 1, "is_shadow": False}]
    assert config_version() > version
    assert ok(api.delete("aliases/org/best")) == {"ok": True}
    assert not AliasVariant.objects.exists()
    refused(api.get("aliases/org/best"), "not_found")
    refused(api.delete("aliases/org/best"), "not_found")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "variants"),
        ({"variants": []}, "variants"),
        ({"variants": "x"}, "variants"),
        ({"variants": ["x"]}, "variants[0]"),
        (variants((ID, 0)), "variants"),
        (variants((ID, 5, True)), "variants"),
        (variants((ID, 1), (ID, 2)), "variants"),
        (variants(("nobody", 1)), "variants[0].model_id"),
        (variants((ID, 1001)), "variants[0].weight"),
        (variants((ID, "much")), "variants[0].weight"),
        (variants((ID, 1)) | {"sticky_by": "moon"}, "sticky_by"),
        (variants((ID, 1)) | {"name": "other"}, "name"),
        ({"variants": [{"model_id": ID, "share": 1}]}, "variants[0].share"),
    ],
)
def test_a_wrong_field_of_an_alias_is_named(api: Api, model: Model, body: dict[str, Any], param: str) -> None:
    refused(api.put("aliases/best", body), "invalid_request", param)
    assert not Alias.objects.exists()


def test_an_alias_takes_neither_a_models_name_nor_a_strange_one(api: Api, model: Model) -> None:
    refused(api.put(f"aliases/{ID}", variants((ID, 1))), "invalid_request", "name")
    refused(api.put("aliases/two%20words", variants((ID, 1))), "invalid_request", "name")


def test_a_long_list_of_aliases_costs_no_more_queries(
    api: Api, model: Model, django_assert_max_num_queries: Any
) -> None:
    for number in range(20):
        AliasVariant.objects.create(alias=Alias.objects.create(name=f"a{number}"), model=model)
    with django_assert_max_num_queries(4):
        page = ok(api.get("aliases"))
    assert page["items"][0]["variants"] == [{"model_id": ID, "weight": 1, "is_shadow": False}]


# -- profiles ------------------------------------------------------------------------------------------------------
PARTS = {"cost": 0.4, "latency": 0.3, "failure": 0.2, "capability": 0.1}


def test_a_profile_comes_changes_and_goes(api: Api) -> None:
    assert ok(api.post("profiles", {"name": "mine", **PARTS}))["cost"] == 0.4
    assert "mine" in build_snapshot().profiles
    assert ok(api.patch("profiles/mine", {"cost": 0.3, "capability": 0.2}))["capability"] == 0.2
    assert ok(api.post("profiles", {"name": "mine", "cost": 0.4, "capability": 0.1}))["latency"] == 0.3
    assert [one["name"] for one in ok(api.get("profiles"))["items"]] == ["mine"]
    ok(api.delete("profiles/mine"))
    refused(api.get("profiles/mine"), "not_found")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"cost": 0.9}, None),
        ({"cost": 1.1}, "cost"),
        ({"cost": "NaN"}, "cost"),
        ({"cost": "inf"}, "cost"),
        ({"name": "auto"}, "name"),
        ({"name": "two words"}, "name"),
        ({"speed": 1}, "speed"),
    ],
)
def test_a_wrong_profile_is_refused(api: Api, change: dict[str, Any], param: str | None) -> None:
    refused(api.post("profiles", {"name": "mine", **PARTS, **change}), "invalid_request", param)
    assert not RoutingProfile.objects.exists()
