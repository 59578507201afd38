"""The version switch in Chromium, as a person does it: from the comparison to the roll-back, gates that breach, the chart."""

from __future__ import annotations

import re
from typing import Any

import httpx
import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.accessibility import faults, serious, use_theme
from tests.browser.conftest import Arranged
from tests.pages import PHONE, Open, fits
from tests.sdk.arrange import Made, Wanted
from tests.servers import wait_until
from tests.stack import Stack

pytestmark = pytest.mark.timeout(180)
# The first step waits for a probe of the server.
PREPARED_MS = 60_000
WORDS = {
    "en-US": {"compare": "Compare and plan", "start": "Start the switch"},
    "zh-CN": {
        "compare": "对比并制定计划", "start": "开始切换", "climbing": "进行中", "pause": "暂停", "paused": "已暂停",
        "step_back": "退一步", "resume": "继续", "roll_back": "立即回滚", "rolled_back": "已回滚",
        "badge": "切换中 50 %", "banner": "进行中，50 %",
    },
}  # fmt: skip


PREFIX = "switches"
# Endpoints on one version, a version to switch to, and one that fails.
WANTED = [Wanted(name, "demo-fast") for name in ("climb", "hold", "roll_back", "look")]
WANTED += [Wanted("target", "demo-fast-2"), Wanted("failing", "demo-flaky")]


@pytest.fixture(scope="module")
def made(arranged: Arranged) -> Made:
    return arranged(PREFIX)


def plan(page: Page, made: Made, name: str, target: str, *, steps: str, judged: str, on_breach: str = "hold") -> None:
    """Choose the version of `target`, read the comparison, type a plan and start it."""
    words = WORDS["zh-CN" if page.evaluate("document.documentElement.lang").startswith("zh") else "en-US"]
    page.goto(f"/endpoints/{made.endpoints[name]}/switch")
    page.locator("tr", has_text=made.versions[target]).get_by_role("link", name=words["compare"]).click()
    expect(page.locator(".sw-preview")).to_contain_text(made.versions[target])
    page.locator("input[name=ladder][value=own]").check()
    page.locator("textarea[name=own_ladder]").fill(steps)
    page.locator(f"input[name=judged][value={judged}]").check()
    if judged == "gates":
        page.locator("input[name=min_samples]").fill("5")
        page.locator(f"input[name=on_breach][value={on_breach}]").check()
    page.locator("input[name=reason]").fill("because")
    page.locator("input[name=confirmed]").check()
    page.get_by_role("button", name=words["start"]).click()
    page.wait_for_url("**/switch")


def time_passes(stack: Stack, endpoint_id: str) -> None:
    """Let the present step's time be over."""
    with psycopg.connect(stack.env["DATABASE_URL"]) as connection:
        connection.execute(
            "UPDATE endpoints_versionswitch SET soaked_seconds = 100000, check_at = now() "
            "WHERE endpoint_id = %s AND ended_at IS NULL",
            [endpoint_id],
        )


def weight(page: Page) -> Any:
    return page.locator(".sw-figures dd").first


def press(page: Page, verb: str, word: str, *, reason: str) -> None:
    """A verb's button, and the same in its dialog."""
    page.locator(f"#switch-{verb}").click()
    expect(page.locator("#dialog h2")).to_contain_text(word)
    page.locator("#dialog [name=reason]").fill(reason)
    page.locator("#dialog").get_by_role("button", name=word, exact=True).click()
    expect(page.locator("#dialog")).to_be_hidden()


def is_drawn(page: Page) -> bool:
    """Whether the chart's canvas has anything on it."""
    script = """() => {
      const canvas = document.querySelector("#switch-chart canvas");
      if (!canvas) return false;
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return data.some((value) => value !== 0);
    }"""
    return bool(page.evaluate(script))


