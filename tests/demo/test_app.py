from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demo.app import DemoServer
from demo.tokens import tokenise
from tests.demo.conftest import Demo, events

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
            "required": ["city", "days"],
        },
    },
}


def png(width: int, height: int) -> str:
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + b"\x08\x02\x00\x00\x00"
    return "data:image/png;base64," + base64.b64encode(head).decode()


def image_tokens(demo: Demo, image: dict[str, Any]) -> int:
    def prompt_tokens(content: Any) -> int:
        tokens = demo.answer(content, model="demo-vision")["usage"]["prompt_tokens"]
        assert isinstance(tokens, int)
        return tokens

    text = {"type": "text", "text": "look"}
    return prompt_tokens([text, {"type": "image_url", "image_url": image}]) - prompt_tokens([text])


def test_the_list_names_every_model(demo: Demo) -> None:
    models = [model["id"] for model in demo.get("/v1/models").json()["data"]]
    assert models == [
        "demo-fast",
        "demo-fast-2",
        "demo-thinking",
        "demo-vision",
        "demo-embedding",
        "demo-slow",
        "demo-flaky",
    ]
    assert demo.get("/v1/models/demo-slow").json()["max_model_len"] == 32_768
    assert demo.get("/healthz").json() == {"status": "ok"}


def test_usage_is_what_was_read_and_written(demo: Demo) -> None:
    answer = demo.answer("hello world")
    text = answer["choices"][0]["message"]["content"]
    assert answer["model"] == "demo-fast"
    assert answer["choices"][0]["finish_reason"] == "stop"
    # One mark before the message and one after it, and one that opens the answer.
    assert answer["usage"]["prompt_tokens"] == len(tokenise("hello world")) + 3
    assert answer["usage"]["completion_tokens"] == len(tokenise(text))
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


@pytest.mark.parametrize(("question", "part"), [("怎样写好文档？", "怎样写好文档"), ("How to write?", "How to write")])
def test_the_answer_is_in_the_language_of_the_question_and_always_the_same(
    demo: Demo, question: str, part: str
) -> None:
    first, second = (demo.answer(question)["choices"][0]["message"]["content"] for _ in range(2))
    assert first == second
    assert part in first


