"""The main job end to end, as a person does it: from a model server to an endpoint that answers, and away again."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

import httpx
from playwright.sync_api import Page, expect

from tests.conftest import NewPage
from tests.servers import wait_until
from tests.stack import Stack


def run(curl: str, key: str) -> dict[str, Any]:
    """Run the copied line in a shell, as a person would; the answer's JSON."""
    env = {"PATH": os.environ["PATH"], "ARK_API_KEY": key}
    line = curl.replace("curl ", "curl --silent --show-error --max-time 60 ", 1)
    done = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True, check=True, timeout=90)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def copied(page: Page, button: str) -> str:
    """What a press on the copy button puts on the clipboard."""
    page.locator(button).click()
    expect(page.locator(button)).to_have_class("ark-copy is-done")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def test_from_a_model_server_to_an_endpoint_that_answers_and_away_again(new_page: NewPage, stack: Stack) -> None:
    page = new_page(locale="en-US")

    # Sign in.
    page.goto("/")
    page.locator("input[name=login]").fill("admin")
    page.locator("input[name=password]").fill(stack.admin_password)
    page.locator("input[name=password]").press("Enter")
    expect(page.get_by_role("heading", name="Online inference")).to_be_visible()

    # Add a model server, look what it answers, publish one of its models.
    page.goto("/admin/catalog/modelserver/add/")
    page.locator("#id_name").fill("main flow server")
    page.locator("#id_base_url").fill(f"{stack.demo_url}/v1")
    page.get_by_role("button", name="Test connection").click()
    expect(page.locator("#inspection")).to_contain_text("demo-fast")
    page.get_by_role("button", name="Save and choose models").click()
    page.get_by_label("demo-fast", exact=True).check()
    page.get_by_role("button", name="Continue").click()
    page.locator("[name=m0-existing]").select_option("")
    page.locator("[name=m0-model_name]").fill("main-flow")
    page.locator("[name=m0-version]").fill("260401")
    page.locator("[name=m0-display_name]").fill("Main Flow")
    page.locator("[name=m0-input_price]").fill("8")
    page.locator("[name=m0-cached_price]").fill("1")
    page.locator("[name=m0-output_price]").fill("20")
    page.get_by_role("button", name="Publish").click()
    page.wait_for_url("**/models/**")

    # Create an endpoint on it: prices and limits are there before the press.
    page.goto("/endpoints/")
    page.get_by_role("link", name="Create inference endpoint").click()
    page.get_by_label("Name", exact=True).fill("main flow")
    page.get_by_label("Model", exact=True).select_option(label="Main Flow")
    expect(page.get_by_label("Version", exact=True)).to_contain_text("260401")
    expect(page.locator(".ep-prices")).to_contain_text("20.00")
    expect(page.get_by_label("Calls per minute (RPM)")).not_to_have_value("")
    page.get_by_role("button", name="Create endpoint").click()
    page.wait_for_url("**/endpoints/ep-*")
    endpoint_id = page.url.rsplit("/", 1)[1]

    # It turns healthy by itself.
    expect(page.locator("#endpoint-status")).to_contain_text("Healthy", timeout=60_000)
    expect(page.locator("#endpoint-history")).to_contain_text("A model server answers.")
    expect(page.locator("#endpoint-status[hx-trigger*=every]")).to_have_count(0)

    # Make a key in place, copy the curl line, run it.
    page.get_by_role("link", name="API call").first.click()
    page.get_by_role("link", name="Create API key").click()
    page.locator("#dialog [name=name]").fill("main flow key")
    page.locator("#dialog").get_by_role("button", name="Create API key").click()
    key = copied(page, "#dialog .ark-code .ark-copy")
    page.locator("#dialog").get_by_text("I have copied the key").click()
    expect(page.locator("#dialog")).to_be_hidden()
    curl = copied(page, "#endpoint-samples .ark-code .ark-copy")
    assert endpoint_id in curl
    answer = run(curl, key)
    assert answer["choices"][0]["message"]["content"]
    assert answer["model"] == "main-flow-260401"
    tokens = answer["usage"]["total_tokens"]
    assert tokens > 0

    # The call is in the list, its tokens on the overview.
    page.get_by_role("link", name="Call records").click()

    def is_listed() -> bool:
        page.reload()
        return page.locator("#endpoint-calls tbody tr").count() > 0

    wait_until(is_listed, seconds=60, what="the call is in the list")
    row = page.locator("#endpoint-calls tbody tr").first
    expect(row).to_contain_text("200 Succeeded")
    expect(row).to_contain_text("main flow key")
    expect(row).to_contain_text(f"{answer['usage']['completion_tokens']:,}")
    page.get_by_role("link", name="Overview").click()
    usage = page.locator("section", has=page.get_by_role("heading", name="Last 24 hours"))
    expect(usage).to_contain_text(f"{answer['usage']['prompt_tokens']:,}")
    expect(page.locator("section", has=page.get_by_role("heading", name="Billing"))).to_contain_text(
        f"{tokens:,} tokens"
    )

    # Stop it: the dialog says who calls it, and the next call gets 400.
    page.get_by_role("link", name="Stop").click()
    expect(page.locator("#dialog")).to_contain_text("1 API key made 1 call")
    expect(page.locator("#dialog")).to_contain_text("main flow key")
    page.get_by_role("button", name="Stop endpoint").click()
    expect(page.locator("#endpoint-status")).to_contain_text("Stopped")
    expect(page.locator("#endpoint-trouble")).to_contain_text("InvalidEndpoint.ClosedEndpoint")
    refused = stopped_answer(stack, endpoint_id, key)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "InvalidEndpoint.ClosedEndpoint"
    assert run(curl, key)["error"]["code"] == "InvalidEndpoint.ClosedEndpoint"

    # Delete it, by its name.
    page.locator("#endpoint-actions summary").click()
    page.get_by_role("link", name="Delete").click()
    page.locator("#dialog [name=confirm_name]").fill("main flow")
    page.get_by_role("button", name="Delete endpoint").click()
    page.wait_for_url("**/endpoints/")
    expect(page.locator("body")).to_contain_text("main flow was deleted.")
    expect(page.locator(f"#row-{endpoint_id}")).to_have_count(0)
    assert page.goto(f"/endpoints/{endpoint_id}").status == 404  # type: ignore[union-attr]


def stopped_answer(stack: Stack, endpoint_id: str, key: str) -> httpx.Response:
    """What the gateway answers once it knows of the stop. How soon that is, `tests/gateway` bounds."""
    deadline = time.monotonic() + 30
    while True:
        response = httpx.post(
            f"{stack.gateway_url}/api/v3/chat/completions",
            headers={"Authorization": f"Bearer {key}"},
            json={"model": endpoint_id, "messages": [{"role": "user", "content": "Hello!"}]},
            timeout=30,
            trust_env=False,
        )
        if response.status_code != 200 or time.monotonic() > deadline:
            return response
