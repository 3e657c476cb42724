"""What real processes leave behind: killed amid a rotation, and of a key after it was wiped."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.gateway import environment, migrated_database

ROOT = Path(__file__).parents[2]
COUNT = 60
MAKE = f"""
services.initialize(password="password 0", parameters=Parameters(1, 64, 1))
for number in range({COUNT}):
    services.put_secret(name=f"s/{{number}}", value=f"value {{number}}")
"""
ROTATE = """
number = int(sys.argv[1])
while True:
    services.rotate(old_password=f"password {number}", new_password=f"password {number + 1}")
    number += 1
    print(number, flush=True)
"""
CHECK = f"""
last = int(sys.argv[1])
for number in (last, last + 1):
    try:
        services.unlock(password=f"password {{number}}")
        break
    except WrongPassword:
        pass
else:
    sys.exit("neither the old password nor the new one")
found = {{one.name: one.reveal() for one in services.sealed_credentials().values()}}
assert found == {{f"s/{{number}}": f"value {{number}}" for number in range({COUNT})}}, found
verdict = audit.verify()
assert not verdict.problem, verdict
print(number)
"""
HEAD = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
os.environ["DJANGO_SETTINGS_MODULE"] = "tokenhub.settings"
import django
django.setup()
from telemetry import audit
from vault import services
from vault.crypto import Parameters
from vault.errors import WrongPassword
"""


def run(script: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", HEAD + script, *arguments]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_rotation_that_is_killed_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    shutil.copyfile(migrated_database(), tmp_path / "tokenhub.sqlite3")
    run(MAKE, tmp_path)
    chance, last = random.Random(7), 0
    for _ in range(4):
        command = [sys.executable, "-c", HEAD + ROTATE, str(last)]
        with subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            last = int(process.stdout.readline())  # it is rotating now
            time.sleep(chance.uniform(0.0, 0.25))
            process.kill()
            last = max([last, *(int(line) for line in process.stdout if line.endswith("\n"))])
        last = int(run(CHECK, tmp_path, str(last)))
    assert last > 0


SCANNED = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from uuid import UUID
from vault.keyring import Keyring
key = bytes((7 * one + 3) % 256 for one in range(32))
keyring = Keyring()
keyring.load(key, UUID(int=1))
print("open", flush=True)
sys.stdin.readline()
keyring.wipe()
print("wiped", flush=True)
sys.stdin.readline()
"""


def shared_memory_of(pid: int) -> bytes:
    """All shared anonymous mappings, read from outside."""
    found = b""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            parts = re.fullmatch(r"([0-9a-f]+)-([0-9a-f]+) rw-s .*/dev/zero.*", line)
            if parts:
                start, end = int(parts[1], 16), int(parts[2], 16)
                memory.seek(start)
                found += memory.read(end - start)
    return found


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to read another process's memory")
def test_the_shared_mapping_holds_the_key_while_it_is_open_and_no_byte_of_it_afterwards() -> None:
    key = bytes((7 * one + 3) % 256 for one in range(32))
    command, pipe = [sys.executable, "-c", SCANNED], subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
            assert key in shared_memory_of(process.pid)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "wiped\n"
            left = shared_memory_of(process.pid)
            assert left
            assert not any(key[start : start + 8] in left for start in range(25))
        finally:
            process.send_signal(signal.SIGKILL)
