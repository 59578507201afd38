"""The quick start of these tests, ended with the last of them: what comes after needs the processors."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.stack import Stack


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The product as a newcomer runs it, on SQLite and the embedded Valkey; see `running`."""
    stack = Stack(tmp_path_factory.mktemp("quickstart") / "data")
    yield stack
    if stack.is_running:
        # Twice, here and by `stop`: at once. Its end in order has a test.
        stack.process.send_signal(signal.SIGINT)
    stack.stop()


@pytest.fixture
def running(home: Stack) -> Stack:
    """That quick start, running, whatever the test before has done to it."""
    if not home.is_running:
        home.start()
    return home
