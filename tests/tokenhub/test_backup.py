"""A backup that is taken under load, restored into an empty folder: the same answers, keys, budgets, secrets, and every
request that was answered before it was taken."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import postgres
from tests.support.gateway import KEY, ROOT, VAULT_PASSWORD, Gateway, environment, run_manage
from tests.support.upstream import Reply, Upstream
from tokenhub.backup import BackupError, _unpack

CREDENTIAL = "sk-a-credential-in-the-vault"
USAGE = {"prompt_tokens": 100, "completion_tokens": 50}
SAME = ("keys_clientkey", "keys_budget", "keys_project", "providers_provider", "routing_model", "vault_secret",
        "vault_vaultstate")  # fmt: skip


def rows_of(upstream: Upstream) -> dict[str, Any]:
    provider = {"id": "p", "type": "openai", "base_url": upstream.url, "credential": CREDENTIAL}
    model = {"id": "m", "provider_id": "p", "input_per_1k": "0.001", "output_per_1k": "0.002"}
    return {
        "providers": [provider],
        "models": [model],
        "keys": [{"key": KEY, "project": "p"}],
        "budgets": [{"of_key": KEY, "amount_usd": "1000"}],
    }


class Load:
    """One client that asks until it is told to stop."""

    def __init__(self, gateway: Gateway) -> None:
        self.answered: list[str] = []
        self._gateway = gateway
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.is_set():
            answer = self._gateway.chat("m")
            assert answer.status_code == 200
            self.answered.append(answer.headers["x-tokenhub-request-id"].replace("-", ""))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=30)


class Taken:
    """A gateway that served while it was saved, and what was known then."""

    def __init__(self, folder: Path, gateway: Gateway, upstream: Upstream) -> None:
        self.gateway, self.upstream = gateway, upstream
        self.file = folder / "saved.tar"
        with Load(gateway) as load:
            Gateway.wait_until(lambda: len(load.answered) > 30, seconds=60)
            self.answered = list(load.answered)
            self.said = run_manage("backup", str(self.file), folder=gateway.folder, env=gateway.env)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taken]:
    folder = tmp_path_factory.mktemp("backup")
    with Upstream() as upstream:
        upstream.default = Reply(usage=USAGE)
        with Gateway(folder / "data", workers=2, **rows_of(upstream)) as gateway:
            yield Taken(folder, gateway, upstream)


def refusal(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT, env=environment(folder), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    return done.stderr


def test_a_backup_is_for_its_owner_and_holds_no_secret_in_plain_text(taken: Taken) -> None:
    assert taken.file.stat().st_mode & 0o777 == 0o600
    assert str(taken.file) in taken.said
    content = taken.file.read_bytes()
    assert [secret for secret in (CREDENTIAL, VAULT_PASSWORD, KEY) if secret.encode() in content] == []
    assert sorted(path.name for path in taken.file.parent.iterdir()) == ["data", "saved.tar"]


def test_a_restore_into_an_empty_folder_serves_the_same(taken: Taken, tmp_path: Path) -> None:
    folder = tmp_path / "restored"
    run_manage("restore", str(taken.file), folder=folder)
    for name in ("django_secret", "admin-token", "journal/host"):
        assert (folder / name).read_bytes() == (taken.gateway.folder / name).read_bytes()
        assert (folder / name).stat().st_mode & 0o077 == 0
    restored = Gateway(folder, keys=(), env={"TOKENHUB_VAULT_PASSWORD": ""})
    for table in SAME:
        everything = f"SELECT * FROM {table}"  # noqa: S608  our own names
        assert restored.query(everything) == taken.gateway.query(everything)
    holders_then = {row["holder"] for row in restored.query("SELECT holder FROM keys_lease")}
    assert holders_then
    with restored:
        locked = restored.chat("m")
        assert (locked.status_code, locked.json()["error"]["code"]) == (503, "vault_locked")
        (tmp_path / "password").write_text(VAULT_PASSWORD)
        run_manage("vault", "unlock", "--password-file", str(tmp_path / "password"), folder=folder)
        asked = len(taken.upstream.requests)
        answer = restored.chat("m")
        assert answer.status_code == 200
        assert taken.upstream.requests[asked].headers["authorization"] == f"Bearer {CREDENTIAL}"
        taken.answered.append(answer.headers["x-tokenhub-request-id"].replace("-", ""))
        Gateway.wait_until(lambda: set(taken.answered) <= {row["request_id"] for row in restored.rows()}, seconds=20)
        rows = restored.rows()
        assert len(rows) == len({row["request_id"] for row in rows})
        del taken.answered[-1]

        def books_agree() -> bool:
            """What is settled is what the log's requests cost, and what was leased to the processes of then is back."""
            (period,) = restored.query("SELECT settled_nano FROM keys_budgetperiod")
            (cost,) = restored.query("SELECT round(sum(cost_usd) * 1e9) AS nano FROM telemetry_requestlog")
            holders = {row["holder"] for row in restored.query("SELECT holder FROM keys_lease")}
            return bool(period["settled_nano"] == cost["nano"] and not holders & holders_then)

        Gateway.wait_until(books_agree, seconds=20)


