"""Our ledger against the demo server's: the same calls, the same tokens."""

from __future__ import annotations

import asyncio
import contextlib
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


async def call_in_some_way(client: httpx.AsyncClient, target: Target, number: int) -> tuple[str, str]:
    """One of seven kinds of call; its kind and the request id that it was answered with."""
    kind = ("plain", "stream", "stream with usage", "embedding", "failing", "left", "thinking")[number % 7]
    question = {"role": "user", "content": f"{number}: give me {20 + number % 50} tokens. {LONG}"}
    model = {"failing": "flaky", "thinking": "thinking"}.get(kind, "chat")
    body: dict[str, Any] = {"model": target[model], "messages": [question]}
    if kind == "embedding":
        answer = await client.post("embeddings", json={"model": target["embedding"], "input": [LONG, str(number)]})
        return kind, answer.headers["x-request-id"]
    body["stream"] = kind in ("stream", "stream with usage", "left") or number % 2 == 0
    if kind == "stream with usage":
        body["stream_options"] = {"include_usage": True}
    if kind == "left":
        question["content"] = "5000 tokens"
    async with client.stream("POST", "chat/completions", json=body) as answer:
        with contextlib.suppress(httpx.RemoteProtocolError):
            seen = 0
            async for line in answer.aiter_lines():
                seen += line.startswith("data: ")
                if kind == "left" and seen > number % 20:
                    break
    return kind, answer.headers["x-request-id"]


def test_after_many_calls_of_every_kind_at_once_the_two_ledgers_agree_on_each(stack: Stack, target: Target) -> None:
    async def call_all() -> list[tuple[str, str]]:
        headers = {"Authorization": f"Bearer {target.api_key}"}
        limits = httpx.Limits(max_connections=40)
        async with httpx.AsyncClient(
            base_url=f"{target.base_url}/", headers=headers, limits=limits, timeout=60
        ) as client:
            return await asyncio.gather(*(call_in_some_way(client, target, number) for number in range(210)))

    kinds = {request_id: kind for kind, request_id in asyncio.run(call_all())}
    assert len(kinds) == 210

    def ledger() -> dict[str, dict[str, Any]]:
        ids = (target[name] for name in ("chat", "thinking", "embedding", "flaky"))
        records = call_records(stack, *ids)
        return {record["call_id"]: record for record in records if record["call_id"] in kinds}

    stack.wait_until(lambda: len(ledger()) == 210, seconds=60, what="every call is in the ledger")
    ours = ledger()
    recent = httpx.get(f"{stack.demo_url}/demo/stats", params={"recent": 10_000}).json()["recent"]
    theirs = {call["request_id"]: call for call in recent if call["request_id"] in kinds}
    assert theirs.keys() == ours.keys()
    # A plain answer that is cut off never reached the caller: for us that is a model server's error like any other.
    outcomes = {"ok": {"success"}, "error": {"upstream_error"}, "cut": {"cut", "upstream_error"}}
    for request_id, kind in kinds.items():
        mine, other = ours[request_id], theirs[request_id]
        told = (kind, mine, other)
        if kind != "left":
            assert mine["outcome"] in outcomes[other["outcome"]], told
        if mine["outcome"] == "cut":
            assert mine["output_tokens"] == other["completion_tokens"], told
        if other["outcome"] == "ok" and mine["outcome"] == "success":
            assert (mine["input_tokens"], mine["cached_tokens"]) == (other["prompt_tokens"], other["cached_tokens"]), (
                told
            )
            assert (mine["output_tokens"], mine["reasoning_tokens"]) == (
                other["completion_tokens"], other["reasoning_tokens"],
            ), told  # fmt: skip
        elif kind == "left":
            assert mine["outcome"] == "client_closed", told
            assert 0 <= mine["output_tokens"] <= other["completion_tokens"] < 5_000, told
