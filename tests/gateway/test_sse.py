from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import usage
from gateway.sse import StreamRewriter

OURS = b'"demo-fast-251001"'
USAGE = {"prompt_tokens": 10, "completion_tokens": 3}


def event(fields: object, *, space: bool = False, line: str = "\n") -> bytes:
    text = json.dumps(fields, separators=(", ", ": ") if space else (",", ":"))
    return f"data: {text}{line}{line}".encode()


def stream(
    model: str, *, said: str = "up", space: bool = False, line: str = "\n", with_usage: bool = True, words: int = 3
) -> bytes:
    base = {"id": "c-1", "model": model}
    parts = [b": keep-alive" + 2 * line.encode()]
    parts.append(event({**base, "choices": [{"delta": {"role": "assistant", "content": ""}}]}, space=space, line=line))
    for number in range(words):
        # A caller's text that looks like the bytes we replace; inside a JSON string its quotes are escaped.
        text = f'{number} "model":"{said}" 模型'
        parts.append(event({**base, "choices": [{"delta": {"content": text}}], "usage": None}, space=space, line=line))
    if with_usage:
        parts.append(event({**base, "choices": [], "usage": USAGE}, space=space, line=line))
    parts.append(b"data: [DONE]" + 2 * line.encode())
    return b"".join(parts)


def run(data: bytes, cuts: list[int], *, drops_usage: bool) -> tuple[bytes, StreamRewriter]:
    rewriter = StreamRewriter(ours=OURS, drops_usage=drops_usage)
    out = []
    start = 0
    for cut in [*sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]:
        if cut > start:
            out.append(rewriter.feed(data[start:cut]))
            start = cut
    return b"".join([*out, rewriter.finish()]), rewriter


@given(
    cuts=st.lists(st.integers(0, 10_000), max_size=40),
    space=st.booleans(),
    line=st.sampled_from(["\n", "\r\n"]),
    model=st.sampled_from(["up/stream-model", "demo-fast-251001", "a", 'quo"te\\', "模型", "data: x"]),
    with_usage=st.booleans(),
    drops_usage=st.booleans(),
)
def test_however_a_stream_is_split_the_caller_gets_the_same_events(
    cuts: list[int], space: bool, line: str, model: str, with_usage: bool, drops_usage: bool
) -> None:
    data = stream(model, said=model, space=space, line=line, with_usage=with_usage)
    out, rewriter = run(data, cuts, drops_usage=drops_usage)

    is_usage_sent = with_usage and not drops_usage
    wanted = stream("demo-fast-251001", said=model, space=space, line=line, with_usage=is_usage_sent)
    assert _events(out) == _events(wanted)
    assert usage.last_in(rewriter.tail) == (usage.Usage(10, 0, 3) if with_usage else None)
    assert rewriter.is_done
    assert rewriter.has_token


def _events(data: bytes) -> list[object]:
    lines = [line[6:] for line in data.decode().splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@given(cuts=st.lists(st.integers(0, 10_000), max_size=40))
def test_a_stream_whose_model_is_ours_already_passes_byte_for_byte(cuts: list[int]) -> None:
    data = stream("demo-fast-251001")
    assert run(data, cuts, drops_usage=False)[0] == data


def test_only_the_field_changes_and_never_a_text_that_looks_like_it() -> None:
    data = stream("up")
    out, _rewriter = run(data, [], drops_usage=False)
    assert out == data.replace(b'"model":"up"', b'"model":"demo-fast-251001"')
    assert out.count(b'\\"model\\":\\"up\\"') == 3


def test_whole_events_are_handed_on_at_once() -> None:
    rewriter = StreamRewriter(ours=OURS, drops_usage=True)
    first = event({"model": "up", "choices": [{"delta": {"content": "a"}}]})
    assert rewriter.feed(first).endswith(b"\n\n")
    second = event({"model": "up", "choices": [{"delta": {"content": "b"}}]})
    assert rewriter.feed(second[:20]) == b""
    assert rewriter.feed(second[20:]) == second.replace(b'"up"', OURS)


def test_usage_together_with_choices_is_not_dropped() -> None:
    rewriter = StreamRewriter(ours=OURS, drops_usage=True)
    last = event({"model": "demo-fast-251001", "choices": [{"delta": {}, "finish_reason": "stop"}], "usage": USAGE})
    assert rewriter.feed(last) == last


def test_the_first_token_is_the_first_piece_of_content_or_reasoning() -> None:
    rewriter = StreamRewriter(ours=OURS, drops_usage=False)
    rewriter.feed(event({"model": "up", "choices": [{"delta": {"role": "assistant", "content": ""}}]}))
    assert not rewriter.has_token
    rewriter.feed(event({"model": "up", "choices": [{"delta": {"reasoning_content": "hm"}}]}))
    assert rewriter.has_token


@pytest.mark.parametrize(
    "odd",
    [
        b"data: not json\n\n",
        b'data: {"\xff":1}\n\n',
        b"data: [1]\n\n",
        b"event: x\n\n",
        b"data: {}\n\n",
    ],
)
def test_events_that_are_not_understood_pass(odd: bytes) -> None:
    rewriter = StreamRewriter(ours=OURS, drops_usage=True)
    assert rewriter.feed(odd * 20) == odd * 20


def test_an_event_without_end_is_not_held_for_ever() -> None:
    rewriter = StreamRewriter(ours=OURS, drops_usage=True)
    sent = sum(len(rewriter.feed(b"x" * 100_000)) for _ in range(30))
    assert sent >= 2_000_000


def test_a_stream_without_a_last_blank_line_is_complete_at_its_end() -> None:
    rewriter = StreamRewriter(ours=OURS, drops_usage=True)
    assert rewriter.feed(b"data: [DONE]") == b""
    assert rewriter.finish() == b"data: [DONE]"
