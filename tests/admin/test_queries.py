"""What pages cost the database: few queries each, however many rows there are."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

import tokenhub.urls  # noqa: F401  registers the pages
from tests.admin.pages import page_urls
from tests.admin.samples import SAMPLES

pytestmark = pytest.mark.django_db
QUERIES_OF_A_PAGE = 15


def within_budget(client: Client, url: str, *, queries: int = QUERIES_OF_A_PAGE) -> Any:
    """The answer of a page that asks the database no more often than this."""
    with CaptureQueriesContext(connection) as asked:
        answer = client.get(url)
    told = [one["sql"][:200] for one in asked if not one["sql"].startswith(("SAVEPOINT", "RELEASE"))]
    assert answer.status_code == 200, f"{url} {answer.status_code}"
    assert len(told) <= queries, "\n".join([f"{url}: {len(told)} queries", *told])
    return answer


def test_no_page_costs_more_queries_than_its_budget(admin_client: Client) -> None:
    rows = {kind._meta.label_lower: [make(number) for number in range(1, 9)] for kind, make in SAMPLES.items()}
    urls = page_urls({label: str(made[0].pk) for label, made in rows.items()})
    for name, url in urls.items():
        if name[:6] == "setup:" and name != "setup:index":
            continue  # the address of a form
        if name != "simulator":  # it takes its worker's snapshot, and here is none: test_simulator.py counts
            within_budget(admin_client, url)
