"""One file that holds a gateway, taken while it serves, and a data folder made from such a file. A tar, mode 0600:

    manifest.json                       what it is, and the SHA-256 of each other member
    journal/…                           requests that are not in the database yet, and the name of their host
    database.sqlite3 | database.dump    by SQLite's online backup | pg_dump's custom format
    django_secret, admin-token          where the data folder has them

The journal is read before the database: a line that is ingested in between is in both, and counts once. The vault's
records are sealed in the database; its key and its password are in no file, and so not in this one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.db import connection, connections
from django.db.migrations.loader import MigrationLoader

from telemetry import audit
from telemetry.journal import SUFFIX, segments
from tokenhub.admin_token import FILE_NAME as ADMIN_TOKEN
from vault.control import ControlClient
from vault.errors import ServerNotRunning, VaultError

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SQLITE: Final = "database.sqlite3"
POSTGRES: Final = "database.dump"
SECRETS: Final = ("django_secret", ADMIN_TOKEN)
_MEMBER: Final = re.compile(rf"journal/(host|[\w.-]+{re.escape(SUFFIX)})")
_PG_SECONDS: Final = 6 * 3600


class BackupError(Exception):
    """Its text is for the person at the command line."""


@dataclass(frozen=True, slots=True)
class Made:
    path: Path
    bytes: int


def data_folder() -> Path:
    return Path(settings.TOKENHUB_DATA_DIR)


def database_file() -> Path:
    return Path(str(settings.DATABASES["default"]["NAME"]))


# -- take one --------------------------------------------------------------------------------------------------------
def create(target: Path, *, now: datetime | None = None) -> Made:
    """`target`: a file that is not there yet, or a folder. Raises BackupError, OSError, DatabaseError."""
    now = now or datetime.now(UTC)
    if target.is_dir():
        target = target / f"tokenhub-{now:%Y%m%dT%H%M%SZ}.tar"
    if target.exists():
        raise BackupError(f"{target} is there already. Give another name, or a folder.")
    audit.record("backup.create", resource="backup", name=target.name)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:  # mode 0700
        folder = Path(name)
        _copy_journal(folder / "journal")
        _dump(folder)
        for secret in SECRETS:
            if (found := data_folder() / secret).exists():
                shutil.copyfile(found, folder / secret)
        members = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        told = {
            "format": FORMAT,
            "version": settings.VERSION,
            "taken_at": now.isoformat(),
            "database": connection.vendor,
            "migrations": sorted(".".join(one) for one in _applied()),
            "sha256": {member: _digest(folder / member) for member in members},
        }
        (folder / MANIFEST).write_text(json.dumps(told, indent=1), encoding="utf-8")
        fresh = folder / "tar"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for member in (MANIFEST, *members):
                    tar.add(folder / member, arcname=member, filter=_private)
            file.flush()
            os.fsync(file.fileno())
        os.link(fresh, target)  # whole at once, and nobody's file is overwritten
    return Made(target, target.stat().st_size)


def _private(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mode, member.uid, member.gid, member.uname, member.gname = 0o600, 0, 0, "", ""
    return member


def _copy_journal(folder: Path) -> None:
    folder.mkdir()
    source = data_folder() / "journal"
    for segment in segments(source):
        try:
            data = segment.path.read_bytes()
        except FileNotFoundError:  # all of it is in the database by now
            continue
        (folder / segment.name).write_bytes(data[: data.rfind(b"\n") + 1])  # what is being written was not answered
    if (source / "host").exists():
        shutil.copyfile(source / "host", folder / "host")


def _dump(folder: Path) -> None:
    if connection.vendor == "sqlite":
        with closing(sqlite3.connect(database_file())) as source, closing(sqlite3.connect(folder / SQLITE)) as target:
            source.backup(target)  # all pages in one step: one moment, and writers go on
            target.execute("PRAGMA journal_mode=DELETE")
        return
    _pg("pg_dump", "--format=custom", "--no-owner", "--no-privileges", "--file", str(folder / POSTGRES))


def _pg(program: str, *arguments: str) -> None:
    """The password goes by the environment: arguments are visible to every process. Raises BackupError."""
    told = settings.DATABASES["default"]
    names = {"PGHOST": "HOST", "PGPORT": "PORT", "PGUSER": "USER", "PGPASSWORD": "PASSWORD", "PGDATABASE": "NAME"}
    env = os.environ | {variable: str(told[key]) for variable, key in names.items() if told.get(key)}
    if (found := shutil.which(program)) is None:
        raise BackupError(f"{program} is not installed. It comes with PostgreSQL's client programs.")
    done = subprocess.run(  # noqa: S603  our own arguments
        [found, *arguments], env=env, capture_output=True, text=True, timeout=_PG_SECONDS, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["without a word"])[0]
        raise BackupError(f"{program} failed: {reason}")


def _applied() -> set[tuple[str, str]]:
    return set(MigrationLoader(connection).applied_migrations)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- put one back ----------------------------------------------------------------------------------------------------
def restore(source: Path, *, force: bool = False) -> dict[str, Any]:
    """The manifest of what was restored. With `force`, what is there is moved aside (a PostgreSQL database is emptied).
    Raises BackupError, OSError, DatabaseError; before anything is changed if the file is not whole."""
    if running := why_running():
        raise BackupError(running)
    with tempfile.TemporaryDirectory(prefix=".restore.", dir=data_folder()) as name:
        folder = Path(name)
        manifest = _unpack(source, folder)
        kind = manifest["database"]
        if kind != connection.vendor:
            raise BackupError(
                f"The backup is of {kind}, and TOKENHUB_DATABASE_URL names {connection.vendor}. Point it to an empty "
                f"{kind} database."
            )
        known = {".".join(one) for one in MigrationLoader(None).disk_migrations}
        if strange := [one for one in manifest["migrations"] if one not in known]:
            raise BackupError(
                f"The backup was made by TokenHub {manifest['version']}, whose database has what this version does "
                f"not know ({strange[0]}). Restore it with that version."
            )
        there = list(_occupants(kind))
        if there and not force:
            raise BackupError(
                f"{there[0]} is there already. Restore into an empty data folder and database, or give --force, which "
                "replaces them."
            )
        connections.close_all()
        _move_aside()
        if kind == "sqlite":
            shutil.move(folder / SQLITE, database_file())
        else:
            _empty_database()
            _pg(
                "pg_restore", "--no-owner", "--no-privileges", "--single-transaction", "--exit-on-error", "--dbname",
                str(settings.DATABASES["default"]["NAME"]), str(folder / POSTGRES),
            )  # fmt: skip
        for secret in SECRETS:
            if (folder / secret).exists():
                (folder / secret).replace(data_folder() / secret)
        (folder / "journal").rename(data_folder() / "journal")
    audit.record("backup.restore", resource="backup", name=source.name)
    return manifest


def why_running() -> str:
    """A sentence when a server uses the data folder, or else empty."""
    sentence = "A server is running on this data folder. Stop it first."
    try:
        ControlClient(data_folder() / "vault.sock").status()
    except ServerNotRunning:
        pass
    except VaultError as problem:
        return problem.message
    else:
        return sentence
    journal = data_folder() / "journal"  # every process that serves holds one, also under another ASGI server
    return sentence if any(not segment.is_abandoned() for segment in segments(journal)) else ""


def _unpack(source: Path, folder: Path) -> dict[str, Any]:
    """Into the folder, whole and unchanged. Nothing is written that a backup does not have."""
    (folder / "journal").mkdir()
    try:
        with tarfile.open(source, mode="r:") as tar:
            for member in tar:
                allowed = member.name in {MANIFEST, SQLITE, POSTGRES, *SECRETS} or _MEMBER.fullmatch(member.name)
                file = tar.extractfile(member) if allowed and member.isreg() else None
                if file is None:
                    raise BackupError(f"{source} holds {member.name!r}, which no backup of TokenHub has.")
                with os.fdopen(os.open(folder / member.name, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as target:
                    shutil.copyfileobj(file, target)
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise BackupError(f"{source} has the format {manifest['format']}; this version reads {FORMAT}.")
        wanted: dict[str, str] = manifest["sha256"]
        whole = all(_digest(folder / member) == digest for member, digest in wanted.items())
        has_database = {"sqlite": SQLITE, "postgresql": POSTGRES}[manifest["database"]] in wanted
    except (tarfile.TarError, ValueError, KeyError, FileNotFoundError) as problem:
        if not source.exists():
            raise BackupError(f"{source} is not there.") from None
        raise BackupError(f"{source} is no whole backup of TokenHub ({type(problem).__name__}).") from None
    if not whole or not has_database:
        raise BackupError(f"{source} was changed or cut since it was made.")
    return manifest


def _occupants(kind: str) -> Iterator[str]:
    """What a restore would replace."""
    if kind == "sqlite" and database_file().exists():
        yield str(database_file())
    if kind == "postgresql" and (tables := connection.introspection.table_names()):
        yield f"A database with {len(tables)} tables"
    if (token := data_folder() / ADMIN_TOKEN).exists():
        yield str(token)
    for segment in segments(data_folder() / "journal"):
        yield str(segment.path)


def _move_aside() -> None:
    aside = data_folder() / f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    database = database_file()
    files = [database.with_name(database.name + ending) for ending in ("", "-wal", "-shm")]
    if connection.vendor != "sqlite":
        files = []
    found = [path for path in (*files, data_folder() / "journal", data_folder() / ADMIN_TOKEN) if path.exists()]
    if found:
        aside.mkdir(mode=0o700)
    for path in found:
        shutil.move(path, aside / path.name)
    shutil.rmtree(data_folder() / "metrics", ignore_errors=True)


def _empty_database() -> None:
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"DROP TABLE IF EXISTS {connection.ops.quote_name(table)} CASCADE")
    connections.close_all()
