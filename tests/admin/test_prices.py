"""Prices on the admin's pages: dollars per million tokens, whatever the rows hold."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from routing.models import Model, Price
from telemetry.models import AuditEntry
from tests.admin.forms import errors, submit, text, values
from tests.admin.samples import model, price
from tokenhub import troubles

pytestmark = pytest.mark.django_db


def url_of(row: Model) -> str:
    return reverse("admin:routing_model_change", args=[quote(row.pk)])


def test_a_price_is_typed_and_shown_per_million_tokens(admin_client: Client) -> None:
    row = model(1, input_per_1k="0.00015")
    page = values(admin_client.get(url_of(row)), holding="input_per_1k")
    assert page["input_per_1k"] == ["0.15"]
    answer = submit(admin_client, url_of(row), holding="input_per_1k", input_per_1k="0.25", output_per_1k="0")
    assert answer.status_code == 302
    row.refresh_from_db()
    assert (row.input_per_1k, row.output_per_1k) == (Decimal("0.00025"), Decimal(0))
    listed = text(admin_client.get(reverse("admin:routing_model_changelist")))
    assert "$0.25" in listed
    assert "Input $/M" in listed


def test_the_smallest_price_is_kept_and_a_smaller_one_is_refused(admin_client: Client) -> None:
    row = model(1, input_per_1k="0.000000001", output_per_1k="1")
    page = values(admin_client.get(url_of(row)), holding="input_per_1k")
    assert (page["input_per_1k"], page["output_per_1k"]) == (["0.000001"], ["1000"])
    answer = submit(admin_client, url_of(row), holding="input_per_1k", input_per_1k="0.0000001")
    assert errors(answer) == {"input_per_1k": ["At most 6 digits after the point."]}


def test_saving_an_untouched_form_changes_no_price(admin_client: Client) -> None:
    row = model(1, input_per_1k="0.00015", output_per_1k="0.0006")
    before = AuditEntry.objects.count()
    assert submit(admin_client, url_of(row), holding="input_per_1k").status_code == 302
    assert AuditEntry.objects.count() == before


def test_dated_prices_are_per_million_tokens_on_both_pages(admin_client: Client) -> None:
    row = price(1)
    page = values(admin_client.get(url_of(row.model)), holding="dated_prices-0-input_per_1k")
    assert page["dated_prices-0-input_per_1k"] == ["1"]
    own = reverse("admin:routing_price_change", args=[row.pk])
    assert submit(admin_client, own, holding="input_per_1k", input_per_1k="3").status_code == 302
    assert Price.objects.get().input_per_1k == Decimal("0.003")
    assert "$3" in text(admin_client.get(reverse("admin:routing_price_changelist")))


def test_models_without_a_price_are_named_in_the_list_and_can_be_filtered(admin_client: Client) -> None:
    model(1, input_per_1k="0.1", output_per_1k="0")
    model(2)
    model(3, input_per_1k="0.1")
    price(4)  # of one whose price has a date
    page = admin_client.get(reverse("admin:routing_model_changelist"))
    assert page.context["cl"].unpriced == ["org/model_2", "org/model_3"]
    assert "counts them as much as the dearest model" in text(page)
    for answer, found in (("no", {"org/model_2", "org/model_3"}), ("yes", {"org/model_1", "org/model_504"})):
        listed = admin_client.get(reverse("admin:routing_model_changelist"), {"priced": answer})
        assert {one.pk for one in listed.context["cl"].result_list} == found


def test_the_first_page_says_that_a_model_has_no_price(admin_user: User) -> None:
    model(1, input_per_1k="0.1", output_per_1k="0")
    assert [one for one in troubles.state(admin_user).troubles if "price" in one.what] == []
    model(2)
    (one,) = [one for one in troubles.state(admin_user).troubles if "price" in one.what]
    assert (one.what, one.url) == ("org/model_2 has no price", "/admin/routing/model/?priced=no")
    model(3)
    (two,) = [one for one in troubles.state(admin_user).troubles if "price" in one.what]
    assert two.what == "2 models have no price"
    assert two.detail.startswith("org/model_2, org/model_3. The router counts them as much as")


def test_the_audit_log_tells_prices_per_million_tokens(admin_client: Client) -> None:
    row = model(1, input_per_1k="0.00015")
    assert submit(admin_client, url_of(row), holding="input_per_1k", input_per_1k="0.25").status_code == 302
    entry = AuditEntry.objects.filter(resource=f"model/{row.pk}").latest("number")
    shown = text(admin_client.get(reverse("admin:telemetry_auditentry_change", args=[entry.pk])))
    assert "input, per million tokens" in shown
    assert "$0.15" in shown
    assert "$0.25" in shown


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("0.0000001", "At most 6 digits after the point."),
        ("100000000", "At most 8 digits before the point."),
        ("1e30", "At most 8 digits before the point."),
        ("-1e30", "At most 8 digits before the point."),
        ("sNaN", "Enter a number."),
        ("-Infinity", "Enter a number."),
    ],
)
def test_a_price_that_nothing_can_cost_is_refused_at_its_field(typed: str, told: str, admin_client: Client) -> None:
    row = model(1)
    answer = submit(admin_client, url_of(row), holding="input_per_1k", input_per_1k=typed)
    assert errors(answer)["input_per_1k"] == [told]


@pytest.mark.parametrize("typed", ["99999999.999999", "0.000001", "0.25000000000000", "0"])
def test_a_price_is_stored_as_it_is_typed(typed: str, admin_client: Client) -> None:
    row = model(1)
    assert submit(admin_client, url_of(row), holding="input_per_1k", input_per_1k=typed).status_code == 302
    row.refresh_from_db()
    assert row.input_per_1k == Decimal(typed) / 1000


def test_what_the_api_calls_a_price_is_said_once_a_page(admin_client: Client) -> None:
    for kind in ("model", "price"):
        page = text(admin_client.get(reverse(f"admin:routing_{kind}_add")))
        assert page.count("are dollars per 1,000 tokens") == 1, kind
        assert page.count("Empty: no price is known. 0: free.") == (2 if kind == "model" else 0)
