from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.tokens import PrefixCache, has_cjk, tokenise


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("hello world", ["hell", "o", " worl", "d"]),
        ("你好，world", ["你", "好", "，", "worl", "d"]),
        ("a  b\n\nc", ["a", "  ", "b", "\n\n", "c"]),
        ("x=1;🙂", ["x", "=", "1", ";", "🙂"]),
        ("snake_case", ["snak", "e", "_", "case"]),
    ],
)
def test_texts_are_cut_as_documented(text: str, tokens: list[str]) -> None:
    assert tokenise(text) == tokens


@given(st.text())
def test_joined_tokens_are_the_text_again(text: str) -> None:
    assert "".join(tokenise(text)) == text


def test_chinese_is_told_from_english() -> None:
    assert has_cjk("API 调用")
    assert not has_cjk("API call — naïve")


def test_a_prompt_seen_before_is_cached_in_whole_blocks() -> None:
    cache = PrefixCache()
    prompt = [f"t{number}" for number in range(200)]
    digests = cache.digests(prompt)
    assert len(digests) == 3
    assert cache.cached_tokens(digests) == 0
    cache.remember(digests)
    assert cache.cached_tokens(digests) == 192
    other_ending = [*prompt[:130], "different", *prompt[131:]]
    assert cache.cached_tokens(cache.digests(other_ending)) == 128
    other_beginning = ["different", *prompt[1:]]
    assert cache.cached_tokens(cache.digests(other_beginning)) == 0


def test_a_prompt_of_exactly_one_block_is_never_wholly_cached() -> None:
    cache = PrefixCache()
    assert cache.digests(["t"] * 64) == []
    assert len(cache.digests(["t"] * 65)) == 1


def test_the_least_recently_used_prompt_is_forgotten_first() -> None:
    cache = PrefixCache(max_blocks=4)
    old, new = (cache.digests([f"{name}{number}" for number in range(129)]) for name in ("old", "new"))
    third = cache.digests([f"third{number}" for number in range(129)])
    cache.remember(old)
    cache.remember(new)
    assert cache.cached_tokens(old) == 128
    cache.remember(third)
    assert len(cache) == 4
    assert cache.cached_tokens(old) == 128
    assert cache.cached_tokens(new) == 0
