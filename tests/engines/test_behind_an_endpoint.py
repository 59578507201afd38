"""The real engine as a model server of the running product: called by endpoint id, metered in the ledger."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.engines.conftest import Engine
from tests.sdk.arrange import Made, Order, Wanted, arrange, call_records
from tests.stack import Stack

pytestmark = [pytest.mark.engine, pytest.mark.stack]


@pytest.fixture(scope="module")
def made(engine: Engine, stack: Stack) -> Made:
    order = Order(prefix="llama", server_url=engine.base_url, endpoints=[Wanted("chat", engine.model)])
    return arrange(stack, order)


@pytest.fixture
def client(stack: Stack, made: Made) -> Iterator[openai.OpenAI]:
    base_url = f"{stack.gateway_url}/api/v3"
    with openai.OpenAI(api_key=made.api_key, base_url=base_url, max_retries=0) as client:
        yield client


def test_the_engine_answers_through_an_endpoint_streamed_and_not_and_the_ledger_has_its_figures(
    stack: Stack, made: Made, client: openai.OpenAI
) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "你好, what is an endpoint?"}]
    endpoint_id = made.endpoints["chat"]
    plain = client.chat.completions.create(model=endpoint_id, messages=messages, max_tokens=24)
    assert plain.model == made.versions["chat"]
    assert plain.usage is not None
    stream = client.chat.completions.create(
        model=endpoint_id,
        messages=messages,
        max_tokens=24,
        stream=True,
    )
    chunks = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == plain.choices[0].message.content
    assert {chunk.model for chunk in chunks} == {made.versions["chat"]}

    stack.wait_until(
        lambda: len(call_records(stack, endpoint_id)) == 2, seconds=60, what="both calls are in the ledger"
    )
    records = call_records(stack, endpoint_id)
    assert [(record["outcome"], record["status"]) for record in records] == [("success", 200)] * 2
    assert [record["call_id"] for record in records] == [plain._request_id, stream.response.headers["x-request-id"]]
    assert [record["output_tokens"] for record in records] == [24, 24]
    assert [record["input_tokens"] for record in records] == [plain.usage.prompt_tokens] * 2
    # The second call found the prompt of the first in the engine's cache.
    assert records[1]["cached_tokens"] > 0