def test_a_stream_says_the_same_as_the_plain_answer_one_token_each(demo: Demo) -> None:
    plain = demo.answer("怎样 roll back?")
    response = demo.chat("怎样 roll back?", stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *deltas, ending, usage = events(response)
    said = [event["choices"][0]["delta"]["content"] for event in deltas if event["choices"][0]["delta"].get("content")]
    assert "".join(said) == plain["choices"][0]["message"]["content"]
    assert all(event["usage"] is None for event in [*deltas, ending])
    assert ending["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert usage["choices"] == []
    assert usage["usage"] == plain["usage"]
    assert len(said) == usage["usage"]["completion_tokens"]
    assert deltas[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_a_stream_says_nothing_of_usage_unless_asked(demo: Demo) -> None:
    assert all("usage" not in event for event in events(demo.chat(stream=True)))


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_limit_on_tokens_is_kept(demo: Demo, name: str) -> None:
    answer = demo.answer("Tell me about rollbacks", **{name: 5})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5
    assert len(tokenise(answer["choices"][0]["message"]["content"])) == 5
    streamed = events(demo.chat("Tell me about rollbacks", stream=True, **{name: 5}))
    assert streamed[-1]["choices"][0]["finish_reason"] == "length"


def test_an_answer_of_an_asked_length_has_that_many_tokens(demo: Demo) -> None:
    assert demo.answer("Give me 300 tokens")["usage"]["completion_tokens"] == 300
    assert demo.answer("写 120 个 token 看看")["usage"]["completion_tokens"] == 120
    assert demo.answer("Give me 12 tokens", max_tokens=12)["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("question", "text"),
    [("repeat: 你好 🙂\n\tx", "你好 🙂\n\tx"), ("What is 12 * 7?", "12 * 7 = 84"), ("9/0", "9/0 = ∞")],
)
def test_a_few_things_are_understood(demo: Demo, question: str, text: str) -> None:
    assert demo.answer(question)["choices"][0]["message"]["content"] == text


def test_a_stop_text_ends_the_answer_before_it(demo: Demo) -> None:
    answer = demo.answer("repeat: one two three", stop=["zero", "two"])
    assert answer["choices"][0]["message"]["content"] == "one "
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(tokenise("one "))


def test_several_choices_are_counted_together(demo: Demo) -> None:
    answer = demo.answer("Tell me more", n=3)
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == sum(len(tokenise(text)) for text in texts)
    said = ["", "", ""]
    for event in events(demo.chat("Tell me more", n=3, stream=True)):
        choice = event["choices"][0]
        said[choice["index"]] += choice["delta"].get("content") or ""
    assert said == texts


def test_the_thinking_model_thinks_first_and_counts_it(demo: Demo) -> None:
    answer = demo.answer("Why?", model="demo-thinking")
    message, usage = answer["choices"][0]["message"], answer["usage"]
    thoughts = len(tokenise(message["reasoning_content"]))
    assert usage["completion_tokens_details"]["reasoning_tokens"] == thoughts > 0
    assert usage["completion_tokens"] == thoughts + len(tokenise(message["content"]))
    kinds = [
        "thought" if "reasoning_content" in event["choices"][0]["delta"] else "text"
        for event in events(demo.chat("Why?", model="demo-thinking", stream=True))
        if "role" not in event["choices"][0]["delta"]
    ]
    assert kinds == sorted(kinds, reverse=True)
    assert kinds.count("thought") == thoughts


def test_thinking_can_be_switched_off_and_ended_by_the_limit(demo: Demo) -> None:
    off = demo.answer("Why?", model="demo-thinking", thinking={"type": "disabled"})
    assert "reasoning_content" not in off["choices"][0]["message"]
    cut = demo.answer("Why?", model="demo-thinking", max_tokens=4)
    assert cut["choices"][0]["message"]["content"] == ""
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens_details"]["reasoning_tokens"] == 4


@pytest.mark.parametrize(
    ("image", "tokens"),
    [
        ({"url": png(512, 512)}, 85 + 170),
        ({"url": png(513, 1024)}, 85 + 4 * 170),
        ({"url": png(513, 1024), "detail": "low"}, 85),
        ({"url": "https://example.com/cat.jpg"}, 85 + 4 * 170),
    ],
)
def test_images_cost_tokens_by_their_size(demo: Demo, image: dict[str, str], tokens: int) -> None:
    demo.set("demo-vision", prefix_cache=False)
    assert image_tokens(demo, image) == tokens


def test_other_models_do_not_take_images(demo: Demo) -> None:
    response = demo.chat([{"type": "image_url", "image_url": {"url": png(1, 1)}}])
    assert response.status_code == 400
    assert response.json()["error"]["message"] == "The model demo-fast does not accept images."


def test_a_repeated_prompt_is_read_from_the_cache(demo: Demo) -> None:
    long = "One two three four five six seven. " * 20
    first, second = (demo.answer(long)["usage"] for _ in range(2))
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["prompt_tokens_details"]["cached_tokens"] == (second["prompt_tokens"] - 1) // 64 * 64 > 0
    other = demo.answer(long, model="demo-fast-2")["usage"]
    assert other["prompt_tokens_details"]["cached_tokens"] == 0
    demo.set("demo-fast", prefix_cache=False)
    assert demo.answer(long)["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize(
    ("question", "more", "arguments"),
    [
        ("What will the weather be in Paris for 3 days?", {}, {"city": "Paris", "days": 3}),
        ("北京天气怎么样", {"tool_choice": "required"}, {"city": "北京", "days": 1}),
        ("Hello", {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, None),
    ],
)
def test_a_tool_is_called_with_arguments_that_fit(
    demo: Demo, question: str, more: dict[str, Any], arguments: dict[str, Any] | None
) -> None:
    answer = demo.answer(question, tools=[WEATHER], **more)
    choice = answer["choices"][0]
    called = choice["message"]["tool_calls"][0]["function"]
    assert choice["finish_reason"] == "tool_calls"
    assert called["name"] == "get_weather"
    given = json.loads(called["arguments"])
    assert given == (arguments or given)
    assert 1 <= given["days"] <= 7
    streamed = events(demo.chat(question, tools=[WEATHER], stream=True, **more))
    pieces = [
        event["choices"][0]["delta"]["tool_calls"][0]
        for event in streamed
        if event["choices"][0]["delta"].get("tool_calls")
    ]
    assert "".join(piece["function"]["arguments"] for piece in pieces) == called["arguments"]
    assert pieces[0]["id"] == choice["message"]["tool_calls"][0]["id"]
    assert answer["usage"]["completion_tokens"] == len(tokenise("get_weather")) + len(tokenise(called["arguments"]))


def test_no_tool_is_called_when_none_is_wanted(demo: Demo) -> None:
    for more in ({"tool_choice": "none"}, {"tool_choice": "auto"}):
        question = "How is the weather in Rome?" if more["tool_choice"] == "none" else "Tell me a joke"
        answer = demo.answer(question, tools=[WEATHER], **more)
        assert answer["choices"][0]["finish_reason"] == "stop"


def test_the_result_of_a_tool_is_answered_in_words(demo: Demo) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "How is the weather in Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny, 24 °C"},
    ]
    answer = demo.post("/v1/chat/completions", {"model": "demo-fast", "messages": messages, "tools": [WEATHER]}).json()
    assert "sunny, 24 °C" in answer["choices"][0]["message"]["content"]


def test_json_is_answered_when_json_is_wanted(demo: Demo) -> None:
    plain = demo.answer("List three", response_format={"type": "json_object"})
    assert set(json.loads(plain["choices"][0]["message"]["content"])) == {"question", "answer", "language"}
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "tags": {"type": "array", "items": {"enum": ["x"]}}},
    }
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    fitted = demo.answer("Give me 4", response_format=form)
    assert json.loads(fitted["choices"][0]["message"]["content"]) == {"n": 4, "tags": ["x"]}


