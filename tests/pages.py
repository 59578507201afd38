"""What the tests of pages say alike."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.servers import wait_until

Open = Callable[..., Page]
"""`open_page("/alerts/", color_scheme="dark", **PHONE)`, see `tests/browser/conftest.py`."""
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
DESK: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}
SETTLED_SECONDS = 5


def fits(page: Page) -> bool:
    """Whether nothing is wider than the screen, once what a script draws has followed the screen's size."""
    with suppress(AssertionError):
        wait_until(lambda: page.evaluate("document.documentElement.scrollWidth <= innerWidth"), seconds=SETTLED_SECONDS)
        return True
    return False


def expect_on_first_screen(*parts: Locator, height: float) -> None:
    """Each of these ends within the first screen. A part that a poll replaces meanwhile is asked again."""
    for part in parts:
        expect(part).to_be_visible()
        wait_until(functools.partial(_ends_above, part, height), what=f"{part} ends above {height}")


def _ends_above(part: Locator, height: float) -> bool:
    return bool(part.evaluate("(element) => scrollY + element.getBoundingClientRect().bottom") <= height)
