"""Rules in Chromium: from one press on a phone to the page that helps at night, PromQL with a fault, an upgrade."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.accessibility import serious
from tests.browser.conftest import Arranged
from tests.conftest import NewPage, Outside
from tests.pages import DESK, PHONE, Open, expect_on_first_screen, fits
from tests.sdk.arrange import Made, Wanted
from tests.servers import ROOT, prometheus_binary, wait_until
from tests.stack import Stack

pytestmark = pytest.mark.timeout(400)
needs_prometheus = pytest.mark.skipif(
    prometheus_binary() is None, reason="Prometheus is not installed: `make test` installs it"
)
# Rules reach Prometheus with the next run of the sync, and are read back some seconds later.
IN_FORCE_MS = 60_000
OPENED_MS = 90_000
SECONDS = 90
MAILBOX = "nights@example.com"

ARRANGED = """
from django.utils import timezone
from alerts import contacts, policies, rule_services
from alerts.models import ContactMethod
from alerts.rule_services import RuleChange
from alerts.templates import LevelRule
from endpoints.models import Endpoint
from iam.actors import SYSTEM
from iam.models import Project

project, who = Project.objects.get(pk="default"), {"by": SYSTEM, "now": timezone.now()}
person = contacts.create_contact(project=project, name="Sentinel", language="en", time_zone="Asia/Shanghai", note="", **who)
contacts.add_method(contact=person, kind="email", address="%(mailbox)s", **who)
ContactMethod.objects.filter(contact=person).update(state="verified", verified_at=who["now"])
people = contacts.create_group(project=project, name="Sentinels", contacts=[person], **who)
plan = policies.LevelPlan(
    "P0", groups=[people], kinds=["email"], resolved_kinds=["email"], wait_seconds=0, interval_seconds=60, repeat_seconds=3600,
)
policies.create_policy(project=project, name="Nights of rules", levels=[plan], **who)

# As an earlier version of the default rules would have made it, and somebody had changed it.
older = rule_services.create_group_from_template(
    endpoint=Endpoint.objects.get(pk="%(older)s"), name="Rules of old",
    changes={"error_rate": RuleChange(levels=[LevelRule("P1", 9, 60)])}, **who
)
older.rules.filter(key="ttft_p95").update(levels=[LevelRule("P0", 30, 60).to_json()])
older.rules.filter(key="no_traffic").delete()
type(older).objects.filter(pk=older.pk).update(template_version=0)
"""


PREFIX = "rules"
WANTED = [Wanted("pressed", "demo-flaky"), Wanted("own", "demo-fast"), Wanted("older", "demo-fast")]


def prepare(stack: Stack, made: Made) -> None:
    """One of the endpoints has old default rules, and there is somebody to be told."""
    code = ARRANGED % {"mailbox": MAILBOX, "older": made.endpoints["older"]}
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v", "0", "--no-imports", "-c", code],
        cwd=ROOT, env=stack.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def made(arranged: Arranged) -> Made:
    return arranged(PREFIX)


@dataclass(frozen=True)
class Failing:
    """An endpoint whose model fails most of its calls, but not all: it is healthy, and not all of it is silent."""

    stack: Stack
    made: Made

    @contextmanager
    def calls(self) -> Iterator[None]:
        """Calls go on until the block ends."""
        is_over = threading.Event()

        def call_on() -> None:
            with httpx.Client(base_url=self.stack.gateway_url, trust_env=False, timeout=20) as client:
                client.headers["Authorization"] = f"Bearer {self.made.api_key}"
                body = {"model": self.made.endpoints["pressed"], "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]}  # fmt: skip
                while not is_over.wait(0.2):
                    with suppress(httpx.HTTPError):
                        client.post("/api/v3/chat/completions", json=body)

        url = f"{self.stack.demo_url}/demo/models/demo-flaky"
        httpx.post(url, json={"error_rate": 0.6, "cut_rate": 0}, trust_env=False).raise_for_status()
        callers = [threading.Thread(target=call_on) for _number in range(2)]
        for caller in callers:
            caller.start()
        try:
            yield
        finally:
            is_over.set()
            for caller in callers:
                caller.join(30)


# How many of a canvas's pixels are of the curve's blue, and of the threshold's red; of neither are axes and labels.
INK = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const found = { blue: 0, red: 0 };
  for (let at = 0; at < data.length; at += 4) {
    const [red, green, blue, alpha] = data.slice(at, at + 4);
    if (alpha < 128) continue;
    if (blue - red > 60 && blue - green > 40) found.blue += 1;
    if (red - blue > 60 && red - green > 60) found.red += 1;
  }
  return found;
}"""