def test_embeddings_are_unit_vectors_that_stay_the_same(demo: Demo) -> None:
    def embed(**more: Any) -> Any:
        return demo.post("/v1/embeddings", {"model": "demo-embedding", "input": ["cat on a mat", "猫"], **more}).json()

    answer = embed(dimensions=64)
    vectors = [item["embedding"] for item in answer["data"]]
    assert [len(vector) for vector in vectors] == [64, 64]
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-5) for vector in vectors)
    assert embed(dimensions=64)["data"] == answer["data"]
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    packed = [base64.b64decode(item["embedding"]) for item in embed(dimensions=64, encoding_format="base64")["data"]]
    assert [list(struct.unpack("<64f", item)) for item in packed] == vectors
    assert len(embed()["data"][0]["embedding"]) == 1_024


def test_embeddings_of_alike_texts_are_near(demo: Demo) -> None:
    texts = ["the cat sat on the mat", "a cat sat on a mat", "quarterly revenue grew"]
    answer = demo.post("/v1/embeddings", {"model": "demo-embedding", "input": texts}).json()
    one, like, unlike = (item["embedding"] for item in answer["data"])
    nearness = [sum(a * b for a, b in zip(one, other, strict=True)) for other in (like, unlike)]
    assert nearness[0] > 0.4 > nearness[1]


@pytest.mark.parametrize("given", [[1, 2, 3], [[1, 2, 3]]])
def test_token_numbers_can_be_embedded(demo: Demo, given: list[Any]) -> None:
    answer = demo.post("/v1/embeddings", {"model": "demo-embedding", "input": given}).json()
    assert answer["usage"]["prompt_tokens"] == 3


