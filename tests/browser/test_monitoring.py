"""The monitoring tab in Chromium, on real calls that a real Prometheus has read: drawn charts, one cursor, zoom, filters."""

from __future__ import annotations

import csv
import io
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.accessibility import serious
from tests.browser.conftest import Arranged
from tests.pages import DESK, PHONE, Open, fits
from tests.sdk.arrange import Made, Wanted
from tests.servers import prometheus_binary, wait_until
from tests.stack import Stack

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(prometheus_binary() is None, reason="Prometheus is not installed: `make test` installs it"),
]
# Prometheus takes over new targets within ten seconds, then reads them every second.
OPENED_MS = 90_000
DRAWN_MS = 30_000
CALLS, STREAMED, REFUSED = 12, 8, 3


PREFIX = "charts"
WANTED = [Wanted("called", "demo-fast"), Wanted("idle", "demo-fast")]


def prepare(stack: Stack, made: Made) -> None:
    """One of the endpoints is called as soon as Prometheus reads: nothing is counted before."""
    with psycopg.connect(stack.env["DATABASE_URL"], autocommit=True) as connection:

        def is_open() -> bool:
            query = "SELECT 1 FROM monitoring_subscription WHERE project_id = 'default' AND state = 'open'"
            return connection.execute(query).fetchone() is not None

        wait_until(is_open, seconds=OPENED_MS / 1000, what="monitoring is open")
    call(stack, made)


@pytest.fixture(scope="module")
def made(stack: Stack, chromium: Browser, admin_state: Path, arranged: Arranged) -> Made:
    """Endpoints with calls that Prometheus has read, in a project whose monitoring is open."""
    found = arranged(PREFIX)
    context = chromium.new_context(base_url=stack.console_url, storage_state=admin_state, locale="en-US")
    page = context.new_page()
    page.goto(f"/endpoints/{found.endpoints['called']}/monitoring")
    # Where it is still being opened, the page turns by itself into the one with the charts.
    expect(page.locator("#monitoring")).to_be_visible(timeout=OPENED_MS)

    def is_read() -> bool:
        where = f"/endpoints/{found.endpoints['called']}/monitoring/groups"
        # In the steps of every screen here: of some the newest one may end before that of others.
        for width in (300, 400, 800):
            panels = {
                **page.request.get(f"{where}/performance?range=1h&width={width}").json()["panels"],
                **page.request.get(f"{where}/errors?range=1h&width={width}").json()["panels"],
            }
            if not all(
                any(value for one in panels[name]["series"] for value in one["values"])
                for name in ("ttft", "duration", "errors_by_cause")
            ):
                return False
        return True

    stack.wait_until(is_read, seconds=90, what="Prometheus has read the calls")
    context.close()
    return found


def call(stack: Stack, made: Made) -> None:
    """Calls that succeed, streamed and not, and a few that are refused."""
    with httpx.Client(base_url=stack.gateway_url, trust_env=False, timeout=60) as client:
        client.headers["Authorization"] = f"Bearer {made.api_key}"
        body = {
            "model": made.endpoints["called"], "max_tokens": 8,
            "messages": [{"role": "user", "content": "Is clause 12 void?"}],
        }  # fmt: skip
        for number in range(CALLS + STREAMED):
            answer = client.post("/api/v3/chat/completions", json={**body, "stream": number < STREAMED})
            assert answer.status_code == 200, answer.text
        for _number in range(REFUSED):
            assert client.post("/api/v3/chat/completions", json={**body, "temperature": 9}).status_code == 400


def path_of(made: Made, query: str = "range=1h", name: str = "called") -> str:
    return f"/endpoints/{made.endpoints[name]}/monitoring?{query}"


def panel(page: Page, name: str) -> Any:
    return page.locator(f"[data-panel={name}]")


def show(page: Page, name: str) -> Any:
    """The panel in sight, with its chart drawn."""
    panel(page, name).scroll_into_view_if_needed()
    expect(panel(page, name).locator("canvas")).to_be_visible(timeout=DRAWN_MS)
    return panel(page, name)


# Pixels as blue as the first series is in both themes: axes, limits and marks of the status are not.
DRAWN = """(element) => {
  const canvas = element.querySelector("canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let found = 0;
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] > 128 && data[at + 2] - data[at] > 60 && data[at + 2] - data[at + 1] > 40) found += 1;
  }
  return found;
}"""


def drawn(page: Page, name: str) -> int:
    return int(show(page, name).evaluate(DRAWN))


def wait_drawn(page: Page, name: str) -> None:
    """Something of the panel's first series is seen."""
    wait_until(lambda: drawn(page, name) > 2, seconds=30, what=f"{name} is drawn")