def has_curve_and_threshold(page: Page, chart: str) -> bool:
    canvas = page.locator(f"{chart} canvas")
    if not canvas.count():
        return False
    ink: dict[str, int] = canvas.evaluate(INK)
    return ink["blue"] > 2 and ink["red"] > 20


def link_of_the_message(outside: Outside) -> str:
    """The address of the event in the mail that came."""

    def text() -> str:
        for mail in outside.mail.mails:
            body = mail.get_body(("plain",))
            if mail["To"] == MAILBOX and body is not None:
                return str(body.get_content())
        return ""

    wait_until(text, seconds=SECONDS, what="the mail is there")
    found = re.search(r"https?://\S+/alerts/events/\d+", text())
    assert found is not None, text()
    return found[0]


@needs_prometheus
def test_from_one_press_on_a_phone_to_the_page_that_helps_at_night(
    open_page: Open, new_page: NewPage, stack: Stack, outside: Outside, made: Made
) -> None:
    endpoint = made.endpoints["pressed"]
    page = open_page(f"/endpoints/{endpoint}/monitoring", **PHONE)
    # Nothing is counted before it is open.
    expect(page.locator("#monitoring")).to_be_visible(timeout=OPENED_MS)
    # The model fails from now on, so that the curve has its points by the time that somebody looks at it.
    with Failing(stack, made).calls():
        group = create_by_one_press(page)
        expect(page.locator(".ar-state")).to_contain_text("In force", timeout=IN_FORCE_MS)
        link = link_of_the_message(outside)
        phone = look_at_the_event(new_page, stack, link)
    acknowledge_then_silence(phone)
    what_an_own_rule_would_do(open_page, endpoint)

    def is_drawn() -> bool:
        phone.goto(link)
        # Said with the curve, or why there is none.
        expect(phone.locator("#event-chart-note")).to_have_text(re.compile(r"\w"))
        return has_curve_and_threshold(phone, "#event-chart")

    # The curve has a point each 15 seconds, and is drawn with the page.
    wait_until(is_drawn, seconds=SECONDS, what="the curve is drawn")
    expect(phone.locator("#event-chart-note")).to_contain_text("highest")

    # Whoever presses again is shown the first group; with its rules goes what they watched.
    page.goto(f"/alerts/endpoints/{endpoint}/rules")
    expect(page.get_by_text("have been created already")).to_be_visible()
    page.get_by_role("link", name="Look at the rules").click()
    expect(page).to_have_url(group)
    page.get_by_label("More").click()
    page.get_by_role("link", name="Delete").click()
    drawer = page.locator("#dialog")
    expect(drawer).to_contain_text("no longer evaluated")
    drawer.get_by_role("button", name="Delete rules").click()
    expect(page).to_have_url(re.compile("/alerts/rules$"))


