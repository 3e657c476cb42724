"""From an empty database to the first routed request and its explanation, in a browser: by mouse, and by keyboard
alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import PASSWORD, log_in, superuser
from tests.browser.tab import Tab
from tests.support.gateway import Gateway
from tests.support.upstream import Reply, Upstream

VAULT = "a vault's long password"
CREDENTIAL = "sk-the-provider's-own"
NOTHING_BY_TIME = "const every = setInterval; window.setInterval = (f, ms) => (ms === 15_000 ? 0 : every(f, ms));"
"""Of the Overview's state: what is fetched again was fetched for a reason."""
LONG_ENOUGH = 200  # presses of Tab, to come round any page


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Gateway]:
    """Nothing in it: no provider, no key, no vault."""
    made = Gateway(tmp_path / "data", keys=(), env={"TOKENHUB_VAULT_PASSWORD": ""})
    superuser(made)
    with made:
        yield made


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(models=("gpt-4o-mini", "house-model")) as made:
        yield made


@pytest.fixture
def tab(browser: Browser, empty: Gateway) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, reduced_motion="reduce")
    log_in(empty, context)
    made = Tab(context, empty.base)
    yield made
    context.close()
    made.calm()


def panel(page: Page, title: str, *, focused: bool = True) -> None:
    """Waits for the step; the focus is in it, so that a keyboard and a screen reader go on there."""
    expect(page.locator("[data-focus]")).to_have_text(title)
    if focused:
        page.wait_for_function("document.getElementById('setup').contains(document.activeElement)")


def explained(page: Page, gateway: Gateway) -> None:
    """The page of the request's row says who answered and why."""
    expect(page.get_by_text("Who answered")).to_be_visible()
    expect(page.get_by_text("gpt-4o-mini").first).to_be_visible()
    expect(page.get_by_text("Who was compared")).to_be_visible()
    rows = gateway.rows(at_least=1)
    assert [(row["status"], row["requested_model"]) for row in rows] == [(200, "tokenhub/auto")]
    assert str(rows[0]["id"]) in page.url


def test_by_mouse(tab: Tab, empty: Gateway, upstream: Upstream) -> None:
    page = tab.page
    page.add_init_script(NOTHING_BY_TIME)
    tab.open("/admin/")
    expect(page.locator("#dashboard-state")).to_contain_text("The vault has no password yet")
    page.get_by_label("New vault password").fill(VAULT)
    page.get_by_label("The same again").fill(VAULT)
    page.get_by_role("button", name="Make the vault").click()

    panel(page, "Add a provider")
    expect(page.locator("#dashboard-state")).not_to_contain_text("The vault has no password yet")
    page.get_by_text("Something else").click()
    page.get_by_label("Address").fill(upstream.url)
    page.get_by_label("API key").fill(CREDENTIAL)
    page.get_by_label("Name", exact=True).fill("house")
    upstream.next(Reply(status=401))
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#connection")).to_contain_text("The provider refuses the credential (401).")
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#connection")).to_contain_text("It works: 2 models")
    assert upstream.requests[-1].headers["authorization"] == f"Bearer {CREDENTIAL}"
    tab.check()
    page.get_by_role("button", name="Save, and look for its models").click()

    panel(page, "Pick its models")
    row = page.locator("#offers tbody").filter(has_text="gpt-4o-mini")
    expect(row.get_by_label("Input price")).to_have_attribute("placeholder", "no price")  # not at this address
    other = page.locator("#offers tbody").filter(has_text="house-model")
    other.get_by_label("Input price").fill("9")
    other.get_by_role("checkbox").first.uncheck()
    row.get_by_label("Input price").fill("0.15")
    row.get_by_label("Output price").fill("$2")
    page.get_by_role("button", name="Add the models").click()
    expect(page.locator("[role=alert]")).to_contain_text("Nothing is added yet")
    expect(row.get_by_label("Output price")).to_be_focused()
    expect(row.get_by_label("Input price")).to_have_value("0.15")
    expect(other.get_by_label("Input price")).to_have_value("9")
    expect(other.get_by_role("checkbox").first).not_to_be_checked()
    other.get_by_label("Input price").fill("")
    other.get_by_role("checkbox").first.check()
    expect(other.get_by_label("Tools")).to_be_checked()
    other.get_by_label("Vision").check()
    row.get_by_label("Output price").fill("0.6")
    tab.check()
    page.get_by_role("button", name="Add the models").click()
    expect(other).to_contain_text("No price")
    expect(other.get_by_label("Vision")).to_be_checked()
    tab.check()
    page.get_by_role("button", name="Add them without a price").click()

    panel(page, "Make a client key")
    expect(page.locator("[role=status]").first).to_contain_text("2 models are added")
    page.locator("#id_name").fill("shop")
    page.get_by_role("button", name="Make a key").click()
    key = page.locator("#issued-key")
    expect(key).to_have_text(re.compile("^tokenhub_[0-9a-f]{64}$"))
    page.get_by_role("tab", name="Claude Code").click()
    expect(page.locator("#text-claude-code")).to_contain_text(key.inner_text())
    expect(page.get_by_role("button", name="Send a test request")).to_be_visible()
    tab.check()

    page.get_by_role("button", name="Send a test request").click()
    expect(page.locator("#answer")).to_contain_text("gpt-4o-mini")
    page.get_by_role("link", name="See why:").click()
    explained(page, empty)
    tab.open("/admin/")
    assert page.locator(".th-setup").count() == 0
    assert CREDENTIAL not in page.content()

    tab.open("/admin/setup/?step=provider")
    page.locator("#setup").get_by_role("link", name="models").first.click()
    panel(page, "Pick its models")
    page.go_back()
    panel(page, "Add a provider", focused=False)
    page.go_forward()
    panel(page, "Pick its models", focused=False)
    assert page.evaluate("localStorage.getItem('htmx-history-cache')") is None


