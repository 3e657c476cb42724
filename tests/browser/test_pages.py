"""Every page of the admin, in a browser: no error, nothing wider than the screen, readable in light and dark, and
usable with a screen reader as far as axe can tell."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

import tokenhub.urls  # noqa: F401  registers the pages
from tests.admin.pages import page_urls
from tests.browser.conftest import fill, log_in, superuser
from tests.browser.tab import EVERY_LOOK, Tab
from tests.support.gateway import Gateway


@pytest.fixture(scope="module")
def urls(gateway: Gateway) -> dict[str, str]:
    return page_urls(fill(gateway))


def test_no_page_has_an_error_or_is_wider_than_the_screen(tab: Tab, urls: dict[str, str]) -> None:
    """But for those of which one stands for all: they show nothing of their rows' own."""
    assert len(urls) > 60
    for name, url in urls.items():
        if not name.endswith(("_add", "_delete", "_history")):
            tab.check_page(url, axe=False)


@pytest.mark.parametrize("kind", ["changelist", "add", "change", "delete", "history"])
def test_axe_finds_nothing_serious_on_a_page_of_each_kind(kind: str, tab: Tab, urls: dict[str, str]) -> None:
    tab.check_page(urls[f"admin:routing_alias_{kind}"])


def test_axe_finds_nothing_serious_on_pages_that_are_not_a_list_or_a_row(tab: Tab, urls: dict[str, str]) -> None:
    usual = ("_changelist", "_add", "_change", "_delete", "_history")
    for name, url in urls.items():
        if not name.endswith(usual):
            tab.check_page(url)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_axe_finds_nothing_serious_anywhere_in_any_look(tab: Tab, urls: dict[str, str]) -> None:
    for url in urls.values():
        tab.check_page(url, looks=EVERY_LOOK)


def test_two_tabs_with_one_form_do_not_take_back_what_the_other_saved(tab: Tab, urls: dict[str, str]) -> None:
    url = urls["admin:keys_project_change"]
    other = Tab(tab.page.context, tab.base)
    for one in (tab, other):
        one.open(url)
    other.page.get_by_label("Description").fill("theirs")
    other.page.get_by_role("button", name="Save", exact=True).click()
    other.page.wait_for_url("**/keys/project/")
    other.page.close()
    tab.page.get_by_label("Description").fill("mine")
    tab.page.get_by_role("button", name="Save", exact=True).click()
    told = tab.page.get_by_role("alert").filter(has_text="Not saved")
    told.wait_for()
    assert "Description is now theirs (by root" in " ".join(told.inner_text().split())
    assert tab.page.get_by_label("Description").input_value() == "mine"
    tab.check()
    tab.page.get_by_label("Save mine in its place").check()
    tab.page.get_by_role("button", name="Save", exact=True).click()
    tab.page.wait_for_url("**/keys/project/")


@pytest.mark.parametrize(
    ("page", "field"),
    [
        ("routing_model_change", "input[name=enabled]"),
        ("routing_model_change", ".field-provider .select2-selection"),
        ("auth_user_change", "#id_groups_input"),
    ],
)
def test_where_the_keyboard_is_shows(page: str, field: str, tab: Tab, urls: dict[str, str]) -> None:
    tab.open(urls[f"admin:{page}"])
    place = tab.page.locator(field)
    place.wait_for()
    place.evaluate("(place) => place.focus({focusVisible: true})")
    assert place.evaluate("(place) => document.activeElement === place")
    assert place.evaluate("(place) => getComputedStyle(place).outlineStyle") == "solid"


def test_filters_are_opened_and_left_by_keyboard(tab: Tab, urls: dict[str, str]) -> None:
    tab.open(urls["admin:telemetry_requestlog_changelist"])
    filters = tab.page.get_by_role("button", name="Filters")
    filters.focus()
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_function("document.getElementById('changelist-filter').contains(document.activeElement)")
    tab.page.keyboard.press("Escape")
    tab.page.locator("#changelist-filter").wait_for(state="hidden")
    assert filters.evaluate("(it) => document.activeElement === it")


