"""`manage.py vault`, called in this process on the test database; as a process where a terminal or a server matters."""

from __future__ import annotations

import io
import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from tests.support.gateway import ROOT, Gateway, environment, migrated_database
from vault import services
from vault.crypto import Parameters
from vault.errors import WrongPassword
from vault.keyring import KEYRING

PASSWORD = "the first password"
OTHER = "the second password"
WRONG = "not the password"
CHEAP = Parameters(passes=1, memory_kib=64, lanes=1)
NO_PASSWORD = {"TOKENHUB_VAULT_PASSWORD": ""}


@pytest.fixture(autouse=True)
def no_server(settings: Settings, tmp_path: Path) -> Iterator[None]:
    """A data folder without a socket, in a place that is short enough for one."""
    folder = Path(tempfile.mkdtemp(prefix="vault-"))
    before = KEYRING._page[:]
    KEYRING.wipe()
    services.THROTTLE.right()
    settings.TOKENHUB_DATA_DIR = folder
    settings.TOKENHUB_VAULT_PASSWORD = ""
    yield
    services.THROTTLE.right()
    KEYRING._page[:] = before
    shutil.rmtree(folder)


@pytest.fixture
def data(settings: Settings) -> Path:
    """A migrated data folder, for processes."""
    folder: Path = settings.TOKENHUB_DATA_DIR
    shutil.copyfile(migrated_database(), folder / "tokenhub.sqlite3")
    return folder


@pytest.fixture
def vault(db: None) -> None:
    services.initialize(password=PASSWORD, parameters=CHEAP)
    services.put_secret(name="provider:a", value="sk-a")
    services.lock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "password", PASSWORD + "\n")


@pytest.fixture
def new_file(tmp_path: Path) -> Path:
    return written(tmp_path / "new", OTHER + "\r\n")


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def run(*arguments: str | Path) -> str:
    out = io.StringIO()
    call_command("vault", *map(str, arguments), stdout=out)
    return out.getvalue()


def refusal(*arguments: str | Path) -> str:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    return str(caught.value)


def process(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Whatever happens, there is no traceback."""
    done = subprocess.run(
        [sys.executable, ROOT / "manage.py", "vault", *arguments],
        env=environment(folder, NO_PASSWORD), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


# -- without a server --------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_status_works_without_a_server_and_without_a_vault() -> None:
    assert run("status") == "server: not running\nvault: not made yet\nsecrets: 0\n"


@pytest.mark.usefixtures("vault")
def test_status_says_how_many_secrets_there_are() -> None:
    assert run("status") == "server: not running\nvault: locked\nsecrets: 1\n"


@pytest.mark.django_db
def test_status_names_a_data_folder_too_deep_for_a_socket(settings: Settings) -> None:
    settings.TOKENHUB_DATA_DIR = settings.TOKENHUB_DATA_DIR / ("x" * 200)
    assert "server: not known. The path of the data folder is too long" in run("status")


@pytest.mark.django_db
def test_init_makes_a_vault_that_its_password_opens(file: Path) -> None:
    assert "The vault is made" in run("init", "--password-file", file)
    services.lock()
    services.unlock(password=PASSWORD)


@pytest.mark.usefixtures("vault")
def test_init_over_a_vault_is_refused_and_names_rotate(new_file: Path) -> None:
    assert "`manage.py vault rotate`" in refusal("init", "--password-file", new_file)
    services.unlock(password=PASSWORD)


@pytest.mark.django_db
def test_init_refuses_a_short_password(tmp_path: Path) -> None:
    assert "at least 8 characters" in refusal("init", "--password-file", written(tmp_path / "short", "1234567\n"))
    assert not services.status().initialized


@pytest.mark.usefixtures("vault")
@pytest.mark.parametrize("action", ["unlock", "lock"])
def test_unlock_and_lock_need_a_server_and_say_what_starts_one(action: str) -> None:
    assert refusal(action) == "No server is running on this data folder. `manage.py serve` starts it."


@pytest.mark.usefixtures("vault")
def test_rotate_works_without_a_server(file: Path, new_file: Path) -> None:
    said = run("rotate", "--password-file", file, "--new-password-file", new_file)
    assert said == "The password is changed; 1 secrets are sealed anew.\n"
    with pytest.raises(WrongPassword):
        services.unlock(password=PASSWORD)
    services.unlock(password=OTHER)
    assert services.sealed_credentials()["provider:a"].reveal() == "sk-a"


@pytest.mark.usefixtures("vault")
def test_rotate_with_a_wrong_password_changes_nothing(tmp_path: Path, new_file: Path) -> None:
    wrong = written(tmp_path / "wrong", WRONG)
    said = refusal("rotate", "--password-file", wrong, "--new-password-file", new_file)
    assert said == "This is not the vault's password. Nothing was changed."
    services.unlock(password=PASSWORD)


@pytest.mark.django_db
def test_rotate_without_a_vault_says_what_makes_one(file: Path, new_file: Path) -> None:
    assert "`manage.py vault init`" in refusal("rotate", "--password-file", file, "--new-password-file", new_file)


@pytest.mark.usefixtures("vault")
def test_rotate_does_not_go_past_a_server_that_listens_but_does_not_answer(
    settings: Settings, file: Path, new_file: Path
) -> None:
    """It would leave that server with a data key that opens nothing."""
    with socket.socket(socket.AF_UNIX) as hangs_up:
        hangs_up.bind(str(settings.TOKENHUB_DATA_DIR / "vault.sock"))
        hangs_up.listen()
        pid = os.fork()
        if pid == 0:
            hangs_up.accept()[0].close()
            os._exit(0)
        said = refusal("rotate", "--password-file", file, "--new-password-file", new_file)
        os.waitpid(pid, 0)
    assert "did not answer" in said
    services.unlock(password=PASSWORD)


# -- where the password comes from -------------------------------------------------------------------------------
@pytest.mark.django_db
def test_a_passwords_own_spaces_belong_to_it_and_the_files_line_end_does_not(tmp_path: Path) -> None:
    run("init", "--password-file", written(tmp_path / "spaces", "  with spaces  \r\n"))
    services.unlock(password="  with spaces  ")


@pytest.mark.usefixtures("vault")
def test_the_environment_gives_the_present_password_but_never_the_new_one(settings: Settings, new_file: Path) -> None:
    settings.TOKENHUB_VAULT_PASSWORD = PASSWORD
    assert "--new-password-file" in refusal("rotate")
    said = run("rotate", "--new-password-file", new_file)
    assert "Change TOKENHUB_VAULT_PASSWORD" in said
    services.unlock(password=OTHER)


@pytest.mark.usefixtures("vault")
def test_a_file_wins_over_the_environment(settings: Settings, file: Path, new_file: Path) -> None:
    settings.TOKENHUB_VAULT_PASSWORD = WRONG
    run("rotate", "--password-file", file, "--new-password-file", new_file)


@pytest.mark.django_db
def test_a_file_that_cannot_be_used_is_named_with_the_cause(tmp_path: Path) -> None:
    assert refusal("init", "--password-file", tmp_path / "none") == (
        f"{tmp_path / 'none'} cannot be read: No such file or directory."
    )
    assert "Is a directory" in refusal("init", "--password-file", tmp_path)
    (tmp_path / "binary").write_bytes(b"secret\xff")
    assert "is no text in UTF-8" in refusal("init", "--password-file", tmp_path / "binary")


@pytest.mark.django_db
def test_without_a_terminal_the_option_to_use_is_named(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(PASSWORD))
    assert "--password-file" in refusal("init")
    assert "--new-password-file" in refusal("rotate", "--password-file", file)
    assert not services.status().initialized


@pytest.mark.parametrize("arguments", [("init", PASSWORD), ("unlock", PASSWORD), ("unlock", "--password", PASSWORD)])
def test_a_password_is_never_an_argument(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        run(*arguments)


# -- at a terminal -----------------------------------------------------------------------------------------------
class Terminal:
    """`manage.py vault …` at a terminal of its own, and what stands on it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "manage.py", "vault", *arguments],
            env=environment(folder, NO_PASSWORD), stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.screen = ""

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 30
        while text not in self.screen:
            assert select.select([self._master], [], [], deadline - time.monotonic())[0], self.screen
            self._read()

    def _read(self) -> bool:
        try:
            more = os.read(self._master, 4096)
        except OSError:  # how a terminal ends
            return False
        self.screen += more.decode()
        return bool(more)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> str:
        while self._read():
            pass
        self.process.wait(timeout=30)
        os.close(self._master)
        assert "Traceback" not in self.screen
        return self.screen


