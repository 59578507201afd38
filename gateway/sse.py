"""A stream of server-sent events on its way to the caller: whole events, as they come, with the least possible looking.

What changes on the way: the upstream's model name becomes ours (exactly the bytes `"model":"<name>"`, learnt from the
first event), and the usage event is left out when only the gateway had asked for it. Network chunks may be split anywhere;
the beginning of an event waits for its end, since no caller can use half an event, and a stream that breaks can then be
ended with an error frame of its own. Nothing is parsed after the first token has been seen, except an event with a usage
object that may have to be dropped.
"""

from __future__ import annotations

import re
from collections import deque

import msgspec

from gateway.errors import NOT_JSON

TAIL_BYTES = 4096
HOLD_BYTES = 1024 * 1024
"""An event larger than this is handed on in pieces."""
_LOOKS = 8
_BOUNDARY = re.compile(rb"\r?\n\r?\n")
_USAGE_OBJECT = re.compile(rb'"usage"\s*:\s*\{')
_ERROR = re.compile(rb'^data:\s*\{\s*"error"\s*:\s*[{"]', re.MULTILINE)
_MODEL_KEYS = (b'"model":', b'"model": ')

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NOTHING = (b"null", b'""', b"[]")


class _Delta(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(b"null")
    reasoning_content: msgspec.Raw = msgspec.Raw(b"null")
    reasoning: msgspec.Raw = msgspec.Raw(b"null")
    tool_calls: msgspec.Raw = msgspec.Raw(b"null")

    def is_token(self) -> bool:
        pieces = (self.content, self.reasoning_content, self.reasoning, self.tool_calls)
        return any(bytes(piece) not in _NOTHING for piece in pieces)


class _Choice(msgspec.Struct):
    delta: _Delta | None = None


class _Chunk(msgspec.Struct):
    model: msgspec.Raw = msgspec.Raw(b"")
    choices: list[_Choice] = []


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class StreamRewriter:
    """Turns the upstream's bytes into the caller's, chunk by chunk: `feed` each, then `finish` once.

    `ours` is the JSON string (with quotes) that stands for the model in the answer. With `drops_usage`, events whose
    `choices` are empty and whose `usage` is an object are left out. Readable at any time: `tail` (the last 4 KB as they
    came), `events` (how many `data:` lines came), `has_token` (a first piece of content or reasoning was seen).
    """

    __slots__ = (
        "_drops_usage",
        "_held",
        "_is_learning",
        "_looks",
        "_ours",
        "_replacements",
        "_tail",
        "_tail_size",
        "events",
        "has_token",
    )

    def __init__(self, *, ours: bytes, drops_usage: bool) -> None:
        self._ours = ours
        self._drops_usage = drops_usage
        self._is_learning = True
        self._held = b""
        self._looks = 0
        self._replacements: list[tuple[bytes, bytes]] = []
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self.events = 0
        self.has_token = False

    @property
    def tail(self) -> bytes:
        return b"".join(self._tail)[-TAIL_BYTES:]

    @property
    def is_done(self) -> bool:
        """Whether the stream said `[DONE]`."""
        return b"[DONE]" in self.tail[-64:]

    @property
    def has_error(self) -> bool:
        """Whether the server itself said, near the end, that it failed."""
        return _ERROR.search(self.tail) is not None

    def feed(self, chunk: bytes) -> bytes:
        """What may be sent to the caller now; may be empty."""
        tail = self._tail
        tail.append(chunk)
        size = self._tail_size + len(chunk)
        while size - len(tail[0]) >= TAIL_BYTES:
            size -= len(tail.popleft())
        self._tail_size = size
        if self._held:
            chunk = self._held + chunk
            self._held = b""
        if not chunk.endswith(b"\n\n"):
            end = _last_boundary(chunk)
            if end == 0 and len(chunk) < HOLD_BYTES:
                self._held = chunk
                return b""
            if end:
                self._held = chunk[end:]
                chunk = chunk[:end]
        return self._pass(chunk)

    def finish(self) -> bytes:
        """What is left to send when the upstream's answer has ended well."""
        held, self._held = self._held, b""
        return self._pass(held) if held else b""

    def _pass(self, data: bytes) -> bytes:
        self.events += data.count(b"data:")
        if not self.has_token or self._is_learning:
            self._look(data)
        if self._drops_usage and b'"usage"' in data and _USAGE_OBJECT.search(data):
            data = _without_usage_events(data)
        for old, new in self._replacements:
            data = data.replace(old, new)
        return data

    def _look(self, data: bytes) -> None:
        """Learn the model's name, and note the first token; after a few looks in vain any event counts as one."""
        for event in _BOUNDARY.split(data):
            payload = _data_of(event)
            if not payload.startswith(b"{"):
                continue
            self._looks += 1
            if self._looks > _LOOKS:
                self.has_token = True
            try:
                parsed = _decode_chunk(payload)
            except NOT_JSON:
                continue
            if self._is_learning and (name := bytes(parsed.model)).startswith(b'"'):
                self._is_learning = False
                if name != self._ours:
                    self._replacements = [(key + name, b'"model":' + self._ours) for key in _MODEL_KEYS]
            if any(choice.delta is not None and choice.delta.is_token() for choice in parsed.choices):
                self.has_token = True


def _last_boundary(data: bytes) -> int:
    """The index after the last blank line, 0 when there is none."""
    plain = data.rfind(b"\n\n")
    carriage = data.rfind(b"\n\r\n")
    return max(plain + 2 if plain >= 0 else 0, carriage + 3 if carriage >= 0 else 0)


def _data_of(event: bytes) -> bytes:
    """The `data` of one event, several lines joined; empty for a comment."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    return b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def _without_usage_events(data: bytes) -> bytes:
    kept: list[bytes] = []
    start = 0
    for boundary in _BOUNDARY.finditer(data):
        event = data[start : boundary.end()]
        if not _is_usage_event(event):
            kept.append(event)
        start = boundary.end()
    rest = data[start:]
    if rest and not _is_usage_event(rest):
        kept.append(rest)
    return b"".join(kept)


def _is_usage_event(event: bytes) -> bool:
    payload = _data_of(event)
    if b'"usage"' not in payload:
        return False
    try:
        fields = _decode_fields(payload)
    except NOT_JSON:
        return False
    choices = bytes(fields.get("choices", b"")).replace(b" ", b"")
    return choices == b"[]" and bytes(fields.get("usage", b"")).startswith(b"{")