def test_from_the_comparison_to_the_roll_back(open_page: Open, stack: Stack, made: Made) -> None:
    # In Chinese; the gates' tests below read the same page in English.
    words, endpoint_id = WORDS["zh-CN"], made.endpoints["climb"]
    page = open_page("/endpoints/", locale="zh-CN")
    plan(page, made, "climb", "target", steps="10 0.5\n50 5\n100 5", judged="time")

    # It climbs by itself: first when the server was probed, then when the time of the step is over.
    expect(weight(page)).to_have_text("10 %", timeout=PREPARED_MS)
    expect(page.locator("#switch-watch")).to_contain_text(words["climbing"])
    time_passes(stack, endpoint_id)
    expect(weight(page)).to_have_text("50 %", timeout=30_000)
    wait_until(lambda: is_drawn(page), what="the chart is drawn")

    # Other pages say so.
    other = page.context.new_page()
    other.goto("/endpoints/")
    expect(other.locator(f"#row-{endpoint_id}")).to_contain_text(words["badge"])
    other.goto(f"/endpoints/{endpoint_id}")
    expect(other.locator("#switch-banner")).to_contain_text(words["banner"])
    # Behind another page Chromium draws once a second, and every press waits for two of these.
    page.bring_to_front()

    # A dialog outlives what refreshes behind it, and the keyboard comes back to its button.
    page.locator("#switch-pause").click()
    page.locator("#dialog [name=reason]").fill("lunch")
    with page.expect_response(lambda answer: "/watch" in answer.url and answer.status == 200, timeout=60_000):
        pass
    expect(page.locator("#dialog [name=reason]")).to_have_value("lunch")
    expect(page.locator("#dialog [name=reason]")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#switch-pause")).to_be_focused()

    press(page, "pause", words["pause"], reason="lunch")
    expect(page.locator("#switch-watch")).to_contain_text(words["paused"])
    expect(page.locator("#switch-pause")).to_contain_text(words["resume"])
    press(page, "step_back", words["step_back"], reason="too much")
    expect(weight(page)).to_have_text("10 %")
    # A paused switch stays paused wherever it stands.
    expect(page.locator("#switch-pause")).to_contain_text(words["resume"])
    press(page, "pause", words["resume"], reason="again")
    expect(page.locator("#switch-watch")).to_contain_text(words["climbing"])
    press(page, "roll_back", words["roll_back"], reason="enough")
    expect(page.locator("#switch-watch")).to_contain_text(words["rolled_back"])
    expect(weight(page)).to_have_text("0 %")
    expect(page.locator("#switch-buttons")).to_have_count(0)
    for said in ("because", "lunch", "too much", "enough"):
        expect(page.locator(".sw-log")).to_contain_text(said)
    expect(other.locator("#switch-banner")).to_have_count(0, timeout=30_000)  # it asks every 5 s

    # Afterwards it stands in the history, and the endpoint can be switched again.
    page.reload()
    expect(page.locator(".sw-history")).to_contain_text(words["rolled_back"])
    expect(page.get_by_role("link", name=words["compare"]).first).to_be_visible()


def test_gates_that_breach_hold_or_roll_back_with_their_figures(open_page: Open, stack: Stack, made: Made) -> None:
    httpx.post(
        f"{stack.demo_url}/demo/models/demo-flaky", json={"error_rate": 1, "cut_rate": 0}, trust_env=False
    ).raise_for_status()
    page = open_page("/endpoints/")
    for on_breach in ("hold", "roll_back"):
        plan(page, made, on_breach, "failing", steps="50 5\n100 5", judged="gates", on_breach=on_breach)
    for on_breach in ("hold", "roll_back"):
        page.goto(f"/endpoints/{made.endpoints[on_breach]}/switch")
        expect(weight(page)).to_have_text("50 %", timeout=PREPARED_MS)
        call_both_sides(stack, made, on_breach)
    figures = re.compile(r"100 % of \d+ calls on \S+ failed; 5 % are allowed\.")
    expect(page.locator("#switch-watch")).to_contain_text("Rolled back", timeout=30_000)
    expect(weight(page)).to_have_text("0 %")
    expect(page.locator(".sw-log")).to_contain_text(figures)
    page.goto(f"/endpoints/{made.endpoints['hold']}/switch")
    expect(page.locator("#switch-watch .ark-note-warn")).to_have_text(figures, timeout=30_000)
    expect(weight(page)).to_have_text("50 %")
    expect(page.locator(".sw-sides .sw-now")).to_contain_text("100 %")
    expect(page.locator(".sw-log")).to_contain_text(figures)


def call_both_sides(stack: Stack, made: Made, name: str) -> None:
    """Until each side has what its gate wants; the gateway has the weight a moment after the page."""
    answers: list[int] = []

    def is_enough() -> bool:
        answers.extend(calls(stack, made, name, 20, first=len(answers)))
        return answers.count(200) >= 5 and answers.count(500) >= 5

    wait_until(is_enough, seconds=60, what=f"both sides of {name} answer")


def calls(stack: Stack, made: Made, name: str, count: int, first: int = 0) -> list[int]:
    """The statuses of calls that are each a conversation of its own."""
    with httpx.Client(base_url=stack.gateway_url, trust_env=False, timeout=30) as client:
        client.headers["Authorization"] = f"Bearer {made.api_key}"
        body = {"model": made.endpoints[name], "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 3}
        found = [
            client.post("/api/v3/chat/completions", json={**body, "user": f"u{n}"}) for n in range(first, first + count)
        ]
    return [answer.status_code for answer in found]


def test_the_pages_fit_a_phone_axe_finds_nothing_and_no_script_is_needed(
    open_page: Open, stack: Stack, made: Made
) -> None:
    path = f"/endpoints/{made.endpoints['look']}/switch"
    page = open_page(path, **PHONE)
    assert faults(page) == []
    page.locator("tr", has_text=made.versions["target"]).get_by_role("link", name="Compare and plan").click()
    page.wait_for_url("**/plan?*")
    assert faults(page) == []
    plan(page, made, "look", "target", steps="30 5\n100 5", judged="gates")
    expect(weight(page)).to_have_text("30 %", timeout=PREPARED_MS)
    calls(stack, made, "look", 10)
    page.goto(path)
    wait_until(lambda: is_drawn(page), what="the chart is drawn")
    page.locator(".sw-details summary").click()
    assert faults(page) == []
    # Another theme draws the chart anew.
    wait_until(lambda: is_drawn(page), what="the chart is drawn in the light again")
    page.locator("#switch-roll_back").click()
    expect(page.locator("#dialog form")).to_be_visible()
    assert serious(page) == []
    use_theme(page, "dark")
    assert fits(page)
    assert serious(page) == []

    plain = open_page(path, java_script_enabled=False)
    plain.get_by_role("link", name="Pause").click()
    plain.get_by_label("Reason").fill("without a script")
    plain.get_by_role("button", name="Pause").click()
    expect(plain.locator("#switch-watch")).to_contain_text("Paused")
    expect(plain.locator(".sw-log")).to_contain_text("without a script")