def create_by_one_press(page: Page) -> str:
    """One press, and a fault told in the drawer with the fields open; the address of the rules."""
    # The row of tabs is wider than the screen, and begins where one is.
    tab = page.locator(".ark-tabs [aria-current]").bounding_box()
    assert tab is not None
    assert tab["x"] >= 0
    assert tab["x"] + tab["width"] <= 390

    page.locator("#configure-alerts").click()
    drawer = page.locator("#dialog")
    expect(drawer).to_contain_text("No rule watches this endpoint yet.")
    drawer.get_by_label("Who is told").select_option(label="Nights of rules")
    drawer.locator(".ar-more summary").first.click()
    drawer.get_by_label("Server error rate (5xx), P0: how long it must hold").select_option("0")
    threshold = drawer.get_by_label("Server error rate (5xx), P1: threshold")
    expect(threshold).to_have_value("5")
    threshold.fill("60")
    drawer.get_by_role("button", name="Create the rules").click()
    expect(drawer.get_by_role("alert")).to_contain_text("P0 is worse than P1")
    threshold.fill("6")
    assert fits(page)
    assert serious(page) == []
    drawer.get_by_role("button", name="Create the rules").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Default rules of")
    expect(page.get_by_text("> 6%")).to_be_visible()
    assert fits(page)
    assert serious(page) == []
    return page.url


def look_at_the_event(new_page: NewPage, stack: Stack, link: str) -> Page:
    """The link asks who it is, then opens the event; its first screen says it all."""
    phone = new_page(locale="en-US", **PHONE)
    phone.goto(link)
    phone.locator("input[name=login]").fill("admin")
    phone.locator("input[name=password]").fill(stack.admin_password)
    phone.locator("input[name=password]").press("Enter")
    expect(phone.locator("#event-now")).to_contain_text("Firing")
    expect(phone).to_have_url(link)
    heading = phone.get_by_role("heading", level=1)
    expect(heading).to_contain_text("P0")
    expect(heading).to_contain_text("> 20%")
    parts = ("h1", "#event-now", "#event-acknowledge", "#event-silence")
    expect_on_first_screen(*map(phone.locator, parts), height=PHONE["viewport"]["height"])
    # All at once: what stands there is replaced while it fires.
    heights = phone.locator("#event-actions .btn").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert min(heights) >= 40
    expect(phone.locator("#event-told")).to_contain_text("Sentinel")
    assert fits(phone)
    assert serious(phone) == []
    return phone


def acknowledge_then_silence(phone: Page) -> None:
    now = phone.locator("#event-now")
    phone.evaluate("window.isSamePage = true")
    phone.locator("#event-acknowledge").click()
    expect(now).to_contain_text("admin looks after it")
    expect(phone.locator("#event-acknowledge")).to_have_count(0)
    expect(phone.locator("#event-log")).to_contain_text("Acknowledged")
    phone.locator("#event-silence-4").click()
    dialog = phone.locator("#dialog")
    expect(dialog.locator("[name=span][value='4h']")).to_be_checked()
    dialog.locator("[name=reason]").fill("")
    dialog.get_by_role("button", name="Silence", exact=True).click()
    expect(dialog.locator("[name=reason]:invalid, #id_reason_error")).to_have_count(1)
    assert serious(phone) == []
    dialog.locator("[name=reason]").fill("load test of the night")
    dialog.get_by_role("button", name="Silence", exact=True).click()
    expect(dialog).to_be_hidden()
    expect(now).to_contain_text("Silent now")
    expect(now).to_contain_text("load test of the night")
    now.get_by_role("button", name="End the silence").click()
    expect(now).not_to_contain_text("Silent now")
    assert phone.evaluate("window.isSamePage")
    phone.goto("/alerts/silences")
    expect(phone.locator("#silence-list")).to_contain_text("load test of the night")
    expect(phone.locator("#silence-list")).to_contain_text("ended by admin")


def what_an_own_rule_would_do(open_page: Open, endpoint: str) -> None:
    """Said before it is made, of figures that there are since the endpoint is."""
    page = open_page(f"/alerts/rules/create?endpoint={endpoint}", **DESK)
    page.locator("#id_name").fill("Limit")
    page.get_by_label("An expression in PromQL").check()
    page.locator("#id_promql").fill("max by (project, ark_endpoint) (ark_endpoint_tpm_limit) / 1e6")
    page.get_by_label("P1: threshold").fill("5")
    page.get_by_label("P1: how long it must hold").select_option("0")

    def is_drawn() -> bool:
        # The last day has a point for each minute: until there is one, ask again.
        if has_curve_and_threshold(page, "#rule-chart"):
            return True
        with page.expect_response(re.compile("/alerts/rules/check$")):
            page.get_by_role("button", name="Check").click()
        return False

    wait_until(is_drawn, seconds=150, what="the preview is drawn")
    expect(page.locator(".ar-fired li")).not_to_have_count(0)
    expect(page.locator("#rule-preview")).to_contain_text("Now: 10, would fire as P1.")
    expect(page.locator("#rule-preview")).to_contain_text("In the last day it would have fired once.")


