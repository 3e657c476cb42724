"""Client keys by the API: shown once, then known by their digest only."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from keys.auth import digest_of
from keys.models import ClientKey
from tests.adminapi.api import Api, ok, refused

pytestmark = pytest.mark.django_db


def new(api: Api, **fields: Any) -> Any:
    return ok(api.post("apikeys", {"name": "shop", **fields}))


def known(plaintext: str) -> bool:
    return ClientKey.objects.filter(digest=digest_of(plaintext.encode())).exists()


def test_a_key_is_shown_in_the_answer_that_made_it_and_never_again(api: Api) -> None:
    made = new(api)
    assert set(made) == {"ok", "key", "id", "prefix", "warning"}
    assert made["ok"] is True
    assert made["key"].startswith(made["prefix"])
    assert known(made["key"])
    for path in ("apikeys", f"apikeys/{made['id']}"):
        text = api.get(path).content.decode()
        assert made["id"] in text
        assert made["key"] not in text
        assert digest_of(made["key"].encode()) not in text


def test_every_field_of_today_is_kept(api: Api) -> None:
    fields = {
        "name": "shop", "owner": "ann", "project": "web", "tags": ["a", "b"], "scopes": ["chat"],
        "allowed_models": ["org/m"], "allow_fallback": False, "allow_directives": False, "enabled": False,
        "expires_at": "2031-01-02T03:04:05Z",
    }  # fmt: skip
    shown = ok(api.get(f"apikeys/{new(api, **fields)['id']}"))
    assert {name: shown[name] for name in fields} == fields
    assert {"id", "key_prefix", "created_at", "last_used_at"} <= set(shown)


@pytest.mark.parametrize("scopes", [["chat", "plan"], json.dumps(["chat", "plan"])])
def test_scopes_are_a_list_or_the_text_of_one(api: Api, scopes: object) -> None:
    assert ok(api.get(f"apikeys/{new(api, scopes=scopes)['id']}"))["scopes"] == ["chat", "plan"]


@pytest.mark.parametrize(
    ("text", "span"),
    [("2s", timedelta(seconds=2)), ("30m", timedelta(minutes=30)), ("720h", timedelta(days=30)), ("7d", timedelta(7))],
)
def test_a_key_may_expire_after_a_while(api: Api, text: str, span: timedelta) -> None:
    made = new(api, expires_in=text)
    ends = ClientKey.objects.get(pk=made["id"]).expires_at
    assert ends is not None
    assert abs(ends - timezone.now() - span) < timedelta(seconds=5)
    ok(api.patch(f"apikeys/{made['id']}", {"expires_in": None}))
    assert ClientKey.objects.get(pk=made["id"]).expires_at is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": ["x"]}, "name"),
        ({"scopes": ["fly"]}, "scopes"),
        ({"scopes": "chat"}, "scopes"),
        ({"scopes": '{"chat": 1}'}, "scopes"),
        ({"scopes": '["\\u0000"]'}, "scopes"),
        ({"scopes": "[" * 100_000}, "scopes"),
        ({"scopes": [1, [2]]}, "scopes[0]"),
        ({"tags": "a"}, "tags"),
        ({"tags": [{}]}, "tags[0]"),
        ({"allowed_models": [""]}, "allowed_models[0]"),
        ({"enabled": "perhaps"}, "enabled"),
        ({"expires_in": "soon"}, "expires_in"),
        ({"expires_in": "0s"}, "expires_in"),
        ({"expires_in": "999999999999d"}, "expires_in"),
        ({"expires_in": 5}, "expires_in"),
        ({"expires_in": "1h", "expires_at": "2031-01-01T00:00:00Z"}, "expires_in"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-23:00"}, "expires_at"),
        ({"digest": "x"}, "digest"),
        ({"surprise": 1}, "surprise"),
        ({"rate_limit_burst": 5}, "rate_limit_burst"),
    ],
)
def test_a_wrong_field_is_named(api: Api, fields: dict[str, Any], param: str) -> None:
    refused(api.post("apikeys", {"name": "shop", **fields}), "invalid_request", param)
    assert not ClientKey.objects.exists()
    made = new(api)
    refused(api.patch(f"apikeys/{made['id']}", fields), "invalid_request", param)


def test_a_key_needs_a_name(api: Api) -> None:
    refused(api.post("apikeys"), "invalid_request", "name")


def test_a_change_leaves_the_key_itself_alone(api: Api) -> None:
    made = new(api)
    shown = ok(api.patch(f"apikeys/{made['id']}", {"enabled": False, "scopes": []}))
    assert (shown["enabled"], shown["scopes"], shown["key_prefix"]) == (False, [], made["prefix"])
    assert known(made["key"])


def test_a_rotated_key_has_a_new_secret_and_the_same_id(api: Api) -> None:
    made = new(api, owner="ann")
    rotated = ok(api.post(f"apikeys/{made['id']}/rotate"))
    assert rotated["id"] == made["id"]
    assert (known(made["key"]), known(rotated["key"])) == (False, True)
    assert ok(api.get(f"apikeys/{made['id']}"))["owner"] == "ann"
    refused(api.post(f"apikeys/{made['id']}/rotate", {"surprise": 1}), "invalid_request", "surprise")
    assert known(rotated["key"])


def test_a_deleted_key_is_gone(api: Api) -> None:
    made = new(api)
    assert ok(api.delete(f"apikeys/{made['id']}")) == {"ok": True}
    assert not known(made["key"])


@pytest.mark.parametrize("key", ["00000000-0000-4000-8000-000000000000", "nonsense", "1", "%00", "a/b"])
def test_a_key_that_is_not_there_is_a_404(api: Api, key: str) -> None:
    for answer in (api.get(f"apikeys/{key}"), api.patch(f"apikeys/{key}", {}), api.delete(f"apikeys/{key}")):
        refused(answer, "not_found")
    refused(api.post(f"apikeys/{key}/rotate"), "not_found")
