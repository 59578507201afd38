"""The pictures of README and docs, taken of a fresh copy of the product with a little traffic.

They land in `docs/img/run/`, which git ignores; `make screenshots` takes them over into `docs/img/`.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import Browser, Page

from tests.servers import ROOT, wait_until
from tests.stack import Stack, collect_static

PICTURES = ROOT / "docs" / "img" / "run"
pytestmark = [pytest.mark.pictures, pytest.mark.timeout(300)]
CURVE_SECONDS = 30
PASSWORD = "a password for the pictures alone"

ENDPOINTS = """
from django.utils import timezone
from catalog.models import ModelVersion
from endpoints import services
from iam.actors import Actor
from iam.models import Project, User

admin = User.objects.get(username="admin")
by = Actor(id=str(admin.pk), name=admin.username, user=admin)
for name, model, rpm, tpm, tags in [
    ("知识库检索", "demo-embedding", 3000, 3_000_000, {"team": "search"}),
    ("合同审阅", "demo-thinking", 600, 1_200_000, {"team": "legal", "env": "prod"}),
    ("商品图问答", "demo-vision", 600, 1_000_000, {"team": "shop"}),
    ("夜间批处理", "demo-slow", 60, 200_000, {"team": "data"}),
]:
    version = ModelVersion.objects.get(model__name=model)
    made = services.create(
        project=Project.objects.get(pk="default"), name=name, description="", version=version,
        rpm=rpm, tpm=tpm, tags=tags, by=by, now=timezone.now(),
    )
    print(made.pk, model)
    if model == "demo-slow":
        services.stop(endpoint=made, by=by, now=timezone.now())
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    collect_static()
    copy = Stack(tmp_path_factory.mktemp("pictures") / "data", {"ADMIN_PASSWORD": PASSWORD})
    copy.start()
    yield copy
    copy.stop()


def used(fresh: Stack) -> str:
    """Make some endpoints, call them, and return the id of the one that was called most."""
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "--no-imports", "-c", ENDPOINTS],
        cwd=ROOT, env=fresh.env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = dict(reversed(line.split()) for line in done.stdout.split("\n") if line.startswith("ep-"))
    key = (fresh.data_dir / "demo-key").read_text(encoding="utf-8").strip()
    thinking, embedding = made["demo-thinking"], made["demo-embedding"]
    with httpx.Client(
        base_url=f"{fresh.gateway_url}/api/v3", headers={"Authorization": f"Bearer {key}"}, timeout=60
    ) as gateway:

        def answers() -> bool:
            return all(
                gateway.post("/embeddings", json={"model": embedding, "input": "合同"}).is_success
                if endpoint == embedding
                else _chat(gateway, endpoint, "你好").is_success
                for endpoint in (thinking, embedding, made["demo-vision"])
            )

        wait_until(answers, seconds=60, what="the new endpoints answer")
        for number in range(6):
            _chat(gateway, thinking, f"第 {number + 1} 条违约条款是否有效？")
            gateway.post("/embeddings", json={"model": embedding, "input": ["合同", "违约", "赔偿"] * 20})
        _chat(gateway, thinking, "temperature 超出范围", temperature=9)
    return thinking


def _chat(gateway: httpx.Client, endpoint: str, text: str, **more: object) -> httpx.Response:
    return gateway.post(
        "/chat/completions", json={"model": endpoint, "messages": [{"role": "user", "content": text}], **more}
    )


