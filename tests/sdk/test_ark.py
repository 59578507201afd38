"""The Volcengine Ark runtime SDK, which sends an explicit null for every option that was not set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from volcenginesdkarkruntime import Ark

from tests.sdk.conftest import Target

pytestmark = pytest.mark.stack

QUESTION: list[Any] = [{"role": "user", "content": "接入点是什么？"}]


@pytest.fixture(scope="module")
def client(target: Target) -> Iterator[Ark]:
    client = Ark(api_key=target.api_key, base_url=target.base_url, max_retries=0)
    yield client
    client.close()


def test_chat(client: Ark, target: Target) -> None:
    answer = client.chat.completions.create(model=target["chat"], messages=QUESTION)
    assert answer.choices[0].message.content
    assert answer.model == target.version("chat")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_callers_own_request_id_comes_back(client: Ark, target: Target) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=target["chat"], messages=QUESTION, extra_headers={"X-Client-Request-Id": "my-own-id"}
    )
    assert answer.headers["x-client-request-id"] == "my-own-id"
    assert answer.headers["x-request-id"]


def test_stream_with_usage(client: Ark, target: Target) -> None:
    plain = client.chat.completions.create(model=target["chat"], messages=QUESTION)
    chunks = list(
        client.chat.completions.create(
            model=target["chat"], messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
    )
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == plain.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens


def test_thinking(client: Ark, target: Target) -> None:
    answer = client.chat.completions.create(model=target["thinking"], messages=QUESTION)
    assert answer.choices[0].message.reasoning_content
    assert answer.usage.completion_tokens_details.reasoning_tokens
    silent = client.chat.completions.create(model=target["thinking"], messages=QUESTION, thinking={"type": "disabled"})
    assert not silent.choices[0].message.reasoning_content


def test_embeddings(client: Ark, target: Target) -> None:
    answer = client.embeddings.create(model=target["embedding"], input=["接入点"], encoding_format="float")
    assert len(answer.data[0].embedding) == 1_024
    assert answer.usage.prompt_tokens == 3
