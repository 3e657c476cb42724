"""The playground and the what-if simulator, in a browser, with the models of the sandbox."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Route

from tests.browser.conftest import superuser
from tests.browser.tab import Tab
from tests.support.gateway import Gateway

PRICES = {"input_per_1k": "0.001", "output_per_1k": "0.002"}
COST = r"^\$\d|^free$"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(
        tmp_path_factory.mktemp("playground") / "data",
        providers=[{"id": "sandbox", "type": "sandbox"}],
        models=[
            {"id": "sandbox/swift", "provider_id": "sandbox", "weight": 3, "abilities": ["vision", "tools"], **PRICES},
            {"id": "sandbox/balanced", "provider_id": "sandbox", "weight": 6, **PRICES},
        ],
        aliases=[{"name": "best", "variants": [{"model_id": "sandbox/swift", "weight": 1}]}],
        keys=[],
    )
    superuser(made)
    with made:
        yield made


def ask(tab: Tab, *targets: str, prompt: str = "Hello, you!") -> None:
    tab.open("/admin/playground/?" + "&".join(f"target={one}" for one in targets))
    tab.page.get_by_label("Prompt", exact=True).fill(prompt)
    tab.page.get_by_role("button", name="Run").click()


def told(tab: Tab, what: str) -> list[str]:
    """Of each column."""
    return tab.page.locator(f".pg-answer [data-is={what}]").all_inner_texts()


def costs_are_there(tab: Tab, number: int) -> None:
    tab.page.wait_for_function(
        "([number, cost]) => [...document.querySelectorAll('.pg-answer [data-is=cost]')]"
        ".filter((one) => new RegExp(cost).test(one.textContent)).length === number",
        arg=[number, COST],
    )


def test_three_answers_stream_side_by_side_and_show_what_they_cost(tab: Tab, gateway: Gateway) -> None:
    ask(tab, "sandbox/swift", "best", "tokenhub/cheap")
    costs_are_there(tab, 3)
    tab.page.get_by_text("3 answers are here.").wait_for()
    assert told(tab, "target") == ["sandbox/swift", "best", "tokenhub/cheap"]
    assert told(tab, "state") == ["done"] * 3
    assert [one for one in told(tab, "text") if "Hello, you!" not in one] == []
    assert told(tab, "reason")[:2] == ["model-hint", "alias-variant"]
    assert told(tab, "reason")[2].startswith("routed-weight-")
    for what in ("time", "first", "tokens"):
        assert "-" not in told(tab, what), what
    columns = [one.bounding_box() for one in tab.page.locator(".pg-answer").all()]
    assert len({round(box["y"]) for box in columns if box}) == 1
    tab.check()
    rows = gateway.query("SELECT stream, api_key_name FROM telemetry_requestlog WHERE status = 200")
    assert {(row["stream"], row["api_key_name"]) for row in rows} == {(1, "playground of root")}


def test_the_key_is_nowhere_in_the_page_and_ends_with_it(tab: Tab, gateway: Gateway) -> None:
    ask(tab, "sandbox/swift")
    tab.page.get_by_text("The answer is here.").wait_for()
    keys = gateway.query("SELECT key_prefix FROM keys_clientkey WHERE is_playground")
    assert len(keys) == 1
    held = tab.page.evaluate(
        "[document.documentElement.outerHTML, document.cookie, location.href, JSON.stringify(localStorage),"
        " JSON.stringify(sessionStorage)].join()"
    )
    assert keys[0]["key_prefix"] not in held
    tab.open("/admin/")
    gateway.wait_until(lambda: gateway.query("SELECT 1 FROM keys_clientkey WHERE is_playground") == [])


def test_a_key_that_is_being_made_ends_with_the_page_that_does_not_know_it_yet(tab: Tab, gateway: Gateway) -> None:
    tab.page.add_init_script(
        "const ask = fetch; window.fetch = (...what) => ask(...what).then(() => new Promise(() => {}));"
    )
    tab.open("/admin/playground/?target=sandbox/swift")
    tab.page.get_by_label("Prompt", exact=True).fill("Hello")
    gateway.wait_until(lambda: gateway.query("SELECT 1 FROM keys_clientkey WHERE is_playground") != [])
    tab.open("/admin/")
    gateway.wait_until(lambda: gateway.query("SELECT 1 FROM keys_clientkey WHERE is_playground") == [])


def test_a_key_that_a_busy_server_does_not_know_yet_is_tried_again(tab: Tab) -> None:
    tab.expected.add(401)
    refused = list[str]()

    def answer(route: Route) -> None:
        if len(refused) == 10:
            route.continue_()
            return
        refused.append(route.request.url)
        route.fulfill(status=401, json={"error": {"code": "invalid_api_key", "message": "Who are you?"}})

    tab.page.route("**/v1/chat/completions", answer)
    ask(tab, "sandbox/swift")
    tab.page.get_by_text("The answer is here.").wait_for()
    assert (told(tab, "state"), len(refused)) == (["done"], 10)


def test_a_plan_shows_its_legs_and_the_sum_of_their_costs(tab: Tab) -> None:
    ask(tab, "plan:adversarial")
    costs_are_there(tab, 1)
    assert told(tab, "state") == ["done"]
    assert told(tab, "role") == ["planner", "critic", "refiner"]
    assert told(tab, "reason") == ["adversarial-orchestration"]
    tab.check()


def test_an_error_is_told_in_its_column_and_the_others_go_on(tab: Tab) -> None:
    tab.expected.add(404)
    tab.open("/admin/playground/?target=sandbox/swift&target=sandbox/balanced")
    tab.page.get_by_label("Prompt", exact=True).fill("Hello, you!")
    tab.page.locator("#targets select").last.evaluate(
        "one => { one.options[0].value = 'nobody'; one.value = 'nobody'; }"
    )
    tab.page.keyboard.press("Control+Enter")
    tab.page.get_by_text("2 answers are here.").wait_for()
    assert told(tab, "state") == ["done", "failed"]
    assert "model_not_found" in told(tab, "text")[1]


def test_the_request_is_shown_as_code_without_a_key(tab: Tab) -> None:
    tab.open("/admin/playground/?target=best&target=plan:vote&prompt=It's+a+%22test%22")
    code = tab.page.locator("#code")
    assert '"model": "best"' in code.inner_text()
    assert "It'\\''s a \\\"test\\\"" in code.inner_text()
    tab.page.get_by_label("Language").select_option("python")
    assert 'api_key=os.environ["TOKENHUB_KEY"]' in code.inner_text()
    compile(code.inner_text(), "shown", "exec")
    tab.page.get_by_label("Which request").select_option("plan:vote")
    compile(code.inner_text(), "shown", "exec")
    tab.page.get_by_label("Language").select_option("node")
    assert "/v1/plan" in code.inner_text()


def test_tools_that_are_no_json_are_told_before_anything_is_sent(tab: Tab) -> None:
    tab.open("/admin/playground/?target=best&prompt=hi")
    tab.page.get_by_text("Images and tools").click()
    tab.page.get_by_label("Tools, as a JSON list").fill("[{")
    tab.page.get_by_role("button", name="Run").click()
    assert tab.page.locator("#tools-problem").inner_text() != ""
    assert told(tab, "state") == []


def test_images_and_tools_are_sent_and_calls_of_tools_shown(tab: Tab, gateway: Gateway, tmp_path: Path) -> None:
    picture = tmp_path / "dot.gif"
    picture.write_bytes(base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"))
    tab.open("/admin/playground/?target=sandbox/swift&prompt=What+is+it%3F+Use+the+tool.")
    tab.page.get_by_text("Images and tools").click()
    tab.page.get_by_label("Images", exact=True).set_input_files(picture)
    tab.page.locator("#previews img").wait_for()
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    tab.page.get_by_label("Tools, as a JSON list").fill(json.dumps([tool]))
    assert "data:image/gif;base64,..." in tab.page.locator("#code").inner_text()
    tab.page.get_by_role("button", name="Run").click()
    tab.page.get_by_text("The answer is here.").wait_for()
    assert told(tab, "state") == ["done"]
    assert told(tab, "text")[0].startswith("→ look_up(")


def test_two_settings_are_simulated_side_by_side(tab: Tab) -> None:
    tab.open("/admin/simulator/")
    tab.page.get_by_role("button", name="Compare with a second setting").click()
    tab.page.locator("[name=b-min_weight]").fill("5")
    tab.page.get_by_role("button", name="Simulate").click()
    tab.page.get_by_text("Its weight is below the least that was asked for.").wait_for()
    assert tab.page.get_by_text("B goes to").is_visible()
    tab.check()


def test_pages_on_how_models_do_are_calm_with_traffic(tab: Tab, gateway: Gateway) -> None:
    ask(tab, "best", "tokenhub/thompson", "tokenhub/thompson")
    costs_are_there(tab, 3)
    asked = "policy=cheap&policy=model%3Asandbox%2Fswift&days=7&rows=2000"
    paths = [
        "/admin/leaderboard/", "/admin/learning/", "/admin/health/", "/admin/routing/alias/best/results/",
        f"/admin/routing/policyevaluation/?{asked}", "/admin/routing/model/",
    ]  # fmt: skip
    gateway.wait_until(lambda: gateway.query("SELECT 1 FROM routing_banditdelta") != [])
    for path in paths:
        tab.check_page(path)
    tab.open("/admin/learning/")
    assert tab.page.locator(".pg-curve").count() == 2


def test_a_slider_moves_a_weight_and_a_list_asks_before_it_disables(tab: Tab, gateway: Gateway) -> None:
    tab.open("/admin/routing/model/")
    slider = tab.page.get_by_label("Weight of sandbox/swift")
    slider.focus()
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.locator(".pg-slider", has=slider).locator("output").inner_text() == "4"
    tab.page.get_by_role("button", name="Save").click()
    tab.page.wait_for_load_state()
    assert gateway.query("SELECT weight FROM routing_model WHERE id = 'sandbox/swift'") == [{"weight": 4}]
    tab.page.locator("input[name=_selected_action][value='sandbox/swift']").check()
    tab.page.locator("select[name=action]").select_option("disable")
    tab.page.locator("select[name=action]").evaluate("one => one.form.requestSubmit()")
    tab.page.get_by_text("1 alias uses it: best.").wait_for()
    tab.check()
    tab.page.get_by_role("link", name="Leave it").click()
    assert gateway.query("SELECT enabled FROM routing_model WHERE id = 'sandbox/swift'") == [{"enabled": 1}]
