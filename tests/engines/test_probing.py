"""*Test connection* against a real inference engine."""

from __future__ import annotations

import pytest

from catalog.probing import Capability, ModelServerClient, ProbeFailed
from tests.engines.conftest import Engine
from tests.servers import wait_until

pytestmark = pytest.mark.engine


def test_llama_cpp_is_inspected(engine: Engine) -> None:
    with ModelServerClient(base_url=engine.base_url) as server:

        def is_loaded() -> bool:
            try:
                return bool(server.list_models().models)
            except ProbeFailed:
                return False

        wait_until(is_loaded, seconds=60, what="the engine's model list")
        inspection = server.inspect(kind="models", paid_model=engine.model)
    assert [(model.id, model.context_tokens) for model in inspection.models] == [(engine.model, 2_048)]
    assert inspection.stream_options == Capability.YES
    assert inspection.embeddings == Capability.NO
