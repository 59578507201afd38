"""Events in Chromium: the list, a page on a phone, notes, and axe-core. What fires by itself is in `test_alert_rules.py`."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.accessibility import faults, serious, use_theme
from tests.alerts.staged import stage
from tests.browser.conftest import Arranged
from tests.pages import PHONE, Open, expect_on_first_screen, fits
from tests.sdk.arrange import Wanted
from tests.stack import Stack

PREFIX = "night"
WANTED = [Wanted("watch", "demo-fast")]


@pytest.fixture(scope="module")
def made(stack: Stack, arranged: Arranged) -> dict[str, Any]:
    """An endpoint with one event to look at, and one that is noted."""
    endpoint = arranged(PREFIX).endpoints["watch"]
    return {"endpoint": endpoint, **stage(stack, endpoint, "look", "noted")}


def test_a_note_is_there_at_once_and_a_sentence_where_no_curve_is(open_page: Open, made: dict[str, Any]) -> None:
    page = open_page(f"/alerts/events/{made['noted']}")
    expect(page.locator("#event-chart-note")).to_have_text(re.compile(r"\w+"))
    page.locator("#event-note").click()
    page.locator("#dialog textarea").fill("server 3 was restarted")
    page.get_by_role("button", name="Add the note").click()
    expect(page.locator("#event-log")).to_contain_text("server 3 was restarted")
    expect(page.locator("#event-note")).to_be_focused()


def test_the_list_filters_in_place_and_counts_stand_on_every_page(open_page: Open, made: dict[str, Any]) -> None:
    page = open_page("/alerts/")
    row = page.locator(f"#event-{made['look']}")
    expect(row).to_be_visible()
    page.locator("select[name=phase]").select_option("resolved")
    expect(row).to_have_count(0)
    expect(page).to_have_url(re.compile("phase=resolved"))
    page.goto("/models/")
    page.locator(".ark-firing").click()
    expect(row).to_be_visible()
    expect(page).to_have_url(re.compile("phase=firing"))


PAGES = (
    "/alerts/", "/alerts/?level=P2&phase=pending", "/alerts/silences", "/alerts/silences/create", "/alerts/events/{look}",
)  # fmt: skip


def test_pages_fit_and_axe_finds_nothing_serious(open_page: Open, made: dict[str, Any]) -> None:
    page, chinese = open_page("about:blank", **PHONE), open_page("about:blank", locale="zh-CN", **PHONE)
    for path in PAGES:
        for each in (chinese, page):
            each.goto(path.format(**made))
        assert faults(page) == [], path
        assert fits(chinese), path
    page.locator("#event-silence").click()
    expect(page.locator("#dialog form")).to_be_visible()
    assert serious(page) == []
    use_theme(page, "dark")
    assert serious(page) == []


def test_the_first_screen_of_a_phone_says_it_all_in_chinese_too(open_page: Open, made: dict[str, Any]) -> None:
    page = open_page(f"/alerts/events/{made['look']}", locale="zh-CN", **PHONE)
    parts = ("h1", "#event-now", "#event-acknowledge", "#event-silence")
    expect_on_first_screen(*map(page.locator, parts), height=PHONE["viewport"]["height"])
    expect(page.get_by_role("heading", level=1)).to_contain_text("7.34% > 5%")
