"""llama.cpp's server as it is, before anything of ours stands in front of it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.engines.conftest import Engine

pytestmark = pytest.mark.engine


@pytest.fixture
def client(engine: Engine) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="none", base_url=engine.base_url, max_retries=0) as client:
        yield client


def test_the_engine_lists_its_model(engine: Engine, client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [engine.model]


def test_the_engine_answers(engine: Engine, client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "你好, what is an endpoint?"}]
    answer = client.chat.completions.create(model=engine.model, messages=messages, max_tokens=12)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12


def test_the_engine_streams_the_same_answer(engine: Engine, client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Stream something"}]
    plain = client.chat.completions.create(model=engine.model, messages=messages, max_tokens=12)
    chunks = list(
        client.chat.completions.create(
            model=engine.model,
            messages=messages,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == plain.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    # The engine remembers the prompt it has just read.
    details = chunks[-1].usage.prompt_tokens_details
    assert details is not None
    assert details.cached_tokens
