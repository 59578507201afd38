"""The endpoint pages in Chromium: what moves by itself, dialogs, two editors, no JavaScript, a phone, and axe-core."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.accessibility import serious
from tests.pages import DESK, PHONE, Open, fits
from tests.sdk.arrange import Made, Order, Wanted, arrange
from tests.stack import Stack


@pytest.fixture(scope="module")
def made(stack: Stack) -> Made:
    """One endpoint for each test that changes it, and two to look at."""
    chat = ("look", "edited", "conflict", "plain", "moved", "deleted", "gone")
    wanted = [Wanted(name, "demo-fast") for name in chat]
    wanted += [Wanted("vectors", "demo-embedding", "embedding"), Wanted("thinking", "demo-thinking", "thinking")]
    return arrange(stack, Order(prefix="pages", server_url=f"{stack.demo_url}/v1", endpoints=wanted))


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
    for width in (1440, 800, 390):
        page = open_page("/endpoints/?q=pages+look", viewport={"width": width, "height": 844})
        row(page, made, "look").locator("summary").click()
        box = page.get_by_role("link", name="Delete").bounding_box()
        assert box is not None
        middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
        assert page.evaluate("([x, y]) => document.elementFromPoint(x, y)?.textContent.trim()", middle) == "Delete"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


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
    page.locator("#try-prompt").fill("Why is the sky blue?")
    page.locator("#try-prompt").press("Control+Enter")
    expect(page.get_by_role("button", name="Stop the answer")).to_be_visible()
    result = page.locator("#try-result")
    expect(result).to_have_attribute("data-state", "done", timeout=60_000)
    expect(result.locator("[data-field=status]")).to_have_text("200 OK")
    expect(result.locator("[data-field=first]")).to_have_text(re.compile(r"\d+(\.\d+)? m?s"))
    expect(result.locator("[data-field=output]")).to_have_text(re.compile(r"\d+"))
    expect(result.locator("[data-field=reasoning]")).not_to_be_empty()
    expect(result.locator("[data-field=answer]")).not_to_be_empty()
    expect(page.get_by_role("button", name="Stop the answer")).to_be_hidden()


def test_an_answer_can_be_stopped(open_page: Open, made: Made) -> None:
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


LOOKS = {
    "phone, light, English": {"color_scheme": "light", "locale": "en-US", **PHONE},
    "desk, dark, Chinese": {**DESK, "color_scheme": "dark", "locale": "zh-CN"},
}


@pytest.mark.parametrize("look", LOOKS)
def test_pages_and_dialogs_fit_the_screen_and_axe_finds_nothing_serious(open_page: Open, made: Made, look: str) -> None:
    page = open_page("/endpoints/", **LOOKS[look])
    for name, path in PAGES.items():
        page.goto(path.format(**made.endpoints))
        assert fits(page), name
        assert serious(page) == [], name
    for action in ("edit", "stop"):
        page.goto(f"/endpoints/{made.endpoints['look']}")
        page.locator(f"#endpoint-actions a[href$='/{action}']").click()
        expect(page.locator("#dialog form")).to_be_visible()
        assert serious(page) == [], action
