"""A browser's tab that notices what goes wrong in it: errors in the console, scripts that fail, requests that are not
answered, what the content security policy refuses. And `check_page`, which asks of a page what every page must keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from playwright.sync_api import BrowserContext, Page

CHROMIUM: Final = Path("/usr/bin/chromium")
NO_CHROMIUM: Final = f"no browser: {CHROMIUM} is not installed (Debian's package chromium)"
ARGUMENTS: Final = ["--no-sandbox", "--disable-dev-shm-usage"]
AXE: Final = Path(__file__).with_name("axe.min.js").read_text(encoding="utf-8")
Look = tuple[str, int]
LIGHT_AND_WIDE: Final[Look] = ("light", 1440)
DARK_AND_NARROW: Final[Look] = ("dark", 360)
EVERY_LOOK: Final = (LIGHT_AND_WIDE, ("light", 360), ("dark", 1440), DARK_AND_NARROW)

_TELL_OF_POLICY: Final = """
document.addEventListener("securitypolicyviolation", (event) => console.error(
    `policy: ${event.violatedDirective} refuses ${event.blockedURI} (${event.sourceFile}:${event.lineNumber})`));
"""
_AXE: Final = """
async (rules) => {
    const found = await axe.run(document, {
        resultTypes: ["violations"],
        rules: Object.fromEntries(rules.map((rule) => [rule, {enabled: false}])),
    });
    return found.violations
        .filter((one) => ["serious", "critical"].includes(one.impact))
        .flatMap((one) => one.nodes.map(
            (node) => `${one.id} (${one.impact}): ${node.target.join(" ")} ${node.html.slice(0, 200)}`));
}
"""
# What reaches beyond the right border, when the page as a whole does.
_TOO_WIDE: Final = """
(width) => document.documentElement.scrollWidth <= width ? [] : [...document.querySelectorAll("body *")]
    .map((one) => [one, one.getBoundingClientRect().right])
    .filter(([one, right]) => right > width + 1)
    .map(([one, right]) => `${Math.round(right)} ${one.cloneNode().outerHTML.slice(0, 200)}`)
    .slice(-10);
"""
THEIRS: Final[dict[str, str]] = {}
"""Rules of axe that are off: rule to reason. What unfold or Django violate and what cannot be mended here."""


class Tab:
    """`page` is playwright's. `problems` grows while the tab is used; `calm` asserts that there are none."""

    def __init__(self, context: BrowserContext, base: str) -> None:
        self.base = base
        self.page: Page = context.new_page()
        self.problems: list[str] = []
        self.expected: set[int] = set()
        """Statuses of answers that the test is about."""
        self.page.set_default_timeout(30_000)
        self.page.add_init_script(_TELL_OF_POLICY)
        self.page.on("console", lambda one: self._console(one))
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        self.page.on("requestfailed", lambda one: self._failed(one))
        self.page.on("response", lambda one: self._answered(one))

    def _console(self, message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:  # `_answered` says it better
            self.problems.append(f"console: {message.text}")

    def _failed(self, request: Any) -> None:
        if "ERR_ABORTED" not in str(request.failure):  # the page was left, or a stream closed
            self.problems.append(f"request: {request.method} {request.url} {request.failure}")

    def _answered(self, response: Any) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.problems.append(f"answer: {response.request.method} {response.url} {response.status}")

    def open(self, path: str) -> None:
        self.page.goto(self.base + path, wait_until="load")

    def calm(self) -> None:
        assert self.problems == [], "\n".join([self.page.url, *self.problems])

    def look(self, theme: str, width: int) -> None:
        """Changes theme and width of the page that is open."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.evaluate(
            "async (theme) => { Alpine.$data(document.documentElement).switchTheme(theme); await Alpine.nextTick();"
            " await new Promise(requestAnimationFrame); }",
            theme,
        )

    def check(self, *, looks: tuple[Look, ...] = (LIGHT_AND_WIDE, DARK_AND_NARROW), axe: bool = True) -> None:
        """The page that is open, as it is now, in each of the looks. axe takes longer than all the rest."""
        for theme, width in looks:
            self.look(theme, width)
            where = f"{self.page.url} {theme} {width}px"
            wide = self.page.evaluate(_TOO_WIDE, width)
            assert wide == [], "\n".join([f"{where}: wider than the screen", *wide])
            if axe:
                if not self.page.evaluate("typeof axe === 'object'"):
                    self.page.evaluate(AXE)
                found = self.page.evaluate(_AXE, list(THEIRS))
                assert found == [], "\n".join([where, *found])
        self.calm()

    def check_page(
        self, path: str, *, looks: tuple[Look, ...] = (LIGHT_AND_WIDE, DARK_AND_NARROW), axe: bool = True
    ) -> None:
        """Opens it; then as `check`."""
        self.open(path)
        self.check(looks=looks, axe=axe)
