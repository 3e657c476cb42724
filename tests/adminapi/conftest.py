from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from pytest_django import Settings

from providers.models import CredentialStore, Provider, ProviderType
from routing.models import Model
from tests.admin.conftest import keyring, open_vault, quick_passwords  # noqa: F401  fixtures
from tests.adminapi.api import Api
from tokenhub import admin_token


@pytest.fixture(autouse=True)
def data_folder(settings: Settings, tmp_path: Path) -> Path:
    settings.TOKENHUB_DATA_DIR = tmp_path
    settings.TOKENHUB_ADMIN_TOKEN = ""
    admin_token.THROTTLE.clear()
    return tmp_path


@pytest.fixture
def api(db: None) -> Api:
    """With the admin token."""
    return Api(admin_token.current())


@pytest.fixture
def nobody(db: None) -> Api:
    return Api()


@pytest.fixture
def staff(db: None) -> Callable[..., Api]:
    """A logged-in staff user with these permissions, such as `providers.view_provider`."""

    def make(*permissions: str, is_staff: bool = True) -> Api:
        user = User.objects.create_user(f"clerk-{len(permissions)}-{is_staff}", password="x", is_staff=is_staff)
        for one in permissions:
            app, _, codename = one.partition(".")
            user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
        client = Client()
        client.force_login(user)
        return Api(client=client)

    return make


@pytest.fixture
def provider(db: None) -> Provider:
    return Provider.objects.create(
        id="org/box", type=ProviderType.VLLM, base_url="http://10.0.0.5:8000", cred_store=CredentialStore.NONE
    )


@pytest.fixture
def model(provider: Provider) -> Model:
    return Model.objects.create(id="org/model/one", provider=provider, weight=6, input_per_1k="0.001", output_per_1k=0)
