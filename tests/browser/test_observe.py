"""Dashboard, live page and the page of a request in a browser, over a gateway with traffic: they show what happens, can
be used by keyboard, and are calm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from tests.browser.conftest import superuser
from tests.browser.tab import EVERY_LOOK, Tab
from tests.support.gateway import KEY, Gateway
from tests.support.upstream import Reply, Upstream

LONG = "a-house-of-models/its-largest-model-70b-instruct-turbo-2026-03"
ROWS: dict[str, Any] = {
    "models": [
        {"id": "m", "provider_id": "p", "input_per_1k": "0.001", "output_per_1k": "0.002"},
        {"id": "n", "provider_id": "q", "input_per_1k": "0.001", "output_per_1k": "0.002"},
        {"id": LONG, "provider_id": "p", "upstream_model": "m"},
    ],
    "aliases": [{"name": "best", "variants": [{"model_id": "m", "weight": 1}]}],
    "keys": [{"key": KEY, "name": "shop", "project": "web"}],
    "projects": [{"name": "web"}],
}
GRAPH = "document.getElementById('flow-graph')._cyreg.cy"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as made:
        made.when(Reply(status=503), model="n")
        yield made


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Gateway]:
    """Two providers; all that is asked of `n` at the provider `q` fails."""
    providers = [{"id": one, "type": "openai", "base_url": upstream.url} for one in ("p", "q")]
    made = Gateway(tmp_path_factory.mktemp("observe") / "data", providers=providers, **ROWS)
    superuser(made)
    with made:
        yield made


def ask(gateway: Gateway, model: str, **headers: str) -> str:
    """The request's id."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    answer = gateway.post("/v1/chat/completions", body, headers=gateway.headers(**headers))
    return answer.headers["x-tokenhub-request-id"]


def logged(gateway: Gateway) -> str:
    """The id of a request whose row is there: other tests' are, too."""
    made = ask(gateway, "m")
    found = "SELECT 1 FROM telemetry_requestlog WHERE request_id = ?"
    gateway.wait_until(lambda: bool(gateway.query(found, made.replace("-", ""))))
    return made


def open_live(tab: Tab) -> None:
    tab.open("/admin/live/")
    tab.page.get_by_text("live", exact=True).wait_for()


def feed(tab: Tab) -> list[str]:
    """Ids of the requests that the feed shows, newest first."""
    ids: list[str] = tab.page.eval_on_selector_all("#feed-table a", "all => all.map((one) => one.dataset.key)")
    return ids


def wait_for_feed(tab: Tab, *ids: str) -> None:
    tab.page.wait_for_function(
        "(ids) => ids.every((id) => document.querySelector(`#feed-table a[data-key='${id}']`))", arg=list(ids)
    )


def test_decisions_appear_as_they_are_made_and_lead_to_their_explanation(tab: Tab, gateway: Gateway) -> None:
    before = ask(gateway, "m")
    gateway.rows(at_least=1)
    open_live(tab)
    wait_for_feed(tab, before)
    made = ask(gateway, "best")
    wait_for_feed(tab, made)
    assert feed(tab)[:2] == [made, before]
    row = tab.page.locator(f"#feed-table tr[data-key='{made}']").inner_text().split()
    assert [word for word in ("ok", "shop", "best", "alias-variant") if word not in row] == []
    gateway.rows(at_least=2)
    tab.page.locator(f"a[data-key='{made}']").click()
    tab.page.get_by_role("heading", name="Timeline").wait_for()
    assert tab.page.get_by_text("shop asked for the alias best").is_visible()
    assert tab.page.locator(".ob-timeline li").count() == 1
    tab.page.get_by_role("button", name="Replay with today's configuration").click()
    tab.page.get_by_text("Today m at p would be asked first (alias-variant)").wait_for()
    assert tab.page.get_by_text("It is the one that answered.").is_visible()
    tab.check()


