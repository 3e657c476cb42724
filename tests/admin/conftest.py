from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from vault import services
from vault.crypto import Parameters
from vault.keyring import KEYRING

VAULT_PASSWORD = "the vault's password"
CHEAP = Parameters(passes=1, memory_kib=64, lanes=1)


@pytest.fixture(autouse=True)
def quick_passwords(settings: Settings) -> None:
    """The real hash takes a third of a second by design."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def keyring() -> Iterator[None]:
    """It belongs to the process: closed before each test, as it was after it."""
    before = KEYRING._page[:]
    KEYRING.wipe()
    services.THROTTLE.right()
    yield
    services.THROTTLE.right()
    KEYRING._page[:] = before


@pytest.fixture
def open_vault(db: None) -> None:
    services.initialize(password=VAULT_PASSWORD, parameters=CHEAP)


@pytest.fixture
def staff_client(db: None) -> Client:
    """Somebody who may enter the admin, and nothing in it."""
    client = Client()
    client.force_login(User.objects.create_user("clerk", password="x", is_staff=True))
    return client
