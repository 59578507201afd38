"""Fixtures that more than one room's tests use, and the order of the run: quick tests, then the stack, then pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.servers import ON_SQLITE, PostgresServer, PrometheusServer, RedisServer, prometheus_binary
from tests.stack import Stack

# Which half of the quick part runs a test (`make test` only). What touches no database runs on SQLite and Valkey alone, and
# so do pages, which the browser's tests open on PostgreSQL, and walks by chance, which are long. The rest runs on PostgreSQL
# and redis-server, the ledger on both: a second run on the other database says nothing new of most.
ON_BOTH = {"metering"}
ON_SQLITE_ALONE = {
    *("catalog", "iam", "pages", "test_convergence.py", "test_exposition.py", "test_machine.py", "test_paging.py"),
    *("test_switch_machine.py", "test_switch_tick.py"),
}
# Fixtures and files that want what is there in the PostgreSQL half only.
SERVERS = {"postgres", "prometheus"}
WITH_SERVERS = {"gateway"}
DATABASE = {"db", "live_server", "transactional_db"}
# Tests of the running product that share one, and go beside the rest of them.
BESIDE = {"sdk", "test_quick_start_survives.py", "test_up.py"}
# A busy machine may take long; what a test waits for comes all the same.
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)
ADMIN_PASSWORD = "a password for the test run alone"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """Mark by what a test asks for, and keep the random order only within quick, stack and browser tests.

    The running product would slow the quick ones, and Playwright's event loop stays in the thread once it is there.
    """
    for item in items:
        names = getattr(item, "fixturenames", ())
        if "stack" in names:
            item.add_marker(pytest.mark.stack)
        if "chromium" in names:
            item.add_marker(pytest.mark.browser)
        where = {item.path.name, item.path.parent.name}
        if where & BESIDE:
            item.add_marker(pytest.mark.beside)
        needs_servers = SERVERS & {*names} or where & WITH_SERVERS or item.get_closest_marker("skipif")
        touches_database = item.get_closest_marker("django_db") or DATABASE & {*names}
        if not needs_servers and not touches_database:
            item.add_marker(pytest.mark.pure)
        if not needs_servers and (where & ON_SQLITE_ALONE or not touches_database):
            item.add_marker(pytest.mark.on_sqlite)
        elif needs_servers or not where & ON_BOTH:
            item.add_marker(pytest.mark.on_postgres)
    yield
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    for place, marker in ((3, "browser"), (2, "stack"), (1, "quickstart")):
        if item.get_closest_marker(marker):
            return place
    return 0


@pytest.fixture(scope="session", autouse=True)
def _plain_static_files() -> Iterator[None]:
    """Pages rendered in this process name static files as they are; only the stack's have been collected and hashed."""
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    # Or WhiteNoise would look at every file again for each test's client: a third of the time of tests of pages.
    with override_settings(STORAGES={**settings.STORAGES, "staticfiles": plain}, WHITENOISE_AUTOREFRESH=True):
        yield


@pytest.fixture(scope="session")
def prometheus() -> Iterator[PrometheusServer]:
    """A real Prometheus that reads from nobody: tests `write()` their figures, under endpoint ids of their own."""
    if ON_SQLITE or prometheus_binary() is None:
        pytest.skip("needs Prometheus")
    server = PrometheusServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def stack_redis() -> Iterator[RedisServer]:
    """The stack's own redis-server, durable, to kill and start at will."""
    server = RedisServer(is_durable=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def stack(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, stack_redis: RedisServer
) -> Iterator[Stack]:
    """The whole product on PostgreSQL and redis-server, with the demo model server; one for the run."""
    stack = Stack(
        tmp_path_factory.mktemp("stack") / "data",
        {
            "DATABASE_URL": postgres.create_database("ark_stack"),
            "REDIS_URL": stack_redis.url,
            "ADMIN_PASSWORD": ADMIN_PASSWORD,
        },
    )
    stack.start()
    yield stack
    stack.stop()


# --- pages in Chromium ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium without a screen; the one that never had any costs a third of the other's processor time."""
    names = ("chromium-headless-shell", "chromium", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    assert path, "Chromium is not installed: `make test` installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


NewPage = Callable[..., Page]


@pytest.fixture
def new_page(chromium: Browser, stack: Stack) -> Iterator[NewPage]:
    """Make pages of the stack's console: `new_page(locale="en-US", color_scheme="dark", viewport={…})`.

    Keywords are Playwright's for a context. At the end no page may have had a script error or a blocked resource.
    """
    contexts: list[BrowserContext] = []
    troubles: list[str] = []

    def make(**options: Any) -> Page:
        options = {
            "locale": "zh-CN",
            "timezone_id": "Asia/Shanghai",
            "viewport": {"width": 1280, "height": 800},
            **options,
        }
        context = chromium.new_context(base_url=stack.console_url, **options)
        context.set_default_timeout(PATIENCE_MS)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(f"{page.url}: {error}"))
        page.on("console", lambda message: _note(troubles, page, message.type, message.text))
        return page

    yield make
    for context in contexts:
        context.close()
    assert not troubles, troubles


def _note(troubles: list[str], page: Page, kind: str, text: str) -> None:
    # Chromium reports every answer of 400 and above as an error; those are the tests' own business.
    if kind == "error" and not text.startswith("Failed to load resource"):
        troubles.append(f"{page.url}: {text}")


@pytest.fixture(scope="session")
def admin_state(chromium: Browser, stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cookies of the administrator, signed in once through the form."""
    path = tmp_path_factory.mktemp("browser") / "admin.json"
    context = chromium.new_context(base_url=stack.console_url, locale="zh-CN")
    page = context.new_page()
    page.goto("/")
    page.locator("input[name=login]").fill("admin")
    page.locator("input[name=password]").fill(stack.admin_password)
    page.locator("input[name=password]").press("Enter")
    page.wait_for_url(lambda url: "/accounts/login" not in url)
    context.storage_state(path=path)
    context.close()
    return path


@pytest.fixture
def admin_page(new_page: NewPage, admin_state: Path) -> Page:
    """A page of the console, signed in as the administrator, in Chinese."""
    return new_page(storage_state=admin_state)
