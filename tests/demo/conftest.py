"""A demo server in this process, with no latency, and a client for it that is not asynchronous."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from demo.app import DemoServer
from demo.models import BehaviourChange


class Demo:
    """A ``DemoServer`` and calls to it."""

    def __init__(self, server: DemoServer) -> None:
        self.server = server

    def set(self, model: str, **changes: Any) -> None:
        served = self.server.served[model]
        served.set(BehaviourChange(**changes).applied_to(served.behaviour))

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.server)
            async with httpx.AsyncClient(transport=transport, base_url="http://demo") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.request("POST", path, json=body, **options)

    def chat(self, content: Any = "hi", *, model: str = "demo-fast", **more: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
        headers = more.pop("headers", None)
        body.pop("headers", None)
        return self.post("/v1/chat/completions", body, headers=headers)

    def answer(self, content: Any = "hi", **more: Any) -> Any:
        response = self.chat(content, **more)
        assert response.status_code == 200, response.text
        return response.json()

    def stats(self, **query: Any) -> Any:
        return self.get("/demo/stats", params=query).json()


def events(response: httpx.Response) -> list[Any]:
    """The JSON of each event of a stream; the last line must be ``[DONE]``."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]", lines[-1]
    return [json.loads(line) for line in lines[:-1]]


@pytest.fixture
def demo() -> Iterator[Demo]:
    demo = Demo(DemoServer())
    for model in demo.server.served:
        demo.set(model, first_token_seconds=0.0, token_seconds=0.0, error_rate=0.0, cut_rate=0.0)
    yield demo
    demo.server.ledger.close()
