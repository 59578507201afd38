"""LangChain's ``ChatOpenAI``."""

from __future__ import annotations

import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.sdk.conftest import Target

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def model(target: Target) -> ChatOpenAI:
    return ChatOpenAI(model=target["chat"], base_url=target.base_url, api_key=SecretStr(target.api_key), max_retries=0)


def test_invoke(model: ChatOpenAI, target: Target) -> None:
    answer = model.invoke("What is an endpoint?")
    assert answer.content
    assert answer.response_metadata["model_name"] == target.version("chat")
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] > 0


def test_stream(model: ChatOpenAI) -> None:
    plain = model.invoke("What is an endpoint?")
    pieces = list(model.stream("What is an endpoint?"))
    assert len(pieces) > 5
    assert "".join(str(piece.content) for piece in pieces) == plain.content


def test_a_bound_tool_is_called(model: ChatOpenAI) -> None:
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        return f"{city}: sunny"

    answer = model.bind_tools([get_weather]).invoke("What is the weather in Paris?")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("get_weather", {"city": "Paris"})]
