"""Events in Chromium: the page that a message's link opens on a phone, acknowledging, silencing, and axe-core."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, expect

from tests.alerts.staged import stage
from tests.conftest import NewPage
from tests.sdk.arrange import Order, Wanted, arrange
from tests.stack import Stack

Open = Callable[..., Page]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
SECONDS = 20
PATIENT = SECONDS * 1000


@pytest.fixture(scope="module")
def made(stack: Stack) -> dict[str, Any]:
    """An endpoint with one event for each test that changes it."""
    order = Order(prefix="night", server_url=f"{stack.demo_url}/v1", endpoints=[Wanted("watch", "demo-fast")])
    endpoint = arrange(stack, order).endpoints["watch"]
    return {"endpoint": endpoint, **stage(stack, endpoint, "look", "seen", "silent", "noted")}


@pytest.fixture
def open_page(new_page: NewPage, admin_state: Path) -> Open:
    """Open an address as the administrator, in English; keywords are the browser's."""

    def opened(path: str, **options: Any) -> Page:
        page = new_page(storage_state=admin_state, **{"locale": "en-US", "reduced_motion": "reduce", **options})
        page.set_default_timeout(PATIENT)
        page.goto(path)
        return page

    return opened


def _curve(route: Route) -> None:
    """What the chart of an event answers when Prometheus has figures."""
    end = int(time.time()) // 15 * 15
    times = list(range(end - 4_500, end + 1, 15))
    values = [1.2 if at < end - 900 else 7.3 for at in times]
    route.fulfill(
        content_type="application/json",
        body=json.dumps(
            {
                "message": "", "summary": "Lowest 1.2%, highest 7.3%, last 7.3%.", "time": times, "values": values,
                "threshold": 5, "threshold_text": "5%", "unit": "%", "starts_at": end - 720, "ends_at": None,
            }
        ),
    )  # fmt: skip


def _fits(page: Page) -> bool:
    found: bool = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    return found


# --- one event on a phone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["zh-CN", "en-US"])
def test_the_first_screen_of_a_phone_says_it_all(open_page: Open, made: dict[str, Any], language: str) -> None:
    page = open_page(f"/alerts/events/{made['look']}", locale=language, **PHONE)
    assert _fits(page)
    for part in ("h1", "#event-now", "#event-acknowledge", "#event-silence"):
        box = page.locator(part).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 844, part
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_contain_text("P0")
    expect(heading).to_contain_text("7.34% > 5%")
    for button in page.locator("#event-actions .btn").all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 40


def test_the_curve_is_drawn_with_its_threshold(open_page: Open, made: dict[str, Any]) -> None:
    page = open_page("/alerts/")
    page.route("**/chart", _curve)
    page.goto(f"/alerts/events/{made['look']}")
    expect(page.locator("#event-chart canvas")).to_be_visible(timeout=PATIENT)
    expect(page.locator("#event-chart-note")).to_have_text("Lowest 1.2%, highest 7.3%, last 7.3%.", timeout=PATIENT)


def test_without_figures_a_sentence_stands_where_the_curve_would(open_page: Open, made: dict[str, Any]) -> None:
    page = open_page(f"/alerts/events/{made['look']}")
    expect(page.locator("#event-chart-note")).to_have_text(re.compile(r"\w+"), timeout=PATIENT)
    expect(page.locator("#event-chart canvas")).to_have_count(0)


def test_who_is_not_signed_in_lands_on_the_event(new_page: NewPage, stack: Stack, made: dict[str, Any]) -> None:
    page = new_page(locale="en-US", **PHONE)
    page.goto(f"/alerts/events/{made['look']}")
    page.locator("input[name=login]").fill("admin")
    page.locator("input[name=password]").fill(stack.admin_password)
    page.locator("input[name=password]").press("Enter")
    expect(page.locator("#event-now")).to_be_visible(timeout=PATIENT)
    expect(page).to_have_url(re.compile(f"/alerts/events/{made['look']}$"))


# --- what people do ------------------------------------------------------------------------------------------------------