def cursor(page: Page, name: str) -> float:
    """Where the cursor of a chart stands, as a share of the width of what is drawn; -1: nowhere."""
    return float(
        panel(page, name).evaluate(
            """(element) => {
              const line = element.querySelector(".u-cursor-x");
              if (!line || line.classList.contains("u-off")) return -1;
              return new DOMMatrix(getComputedStyle(line).transform).m41 / element.querySelector(".u-over").clientWidth;
            }"""
        )
    )


def menu(page: Page, name: str, item: str) -> None:
    panel(page, name).locator(".mon-menu summary").click()
    panel(page, name).get_by_role("button", name=item).click()


def answer_of(page: Page, group: str, do: Callable[[], object]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """What the page is told of a group after `do`, and the query that it sent."""
    # Not the first answer that begins: one that is given up for the next question never ends.
    with page.expect_request_finished(lambda request: f"/groups/{group}?" in request.url, timeout=DRAWN_MS) as waiting:
        do()
    response = waiting.value.response()
    assert response is not None
    answer: dict[str, Any] = response.json()
    return answer, parse_qs(urlsplit(response.url).query)


def test_charts_are_drawn_have_one_cursor_and_say_the_same_as_table_csv_and_queries(
    open_page: Open, made: Made
) -> None:
    page = open_page(path_of(made))
    expect(page.locator("[data-tile=calls] [data-part=value]")).to_have_text(str(CALLS + STREAMED + REFUSED))
    for name in ("tokens", "rpm", "errors_by_cause"):
        wait_drawn(page, name)
    show(page, "tokens")
    answer, _query = answer_of(page, "tokens", lambda: page.locator("#monitoring-refresh").click())
    wait_drawn(page, "tokens")
    expect(panel(page, "limited").locator(".mon-why")).to_have_text("No call of this range was limited.")

    # One cursor: over one chart it stands at the same moment in the others, and their legends tell the values there.
    show(page, "tokens")
    box = panel(page, "tokens").locator(".u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 40)
    expect(panel(page, "tokens").locator(".mon-tip")).to_contain_text("Input")
    there = pytest.approx(0.6, abs=0.03)
    wait_until(
        lambda: all(cursor(page, name) == there for name in ("tokens", "tokens_per_call", "rpm")),
        what="the cursors stand at the same moment",
    )
    page.mouse.move(0, 0)
    expect(panel(page, "tokens").locator(".mon-tip")).to_be_hidden()

    # The legend hides a line, also by the keyboard, and the arrow keys read the chart.
    entry = panel(page, "tokens").locator(".mon-legend button").first
    before = drawn(page, "tokens")
    entry.press("Enter")
    expect(entry).to_have_attribute("aria-pressed", "false")
    wait_until(lambda: drawn(page, "tokens") < before / 2, what="the line is gone")
    entry.press("Enter")
    panel(page, "tokens").locator(".mon-chart").press("ArrowLeft")
    expect(page.locator("#ark-voice")).to_contain_text("Tokens per minute: Input")

    # The table and the file are the chart's own points.
    address = str(panel(page, "tokens").locator(".mon-menu a").get_attribute("href"))
    file = page.request.get(address, headers={"Accept-Language": "en"}).text().removeprefix("\ufeff")
    rows = list(csv.reader(io.StringIO(file)))
    shown = answer["panels"]["tokens"]["series"]
    assert [head.split(" (")[0] for head in rows[0]] == ["Time", *(one["label"] for one in shown)]
    assert len(rows) - 1 == len(answer["time"])
    for at, one in enumerate(shown):
        written = [float(row[at + 1]) if row[at + 1] else None for row in rows[1:]]
        assert written == pytest.approx(one["values"])
    menu(page, "tokens", "Show as a table")
    cells = (
        panel(page, "tokens")
        .locator("tbody tr")
        .evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")
    )
    assert len(cells) == len(rows) - 1
    for cell, row in zip(reversed(cells), rows[1:], strict=True):
        assert cell[0] == row[0][:19].replace("T", " ")
        for text, value in zip(cell[1:], row[1:], strict=True):
            if value:
                assert float(text.replace(",", "")) == pytest.approx(float(value), abs=0.06)
            else:
                assert text == "–"

    menu(page, "tokens", "PromQL behind it")
    dialog = page.locator("#monitoring-queries")
    expect(dialog).to_contain_text(f'ark_endpoint="{made.endpoints["called"]}"')
    dialog.locator("[data-copy]").first.click()
    assert page.evaluate("navigator.clipboard.readText()") == shown[0]["query"]


def test_dragging_zooms_all_charts_the_address_says_it_and_back_and_links_work(open_page: Open, made: Made) -> None:
    page = open_page(path_of(made))
    show(page, "ttft")
    expect(page.locator("#monitoring [aria-busy=true]")).to_have_count(0)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/groups/" in request.url else None)
    box = panel(page, "ttft").locator(".u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 60, steps=4)
    # To the very end, where the calls are: the pointer leaves the chart on its way.
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 60, steps=4)
    page.mouse.move(box["x"] + box["width"] + 6, box["y"] + 60)
    asked.clear()
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"from=\d+&to=\d+"))
    zoomed = page.url
    query = parse_qs(urlsplit(zoomed).query)
    width = int(query["to"][0]) - int(query["from"][0])
    assert width == pytest.approx(0.5 * 3600, abs=240)
    expect(page.locator("[name=range]")).to_have_value("own")
    expect(panel(page, "tpot").locator("[data-part=body]")).not_to_have_attribute("aria-busy", "true", timeout=DRAWN_MS)
    wait_drawn(page, "rpm")
    near = [url for url in asked if "/performance?" in url]
    assert near
    assert all(f"from={query['from'][0]}&to={query['to'][0]}" in url for url in asked)

    # "Back" is the picture before; forward and the link are the zoomed one.
    page.go_back()
    expect(page).not_to_have_url(re.compile("from="))
    expect(page.locator("[name=range]")).to_have_value("1h")
    page.go_forward()
    expect(page).to_have_url(zoomed)
    expect(page.locator("[name=range]")).to_have_value("own")
    # A question that is given up for the next one has no answer to look at.
    expect(page.locator("#monitoring [aria-busy=true]")).to_have_count(0)
    span = page.locator("#monitoring-span")
    page.evaluate("scrollTo(0, 0)")
    answer_of(page, "summary", lambda: page.locator("#monitoring-refresh").click())
    other = open_page(zoomed)
    expect(span).not_to_be_empty()
    # The end lay in the present, and is by now a step further.
    expect(other.locator("#monitoring-span")).to_contain_text(span.inner_text().split(" to ")[0], timeout=DRAWN_MS)
    expect(other.locator("[name=range]")).to_have_value("own")
    other.locator("#monitoring-out").click()
    expect(other).not_to_have_url(zoomed)
    other.locator("#monitoring-reset").click()
    expect(other).to_have_url(re.compile(r"monitoring(\?range=1h)?$"))


