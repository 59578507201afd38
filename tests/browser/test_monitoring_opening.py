"""Monitoring opens with one click in Chromium: the press, the steps, the figures; closing, a failure, and no script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.accessibility import faults, serious
from tests.conftest import NewPage
from tests.pages import PHONE
from tests.servers import wait_until
from tests.stack import Stack

pytestmark = pytest.mark.timeout(240)
PROJECT, OTHER = "opening-test", "opening-other"
# Prometheus takes a new list over every five seconds, twice, and reads then.
OPEN_MS = 90_000


@pytest.fixture
def database(stack: Stack) -> Iterator[psycopg.Connection[Any]]:
    """The stack's database, with a project whose monitoring nobody has opened."""
    with psycopg.connect(stack.env["DATABASE_URL"], autocommit=True) as connection:
        for project, name in ((PROJECT, "Opening"), (OTHER, "Other")):
            connection.execute(
                "INSERT INTO iam_project (id, name, created_at) VALUES (%s, %s, now()) ON CONFLICT DO NOTHING",
                [project, name],
            )
        forget(connection)
        yield connection
        forget(connection)


def forget(connection: psycopg.Connection[Any], *projects: str) -> None:
    """As if nobody had asked for these projects."""
    connection.execute(
        "DELETE FROM monitoring_subscription WHERE project_id = ANY(%s)", [list(projects or (PROJECT, OTHER))]
    )


def remember(connection: psycopg.Connection[Any], project: str, state: str, trouble: str = "") -> None:
    connection.execute(
        "INSERT INTO monitoring_subscription (project_id, state, step, trouble, detail, opened_by_id, opened_by_name, "
        "asked_at, step_at, look_at, opened_at) VALUES (%s, %s, 'targets', %s, '', '', 'li.wei', now(), now(), now(), now())",
        [project, state, trouble],
    )


def sign_in(page: Page, stack: Stack) -> None:
    """In a session of its own, which looks at the project: the other tests' session goes on looking at theirs."""
    page.goto("/monitoring/")
    page.locator("input[name=login]").fill("admin")
    page.locator("input[name=password]").fill(stack.admin_password)
    page.locator("input[name=password]").press("Enter")
    page.locator(".ark-project").click()
    page.locator(f"button[name=project][value={PROJECT}]").click()
    expect(page.locator(".ark-project")).to_contain_text("Opening")


def test_one_click_opens_monitoring_and_a_dialog_closes_it(
    new_page: NewPage, stack: Stack, database: psycopg.Connection[Any], tmp_path: Path
) -> None:
    page = new_page(locale="en-US", reduced_motion="reduce")
    sign_in(page, stack)
    page.goto("/monitoring/")
    is_open = page.locator(".ark-head-text", has_text="Open")
    button = page.get_by_role("button", name="Open monitoring with one click")
    expect(button).to_be_visible()
    assert serious(page) == []
    button.click()
    expect(is_open).to_be_visible(timeout=OPEN_MS)
    expect(page.locator("#monitoring-opening")).to_have_count(0)
    assert serious(page) == []

    # Prometheus goes on reading for another project, so that the next openings are quick.
    remember(database, OTHER, "open")
    page.get_by_label("More").click()
    page.get_by_role("link", name="Close monitoring").click()
    expect(page.locator("#dialog form")).to_be_visible()
    assert serious(page) == []
    page.locator("#dialog").get_by_role("button", name="Close monitoring").click()
    expect(button).to_be_visible()
    expect(page.locator("#ark-toasts")).to_contain_text("Monitoring of Opening was closed.")
    actions = database.execute("SELECT action, outcome FROM audit_event WHERE project_id = %s ORDER BY id", [PROJECT])
    assert actions.fetchall()[-2:] == [("ark:OpenMonitoring", "allowed"), ("ark:CloseMonitoring", "allowed")]

    # What a failure looks like, on every kind of screen; then it is tried again.
    remember(database, PROJECT, "failed", "refused")
    state = tmp_path / "state.json"
    page.context.storage_state(path=state)
    looked = new_page(storage_state=state, locale="en-US", **PHONE)
    looked.goto("/monitoring/")
    expect(looked.locator(".mo-step-failed")).to_contain_text("METRICS_TOKEN")
    assert faults(looked) == []
    page.reload()
    page.get_by_role("button", name="Try again").click()
    expect(is_open).to_be_visible(timeout=OPEN_MS)

    # Without a script, people look again themselves.
    forget(database, PROJECT)
    plain = new_page(storage_state=state, locale="en-US", java_script_enabled=False)
    plain.goto("/monitoring/")
    plain.get_by_role("button", name="Open monitoring with one click").click()
    expect(plain.locator("h1")).to_have_text("Monitoring")

    def has_opened() -> bool:
        plain.reload()
        return plain.locator(".ark-head-text", has_text="Open").count() == 1

    wait_until(has_opened, seconds=OPEN_MS / 1000, what="monitoring is open")
