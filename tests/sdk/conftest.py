"""What the SDK tests call: the gateway of the running product, and endpoints on the demo server behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.sdk.arrange import Made, Order, Wanted, arrange
from tests.stack import Stack


@dataclass(frozen=True)
class Target:
    """Everything that a program is told: an address, a key, and endpoint ids."""

    base_url: str
    made: Made

    @property
    def api_key(self) -> str:
        return self.made.api_key

    def __getitem__(self, name: str) -> str:
        """The id of an endpoint."""
        return self.made.endpoints[name]

    def version(self, name: str) -> str:
        """What the answers of an endpoint say as ``model``."""
        return self.made.versions[name]


@pytest.fixture(scope="session")
def target(stack: Stack) -> Iterator[Target]:
    """Endpoints on the demo server, which answers quicker meanwhile than a person would like to watch."""
    order = Order(
        prefix="sdk",
        server_url=f"{stack.demo_url}/v1",
        endpoints=[
            Wanted("chat", "demo-fast"),
            Wanted("thinking", "demo-thinking"),
            Wanted("embedding", "demo-embedding", domain="embedding"),
            Wanted("flaky", "demo-flaky"),
            Wanted("stopped", "demo-fast", is_stopped=True),
            Wanted("few calls", "demo-fast", rpm=1),
            Wanted("few tokens", "demo-fast", tpm=100),
        ],
    )
    made = arrange(stack, order)
    with httpx.Client(base_url=f"{stack.demo_url}/demo/models") as models:
        before = models.get("").raise_for_status().json()
        for model in ("demo-fast", "demo-thinking"):
            models.post(f"/{model}", json={"first_token_seconds": 0.01, "token_seconds": 0.002}).raise_for_status()
        yield Target(base_url=f"{stack.gateway_url}/api/v3", made=made)
        for model in ("demo-fast", "demo-thinking"):
            models.post(f"/{model}", json=before[model]).raise_for_status()
