"""The request body: read as little of it as possible, change as little of it as possible."""

from __future__ import annotations

import re

import msgspec

from gateway import errors, usage
from gateway.errors import NOT_JSON

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_int = msgspec.json.Decoder(int).decode
_encode = msgspec.json.Encoder().encode

Fields = dict[str, msgspec.Raw]

_NULL = msgspec.Raw(b"null")
_TRUE = msgspec.Raw(b"true")
_FALSE = msgspec.Raw(b"false")
_ASK_USAGE = msgspec.Raw(b'{"include_usage":true}')
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_CONTENT = {"chat": "messages", "embeddings": "input"}
_PARAMETERS_MAX = 64
_NUMBER_MAX = 10_000_000
_shapes: dict[tuple[str, ...], list[str]] = {}


def parse(body: bytes) -> Fields:
    """The top-level fields without those that are null (the Ark SDK sends every unset option so). Raises `Refusal`."""
    try:
        fields = _decode_fields(body)
    except NOT_JSON:
        raise errors.invalid_parameter("body", "the body is not a JSON object") from None
    nulls = [name for name, value in fields.items() if len(value) == 4 and value == _NULL]
    for name in nulls:
        del fields[name]
    return fields


def model_of(fields: Fields) -> str:
    """The `model` asked for. Raises `Refusal`."""
    raw = fields.get("model")
    if raw is None:
        raise errors.missing_parameter("model")
    try:
        name = _decode_text(raw)
    except NOT_JSON:
        raise errors.invalid_parameter("model", "model must be a string") from None
    if not name:
        raise errors.missing_parameter("model")
    return name


def check(fields: Fields, api: str) -> bool:
    """Whether a stream is asked for. Raises `Refusal` when what the API cannot do without is missing or of a wrong kind."""
    name = _CONTENT[api]
    content = fields.get(name)
    if content is None:
        raise errors.missing_parameter(name)
    if api == "chat":
        text = memoryview(content)[:64].tobytes()
        if not text.startswith(b"["):
            raise errors.invalid_parameter("messages", "messages must be an array")
        if len(text) < 64 and not text[1:-1].strip():
            raise errors.missing_parameter("messages")
    stream = fields.get("stream")
    if stream is None or stream == _FALSE:
        return False
    if stream != _TRUE:
        raise errors.invalid_parameter("stream", "stream must be true or false")
    if api != "chat":
        raise errors.invalid_parameter("stream", "this API does not stream")
    return True


def parameters(fields: Fields) -> list[str]:
    """Names of top-level parameters but `model`, never values; names that are no identifiers are left out."""
    shape = tuple(fields)
    known = _shapes.get(shape)
    if known is None:
        known = [name for name in shape if name != "model" and _NAME.fullmatch(name)][:_PARAMETERS_MAX]
        # Bounded, since callers choose names; in practice a handful of shapes exist.
        if len(_shapes) < 1000 and len(shape) <= _PARAMETERS_MAX:
            _shapes[shape] = known
    return known


def estimate(fields: Fields, api: str, default_output_tokens: int) -> tuple[int, int]:
    """About how many tokens the input is, and how many the output may be."""
    tokens = usage.estimate_input(bytes(fields[_CONTENT[api]]))
    if api != "chat":
        return tokens, 0
    if (tools := fields.get("tools")) is not None:
        tokens += usage.estimate_text(bytes(tools))
    output = _whole_number(fields.get("max_completion_tokens"))
    if output is None:
        output = _whole_number(fields.get("max_tokens"))
    if output is None:
        output = default_output_tokens
    choices = _whole_number(fields.get("n")) or 1
    return tokens, output * min(choices, 128)


def _whole_number(raw: msgspec.Raw | None) -> int | None:
    if raw is None:
        return None
    try:
        number = _decode_int(raw)
    except NOT_JSON:
        return None  # the model server says what is wrong with it
    # More than any model writes is reserved as much as that, not as nothing.
    return min(number, _NUMBER_MAX) if number >= 0 else None


def asks_usage(fields: Fields) -> bool:
    """Whether the caller wants the usage of a stream for itself."""
    raw = fields.get("stream_options")
    if raw is None:
        return False
    try:
        options = _decode_fields(raw)
    except NOT_JSON:
        return True  # not an object: for the model server to refuse
    return any(options.get(name) == _TRUE for name in ("include_usage", "chunk_include_usage"))


def with_usage(fields: Fields) -> msgspec.Raw:
    """`stream_options` that ask for the usage, keeping what else the caller set there."""
    raw = fields.get("stream_options")
    if raw is None:
        return _ASK_USAGE
    options = _decode_fields(raw)
    options["include_usage"] = _TRUE
    return msgspec.Raw(_encode(options))


def render(fields: Fields, *, upstream_model: msgspec.Raw, stream_options: msgspec.Raw | None) -> bytes:
    """The body for a model server: `model` is its own name there, all else as it came."""
    fields["model"] = upstream_model
    if stream_options is None:
        return _encode(fields)
    return _encode({**fields, "stream_options": stream_options})
