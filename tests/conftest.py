"""Fixtures that more than one room's tests use, and the order of the run: quick tests, then the stack, then pages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.conf import settings
from django.test import override_settings
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.alerts import fakes
from tests.servers import ON_SQLITE, PostgresServer, PrometheusServer, RedisServer, prometheus_binary
from tests.stack import Stack

# On what `make test` runs a quick test. What touches no database runs in the SQLite half, all else on PostgreSQL and
# redis-server, the ledger on both: a second run on the other database says nothing new of most.
ON_BOTH = {"metering"}
# Fixtures and files that want what is there in the PostgreSQL half only.
SERVERS = {"alertmanager", "postgres", "prometheus"}
WITH_SERVERS = {"gateway", "test_alertmanager.py", "test_rules_in_prometheus.py", "test_tending.py"}
DATABASE = {"db", "live_server", "transactional_db"}
# `make test` gives the running product and the browser lanes by folder (tools/test.sh), so that each lane imports its own.
FOLDERS = {"browser": {"browser"}, "stack": {"browser", "engines", "sdk", "system"}, "quickstart": {"quickstart"}}
# A busy machine may take long; what a test waits for comes all the same.
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)
# No test asserts a time on the clock, no example of one either.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")
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
        if "home" in names:
            item.add_marker(pytest.mark.quickstart)
        where = {item.path.name, item.path.parent.name}
        for marker, folders in FOLDERS.items():
            if item.get_closest_marker(marker) and item.path.parent.name not in folders:
                raise pytest.UsageError(
                    f"{item.nodeid}: a {marker} test belongs in tests/{' or tests/'.join(sorted(folders))}"
                )
        needs_servers = SERVERS & {*names} or where & WITH_SERVERS or item.get_closest_marker("skipif")
        touches_database = item.get_closest_marker("django_db") or DATABASE & {*names}
        if needs_servers:
            item.add_marker(pytest.mark.needs_servers)
        if not needs_servers and not touches_database:
            item.add_marker(pytest.mark.pure)
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


@pytest.fixture(autouse=True)
def _calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fires and what is away is asked every few seconds, not for each page; here nothing is, so that queries can be
    counted however slow the machine is."""
    from alerts import firing
    from alerts.chain import Chain
    from arkconsole import health

    nothing = health.Degraded(is_redis_away=False, are_ticks_late=False, alerts=Chain())
    monkeypatch.setattr(firing, "watch", firing.Watch(lambda _project_id: {}))
    monkeypatch.setattr(health.watch, "look", lambda **_when: nothing)


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


@dataclass(frozen=True)
class Outside:
    """Who carries messages out of the stack: a mail server and a telephone company, as strict as real ones."""

    mail: fakes.Smtp
    phone: fakes.Aliyun

    def env(self) -> dict[str, str]:
        return {
            "EMAIL_URL": f"smtp://127.0.0.1:{self.mail.port}",
            "ALERT_PHONE_PROVIDER": "aliyun",
            "ALERT_PHONE_URL": self.phone.url,
            "ALERT_PHONE_KEY": self.phone.key,
            "ALERT_PHONE_SECRET": self.phone.secret,
            "ALERT_PHONE_TEMPLATE": "TTS_1001",
            "ALERT_PHONE_CODE_TEMPLATE": "TTS_1002",
            # The bots of tests live on this machine.
            "ALERT_BOT_HOSTS": "127.0.0.1",
            "ALERT_ALLOW_HTTP": "1",
            "ALERT_ALLOW_PRIVATE_ADDRESSES": "1",
        }


@pytest.fixture(scope="session")
def outside() -> Iterator[Outside]:
    with fakes.running(fakes.Smtp()) as mail, fakes.running(fakes.Aliyun()) as phone:
        yield Outside(mail, phone)


@pytest.fixture(scope="session")
def stack(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, stack_redis: RedisServer, outside: Outside
) -> Iterator[Stack]:
    """The whole product on PostgreSQL and redis-server, with the demo model server; one for the run."""
    stack = Stack(
        tmp_path_factory.mktemp("stack") / "data",
        {
            "DATABASE_URL": postgres.create_database("ark_stack"),
            "REDIS_URL": stack_redis.url,
            "ADMIN_PASSWORD": ADMIN_PASSWORD,
            **outside.env(),
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


class Contexts:
    """The browser's contexts, taken again by tests that ask for the same: by then our styles and scripts are in their cache."""

    def __init__(self, browser: Browser, base_url: str) -> None:
        self._browser, self._base_url = browser, base_url
        self._free: dict[str, list[BrowserContext]] = {}

    def take(self, options: dict[str, Any]) -> BrowserContext:
        """One without cookies; `options` are Playwright's."""
        if free := self._free.get(repr(sorted(options.items()))):
            return free.pop()
        context = self._browser.new_context(base_url=self._base_url, **options)
        context.set_default_timeout(PATIENCE_MS)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        return context

    def give_back(self, context: BrowserContext, options: dict[str, Any]) -> None:
        for page in context.pages:
            page.close()
        context.clear_cookies()
        self._free.setdefault(repr(sorted(options.items())), []).append(context)


@pytest.fixture(scope="session")
def contexts(chromium: Browser, stack: Stack) -> Contexts:
    return Contexts(chromium, stack.console_url)


NewPage = Callable[..., Page]


@pytest.fixture
def new_page(contexts: Contexts) -> Iterator[NewPage]:
    """Make pages of the stack's console: `new_page(locale="en-US", color_scheme="dark", viewport={…})`.

    Keywords are Playwright's for a context, each page has one of its own. A test that sets the page's clock says
    `keeps_time=False`: nothing sets it right again. At the end no page may have had a script error or a blocked resource.
    """
    taken: list[tuple[BrowserContext, dict[str, Any], bool]] = []
    troubles: list[str] = []

    def make(*, keeps_time: bool = True, storage_state: Path | dict[str, Any] | None = None, **options: Any) -> Page:
        options = {"locale": "zh-CN", "timezone_id": "Asia/Shanghai", **options}
        viewport = options.pop("viewport", {"width": 1280, "height": 800})
        # Motion proves nothing, and axe-core would wait for its end.
        media: dict[str, Any] = {"reduced_motion": "reduce"}
        media |= {name: options.pop(name) for name in ("color_scheme", "reduced_motion") if name in options}
        context = contexts.take(options)
        taken.append((context, options, keeps_time))
        if storage_state is not None:
            state = json.loads(storage_state.read_text()) if isinstance(storage_state, Path) else storage_state
            context.add_cookies(state["cookies"])
        page = context.new_page()
        page.set_viewport_size(viewport)
        page.emulate_media(**media)
        page.on("pageerror", lambda error: troubles.append(f"{page.url}: {error}"))
        page.on("console", lambda message: _note(troubles, page, message.type, message.text))
        return page

    yield make
    for context, options, keeps_time in taken:
        if keeps_time:
            contexts.give_back(context, options)
        else:
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
