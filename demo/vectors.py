"""Embeddings: the words of a text hashed into a unit vector, so that texts with common words are near each other."""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
from collections.abc import Sequence

from demo.tokens import tokenise

DEFAULT_DIMENSIONS = 1_024
_PLACES = 8
"""How many dimensions one token touches."""


def tokens_of(item: str | Sequence[int]) -> list[str]:
    """The tokens of one input; a list of token numbers is taken as it is."""
    return tokenise(item) if isinstance(item, str) else [f"#{number}" for number in item]


def packed_vector(tokens: Sequence[str], dimensions: int) -> bytes:
    """A vector of length 1 as little-endian float32, always the same for the same tokens."""
    values = [0.0] * dimensions
    words = [token.strip().lower() for token in tokens]
    # Pairs tell "dog bites man" from "man bites dog"; they weigh less, so that common words still bring texts together.
    pairs = [f"{left}\0{right}" for left, right in itertools.pairwise(words)]
    for features, weight in ((words, 1.0), (pairs, 0.5)):
        for feature in features:
            digest = hashlib.sha256(feature.encode("utf-8", "surrogatepass")).digest()
            for number in struct.unpack(f"<{_PLACES}I", digest):
                values[(number >> 1) % dimensions] += weight if number & 1 else -weight
    length = math.sqrt(sum(value * value for value in values))
    if length == 0:
        values[0] = length = 1.0
    return struct.pack(f"<{dimensions}f", *(value / length for value in values))


def floats(packed: bytes) -> list[float]:
    """The numbers of a packed vector."""
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))
