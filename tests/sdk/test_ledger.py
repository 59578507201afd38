"""Our ledger against the demo server's: the same calls, the same tokens."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.sdk.arrange import call_records
from tests.sdk.conftest import Target
from tests.stack import Stack

pytestmark = pytest.mark.stack

LONG = "One two three four five six seven. " * 20


def served(stack: Stack, request_id: str) -> dict[str, Any]:
    calls = httpx.get(f"{stack.demo_url}/demo/stats", params={"request_id": request_id}).json()["recent"]
    assert len(calls) == 1, calls
    return dict(calls[0])


def recorded(stack: Stack, endpoint_id: str, request_id: str) -> dict[str, Any]:
    def find() -> dict[str, Any] | None:
        records = call_records(stack, endpoint_id)
        return next((record for record in records if record["call_id"] == request_id), None)

    found = stack.wait_until(find, seconds=30, what=f"call {request_id} is in the ledger")
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("name", "is_stream"),
    [("chat", False), ("chat", True), ("thinking", False), ("thinking", True), ("embedding", False)],
)
def test_a_call_is_in_the_ledger_with_the_tokens_that_the_model_server_counted(
    stack: Stack, target: Target, name: str, is_stream: bool
) -> None:
    body: dict[str, Any] = {"model": target[name]}
    if name == "embedding":
        body |= {"input": LONG}
    else:
        body |= {"messages": [{"role": "user", "content": LONG}], "stream": is_stream}
    path = "embeddings" if name == "embedding" else "chat/completions"
    with httpx.Client(headers={"Authorization": f"Bearer {target.api_key}"}) as client:
        answer = client.post(f"{target.base_url}/{path}", json=body).raise_for_status()
    request_id = answer.headers["x-request-id"]
    theirs, ours = served(stack, request_id), recorded(stack, target[name], request_id)
    assert (ours["outcome"], ours["status"]) == ("success", 200)
    assert {
        "prompt_tokens": ours["input_tokens"],
        "cached_tokens": ours["cached_tokens"],
        "completion_tokens": ours["output_tokens"],
        "reasoning_tokens": ours["reasoning_tokens"],
    }.items() <= theirs.items()


def test_a_cancelled_stream_stops_the_model_server_and_is_recorded(stack: Stack, target: Target) -> None:
    client = openai.OpenAI(api_key=target.api_key, base_url=target.base_url, max_retries=0)
    stream = client.chat.completions.create(
        model=target["chat"], messages=[{"role": "user", "content": "9000 tokens"}], stream=True
    )
    request_id = stream.response.headers["x-request-id"]
    for _ in range(5):
        next(stream)
    stream.close()
    client.close()
    ours = recorded(stack, target["chat"], request_id)
    theirs = served(stack, request_id)
    assert theirs["outcome"] == "cancelled"
    assert ours["outcome"] == "client_closed"
    assert 0 < ours["output_tokens"] <= theirs["completion_tokens"] < 5_000