@pytest.mark.parametrize(("width", "opens", "shows"), [(1440, "root", "Change password"), (360, "Menu", "Providers")])
def test_menus_open_by_keyboard(width: int, opens: str, shows: str, tab: Tab) -> None:
    tab.open("/admin/")
    tab.look("light", width)
    shown = tab.page.locator("a", has_text=shows).first
    assert not shown.is_visible()
    tab.page.get_by_role("button", name=opens).locator("visible=true").first.focus()
    tab.page.keyboard.press("Enter")
    shown.wait_for()
    tab.check(looks=(("light", width),))


def test_long_texts_of_a_list_are_whole_on_a_telephone(tab: Tab, urls: dict[str, str]) -> None:
    tab.open(urls["admin:telemetry_webhookdelivery_changelist"])
    tab.look("light", 360)
    cell = tab.page.locator("#result_list td.field-last_error").first
    cell.evaluate("(cell) => { cell.textContent = 'the_address_of_a_receiver '.repeat(9) + 'a'.repeat(60); }")
    hidden = cell.evaluate("(it) => [it.scrollHeight - it.clientHeight, it.scrollWidth - it.clientWidth]")
    assert max(hidden) <= 1
    tab.check(looks=(("light", 360),), axe=False)


def test_date_and_time_stand_close_below_each_other_on_a_telephone(tab: Tab, urls: dict[str, str]) -> None:
    tab.open(urls["admin:keys_clientkey_add"])
    tab.look("light", 360)
    places = [tab.page.locator(f"[name=expires_at_{number}]").bounding_box() for number in range(2)]
    assert places[0] is not None
    assert places[1] is not None
    assert 0 < places[1]["y"] - places[0]["y"] < 100


def test_a_long_name_of_a_provider_does_not_widen_the_page_of_health(tab: Tab) -> None:
    tab.open("/admin/health/")
    tab.page.locator("h2.pg-title a").first.evaluate("(link) => { link.textContent = 'x'.repeat(200); }")
    tab.check(looks=(("light", 360), ("dark", 1440)), axe=False)


def test_the_page_of_the_api_shows_its_paths_under_the_content_security_policy(tab: Tab) -> None:
    tab.open("/admin/v1/docs")
    tab.page.get_by_text("/admin/v1/providers", exact=True).first.wait_for()


def test_a_script_that_stands_in_a_page_is_refused_and_noticed(tab: Tab) -> None:
    tab.open("/admin/")
    tab.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    tab.page.wait_for_function("document.body.lastChild.tagName === 'SCRIPT'")
    assert tab.page.evaluate("window.ran") is None
    assert any("script-src" in one for one in tab.problems)
    tab.problems.clear()


def test_the_login_page_is_readable_and_named(browser: Browser, gateway: Gateway) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    stranger = Tab(context, gateway.base)
    stranger.check_page("/admin/login/")
    context.close()


def test_pages_for_those_who_may_only_look_are_as_readable(
    browser: Browser, gateway: Gateway, urls: dict[str, str]
) -> None:
    superuser(gateway, name="vera")
    gateway.execute("UPDATE auth_user SET is_superuser = 0 WHERE username = 'vera'")
    gateway.execute(
        "INSERT INTO auth_user_groups (user_id, group_id) SELECT auth_user.id, auth_group.id "
        "FROM auth_user, auth_group WHERE username = 'vera' AND name = 'Viewer'"
    )
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    log_in(gateway, context, name="vera")
    viewer = Tab(context, gateway.base)
    for path in ("/admin/", "/admin/setup/?step=provider", urls["admin:routing_alias_change"]):
        viewer.check_page(path)
        assert viewer.page.locator("main [type=submit], #setup [type=submit]").count() == 0
    context.close()
