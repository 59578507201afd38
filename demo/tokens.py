"""Counting tokens, and remembering which prompts were read before.

The tokeniser is small enough to check by hand. A text is cut, from the left, into

- one CJK character (ideographs, kana, hangul, full-width punctuation), or
- up to four letters or digits, together with one space before them, or
- a run of white space, or
- any other single character (punctuation, an emoji).

Joining the pieces gives the text back. So "hello world" is ``hell|o| worl|d``, 4 tokens, and "你好，world" is 5.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Sequence

_CJK = "\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_CJK}]| ?(?:(?![{_CJK}_])\w){{1,4}}|\s+|.", re.DOTALL)
_ANY_CJK = re.compile(f"[{_CJK}]")

BLOCK_TOKENS = 64
"""Prompts are remembered in blocks of this many tokens."""


def tokenise(text: str) -> list[str]:
    """The tokens of ``text``; joined they are ``text`` again."""
    return _TOKEN.findall(text)


def has_cjk(text: str) -> bool:
    """Whether any character of ``text`` is Chinese, Japanese, Korean or full-width."""
    return _ANY_CJK.search(text) is not None


class PrefixCache:
    """Which beginnings of prompts were read before: the last ``max_blocks`` blocks, least recently used out first.

    A block is known by a digest of everything up to its end, so it only counts behind the same beginning.
    """

    def __init__(self, max_blocks: int = 50_000) -> None:
        self._max_blocks = max_blocks
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def clear(self) -> None:
        self._blocks.clear()

    def digests(self, tokens: Sequence[str]) -> list[bytes]:
        """One digest for each whole block of a prompt; the last token never counts, as a model must read one."""
        digest = b""
        found = []
        for start in range(0, len(tokens) - BLOCK_TOKENS, BLOCK_TOKENS):
            block = "\0".join(tokens[start : start + BLOCK_TOKENS])
            digest = hashlib.sha256(digest + block.encode("utf-8", "surrogatepass")).digest()
            found.append(digest)
        return found

    def cached_tokens(self, digests: Sequence[bytes]) -> int:
        """How many tokens at the beginning of the prompt were read before: a multiple of 64."""
        hits = 0
        for digest in digests:
            if digest not in self._blocks:
                break
            self._blocks.move_to_end(digest)
            hits += 1
        return hits * BLOCK_TOKENS

    def remember(self, digests: Sequence[bytes]) -> None:
        """The prompt with these digests has been read."""
        # Backwards, so that the beginning of a prompt, without which its end is worthless, is the last to be dropped.
        for digest in reversed(digests):
            self._blocks[digest] = None
            self._blocks.move_to_end(digest)
        while len(self._blocks) > self._max_blocks:
            self._blocks.popitem(last=False)
