"""What the SDKs raise when a call cannot be served: their own error classes, with Ark's codes."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from volcenginesdkarkruntime import Ark
from volcenginesdkarkruntime import _exceptions as ark_errors

from tests.sdk.conftest import Target
from tests.stack import Stack

pytestmark = pytest.mark.stack

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Give me 60 tokens"}]


@pytest.fixture(scope="module")
def client(target: Target) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=target.api_key, base_url=target.base_url, max_retries=0) as client:
        yield client


@pytest.fixture
def flaky(stack: Stack) -> Iterator[httpx.Client]:
    """The demo model that fails, to be told how; afterwards it is as it was."""
    with httpx.Client(base_url=f"{stack.demo_url}/demo/models/demo-flaky") as model:
        before = model.get("").json()
        yield model
        model.post("", json=before).raise_for_status()


def call_often(client: openai.OpenAI, endpoint_id: str) -> None:
    for _ in range(3):
        client.chat.completions.create(model=endpoint_id, messages=QUESTION, max_tokens=80)


def test_a_wrong_key_is_an_authentication_error(target: Target) -> None:
    with (
        openai.OpenAI(api_key="wrong", base_url=target.base_url, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        client.chat.completions.create(model=target["chat"], messages=QUESTION)
    assert raised.value.code == "AuthenticationError"
    assert raised.value.type == "Unauthorized"
    assert raised.value.request_id


@pytest.mark.parametrize("model", ["ep-20200101000000-nowhe", "no-such-model"])
def test_an_unknown_model_is_not_found(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model=model, messages=QUESTION)
    assert raised.value.code == "InvalidEndpointOrModel.NotFound"
    assert model in str(raised.value)


def test_a_stopped_endpoint_is_a_bad_request(client: openai.OpenAI, target: Target) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=target["stopped"], messages=QUESTION)
    assert raised.value.code == "InvalidEndpoint.ClosedEndpoint"


def test_too_many_calls_are_a_rate_limit_error(client: openai.OpenAI, target: Target) -> None:
    with pytest.raises(openai.RateLimitError) as raised:
        call_often(client, target["few calls"])
    assert raised.value.code == "RateLimitExceeded.EndpointRPMExceeded"
    assert 0 < int(raised.value.response.headers["retry-after"]) <= 61


def test_too_many_tokens_are_a_rate_limit_error(client: openai.OpenAI, target: Target) -> None:
    with pytest.raises(openai.RateLimitError) as raised:
        call_often(client, target["few tokens"])
    assert raised.value.code == "RateLimitExceeded.EndpointTPMExceeded"


def test_a_parameter_out_of_range_is_the_model_servers_own_answer(client: openai.OpenAI, target: Target) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=target["chat"], messages=QUESTION, temperature=3)
    assert raised.value.param == "temperature"


def test_a_failing_model_server_is_a_server_error(client: openai.OpenAI, target: Target, flaky: httpx.Client) -> None:
    flaky.post("", json={"error_rate": 1}).raise_for_status()
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model=target["flaky"], messages=QUESTION)


def test_a_stream_that_is_cut_off_ends_in_an_error_and_not_like_a_short_answer(
    client: openai.OpenAI, target: Target, flaky: httpx.Client
) -> None:
    flaky.post("", json={"error_rate": 0, "cut_rate": 1}).raise_for_status()
    stream = client.chat.completions.create(model=target["flaky"], messages=QUESTION, stream=True)
    first = next(stream)
    with pytest.raises(openai.APIError) as raised:
        list(stream)
    assert first.choices[0].finish_reason is None
    assert raised.value.code


def test_the_ark_sdk_raises_its_own_errors(target: Target) -> None:
    client = Ark(api_key=target.api_key, base_url=target.base_url, max_retries=0)
    stranger = Ark(api_key="wrong", base_url=target.base_url, max_retries=0)
    for caller, model, error, code in (
        (stranger, target["chat"], ark_errors.ArkAuthenticationError, "AuthenticationError"),
        (client, "no-such-model", ark_errors.ArkNotFoundError, "InvalidEndpointOrModel.NotFound"),
        (client, target["stopped"], ark_errors.ArkBadRequestError, "InvalidEndpoint.ClosedEndpoint"),
    ):
        with pytest.raises(error) as raised:
            caller.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
        assert raised.value.code == code
    client.close()
    stranger.close()
