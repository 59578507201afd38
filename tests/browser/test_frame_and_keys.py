"""The frame, sign-in and keys in a real browser: what people press, on a desk and on a phone, and axe-core."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.accessibility import faults, serious, use_theme
from tests.conftest import NewPage
from tests.pages import PHONE, Open, fits
from tests.servers import wait_until
from tests.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a password for one test person"
# How soon the gateway knows of a key `tests/gateway` bounds; here it is seen that it does.
SECONDS = 30
PEOPLE = """
from django.contrib.auth.hashers import make_password
from iam.models import Attachment, Policy, Project, User
policy = Policy.objects.get(name="ArkFullAccess")
projects = [Project.objects.get_or_create(pk=pk, defaults={"name": name})[0] for pk, name in
            (("frame-one", "Frame One"), ("frame-two", "Frame Two"))]
for name, where in (("framed", projects), ("reader", projects[:1]), ("newcomer", [])):
    person, _new = User.objects.update_or_create(username=name, defaults={"password": make_password(%r), "language": ""})
    for project in where:
        given = Policy.objects.get(name="ArkReadOnlyAccess") if name == "reader" else policy
        Attachment.objects.get_or_create(policy=given, user=person, project=project)
"""


@pytest.fixture(scope="module")
def people(stack: Stack) -> None:
    """`framed` has full access to two projects, `reader` reads one, `newcomer` is in none."""
    subprocess.run(
        [sys.executable, "manage.py", "shell", "-v", "0", "-c", PEOPLE % PASSWORD],
        cwd=ROOT, env=stack.env, check=True, capture_output=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def states(chromium: Browser, stack: Stack, people: None) -> dict[str, Any]:
    """The cookies of everybody, signed in once through the form."""
    found: dict[str, Any] = {}
    for name in ("framed", "reader", "newcomer"):
        context = chromium.new_context(base_url=stack.console_url, locale="en-US")
        found[name] = sign_in(context.new_page(), name, "/settings/").context.storage_state()
        context.close()
    return found


@pytest.fixture
def open_as(new_page: NewPage, states: dict[str, Any]) -> Open:
    """Open `path` as somebody who is signed in."""

    def opened(name: str, path: str, **options: Any) -> Page:
        page = new_page(storage_state=states[name], **{"locale": "en-US", "reduced_motion": "reduce", **options})
        page.goto(path)
        return page

    return opened


def sign_in(page: Page, name: str, path: str) -> Page:
    page.goto(path)
    page.locator("[name=login]").fill(name)
    page.locator("[name=password]").fill(PASSWORD)
    page.locator("[name=password]").press("Enter")
    page.wait_for_url(lambda url: "/accounts/login" not in url)
    return page


def test_signing_in_leads_to_where_somebody_wanted_to_go(new_page: NewPage, people: None) -> None:
    page = sign_in(new_page(locale="en-US"), "framed", "/keys/?state=enabled")

    expect(page).to_have_url(re.compile(r"/keys/\?state=enabled$"))
    expect(page.get_by_role("heading", name="API Key", level=1)).to_be_visible()


def test_a_wrong_password_is_said_beside_the_form(new_page: NewPage, people: None) -> None:
    page = new_page(locale="zh-CN")
    page.goto("/accounts/login/")
    page.locator("[name=login]").fill("framed")
    page.locator("[name=password]").fill("wrong")
    page.locator("[name=password]").press("Enter")

    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator("[name=login]")).to_have_value("framed")
    expect(page.locator("[name=password]")).to_be_focused()
    assert serious(page) == []


def test_the_project_is_switched_at_the_top_left(new_page: NewPage, people: None) -> None:
    # In a session of its own, which keeps the project.
    page = sign_in(new_page(locale="en-US"), "framed", "/keys/")
    page.locator(".ark-project").click()
    page.get_by_role("button", name="Frame Two").click()
    page.wait_for_load_state()

    expect(page.locator(".ark-project")).to_contain_text("Frame Two")
    expect(page).to_have_url(re.compile(r"/keys/$"))
    page.reload()
    expect(page.locator(".ark-project")).to_contain_text("Frame Two")


def test_the_language_is_switched_in_place_and_kept(open_as: Open) -> None:
    page = open_as("framed", "/keys/?q=a")
    expect(page.locator("html")).to_have_attribute("lang", "en")
    page.get_by_role("button", name="切换为中文").click()

    expect(page.locator("html")).to_have_attribute("lang", "zh-hans")
    expect(page).to_have_url(re.compile(r"/keys/\?q=a$"))
    expect(page.get_by_role("link", name="在线推理")).to_be_visible()
    page.get_by_role("button", name="Switch to English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")


def test_the_theme_follows_the_system_until_it_is_chosen(open_as: Open) -> None:
    page = open_as("framed", "/keys/", color_scheme="dark")
    root = page.locator("html")
    expect(root).to_have_attribute("data-bs-theme", "dark")
    page.emulate_media(color_scheme="light")
    expect(root).to_have_attribute("data-bs-theme", "light")

    page.get_by_role("button", name="Use the dark theme").click()
    expect(root).to_have_attribute("data-bs-theme", "dark")
    page.reload()
    expect(root).to_have_attribute("data-bs-theme", "dark")
    expect(page.locator("body")).to_have_css("background-color", "rgb(23, 23, 26)")


def test_a_key_is_made_in_the_dialog_copied_used_disabled_and_deleted(open_as: Open, stack: Stack) -> None:
    page = open_as("framed", "/keys/")
    opener = page.locator(".ark-head-actions .btn-primary")
    opener.click()
    expect(page.locator("#dialog [name=name]")).to_be_focused()
    page.locator("#dialog [name=name]").fill("made in the browser")
    page.get_by_role("button", name="Create API key").click()

    secret = page.locator("#new-key").inner_text().strip()
    assert re.fullmatch(r"sk-ark-\w{40}", secret)
    page.locator("#dialog .ark-copy").click()
    expect(page.locator("#dialog .ark-copy.is-done")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == secret
    page.keyboard.press("Escape")
    expect(page.locator("#new-key")).to_be_visible()  # what is shown once is not lost by a stray key
    row = page.locator("tr", has_text="made in the browser")
    expect(row).to_have_count(1)
    page.get_by_role("link", name="I have copied the key").click()
    expect(page.locator("#dialog")).not_to_be_visible()
    expect(opener).to_be_focused()

    def answer() -> int:
        headers = {"Authorization": f"Bearer {secret}"}
        return httpx.get(
            f"{stack.gateway_url}/api/v3/models", headers=headers, trust_env=False, timeout=SECONDS
        ).status_code

    stack.wait_until(lambda: answer() == 200, seconds=SECONDS, what="the gateway takes the new key")
    row.get_by_role("button", name="Disable").click()
    expect(row).to_contain_text("Disabled")
    expect(page.locator(".ark-toast")).to_contain_text("refused from now on")
    stack.wait_until(lambda: answer() == 401, seconds=SECONDS, what="the gateway refuses the disabled key")
    row.get_by_role("button", name="Enable").click()
    expect(row).to_contain_text("Enabled")
    stack.wait_until(lambda: answer() == 200, seconds=SECONDS, what="the gateway takes the key again")

    row.get_by_role("link", name="Delete").click()
    page.locator("#dialog .btn-danger").click()
    expect(page.locator("tr", has_text="made in the browser")).to_have_count(0)
    expect(page.locator(".ark-toast")).to_contain_text("deleted")
    stack.wait_until(lambda: answer() == 401, seconds=SECONDS, what="the gateway refuses the deleted key")


def test_a_key_is_limited_to_what_is_found_and_ticked(open_as: Open) -> None:
    page = open_as("framed", "/keys/")
    page.locator(".ark-head-actions .btn-primary").click()
    page.locator("#dialog [name=name]").fill("limited")
    expect(page.locator("#scope-find")).not_to_be_visible()
    page.get_by_label("Only chosen endpoints and models").check()
    page.locator("#scope-find").fill("demo")
    first = page.locator("#scope-options [name=scope]").first
    chosen = str(first.get_attribute("value"))
    first.check()
    expect(page.locator(f"#scope-chosen [value='{chosen}']")).to_be_checked()
    page.locator("#scope-find").fill("nothing like it")
    expect(page.locator("#scope-options")).to_contain_text("Nothing matches")
    page.get_by_role("button", name="Create API key").click()
    expect(page.locator("#new-key")).to_be_visible()
    page.get_by_role("link", name="I have copied the key").click()

    page.locator("tr", has_text="limited").get_by_role("link", name="Edit").click()
    expect(page.locator(f"#scope-chosen [value='{chosen}']")).to_be_checked()


def test_mistakes_are_said_in_the_dialog_beside_their_field(open_as: Open) -> None:
    page = open_as("framed", "/keys/")
    page.locator(".ark-head-actions .btn-primary").click()
    page.locator("#dialog [name=name]").fill("x")
    page.locator("#dialog [name=allowed_ips]").fill("10.0.0.5/24")
    page.get_by_role("button", name="Create API key").click()

    expect(page.locator("#id_allowed_ips_error")).to_contain_text("10.0.0.0/24")
    expect(page.locator("#dialog [name=allowed_ips]")).to_be_focused()
    expect(page.locator("#dialog [name=name]")).to_have_value("x")


def test_the_keyboard_leads_everywhere(open_as: Open) -> None:
    page = open_as("framed", "/settings/")
    page.keyboard.press("/")
    expect(page.locator("#ark-search")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#ark-keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#ark-keys")).not_to_be_visible()
    page.keyboard.press("g")
    page.keyboard.press("k")
    page.wait_for_url("**/keys/")
    page.keyboard.press("/")
    expect(page.locator(".ark-filters [name=q]")).to_be_focused()
    page.reload()
    page.keyboard.press("Tab")
    expect(page.locator(".ark-skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#main$"))


def test_a_menu_opens_and_closes_by_keyboard_and_gives_focus_back(open_as: Open) -> None:
    page = open_as("framed", "/keys/")
    summary = page.locator(".ark-project")
    summary.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#ark-project-list button").first).to_be_focused()
    page.keyboard.press("Escape")
    expect(summary).to_be_focused()
    expect(page.locator("#ark-project-list")).not_to_be_visible()


def test_a_server_that_does_not_answer_is_said_with_a_way_to_try_again(
    chromium: Browser, stack: Stack, states: dict[str, Any]
) -> None:
    # Not by `new_page`, which takes what htmx writes to the browser's console here for a mistake of ours.
    context = chromium.new_context(base_url=stack.console_url, locale="en-US", storage_state=states["framed"])
    page = context.new_page()
    page.goto("/keys/")

    def away(route: Route) -> None:
        route.abort()

    page.route("**/keys/create", away)
    page.locator(".ark-head-actions .btn-primary").click()
    expect(page.locator("#ark-offline")).to_be_visible()
    page.unroute("**/keys/create", away)
    page.locator("#ark-retry").click()

    expect(page.locator("#dialog [name=name]")).to_be_visible()
    expect(page.locator("#ark-offline")).not_to_be_visible()
    context.close()


def test_everything_works_without_a_script(open_as: Open) -> None:
    page = open_as("framed", "/keys/", java_script_enabled=False)
    page.locator(".ark-head-actions .btn-primary").click()
    page.locator("[name=name]").fill("without a script")
    page.locator("form.ark-form button.btn-primary").click()
    expect(page.locator("#new-key")).to_contain_text("sk-ark-")
    page.get_by_role("link", name="I have copied the key").click()
    row = page.locator("tr", has_text="without a script")
    row.get_by_role("button", name="Disable").click()
    expect(page.locator("tr", has_text="without a script")).to_contain_text("Disabled")
    page.locator("form[data-theme-form] button").click()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")


def test_a_reader_finds_no_button_that_would_refuse(open_as: Open) -> None:
    page = open_as("reader", "/keys/")

    expect(page.locator(".ark-head-actions .btn-primary")).to_have_count(0)
    page.goto("/keys/create")
    expect(page.locator("main")).to_contain_text("ark:CreateApiKey")
    assert serious(page) == []


def test_somebody_in_no_project_is_told_what_to_ask_for(open_as: Open) -> None:
    page = open_as("newcomer", "/keys/")

    expect(page.locator("main")).to_contain_text("iam:AttachPolicy")
    assert serious(page) == []


def test_on_a_phone_the_left_column_is_a_sheet_from_below(open_as: Open) -> None:
    page = open_as("framed", "/keys/", viewport={"width": 390, "height": 844})
    sheet = page.locator("#ark-nav")
    expect(sheet).not_to_be_visible()
    page.locator(".ark-nav-open").click()
    expect(sheet).to_be_visible()
    wait_until(
        lambda: sheet.evaluate("(element) => element.getBoundingClientRect().bottom") >= 840,
        what="the sheet stands at the bottom",
    )
    assert serious(page) == []
    sheet.get_by_role("link", name="Models").click()
    page.wait_for_url("**/models/")


def test_pages_fit_the_screen_and_axe_finds_nothing_serious(open_as: Open) -> None:
    page, chinese = (open_as("framed", "about:blank", locale=locale, **PHONE) for locale in ("en-US", "zh-CN"))
    for path in (
        "/keys/",
        "/keys/?q=nothing+like+it",
        "/keys/create",
        "/settings/",
        "/accounts/password/change/",
        "/nowhere",
    ):
        for each in (chinese, page):
            each.goto(path)
        assert faults(page) == [], path
        assert fits(chinese), path
    page.goto("/keys/")
    page.locator(".ark-head-actions .btn-primary").click()
    expect(page.locator("#dialog [name=name]")).to_be_visible()
    for scheme in ("light", "dark"):
        use_theme(page, scheme)
        assert serious(page) == [], scheme


@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
def test_the_pages_before_sign_in_fit_and_are_sound(new_page: NewPage, locale: str) -> None:
    page = new_page(locale=locale, **PHONE)
    for path in ("/accounts/login/", "/accounts/password/reset/"):
        page.goto(path)
        assert faults(page) == [], path
