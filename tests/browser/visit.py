"""A browser window on a service's page that may not contact another host, log an error or violate a rule of axe."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

from tools.harness.stack import Stack

VIEWPORTS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "wide": {"viewport": {"width": 1920, "height": 1080}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
        "color_scheme": "dark",
        "reduced_motion": "reduce",
    },
}

#: A folder for screenshots, or none. Read at import, since a fixture removes the variable.
SCREENSHOTS = os.environ.get("SVD_TEST_SCREENSHOTS")


def _windows(*thorough: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "kind", ["desktop", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in thorough)]
    )


#: Tests of behavior always run in a desktop's window, and in thorough runs in the others too. Tests of layout specify
#: their own windows.
KINDS, EVERY = _windows("phone"), _windows("phone", "wide")


#: Waits until all transitions (of colors, say) have finished, however slow the machine is, for at most 5 s: Chromium
#: may draw no further frame if nothing changes, and the transition of a hidden element may never finish.
SETTLED = """() => Promise.race([
    new Promise((resolve) => setTimeout(resolve, 5000)),
    new Promise(requestAnimationFrame)
        .then(() => new Promise(requestAnimationFrame))
        .then(() => Promise.allSettled(
            document.getAnimations().filter((one) => one instanceof CSSTransition).map((one) => one.finished))),
]).then(() => null)"""


class Visit:
    """A browser window with its own context on a service's page.

    `expected` lists parts of the console errors that the test causes on purpose.
    """

    def __init__(self, browser: Browser, stack: Stack, kind: str, *, both_schemes: bool) -> None:
        self.context: BrowserContext = browser.new_context(base_url=stack.url, **VIEWPORTS[kind])
        self.context.set_default_timeout(30_000)
        self.kind = kind
        self.expected: list[str] = []
        self.console_errors: list[str] = []
        self._both_schemes = both_schemes
        self._origin = stack.url
        self.foreign_requests: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on("request", lambda request: self._on_request(request.url))
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.console_errors.append(str(error)))
        self.page.goto("/")

    def look(self, name: str) -> None:
        """Check the page with axe, in the window's color scheme or in both, and take a wanted screenshot."""
        usual = VIEWPORTS[self.kind].get("color_scheme", "light")
        other = "dark" if usual == "light" else "light"
        for scheme in [other, usual] if self._both_schemes else [usual]:
            self.page.emulate_media(color_scheme=scheme)
            self.page.evaluate(SETTLED)
            found = Axe().run(self.page).response["violations"]
            violations = [(v["id"], v["help"], [node["html"] for node in v["nodes"]]) for v in found]
            assert not found, f"{name}, {scheme}: {json.dumps(violations, indent=1)}"
        if SCREENSHOTS:
            self.page.screenshot(path=Path(SCREENSHOTS) / f"{self.kind}-{name}.png", full_page=True)

    def close(self) -> None:
        """Close the window; fail the test if the page contacted another host or logged an unexpected error."""
        self.context.close()
        assert not self.foreign_requests, f"the page contacted another host: {self.foreign_requests}"
        rest = [text for text in self.console_errors if not any(part in text for part in self.expected)]
        assert not rest, f"errors in the console: {rest}"

    def _on_console(self, message: ConsoleMessage) -> None:
        url = message.location.get("url", "")
        # A preview is deleted when its job ends, and a record by its owner, perhaps just before the page requests it.
        gone = "404" in message.text and (url.endswith("/preview") or "/status/" in url)
        if message.type == "error" and not gone:
            self.console_errors.append(f"{message.text} ({url})")

    def _on_request(self, url: str) -> None:
        if not re.match(rf"{re.escape(self._origin)}/|blob:|data:", url):
            self.foreign_requests.append(url)
