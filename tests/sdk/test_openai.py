"""The official ``openai`` package, with nothing changed but the address and the key."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.sdk.conftest import Target

pytestmark = pytest.mark.stack

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "版本切换要注意什么？"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def client(target: Target) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=target.api_key, base_url=target.base_url, max_retries=0) as client:
        yield client


def test_chat(client: openai.OpenAI, target: Target) -> None:
    answer = client.chat.completions.create(model=target["chat"], messages=QUESTION)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == target.version("chat")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert answer._request_id


def test_a_stream_says_the_same_without_usage_that_nobody_asked_for(client: openai.OpenAI, target: Target) -> None:
    plain = client.chat.completions.create(model=target["chat"], messages=QUESTION)
    chunks = list(client.chat.completions.create(model=target["chat"], messages=QUESTION, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain.choices[0].message.content
    assert {chunk.model for chunk in chunks} == {target.version("chat")}
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stream_ends_with_its_usage_when_asked(client: openai.OpenAI, target: Target) -> None:
    plain = client.chat.completions.create(model=target["chat"], messages=QUESTION)
    with client.chat.completions.create(
        model=target["chat"], messages=QUESTION, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert plain.usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == plain.usage.prompt_tokens


def test_the_streaming_helper_of_the_package(client: openai.OpenAI, target: Target) -> None:
    with client.chat.completions.stream(model=target["chat"], messages=QUESTION) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content


def test_thinking_comes_before_the_answer(client: openai.OpenAI, target: Target) -> None:
    answer = client.chat.completions.create(model=target["thinking"], messages=QUESTION)
    assert answer.choices[0].message.reasoning_content  # type: ignore[attr-defined]
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens
    silent = client.chat.completions.create(
        model=target["thinking"], messages=QUESTION, extra_body={"thinking": {"type": "disabled"}}
    )
    assert silent.usage is not None
    assert silent.usage.completion_tokens_details is not None
    assert silent.usage.completion_tokens_details.reasoning_tokens == 0


def test_a_tool_is_called_and_its_result_answered(client: openai.OpenAI, target: Target) -> None:
    asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = client.chat.completions.create(model=target["chat"], messages=asked, tools=[WEATHER])
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls is not None
    call = message.tool_calls[0]
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    told: list[ChatCompletionMessageParam] = [
        *asked,
        message.model_dump(exclude_none=True),  # type: ignore[list-item]
        {"role": "tool", "tool_call_id": call.id, "content": "sunny, 24 °C"},
    ]
    second = client.chat.completions.create(model=target["chat"], messages=told, tools=[WEATHER])
    assert "sunny, 24 °C" in (second.choices[0].message.content or "")


def test_embeddings(client: openai.OpenAI, target: Target) -> None:
    # The package asks for base64 by itself and unpacks it.
    answer = client.embeddings.create(model=target["embedding"], input=["接入点", "endpoint"], dimensions=256)
    assert [len(item.embedding) for item in answer.data] == [256, 256]
    assert sum(value * value for value in answer.data[0].embedding) == pytest.approx(1, abs=1e-4)
    assert answer.usage.prompt_tokens == 5


def test_the_list_of_models_and_a_call_by_model_id(client: openai.OpenAI, target: Target) -> None:
    model_id = target.version("chat")
    assert model_id in [model.id for model in client.models.list()]
    # Nobody made an endpoint for this: the preset one appears with the first call.
    answer = client.chat.completions.create(model=model_id, messages=QUESTION)
    assert answer.model == model_id
    assert answer.choices[0].message.content


def test_json_when_json_is_wanted(client: openai.OpenAI, target: Target) -> None:
    answer = client.chat.completions.create(
        model=target["chat"], messages=QUESTION, response_format={"type": "json_object"}, n=2
    )
    assert [json.loads(choice.message.content or "")["language"] for choice in answer.choices] == ["zh", "zh"]
