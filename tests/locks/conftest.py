"""An installation on PostgreSQL, on which this process's Django works: fixtures of the tests of locks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db.models import Model as Row
from django.test import Client

import tokenhub.urls  # noqa: F401  registers the pages
from keys import services as keys
from keys.models import Project
from providers import services as providers
from providers.models import CredentialStore, Provider
from routing import services as routing
from routing.models import Model, RoutingDefaults
from telemetry.models import AuditEntry, Webhook
from tests.admin.conftest import CHEAP, VAULT_PASSWORD, keyring, quick_passwords  # noqa: F401  fixtures
from tests.admin.samples import SAMPLES
from tests.support import postgres
from vault import services as vault
from vault.models import Secret

Do = Callable[[], Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[postgres.Postgres]:
    with postgres.Postgres(migrated=True) as running:
        yield running


@pytest.fixture
def database(cluster: postgres.Postgres, django_db_blocker: Any) -> Iterator[postgres.Postgres]:
    with postgres.in_django(cluster.url, django_db_blocker):
        try:
            yield cluster
        finally:
            kinds: tuple[type[Row], ...] = (*SAMPLES, Secret, RoutingDefaults)
            for kind in kinds:
                if kind not in {Group, AuditEntry}:
                    kind._default_manager.all().delete()


@pytest.fixture
def client(database: postgres.Postgres) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x"))
    return client


@pytest.fixture
def rows(database: postgres.Postgres) -> SimpleNamespace:
    """A provider with a credential and two models, an alias of one of them, a webhook, a project with a key."""
    vault.initialize(password=VAULT_PASSWORD, parameters=CHEAP)
    provider = Provider(id="box", type="vllm", base_url="http://10.0.0.5:8000", cred_store=CredentialStore.VAULT)
    providers.save(provider=provider, credential="a-credential")
    models = [Model(id=name, provider=provider) for name in ("one", "two")]
    for model in models:
        routing.save(model=model)
    project = Project(name="shop")
    keys.save_project(project=project)
    key = keys.issue(name="till", project="shop").record
    webhook = Webhook.objects.create(url="https://hooks.example.com/1")
    return SimpleNamespace(provider=provider, one=models[0], two=models[1], project=project, key=key, webhook=webhook)


def nothing() -> None:
    """The end of the transaction is enough: constraints are checked then."""
