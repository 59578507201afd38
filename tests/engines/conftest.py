"""A real inference engine on a free loopback port. Without the engine's packages these tests are skipped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.servers import wait_until

SERVE = Path(__file__).with_name("serve.py")


class Engine:
    """llama.cpp's server with a tiny random model."""

    model = "tiny-llama"

    def __init__(self, address: str) -> None:
        self.base_url = f"{address}/v1"


def is_healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=15, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    for package in ("gguf", "xllamacpp"):
        pytest.importorskip(package, reason="`make test-engines` installs it")
    from tests.engines import tiny_model

    path = tmp_path_factory.mktemp("engine") / "tiny.gguf"
    tiny_model.write(path)
    command = [sys.executable, str(SERVE), str(path), Engine.model, "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            # It listens before it has loaded its model, and refuses calls until then.
            wait_until(lambda: is_healthy(address), seconds=60, what="the engine has loaded its model")
            yield Engine(address)
        finally:
            process.kill()