def test_an_upgrade_says_what_it_changes_and_keeps_what_people_changed(open_page: Open, made: Made) -> None:
    page = open_page(f"/alerts/rules?endpoint={made.endpoints['older']}", color_scheme="dark", **DESK)
    row = page.locator("#rule-list tr", has_text="Rules of old")
    expect(row).to_contain_text("Upgrade available")
    assert serious(page) == []
    row.get_by_role("link", name="Rules of old").click()
    expect(page.locator("#rule-group")).to_contain_text("> 30 s")
    assert serious(page) == []
    edit, dialog = page.locator("#group-edit"), page.locator("#dialog")
    edit.click()
    expect(dialog.locator(".ar-drawer")).to_be_visible()
    assert serious(page) == []
    page.keyboard.press("Escape")
    expect(edit).to_be_focused()

    page.get_by_role("link", name="See what changes").click()
    changes = dialog.locator(".ar-changes li")
    expect(changes).to_have_count(3)
    kept = changes.filter(has_text="Server error rate (5xx)")
    expect(kept).to_contain_text("stays as you changed it")
    expect(kept.locator(".ar-before")).to_have_count(0)
    moved = changes.filter(has_text="Time to first token P95")
    expect(moved.locator(".ar-before")).to_have_text("P0 30 for 1 min")
    expect(moved.locator(".ar-after")).to_contain_text("P0 10 for 5 min")
    expect(changes.filter(has_text="New rule")).to_contain_text("Calls stopped coming")
    assert serious(page) == []
    dialog.get_by_role("button", name="Upgrade").click()
    expect(dialog).to_be_hidden()
    group = page.locator("#rule-group")
    error_rate = group.locator("tr", has_text="Server error rate (5xx)")
    expect(error_rate).to_contain_text("> 9%")
    expect(error_rate).to_contain_text("Adjusted")
    expect(group.locator("tr", has_text="Time to first token P95")).to_contain_text("> 10 s")
    expect(group).to_contain_text("Calls stopped coming")
    expect(page.get_by_role("link", name="See what changes")).to_have_count(0)


def test_promql_with_a_fault_and_without(open_page: Open, made: Made) -> None:
    page = open_page(f"/alerts/rules/create?endpoint={made.endpoints['own']}", **DESK)
    page.locator("#id_name").fill("Too many calls")
    page.get_by_label("An expression in PromQL").check()
    editor = page.locator("#id_promql")
    expect(page.locator("#id_metric")).to_be_hidden()

    # Completion by keys alone.
    editor.press_sequentially("sum(rate(proxy_request_tot")
    options = page.locator("#promql-list li")
    expect(options.first).to_contain_text("ark_api_proxy_request_total")
    editor.press("Enter")
    expect(editor).to_have_value("sum(rate(ark_api_proxy_request_total")
    editor.press_sequentially("{cod")
    expect(options.first).to_contain_text("code")
    assert serious(page) == []
    editor.press("Escape")
    expect(page.locator("#promql-list")).to_be_hidden()
    expect(editor).to_have_value("sum(rate(ark_api_proxy_request_total{cod")

    # What is wrong is told with its line and column, and the way there.
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


def test_the_form_of_a_metric_fits_a_phone_in_the_dark(open_page: Open) -> None:
    page = open_page("/alerts/rules/create", color_scheme="dark", **PHONE)
    page.get_by_label("Metric", exact=True).select_option("ark_endpoint_status")
    expect(page.get_by_label("Summed up as")).to_have_value("max")
    assert fits(page)
    assert serious(page) == []