def test_the_replay_of_a_refused_request_compares_with_nobody(tab: Tab, gateway: Gateway) -> None:
    made = gateway.chat(model="m", max_tokens=-1).headers["x-tokenhub-request-id"]
    gateway.wait_until(lambda: UUID(made) in {UUID(str(one["request_id"])) for one in gateway.rows()})
    tab.page.goto(f"{gateway.base}/admin/live/explain/{made}/")
    tab.page.get_by_role("button", name="Replay with today's configuration").click()
    tab.page.get_by_text("Today m at p would be asked first").wait_for()
    assert tab.page.get_by_text("Nobody answered then.").is_visible()


def test_what_is_live_fits_its_boxes_on_a_laptop(tab: Tab, gateway: Gateway) -> None:
    tab.page.set_viewport_size({"width": 1280, "height": 800})
    made = ask(gateway, LONG)
    open_live(tab)
    wait_for_feed(tab, made)
    tab.page.wait_for_function(f"{GRAPH}.getElementById('model {LONG}').length === 1")
    tab.page.get_by_text("The same as a table").click()
    for box in (".ob-feed", "[aria-label=Flows]"):
        wide = tab.page.eval_on_selector(box, "one => one.scrollWidth - one.clientWidth")
        assert wide <= 0, f"{box}: {wide} px run out of it"
    drawn = tab.page.evaluate(
        f"{GRAPH}.nodes().map((one) => one.renderedBoundingBox({{includeLabels: true}}))"
        f".every((box) => box.x1 >= 0 && box.x2 <= {GRAPH}.width())"
    )
    assert drawn, "a name runs out of the graph"


def test_the_graph_and_the_table_say_the_same_and_health_changes_while_one_looks(tab: Tab, gateway: Gateway) -> None:
    ask(gateway, "best")
    open_live(tab)
    tab.page.wait_for_function(f"{GRAPH}.getElementById('provider p').length === 1")
    for _ in range(6):
        ask(gateway, "n", X_TokenHub_Fallback="none")
    tab.page.wait_for_function(f"{GRAPH}.getElementById('provider q').data('health') === 'down'")
    nodes = tab.page.evaluate(f"{GRAPH}.nodes().map((one) => one.id())")
    assert {"client shop", "alias best", "model m", "model n", "provider p", "provider q"} <= set(nodes)
    drawn = tab.page.evaluate(f"{GRAPH}.edges().map((one) => one.id())")
    assert "client shop > alias best" in drawn
    assert {"client shop > alias named directly", "alias named directly > model n"} <= set(drawn)
    assert "model n > provider q" in drawn
    tab.page.get_by_text("The same as a table").click()
    listed = tab.page.eval_on_selector_all(
        "#flow-table tbody tr",
        "all => all.map((row) => [...row.querySelectorAll('button')].map((one) => one.dataset.node).join(' > '))",
    )
    assert sorted(listed) == sorted(drawn)
    row = tab.page.locator("#flow-table tbody tr", has=tab.page.locator("[data-node='provider q']")).inner_text()
    assert "down" in row
    assert "no answer" in row
    assert tab.page.evaluate(f"{GRAPH}.getElementById('client shop > alias best').data('speed')") == "fast"
    tab.check()


def test_the_graph_is_walked_by_keyboard_and_filters_the_feed(tab: Tab, gateway: Gateway) -> None:
    by_name, by_alias = ask(gateway, "m"), ask(gateway, "best")
    open_live(tab)
    wait_for_feed(tab, by_name, by_alias)
    tab.page.wait_for_function(f"{GRAPH}.getElementById('alias best').length === 1")
    tab.page.locator("#flow-graph").focus()
    told = tab.page.locator("#flow-told")
    tab.page.keyboard.press("Home")
    assert told.inner_text().startswith("Client shop:")
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("ArrowLeft")
    assert told.inner_text().startswith("Client shop:")
    tab.page.keyboard.press("End")
    assert told.inner_text().startswith("Provider")
    tab.page.keyboard.press("ArrowLeft")
    assert told.inner_text().startswith("Model")
    tab.page.keyboard.press("ArrowUp")
    tab.page.keyboard.press("Home")
    tab.page.keyboard.press("Enter")
    assert by_name in feed(tab)
    tab.page.get_by_role("button", name="Only client shop").wait_for()
    tab.page.keyboard.press("Escape")
    tab.page.get_by_text("The same as a table").click()
    tab.page.locator("#flow-table [data-node='alias best']").first.focus()
    tab.page.keyboard.press("Enter")
    tab.page.get_by_role("button", name="Only alias best").wait_for()
    assert by_alias in feed(tab)
    assert by_name not in feed(tab)
    tab.page.get_by_role("button", name="Only alias best").click()
    assert by_name in feed(tab)


