from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway, run_manage
from tests.support.upstream import Upstream
from vault import control, services
from vault.control import MAX_LINE_BYTES, ControlClient, ControlServer
from vault.crypto import Parameters
from vault.errors import ServerNotRunning, TooManyAttempts, VaultError, WeakPassword, WrongPassword
from vault.keyring import KEYRING

PASSWORD = "the first password"
OTHER = "the second password"
WRONG = "not the password"
CHEAP = Parameters(passes=1, memory_kib=64, lanes=1)


@pytest.fixture
def path() -> Iterator[Path]:
    """In a folder with a short name: pytest's own are too long for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="vault-"))
    yield folder / "vault.sock"
    shutil.rmtree(folder)


@pytest.fixture
def server(path: Path, transactional_db: None) -> Iterator[ControlServer]:
    """Listens in this process, on a vault that is made and locked."""
    before = KEYRING._page[:]
    services.THROTTLE.right()
    services.initialize(password=PASSWORD, parameters=CHEAP)
    services.put_secret(name="provider:a", value="sk-a")
    services.lock()
    server = ControlServer(path)
    server.start()
    yield server
    server.stop()
    services.THROTTLE.right()
    KEYRING._page[:] = before


@pytest.fixture
def client(server: ControlServer, path: Path) -> ControlClient:
    return ControlClient(path)


def connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(20)
    connection.connect(str(path))
    return connection


def say(path: Path, line: bytes) -> bytes:
    """What comes back for raw bytes; nothing when the connection is closed without a word."""
    with connected(path) as connection:
        try:
            connection.sendall(line)
            return connection.makefile("rb").readline()
        except (ConnectionResetError, BrokenPipeError):
            return b""


def ask(path: Path, **request: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(say(path, json.dumps(request).encode() + b"\n"))
    return answer


# -- the conversation --------------------------------------------------------------------------------------------
def test_unlock_and_lock_answer_with_the_state_they_made(client: ControlClient) -> None:
    locked, opened = services.Status(True, True, 1), services.Status(True, False, 1)
    assert client.status() == locked
    assert client.unlock(password=PASSWORD) == opened
    assert services.sealed_credentials()["provider:a"].reveal() == "sk-a"
    assert client.status() == opened
    assert client.lock() == locked
    assert not KEYRING.is_open


def test_rotate_changes_the_password(client: ControlClient) -> None:
    client.unlock(password=PASSWORD)
    assert client.rotate(old_password=PASSWORD, new_password=OTHER) == services.Status(True, False, 1)
    assert services.sealed_credentials()["provider:a"].reveal() == "sk-a"
    with pytest.raises(WrongPassword):
        client.unlock(password=PASSWORD)


def test_the_client_raises_what_the_service_raised(client: ControlClient) -> None:
    with pytest.raises(WeakPassword):
        client.rotate(old_password=PASSWORD, new_password="short")
    for _ in range(5):
        with pytest.raises(WrongPassword) as wrong:
            client.unlock(password=WRONG)
        assert wrong.value.message == WrongPassword.message
    with pytest.raises(TooManyAttempts) as many:
        client.unlock(password=PASSWORD)
    assert 0 < many.value.retry_after_seconds <= 1


def test_one_json_line_is_answered_by_one_json_line(server: ControlServer, path: Path) -> None:
    assert ask(path, do="status") == {"ok": True, "initialized": True, "locked": True, "secrets": 1}
    assert ask(path, do="unlock", password=WRONG) == {
        "ok": False,
        "error": "wrong_password",
        "message": WrongPassword.message,
    }


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"\xff\xfe\n",
        b'{"do": "open"}\n',
        b'{"do": ["lock"]}\n',
        b'{"do": "unlock", "password": null}\n',
        b'{"do": "unlock", "password": "\\ud800"}\n',
        b"[" * 60_000 + b"\n",
    ],
    ids=lambda line: line[:40].decode("latin-1").strip(),
)
def test_what_is_no_request_is_told_so_and_changes_nothing(client: ControlClient, path: Path, line: bytes) -> None:
    assert json.loads(say(path, line))["error"] == "bad_request"
    assert client.status().locked


@pytest.mark.parametrize(
    "line",
    [b"x" * (MAX_LINE_BYTES + 1) + b"\n", b'{"do": "lock", "x": "' + b"x" * 1_000_000],
    ids=["a line that is too long", "no end"],
)
def test_more_than_64_kib_is_hung_up_on(client: ControlClient, path: Path, line: bytes) -> None:
    assert say(path, line) == b""
    assert client.status().locked


def test_one_who_says_nothing_is_hung_up_on_and_the_next_is_served(
    client: ControlClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PATIENCE_SECONDS", 0.2)
    with connected(path) as silent:
        assert client.status().locked
        assert silent.recv(1) == b""


def drip(connection: socket.socket) -> None:
    """Two seconds of a line that does not end."""
    for _ in range(40):
        connection.sendall(b"x")
        time.sleep(0.05)


def test_the_time_of_a_request_is_bounded_however_slowly_it_drips(
    client: ControlClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PATIENCE_SECONDS", 0.3)
    with connected(path) as slow, pytest.raises((BrokenPipeError, ConnectionResetError)):
        drip(slow)
    assert client.status().locked


def test_one_who_leaves_before_the_answer_does_not_end_the_server(client: ControlClient, path: Path) -> None:
    for _ in range(5):
        connected(path).close()
        with connected(path) as connection:
            connection.sendall(b'{"do": "status"}\n')
    assert client.status().locked


def test_a_defect_in_an_answer_does_not_end_the_server(client: ControlClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(services, "status", None)
        with pytest.raises(VaultError, match="did not answer"):
            client.status()
    assert client.status().locked


def test_a_server_without_file_descriptors_answers_again_when_it_has_some(
    client: ControlClient, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with connected(path) as connection:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            connection.sendall(b'{"do": "status"}\n')  # the accept after this one is the one that fails
            Gateway.wait_until(lambda: "vault_socket_failed" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert client.status().locked


# -- who may talk ------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("server")
def test_the_socket_is_for_its_owner_alone(path: Path) -> None:
    assert path.is_socket()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("server")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_gets_no_answer_even_where_the_files_mode_would_let_them(path: Path) -> None:
    """Debian's user `nobody` is 65534; here the file's mode is opened on purpose, and the kernel's word decides."""
    path.parent.chmod(0o755)
    code = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "with socket.socket(socket.AF_UNIX) as connection:\n"
        "    connection.settimeout(20)\n"
        "    try:\n"
        "        connection.connect(sys.argv[1])\n"
        '        connection.sendall(b\'{"do": "status"}\\n\')\n'
        "        print(connection.recv(1000))\n"
        "    except OSError as problem:\n"
        "        print(type(problem).__name__)\n"
    )

    def as_nobody() -> str:
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert as_nobody() == "PermissionError"
    path.chmod(0o666)
    assert as_nobody() in {"b''", "ConnectionResetError", "BrokenPipeError"}


