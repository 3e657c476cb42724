"""Logins by an OpenID Connect provider, and a second factor: a real server, and a provider of our own on loopback."""

from __future__ import annotations

import base64
import hmac
import json
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from tests.support.gateway import Gateway, run_manage
from tokenhub import admin_token, login, sso_settings

pytest.importorskip("allauth", reason="the extra sso is not installed")
PASSWORD = "a superuser's password"


class IdentityProvider:
    """Logs in whoever comes, as `person`."""

    def __init__(self) -> None:
        self.person: dict[str, Any] = {"sub": "1", "preferred_username": "ann", "groups": []}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                if parts.path == "/authorize":
                    asked = parse_qs(parts.query)
                    self.send_response(302)
                    back = urlencode({"code": "c", "state": asked["state"][0]})
                    self.send_header("Location", f"{asked['redirect_uri'][0]}?{back}")
                    self.end_headers()
                elif parts.path == "/userinfo":
                    assert self.headers["Authorization"] == "Bearer t"
                    self._say(outer.person)
                else:
                    self._say({
                        "issuer": outer.url, "authorization_endpoint": f"{outer.url}/authorize",
                        "token_endpoint": f"{outer.url}/token", "userinfo_endpoint": f"{outer.url}/userinfo",
                    })  # fmt: skip

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self._say({"access_token": "t", "token_type": "Bearer"})

            def _say(self, document: dict[str, Any]) -> None:
                body = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    made = IdentityProvider()
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, provider: IdentityProvider) -> Iterator[Gateway]:
    env = {
        "TOKENHUB_OIDC_ISSUER": f"{provider.url}/realms/main",
        "TOKENHUB_OIDC_CLIENT_ID": "hub",
        "TOKENHUB_OIDC_CLIENT_SECRET": "s",
        "TOKENHUB_OIDC_ROLES": "llm-admins=superuser,devs=Viewer",
        "TOKENHUB_SECOND_FACTOR": "true",
        "TOKENHUB_TRUSTED_PROXIES": "127.0.0.0/8",
    }
    made = Gateway(tmp_path_factory.mktemp("sso") / "data", env=env)
    run_manage("migrate", "--verbosity", "0", folder=made.folder, env=env)
    name = ("createsuperuser", "--noinput", "--username", "root", "--email", "root@example.com")
    run_manage(*name, folder=made.folder, env={**env, "DJANGO_SUPERUSER_PASSWORD": PASSWORD})
    with made:
        yield made


@pytest.fixture
def person(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.base, follow_redirects=True, trust_env=False, timeout=60) as made:
        yield made


def come_in(person: httpx.Client) -> httpx.Response:
    return person.get("/accounts/oidc/sso/login/?next=/admin/")


def token_in(page: httpx.Response) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert found is not None, page.text[:2000]
    return found[1]


def post(person: httpx.Client, page: httpx.Response, path: str, **values: str) -> httpx.Response:
    headers = {"Referer": str(page.url)}
    return person.post(path, data={"csrfmiddlewaretoken": token_in(page), **values}, headers=headers)


def test_the_login_page_offers_the_provider_and_a_password(person: httpx.Client) -> None:
    page = person.get("/admin/")
    assert page.url.path == "/accounts/login/"
    assert "Single sign-on" in page.text
    assert "script-src" in page.headers["Content-Security-Policy"]
    assert "sign up" not in page.text.lower()
    assert "/password/" not in page.text


def test_whoever_is_in_a_named_group_comes_in_with_its_role_and_without_it_no_longer(
    person: httpx.Client, gateway: Gateway, provider: IdentityProvider
) -> None:
    provider.person = {"sub": "7", "preferred_username": "ann", "groups": ["devs", "others"]}
    assert come_in(person).url.path == "/admin/"
    assert person.get("/admin/providers/provider/").status_code == 200
    assert person.get("/admin/vault/vaultstate/").status_code == 403
    provider.person |= {"groups": ["llm-admins"]}
    with httpx.Client(base_url=gateway.base, follow_redirects=True, trust_env=False, timeout=60) as again:
        come_in(again)
        assert again.get("/admin/vault/vaultstate/").status_code == 200
    provider.person |= {"groups": []}
    with httpx.Client(base_url=gateway.base, follow_redirects=True, trust_env=False, timeout=60) as gone:
        answer = come_in(gone)
        assert answer.url.path == "/accounts/login/"
    assert person.get("/admin/providers/provider/").status_code == 403
    people = gateway.query("SELECT username, is_staff, is_superuser FROM auth_user WHERE username = 'ann'")
    assert people == [{"username": "ann", "is_staff": 0, "is_superuser": 0}]


