"""*Test connection* against a real inference engine."""

from __future__ import annotations

import pytest

from catalog.probing import Capability, ModelServerClient
from tests.engines.conftest import Engine

pytestmark = pytest.mark.engine


def test_llama_cpp_is_inspected(engine: Engine) -> None:
    with ModelServerClient(base_url=engine.base_url) as server:
        inspection = server.inspect(kind="models", paid_model=engine.model)
    assert [(model.id, model.context_tokens) for model in inspection.models] == [(engine.model, 2_048)]
    assert inspection.stream_options == Capability.YES
    assert inspection.embeddings == Capability.NO
