"""What the SDK tests call: the gateway of the running product, and endpoints on the demo server behind it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Target:
    """Everything a program is told: an address, a key, and endpoint ids."""

    base_url: str
    api_key: str
    chat: str
    chat_version: str
    thinking: str
    embedding: str
    flaky: str = ""
    stopped: str = ""
    limited: str = ""
    limited_tokens: str = ""


@pytest.fixture(scope="session")
def target() -> Target:
    return Target(
        base_url=os.environ["SDK_TRY"],
        api_key="k",
        chat="demo-fast",
        chat_version="demo-fast",
        thinking="demo-thinking",
        embedding="demo-embedding",
    )
