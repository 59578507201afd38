"""The endpoint pages in Chromium: what moves by itself, dialogs, two editors, no JavaScript, a phone, and axe-core."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.accessibility import faults, serious, use_theme
from tests.browser.conftest import Arranged
from tests.pages import PHONE, Open, fits
from tests.sdk.arrange import Made, Wanted
from tests.servers import wait_until
from tests.stack import Stack

PREFIX = "pages"
# One endpoint for each test that changes it, and some to look at.
CHAT = ("look", "edited", "conflict", "plain", "moved", "deleted", "gone")
WANTED = [Wanted(name, "demo-fast") for name in CHAT]
WANTED += [Wanted("vectors", "demo-embedding", "embedding"), Wanted("thinking", "demo-thinking", "thinking")]


@pytest.fixture(scope="module")
def made(arranged: Arranged) -> Made:
    return arranged(PREFIX)


@pytest.fixture
def slow_answers(stack: Stack) -> Iterator[None]:
    """Answers of demo-thinking that last until somebody has seen that they go on, however slow the machine is."""
    url = f"{stack.demo_url}/demo/models/demo-thinking"

    def pace(seconds: float) -> None:
        httpx.post(url, json={"token_seconds": seconds}, trust_env=False, timeout=30).raise_for_status()

    was = httpx.get(url, trust_env=False, timeout=30).raise_for_status().json()["token_seconds"]
    pace(0.2)
    yield
    pace(was)


def row(page: Page, made: Made, name: str) -> Any:
    return page.locator(f"#row-{made.endpoints[name]}")


# --- the list


def test_the_list_filters_in_place_and_the_address_stays_true(open_page: Open, made: Made) -> None:
    page = open_page("/endpoints/")
    page.locator("#filter-q").fill("pages vec")
    expect(row(page, made, "look")).to_have_count(0)
    expect(row(page, made, "vectors")).to_be_visible()
    expect(page).to_have_url(re.compile(r"q=pages\+vec|q=pages%20vec"))
    expect(page.locator("#filter-q")).to_be_focused()
    page.locator("select[name=status]").select_option("Stopped")
    expect(page.get_by_text("No endpoint matches")).to_be_visible()
    page.go_back()
    expect(row(page, made, "vectors")).to_be_visible()
    expect(page.locator("#filter-q")).to_have_value("pages vec")
    expect(page.locator("select[name=status]")).to_have_value("")
    page.reload()
    expect(row(page, made, "vectors")).to_be_visible()
    expect(row(page, made, "look")).to_have_count(0)


def test_a_column_head_sorts_and_says_so(open_page: Open, made: Made) -> None:
    page = open_page("/endpoints/?q=pages")
    page.get_by_role("link", name="Name / ID").click()
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Name / ID")
    expect(page).to_have_url(re.compile("sort=name"))
    names = page.locator(".ep-name").all_inner_texts()
    assert names == sorted(names)


def test_a_row_stops_starts_and_turns_healthy_without_a_reload(open_page: Open, made: Made) -> None:
    page = open_page("/endpoints/?q=pages")
    page.evaluate("window.isSamePage = true")
    line = row(page, made, "moved")
    line.get_by_role("link", name="Stop").click()
    expect(page.locator("#dialog")).to_contain_text("Nobody called it in the last 7 days.")
    page.get_by_role("button", name="Stop endpoint").click()
    expect(page.locator("#dialog")).to_be_hidden()
    expect(line).to_contain_text("Stopped by admin.")
    expect(line).to_have_class(re.compile("ark-flash"))
    expect(page.locator("#ark-toasts")).to_contain_text("pages moved was stopped.")
    line.get_by_role("button", name="Start").click()
    expect(line).to_contain_text("Healthy", timeout=30_000)
    expect(line).not_to_have_attribute("hx-trigger", re.compile("every"))
    assert page.evaluate("window.isSamePage")


def test_a_deleted_row_leaves_the_list_and_the_count_in_the_tab_in_place(open_page: Open, made: Made) -> None:
    page = open_page("/endpoints/")
    page.locator("#filter-q").fill("pages gone")
    expect(page).to_have_url(re.compile(r"/endpoints/\?q=pages%20gone&sort=-created$"))
    page.evaluate("window.isSamePage = true")
    line = row(page, made, "gone")
    line.get_by_role("link", name="Stop").click()
    page.get_by_role("button", name="Stop endpoint").click()
    expect(line).to_contain_text("Stopped by admin.")
    count = page.locator("#endpoint-kinds [aria-current] .ark-badge")
    before = int(count.inner_text())
    line.locator("summary").click()
    line.get_by_role("link", name="Delete").click()
    page.locator("#dialog [name=confirm_name]").fill("pages gone")
    page.get_by_role("button", name="Delete endpoint").click()
    expect(count).to_have_text(str(before - 1))
    expect(page.locator("#endpoint-list")).to_contain_text("No endpoint matches")
    assert page.evaluate("window.isSamePage")


def test_nothing_cuts_off_the_menu_of_the_last_row(open_page: Open, made: Made) -> None:
    on_top = """(element) => {
      const box = element.getBoundingClientRect();
      return element.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2));
    }"""
    for width in (1440, 800, 390):
        page = open_page("/endpoints/?q=pages+look", viewport={"width": width, "height": 844})
        row(page, made, "look").locator("summary").click()
        delete = page.get_by_role("link", name="Delete")
        expect(delete).to_be_visible()
        wait_until(functools.partial(delete.evaluate, on_top), what=f"nothing lies over the menu, {width} px wide")
        assert fits(page)


# --- create


def test_two_presses_make_one_endpoint(open_page: Open, made: Made) -> None:
    page = open_page("/endpoints/create")
    page.locator("#id_name").fill("pages pressed twice")
    page.locator("#id_model").select_option(label="pages-demo-fast")
    expect(page.locator("#id_rpm")).to_have_value("6000")
    page.get_by_role("button", name="Add a tag").click()
    page.locator("[name=tag_key]").nth(1).fill("team")
    page.locator("[name=tag_value]").nth(1).fill("search")
    # Both posts leave before either answer is there.
    page.evaluate(
        """() => {
            const form = document.querySelector('form[action="/endpoints/create"]');
            const body = () => new URLSearchParams(new FormData(form));
            return Promise.all([0, 1].map(() => fetch(form.action, {method: "POST", body: body()})));
        }"""
    )
    page.goto("/endpoints/?q=pages+pressed+twice")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.locator(".ep-name").click()
    expect(page.locator("#endpoint-tags")).to_contain_text("team: search")


def test_errors_come_back_beside_their_fields_with_the_focus(open_page: Open, made: Made) -> None:
    page = open_page("/endpoints/create")
    page.get_by_role("button", name="Create endpoint").click()
    expect(page.locator("#id_name_error")).to_be_visible()
    expect(page.locator("#id_name")).to_have_attribute("aria-invalid", "true")


# --- edit


def test_the_second_of_two_editors_is_told_and_can_save_on_top(open_page: Open, made: Made) -> None:
    url = f"/endpoints/{made.endpoints['conflict']}"
    mine, theirs = open_page(url), open_page(url)
    for page in (mine, theirs):
        page.get_by_role("link", name="Edit", exact=True).click()
        expect(page.locator("#dialog #id_name")).to_be_focused()
    theirs.locator("#dialog #id_name").fill("theirs")
    theirs.locator("#dialog #id_rpm").fill("700")
    theirs.get_by_role("button", name="Save changes").click()
    expect(theirs.get_by_role("heading", name="theirs", exact=True)).to_be_visible()

    mine.locator("#dialog #id_name").fill("mine")
    mine.get_by_role("button", name="Save changes").click()
    conflict = mine.locator("#conflict")
    expect(conflict).to_contain_text("admin changed this endpoint while you were editing it")
    expect(conflict.locator("tr", has_text="Name")).to_contain_text("theirs")
    expect(conflict.locator("tr", has_text="RPM")).to_contain_text("theirs is kept")
    expect(mine.locator("#dialog #id_name")).to_have_value("mine")
    expect(mine.locator("#dialog #id_rpm")).to_have_value("700")
    mine.get_by_role("button", name="Save on top of theirs").click()
    expect(mine.get_by_role("heading", name="mine", exact=True)).to_be_visible()
    expect(mine.locator("#endpoint-basics")).to_contain_text("700 RPM")


def test_an_edit_shows_at_once_in_every_part_of_the_page(open_page: Open, made: Made) -> None:
    page = open_page(f"/endpoints/{made.endpoints['edited']}")
    page.evaluate("window.isSamePage = true")
    page.get_by_role("link", name="Edit", exact=True).click()
    expect(page.locator("#dialog #id_name")).to_be_focused()
    page.locator("#dialog #id_rpm").fill("0")
    page.get_by_role("button", name="Save changes").click()
    expect(page.locator("#dialog #id_rpm")).to_be_focused()
    page.locator("#dialog #id_rpm").fill("1234")
    page.locator("#dialog [name=tag_key]").fill("env")
    page.locator("#dialog [name=tag_value]").fill("prod")
    page.get_by_role("button", name="Save changes").click()
    expect(page.locator("#dialog")).to_be_hidden()
    expect(page.locator("#endpoint-basics")).to_contain_text("1,234 RPM")
    expect(page.locator("#endpoint-tags")).to_contain_text("env: prod")
    expect(page.locator("#endpoint-changes")).to_contain_text("admin edited it")
    assert page.evaluate("window.isSamePage")


def test_escape_closes_a_dialog_and_gives_the_focus_back(open_page: Open, made: Made) -> None:
    page = open_page(f"/endpoints/{made.endpoints['look']}")
    edit = page.get_by_role("link", name="Edit", exact=True)
    edit.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#dialog #id_name")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#dialog")).to_be_hidden()
    expect(edit).to_be_focused()


# --- API call


def test_the_try_it_box_streams_and_shows_what_it_cost(open_page: Open, made: Made) -> None:
    page = open_page(f"/endpoints/{made.endpoints['thinking']}/api")
    # Told by the page itself: on a slow machine the answer may be over before anybody looks.
    page.get_by_role("button", name="Stop the answer", include_hidden=True).evaluate(
        """(button) => new MutationObserver(() => { window.couldBeStopped ||= button.checkVisibility(); })
          .observe(document.body, { attributes: true, childList: true, subtree: true })"""
    )
    page.locator("#try-prompt").fill("Why is the sky blue?")
    page.locator("#try-prompt").press("Control+Enter")
    result = page.locator("#try-result")
    expect(result).to_have_attribute("data-state", "done", timeout=60_000)
    expect(result.locator("[data-field=status]")).to_have_text("200 OK")
    expect(result.locator("[data-field=first]")).to_have_text(re.compile(r"\d+(\.\d+)? m?s"))
    expect(result.locator("[data-field=output]")).to_have_text(re.compile(r"\d+"))
    expect(result.locator("[data-field=reasoning]")).not_to_be_empty()
    expect(result.locator("[data-field=answer]")).not_to_be_empty()
    expect(page.get_by_role("button", name="Stop the answer")).to_be_hidden()
    assert page.evaluate("window.couldBeStopped")


def test_an_answer_can_be_stopped(open_page: Open, made: Made, slow_answers: None) -> None:
    page = open_page(f"/endpoints/{made.endpoints['thinking']}/api")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Stop the answer").click()
    expect(page.locator("#try-result [data-field=status]")).to_have_text("Stopped by you")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()


def test_an_embedding_shows_the_size_of_its_vector(open_page: Open, made: Made) -> None:
    page = open_page(f"/endpoints/{made.endpoints['vectors']}/api")
    page.get_by_role("button", name="Embed").click()
    expect(page.locator("#try-result [data-field=answer]")).to_contain_text(re.compile(r"A vector of \d+ numbers"))
    expect(page.locator("#try-result [data-field=status]")).to_have_text("200 OK")


def test_samples_change_language_in_place(open_page: Open, made: Made) -> None:
    page = open_page(f"/endpoints/{made.endpoints['look']}/api")
    expect(page.locator("#sample-code")).to_contain_text("curl")
    page.get_by_role("link", name="JavaScript").click()
    expect(page.locator("#sample-code")).to_contain_text('import OpenAI from "openai"')
    expect(page).to_have_url(re.compile("sample=javascript"))
    expect(page.locator("#sample-code")).to_contain_text(made.endpoints["look"])


# --- without JavaScript


def test_everything_works_without_javascript(open_page: Open, made: Made) -> None:
    page = open_page(f"/endpoints/{made.endpoints['plain']}", java_script_enabled=False)
    page.get_by_role("link", name="Edit", exact=True).click()
    page.get_by_role("button", name="Add a tag").click()
    expect(page.locator("[name=tag_key]")).to_have_count(2)
    page.locator("[name=tag_key]").first.fill("env")
    page.locator("#id_description").fill("No script at all")
    page.get_by_role("button", name="Save changes").click()
    expect(page.locator("main")).to_contain_text("No script at all")
    expect(page.locator("#endpoint-tags")).to_contain_text("env")

    page.get_by_role("link", name="API call").first.click()
    page.get_by_role("link", name="Python · openai").click()
    expect(page.locator("#sample-code")).to_contain_text("from openai import OpenAI")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#try-result [data-field=status]")).to_have_text("200 OK")
    expect(page.locator("#try-result [data-field=answer]")).not_to_be_empty()

    page.get_by_role("link", name="Stop", exact=True).click()
    page.get_by_role("button", name="Stop endpoint").click()
    expect(page.locator("#endpoint-status")).to_contain_text("Stopped")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#endpoint-status")).to_contain_text(re.compile("Scheduling|Healthy"))

    page.goto("/endpoints/?q=pages")
    page.locator("select[name=status]").select_option("Stopped")
    page.get_by_role("button", name="Apply").click()
    expect(page).to_have_url(re.compile("status=Stopped"))

    page.goto("/endpoints/create")
    page.locator("#id_name").fill("pages without script")
    page.locator("#id_model").select_option(label="pages-demo-fast")
    page.get_by_role("button", name="Show the versions of this model").click()
    expect(page.locator("#id_name")).to_have_value("pages without script")
    expect(page.locator("#id_rpm")).to_have_value("6000")
    page.get_by_role("button", name="Create endpoint").click()
    expect(page.get_by_role("heading", name="pages without script")).to_be_visible()


def test_delete_without_javascript_stops_first_and_wants_the_name(open_page: Open, made: Made) -> None:
    page = open_page(f"/endpoints/{made.endpoints['deleted']}/delete", java_script_enabled=False)
    page.get_by_role("link", name="Stop it first").click()
    page.get_by_role("button", name="Stop endpoint").click()
    page.goto(f"/endpoints/{made.endpoints['deleted']}/delete")
    page.locator("#id_confirm_name").fill("wrong")
    page.get_by_role("button", name="Delete endpoint").click()
    expect(page.locator("#id_confirm_name_error")).to_be_visible()
    page.locator("#id_confirm_name").fill("pages deleted")
    page.get_by_role("button", name="Delete endpoint").click()
    page.wait_for_url("**/endpoints/")
    expect(row(page, made, "deleted")).to_have_count(0)


# --- every page: a phone, both themes, axe-core


PAGES = {
    "list": "/endpoints/?q=pages",
    "no match": "/endpoints/?q=nothing-like-it",
    "presets": "/endpoints/?kind=preset",
    "create": "/endpoints/create",
    "overview": "/endpoints/{look}",
    "api": "/endpoints/{look}/api",
    "calls": "/endpoints/{thinking}/calls",
    "edit": "/endpoints/{look}/edit",
    "stop": "/endpoints/{look}/stop",
    "delete": "/endpoints/{look}/delete",
}


def test_pages_and_dialogs_fit_the_screen_and_axe_finds_nothing_serious(open_page: Open, made: Made) -> None:
    page, chinese = open_page("about:blank", **PHONE), open_page("about:blank", locale="zh-CN", **PHONE)
    for name, path in PAGES.items():
        for each in (chinese, page):
            each.goto(path.format(**made.endpoints))
        assert faults(page) == [], name
        assert fits(chinese), name
    for action in ("edit", "stop"):
        page.goto(f"/endpoints/{made.endpoints['look']}")
        page.locator(f"#endpoint-actions a[href$='/{action}']").click()
        expect(page.locator("#dialog form")).to_be_visible()
        for scheme in ("light", "dark"):
            use_theme(page, scheme)
            assert serious(page) == [], (action, scheme)
