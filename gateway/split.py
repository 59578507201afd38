"""Which side of an open version switch a call takes: by its conversation, so that a conversation stays where it is.

Pure, and the same in every worker. A conversation has one of 10,000 buckets for the whole switch; those below the weight
take the target. So as the weight rises conversations only ever move to the target, and as it falls only back.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import msgspec

from gateway.body import Fields
from gateway.routes import SwitchRoute

BUCKETS = 10_000
SESSION_HEADERS = (b"x-conversation-id", b"x-session-id")
ID_FIELDS = ("user", "prompt_cache_key")
"""In this order: a user is one client, while a cache key is what calls with the same prefix share, often all of them."""
TEXT_BYTES = 4096
_INSTRUCTIONS = ("system", "developer")


class _Message(msgspec.Struct):
    role: Any = None
    content: msgspec.Raw = msgspec.Raw(b"")


_decode_messages = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_message = msgspec.json.Decoder(_Message).decode


def takes_target(switch: SwitchRoute, *, fields: Fields, headers: Iterable[tuple[bytes, bytes]], key_id: int) -> bool:
    """Whether the call with this body, these headers (names in lower case) and this key goes to the target. Never raises."""
    if switch.weight <= 0:
        return False
    if switch.weight >= 100:
        return True
    return bucket(switch.id, conversation(fields, headers, key_id)) * 100 < switch.weight * BUCKETS


def bucket(switch_id: int, conversation: bytes) -> int:
    """0 to 9,999, evenly spread; another switch deals anew, so it is not always the same clients that go first."""
    # Spread is what counts here, and that calls agree in all workers: Python's own hash differs in each.
    digest = blake2b(conversation, digest_size=8, salt=switch_id.to_bytes(16, "big", signed=True)).digest()
    return int.from_bytes(digest, "big") % BUCKETS


def conversation(fields: Fields, headers: Iterable[tuple[bytes, bytes]], key_id: int) -> bytes:
    """What names the conversation: an explicit id, else the key with how its first user message begins.

    Never the system prompt, which a whole application shares. A call that has neither is told apart by its key alone.
    """
    found = dict(headers)
    for name in SESSION_HEADERS:
        if value := found.get(name):
            return value[:TEXT_BYTES]
    for field in ID_FIELDS:
        # A string that is not empty; whatever else stands there is for the model server to refuse.
        if (raw := fields.get(field)) is not None and len(raw) > 2 and (start := _head(raw)).startswith(b'"'):
            return start
    return b"%d " % key_id + _first_words(fields.get("messages"))


def _first_words(messages: msgspec.Raw | None) -> bytes:
    """How the first user message begins (else the first that is no instruction), as it was sent; empty without one."""
    other = b""
    try:
        entries = _decode_messages(messages) if messages is not None else []
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return b""
    for entry in entries:
        try:
            message = _decode_message(entry)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            continue
        if message.role == "user":
            return _text(message.content)
        if not other and message.role not in _INSTRUCTIONS:
            other = _text(message.content)
    return other


def _text(content: msgspec.Raw) -> bytes:
    view = memoryview(content)
    if len(view) <= TEXT_BYTES or view[0] == 0x22:
        return bytes(view[:TEXT_BYTES])
    # Parts: one sentence before many pictures, or pictures of one camera, begin alike; their ends differ.
    return bytes(view[: TEXT_BYTES // 2]) + bytes(view[-TEXT_BYTES // 2 :])


def _head(raw: msgspec.Raw) -> bytes:
    return bytes(memoryview(raw)[:TEXT_BYTES])
