"""Counting tokens: what the model server said, and estimates where it said nothing."""

from __future__ import annotations

import msgspec

from gateway.errors import NOT_JSON


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _RawUsage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one call; cached are part of input, reasoning part of output."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    is_estimated: bool = False

    @property
    def total(self) -> int:
        return self.input_tokens + self.output_tokens


_decode_usage = msgspec.json.Decoder(_RawUsage).decode
_decode_value = msgspec.json.Decoder(msgspec.Raw).decode


def parse(raw: bytes | msgspec.Raw) -> Usage | None:
    """The usage object of an answer, or None when it is null or not one. Never raises; negative counts become 0."""
    try:
        found = _decode_usage(raw)
    except NOT_JSON:
        return None
    inputs = found.prompt_tokens if found.prompt_tokens is not None else found.input_tokens
    outputs = found.completion_tokens if found.completion_tokens is not None else found.output_tokens
    if inputs is None and outputs is None and found.total_tokens is None:
        return None
    inputs = _clean(inputs if inputs is not None else found.total_tokens)
    outputs = _clean(outputs)
    details, more = found.prompt_tokens_details, found.completion_tokens_details
    cached = _clean((details.cached_tokens if details is not None else None) or found.prompt_cache_hit_tokens)
    reasoning = _clean(more.reasoning_tokens if more is not None else None)
    return Usage(inputs, min(inputs, cached), outputs, min(outputs, reasoning))


def _clean(count: int | None) -> int:
    return count if count is not None and count > 0 else 0


def last_in(tail: bytes) -> Usage | None:
    """The last usage object in the end of a stream; None when there is none. A cut-off one does not count."""
    end = len(tail)
    while (at := tail.rfind(b'"usage"', 0, end)) >= 0:
        end = at
        start = tail.find(b"{", at + 7)
        if start < 0 or tail[at + 7 : start].strip() != b":":
            continue
        if (found := _object_at(tail, start)) is not None and (usage := parse(found)) is not None:
            return usage
    return None


def _object_at(data: bytes, start: int) -> bytes | None:
    """The JSON object that begins at `start`, by counting braces (a usage object has no strings with braces)."""
    depth = 0
    at = start
    while at < len(data):
        byte = data[at]
        if byte == 0x7B:
            depth += 1
        elif byte == 0x7D:
            depth -= 1
            if depth == 0:
                return data[start : at + 1]
        at += 1
    return None


IMAGE_TOKENS = 1024
"""What one inlined image counts for in an estimate: a usual price of vision models, not its bytes."""


def estimate_text(raw: bytes | memoryview) -> int:
    """About how many tokens a piece of JSON text is: four bytes each, at least one."""
    return max(1, (len(raw) + 3) // 4)


def estimate_input(raw: bytes) -> int:
    """About how many tokens `messages` (or `input`) as JSON bytes is; inlined files count as `IMAGE_TOKENS` each."""
    if len(raw) < 4096 or b";base64," not in raw:
        return estimate_text(raw)
    tokens = 0
    length = len(raw)
    at = 0
    while (found := raw.find(b";base64,", at)) >= 0:
        close = raw.find(b'"', found)
        close = len(raw) if close < 0 else close
        length -= close - found
        tokens += IMAGE_TOKENS
        at = close
    return tokens + max(1, (length + 3) // 4)
