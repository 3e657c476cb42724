"""Who may use the admin API: the token's holder, and staff as far as their permissions go."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.http import HttpRequest
from django.test import Client
from django.urls import URLPattern
from pytest_django import Settings

from keys import services as keys
from tests.adminapi.api import Api, ok, refused
from tokenhub import admin_token, login
from tokenhub.api import urlpatterns

pytestmark = pytest.mark.django_db
Staff = Callable[..., Api]

ROUTES = [str(one.pattern).replace("<path:id>", "x").replace("<str:id>", "x") for one in urlpatterns]
PROTECTED = [route for route in ROUTES if route not in {"session", "docs"}]
RIGHTS = {
    "providers": "providers.view_provider",
    "models": "routing.view_model",
    "aliases": "routing.view_alias",
    "profiles": "routing.view_routingprofile",
    "apikeys": "keys.view_clientkey",
    "engine/models": "routing.view_model",
    "health": "providers.view_provider",
    "logs": "telemetry.view_requestlog",
    "events": "telemetry.view_requestlog",
}


def test_every_route_is_looked_at() -> None:
    assert all(isinstance(one, URLPattern) for one in urlpatterns)
    assert len(PROTECTED) > 20


@pytest.mark.parametrize("path", PROTECTED)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
def test_nobody_gets_anything_without_token_or_session(nobody: Api, path: str, method: str) -> None:
    answer = nobody.call(method, path)
    refused(answer, "missing_api_key")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", PROTECTED)
def test_a_user_who_is_no_staff_gets_nothing(staff: Staff, path: str) -> None:
    refused(staff(is_staff=False).get(path), "permission_denied")


@pytest.mark.parametrize("path", RIGHTS)
def test_staff_see_what_they_may_view_and_no_more(staff: Staff, path: str) -> None:
    refused(staff().get(path), "permission_denied")
    ok(staff(RIGHTS[path]).get(path))


def test_who_may_change_may_look(staff: Staff) -> None:
    ok(staff("providers.change_provider").get("providers"))


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("POST", "providers", "providers.view_provider"),
        ("POST", "models", "routing.add_model"),  # it might change one, too
        ("PATCH", "models/x", "routing.view_model"),
        ("DELETE", "models/x", "routing.change_model"),
        ("PUT", "aliases/x", "routing.view_alias"),
        ("POST", "apikeys", "keys.view_clientkey"),
        ("POST", "apikeys/x/rotate", "keys.add_clientkey"),
        ("POST", "vault/unlock", "vault.change_vaultstate"),
        ("POST", "vault/lock", "vault.change_vaultstate"),
        ("GET", "vault/secrets", "vault.view_secret"),
        ("PUT", "vault/secrets/x", "vault.change_secret"),
        ("POST", "admin-token/rotate", "auth.change_user"),
    ],
)
def test_a_right_is_not_enough_for_more(staff: Staff, method: str, path: str, right: str) -> None:
    refused(staff(right).call(method, path, {}), "permission_denied")


def test_a_session_needs_the_csrf_token_to_change_anything(db: None) -> None:
    user = User.objects.create_superuser("boss", password="x")
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    session = Api(client=client)
    ok(session.get("providers"))
    error = refused(session.post("vault/lock"), "permission_denied")
    assert "CSRF" in error["message"]


def test_whoever_has_been_dismissed_gets_nothing(staff: Staff) -> None:
    clerk = staff("providers.view_provider")
    User.objects.update(is_active=False)
    refused(clerk.get("providers"), "missing_api_key")


# -- the token -----------------------------------------------------------------------------------------------------
def test_the_token_is_made_once_for_its_owner_alone(data_folder: Path) -> None:
    token = admin_token.current()
    file = data_folder / "admin-token"
    assert file.read_text().strip() == token == admin_token.current()
    assert len(token) == len("tokenhub_admin_") + 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [one.name for one in data_folder.iterdir()] == ["admin-token"]


def test_an_empty_file_is_no_token(data_folder: Path, nobody: Api) -> None:
    (data_folder / "admin-token").write_text("\n")
    refused(nobody.call("GET", "info", authorization="Bearer "), "invalid_api_key")
    assert (data_folder / "admin-token").read_text().startswith("tokenhub_admin_")


def test_a_file_that_others_may_read_is_closed_at_the_start(data_folder: Path) -> None:
    admin_token.current()
    (data_folder / "admin-token").chmod(0o644)
    admin_token.prepare()
    assert stat.S_IMODE((data_folder / "admin-token").stat().st_mode) == 0o600


def test_the_environment_goes_before_the_file(settings: Settings, data_folder: Path) -> None:
    settings.TOKENHUB_ADMIN_TOKEN = "chosen-by-the-operator"
    ok(Api("chosen-by-the-operator").get("info"))
    admin_token.prepare()
    assert not (data_folder / "admin-token").exists()


@pytest.mark.parametrize("header", ["Bearer", "Bearer nonsense", "bearer \xe9\xff", "Bearer " + "a" * 5000])
def test_a_wrong_token_is_refused(nobody: Api, header: str) -> None:
    refused(nobody.call("GET", "info", authorization=header), "invalid_api_key")


def test_a_client_key_is_no_admin_token(nobody: Api) -> None:
    key = keys.issue(name="shop").plaintext
    refused(nobody.call("GET", "info", authorization=f"Bearer {key}"), "invalid_api_key")


def test_a_wrong_token_is_refused_even_beside_a_session(staff: Staff) -> None:
    clerk = staff("providers.view_provider")
    refused(clerk.call("GET", "providers", authorization="Bearer wrong"), "invalid_api_key")


def test_guessing_is_slowed_down_for_that_address_alone(api: Api, nobody: Api, staff: Staff) -> None:
    for _ in range(admin_token.FREE_FAILURES):
        refused(nobody.call("GET", "info", authorization="Bearer wrong"), "invalid_api_key")
    answer = nobody.call("GET", "info", authorization="Bearer wrong")
    refused(answer, "rate_limit_exceeded")
    assert 1 <= int(answer.headers["Retry-After"]) <= 5
    refused(nobody.post("session", {"token": "wrong"}), "rate_limit_exceeded")
    refused(api.get("info"), "rate_limit_exceeded")  # or the right guess would stand out
    ok(staff("providers.view_provider").get("providers"))
    elsewhere = api.client.get("/admin/v1/info", headers=api.headers, REMOTE_ADDR="192.0.2.1")
    ok(elsewhere)


def test_the_throttle_forgives_and_stays_small() -> None:
    throttle = admin_token.Throttle()
    for _ in range(admin_token.FREE_FAILURES):
        throttle.check("a", 100.0)
        throttle.failed("a", 100.0)
    with pytest.raises(admin_token.TooManyFailures) as caught:
        throttle.check("a", 100.0)
    assert caught.value.retry_after_seconds == admin_token.SECONDS_PER_FAILURE
    throttle.check("a", 100.0 + admin_token.SECONDS_PER_FAILURE)
    for number in range(2 * admin_token.MAX_ADDRESSES):
        throttle.failed(f"address {number}", 100.0)
    assert len(throttle._owed) <= admin_token.MAX_ADDRESSES


def test_no_token_reaches_the_log(api: Api, nobody: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    secrets = [api.headers["authorization"][7:], "a-wrong-one"]
    nobody.call("GET", "info", authorization="Bearer a-wrong-one")
    nobody.post("session", {"token": "a-wrong-one"})
    ok(nobody.post("session", {"token": secrets[0]}))
    secrets.append(ok(api.post("admin-token/rotate"))["token"])
    lines = [f"{record.getMessage()} {getattr(record, 'data', '')}" for record in caplog.records]
    assert sum("admin_token_refused" in line for line in lines) == 2
    assert any("admin_api " in line and "'actor': 'admin-token'" in line for line in lines)
    assert not [line for line in lines for secret in secrets if secret in line]


def test_a_trusted_proxy_tells_the_address(settings: Settings) -> None:
    settings.TOKENHUB_TRUSTED_PROXIES = ("127.0.0.1",)
    admin_token._trusted.cache_clear()
    try:
        for number in range(12):
            for _ in range(3):
                header = {"authorization": "Bearer wrong", "x-forwarded-for": f"1.2.3.4, 198.51.100.{number}"}
                refused(Api().call("GET", "info", **header), "invalid_api_key")
    finally:
        admin_token._trusted.cache_clear()


# -- sessions ------------------------------------------------------------------------------------------------------
def session(token: str) -> tuple[Api, Any]:
    client = Client(enforce_csrf_checks=True)
    opened = ok(Api(client=client).post("session", {"token": token}))
    return Api(client=client), opened


def test_the_token_opens_a_session_as_admin(api: Api) -> None:
    opened, answer = session(admin_token.current())
    assert (answer["ok"], answer["user"]) == (True, "admin-token")
    ok(opened.get("info"))
    assert opened.client.get("/admin/").status_code == 200
    user = User.objects.get(username="admin-token")
    assert (user.is_superuser, user.has_usable_password()) == (True, False)
    refused(opened.post("vault/lock"), "permission_denied")
    ok(opened.call("POST", "vault/lock", x_csrftoken=answer["csrf_token"]))


@pytest.mark.parametrize("token", ["wrong", "", None, 5, ["x"]])
def test_no_session_without_the_token(nobody: Api, token: object) -> None:
    answer = nobody.post("session", {"token": token})
    assert answer.status_code in {400, 401}
    assert not Session.objects.exists()
    assert not User.objects.exists()


def test_a_person_still_gets_the_login_link(api: Api) -> None:
    session(admin_token.current())
    assert login.ensure_admin().username == login.ADMIN_NAME


def test_a_new_token_ends_the_old_one_and_its_sessions(api: Api, staff: Staff, data_folder: Path) -> None:
    opened, _ = session(admin_token.current())
    clerk = staff("providers.view_provider")
    fresh = ok(api.post("admin-token/rotate"))["token"]
    assert (data_folder / "admin-token").read_text().strip() == fresh
    assert stat.S_IMODE((data_folder / "admin-token").stat().st_mode) == 0o600
    refused(api.get("info"), "invalid_api_key")
    refused(opened.get("info"), "missing_api_key")
    assert opened.client.get("/admin/").status_code == 302
    ok(clerk.get("providers"))
    ok(Api(fresh).get("info"))


def test_a_password_set_for_the_tokens_user_ends_with_the_token(api: Api) -> None:
    session(admin_token.current())
    user = User.objects.get(username="admin-token")
    user.set_password("a way to stay")
    user.save()
    ok(api.post("admin-token/rotate"))
    assert authenticate(HttpRequest(), username="admin-token", password="a way to stay") is None


def test_a_token_that_was_exchanged_by_hand_ends_sessions_at_the_next_start(data_folder: Path) -> None:
    opened, _ = session(admin_token.current())
    (data_folder / "admin-token").write_text("another\n")
    admin_token.prepare()
    refused(opened.get("info"), "missing_api_key")


def test_a_token_of_the_environment_is_rotated_there(settings: Settings) -> None:
    settings.TOKENHUB_ADMIN_TOKEN = "chosen-by-the-operator"
    error = refused(Api("chosen-by-the-operator").post("admin-token/rotate"), "conflict")
    assert "TOKENHUB_ADMIN_TOKEN" in error["hint"]
