"""The vault's control socket: `manage.py vault unlock` and `lock` reach a running server through it. Its master process
listens; that shares the keyring with its workers, so what it opens is open in all. One JSON line in, one out.

Who may talk: the server's own user, and root, by the kernel's word (SO_PEERCRED); the file has mode 0600."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

from django.db import close_old_connections
from django.db.utils import DatabaseError

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
_ERRORS: dict[str, type[VaultError]] = {
    kind.__name__: kind for kind in (WrongPassword, WeakPassword, NotInitialized, AlreadyInitialized, Damaged)
}


class ControlServer:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Serves without it, with a line in the log, when the socket cannot be made."""
        if len(os.fsencode(self._path)) > MAX_PATH_BYTES:
            log.error("vault_socket_not_made", reason="the path of the data folder is too long for a socket")
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._path.unlink(missing_ok=True)  # of a server that was killed
            listener.bind(os.fspath(self._path))
            listener.listen(4)
        except OSError as problem:
            log.error("vault_socket_not_made", reason=str(problem))
            listener.close()
            return
        finally:
            os.umask(before)
        self._socket = listener
        threading.Thread(target=self._serve, args=(listener,), name="vault-control", daemon=True).start()

    def stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._path.unlink(missing_ok=True)

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # it was stopped
            with connection:
                try:
                    connection.settimeout(PATIENCE_SECONDS)
                    if _peer(connection) in {0, os.getuid()}:
                        connection.sendall(json.dumps(_answer(_read_line(connection))).encode() + b"\n")
                except OSError as problem:
                    log.warning("vault_socket_failed", reason=str(problem))
                except Exception:  # the thread must outlive a defect: it is how the vault is locked
                    log.exception("vault_socket_failed")
                finally:
                    close_old_connections()


def _peer(connection: socket.socket) -> int:
    """The user id at the other end."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


def _read_line(connection: socket.socket) -> bytes:
    data = b""
    while b"\n" not in data and len(data) <= MAX_LINE_BYTES and (more := connection.recv(4096)):
        data += more
    return data.partition(b"\n")[0]


def _answer(line: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(line)
        do, password, new_password = (str(asked.get(name, "")) for name in ("do", "password", "new_password"))
    except (ValueError, AttributeError, RecursionError):
        return {"ok": False, "error": "BadRequest", "message": "This is no request."}
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
                return {"ok": False, "error": "BadRequest", "message": "This is no request."}
        state = services.status()
    except TooManyAttempts as problem:
        return {"ok": False, "error": "TooManyAttempts", "retry_after_seconds": problem.retry_after_seconds}
    except VaultError as problem:
        return {"ok": False, "error": type(problem).__name__, "message": problem.message}
    except DatabaseError:
        log.exception("vault_socket_failed")
        return {"ok": False, "error": "VaultError", "message": "The server cannot reach its database."}
    return {"ok": True, "initialized": state.initialized, "locked": state.locked, "secrets": state.secrets}


class ControlClient:
    """Every method raises ServerNotRunning, and what the service raises."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def status(self) -> services.Status:
        return self._ask(do="status")

    def unlock(self, *, password: str) -> services.Status:
        return self._ask(do="unlock", password=password)

    def lock(self) -> services.Status:
        return self._ask(do="lock")

    def rotate(self, *, old_password: str, new_password: str) -> services.Status:
        return self._ask(do="rotate", password=old_password, new_password=new_password)

    def _ask(self, **request: str) -> services.Status:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(PATIENCE_SECONDS * 3)  # a derivation may have to wait for another
                connection.connect(os.fspath(self._path))
                connection.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(_read_line(connection))
        except (OSError, ValueError):
            raise ServerNotRunning from None
        if answer["ok"]:
            return services.Status(answer["initialized"], answer["locked"], answer["secrets"])
        if answer["error"] == "TooManyAttempts":
            raise TooManyAttempts(answer["retry_after_seconds"])
        raise _ERRORS.get(answer["error"], VaultError)(answer.get("message", ""))