CHAT = "/v1/chat/completions"
EMBED = "/v1/embeddings"
USER = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (CHAT, b"", 400, None),
        (CHAT, b"{", 400, None),
        (CHAT, b"[]", 400, None),
        (CHAT, b'"\xff"', 400, None),
        (CHAT, b'{"model":"demo-fast","messages":[{"role":"user","content":"\\ud800"}]}', 400, None),
        (CHAT, b'{"model":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, None),
        (CHAT, {"messages": USER}, 400, "model"),
        (CHAT, {"model": 3, "messages": USER}, 400, "model"),
        (CHAT, {"model": "nope", "messages": USER}, 404, "model"),
        (CHAT, {"model": "demo-embedding", "messages": USER}, 400, "model"),
        (CHAT, {"model": "demo-fast"}, 400, "messages"),
        (CHAT, {"model": "demo-fast", "messages": []}, 400, "messages"),
        (CHAT, {"model": "demo-fast", "messages": [{"role": "user"}]}, 400, "messages[0].content"),
        (CHAT, {"model": "demo-fast", "messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].tool_call_id"),
        (CHAT, {"model": "demo-fast", "messages": USER, "temperature": 2.1}, 400, "temperature"),
        (CHAT, {"model": "demo-fast", "messages": USER, "temperature": "hot"}, 400, "temperature"),
        (CHAT, {"model": "demo-fast", "messages": USER, "max_tokens": 0}, 400, "max_tokens"),
        (CHAT, {"model": "demo-fast", "messages": USER, "max_tokens": 40_000}, 400, "messages"),
        (CHAT, {"model": "demo-fast", "messages": USER, "n": 9}, 400, "n"),
        (CHAT, {"model": "demo-fast", "messages": USER, "stop": ""}, 400, "stop"),
        (CHAT, {"model": "demo-fast", "messages": USER, "stream_options": {}}, 400, "stream_options"),
        (CHAT, {"model": "demo-fast", "messages": USER, "tool_choice": "required"}, 400, "tool_choice"),
        (CHAT, {"model": "demo-fast", "messages": USER, "tool_choice": {"function": {"name": "f"}}}, 400, "tool_choice"),
        (CHAT, {"model": "demo-fast-2", "messages": USER, "logit_bias": {"1": 2}}, 400, "logit_bias"),
        (CHAT, {"model": "demo-fast-2", "messages": USER, "magic": True}, 400, "magic"),
        (CHAT, {"model": "demo-vision", "messages": [{"role": "user", "content": [{"type": "audio"}]}]}, 400, "messages[0].content[0].type"),
        (EMBED, {"model": "demo-embedding"}, 400, "input"),
        (EMBED, {"model": "demo-embedding", "input": []}, 400, "input"),
        (EMBED, {"model": "demo-embedding", "input": ["a", 1]}, 400, "input"),
        (EMBED, {"model": "demo-embedding", "input": [1, "a"]}, 400, "input"),
        (EMBED, {"model": "demo-embedding", "input": "a", "dimensions": 0}, 400, "dimensions"),
        (EMBED, {"model": "demo-embedding", "input": "word " * 9_000}, 400, "input"),
        (EMBED, {"model": "demo-fast", "input": "a"}, 400, "model"),
    ],
)  # fmt: skip
def test_a_bad_request_is_told_what_is_wrong(
    demo: Demo, path: str, body: bytes | dict[str, Any], status: int, param: str | None
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = demo.request("POST", path, content=content)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"].endswith(".")


def test_what_one_model_refuses_another_accepts(demo: Demo) -> None:
    demo.answer(logit_bias={"1": 2}, magic=True)
    demo.answer(model="demo-fast-2", logit_bias=None, magic=None)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["model", "messages", "tools", "stop", "n", "stream", "response_format", "tool_choice", "max_tokens"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
            | st.sampled_from(["demo-fast", "user", "function"]),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["role", "content", "type", "function", "name", "parameters"]), inner),
            max_leaves=8,
        ),
    )
)  # fmt: skip
def test_no_body_breaks_the_server(demo: Demo, body: dict[str, Any]) -> None:
    assert demo.post(CHAT, {"model": "demo-fast", "messages": USER} | body).status_code in (200, 400, 404)