def test_filters_change_what_is_asked_and_drawn_and_an_own_range_is_checked(open_page: Open, made: Made) -> None:
    page = open_page(path_of(made), keeps_time=False)
    show(page, "tokens")
    answer, query = answer_of(page, "tokens", lambda: page.locator("[name=compare]").check())
    assert query["compare"] == ["1"]
    assert answer["shift"] > 0
    expect(page).to_have_url(re.compile("compare=1"))
    _answer, query = answer_of(page, "tokens", lambda: page.locator("[name=range]").select_option("3h"))
    assert (query["range"], query["compare"]) == (["3h"], ["1"])
    page.locator("[name=version]").select_option(made.versions["called"])
    expect(page.locator("[data-tile=calls] [data-part=value]")).to_have_text(str(CALLS + STREAMED + REFUSED))

    # What an address says that makes no sense is the usual in the form, too.
    page.goto(path_of(made, "range=2h&auto=7&from=x&compare=on"))
    expect(page.locator("[name=range]")).to_have_value("1h")
    expect(page).to_have_url(re.compile(r"monitoring\?compare=1$"))

    # What matches nothing says so, in tiles and charts.
    page.goto(path_of(made, "range=1h&api=embeddings"))
    expect(page.locator("[data-tile=calls] [data-part=value]")).to_have_text("0")
    panel(page, "tokens").scroll_into_view_if_needed()
    expect(panel(page, "tokens").locator(".mon-why")).to_have_text("No call in this range matches the filters.")

    # Times of the own range are those of the reader's zone.
    page.locator("#monitoring-own").click()
    dialog = page.locator("#monitoring-range")
    dialog.locator("[name=from]").fill("2020-01-01T00:00")
    dialog.get_by_role("button", name="Show this range").click()
    expect(dialog.get_by_role("alert")).to_have_text("Figures are kept for 15 days; begin later.")
    until = int(time.time()) // 60 * 60
    for name, at in (("from", until - 3600), ("to", until)):
        dialog.locator(f"[name={name}]").fill(time.strftime("%Y-%m-%dT%H:%M", time.gmtime(at + 8 * 3600)))
    dialog.get_by_role("button", name="Show this range").click()
    expect(page).to_have_url(re.compile(f"from={until - 3600}&to={until}"))

    # It refreshes by itself while somebody looks at it, quietly: the address keeps how often.
    page.clock.install()
    page.goto(path_of(made))
    expect(page.locator("[data-tile=calls] [data-part=value]")).to_have_text(str(CALLS + STREAMED + REFUSED))
    page.locator("[name=auto]").select_option("15")
    expect(page).to_have_url(re.compile("auto=15"))
    _answer, query = answer_of(page, "summary", lambda: page.clock.run_for(20_000))
    assert query["auto"] == ["15"]

    # A tab that nobody sees asks nothing, and asks at once when somebody looks again.
    page.wait_for_load_state("networkidle")
    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => window.isAway })")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    def turn(is_away: bool) -> None:
        page.evaluate("""(isAway) => {
          window.isAway = isAway;
          document.dispatchEvent(new Event("visibilitychange"));
        }""", is_away)  # fmt: skip

    turn(is_away=True)
    page.clock.run_for(120_000)
    assert asked == []

    def look_again() -> None:
        turn(is_away=False)
        page.clock.run_for(1_000)

    answer_of(page, "summary", look_again)


