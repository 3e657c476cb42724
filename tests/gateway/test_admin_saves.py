"""Two people who save one form at the same moment: one of them is told, whichever worker each of them reached."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.admin.forms import Values, form_in
from tests.support import postgres
from tests.support.gateway import Gateway

PASSWORD = "a superuser's password"
PAGE = "/admin/keys/project/team/change/"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    """Of two workers, with the project `team`."""
    if request.param == "sqlite":
        with _made(tmp_path, {}) as found:
            yield found
        return
    if reason := postgres.why_not():
        pytest.skip(reason)
    with (
        postgres.Postgres(migrated=True) as database,
        _made(tmp_path, {"TOKENHUB_DATABASE_URL": database.url}) as found,
    ):
        yield found


def _made(folder: Path, env: dict[str, str]) -> Gateway:
    gateway = Gateway(folder, env=env, workers=2)
    gateway.configure(superusers=[{"username": "root", "email": "root@example.com", "password": PASSWORD}])
    return gateway


def cookies_of(gateway: Gateway) -> dict[str, str]:
    """Of somebody who is logged in."""
    url = f"{gateway.base}/admin/login/"
    with httpx.Client(timeout=60) as client:
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', client.get(url).text)
        assert token is not None
        sent = {"username": "root", "password": PASSWORD, "csrfmiddlewaretoken": token[1]}
        assert client.post(url, data=sent, headers={"Referer": url}).status_code == 302
        return dict(client.cookies)


def _form(client: httpx.Client, url: str, holding: str) -> Values:
    found = form_in(client.get(url).text, holding=holding)
    assert found is not None
    return found


def test_of_those_who_save_at_once_one_is_heard_and_the_others_are_told(gateway: Gateway) -> None:
    cookies = cookies_of(gateway)
    with httpx.Client(base_url=gateway.base, cookies=cookies, timeout=60) as client:
        add = "/admin/keys/project/add/"
        page = _form(client, add, "name")
        headers = {"Referer": f"{gateway.base}{add}"}
        assert client.post(add, data={**page, "name": "team"}, headers=headers).status_code == 302
        page = _form(client, PAGE, "_version")

        def save(number: int) -> httpx.Response:
            with httpx.Client(base_url=gateway.base, cookies=cookies, timeout=60) as one:
                return one.post(PAGE, data={**page, "description": f"by {number}"}, headers=headers)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(save, range(8)))
        saved = [number for number, answer in enumerate(answers) if answer.status_code == 302]
        stored = _form(client, PAGE, "_version")["description"]
    assert len(saved) == 1
    assert stored == [f"by {saved[0]}"]
    assert ["Not saved" in answer.text for answer in answers].count(True) == 7
