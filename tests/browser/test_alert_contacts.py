"""From a contact to a policy in Chromium: addresses agree by link and by the bot's own answer, on a desk and a phone."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from tests.accessibility import faults, serious
from tests.alerts import fakes
from tests.conftest import NewPage, Outside
from tests.pages import PHONE, Open, fits
from tests.servers import ROOT, wait_until
from tests.stack import Stack

SECONDS = 60

PERSON = """
import socket
from django.utils import timezone
from alerts import contacts
from alerts.models import ContactMethod
from iam.actors import SYSTEM
from iam.models import Project
who = {"by": SYSTEM, "now": timezone.now()}
made = contacts.create_contact(project=Project.objects.get(pk="default"), name="Barn owl", language="en",
                               time_zone="Asia/Shanghai", note="", **who)
contacts.add_method(contact=made, kind="email", address="barn@example.com", **who)
with socket.socket() as nobody:
    nobody.bind(("127.0.0.1", 0))
    contacts.add_method(contact=made, kind="feishu", address="http://127.0.0.1:%d/hook" % nobody.getsockname()[1], **who)
ContactMethod.objects.filter(contact=made).update(state="verified", verified_at=who["now"])
print(made.pk)
"""


@pytest.fixture(scope="module")
def reachable(stack: Stack) -> int:
    """A contact whose mailbox and bot are verified; at the bot's address nobody listens any more."""
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v", "0", "-c", PERSON],
        cwd=ROOT, env=stack.env, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(done.stdout.split()[-1])


def test_addresses_agree_by_link_and_by_the_bots_own_answer(
    open_page: Open, new_page: NewPage, outside: Outside
) -> None:
    page = open_page("/alerts/contacts")
    page.locator("#contact-create").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("Night owl")
    dialog.get_by_role("button", name="Create contact").click()
    expect(page.get_by_role("heading", name="Night owl", level=1)).to_be_visible()
    expect(page.get_by_text("No address yet")).to_be_visible()

    # A mailbox agrees by its link, opened by somebody who is not signed in.
    page.locator("#add-email").click()
    dialog.get_by_label("E-mail address").fill("owl@example.com")
    dialog.get_by_role("button", name="Add address").click()
    mailbox = page.locator(".ct-method", has_text="@example.com")
    expect(mailbox).to_contain_text("Not verified")
    mailbox.get_by_role("button", name="Send verification link").click()
    expect(mailbox.get_by_role("status")).to_contain_text("Link sent to o**@example.com")
    (sent,) = [each for each in outside.mail.mails if each["To"] == "owl@example.com"]
    text = sent.get_body(("plain",))
    assert text is not None
    link = re.search(r"https?://\S+/alerts/verify/\S+", text.get_content())
    assert link is not None
    stranger = new_page(locale="en-US", **PHONE)
    stranger.goto(link[0])
    assert serious(stranger) == []
    assert fits(stranger)
    stranger.get_by_role("button", name="Confirm this address").click()
    expect(stranger.get_by_role("heading", name="Confirmed")).to_be_visible()
    stranger.goto(link[0])
    expect(stranger.get_by_text("This link has been used")).to_be_visible()
    page.reload()
    expect(page.locator(".ct-method", has_text="@example.com")).to_contain_text("Verified")

    # A bot agrees by its own answer: first it refuses, with a code within a 200.
    with fakes.running(fakes.Feishu(secret="sesame")) as bot:
        page.locator("#add-address").click()
        page.get_by_role("link", name="Feishu").click()
        dialog.get_by_label("Webhook address").fill(bot.url)
        dialog.get_by_label("Signing secret").fill("not sesame")
        dialog.get_by_role("button", name="Add address").click()
        row = page.locator(".ct-method", has_text="Feishu")
        verify = row.get_by_role("button", name="Send test message to verify")
        verify.click()
        expect(row.get_by_role("status")).to_contain_text("code 19021")
        expect(row).to_contain_text("Not verified")
        row.get_by_role("link", name="Change").click()
        dialog.get_by_label("Signing secret").fill("sesame")
        dialog.get_by_role("button", name="Save address").click()
        expect(dialog).to_be_hidden()

        def is_taken() -> bool:
            # Between two tries some seconds have to pass; until then the answer says how many.
            with page.expect_response(re.compile(r"/verify$")) as answer:
                verify.click()
            return "code 0" in answer.value.text()

        wait_until(is_taken, seconds=SECONDS, what="the bot takes the test message")
        expect(row.get_by_role("status")).to_contain_text("Verified: the test message was taken.")
        assert serious(page) == []


def test_from_a_group_to_a_policy_that_says_what_it_does(open_page: Open, reachable: int) -> None:
    page = open_page("/alerts/groups")
    dialog = page.get_by_role("dialog")
    page.locator("#group-create").click()
    dialog.get_by_label("Name").fill("Owls")
    dialog.get_by_label("Find a contact").fill("barn")
    dialog.get_by_role("checkbox", name="Barn owl").check()
    assert serious(page) == []
    dialog.get_by_role("button", name="Create group").click()
    expect(page.locator("#groups")).to_contain_text("Barn owl")
    page.goto("/alerts/policies/create")
    page.get_by_role("textbox", name="Name").fill("Nights")
    page.get_by_role("checkbox", name="Owls").first.check()
    preview = page.locator("#policy-preview")
    expect(preview).to_contain_text("Barn owl by e-mail and Feishu, at once, again every 10 minutes while it fires.")
    page.get_by_role("checkbox", name="P0 When it fires: Feishu").uncheck()
    expect(preview).to_contain_text("Barn owl by e-mail, at once")
    assert serious(page) == []
    page.get_by_role("button", name="Create policy").click()
    expect(page.get_by_role("heading", name="Nights", level=1)).to_be_visible()

    # All of the policy's addresses are tried at once, and each shows its own answer: the bot is gone by now.
    page.locator("#policy-test").click()
    dialog.get_by_role("button", name="Send to all 2 addresses").click()
    expect(dialog.locator(".ct-method", has_text="@example.com")).to_contain_text("The test message was taken.")
    expect(dialog.locator(".ct-method", has_text="127.0.0.1")).to_contain_text("Nothing listens at the address.")
    assert serious(page) == []
    page.keyboard.press("Escape")
    expect(page.locator("#policy-test")).to_be_focused()


def test_the_pages_fit_and_axe_finds_nothing_serious(open_page: Open, reachable: int) -> None:
    page, chinese = open_page("about:blank", **PHONE), open_page("about:blank", locale="zh-CN", **PHONE)
    contact = f"/alerts/contacts/{reachable}"
    for path in ("/alerts/policies", "/alerts/policies/create", "/alerts/contacts", contact, "/alerts/groups", "/alerts/me"):  # fmt: skip
        for each in (chinese, page):
            each.goto(path)
        assert faults(page) == [], path
        assert fits(chinese), path
