"""What the tests of pages share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page

from tests.conftest import NewPage
from tests.pages import Open
from tests.sdk.arrange import Made, Order, arrange
from tests.stack import Stack

Arranged = Callable[[str], Made]
# What stands in a file of tests: `PREFIX` and `WANTED`, its endpoints; `prepare(stack, made)`, what is waited for then.
# The file that counts all endpoints comes last: while its pages are looked at, nothing else is made.
LAST = "pages"


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


@pytest.fixture(scope="session", autouse=True)
def _begun(request: pytest.FixtureRequest) -> None:
    """What takes its time is begun with the first page, whichever test needs it: it happens beside the other tests."""
    if any("stack" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("arranged")


@pytest.fixture(scope="session")
def arranged(request: pytest.FixtureRequest, stack: Stack, monitoring_opens: None) -> Iterator[Arranged]:
    """What `PREFIX` of a file of this run stands for, made and prepared."""
    modules = {item.path: item.getparent(pytest.Module) for item in request.session.items}
    files = [module.obj for module in modules.values() if module is not None and hasattr(module.obj, "WANTED")]
    files.sort(key=lambda file: file.PREFIX == LAST)
    # One process at a time makes endpoints; what they wait for then is waited for at once.
    with ThreadPoolExecutor(1) as making, ThreadPoolExecutor(len(files) or 1) as preparing:
        made: dict[str, Future[Made]] = {}
        ready: dict[str, Future[Made]] = {}
        for file in files:
            order = Order(file.PREFIX, f"{stack.demo_url}/v1", file.WANTED)
            made[file.PREFIX] = making.submit(arrange, stack, order)
            ready[file.PREFIX] = preparing.submit(_prepared, file, stack, made[file.PREFIX])
        yield lambda prefix: ready[prefix].result()
        for future in made.values():
            future.cancel()


def _prepared(file: Any, stack: Stack, made: Future[Made]) -> Made:
    found = made.result()
    if prepare := getattr(file, "prepare", None):
        prepare(stack, found)
    return found


@pytest.fixture
def open_page(new_page: NewPage, admin_state: Path, monitoring_opens: None) -> Open:
    """Open an address as the administrator, in English, without motion; keywords are the browser's."""

    def opened(path: str, **options: Any) -> Page:
        page = new_page(storage_state=admin_state, **{"locale": "en-US", "reduced_motion": "reduce", **options})
        page.goto(path)
        return page

    return opened