def test_a_running_server_is_not_restored_over(taken: Taken) -> None:
    assert "A server is running" in refusal("restore", "--force", str(taken.file), folder=taken.gateway.folder)
    assert taken.gateway.chat("m").status_code == 200


def test_what_is_there_is_replaced_only_by_force_and_then_kept_beside(taken: Taken, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "tokenhub.sqlite3").write_bytes(b"somebody's")
    assert "is there already" in refusal("restore", str(taken.file), folder=folder)
    assert (folder / "tokenhub.sqlite3").read_bytes() == b"somebody's"
    run_manage("restore", "--force", str(taken.file), folder=folder)
    (aside,) = folder.glob("before-restore-*")
    assert (aside / "tokenhub.sqlite3").read_bytes() == b"somebody's"
    assert (folder / "tokenhub.sqlite3").read_bytes().startswith(b"SQLite format 3")


def test_a_file_that_was_cut_or_changed_is_refused(taken: Taken, tmp_path: Path) -> None:
    whole = taken.file.read_bytes()
    at = whole.index(b"SQLite format 3") + 5000
    for number, content in enumerate([whole[: len(whole) // 2], whole[:at] + b"?" + whole[at + 1 :], b"nonsense", b""]):
        (tmp_path / f"{number}.tar").write_bytes(content)
        (tmp_path / f"{number}").mkdir()
        with pytest.raises(BackupError, match=r"changed or cut|no whole backup"):
            _unpack(tmp_path / f"{number}.tar", tmp_path / f"{number}")


@pytest.mark.parametrize("name", ["../outside", "journal/../../outside", "/tmp/outside", "journal/x.sh", "settings.py"])
def test_a_file_with_something_strange_in_it_is_refused(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "strange.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    (tmp_path / "into").mkdir()
    with pytest.raises(BackupError, match="no backup of TokenHub has"):
        _unpack(tmp_path / "strange.tar", tmp_path / "into")
    assert [path.name for path in (tmp_path / "into").rglob("*")] == ["journal"]


@pytest.mark.skipif(bool(postgres.why_not()), reason=postgres.why_not())
@pytest.mark.skipif(not shutil.which("pg_dump"), reason="pg_dump is not installed")
def test_a_backup_of_postgresql_replaces_what_became_of_the_database(tmp_path: Path) -> None:
    with postgres.Postgres(migrated=True) as database, Upstream() as upstream:
        env = {"TOKENHUB_DATABASE_URL": database.url}
        with Gateway(tmp_path / "data", env=env, **rows_of(upstream)) as gateway:
            for _ in range(3):
                assert gateway.chat("m").status_code == 200
            with psycopg.connect(database.url, autocommit=True) as connection:
                counted = "SELECT count(*) FROM telemetry_requestlog"
                Gateway.wait_until(lambda: connection.execute(counted).fetchone() == (3,), seconds=20)
            said = run_manage("backup", str(tmp_path), folder=gateway.folder, env=env)
        (file,) = tmp_path.glob("tokenhub-*.tar")
        assert str(file) in said
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("DELETE FROM keys_clientkey")
            connection.execute("CREATE TABLE of_a_later_version ()")
        run_manage("restore", "--force", str(file), folder=tmp_path / "data", env=env)
        with psycopg.connect(database.url) as connection:
            keys = connection.execute("SELECT project FROM keys_clientkey").fetchall()
            logged = connection.execute("SELECT count(*) FROM telemetry_requestlog").fetchone()
            later = connection.execute("SELECT to_regclass('of_a_later_version')").fetchone()
    assert (keys, logged, later) == ([("p",)], (3,), (None,))
