"""Which side of a switch a call takes: sticky, monotone, by the weight, and never by what a whole application shares."""

from __future__ import annotations

import json
import random
from bisect import bisect_left
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import body, split
from gateway.routes import SwitchRoute

Headers = list[tuple[bytes, bytes]]
NO_HEADERS: Headers = []
weights = st.integers(0, 100)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def fields(**values: Any) -> body.Fields:
    return body.parse(json.dumps({"model": "ep-1", **values}).encode())


def switch(weight: int, switch_id: int = 7) -> SwitchRoute:
    return SwitchRoute(switch_id, 3, weight, 2)


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: Any) -> dict[str, Any]:
    return {"role": "system", "content": text}


def named(*, headers: Headers = NO_HEADERS, key_id: int = 1, **values: Any) -> bytes:
    return split.conversation(fields(**values), headers, key_id)


# --- what names a conversation


LONG = "x" * 5000
HI = [user("hi")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"messages": [*HI]}, {"messages": [*HI, {"role": "assistant", "content": "yes?"}, user("and now?")]}),
        ({"messages": [system("be nice"), *HI]}, {"messages": [system("It is Monday."), *HI]}),
        ({"messages": [{"role": "developer", "content": "a"}, *HI]}, {"messages": HI}),
        ({"messages": [user(LONG + "a")]}, {"messages": [user(LONG + "b")]}),
        ({"messages": [user("a")], "user": "ann"}, {"messages": [user("b")], "user": "ann"}),
        ({"messages": [user("a")], "prompt_cache_key": "k"}, {"messages": [user("b")], "prompt_cache_key": "k"}),
        ({"messages": HI, "temperature": 0}, {"messages": HI, "temperature": 1, "stream": True}),
        ({"messages": HI, "user": ""}, {"messages": HI}),
        ({"messages": HI, "user": 5}, {"messages": HI, "user": {"id": 6}}),
        ({"messages": [system("a")]}, {"messages": [system("b"), system("c")]}),
        ({"messages": [5, None, "x", *HI]}, {"messages": HI}),
        ({"messages": [{"role": "assistant", "content": "Hello, I am"}, *HI]}, {"messages": HI}),
    ],
    ids=[
        "as it goes on", "another system prompt", "with instructions of a developer", "beyond 4 KB", "same user",
        "same cache key", "other parameters", "an empty id is none", "an id that is no text is none",
        "a system prompt alone", "beside garbage", "the assistant spoke first",
    ],
)  # fmt: skip
def test_these_are_the_same_conversation(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert named(**one) == named(**other)


PICTURE = "data:image/jpeg;base64," + "A" * 9000


def picture(end: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": PICTURE + end}}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"messages": [user("a")]}, {"messages": [user("b")]}),
        ({"messages": HI, "user": "ann"}, {"messages": HI, "user": "bob"}),
        ({"messages": HI, "user": "ann", "prompt_cache_key": "k"}, {"messages": HI, "user": "bob", "prompt_cache_key": "k"}),
        ({"messages": HI, "prompt_cache_key": "k"}, {"messages": HI, "prompt_cache_key": "l"}),
        ({"messages": HI, "key_id": 1}, {"messages": HI, "key_id": 2}),
        ({"messages": [system("a")], "key_id": 1}, {"messages": [system("a")], "key_id": 2}),
        ({"messages": [user([{"type": "text", "text": "a"}])]}, {"messages": [user([{"type": "text", "text": "b"}])]}),
        (
            {"messages": [user([{"type": "text", "text": "What is it?"}, picture("1")])]},
            {"messages": [user([{"type": "text", "text": "What is it?"}, picture("2")])]},
        ),
        (
            {"messages": [user([picture("1"), {"type": "text", "text": "What is it?"}])]},
            {"messages": [user([picture("2"), {"type": "text", "text": "What is it?"}])]},
        ),
        ({"messages": [{"role": "assistant", "content": "a"}]}, {"messages": [{"role": "assistant", "content": "b"}]}),
        (
            {"messages": HI, "user": "ann", "headers": [(b"x-session-id", b"1")]},
            {"messages": HI, "user": "ann", "headers": [(b"x-session-id", b"2")]},
        ),
    ],
    ids=[
        "words", "users", "users with one cache key", "cache keys", "keys", "keys with a system prompt alone", "parts",
        "pictures after one question", "pictures before one question", "no user message", "sessions of one user",
    ],
)  # fmt: skip
def test_these_are_different_conversations(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert named(**one) != named(**other)


@pytest.mark.parametrize("name", [b"x-conversation-id", b"x-session-id"])
def test_a_session_header_wins_over_all_else_and_over_the_key(name: bytes) -> None:
    headers = [(b"host", b"a"), (name, b"s-1")]
    one = named(messages=HI, user="ann", prompt_cache_key="k", headers=headers)
    assert one == named(messages=[user("other")], user="bob", headers=headers, key_id=2) == b"s-1"
    assert named(messages=HI, user="ann", headers=[(name, b"")]) == named(messages=HI, user="ann")


def test_an_explicit_id_is_the_same_under_every_key() -> None:
    assert named(messages=HI, user="ann", key_id=1) == named(messages=HI, user="ann", key_id=2)


# --- garbage


@given(values=st.dictionaries(st.sampled_from(["messages", "user", "prompt_cache_key", "input"]), json_values))
def test_no_body_makes_a_call_fail(values: dict[str, Any]) -> None:
    assert split.takes_target(switch(50), fields=fields(**values), headers=NO_HEADERS, key_id=1) in (True, False)


@given(messages=st.lists(st.fixed_dictionaries({}, optional={"role": json_values, "content": json_values})))
def test_no_message_makes_a_call_fail(messages: list[dict[str, Any]]) -> None:
    assert len(named(messages=messages)) <= split.TEXT_BYTES + 20


@given(st.binary(max_size=60))
def test_not_even_bytes_that_are_no_json_make_a_call_fail(raw: bytes) -> None:
    broken = {"messages": msgspec.Raw(raw), "user": msgspec.Raw(raw[::-1])}
    split.takes_target(switch(50), fields=broken, headers=[(b"x-session-id", raw)], key_id=1)
    split.takes_target(switch(50), fields=broken, headers=NO_HEADERS, key_id=1)


def test_depth_and_size_are_bounded() -> None:
    deep = body.Fields(messages=msgspec.Raw(b'[{"role":"user","content":' + b"[" * 50_000))
    assert split.conversation(deep, NO_HEADERS, 1) == b"1 "
    assert len(named(messages=HI, user="u" * 100_000)) == split.TEXT_BYTES
    assert len(named(messages=HI, headers=[(b"x-session-id", b"h" * 100_000)])) == split.TEXT_BYTES


# --- which side


@given(conversation=st.binary(max_size=40), switch_id=st.integers(0, 2**63 - 1), one=weights, other=weights)
def test_a_conversation_only_moves_forward_as_the_weight_rises_and_back_as_it_falls(
    conversation: bytes, switch_id: int, one: int, other: int
) -> None:
    def side(weight: int) -> bool:
        headers = [(b"x-session-id", conversation)]
        return split.takes_target(switch(weight, switch_id), fields=fields(messages=HI), headers=headers, key_id=1)

    low, high = sorted((one, other))
    assert side(high) or not side(low)
    assert side(high) == side(high)


def test_at_0_nobody_and_at_100_everybody_goes_without_looking_at_the_call() -> None:
    nothing: Any = None
    assert not split.takes_target(switch(0), fields=nothing, headers=nothing, key_id=1)
    assert split.takes_target(switch(100), fields=nothing, headers=nothing, key_id=1)


def drawn(kind: str, count: int = 10_000) -> list[bytes]:
    """Distinct conversations as callers name them, always the same ones."""
    draw = random.Random(20260421)
    if kind == "numbers":
        return [b'"%d"' % number for number in range(count)]
    if kind == "uuids":
        return [f'"{draw.getrandbits(128):032x}"'.encode() for _ in range(count)]
    return [
        named(messages=[system("You are helpful."), user(f"问题 {number}: " + "词" * draw.randrange(9))])
        for number in range(count)
    ]


@pytest.mark.parametrize("kind", ["numbers", "uuids", "words"])
def test_the_share_is_within_two_points_of_every_weight_over_10000_conversations(kind: str) -> None:
    conversations = drawn(kind)
    assert len(set(conversations)) == 10_000
    for switch_id in (1, 2, 1_000_003):
        buckets = sorted(split.bucket(switch_id, one) for one in conversations)
        for weight in range(1, 100):
            share = bisect_left(buckets, weight * 100) / 100
            assert abs(share - weight) < 2, (switch_id, weight, share)


def test_another_switch_moves_other_conversations_first() -> None:
    conversations = drawn("numbers")
    firsts = [{one for one in conversations if split.bucket(switch_id, one) < 1000} for switch_id in (1, 2)]
    assert 50 < len(firsts[0] & firsts[1]) < 150


def test_the_side_is_the_same_in_every_process_and_every_release() -> None:
    # A new value here means that conversations change sides in the middle of a switch while a release is rolled out.
    assert [split.bucket(7, one) for one in (b"", b'"ann"', b'1 "hi"')] == [3302, 3540, 4097]