@contextmanager
def hung_prometheus(stack: Stack) -> Iterator[None]:
    """Prometheus that takes connections and never answers."""
    pid = stack.pid("prometheus")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_with_prometheus_away_the_page_says_so_keeps_the_ledgers_figures_and_nothing_else_slows_down(
    open_page: Open, stack: Stack, made: Made
) -> None:
    with hung_prometheus(stack):
        page = open_page("about:blank", keeps_time=False)
        page.clock.install()
        page.goto(path_of(made, "range=1h&model=charts-demo-fast"))
        told_and_nothing_else_slow(page)

    def is_drawn_again() -> bool:
        page.clock.run_for(11_000)
        return panel(page, "tokens").locator("canvas").is_visible() and page.locator("#monitoring-note").is_hidden()

    wait_until(is_drawn_again, seconds=60, what="the page looks again by itself")


def told_and_nothing_else_slow(page: Page) -> None:
    expect(page.locator("#monitoring-note")).to_be_visible(timeout=DRAWN_MS)
    expect(page.locator("#monitoring-note")).to_contain_text("Prometheus")
    panel(page, "tokens").scroll_into_view_if_needed()
    expect(panel(page, "tokens").locator(".mon-why")).to_contain_text("Prometheus", timeout=DRAWN_MS)
    expect(page.locator("[data-tile=calls] [data-part=value]")).to_have_text(str(CALLS + STREAMED + REFUSED))
    other = page.context.new_page()
    times = []
    for _attempt in range(3):
        began = time.monotonic()
        other.goto("/endpoints/?q=charts")
        times.append(time.monotonic() - began)
    assert min(times) < 3
    other.close()


def test_the_page_fits_and_axe_finds_nothing(open_page: Open, made: Made) -> None:
    page = open_page(path_of(made, "range=1h&compare=1"), color_scheme="light", **PHONE)
    wait_drawn(page, "rpm")
    show(page, "tokens")
    panel(page, "tokens").locator(".mon-menu summary").click()
    panel(page, "tokens").locator("[data-part=to-table]").click()
    expect(panel(page, "tokens").locator("tbody tr").first).to_be_visible()
    page.locator("#monitoring-band summary").click()
    assert fits(page)
    assert serious(page) == []
    page.set_viewport_size(DESK["viewport"])
    # Another theme draws the charts anew in its colours.
    page.locator("form[data-theme-form] button").click()
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    wait_drawn(page, "rpm")
    assert fits(page)
    assert serious(page) == []


def test_without_a_script_there_is_a_form_and_a_file_for_each_panel(open_page: Open, made: Made) -> None:
    page = open_page(path_of(made), java_script_enabled=False)
    page.locator("[name=range]").select_option("1h")
    page.get_by_role("button", name="Apply").click()
    expect(page).to_have_url(re.compile("range=1h"))
    expect(page.get_by_text("Charts are drawn by a script")).to_be_visible()
    link = panel(page, "tokens").get_by_role("link", name="Download CSV")
    expect(link).to_be_visible()
    assert page.request.get(str(link.get_attribute("href"))).text().count("\n") > 50


def test_an_endpoint_that_nobody_called_says_so_in_each_panel(open_page: Open, made: Made) -> None:
    page = open_page(path_of(made, name="idle"), locale="en-US")
    panel(page, "ttft").scroll_into_view_if_needed()
    expect(panel(page, "ttft").locator(".mon-why")).to_have_text("No calls in this range.", timeout=DRAWN_MS)
    expect(page.locator("[data-tile=calls] [data-part=value]")).to_have_text("0")
    # Without an answer the band says so instead of showing what was; one press asks again.
    why = page.locator("#monitoring-band [data-part=why]")
    page.route("**/monitoring/marks?*", lambda route: route.abort())
    page.locator("[name=range]").select_option("24h")
    expect(why).to_contain_text("The console does not answer.", timeout=DRAWN_MS)
    expect(page.locator("#monitoring-band .mon-shares li")).to_have_count(0)
    page.unroute("**/monitoring/marks?*")
    why.get_by_role("button").click()
    expect(page.locator("#monitoring-band .mon-shares li")).not_to_have_count(0, timeout=DRAWN_MS)
    expect(why).to_be_hidden()
