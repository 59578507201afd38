"""Rules in Chromium: one press on a phone to the group in force, an own rule with a fault in its PromQL, and axe-core."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.conftest import NewPage
from tests.sdk.arrange import Order, Wanted, arrange
from tests.servers import prometheus_binary
from tests.stack import Stack

pytestmark = pytest.mark.timeout(240)
Open = Callable[..., Page]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
PATIENT = 20_000
# Rules reach Prometheus with the next run of the sync, and are read back some seconds later.
IN_FORCE_MS = 60_000


@pytest.fixture(scope="module")
def endpoints(stack: Stack) -> dict[str, str]:
    """Endpoints without rules, in a project whose monitoring is open."""
    with psycopg.connect(stack.env["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(
            "INSERT INTO monitoring_subscription (project_id, state, step, trouble, detail, opened_by_id, opened_by_name, "
            "asked_at, step_at, look_at, opened_at) "
            "VALUES ('default', 'open', 'targets', '', '', '', 'li.wei', now(), now(), now(), now()) ON CONFLICT DO NOTHING"
        )
    wanted = [Wanted("pressed", "demo-fast"), Wanted("own", "demo-fast")]
    return arrange(stack, Order(prefix="rules", server_url=f"{stack.demo_url}/v1", endpoints=wanted)).endpoints


@pytest.fixture
def open_page(new_page: NewPage, admin_state: Path) -> Open:
    """Open an address as the administrator, in English; keywords are the browser's."""

    def opened(path: str, **options: Any) -> Page:
        page = new_page(storage_state=admin_state, **{"locale": "en-US", "reduced_motion": "reduce", **options})
        page.set_default_timeout(PATIENT)
        page.goto(path)
        return page

    return opened


def serious(page: Page) -> list[str]:
    """What axe-core finds serious or worse, with the elements at fault."""
    return [
        f"{each['id']}: {node['html'][:160]}"
        for each in Axe().run(page).response["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_one_press_on_a_phone_to_rules_in_force(open_page: Open, endpoints: dict[str, str]) -> None:
    page = open_page(f"/endpoints/{endpoints['pressed']}/monitoring", **PHONE)
    page.locator("#configure-alerts").click()
    drawer = page.locator("#dialog")
    expect(drawer).to_contain_text("No rule watches this endpoint yet.")
    drawer.locator(".ar-more summary").first.click()
    threshold = drawer.get_by_label("Server error rate (5xx), P1: threshold")
    expect(threshold).to_have_value("5")
    # A fault is told in the drawer, with the fields open.
    threshold.fill("60")
    drawer.get_by_role("button", name="Create the rules").click()
    expect(drawer.get_by_role("alert")).to_contain_text("P0 is worse than P1")
    threshold.fill("6")
    assert fits(page)
    assert serious(page) == []
    drawer.get_by_role("button", name="Create the rules").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Default rules of")
    expect(page.get_by_text("> 6%")).to_be_visible()
    if prometheus_binary() is not None:
        expect(page.locator(".ar-state")).to_contain_text("In force", timeout=IN_FORCE_MS)
    assert fits(page)
    assert serious(page) == []

    # A second press is shown the first.
    page.goto(f"/alerts/endpoints/{endpoints['pressed']}/rules")
    expect(page.get_by_text("have been created already")).to_be_visible()
    page.get_by_role("link", name="Look at the rules").click()
    expect(page.locator("#rule-group")).to_be_visible()

    for theme in ("light", "dark"):
        looked = open_page(page.url, color_scheme=theme, viewport={"width": 1440, "height": 900})
        expect(looked.locator("#rule-group")).to_be_visible()
        assert serious(looked) == []
        edit = looked.locator("#group-edit")
        edit.click()
        expect(looked.locator("#dialog .ar-drawer")).to_be_visible()
        assert serious(looked) == []
        looked.keyboard.press("Escape")
        expect(edit).to_be_focused()
        looked.goto("/alerts/rules")
        expect(looked.locator("#rule-list")).to_contain_text("Default rules of")
        assert serious(looked) == []
        looked.context.close()


def test_promql_with_a_fault_and_without(open_page: Open, endpoints: dict[str, str]) -> None:
    page = open_page(f"/alerts/rules/create?endpoint={endpoints['own']}", viewport={"width": 1440, "height": 900})
    page.locator("#id_name").fill("Too many calls")
    page.get_by_label("An expression in PromQL").check()
    editor = page.locator("#id_promql")
    expect(page.locator("#id_metric")).to_be_hidden()

    # Completion by keys alone.
    editor.press_sequentially("sum(rate(proxy_request_tot")
    options = page.locator("#promql-list li")
    expect(options.first).to_contain_text("ark_api_proxy_request_total")
    assert serious(page) == []
    editor.press("Enter")
    expect(editor).to_have_value("sum(rate(ark_api_proxy_request_total")
    editor.press_sequentially("{cod")
    expect(options.first).to_contain_text("code")
    editor.press("Escape")
    expect(page.locator("#promql-list")).to_be_hidden()
    expect(editor).to_have_value("sum(rate(ark_api_proxy_request_total{cod")

    editor.fill("sum(\n  rate(node_load1[5m])\n)")
    page.get_by_label("P1: threshold").fill("5")
    page.get_by_role("button", name="Check").click()
    preview = page.locator("#rule-preview")
    expect(preview).to_contain_text("Line 2, column 8:")
    preview.get_by_role("button", name="Go to the place").click()
    expect(editor).to_be_focused()
    assert editor.evaluate("area => area.value.slice(area.selectionStart)").startswith("node_load1")
    assert serious(page) == []

    editor.fill("60 * sum by (project, ark_endpoint) (rate(ark_api_proxy_request_total[5m]))")
    page.get_by_role("button", name="Check").click()
    expect(preview).to_contain_text("would not fire" if prometheus_binary() is not None else "does not answer")
    page.get_by_role("button", name="Create rule").click()
    expect(page.get_by_role("heading", name="Too many calls", level=1)).to_be_visible()
    expect(page.locator("#rule-group")).to_contain_text("> 5")

    # Without a script the form says the same, and the edit is saved.
    address = page.locator("#rule-group [id$=-edit]").get_attribute("href")
    plain = open_page(address or "", java_script_enabled=False)
    plain.locator("#id_promql").fill("sum(up)")
    plain.get_by_role("button", name="Check").click()
    expect(plain.locator("#id_promql_error")).to_contain_text("Line 1, column 5:")
    plain.locator("#id_promql").fill("sum by (project, ark_endpoint) (rate(ark_api_proxy_request_total[1m]))")
    plain.get_by_role("button", name="Save").click()
    expect(plain.locator("#rule-group")).to_contain_text("[1m]")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_form_of_a_metric_fits_a_phone(open_page: Open, theme: str) -> None:
    page = open_page("/alerts/rules/create", color_scheme=theme, **PHONE)
    page.get_by_label("Metric", exact=True).select_option("ark_endpoint_status")
    expect(page.get_by_label("Summed up as")).to_have_value("max")
    assert fits(page)
    assert serious(page) == []