def test_a_stranger_is_not_even_made_a_user_and_takes_over_nobody(
    person: httpx.Client, gateway: Gateway, provider: IdentityProvider
) -> None:
    provider.person = {"sub": "8", "preferred_username": "mallory", "email": "root@example.com", "groups": "others"}
    assert come_in(person).url.path == "/accounts/login/"
    assert person.get("/admin/").url.path == "/accounts/login/"
    provider.person |= {"groups": "devs", "preferred_username": "root", "email_verified": True}
    come_in(person)
    assert person.get("/admin/vault/vaultstate/").status_code == 403
    assert gateway.query("SELECT count(*) n FROM auth_user WHERE is_superuser AND username = 'root'") == [{"n": 1}]


@pytest.mark.parametrize(
    "path",
    [
        "signup/",
        "email/",
        "password/reset/",
        "password/change/",
        "password/set/",
        "3rdparty/signup/",
        "3rdparty/",
        "3rdparty/login/",
        "social/connections/",
    ],
)
def test_nobody_signs_up_or_joins_accounts_and_no_password_goes_by_mail(path: str, person: httpx.Client) -> None:
    assert person.get(f"/accounts/{path}").status_code == 404


@pytest.mark.parametrize("path", ["cancelled/", "error/"])
def test_a_login_that_failed_at_the_provider_still_has_its_page(path: str, person: httpx.Client) -> None:
    page = person.get(f"/accounts/3rdparty/login/{path}")
    assert page.url.path == f"/accounts/3rdparty/login/{path}"
    assert page.status_code != 404


def test_whom_the_provider_lets_in_gives_himself_no_password(
    person: httpx.Client, gateway: Gateway, provider: IdentityProvider
) -> None:
    provider.person = {"sub": "11", "preferred_username": "cleo", "groups": ["llm-admins"]}
    assert come_in(person).url.path == "/admin/"
    assert person.get("/first-password/").status_code == 403
    values = {"new_password1": "one that would last", "new_password2": "one that would last"}
    assert post(person, person.get("/admin/password_change/"), "/first-password/", **values).status_code == 403
    (row,) = gateway.query("SELECT password FROM auth_user WHERE username = 'cleo'")
    assert row["password"].startswith("!")


@pytest.mark.parametrize("name", sso_settings.RESERVED_NAMES)
def test_a_name_that_makes_superusers_is_for_nobody_of_the_provider(
    name: str, person: httpx.Client, gateway: Gateway, provider: IdentityProvider
) -> None:
    provider.person = {"sub": f"of {name}", "preferred_username": name.title(), "groups": ["devs"]}
    assert come_in(person).url.path == "/admin/"
    assert person.get("/admin/vault/vaultstate/").status_code == 403
    sql = "SELECT username FROM auth_user u JOIN socialaccount_socialaccount s ON s.user_id = u.id WHERE s.uid = ?"
    (row,) = gateway.query(sql, f"of {name}")
    assert row["username"].lower() not in sso_settings.RESERVED_NAMES


def test_the_reserved_names_are_those_that_make_superusers() -> None:
    assert set(sso_settings.RESERVED_NAMES) == {login.ADMIN_NAME, admin_token.USER_NAME}


@pytest.fixture
def intruder(person: httpx.Client, gateway: Gateway, provider: IdentityProvider) -> Iterator[Callable[[str], None]]:
    """Gives somebody of the provider a reserved name, as an earlier version did."""
    provider.person = {"sub": "13", "preferred_username": "eve", "groups": ["devs"]}
    assert come_in(person).url.path == "/admin/"
    (row,) = gateway.query("SELECT user_id FROM socialaccount_socialaccount WHERE uid = '13'")

    def named(name: str) -> None:
        gateway.execute("UPDATE auth_user SET username = ? WHERE id = ?", name, row["user_id"])

    yield named
    named("eve")


def test_the_admin_token_opens_no_session_of_somebody_of_the_provider(
    person: httpx.Client, gateway: Gateway, intruder: Callable[[str], None]
) -> None:
    intruder(admin_token.USER_NAME)
    token = (gateway.folder / admin_token.FILE_NAME).read_text().strip()
    with httpx.Client(base_url=gateway.base, trust_env=False, timeout=60) as operator:
        answer = operator.post("/admin/v1/session", json={"token": token})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
        intruder("eve")
        assert operator.post("/admin/v1/session", json={"token": token}).status_code == 200
    assert person.get("/admin/vault/vaultstate/").status_code == 403


def test_a_login_link_makes_a_superuser_of_its_own_beside_one_of_the_provider(
    gateway: Gateway, intruder: Callable[[str], None]
) -> None:
    intruder(login.ADMIN_NAME)
    others = [row["id"] for row in gateway.query("SELECT id FROM auth_user WHERE is_superuser")]
    gateway.execute("UPDATE auth_user SET is_superuser = 0")
    gateway.execute(
        "INSERT INTO tokenhub_loginlink (digest, expires_at) VALUES (?, '2999-01-01')", sha256(b"link").hexdigest()
    )
    try:
        with httpx.Client(base_url=gateway.base, follow_redirects=True, trust_env=False, timeout=60) as operator:
            page = operator.get("/login-link/link/")
            assert post(operator, page, "/login-link/link/").url.path == "/first-password/"
        names = gateway.query("SELECT username FROM auth_user WHERE is_superuser")
        assert names == [{"username": f"{login.ADMIN_NAME}-2"}]
    finally:
        for one in others:
            gateway.execute("UPDATE auth_user SET is_superuser = 1 WHERE id = ?", one)


