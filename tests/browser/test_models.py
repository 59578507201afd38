"""The administrator's way in a real browser: a server is added, tested, and one of its models published."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.accessibility import faults, serious
from tests.conftest import NewPage
from tests.pages import PHONE, fits
from tests.stack import Stack


def test_an_administrator_adds_a_server_tests_it_and_publishes_a_model(admin_page: Page, stack: Stack) -> None:
    page = admin_page
    page.goto("/models/")
    page.locator("a[href='/admin/catalog/modelserver/add/']").first.click()
    page.locator("#id_name").fill("browser vLLM")
    page.locator("#id_base_url").fill(stack.demo_url.removesuffix("/v1"))
    page.locator("#id_api_key").fill("sk-typed-in-the-browser")
    page.locator("button[formaction]").click()
    expect(page.locator("#inspection .ark-note-bad")).to_contain_text("/v1")
    expect(page.locator("#id_api_key")).to_have_value("sk-typed-in-the-browser")  # typed, never sent back
    page.locator("#id_base_url").fill(f"{stack.demo_url.removesuffix('/v1')}/v1")
    page.locator("button[formaction]").click()
    expect(page.locator("#inspection .ark-note-good")).to_contain_text("demo-thinking")
    assert serious(page) == []
    page.locator("button[name=publish]").click()

    expect(page).to_have_url(re.compile(r"/publish/$"))
    assert serious(page) == []
    page.locator("input[name=pick][value=demo-thinking]").check()
    page.locator("main form button").click()
    expect(page.locator("#id_m0-context_tokens")).to_have_value("65536")
    assert serious(page) == []
    page.locator("#id_m0-model_name").fill("browser-thinking")
    page.locator("#id_m0-version").fill("260422")
    page.locator("#id_m0-input_price").fill("1.25")
    page.locator("main form button[class*=primary]").click()

    expect(page).to_have_url(re.compile(r"/models/$"))
    row = page.locator("tr", has=page.locator("[data-copy='browser-thinking-260422']"))
    expect(row.locator(".ark-dot-good")).to_be_visible()
    expect(row).to_contain_text("1.25")
    assert "sk-typed" not in page.content()
    page.goto("/admin/catalog/modelserver/")
    page.get_by_role("link", name="browser vLLM").click()
    expect(page.locator("#id_api_key")).to_have_value("")


def test_searching_models_keeps_the_address_true_and_works_without_javascript(
    admin_page: Page, new_page: NewPage, admin_state: Path
) -> None:
    admin_page.goto("/models/")
    admin_page.locator("#model-q").fill("demo-embedding 250901")
    expect(admin_page.locator("#model-list tbody tr")).to_have_count(1)
    expect(admin_page).to_have_url(re.compile("q=demo-embedding"))
    plain = new_page(storage_state=admin_state, java_script_enabled=False)
    plain.goto("/models/")
    plain.locator("#model-q").fill("demo-embedding 250901")
    plain.locator("#model-q").press("Enter")
    expect(plain.locator("#model-list tbody tr")).to_have_count(1)
    assert plain.locator("[data-copy='demo-embedding-250901']").count() == 1


def test_the_pages_are_accessible_and_fit(new_page: NewPage, admin_state: Path) -> None:
    page, chinese = (new_page(storage_state=admin_state, locale=locale, **PHONE) for locale in ("en-US", "zh-CN"))
    for url in ("/models/", "/admin/catalog/modelserver/add/", "/admin/catalog/modelversion/1/prices/"):
        for each in (chinese, page):
            each.goto(url)
        assert faults(page) == [], url
        assert fits(chinese), url


def test_djangos_own_pages_of_the_catalogue_obey_the_content_policy(admin_page: Page) -> None:
    for url in (
        "/admin/", "/admin/catalog/modelserver/", "/admin/catalog/modelversion/1/change/",
        "/admin/catalog/deployment/", "/admin/catalog/foundationmodel/add/",
    ):  # fmt: skip
        admin_page.goto(url)
        expect(admin_page.locator("#site-name")).to_be_visible()
