"""A browser window on a service's page: it must stay on its origin, keep its console clean, and please axe."""

import json
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


def _windows(*thorough: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "kind", ["desktop", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in thorough)]
    )


#: Tests of behavior run in a desktop's window each time, in the other windows in thorough runs. Tests of layout name
#: their own windows.
KINDS, EVERY = _windows("phone"), _windows("phone", "wide")


#: Waits until the transitions of the last change (colours, say) are over, however slow the machine is. Chromium
#: may draw no further frame where nothing changes, and a transition of a hidden element may never finish: 5 s at most.
SETTLED = """() => Promise.race([
    new Promise((resolve) => setTimeout(resolve, 5000)),
    new Promise(requestAnimationFrame)
        .then(() => new Promise(requestAnimationFrame))
        .then(() => Promise.allSettled(
            document.getAnimations().filter((one) => one instanceof CSSTransition).map((one) => one.finished))),
]).then(() => null)"""


class Visit:
    """A browser window of its own on a service's page. `expected` are parts of console errors that are meant."""

    def __init__(self, browser: Browser, stack: Stack, shots: Path, kind: str) -> None:
        self.context: BrowserContext = browser.new_context(base_url=stack.url, **VIEWPORTS[kind])
        self.context.set_default_timeout(30_000)
        self.kind = kind
        self.expected: list[str] = []
        self.complaints: list[str] = []
        self._shots = shots
        self._origin = stack.url
        self.strangers: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on("request", lambda request: self._note(request.url))
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto("/")

    def look(self, name: str) -> None:
        """Take a screenshot, and have axe judge what is there, in light and in dark."""
        usual = VIEWPORTS[self.kind].get("color_scheme", "light")
        for scheme in ("dark", "light") if usual == "light" else ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)
            self.page.evaluate(SETTLED)
            found = Axe().run(self.page).response["violations"]
            violations = [(v["id"], v["help"], [node["html"] for node in v["nodes"]]) for v in found]
            assert not found, f"{name}, {scheme}: {json.dumps(violations, indent=1)}"
        self.page.screenshot(path=self._shots / f"{self.kind}-{name}.png", full_page=True)

    def close(self) -> None:
        """End the visit; what it should not have done fails the test."""
        self.context.close()
        assert not self.strangers, "the page asked another host"
        rest = [text for text in self.complaints if not any(part in text for part in self.expected)]
        assert not rest, f"the console says: {rest}"

    def _listen(self, message: ConsoleMessage) -> None:
        url = message.location.get("url", "")
        # A preview is deleted when its job ends, and a record by its owner, maybe just before the page asks for it.
        gone = "404" in message.text and (url.endswith("/preview") or "/status/" in url)
        if message.type == "error" and not gone:
            self.complaints.append(f"{message.text} ({url})")

    def _note(self, url: str) -> None:
        if not re.match(rf"{re.escape(self._origin)}/|blob:|data:", url):
            self.strangers.append(url)
