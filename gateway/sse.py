"""A stream of server-sent events on its way to the caller: bytes through, with the least possible looking.

What changes on the way: the upstream's model name becomes ours (exactly the bytes `"model":"<name>"`, learnt from the
first event), and the usage event is left out when only the gateway had asked for it. Network chunks may be split
anywhere. Nothing is parsed after the first token has been seen, except an event that holds a usage object.
"""

from __future__ import annotations

import re
from collections import deque

import msgspec

TAIL_BYTES = 4096
_LEARN_BYTES = 64 * 1024
_HOLD_BYTES = 1024 * 1024
_BOUNDARY = re.compile(rb"\r?\n\r?\n")
_USAGE_OBJECT = re.compile(rb'"usage"\s*:\s*\{')
_MODEL_KEYS = (b'"model":', b'"model": ')

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Delta(msgspec.Struct):
    content: msgspec.Raw = msgspec.Raw(b"null")
    reasoning_content: msgspec.Raw = msgspec.Raw(b"null")
    reasoning: msgspec.Raw = msgspec.Raw(b"null")
    tool_calls: msgspec.Raw = msgspec.Raw(b"null")

    def is_token(self) -> bool:
        return any(
            bytes(raw) not in (b"null", b'""', b"[]")
            for raw in (self.content, self.reasoning_content, self.reasoning, self.tool_calls)
        )


class _Choice(msgspec.Struct):
    delta: _Delta | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class StreamRewriter:
    """Turns the upstream's bytes into the caller's, chunk by chunk: `feed` each, then `finish` once.

    `ours` is the JSON string (with quotes) that stands for the model in the answer. With `drops_usage`, events whose
    `choices` are empty and whose `usage` is an object are left out, and only whole events are handed on. Readable at
    any time: `tail` (the last 4 KB as they came), `events` (how many `data:` lines came), `has_token` (a first piece of
    content or reasoning was seen), `is_done` (`[DONE]` came).
    """

    __slots__ = (
        "_drops_usage",
        "_held",
        "_is_learning",
        "_longest",
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
        self._replacements: list[tuple[bytes, bytes]] = []
        self._longest = 0
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._looks = 0
        self.events = 0
        self.has_token = False

    @property
    def tail(self) -> bytes:
        return b"".join(self._tail)[-TAIL_BYTES:]

    @property
    def is_done(self) -> bool:
        return b"[DONE]" in self.tail[-64:]

    def feed(self, chunk: bytes) -> bytes:
        """What may be sent to the caller now; may be empty."""
        tail = self._tail
        tail.append(chunk)
        size = self._tail_size + len(chunk)
        while size - len(tail[0]) >= TAIL_BYTES:
            size -= len(tail.popleft())
        self._tail_size = size
        self.events += chunk.count(b"data:")
        if not self.has_token:
            self._look_for_token(chunk)
        if self._is_learning:
            return self._learn(chunk)
        if self._held:
            chunk = self._held + chunk
            self._held = b""
        if self._drops_usage:
            return self._whole_events(chunk)
        return self._replace_held(chunk) if self._replacements else chunk

    def finish(self) -> bytes:
        """What is left to send when the upstream's answer has ended."""
        held, self._held = self._held, b""
        if self._is_learning:
            self._learn_from(held)
        return self._rewrite(held) if held else b""

    def _look_for_token(self, chunk: bytes) -> None:
        """Note the first token. After a few chunks without one that we understand, the chunk itself counts as one."""
        self._looks += 1
        if self._looks > 8:
            self.has_token = True
            return
        for event in _BOUNDARY.split(chunk):
            data = _data_of(event)
            if not data.startswith(b"{"):
                continue
            try:
                parsed = _decode_chunk(data)
            except (msgspec.MsgspecError, RecursionError):
                continue
            if any(choice.delta is not None and choice.delta.is_token() for choice in parsed.choices):
                self.has_token = True
                return

    def _learn(self, chunk: bytes) -> bytes:
        held = self._held + chunk
        end = _last_boundary(held)
        if end == 0 and len(held) < _LEARN_BYTES:
            self._held = held
            return b""
        self._held = b""
        if self._learn_from(held[:end] if end else held) or len(held) >= _LEARN_BYTES:
            self._is_learning = False
            if self._drops_usage:
                return self._whole_events(held)
            return self._replace_held(held) if self._replacements else held
        self._held = held[end:]
        return self._rewrite(held[:end])

    def _learn_from(self, events: bytes) -> bool:
        """Whether one of these whole events named its model; if so, what to replace is known from now on."""
        for event in _BOUNDARY.split(events):
            data = _data_of(event)
            if not data.startswith(b"{"):
                continue
            try:
                raw = bytes(_decode_fields(data).get("model", b""))
            except (msgspec.MsgspecError, RecursionError):
                continue
            if not raw.startswith(b'"'):
                continue
            if raw != self._ours:
                self._replacements = [(key + raw, b'"model":' + self._ours) for key in _MODEL_KEYS]
                self._longest = max(len(old) for old, _new in self._replacements)
            return True
        return False

    def _whole_events(self, data: bytes) -> bytes:
        if not data.endswith(b"\n\n"):
            end = _last_boundary(data)
            if end == 0 and len(data) < _HOLD_BYTES:
                self._held = data
                return b""
            end = end or len(data)
            self._held = data[end:]
            data = data[:end]
        return self._rewrite(data)

    def _replace_held(self, data: bytes) -> bytes:
        if not data.endswith(b"\n"):
            hold = self._split_token(data)
            if hold:
                self._held = data[-hold:]
                data = data[:-hold]
        return self._rewrite(data)

    def _split_token(self, data: bytes) -> int:
        """The length of the longest end of `data` that begins one of the texts to replace."""
        start = max(len(data) - self._longest + 1, 0)
        while (start := data.find(b'"', start)) >= 0:
            end = data[start:]
            if any(old.startswith(end) for old, _new in self._replacements if len(old) > len(end)):
                return len(end)
            start += 1
        return 0

    def _rewrite(self, data: bytes) -> bytes:
        if self._drops_usage and b'"usage"' in data and _USAGE_OBJECT.search(data):
            data = _without_usage_events(data)
        for old, new in self._replacements:
            data = data.replace(old, new)
        return data


def _last_boundary(data: bytes) -> int:
    """The index after the last blank line, 0 when there is none."""
    plain = data.rfind(b"\n\n")
    carriage = data.rfind(b"\n\r\n")
    return max(plain + 2 if plain >= 0 else 0, carriage + 3 if carriage >= 0 else 0)


def _data_of(event: bytes) -> bytes:
    """The `data` of one event, several lines joined; empty for a comment."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


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
    data = _data_of(event)
    if b'"usage"' not in data:
        return False
    try:
        fields = _decode_fields(data)
    except (msgspec.MsgspecError, RecursionError):
        return False
    choices = bytes(fields.get("choices", b"")).replace(b" ", b"")
    return choices == b"[]" and bytes(fields.get("usage", b"")).startswith(b"{")
