from __future__ import annotations

import pytest

from gateway import usage
from gateway.usage import Usage


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}', Usage(3, 0, 2, 0)),
        (b'{"prompt_tokens":7,"total_tokens":7}', Usage(7, 0, 0, 0)),
        (b'{"input_tokens":3,"output_tokens":2}', Usage(3, 0, 2, 0)),
        (b'{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}', Usage(9, 4, 2, 0)),
        (b'{"prompt_tokens":9,"completion_tokens":2,"prompt_cache_hit_tokens":5}', Usage(9, 5, 2, 0)),
        (
            b'{"prompt_tokens":1,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":8}}',
            Usage(1, 0, 9, 8),
        ),
        (b'{"prompt_tokens":1,"completion_tokens":9,"prompt_tokens_details":null}', Usage(1, 0, 9, 0)),
        (b'{"prompt_tokens":-1,"completion_tokens":-9}', Usage(0, 0, 0, 0)),
        (b'{"prompt_tokens":2,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":99}}', Usage(2, 2, 1, 0)),
        (b"null", None),
        (b"{}", None),
        (b'{"prompt_tokens":"3"}', None),
        (b"[" * 10_000, None),
        (b'{"\xff":1}', None),
    ],
)
def test_usage_objects_of_several_servers_are_understood(raw: bytes, expected: Usage | None) -> None:
    assert usage.parse(raw) == expected


def test_the_last_usage_of_a_stream_counts() -> None:
    tail = (
        b'e":{"prompt_tokens":1,"completion_tokens":1}}\n\ndata: {"choices":[],"usage":{"prompt_tokens":5,'
        b'"completion_tokens":6,"prompt_tokens_details":{"cached_tokens":2}}}\n\ndata: [DONE]\n\n'
    )
    assert usage.last_in(tail) == Usage(5, 2, 6, 0)


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b'data: {"usage":null}\n\n',
        b'data: {"usage":{"prompt_tokens":5,"comp',
        b'data: {"delta":{"content":"say \\"usage\\":{}"}}\n\n',
    ],
)
def test_no_usage_is_made_up_from_a_stream_that_has_none(tail: bytes) -> None:
    assert usage.last_in(tail) is None


def test_usage_is_found_behind_events_whose_usage_is_null() -> None:
    tail = b'data: {"usage": {"prompt_tokens": 4, "completion_tokens": 2}}\n\ndata: {"usage":null}\n\ndata: [DONE]\n\n'
    assert usage.last_in(tail) == Usage(4, 0, 2, 0)
