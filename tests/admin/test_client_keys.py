"""Client keys in the admin and on the command line: shown once, then known by their digest only."""

from __future__ import annotations

import re
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from keys import services
from keys.auth import digest_of
from keys.models import ClientKey
from tests.admin.forms import errors, submit, text, values

pytestmark = pytest.mark.django_db

WHOLE_KEY = re.compile(r"tokenhub_[0-9a-f]{64}")
LIST = reverse("admin:keys_clientkey_changelist")
ADD = reverse("admin:keys_clientkey_add")


def page(name: str, key: ClientKey) -> str:
    return reverse(f"admin:keys_clientkey_{name}", args=[key.pk])


def shown_key(answer: Any) -> str:
    """The one key that the page shows."""
    assert answer.status_code == 200
    (found,) = set(WHOLE_KEY.findall(text(answer)))
    return str(found)


def add(client: Client, **fields: Any) -> Any:
    return submit(client, ADD, holding="owner", **{"name": "shop", **fields})


def known(key: str) -> ClientKey | None:
    """Whom the data plane would find."""
    return ClientKey.objects.filter(digest=digest_of(key.encode())).first()


@pytest.fixture
def issued() -> services.IssuedKey:
    return services.issue(name="shop", owner="ann")


# -- what is refused -------------------------------------------------------------------------------------------------
def test_a_new_key_cannot_have_expired_while_an_old_one_may_be_ended_so(
    issued: services.IssuedKey, admin_client: Client
) -> None:
    over = {"expires_at_0": "2020-01-01", "expires_at_1": "00:00:00"}
    refused = add(admin_client, name="late", **over)
    assert "never work" in "".join(errors(refused)["expires_at"])
    assert 'value="2020-01-01"' in text(refused)
    assert submit(admin_client, page("change", issued.record), holding="owner", **over).status_code == 302
    assert [key.name for key in ClientKey.objects.all()] == ["shop"]


# -- shown once ------------------------------------------------------------------------------------------------------
def test_a_key_is_shown_in_the_answer_that_made_it_which_nobody_may_store(admin_client: Client) -> None:
    answer = add(admin_client)
    key = shown_key(answer)
    record = known(key)
    assert (record is not None and record.name) == "shop"
    assert "no-store" in answer["Cache-Control"]
    assert "http://testserver/v1" in text(answer)


