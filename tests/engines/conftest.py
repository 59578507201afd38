"""A real inference engine on a free loopback port. Without the engine's packages these tests are skipped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="make test-engines installs it")
pytest.importorskip("xllamacpp", reason="make test-engines installs it")

from tests.engines import serve, tiny_model


class Engine:
    """llama.cpp's server with a tiny random model."""

    model = serve.ALIAS

    def __init__(self, address: str) -> None:
        self.base_url = f"{address}/v1"


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("engine") / "tiny.gguf"
    tiny_model.write(path)
    command = [sys.executable, str(Path(serve.__file__)), str(path), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield Engine(process.stdout.readline().strip())
        finally:
            process.kill()