def test_an_identity_is_joined_to_no_account_from_here(
    person: httpx.Client, gateway: Gateway, provider: IdentityProvider
) -> None:
    provider.person = {"sub": "17", "preferred_username": "root", "groups": ["devs"]}
    page = person.get("/accounts/login/")
    assert post(person, page, "/accounts/login/?next=/admin/", login="root", password=PASSWORD).url.path == "/admin/"
    for process in ("connect", "redirect"):
        assert person.get(f"/accounts/oidc/sso/login/?process={process}&next=/admin/").status_code == 403
    assert person.get("/admin/vault/vaultstate/").status_code == 200
    assert gateway.query("SELECT count(*) n FROM socialaccount_socialaccount WHERE uid = '17'") == [{"n": 0}]


def test_wrong_passwords_lock_a_name_out_from_one_address_behind_the_proxy_however_it_is_spelled(
    person: httpx.Client, gateway: Gateway
) -> None:
    page = person.get("/accounts/login/")

    def guess(name: str, password: str, address: str) -> httpx.Response:
        person.headers["X-Forwarded-For"] = address
        return post(person, page, "/accounts/login/?next=/admin/", login=name, password=password)

    for name in ("root", "ROOT", "Root", "root", "ROOT", "root"):
        answer = guess(name, "wrong", "192.0.2.1")
        assert "not correct" in answer.text
    (counted,) = gateway.query("SELECT * FROM axes_accessattempt WHERE username = 'root'")
    assert (counted["failures_since_start"], counted["ip_address"]) == (6, "192.0.2.1")
    gateway.execute("UPDATE axes_accessattempt SET failures_since_start = 9")  # each guess costs a hash
    assert guess("rooT", "wrong", "192.0.2.1").status_code == 429
    assert guess("root", PASSWORD, "192.0.2.1").status_code == 429
    assert guess("root", PASSWORD, "192.0.2.2").url.path == "/admin/"


def code(secret: str) -> str:
    """RFC 6238."""
    digest = hmac.digest(base64.b32decode(secret), struct.pack(">Q", int(time.time()) // 30), sha1)
    place = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[place : place + 4])[0] & 0x7FFFFFFF) % 10**6:06}"


def test_the_pages_of_a_second_factor_are_buttons_that_lead_somewhere_and_back(person: httpx.Client) -> None:
    page = person.get("/accounts/login/")
    post(person, page, "/accounts/login/?next=/admin/", login="root", password=PASSWORD)
    for path in (
        "/accounts/2fa/",
        "/accounts/reauthenticate/",
        "/accounts/2fa/recovery-codes/generate/",
        "/accounts/logout/",
    ):
        shown = person.get(path)
        assert 'class="th-act' in shown.text, path
        assert 'href="/admin/"' in shown.text, path
        for address in set(re.findall(r'href="(/accounts/[^"#]*)"', shown.text)):
            assert person.get(address).status_code == 200, f"{path} leads to {address}"


def test_who_asked_for_a_second_factor_is_asked_for_it(person: httpx.Client, gateway: Gateway, tmp_path: Path) -> None:
    page = person.get("/accounts/login/")
    inside = post(person, page, "/accounts/login/?next=/admin/", login="root", password=PASSWORD)
    assert inside.url.path == "/admin/"
    (session,) = (one for one in person.cookies.jar if one.name == "sessionid")
    assert session.expires is not None
    assert session.expires < time.time() + 86_400
    page = person.get("/accounts/2fa/totp/activate/")
    assert page.url.path == "/accounts/reauthenticate/"
    page = post(person, page, "/accounts/reauthenticate/?next=/accounts/2fa/totp/activate/", password=PASSWORD)
    secret = re.search(r'value="([A-Z2-7]{32})"', page.text)
    assert secret is not None, page.text[:3000]
    assert "recovery" in post(person, page, "/accounts/2fa/totp/activate/", code=code(secret[1])).url.path
    gateway.execute("DELETE FROM django_session")
    person.cookies.clear()
    page = person.get("/accounts/login/")
    half = post(person, page, "/accounts/login/?next=/admin/", login="root", password=PASSWORD)
    assert half.url.path == "/accounts/2fa/authenticate/"
    assert person.get("/admin/").url.path.startswith("/accounts/")
    codes = person.get("/accounts/2fa/authenticate/")
    assert post(person, codes, "/accounts/2fa/authenticate/", code="000000").url.path == "/accounts/2fa/authenticate/"