def test_a_key_is_never_shown_again_nor_kept_in_session_message_log_or_table(
    admin_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = add(admin_client)
    key, record = shown_key(answer), ClientKey.objects.get()
    urls = [
        LIST,
        ADD,
        reverse("admin:index"),
        *(page(name, record) for name in ("change", "history", "delete", "rotate")),
    ]
    places = [text(admin_client.get(url)) for url in urls]
    places += [str(one.get_decoded()) for one in Session.objects.all()]
    places += [f"{one.object_repr} {one.change_message}" for one in LogEntry.objects.all()]
    places += [str(ClientKey.objects.values().get()), str(answer.cookies), caplog.text]
    assert [place for place in places if key in place or key[len("tokenhub_") + 8 :] in place] == []
    assert record.key_prefix in places[0]


def test_what_was_chosen_is_kept(admin_client: Client) -> None:
    shown_key(
        add(
            admin_client, owner="ann", project="web", tags="a, b\nb", scopes=["chat"], allowed_models="m/1\nm-2",
            allow_fallback=[], expires_at_0="2031-01-02", expires_at_1="03:04:05",
        )
    )  # fmt: skip
    key = ClientKey.objects.get()
    assert (key.owner, key.project, key.tags, key.scopes) == ("ann", "web", ["a", "b"], ["chat"])
    assert (key.allowed_models, key.allow_fallback, key.enabled) == (["m/1", "m-2"], False, True)
    assert f"{key.expires_at:%Y-%m-%d %H:%M:%S}" == "2031-01-02 03:04:05"


@pytest.mark.parametrize(("field", "value"), [("name", ""), ("name", "x" * 201), ("scopes", "everything")])
def test_what_is_wrong_is_said_beside_its_field_and_no_key_is_made(
    field: str, value: str, admin_client: Client
) -> None:
    assert list(errors(add(admin_client, **{field: value}))) == [field]
    assert not ClientKey.objects.exists()


def test_the_page_escapes_what_the_key_is_called(admin_client: Client) -> None:
    answer = text(add(admin_client, name="<script>alert(1)</script>"))
    assert "<script>alert(1)" not in answer


def test_editing_a_key_leaves_its_secret_alone(issued: services.IssuedKey, admin_client: Client) -> None:
    changed = submit(admin_client, page("change", issued.record), holding="owner", name="store")
    assert (changed.status_code, changed["location"]) == (302, LIST)
    record = known(issued.plaintext)
    assert (record is not None and record.name) == "store"


def test_neither_digest_nor_prefix_can_be_posted(issued: services.IssuedKey, admin_client: Client) -> None:
    forged = {"digest": "0" * 64, "key_prefix": "tokenhub_00000000"}
    submit(admin_client, page("change", issued.record), holding="owner", **forged)
    assert known(issued.plaintext) == issued.record


def test_a_key_is_switched_off_and_on_again(issued: services.IssuedKey, admin_client: Client) -> None:
    for enabled in ([], ["on"]):
        submit(admin_client, page("change", issued.record), holding="owner", enabled=enabled)
        issued.record.refresh_from_db()
        assert issued.record.enabled == bool(enabled)


def test_the_list_tells_keys_that_are_on_off_and_expired_apart(admin_client: Client) -> None:
    services.issue(name="a")
    services.issue(name="b", enabled=False)
    services.issue(name="c", expires_at=timezone.now() - timedelta(seconds=1))
    answer = text(admin_client.get(LIST))
    assert [word for word in ("on", "off", "expired") if re.search(rf">\s*{word}\s*<", answer) is None] == []


def test_deleting_a_key_ends_it(issued: services.IssuedKey, admin_client: Client) -> None:
    assert known(issued.plaintext) is not None
    admin_client.post(page("delete", issued.record), {"post": "yes"})
    assert known(issued.plaintext) is None


# -- rotating --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("way", ["rotate", "button"])
def test_rotating_asks_before_it_changes_anything(way: str, issued: services.IssuedKey, admin_client: Client) -> None:
    """By the page itself, and by the button on the key's page."""
    url = page("rotate", issued.record)
    if way == "button":
        (url,) = set(re.findall(r'href="([^"]+/rotate-link/?)"', text(admin_client.get(page("change", issued.record)))))
    asked = admin_client.get(url)
    assert (asked.status_code, WHOLE_KEY.search(text(asked))) == (200, None)
    assert f'action="{page("rotate", issued.record)}"' in text(asked)
    assert known(issued.plaintext) == issued.record


def test_after_rotating_the_old_key_is_refused_and_the_new_one_is_not(
    issued: services.IssuedKey, admin_client: Client
) -> None:
    answer = submit(admin_client, page("rotate", issued.record), holding="hours")
    key = shown_key(answer)
    assert "no-store" in answer["Cache-Control"]
    assert (known(issued.plaintext), known(key)) == (None, issued.record)
    assert ClientKey.objects.get().key_prefix == key[:17]


def test_a_page_rotates_only_the_secret_that_it_was_made_for(issued: services.IssuedKey, admin_client: Client) -> None:
    """By a double click, or by two people: the secret that is in use keeps its grace."""
    url = page("rotate", issued.record)
    posted = {**values(admin_client.get(url), holding="hours"), "hours": "24"}
    fresh = shown_key(admin_client.post(url, posted))
    for sent in (posted, {"hours": "24"}):
        again = admin_client.post(url, sent)
        assert "Not rotated" in text(again)
        assert WHOLE_KEY.search(text(again)) is None
    stored = ClientKey.objects.get()
    assert (stored.digest, stored.old_digest) == (digest_of(fresh.encode()), digest_of(issued.plaintext.encode()))
    last = shown_key(admin_client.post(url, values(again, holding="hours")))  # who was told may go on
    assert known(last) == issued.record


def test_whoever_rotates_is_told_of_a_secret_that_is_in_its_grace(
    issued: services.IssuedKey, admin_client: Client
) -> None:
    told = "in any case"
    assert told not in text(admin_client.get(page("rotate", issued.record)))
    services.reissue(key=issued.record, grace=timedelta(hours=1))
    assert told in text(admin_client.get(page("rotate", issued.record)))
    ClientKey.objects.update(old_digest_until=timezone.now() - timedelta(seconds=1))
    assert told not in text(admin_client.get(page("rotate", issued.record)))


def test_rotating_without_the_csrf_token_is_refused(issued: services.IssuedKey, admin_user: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    assert client.post(page("rotate", issued.record)).status_code == 403
    assert known(issued.plaintext) is not None


def test_rotating_is_for_those_who_may_change_keys(issued: services.IssuedKey, staff_client: Client) -> None:
    User.objects.get(username="clerk").user_permissions.add(Permission.objects.get(codename="view_clientkey"))
    assert "rotate-link" not in text(staff_client.get(page("change", issued.record)))
    for url in (page("rotate", issued.record), page("change", issued.record).replace("change/", "rotate-link/")):
        assert (staff_client.get(url).status_code, staff_client.post(url).status_code) == (403, 403)
    assert known(issued.plaintext) is not None


@pytest.mark.parametrize("name", ["no-uuid", str(UUID(int=7))])
def test_a_key_that_is_not_there_cannot_be_rotated(name: str, admin_client: Client) -> None:
    url = reverse("admin:keys_clientkey_rotate", args=[name])
    assert (admin_client.get(url).status_code, admin_client.post(url).status_code) == (403, 403)


# -- manage.py keys ----------------------------------------------------------------------------------------------------
def run(*arguments: str) -> str:
    """Its standard output."""
    out = StringIO()
    call_command("keys", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue().strip()


def test_create_prints_the_key_and_nothing_else_on_standard_output() -> None:
    key = run("create", "shop", "--owner", "ann", "--project", "web", "--scope", "chat", "--model", "m/1")
    record = known(key)
    assert record is not None
    assert (record.name, record.owner, record.project) == ("shop", "ann", "web")
    assert (record.scopes, record.allowed_models, record.expires_at) == (["chat"], ["m/1"], None)


@pytest.mark.parametrize(("text_", "seconds"), [("2s", 2), ("30m", 1800), ("720h", 2_592_000), ("30d", 2_592_000)])
def test_create_takes_a_duration(text_: str, seconds: int) -> None:
    record = known(run("create", "shop", "--expires-in", text_))
    assert record is not None
    assert record.expires_at is not None
    assert abs((record.expires_at - timezone.now()).total_seconds() - seconds) < 2


@pytest.mark.parametrize("text_", ["", "soon", "-2h", "1.5h", "3w", "999999999d", "2 h", "٣h"])
def test_create_refuses_what_is_no_duration(text_: str) -> None:
    with pytest.raises(CommandError):
        run("create", "shop", f"--expires-in={text_}")
    assert not ClientKey.objects.exists()


@pytest.mark.parametrize(
    "arguments",
    [["create"], ["create", ""], ["create", "x" * 201], ["create", "x", "--scope", "all"], [], ["burn", "x"]],
)
def test_a_wrong_call_is_a_command_error_and_makes_nothing(arguments: list[str]) -> None:
    with pytest.raises(CommandError):
        run(*arguments)
    assert not ClientKey.objects.exists()


def test_list_shows_every_key_with_its_state_and_none_of_the_secrets() -> None:
    made = [
        services.issue(name="a"),
        services.issue(name="b", enabled=False, scopes=["chat"]),
        services.issue(name="c", expires_at=timezone.now() - timedelta(seconds=1)),
        services.issue(name="d", expires_at=timezone.now() + timedelta(days=1)),
    ]
    lines = run("list").splitlines()
    assert [next(one for one in lines if f"  {name}  " in one).split("[")[1].split("]")[0][:16] for name in "abcd"] == [
        "enabled", "disabled", "enabled, expired", "enabled, expires",
    ]  # fmt: skip
    for issued in made:
        assert issued.plaintext not in "\n".join(lines)
        assert any(issued.record.key_prefix in line and str(issued.record.id) in line for line in lines)


def test_rotate_prints_a_new_key_in_place_of_the_old_one(issued: services.IssuedKey) -> None:
    key = run("rotate", issued.record.key_prefix + "…")
    assert (known(key), known(issued.plaintext)) == (issued.record, None)


def test_revoke_switches_the_key_off_and_keeps_it(issued: services.IssuedKey) -> None:
    assert "is refused from now on." in run("revoke", "shop")
    record = known(issued.plaintext)
    assert (record is not None and record.enabled) is False


@pytest.mark.parametrize("field", ["id", "name", "key_prefix"])
def test_a_key_is_named_by_id_name_or_prefix(field: str, issued: services.IssuedKey) -> None:
    services.issue(name="other")
    run("revoke", str(getattr(issued.record, field)))
    assert [key.name for key in ClientKey.objects.filter(enabled=True)] == ["other"]


@pytest.mark.parametrize("action", ["rotate", "revoke"])
@pytest.mark.parametrize("name", ["", "…", "nobody", "sho", "tokenhub_"])
def test_a_name_that_is_nobodys_or_anybodys_changes_nothing(name: str, action: str, issued: services.IssuedKey) -> None:
    with pytest.raises(CommandError, match="No client key match"):
        run(action, name)
    assert known(issued.plaintext) == ClientKey.objects.get(enabled=True)


def test_a_name_that_two_keys_share_changes_neither(issued: services.IssuedKey) -> None:
    services.issue(name="shop")
    with pytest.raises(CommandError, match="2 client keys match"):
        run("revoke", "shop")
    assert ClientKey.objects.filter(enabled=True).count() == 2


def test_limits_that_count_requests_are_told_apart(admin_client: Client) -> None:
    for kind in ("clientkey", "project"):
        page = text(admin_client.get(reverse(f"admin:keys_{kind}_add")))
        assert "Burst of requests" in page
        assert "Open requests" in page
        assert "Requests at" not in page
