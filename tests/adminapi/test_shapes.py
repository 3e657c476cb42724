"""What all endpoints have in common: errors of one shape, bodies that cannot break anything, bounded lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from keys import services as keys
from routing.errors import CODES as CLIENT_CODES
from routing.models import Model
from tests.adminapi.api import Api, ok, refused
from tests.test_docs import DOCS, table
from tokenhub.api import urlpatterns
from tokenhub.apiexamples import EXAMPLES
from tokenhub.apikit import CODES

pytestmark = pytest.mark.django_db

BODIES = [
    ("POST", "providers"),
    ("PATCH", "providers/org/box"),
    ("POST", "models"),
    ("PATCH", "models/org/model/one"),
    ("PUT", "aliases/some"),
    ("POST", "profiles"),
    ("POST", "apikeys"),
    ("POST", "routing/simulate"),
    ("POST", "vault/unlock"),
    ("POST", "vault/rotate"),
    ("PUT", "vault/secrets/some"),
    ("POST", "session"),
]
LISTS = ["providers", "models", "aliases", "profiles", "apikeys", "vault/secrets", "engine/models", "logs", "workflows"]


def test_info_tells_what_is_left_to_do(api: Api, open_vault: None, model: Model) -> None:
    info = ok(api.get("info"))
    assert info["tokenhub"] == "admin"
    assert (info["vault_initialized"], info["vault_locked"]) == (True, False)
    steps = {step["step"]: step["done"] for step in info["setup"]}
    assert steps == {"vault": True, "provider": True, "model": True, "key": False, "request": False}


def test_an_id_that_the_client_sent_is_echoed(api: Api) -> None:
    answer = api.call("GET", "info", x_request_id="mine-1")
    assert answer.headers["X-Request-ID"] == "mine-1" != answer.headers["X-TokenHub-Request-ID"]
    assert refused(api.call("GET", "nowhere", x_request_id="mine-2"), "not_found")["request_id"] == "mine-2"


@pytest.mark.parametrize("path", ["nowhere", "info/more", "", "logs/", "apikeys/a/b/c", "models/%00", "providers/%FF"])
def test_what_is_not_there_is_a_404(api: Api, path: str) -> None:
    refused(api.get(path), "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("DELETE", "info", "GET"), ("PUT", "models", "GET, POST"), ("BREW", "logs", "GET")]
)
def test_a_method_that_is_not_taken_is_a_405(api: Api, method: str, path: str, allowed: str) -> None:
    answer = api.call(method, path)
    refused(answer, "method_not_allowed")
    assert set(allowed.split(", ")) <= set(answer.headers["Allow"].split(", "))


@pytest.mark.parametrize(("method", "path"), BODIES)
@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff\xfe", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}', b'{"a\\u0000": 1}', b'{"a": "\\u0000"}'],
)
def test_what_is_no_json_is_a_400(api: Api, model: Model, method: str, path: str, body: bytes) -> None:
    refused(api.call(method, path, body), "invalid_json")


@pytest.mark.parametrize("depth", [2_000, 100_000])
def test_a_deeply_nested_body_is_a_400(api: Api, depth: int) -> None:
    refused(api.post("providers", b"[" * depth + b"]" * depth), "invalid_json")
    refused(api.post("providers", b'{"a":' * depth + b"1" + b"}" * depth), "invalid_json")


@pytest.mark.parametrize(("method", "path"), BODIES)
@pytest.mark.parametrize("body", [[], "text", 5, None, True, [{}]])
def test_a_body_must_be_an_object(api: Api, model: Model, method: str, path: str, body: object) -> None:
    refused(api.call(method, path, json.dumps(body).encode()), "invalid_request")


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_an_unknown_field_is_named(api: Api, model: Model, method: str, path: str) -> None:
    error = refused(api.call(method, path, {"nmae": 1}), "invalid_request", "nmae")
    assert "nmae" in error["message"]


def test_a_body_may_not_be_larger_than_the_limit(api: Api, settings: Settings) -> None:
    settings.TOKENHUB_MAX_BODY_BYTES = 2000
    refused(api.post("providers", {"id": "x" * 2000}), "request_too_large")


def test_no_content_type_is_wrong(api: Api) -> None:
    answer = api.client.post(
        "/admin/v1/apikeys", '{"name": "shop"}', "application/x-www-form-urlencoded",
        headers={**api.headers, "accept": "text/html"},
    )  # fmt: skip
    ok(answer)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    "id", "type", "enabled", "base_url", "endpoints", "dialects", "cred_store", "api_key", "provider_id", "weight",
    "max_context_tokens", "max_output_tokens", "abilities", "input_per_1k", "name", "variants", "sticky_by", "cost",
    "latency", "failure", "capability", "scopes", "allowed_models", "tags", "expires_in", "expires_at", "mode",
    "token_count", "max_budget_usd", "model_hint", "api_key_id", "value", "upstream_model",
]  # fmt: skip
ODD = st.sampled_from(
    [10**30, -1, "9" * 400, "NaN", "inf", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "99999999999d",
     [{}], [[]], {"a": []}, "é", "", " ", "org/box", "org/model/one", "openai", "vllm", "http://[", "[[]]", "{}",
     [{"model_id": "org/model/one", "weight": 10**20}], [{"model_id": {}}], 1e300, True]
)  # fmt: skip


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_body_produces_a_500(api: Api, model: Model, data: Any) -> None:
    method, path = data.draw(st.sampled_from([one for one in BODIES if not one[1].startswith(("vault/", "session"))]))
    body = data.draw(st.dictionaries(st.sampled_from(NAMES), ODD | VALUES, max_size=6))
    if data.draw(st.booleans()):
        body |= {"id": "a", "name": "a", "type": "vllm", "provider_id": "org/box"}
        known = {"providers": {"id", "type"}, "models": {"id", "provider_id"}}.get(path)
        body = {name: value for name, value in body.items() if known is None or name in known} | body
    for unknown in range(len(NAMES)):  # drop what it does not know, so that the rest is looked at
        answer = api.call(method, path, body)
        is_locked = answer.status_code == 503 and answer.json()["error"]["code"] == "vault_locked"
        assert answer.status_code < 500 or is_locked, (method, path, body, answer.content)
        error = answer.json().get("error") or {}
        if "not known here" not in str(error.get("message")) or error["param"] not in body or unknown > 30:
            break
        del body[error["param"]]


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=x", "limit=1001", "limit=", "offset=-1", "offset=1.5", f"offset={10**30}"]
)
def test_bounds_of_lists_are_checked(api: Api, path: str, query: str) -> None:
    refused(api.get(f"{path}?{query}"), "invalid_request", query.partition("=")[0])


@pytest.mark.parametrize("path", LISTS)
def test_an_empty_list_is_a_list(api: Api, path: str) -> None:
    page = ok(api.get(f"{path}?limit=7&offset=3"))
    assert {name: page[name] for name in ("items", "total", "limit", "offset")} == {
        "items": [], "total": 0, "limit": 7, "offset": 3,
    }  # fmt: skip


def test_lists_come_in_pages(api: Api) -> None:
    for number in range(5):
        keys.issue(name=f"key {number}")
    pages = [ok(api.get(f"apikeys?limit=2&offset={offset}")) for offset in (0, 2, 4, 6)]
    assert [page["total"] for page in pages] == [5, 5, 5, 5]
    assert [one["name"] for page in pages for one in page["items"]] == [f"key {number}" for number in (4, 3, 2, 1, 0)]


def test_a_data_folder_that_cannot_be_read_is_no_500(api: Api, data_folder: Path) -> None:
    (data_folder / "admin-token").unlink()
    (data_folder / "admin-token").mkdir()
    answer = api.get("info")
    refused(answer, "overloaded")
    assert "Retry-After" in answer.headers


def test_a_host_that_is_not_ours_gets_an_error_of_the_same_shape(api: Api) -> None:
    refused(api.client.get("/admin/v1/info", headers={**api.headers, "host": "evil.example"}), "invalid_request")


def test_every_code_is_documented_with_its_status() -> None:
    rows = table(DOCS / "reference" / "admin-api.md")
    for code, (status, kind) in CODES.items():
        assert rows[code][0] == str(status)
        assert CLIENT_CODES.get(code, (status, kind)) == (status, kind), "one code means one thing"


# -- its own documentation -------------------------------------------------------------------------------------------
def test_the_schema_is_valid_and_holds_every_endpoint(api: Api, tmp_path: Path) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", "--format", "openapi-json", "--file", tmp_path / "it")
    document = json.loads((tmp_path / "it").read_text())
    paths = document["paths"]
    routes = {str(one.pattern).replace("<path:id>", "{id}").replace("<str:id>", "{id}") for one in urlpatterns}
    assert {path.removeprefix("/admin/v1/") for path in paths} == routes - {"", "schema", "docs"}
    assert document["openapi"].startswith("3.1.")
    assert {"get", "patch", "delete"} == set(paths["/admin/v1/models/{id}"])
    assert "default" in paths["/admin/v1/logs"]["get"]["responses"]
    served = api.get("schema?format=json")
    assert served.status_code == 200
    assert served.headers["X-TokenHub-Request-ID"]


def test_the_page_loads_nothing_from_elsewhere(api: Api, nobody: Api) -> None:
    page = api.get("docs")
    assert page.status_code == 200
    text = page.content.decode()
    assert "swagger-ui" in text
    assert "//cdn" not in text
    assert 'src="http' not in text
    assert 'href="http' not in text
    answer = nobody.get("docs")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/login/?next=/admin/v1/docs")


def test_documentation_is_for_staff(nobody: Api) -> None:
    refused(nobody.get("schema"), "missing_api_key")


@pytest.mark.parametrize("path", ["aliases", "vault/secrets"])
def test_a_list_is_not_replaced(api: Api, path: str) -> None:
    answer = api.put(path, {})
    refused(answer, "method_not_allowed")
    assert "PUT" not in answer.headers["Allow"]


@pytest.mark.parametrize("value", [0.1 + 0.2, "0.3"])
def test_amounts_are_taken_to_a_billionth(api: Api, model: Model, value: object) -> None:
    assert ok(api.patch("models/org/model/one", {"input_per_1k": value}))["input_per_1k"] == 0.3


@pytest.mark.parametrize("value", [1e-12, -1, 1e9, "1e3", "0.0000000001", "NaN", True, "\u0663", 1e300])
def test_an_amount_that_cannot_be_kept_is_refused(api: Api, model: Model, value: object) -> None:
    refused(api.patch("models/org/model/one", {"input_per_1k": value}), "invalid_request", "input_per_1k")


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("models/org/model/one", {"weight": "5"}, "weight"),
        ("models/org/model/one", {"weight": True}, "weight"),
        ("models/org/model/one", {"enabled": "true"}, "enabled"),
        ("models/org/model/one", {"enabled": 1}, "enabled"),
        ("models/org/model/one", {"upstream_model": 5}, "upstream_model"),
        ("providers/org/box", {"endpoints": [5]}, "endpoints[0]"),
    ],
)
def test_a_value_of_another_type_is_not_guessed_at(
    api: Api, model: Model, path: str, body: dict[str, Any], name: str
) -> None:
    refused(api.patch(path, body), "invalid_request", name)


def test_every_endpoint_is_explained_in_the_documentation() -> None:
    text = (DOCS / "reference" / "admin-api.md").read_text()
    for one in urlpatterns:
        path = "/" + str(one.pattern).replace("<path:id>", "{id}").replace("<str:id>", "{id}")
        named = {path} | {path.replace("{id}", name) for name in ("{name}", "{request_id}")}
        assert path == "/" or any(f"{place}`" in text or f"{place}," in text for place in named), path


def test_every_example_of_the_document_is_taken(api: Api, open_vault: None) -> None:
    document = api.get("schema").json()
    for (method, path), body in EXAMPLES.items():
        shown = document["paths"][f"/admin/v1{path}"][method]["requestBody"]["content"]["application/json"]
        assert shown["example"] == body
        name = "small" if "alias" in path else "org/small"  # an alias cannot have a model's name
        ok(api.call(method.upper(), path.removeprefix("/").replace("{id}", name), body))
