"""Providers, credentials and models from a JSON file that is there before the server: TOKENHUB_CREDENTIALS_FILE.

    {"providers": [{"id": "acme", "type": "openai", "api_key": "...", "autoload_models": true}], "models": [...]}

Creates what is missing, and leaves alone what is there: somebody may have edited it. A provider with a credential waits
until the vault is open, and so do its models. The file must be its owner's alone. At start one worker does it."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Final

from django.conf import settings
from django.db import close_old_connections
from django.db.utils import DatabaseError

from providers import discovery
from providers.models import Provider
from routing import importing
from routing.models import Model
from telemetry import audit
from telemetry.logs import EventLogger
from vault.keyring import KEYRING

log = EventLogger(__name__)
MAX_BYTES: Final = 10_485_760
POLL_SECONDS: Final = 1.0


class Unusable(Exception):
    """`message` says what is wrong with the file, and quotes nothing of it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass
class Outcome:
    """Names such as `provider acme`. `waiting`: for the vault. `problems`: path and sentence."""

    created: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read(path: Path) -> dict[str, Any]:
    """Raises Unusable, FileNotFoundError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise Unusable(f"{path} cannot be read: {problem.strerror}.") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise Unusable(f"{path} is no file.")
    with os.fdopen(descriptor, "rb") as file:
        if found.st_mode & 0o077:
            raise Unusable(f"{path} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}): chmod 600 it.")
        if found.st_uid not in {os.geteuid(), 0}:
            raise Unusable(f"{path} belongs to somebody else.")
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise Unusable(f"{path} is larger than {MAX_BYTES} bytes.")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as problem:
        where = f", line {problem.lineno}" if isinstance(problem, json.JSONDecodeError) else ""
        raise Unusable(f"{path} is no JSON{where}.") from None
    if not isinstance(document, dict) or not set(document) <= {"providers", "models"}:
        raise Unusable(f"{path} must hold one object with the lists `providers` and `models`.")
    if not all(isinstance(rows, list) and all(isinstance(one, dict) for one in rows) for rows in document.values()):
        raise Unusable(f"{path}: `providers` and `models` must be lists of objects.")
    return document


def apply(document: dict[str, Any]) -> Outcome:
    """Raises DatabaseError."""
    from tokenhub import configuration  # DRF: not before there is such a file

    outcome = Outcome()
    providers = [{name: value for name, value in one.items() if name != "autoload_models"} for one in _of(document)]
    held = dict(_held(providers, document.get("models", [])))
    outcome.waiting += held.values()
    items = configuration.take_each(
        {"providers": providers, "models": document.get("models", [])}, only_new=True, held=held.keys()
    )
    for item in items:
        name = f"{item.path.partition('[')[0].removesuffix('s')} {item.id}"
        if item.action == "refused":
            outcome.problems += [f"{one.path}: {one.message}" for one in item.problems]
        else:
            (outcome.kept if item.action == "kept" else outcome.created).append(name)
    for number, one in enumerate(_of(document)):
        if one.get("autoload_models") is True and f"providers[{number}]" not in held:
            _autoload(str(one.get("id")), f"providers[{number}]", outcome)
    return outcome


def _of(document: dict[str, Any]) -> list[dict[str, Any]]:
    return list(document.get("providers", []))


def _held(providers: list[dict[str, Any]], models: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Path to name of what must wait for the vault."""
    if KEYRING.is_open:
        return
    known = set(Provider.objects.values_list("id", flat=True))
    waiting = set()
    for number, one in enumerate(providers):
        if one.get("api_key") and one.get("id") not in known:
            waiting.add(one.get("id"))
            yield f"providers[{number}]", f"provider {one.get('id')}"
    for number, one in enumerate(models):
        if one.get("provider_id") in waiting:
            yield f"models[{number}]", f"model {one.get('id')}"


def _autoload(provider_id: str, path: str, outcome: Outcome) -> None:
    """All models of a provider that has none yet."""
    provider = Provider.objects.filter(pk=provider_id).first()
    if provider is None or Model.objects.filter(provider=provider).exists():
        return
    look = discovery.best(discovery.look(provider))
    match look.problem:
        case None:
            taken = importing.take(provider=provider, offers=importing.offered(provider, look.models))
            outcome.created += [f"model {one.id}" for one in taken if one.state == "created"]
        case discovery.Problem.VAULT_LOCKED:
            outcome.waiting.append(f"models of {provider_id}")
        case _:
            outcome.problems.append(f"{path}.autoload_models: {look.message} {look.hint}")


# -- at start --------------------------------------------------------------------------------------------------------
def attend(stop: Event) -> None:
    """In a thread of its own, of every worker: one at a time works, and ends when nothing is left to wait for."""
    path: Path = settings.TOKENHUB_CREDENTIALS_FILE
    with audit.acting(audit.Origin("server", actor="credentials-file")):
        while not stop.is_set():
            waits_for_vault = False
            try:
                if _once(path):
                    return
                waits_for_vault = True
            except DatabaseError as problem:
                log.warning("credentials_file_delayed", error=type(problem).__name__)
            except Exception:  # a defect here must not end anything else, nor be silent
                log.exception("credentials_file_failed")
                return
            finally:
                close_old_connections()
            while not stop.wait(POLL_SECONDS) and waits_for_vault and not KEYRING.is_open:
                pass


def _once(path: Path) -> bool:
    """Whether nothing waits any more. Raises DatabaseError."""
    with _alone():
        try:
            outcome = apply(read(path))
        except FileNotFoundError:
            return True
        except Unusable as problem:
            log.error("credentials_file_unusable", reason=problem.message)
            return True
    for problem_text in outcome.problems:
        log.error("credentials_file_problem", reason=problem_text)
    if outcome.created or outcome.waiting:
        log.info("credentials_file", created=len(outcome.created), waiting=len(outcome.waiting))
    return not outcome.waiting


@contextmanager
def _alone() -> Iterator[None]:
    """Among the workers of this data folder."""
    with (Path(settings.TOKENHUB_DATA_DIR) / "credentials.lock").open("wb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield
