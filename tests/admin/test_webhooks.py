"""Webhooks in the admin."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from telemetry.models import Webhook
from tests.admin.forms import errors, values

pytestmark = pytest.mark.django_db

ADD = reverse("admin:telemetry_webhook_add")


@pytest.mark.parametrize(
    "url", ["", "hooks.example", "ftp://hooks.example/", "https://ann:secret@hooks.example/", "https://[::1"]
)
def test_a_bad_address_is_refused_beside_its_field_and_the_rest_stays(url: str, admin_client: Client) -> None:
    typed = {"url": url, "description": "mine", "events": ["budget_overrun"]}
    answer = admin_client.post(ADD, {**values(admin_client.get(ADD), holding="url"), **typed})
    assert list(errors(answer)) == ["url"]
    stays = values(answer, holding="url")
    assert (stays["url"], stays["description"], stays["events"]) == ([url], ["mine"], ["budget_overrun"])
    assert not Webhook.objects.exists()