def test_a_new_password_is_asked_for_twice_and_not_shown(data: Path) -> None:
    terminal = Terminal(data, "init")
    terminal.wait_for("New vault password: ")
    terminal.type(f"{PASSWORD}\n")
    terminal.wait_for("The same again: ")
    terminal.type(f"{PASSWORD}\n")
    assert "The vault is made" in terminal.end()
    assert PASSWORD not in terminal.screen
    assert terminal.process.returncode == 0


def test_two_different_new_passwords_change_nothing(data: Path) -> None:
    terminal = Terminal(data, "init")
    terminal.wait_for("New vault password: ")
    terminal.type(f"{PASSWORD}\n")
    terminal.wait_for("The same again: ")
    terminal.type(f"{OTHER}\n")
    assert "The two passwords differ. Nothing was changed." in terminal.end()
    assert terminal.process.returncode == 1
    assert "not made yet" in process(data, "status").stdout


def test_leaving_the_prompt_is_no_accident(data: Path) -> None:
    terminal = Terminal(data, "init")
    terminal.wait_for("New vault password: ")
    terminal.type("\x04")
    assert "No password was given. Nothing was changed." in terminal.end()
    assert terminal.process.returncode == 1


# -- as a process ------------------------------------------------------------------------------------------------
def test_a_database_without_tables_is_a_sentence_that_names_migrate(tmp_path: Path, file: Path) -> None:
    for arguments in (["status"], ["init", "--password-file", file]):
        done = process(tmp_path, *arguments)
        assert done.returncode == 1
        assert "Has `manage.py migrate` run?" in done.stderr


def test_a_running_server_is_asked_and_its_refusals_are_sentences(data: Path, tmp_path: Path, file: Path) -> None:
    assert process(data, "init", "--password-file", file).returncode == 0
    wrong = written(tmp_path / "wrong", WRONG)
    with Gateway(data, workers=2, env=NO_PASSWORD) as gateway:
        assert process(data, "status").stdout == "server: running\nvault: locked\nsecrets: 0\n"
        said = "This is not the vault's password. Nothing was changed."
        assert process(data, "unlock", "--password-file", wrong).stderr == f"CommandError: {said}\n"
        assert [refusal("unlock", "--password-file", wrong) for _ in range(4)] == [said] * 4
        soon = process(data, "unlock", "--password-file", file)
        if soon.returncode:  # the wait after the fifth is one second, and a process may take longer to start
            assert "Too many wrong passwords. Try again in" in soon.stderr
            time.sleep(1)
            soon = process(data, "unlock", "--password-file", file)
        assert soon.stdout == "The vault is open.\n"
        assert process(data, "lock").stdout == "The vault is locked.\n"
        assert {gateway.get("/readyz").json()["vault"] for _ in range(12)} == {"locked"}
        assert [word for word in (PASSWORD, WRONG) if word in gateway.log()] == []
