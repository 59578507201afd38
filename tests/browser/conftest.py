"""What the tests of pages share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page

from tests.conftest import NewPage
from tests.pages import Open
from tests.stack import Stack


@pytest.fixture(scope="session")
def monitoring_opens(stack: Stack) -> None:
    """In the project of most tests, from the first page on: by the time that one needs figures, Prometheus reads there.

    How a person opens it has a test, and a project, of its own.
    """
    with psycopg.connect(stack.env["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(
            "INSERT INTO monitoring_subscription (project_id, state, step, trouble, detail, opened_by_id, opened_by_name, "
            "asked_at, step_at, look_at) "
            "VALUES ('default', 'opening', 'prometheus', '', '', '', 'li.wei', now(), now(), now()) ON CONFLICT DO NOTHING"
        )


@pytest.fixture
def open_page(new_page: NewPage, admin_state: Path, monitoring_opens: None) -> Open:
    """Open an address as the administrator, in English, without motion; keywords are the browser's."""

    def opened(path: str, **options: Any) -> Page:
        page = new_page(storage_state=admin_state, **{"locale": "en-US", "reduced_motion": "reduce", **options})
        page.goto(path)
        return page

    return opened
