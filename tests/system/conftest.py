"""The running product under calls, a person's browser session, and the promise that each test leaves it whole."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import ADMIN_PASSWORD
from tests.sdk.arrange import Made, Order, Wanted, arrange
from tests.stack import Stack
from tests.system.traffic import Books, Traffic, degraded


@pytest.fixture(scope="session")
def system_made(stack: Stack) -> Made:
    """An endpoint on the demo server for these tests alone."""
    return arrange(stack, Order("system", f"{stack.demo_url}/v1", [Wanted("chat", "demo-fast", rpm=100_000)]))


@pytest.fixture
def traffic(stack: Stack, system_made: Made) -> Traffic:
    """Callers of that endpoint; they begin with the `with` block."""
    return Traffic(stack.gateway_url, system_made.api_key, system_made.endpoints["chat"])


@pytest.fixture
def books(stack: Stack, traffic: Traffic) -> Books:
    """The accounts of its calls from now on."""
    return Books(stack, traffic.endpoint_id)


@pytest.fixture(scope="session")
def browser(stack: Stack) -> Iterator[httpx.Client]:
    """The administrator, signed in, reading English pages."""
    with httpx.Client(
        base_url=stack.console_url,
        headers={"Accept-Language": "en", "Referer": stack.console_url},
        follow_redirects=True,
        timeout=60,
        trust_env=False,
    ) as client:
        page = client.get("/").text
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert token, page
        form = {"login": "admin", "password": ADMIN_PASSWORD, "csrfmiddlewaretoken": token[1]}
        answer = client.post("/accounts/login/", data=form)
        assert "/accounts/login" not in str(answer.url), answer.text
        yield client


@pytest.fixture
def whole_again(stack: Stack) -> Iterator[None]:
    """Leave the stack as it was found."""
    yield
    stack.wait_until(
        lambda: degraded(stack.console_url) == [] and degraded(stack.gateway_url) == [],
        seconds=120,
        what="everything is back",
    )
