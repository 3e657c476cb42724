"""Who may log in, how often one may guess, and what a session is made of."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from tests.support.gateway import ROOT, environment
from tokenhub import login as links
from tokenhub.models import LoginLink

pytestmark = pytest.mark.django_db
PASSWORD = "the right and long one"
HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture(autouse=True)
def root(settings: Settings) -> User:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    return User.objects.create_superuser("root", password=PASSWORD)


def log_in(password: str = PASSWORD, *, name: str = "root", address: str = HERE, **headers: str) -> Any:
    values = {"username": name, "password": password}
    return Client().post(reverse("admin:login"), values, REMOTE_ADDR=address, headers=headers)


def guess(times: int = 10, **how: Any) -> Any:
    return [log_in("wrong", **how) for _ in range(times)][-1]


def test_a_login_that_came_from_nowhere_ends_at_the_overview() -> None:
    assert log_in()["Location"] == reverse("admin:index")


def test_the_tenth_wrong_password_locks_that_name_out_from_that_address() -> None:
    assert guess(9).status_code == 200
    answer = guess(1)
    assert (answer.status_code, answer["Retry-After"]) == (429, "900")
    assert "Too many wrong passwords" in answer.content.decode()
    assert log_in().status_code == 429


def test_from_elsewhere_and_by_another_name_one_may_still_log_in() -> None:
    User.objects.create_superuser("other", password=PASSWORD)
    guess()
    assert log_in(address=ELSEWHERE).status_code == 302
    assert log_in(name="other").status_code == 302


def test_the_lock_ends_by_itself() -> None:
    guess()
    past = timezone.now() - timedelta(minutes=16)
    AccessAttempt.objects.update(attempt_time=past)
    assert log_in().status_code == 302


def test_a_right_password_forgets_the_wrong_ones() -> None:
    guess(9)
    assert log_in().status_code == 302
    assert guess(9).status_code == 200


def test_nobody_escapes_the_lock_by_a_made_up_forwarded_address() -> None:
    for number in range(10):
        answer = log_in("wrong", x_forwarded_for=f"198.51.100.{number}")
    assert answer.status_code == 429


def test_what_is_kept_of_a_wrong_password_is_not_the_password() -> None:
    log_in("a password of another service")
    row = AccessAttempt.objects.get()
    assert "another service" not in "".join(str(getattr(row, field.attname)) for field in row._meta.fields)


def test_a_session_s_cookie_is_out_of_reach_of_scripts_and_of_other_sites_and_ends_within_a_day() -> None:
    cookie = log_in().cookies["sessionid"]
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    assert int(cookie["max-age"]) <= 86_400


@pytest.mark.parametrize(
    ("url", "secure"), [("https://hub.example.com", "True True"), ("http://10.0.0.1", "False False")]
)
def test_cookies_are_secure_where_people_come_by_https(url: str, secure: str, tmp_path: Path) -> None:
    asked = "import tokenhub.settings as s; print(s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE)"
    env = environment(tmp_path, {"TOKENHUB_PUBLIC_URL": url})
    done = subprocess.run([sys.executable, "-c", asked], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == secure


def test_the_first_password_ends_all_login_links_that_are_out(root: User) -> None:
    root.set_unusable_password()
    root.save()
    used, other = links.new_link(), links.new_link()
    client = Client()
    assert client.post(reverse("login-link", args=[used]))["location"] == reverse("first-password")
    assert links.is_valid(other)
    values = {"new_password1": PASSWORD, "new_password2": PASSWORD}
    assert client.post(reverse("first-password"), values).status_code == 302
    assert not links.is_valid(other)
    assert LoginLink.objects.filter(used_at=None).count() == 0
    assert Client().post(reverse("login-link", args=[other])).status_code == 410


def test_a_first_password_is_for_sessions_that_a_login_link_opened(root: User) -> None:
    root.set_unusable_password()
    root.save()
    client = Client()
    client.force_login(root)
    values = {"new_password1": PASSWORD, "new_password2": PASSWORD}
    assert client.get(reverse("first-password")).status_code == 403
    assert client.post(reverse("first-password"), values).status_code == 403
    root.refresh_from_db()
    assert not root.has_usable_password()


@pytest.mark.parametrize(("name", "other"), [("root", "ROOT"), ("root", "Root"), ("ri", "r\u0131")])
def test_another_spelling_of_a_name_has_no_guesses_of_its_own(name: str, other: str) -> None:
    guess(9, name=name)
    assert guess(1, name=other).status_code == 429
    assert guess(1, name=name).status_code == 429
