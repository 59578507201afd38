from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import body
from gateway.errors import Refusal

UPSTREAM = msgspec.Raw(b'"up/model"')
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def render(text: str | bytes, **options: object) -> dict[str, object]:
    fields = body.parse(text.encode() if isinstance(text, str) else text)
    found: dict[str, object] = json.loads(body.render(fields, upstream_model=UPSTREAM, stream_options=None))
    return found


def test_only_the_model_is_rewritten_and_only_top_level_nulls_are_dropped() -> None:
    sent = '{"model":"ep-1","top_p":null,"messages":[{"role":"assistant","content":null}],"x_new":{"a":null,"n":1e999}}'
    fields = body.parse(sent.encode())
    rendered = body.render(fields, upstream_model=UPSTREAM, stream_options=None)
    assert (
        rendered
        == b'{"model":"up/model","messages":[{"role":"assistant","content":null}],"x_new":{"a":null,"n":1e999}}'
    )


@given(st.dictionaries(st.text(max_size=8).filter(lambda name: name != "model"), json_values, max_size=6))
def test_every_other_field_arrives_as_it_was_sent(fields: dict[str, object]) -> None:
    rendered = render(json.dumps({"model": "ep-1", **fields}))
    assert rendered == {"model": "up/model", **{name: value for name, value in fields.items() if value is not None}}


def test_the_last_of_two_equal_keys_is_the_only_one_that_is_sent() -> None:
    assert render('{"model":"a","model":"b","seed":1,"seed":2}') == {"model": "up/model", "seed": 2}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"1",
        b'"x"',
        b"{",
        b'{"a":}',
        b'{"a":1}x',
        rb'{"model":"\ud800"}',
        b"\xff",
        b"[" * 100_000,
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        body.parse(text)
    assert (caught.value.status, caught.value.code) == (400, "InvalidParameter")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{}", "MissingParameter"),
        ('{"model":null}', "MissingParameter"),
        ('{"model":""}', "MissingParameter"),
        ('{"model":7}', "InvalidParameter"),
        ('{"model":["ep-1"]}', "InvalidParameter"),
        ('{"model":"\udcff"}', "InvalidParameter"),
    ],
)
def test_a_body_without_a_usable_model_is_refused(text: str, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        body.model_of(body.parse(text.encode(errors="surrogateescape")))
    assert caught.value.code == code
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("api", "text", "code"),
    [
        ("chat", '{"model":"m"}', "MissingParameter"),
        ("chat", '{"model":"m","messages":[]}', "MissingParameter"),
        ("chat", '{"model":"m","messages":"hi"}', "InvalidParameter"),
        ("chat", '{"model":"m","messages":[{}],"stream":"yes"}', "InvalidParameter"),
        ("embeddings", '{"model":"m"}', "MissingParameter"),
        ("embeddings", '{"model":"m","input":"a","stream":true}', "InvalidParameter"),
    ],
)
def test_what_an_api_cannot_do_without_is_asked_for(api: str, text: str, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        body.check(body.parse(text.encode()), api)
    assert caught.value.code == code


def test_a_stream_is_asked_for_by_true_alone() -> None:
    base = '{"model":"m","messages":[{}]%s}'
    assert body.check(body.parse((base % ',"stream":true').encode()), "chat")
    assert not body.check(body.parse((base % ',"stream":false').encode()), "chat")
    assert not body.check(body.parse((base % ',"stream":null').encode()), "chat")
    assert not body.check(body.parse((base % "").encode()), "chat")


@pytest.mark.parametrize(
    ("options", "is_asked", "sent"),
    [
        ("", False, {"include_usage": True}),
        (',"stream_options":null', False, {"include_usage": True}),
        (',"stream_options":{"include_usage":false,"x":1}', False, {"include_usage": True, "x": 1}),
        (',"stream_options":{"include_usage":true}', True, None),
        (',"stream_options":{"chunk_include_usage":true}', True, None),
    ],
)
def test_usage_is_asked_for_only_where_the_caller_did_not(
    options: str, is_asked: bool, sent: dict[str, object] | None
) -> None:
    fields = body.parse(f'{{"model":"m","messages":[{{}}]{options}}}'.encode())
    assert body.asks_usage(fields) is is_asked
    if sent is not None:
        rendered = body.render(fields, upstream_model=UPSTREAM, stream_options=body.with_usage(fields))
        assert json.loads(rendered)["stream_options"] == sent


def test_names_of_parameters_are_kept_but_no_values_and_nothing_that_is_no_name() -> None:
    fields = body.parse(b'{"model":"m","messages":[],"temperature":0.5,"a secret sentence":1,"thinking":{"type":"on"}}')
    assert body.parameters(fields) == ["messages", "temperature", "thinking"]


@pytest.mark.parametrize(
    ("more", "output"),
    [
        ("", 77),
        (',"max_tokens":5', 5),
        (',"max_tokens":5,"max_completion_tokens":9', 9),
        (',"max_tokens":"5"', 77),
        (',"max_tokens":-1', 77),
        (',"max_tokens":5,"n":3', 15),
        (',"max_tokens":99999999999', 10_000_000),
    ],
)
def test_the_output_is_estimated_by_what_the_caller_allows(more: str, output: int) -> None:
    fields = body.parse(f'{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{more}}}'.encode())
    assert body.estimate(fields, "chat", 77) == (8, output)


def test_embeddings_have_no_output() -> None:
    assert body.estimate(body.parse(b'{"model":"m","input":["abcd"]}'), "embeddings", 77) == (2, 0)


def test_an_inlined_image_does_not_count_by_its_bytes() -> None:
    image = "data:image/png;base64," + "A" * 1_000_000
    fields = body.parse(json.dumps({"model": "m", "messages": [{"content": [{"image_url": {"url": image}}]}]}).encode())
    assert 1000 < body.estimate(fields, "chat", 0)[0] < 1200