def reach(page: Page, name: str, *, role: str = "") -> None:
    """By Tab alone, to what is called so."""
    for _ in range(LONG_ENOUGH):
        page.keyboard.press("Tab")
        said = page.evaluate(
            """() => { const one = document.activeElement;
                const name = one.getAttribute("aria-label") || one.labels?.[0]?.textContent || one.textContent;
                return [name, one.role || one.tagName]
                    .map((text) => (text || "").replace(/\\s+/g, " ").trim()); }"""
        )
        if name in said[0] and (not role or role == said[1].lower()):
            return
    raise AssertionError(f"no way to {name!r} by Tab on {page.url}")


def test_by_keyboard_alone(tab: Tab, empty: Gateway, upstream: Upstream) -> None:
    page, press, write = tab.page, tab.page.keyboard.press, tab.page.keyboard.type
    tab.open("/admin/")
    reach(page, "New vault password")
    write(VAULT)
    press("Tab")
    write(VAULT)
    press("Enter")

    panel(page, "Add a provider")
    reach(page, "OpenAI")
    press("ArrowUp")  # from the first round to the last
    reach(page, "Address")
    write(upstream.url)
    reach(page, "Name")
    write("house")
    reach(page, "Test connection")
    press("Enter")
    expect(page.locator("#connection")).to_contain_text("It works: 2 models")
    press("Shift+Tab")
    press("Enter")

    panel(page, "Pick its models")
    reach(page, "house-model")
    press("Space")
    reach(page, "Add the models")
    press("Enter")
    expect(page.locator("[role=alert]")).to_contain_text("Without a price")
    reach(page, "Add them without a price")
    press("Enter")

    panel(page, "Make a client key")
    reach(page, "Name")
    press("End")
    write("-1")
    press("Enter")
    expect(page.get_by_role("button", name="Send a test request")).to_be_visible()
    reach(page, "curl", role="tab")
    press("ArrowRight")
    expect(page.get_by_role("tab", name="openai (Python)")).to_be_focused()
    expect(page.locator("#text-python")).to_be_visible()
    reach(page, "Send a test request")
    press("Enter")
    expect(page.locator("#answer")).to_contain_text("gpt-4o-mini")
    expect(page.get_by_role("link", name="See why:")).to_be_visible()
    reach(page, "See why:")
    press("Enter")
    explained(page, empty)


def test_a_session_that_ended_meanwhile_leads_to_the_login_and_back(tab: Tab) -> None:
    page = tab.page
    tab.open("/admin/setup/?step=key")
    page.context.clear_cookies(name="sessionid")
    page.get_by_role("button", name="Make a key").click()
    page.wait_for_url("**/admin/login/?next=*")
    assert page.locator(".th-setup").count() == 0
    page.get_by_label("Username").fill("root")
    page.locator("input[name=password]").fill(PASSWORD)
    page.locator("form [type=submit]").click()
    page.wait_for_url("**/admin/setup/?step=key")
    panel(page, "Make a client key", focused=False)


def test_the_fields_of_a_form_keep_their_shape_and_cover_no_label(tab: Tab) -> None:
    page = tab.page
    page.set_viewport_size({"width": 1280, "height": 900})
    tab.open("/admin/keys/clientkey/add/")

    def box(selector: str) -> tuple[float, float]:
        found = page.locator(selector).first.bounding_box()
        assert found is not None
        return found["x"], found["width"]

    assert box("input[name=enabled]")[1] == 32
    assert box("input[name=scopes]")[1] == 16
    label = box("label[for=id_rotation_days]")[0]
    for name in ("expires_at_0", "expires_at_1"):
        left, width = box(f"input[name={name}]")
        assert left + width < label, name
