"""What a model reads: a chat request as tokens, images included.

Each message is ``<|role|>``, its content and ``<|end|>``; tools come first as one block of JSON; the whole ends with
``<|assistant|>``. The marks are one token each. An image is 85 tokens with ``detail: low``, else 85 and 170 for each
tile of 512 × 512; the size is read from PNG data, and any other image counts as 1024 × 1024, since nothing is fetched.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct

import msgspec

from demo.tokens import tokenise
from demo.wire import ChatRequest, ImageUrl

_PNG_DATA = "data:image/png;base64,"
_LOW_TOKENS = 85
_TILE_TOKENS = 170
_MAX_TILES = 16


def image_size(url: str) -> tuple[int, int] | None:
    """Width and height of a PNG data URL in pixels; None for everything else."""
    if not url.startswith(_PNG_DATA):
        return None
    try:
        head = base64.b64decode(url[len(_PNG_DATA) : len(_PNG_DATA) + 32])
    except binascii.Error:
        return None
    if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def image_tokens(image: ImageUrl) -> int:
    """How many tokens an image costs: 85 to 2805."""
    if image.detail == "low":
        return _LOW_TOKENS
    width, height = image_size(image.url) or (1024, 1024)
    tiles = max(1, -(-width // 512)) * max(1, -(-height // 512))
    return _LOW_TOKENS + _TILE_TOKENS * min(tiles, _MAX_TILES)


def prompt_tokens(request: ChatRequest) -> list[str]:
    """The tokens that the model reads before it answers."""
    tokens: list[str] = []
    if request.tools:
        tokens += ["<|tools|>", *tokenise(msgspec.json.encode(request.tools).decode()), "<|end|>"]
    for message in request.messages:
        tokens.append(f"<|{message.role}|>")
        tokens += tokenise(message.text)
        for image in message.images:
            digest = hashlib.sha256(image.url.encode("utf-8", "surrogatepass")).hexdigest()
            tokens += [f"<|image {digest} {number}|>" for number in range(image_tokens(image))]
        for call in message.tool_calls or []:
            if call.function is not None:
                tokens += tokenise(call.function.name) + tokenise(call.function.arguments)
        tokens.append("<|end|>")
    tokens.append("<|assistant|>")
    return tokens