@contextmanager
def calls_going_on(fresh: Stack, endpoint: str) -> Iterator[None]:
    """Calls in waves of half a minute, most of them streamed, some of them wrong, until the block ends."""
    key = (fresh.data_dir / "demo-key").read_text(encoding="utf-8").strip()
    is_over = threading.Event()

    def call() -> None:
        with httpx.Client(
            base_url=f"{fresh.gateway_url}/api/v3", headers={"Authorization": f"Bearer {key}"}, timeout=60
        ) as gateway:
            number = 0
            while not is_over.wait(0.25):
                number += 1
                wave = 1.2 + math.sin(time.time() / 5)
                more = {"temperature": 9} if number % 11 == 0 else {"max_tokens": int(20 + 60 * wave)}
                _chat(
                    gateway, endpoint, "第 12 条违约条款是否有效？" * int(1 + 12 * wave), stream=number % 3 > 0, **more
                )

    callers = [threading.Thread(target=call) for _number in range(2)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        is_over.set()
        for caller in callers:
            caller.join()


def open_monitoring(page: Page, endpoint: str) -> None:
    """One click, and some seconds for Prometheus to begin."""
    page.goto(f"/endpoints/{endpoint}/monitoring")
    page.locator('form[action="/monitoring/open"] button').click()
    page.locator("#monitoring").wait_for(timeout=90_000)


def picture_charts(page: Page, endpoint: str, name: str) -> None:
    """The last minute of the endpoint's charts."""
    now = int(time.time())
    page.goto(f"/endpoints/{endpoint}/monitoring?from={now - 60}&to={now}")
    page.locator("[data-panel=tpm] canvas").wait_for(timeout=60_000)
    shown = "#monitoring-filters" if page.viewport_size and page.viewport_size["width"] > 767 else "[data-panel=tokens]"
    page.locator(shown).evaluate("element => scrollTo(0, element.getBoundingClientRect().top + scrollY - 56)")
    box = page.locator("[data-panel=tokens] .u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.5, steps=2)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=PICTURES / name)


def test_pictures_of_the_main_pages_are_taken(fresh: Stack, chromium: Browser) -> None:
    endpoint = used(fresh)
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    page = _signed_in(fresh, chromium, "zh-CN", "light")
    open_monitoring(page, endpoint)
    # Only what Prometheus reads from its beginning on is a curve without a jump.
    with calls_going_on(fresh, endpoint):
        began = time.monotonic()
        wait_until(lambda: _shows_calls(page, endpoint), seconds=30, what="the calls are in the list")
        _take(page, "/endpoints/?kind=custom", "endpoints-list.png")
        _take(page, f"/endpoints/{endpoint}", "endpoint-overview.png")
        _take(page, f"/endpoints/{endpoint}/calls", "endpoint-calls.png")
        page.goto(f"/endpoints/{endpoint}/api")
        page.locator("#try-prompt").fill("用一句话解释什么是推理接入点。")
        page.locator("#try-prompt").press("Control+Enter")
        page.locator("#try-result[data-state=done]").wait_for()
        page.screenshot(path=PICTURES / "endpoint-api.png")
        dark = _signed_in(fresh, chromium, "en-US", "dark")
        _take(dark, "/models/", "models-dark.png")
        phone = _signed_in(fresh, chromium, "zh-CN", "light", width=390, height=844)
        _take(phone, "/endpoints/?kind=custom", "endpoints-phone.png")
        wait_until(lambda: time.monotonic() > began + CURVE_SECONDS, seconds=60, what="the curves are long enough")
        for each, name in ((page, "endpoint-monitoring.png"), (dark, "endpoint-monitoring-dark.png")):
            each.set_viewport_size({"width": 1280, "height": 960})
            picture_charts(each, endpoint, name)
        picture_charts(phone, endpoint, "endpoint-monitoring-phone.png")
        _take(page, "/monitoring/", "monitoring-overview.png")
    for each in (page, dark, phone):
        each.context.close()
    assert len(list(PICTURES.glob("*.png"))) == 10


def _signed_in(
    fresh: Stack, chromium: Browser, locale: str, scheme: str, *, width: int = 1280, height: int = 800
) -> Page:
    context = chromium.new_context(
        base_url=fresh.console_url, locale=locale, timezone_id="Asia/Shanghai",
        color_scheme="dark" if scheme == "dark" else "light", viewport={"width": width, "height": height},
    )  # fmt: skip
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.goto("/")
    page.locator("input[name=login]").fill("admin")
    page.locator("input[name=password]").fill(PASSWORD)
    page.locator("input[name=password]").press("Enter")
    page.wait_for_url(lambda url: "/accounts/login" not in url)
    return page


def _shows_calls(page: Page, endpoint: str) -> bool:
    page.goto(f"/endpoints/{endpoint}/calls")
    return page.locator("tbody tr").count() >= 7


def _take(page: Page, path: str, name: str) -> None:
    page.goto(path)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=PICTURES / name)
