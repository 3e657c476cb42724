"""The vault's control socket: `manage.py vault unlock` and `lock` reach a running server through it. Its master process
listens; that shares the keyring with its workers, so what it opens is open in all. One JSON line in, one out.

Who may talk: the server's own user, and root, by the kernel's word (SO_PEERCRED); the file has mode 0600."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

from django.db import connections
from django.db.utils import DatabaseError

from telemetry import audit
from telemetry.logs import EventLogger
from vault import services
from vault.errors import (
    AlreadyInitialized,
    Damaged,
    NotInitialized,
    ServerNotRunning,
    TooManyAttempts,
    VaultError,
    WeakPassword,
    WrongPassword,
)

log = EventLogger(__name__)
MAX_LINE_BYTES = 65_536
PATIENCE_SECONDS = 10.0
MAX_PATH_BYTES = 107  # of an address of this kind, by the kernel
_KINDS: dict[str, type[VaultError]] = {
    "wrong_password": WrongPassword,
    "weak_password": WeakPassword,
    "not_initialized": NotInitialized,
    "already_initialized": AlreadyInitialized,
    "damaged": Damaged,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class ControlServer:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener: socket.socket | None = None
        self._answering = threading.Lock()

    def start(self) -> None:
        """Where the socket cannot be made there is a line in the log, and the server serves without it."""
        if _is_too_long(self._path):
            log.error("vault_socket_not_made", reason="the path of the data folder is too long for a socket")
            return
        try:
            if _is_live(self._path):
                log.error("vault_socket_not_made", reason="another server on this data folder has it")
                return
            self._path.unlink(missing_ok=True)  # of a server that was killed
            listener = _listen(self._path)
        except OSError as problem:
            log.error("vault_socket_not_made", reason=str(problem))
            return
        self._listener = listener
        # A worker that is forked amid an answer would inherit held locks and a database connection in use.
        os.register_at_fork(
            before=self._answering.acquire, after_in_parent=self._answering.release, after_in_child=self._forget
        )
        threading.Thread(target=self._serve, args=(listener,), name="vault-control", daemon=True).start()

    def stop(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread; closing alone would not
            listener.close()
            self._path.unlink(missing_ok=True)

    def _forget(self) -> None:
        """In a worker: the socket is the master's, and must end with it."""
        self._answering.release()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def _serve(self, listener: socket.socket) -> None:
        while self._listener is listener:
            try:
                connection, _ = listener.accept()
            except OSError as problem:
                if self._listener is listener:  # nobody stopped it; say, there are no file descriptors left
                    log.warning("vault_socket_failed", reason=str(problem))
                    time.sleep(1.0)
                continue
            with connection:
                try:
                    self._converse(connection)
                except OSError as problem:
                    log.warning("vault_socket_failed", reason=str(problem))
                except Exception:  # the thread must outlive a defect: it is how the vault is locked
                    log.exception("vault_socket_failed")

    def _converse(self, connection: socket.socket) -> None:
        if (uid := _peer(connection)) not in {0, os.getuid()}:
            log.warning("vault_socket_refused", uid=uid)
            return
        line = _read_line(connection, PATIENCE_SECONDS)
        with self._answering, audit.acting(audit.Origin("socket", actor=_name(uid))):
            try:
                answer = _answer(line)
            finally:
                connections.close_all()  # of this thread: it may be long until the next request
        connection.settimeout(PATIENCE_SECONDS)
        connection.sendall(json.dumps(answer).encode() + b"\n")


def _is_too_long(path: Path) -> bool:
    return len(os.fsencode(path)) > MAX_PATH_BYTES


def _is_live(path: Path) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # at no moment may others connect
    try:
        listener.bind(os.fspath(path))
        listener.listen(64)  # a client whose connection has no place is refused at once
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _peer(connection: socket.socket) -> int:
    """The user id at the other end."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _read_line(connection: socket.socket, seconds: float) -> bytes:
    """What comes before the newline, or before the end. Raises TimeoutError, and OSError when it is too long."""
    deadline = time.monotonic() + seconds
    data = b""
    while b"\n" not in data:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        more = connection.recv(4096)
        if not more:
            break
        data += more
        if len(data) > MAX_LINE_BYTES:
            raise OSError("a line of more than 64 KiB")
    return data.partition(b"\n")[0]


def _text(value: object) -> str:
    """Raises ValueError where it is none, or has no UTF-8."""
    if not isinstance(value, str):
        raise ValueError("no text")
    value.encode("utf-8")
    return value


def _answer(line: bytes) -> dict[str, Any]:
    bad = {"ok": False, "error": "bad_request", "message": "This is no request."}
    try:
        asked = json.loads(line)
        do, password, new_password = (_text(asked.get(name, "")) for name in ("do", "password", "new_password"))
    except (ValueError, AttributeError, RecursionError):
        return bad
    try:
        match do:
            case "status":
                pass
            case "unlock":
                services.unlock_or_initialize(password=password)
            case "lock":
                services.lock()
            case "rotate":
                services.rotate(old_password=password, new_password=new_password)
            case _:
                return bad
        state = services.status()
    except TooManyAttempts as problem:
        wait = {"retry_after_seconds": problem.retry_after_seconds}
        return {"ok": False, "error": "too_many_attempts", "message": problem.message, **wait}
    except VaultError as problem:
        return {"ok": False, "error": _NAMES.get(type(problem), "vault_error"), "message": problem.message}
    except DatabaseError:
        log.exception("vault_socket_failed")
        message = "The server cannot use its database; its log says why. `/readyz` shows when it can again."
        return {"ok": False, "error": "database", "message": message}
    return {"ok": True, "initialized": state.initialized, "locked": state.locked, "secrets": state.secrets}


class ControlClient:
    """Every method raises what the service raises; ServerNotRunning when nobody listens; and a plain VaultError when a
    server listens and does not answer, or must not be asked."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def status(self) -> services.Status:
        return self._ask(do="status")

    def unlock(self, *, password: str) -> services.Status:
        """Makes the vault if there is none."""
        return self._ask(do="unlock", password=password)

    def lock(self) -> services.Status:
        return self._ask(do="lock")

    def rotate(self, *, old_password: str, new_password: str) -> services.Status:
        return self._ask(do="rotate", password=old_password, new_password=new_password)

    def _ask(self, **request: str) -> services.Status:
        answer = self._exchange(json.dumps(request).encode() + b"\n")
        if answer["ok"]:
            return services.Status(answer["initialized"], answer["locked"], answer["secrets"])
        if answer["error"] == "too_many_attempts":
            raise TooManyAttempts(answer["retry_after_seconds"])
        raise _KINDS.get(answer["error"], VaultError)(answer["message"])

    def _exchange(self, line: bytes) -> dict[str, Any]:
        if len(line) > MAX_LINE_BYTES:
            raise VaultError("This is too long for a password. Is it the right file?")
        if _is_too_long(self._path):
            raise VaultError(
                "The path of the data folder is too long for a control socket. Use the vault's page in the admin, or a"
                " TOKENHUB_DATA_DIR of at most 96 bytes."
            )
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(PATIENCE_SECONDS)
                connection.connect(os.fspath(self._path))
                connection.sendall(line)
                answer: dict[str, Any] = json.loads(_read_line(connection, PATIENCE_SECONDS * 3))
        except (FileNotFoundError, ConnectionRefusedError):
            raise ServerNotRunning from None
        except PermissionError:
            raise VaultError("Only the server's own user and root may ask it. Run this as that user.") from None
        except (OSError, ValueError):
            raise VaultError(
                "The server did not answer; its log says why. `manage.py vault status` tells whether it was done."
            ) from None
        return answer