def test_wrong_paths_and_methods_are_said_so(demo: Demo) -> None:
    assert demo.get("/v1/nothing").status_code == 404
    assert demo.get(CHAT).status_code == 405
    assert demo.post("/demo/models/nope", {}).status_code == 404


def test_the_key_is_asked_for() -> None:
    demo = Demo(DemoServer(api_key="secret"))
    assert demo.get("/healthz").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
        response = demo.get("/v1/models", headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
    assert demo.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_a_model_fails_as_often_as_it_was_told(demo: Demo) -> None:
    demo.post("/demo/models/demo-flaky", {"error_rate": 0.25, "error_status": 429})
    answers = [demo.chat(model="demo-flaky") for _ in range(100)]
    failed = [answer for answer in answers if answer.status_code == 429]
    assert 23 <= len(failed) <= 27
    assert failed[0].headers["retry-after"] == "1"
    assert demo.stats()["models"]["demo-flaky"]["errors"] == {"429": len(failed)}


def test_a_model_that_is_down_is_gone_from_the_list(demo: Demo) -> None:
    demo.post("/demo/models/demo-slow", {"down": True})
    assert demo.chat(model="demo-slow").status_code == 503
    assert "demo-slow" not in demo.get("/v1/models").text
    demo.post("/demo/models/*", {"down": True})
    assert demo.get("/v1/models").status_code == 503
    demo.post("/demo/models/*", {"down": False})
    assert demo.chat(model="demo-slow").status_code == 200


@pytest.mark.parametrize(
    "change",
    [{"error_rate": 1.1}, {"token_seconds": -1}, {"error_status": 200}, {"down": "yes"}, {"speed": 1}, []],
)
def test_a_behaviour_out_of_range_is_refused(demo: Demo, change: Any) -> None:
    before = demo.get("/demo/models").json()
    assert demo.post("/demo/models/demo-fast", change).status_code == 400
    assert demo.get("/demo/models").json() == before


def test_a_behaviour_changes_only_where_it_is_told_to(demo: Demo) -> None:
    before = demo.get("/demo/models/demo-fast").json()
    changed = demo.post("/demo/models/demo-fast", {"error_rate": 0.5}).json()
    assert changed == before | {"error_rate": 0.5}


def test_every_call_is_counted_under_its_request_id(demo: Demo) -> None:
    answer = demo.chat("hello", headers={"X-Request-Id": "r-1"})
    assert answer.headers["x-request-id"] == "r-1"
    demo.chat("hello", headers={"X-Request-Id": "r-2"}, stream=True)
    demo.chat("hello", headers={"X-Request-Id": "r-3"}, temperature=9)
    demo.chat("hello", headers={"X-Request-Id": "r-4"}, model="nope")
    usage = answer.json()["usage"]
    stats = demo.stats()
    assert [call["request_id"] for call in stats["recent"]] == ["r-4", "r-3", "r-2", "r-1"]
    assert [call["outcome"] for call in stats["recent"]] == ["error", "error", "ok", "ok"]
    assert [call["status"] for call in stats["recent"]] == [404, 400, 200, 200]
    assert (
        stats["recent"][3]["completion_tokens"] == stats["recent"][2]["completion_tokens"] == usage["completion_tokens"]
    )
    assert stats["models"]["unknown"]["errors"] == {"404": 1}
    totals = stats["totals"]
    assert (totals["calls"], totals["ok"], totals["running"]) == (4, 2, 0)
    assert totals["prompt_tokens"] == 2 * usage["prompt_tokens"]
    only = demo.stats(request_id="r-3")["recent"]
    assert [call["request_id"] for call in only] == ["r-3"]
    assert [call["request_id"] for call in demo.stats(after=2)["recent"]] == ["r-4", "r-3"]
    assert demo.get("/demo/stats", params={"recent": "x"}).status_code == 400
    assert demo.request("DELETE", "/demo/stats").json()["totals"]["calls"] == 0