# -- the file ----------------------------------------------------------------------------------------------------
def test_nobody_listening_is_told_apart(path: Path) -> None:
    with pytest.raises(ServerNotRunning):
        ControlClient(path).status()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with pytest.raises(ServerNotRunning):
        ControlClient(path).status()


def test_a_server_that_listens_but_does_not_answer_is_not_taken_for_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PATIENCE_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as dumb:
        dumb.bind(str(path))
        dumb.listen()
        with pytest.raises(VaultError, match="did not answer") as caught:
            ControlClient(path).lock()
    assert type(caught.value) is VaultError


@pytest.mark.django_db(transaction=True)
def test_a_socket_left_by_a_killed_server_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    server = ControlServer(path)
    server.start()
    try:
        assert not ControlClient(path).status().initialized
    finally:
        server.stop()
    assert not path.exists()


def test_a_second_server_leaves_the_firsts_socket_alone(
    client: ControlClient, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    second = ControlServer(path)
    second.start()
    assert "vault_socket_not_made" in caplog.text
    second.stop()
    assert client.status().secrets == 1


def test_stopping_ends_the_thread_and_removes_the_file(server: ControlServer, path: Path) -> None:
    assert "vault-control" in {thread.name for thread in threading.enumerate()}
    server.stop()
    Gateway.wait_until(lambda: "vault-control" not in {thread.name for thread in threading.enumerate()})
    assert not path.exists()
    server.stop()


@pytest.mark.parametrize("name", ["x" * 200, "missing/folder"])
def test_a_socket_that_cannot_be_made_is_a_line_in_the_log(
    path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = ControlServer(path.parent / name)
    server.start()
    assert [record.getMessage() for record in caplog.records] == ["vault_socket_not_made"]
    server.stop()


def test_a_path_too_long_for_a_socket_is_named_by_the_client(path: Path) -> None:
    with pytest.raises(VaultError, match="too long") as caught:
        ControlClient(path.parent / ("x" * 200)).status()
    assert not isinstance(caught.value, ServerNotRunning)


# -- forks -------------------------------------------------------------------------------------------------------
def test_a_forked_worker_does_not_keep_the_socket_open(server: ControlServer, path: Path) -> None:
    """Else a new server would take a killed one's worker for a server."""
    pause = get_context("fork").Event()
    worker = get_context("fork").Process(target=pause.wait, args=(20,), daemon=True)
    worker.start()
    try:
        again = path.with_name("again")
        os.link(path, again)  # stopping removes the other name
        server.stop()
        Gateway.wait_until(lambda: not is_listening(again))
        assert worker.is_alive()
    finally:
        pause.set()
        worker.join(10)


def is_listening(path: Path) -> bool:
    try:
        ControlClient(path).status()
    except ServerNotRunning:
        return False
    except VaultError:
        return True
    return True


def test_a_fork_amid_an_answer_inherits_no_held_lock(client: ControlClient) -> None:
    """Workers are forked again while the thread may be deriving a key."""
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            client.unlock(password=PASSWORD)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        for _ in range(20):
            worker = get_context("fork").Process(target=derive_once)
            worker.start()
            worker.join(10)
            assert worker.exitcode == 0
            worker.kill()
    finally:
        stop.set()
        asking.join()


def derive_once() -> None:
    assert services.THROTTLE.deriving.acquire(timeout=5)
    KEYRING.wipe()


# -- secrets -----------------------------------------------------------------------------------------------------
def test_no_password_is_echoed_or_logged(client: ControlClient, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said = [say(path, b'{"do": "unlock", "password": "%s"}\n' % password.encode()) for password in (WRONG, PASSWORD)]
    said.append(say(path, b'{"do": "unlock", "password": "%s"\n' % OTHER.encode()))
    said.append(json.dumps(ask(path, do="rotate", password=PASSWORD, new_password=OTHER)).encode())
    logged = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "vault_wrong_password" in logged
    for password in (WRONG, PASSWORD, OTHER):
        assert password not in logged
        assert password not in b"".join(said).decode()


# -- a real server -----------------------------------------------------------------------------------------------
def test_a_credential_works_in_every_worker_after_unlock_rotate_and_not_after_lock(tmp_path: Path) -> None:
    """Two workers; the vault is opened, rotated and locked from outside while they run."""
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "new").write_text(OTHER)
    without = {"TOKENHUB_VAULT_PASSWORD": ""}
    data = Path(tempfile.mkdtemp(prefix="vault-"))
    with Upstream() as upstream:
        provider = {"id": "p", "type": "openai", "base_url": upstream.url}
        gateway = Gateway(
            data, workers=2, env={"TOKENHUB_VAULT_PASSWORD": PASSWORD},
            providers=[{**provider, "credential": "sk-live"}], models=[{"id": "m", "provider_id": "p"}],
        )  # fmt: skip
        gateway.env = without

        def vault(*arguments: str) -> str:
            return run_manage("vault", *arguments, folder=data, env=without)

        def statuses() -> set[int]:
            return {gateway.chat("m").status_code for _ in range(12)}

        with gateway:
            assert statuses() == {503}
            vault("unlock", "--password-file", str(tmp_path / "password"))
            assert statuses() == {200}
            rotated = vault(
                "rotate", "--password-file", str(tmp_path / "password"), "--new-password-file", str(tmp_path / "new")
            )
            assert "1 secrets are sealed anew" in rotated
            Gateway.wait_until(lambda: statuses() == {200})
            assert "vault: open" in vault("status")
            vault("lock")
            assert statuses() == {503}
            assert {request.headers["authorization"] for request in upstream.requests} == {"Bearer sk-live"}
            log = gateway.log()
            gateway.stop()
        assert not (data / "vault.sock").exists()
    assert [word for word in (PASSWORD, OTHER, "sk-live") if word in log] == []
    shutil.rmtree(data)
