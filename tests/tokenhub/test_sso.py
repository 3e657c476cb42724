"""Logins by an OpenID Connect provider, and a second factor: a real server, and a provider of our own on loopback."""

from __future__ import annotations

import base64
import hmac
import json
import re
import struct
import threading
import time
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from tests.support.gateway import Gateway, run_manage

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


@pytest.mark.parametrize("path", ["signup/", "email/", "password/reset/", "password/change/", "3rdparty/signup/"])
def test_nobody_signs_up_and_no_password_goes_by_mail(path: str, person: httpx.Client) -> None:
    assert person.get(f"/accounts/{path}").status_code == 404


def code(secret: str) -> str:
    """RFC 6238."""
    digest = hmac.digest(base64.b32decode(secret), struct.pack(">Q", int(time.time()) // 30), sha1)
    place = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[place : place + 4])[0] & 0x7FFFFFFF) % 10**6:06}"


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
