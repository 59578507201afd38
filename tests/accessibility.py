"""What axe-core says of a page once it stands still."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

IMPACTS = ("serious", "critical")
# Of all that is well only how much: hundreds of elements of every page would travel for nothing.
_OPTIONS = {"resultTypes": ["violations"]}
# Colours on their way from one to another have contrasts that no person ever sees.
_STANDS_STILL = """async () => {
  await document.fonts.ready;
  const running = document.getAnimations().filter((each) => each.effect?.getComputedTiming().endTime !== Infinity);
  await Promise.allSettled(running.map((each) => each.finished));
}"""


def serious(page: Page) -> list[str]:
    """What axe-core finds serious or worse, with the elements at fault and why."""
    page.wait_for_load_state("load")
    page.evaluate(_STANDS_STILL)
    return [
        f"{each['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:300]}"
        for each in Axe().run(page, options=_OPTIONS).response["violations"]
        if each["impact"] in IMPACTS
        for node in each["nodes"]
    ]
