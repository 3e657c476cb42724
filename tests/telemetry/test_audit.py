"""The audit log: what is told of a change, what is not, and that no entry can be changed unseen."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import Client

from keys import services as keys
from keys.models import Budget, ClientKey
from providers.models import CredentialStore, Provider, ProviderType
from telemetry import audit
from telemetry.models import AuditEntry, AuditHead
from tokenhub import admin_token
from vault import services as vault
from vault.crypto import Parameters
from vault.errors import WrongPassword

pytestmark = pytest.mark.django_db
CHEAP = Parameters(passes=1, memory_kib=64, lanes=1)


@pytest.fixture(autouse=True)
def _nobody_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_refusals", audit.Refusals())
    monkeypatch.setattr(audit, "_default", audit.Origin("command"))  # a test before may have imported the server


def last() -> AuditEntry:
    return AuditEntry.objects.latest("number")


def changes() -> dict[str, list[Any]]:
    told: dict[str, list[Any]] = json.loads(last().changes)
    return told


def actions() -> list[str]:
    return list(AuditEntry.objects.order_by("number").values_list("action", flat=True))


def provider(**fields: Any) -> Provider:
    defaults = {"type": ProviderType.VLLM, "base_url": "http://10.0.0.5:8000", "cred_store": CredentialStore.NONE}
    return Provider.objects.create(**{"id": "p", **defaults, **fields})


# -- what is told ----------------------------------------------------------------------------------------------------
def test_a_change_is_told_with_what_was_before() -> None:
    row = provider()
    row.base_url = "http://10.0.0.6:8000"
    row.save()
    assert (last().action, last().resource, last().source) == ("provider.upsert", "provider/p", "command")
    assert changes() == {"base_url": ["http://10.0.0.5:8000", "http://10.0.0.6:8000"]}


def test_a_change_is_measured_against_the_stored_row_and_not_against_memory() -> None:
    provider()
    stale = Provider.objects.get()
    fresh = Provider.objects.get()
    fresh.enabled = False
    fresh.save()
    stale.base_url = "http://x:1"
    stale.save()
    assert changes() == {"base_url": ["http://10.0.0.5:8000", "http://x:1"], "enabled": [False, True]}


def test_saving_without_a_change_says_nothing() -> None:
    row = provider()
    count = AuditEntry.objects.count()
    row.save()
    assert AuditEntry.objects.count() == count


def test_a_deletion_tells_what_is_gone() -> None:
    provider().delete()
    assert (last().action, last().resource) == ("provider.delete", "provider/p")
    assert changes()["base_url"] == ["http://10.0.0.5:8000", None]


def test_update_fields_tells_only_what_was_stored() -> None:
    row = provider()
    row.base_url, row.enabled = "http://y:1", False
    row.save(update_fields=["enabled"])
    assert changes() == {"enabled": [True, False]}


def test_a_client_key_is_told_without_its_secret() -> None:
    issued = keys.issue(name="app", rate_limit_rps=2.5)
    assert changes()["digest"] == [None, "***"]
    assert changes()["rate_limit_rps"] == [None, "2.5"]
    fresh = keys.reissue(key=issued.record)
    keys.revoke(key=issued.record)
    keys.delete(key=issued.record)
    assert actions()[-4:] == ["apikey.issue", "apikey.rotate", "apikey.revoke", "apikey.delete"]
    everything = " ".join(AuditEntry.objects.values_list("changes", flat=True))
    for secret in (issued.plaintext, fresh.plaintext, issued.record.digest):
        assert secret not in everything


def test_a_budget_is_told_in_dollars() -> None:
    keys.set_budget(subject="installation", amount_usd=Decimal(5))
    keys.set_budget(subject="installation", amount_usd=Decimal(7))
    assert last().action == "budget.upsert"
    assert changes() == {"amount_usd": ["5", "7"]}
    assert Budget.objects.count() == 1


def test_rights_and_passwords_of_users_are_told() -> None:
    user = User.objects.create_user("eve", password="a very secret one")
    assert changes()["password"] == [None, "***"]
    group = Group.objects.create(name="ops")
    group.permissions.add(Permission.objects.get(codename="view_provider"))
    assert last().action == "group.upsert"
    assert "provider" in json.dumps(changes())
    user.groups.add(group)
    assert changes() == {"groups": [[], ["ops"]]}
    user.groups.remove(group)
    assert changes() == {"groups": [["ops"], []]}


def test_the_vault_is_told_without_its_values() -> None:
    vault.initialize(password="right password", parameters=CHEAP)
    vault.put_secret(name="provider/p", value="sk-very-secret")
    with pytest.raises(WrongPassword):
        vault.unlock(password="wrong password")
    vault.rotate(old_password="right password", new_password="another password")
    vault.lock()
    assert actions() == ["vault.init", "secret.upsert", "vault.refused", "vault.rotate", "vault.lock"]
    everything = " ".join(AuditEntry.objects.values_list("changes", flat=True))
    for secret in ("sk-very-secret", "right password", "wrong password", "another password"):
        assert secret not in everything


def test_a_change_that_is_rolled_back_leaves_nothing() -> None:
    with transaction.atomic():
        provider()
        transaction.set_rollback(True)
    assert actions() == []
    provider()
    assert last().number == 1
    assert not audit.verify().problem


# -- who -------------------------------------------------------------------------------------------------------------
def test_the_api_tells_who_from_where_and_by_which_request() -> None:
    client = Client(headers={"Authorization": f"Bearer {admin_token.current()}"})
    answer = client.post("/admin/v1/projects", {"name": "team"}, content_type="application/json")
    assert answer.status_code == 200
    entry = AuditEntry.objects.get(action="project.upsert")
    assert (entry.actor, entry.source, entry.source_address) == ("admin-token", "api", "127.0.0.1")
    assert entry.request_id == answer["X-TokenHub-Request-ID"]
    assert audit.origin().source == "command"


def test_a_page_tells_the_user_and_logins_are_told() -> None:
    User.objects.create_superuser("ada", password="correct horse")
    client = Client()
    client.post("/admin/login/", {"username": "ada", "password": "wrong"})
    client.post("/admin/login/", {"username": "ada", "password": "correct horse"})
    assert actions()[-2:] == ["session.refused", "session.open"]
    row = provider()
    client.post("/admin/keys/project/add/", {"name": "by page"})
    entry = AuditEntry.objects.get(action="project.upsert")
    assert (entry.actor, entry.source) == ("ada", "admin")
    client.post("/admin/logout/")
    assert (last().action, last().actor) == ("session.close", "ada")
    assert row.pk == "p"


def test_a_name_that_nobody_has_is_not_told() -> None:
    Client().post("/admin/login/", {"username": "my secret password", "password": "x"})
    assert changes() == {"user": [None, "unknown"]}


def test_guessers_do_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(audit, "monotonic", lambda: now[0])
    for _ in range(30):
        audit.refused("admin_token.refused", address="10.0.0.1")
    assert actions() == ["admin_token.refused"]
    for number in range(100):
        audit.refused("admin_token.refused", address=f"10.1.0.{number}")
    assert len(actions()) == 60
    now[0] += 61
    audit.refused("admin_token.refused", address="10.0.0.1")
    assert changes() == {"left_out_before": [None, 41]}


# -- proof -----------------------------------------------------------------------------------------------------------
def written(count: int = 5) -> None:
    for number in range(count):
        audit.record("test.done", resource=f"test/{number}", changes={"n": [None, number]})


def test_an_unbroken_chain_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    written()
    assert audit.verify() == audit.Verdict(5, last().hash)
    call_command("verify_audit", expect=[(3, AuditEntry.objects.get(number=3).hash)])
    assert "5 entries, unbroken" in capsys.readouterr().out


@pytest.mark.parametrize("field", [*AuditEntry.TOLD, "hash"])
def test_a_changed_field_shows(field: str) -> None:
    written()
    AuditEntry.objects.filter(number=3).update(**{field: "x"})
    assert (audit.verify().number, bool(audit.verify().problem)) == (2, True)
    with pytest.raises(CommandError, match="Entry 3 was changed"):
        call_command("verify_audit")


def test_a_changed_moment_shows() -> None:
    written()
    AuditEntry.objects.filter(number=2).update(created_at="2020-01-01T00:00:00Z")
    assert audit.verify().number == 1


def test_a_removed_entry_shows_in_the_middle_and_at_the_end() -> None:
    written()
    AuditEntry.objects.filter(number=5).delete()
    assert audit.verify().problem == "Entries 5 to 5 are missing."
    AuditEntry.objects.filter(number=2).delete()
    assert audit.verify().problem == "Entry 2 is missing."


def test_exchanged_entries_show() -> None:
    written()
    AuditEntry.objects.filter(number=2).update(number=99)
    AuditEntry.objects.filter(number=3).update(number=2)
    AuditEntry.objects.filter(number=99).update(number=3)
    assert audit.verify().number == 1


def test_a_chain_that_was_computed_anew_differs_from_the_noted_hash() -> None:
    written()
    noted = (4, AuditEntry.objects.get(number=4).hash)
    AuditEntry.objects.all().delete()
    AuditHead.objects.all().delete()
    written(4)
    assert not audit.verify().problem
    assert audit.verify(expected=dict([noted])).problem == "Entry 4 has another hash than was noted."
    assert audit.verify(expected={9: "0" * 64}).problem == "Entry 9, whose hash was noted, is missing."


def test_a_noted_hash_must_be_one() -> None:
    with pytest.raises(CommandError, match="NUMBER:HASH"):
        call_command("verify_audit", "--expect", "3")


# -- reading ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def staff() -> Client:
    return Client(headers={"Authorization": f"Bearer {admin_token.current()}"})


def test_entries_are_filtered(staff: Client) -> None:
    written(3)
    provider()
    for query, count in {
        "": 4, "action=test.done": 3, "resource=test/1": 1, "resource=test": 3, "resource=tes": 0, "source=api": 0,
        "from=2020-01-01": 4, "to=2020-01-01": 0, "limit=2": 2,
    }.items():  # fmt: skip
        answer = staff.get(f"/admin/v1/audit?{query}")
        assert (answer.status_code, len(answer.json()["items"])) == (200, count), query
    assert staff.get("/admin/v1/audit?color=red").status_code == 400
    newest = staff.get("/admin/v1/audit").json()["items"][0]
    assert newest["changes"]["base_url"] == [None, "http://10.0.0.5:8000"]


def test_entries_are_exported_with_what_the_hash_covers(staff: Client) -> None:
    written(2)
    audit.record("test.done", name='=HYPERLINK("http://evil")')
    answer = staff.get("/admin/v1/audit/export?as=csv")
    rows = list(csv.DictReader(io.StringIO(b"".join(answer).decode())))
    assert [row["number"] for row in rows] == ["1", "2", "3"]
    assert rows[2]["resource_name"].startswith("'=")
    answer = staff.get("/admin/v1/audit/export?as=json&action=test.done")
    told = json.loads(b"".join(answer))
    previous = audit.FIRST
    for one in told:
        entry = AuditEntry.objects.get(number=one["number"])
        for name in AuditEntry.TOLD:
            assert one[name] == getattr(entry, name)
        assert one["hash"] == audit.hash_of(entry, previous)
        previous = one["hash"]
    assert staff.get("/admin/v1/audit/export?as=xml").status_code == 400
    assert json.loads(b"".join(staff.get("/admin/v1/audit/export?as=json&action=none"))) == []


def test_the_page_exports_and_escapes(admin_client: Client) -> None:
    written(2)
    audit.record("test.done", changes={"name": [None, "<script>alert(1)</script>"]})
    shown = admin_client.get(f"/admin/telemetry/auditentry/{last().number}/change/").content.decode()
    assert "&lt;script&gt;alert(1)" in shown
    answer = admin_client.post("/admin/telemetry/auditentry/", {"action": "export_csv", "_selected_action": ["1", "2"]})
    assert answer["Content-Disposition"] == 'attachment; filename="tokenhub-audit.csv"'
    assert ClientKey.objects.count() == 0