def test_one_press_acknowledges_and_every_part_says_so(open_page: Open, made: dict[str, Any]) -> None:
    page = open_page(f"/alerts/events/{made['seen']}", **PHONE)
    page.evaluate("window.isSamePage = true")
    page.locator("#event-acknowledge").click()
    expect(page.locator("#event-now")).to_contain_text("admin looks after it", timeout=PATIENT)
    expect(page.locator("#event-acknowledge")).to_have_count(0)
    expect(page.locator("#event-log")).to_contain_text("Acknowledged", timeout=PATIENT)
    assert page.evaluate("window.isSamePage")


def test_a_silence_from_the_event_and_its_end(open_page: Open, made: dict[str, Any]) -> None:
    page = open_page(f"/alerts/events/{made['silent']}", **PHONE)
    page.locator("#event-silence-4").click()
    dialog = page.locator("#dialog")
    expect(dialog.locator("[name=span][value='4h']")).to_be_checked(timeout=PATIENT)
    dialog.locator("[name=reason]").fill("")
    dialog.get_by_role("button", name="Silence", exact=True).click()
    expect(dialog.locator("[name=reason]:invalid, #id_reason_error")).to_have_count(1, timeout=PATIENT)
    dialog.locator("[name=reason]").fill("load test of the night")
    dialog.get_by_role("button", name="Silence", exact=True).click()
    expect(dialog).to_be_hidden(timeout=PATIENT)
    now = page.locator("#event-now")
    expect(now).to_contain_text("Silent now", timeout=PATIENT)
    expect(now).to_contain_text("load test of the night")
    now.get_by_role("button", name="End the silence").click()
    expect(now).not_to_contain_text("Silent now", timeout=PATIENT)
    page.goto("/alerts/silences")
    expect(page.locator("#silence-list")).to_contain_text("load test of the night")
    expect(page.locator("#silence-list")).to_contain_text("ended by admin")
    assert _fits(page)


def test_a_note_is_there_at_once(open_page: Open, made: dict[str, Any]) -> None:
    page = open_page(f"/alerts/events/{made['noted']}")
    page.locator("#event-note").click()
    page.locator("#dialog textarea").fill("server 3 was restarted")
    page.get_by_role("button", name="Add the note").click()
    expect(page.locator("#event-log")).to_contain_text("server 3 was restarted", timeout=PATIENT)
    expect(page.locator("#event-note")).to_be_focused(timeout=PATIENT)


def test_the_list_filters_in_place_and_counts_stand_on_every_page(open_page: Open, made: dict[str, Any]) -> None:
    page = open_page("/alerts/")
    row = page.locator(f"#event-{made['look']}")
    expect(row).to_be_visible(timeout=PATIENT)
    page.locator("select[name=phase]").select_option("resolved")
    expect(row).to_have_count(0, timeout=PATIENT)
    expect(page).to_have_url(re.compile("phase=resolved"))
    page.goto("/models/")
    page.locator(".ark-firing").click()
    expect(row).to_be_visible(timeout=PATIENT)
    expect(page).to_have_url(re.compile("phase=firing"))


# --- a phone, both themes, axe-core ----------------------------------------------------------------------------------------


LOOKS = {
    "light": {"color_scheme": "light"},
    "dark phone": {"color_scheme": "dark", **PHONE},
}
PAGES = {
    "list": "/alerts/",
    "no match": "/alerts/?level=P2&phase=pending",
    "event": "/alerts/events/{look}",
    "silences": "/alerts/silences",
    "new silence": "/alerts/silences/create",
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_and_axe_finds_nothing_serious(open_page: Open, made: dict[str, Any], name: str, look: str) -> None:
    page = open_page(PAGES[name].format(**made), **LOOKS[look])
    assert _fits(page)
    assert _serious(page) == []


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_serious_in_the_dialog(open_page: Open, made: dict[str, Any], look: str) -> None:
    page = open_page(f"/alerts/events/{made['look']}", **LOOKS[look])
    page.locator("#event-silence").click()
    expect(page.locator("#dialog form")).to_be_visible(timeout=PATIENT)
    assert _serious(page) == []


def _serious(page: Page) -> list[str]:
    """What axe-core finds serious or worse, with the elements at fault."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['html'][:160]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
