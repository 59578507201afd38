"""What axe-core says of a page once it stands still."""

from __future__ import annotations

import json
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.pages import DESK, PHONE, fits

IMPACTS = ("serious", "critical")
# Of all that is well only how much: hundreds of elements of every page would travel for nothing. And no style sheet is got
# once more: only a rule about what plays by itself would read it, and nothing does.
_OPTIONS = {"resultTypes": ["violations"], "preload": False}
# Colours on their way from one to another have contrasts that no person ever sees.
_STANDS_STILL = """async () => {
  await document.fonts.ready;
  const running = document.getAnimations().filter((each) => each.effect?.getComputedTiming().endTime !== Infinity);
  await Promise.allSettled(running.map((each) => each.finished));
  return typeof axe === "object";
}"""
_SCRIPT = Axe().axe_script


def serious(page: Page) -> list[str]:
    """What axe-core finds serious or worse, with the elements at fault and why."""
    page.wait_for_load_state("load")
    if not page.evaluate(_STANDS_STILL):
        page.evaluate(_SCRIPT)
    found: list[dict[str, Any]] = page.evaluate(f"axe.run({json.dumps(_OPTIONS)}).then((all) => all.violations)")
    return [
        f"{each['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:300]}"
        for each in found
        if each["impact"] in IMPACTS
        for node in each["nodes"]
    ]


def use_theme(page: Page, scheme: str) -> None:
    """As if the system went over to `scheme`, "light" or "dark", which the page follows."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    expect(page.locator("html")).to_have_attribute("data-bs-theme", scheme)


def faults(page: Page) -> list[str]:
    """What is wrong with the page on a desk in the dark and on a phone in the light, where it stays: width and axe-core, of
    one load."""
    found = []
    for look, options, scheme in (("desk, dark", DESK, "dark"), ("phone, light", PHONE, "light")):
        page.set_viewport_size(options["viewport"])
        use_theme(page, scheme)
        if not fits(page):
            found.append(f"{look}: wider than the screen")
        found += [f"{look}: {each}" for each in serious(page)]
    return found