def test_what_named_no_model_leads_to_no_mode(tab: Tab, gateway: Gateway) -> None:
    open_live(tab)
    answer = gateway.post("/v1/chat/completions", {"messages": []})
    made = answer.headers["x-tokenhub-request-id"]
    wait_for_feed(tab, made)
    assert "nothing was asked for" in tab.page.locator(f"#feed-table tr[data-key='{made}']").inner_text()
    tab.page.wait_for_function(f"{GRAPH}.getElementById('client shop > model refused').length === 1")
    assert tab.page.evaluate(f"{GRAPH}.nodes().filter((one) => one.id().startsWith('alias mode')).length") == 0


def test_the_feed_pauses_and_filters(tab: Tab, gateway: Gateway) -> None:
    open_live(tab)
    first = ask(gateway, "m")
    wait_for_feed(tab, first)
    tab.page.get_by_role("button", name="Pause").click()
    second = ask(gateway, "nobody")
    tab.page.get_by_text("paused, 1 new").wait_for()
    assert second not in feed(tab)
    tab.page.get_by_role("button", name="Go on").click()
    wait_for_feed(tab, second)
    tab.page.get_by_label("Outcome").select_option("error")
    assert (first in feed(tab), second in feed(tab)) == (False, True)
    tab.page.get_by_label("Outcome").select_option("")
    tab.page.get_by_label("Filter by name, reason or code").fill("MODEL_not")
    assert (first in feed(tab), second in feed(tab)) == (False, True)
    tab.page.get_by_label("Filter by name, reason or code").fill("no such word")
    tab.page.get_by_text("Nothing of what came meets the filter.").wait_for()


def test_the_dashboard_shows_first_what_is_wrong_and_then_the_figures(tab: Tab, gateway: Gateway) -> None:
    for _ in range(6):
        ask(gateway, "n", X_TokenHub_Fallback="none")
    ask(gateway, "m")
    gateway.rows(at_least=7)
    tab.open("/admin/")
    tab.page.get_by_text("Broken: q is down").wait_for()
    tab.page.locator(".ob-chart canvas").nth(2).wait_for()
    tops = tab.page.evaluate(
        "['.ob-troubles', '.ob-tiles'].map((one) => document.querySelector(one).getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)
    tab.page.get_by_role("link", name="7d").click()
    tab.page.wait_for_url("**/admin/?window=7d&by=model")
    tab.page.get_by_role("link", name="key", exact=True).click()
    tab.page.get_by_role("heading", name="By client key").wait_for()
    assert tab.page.get_by_role("link", name="shop", exact=True).is_visible()
    tab.page.go_back()
    tab.page.get_by_role("heading", name="By model").wait_for()
    tab.check()
    tab.page.get_by_role("link", name="Errors").first.click()
    tab.page.wait_for_url("**/requestlog/?*outcome=failed")


def test_the_page_of_a_request_with_a_long_cost_is_not_wider_than_a_phone(tab: Tab, gateway: Gateway) -> None:
    made = logged(gateway)
    own = made.replace("-", "")
    gateway.execute("UPDATE telemetry_requestlog SET cost_usd = '0.000000012' WHERE request_id = ?", own)
    tab.check_page(f"/admin/live/explain/{made}/")
    table = tab.page.get_by_role("region", name="Tokens and cost").locator("table")
    assert "$0.000000012" in table.inner_text()


@pytest.mark.slow
def test_every_page_is_calm_and_readable_in_every_look(tab: Tab, gateway: Gateway) -> None:
    made = logged(gateway)
    for path in ("/admin/?window=30d&by=provider", "/admin/live/", f"/admin/live/explain/{made}/"):
        tab.open(path)
        tab.page.locator(".ob-card").first.wait_for()
        tab.check(looks=EVERY_LOOK)
