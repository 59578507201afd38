"""The small markdown that DingTalk and WeCom have in common, with other people's words made harmless in it."""

from __future__ import annotations

from alerts.channels.base import Message

# Neither has an escape character. Their full-width twins look alike and mean nothing: an endpoint called
# `<@all>` or `[here](http://…)` stays its name.
_HARMLESS = str.maketrans({"<": "＜", "[": "［", "]": "］", "`": "＇", "*": "＊"})


def harmless(text: str) -> str:
    """`text` as it looks, without anything that would be markup."""
    lines = text.translate(_HARMLESS).split("\n")
    return "\n".join("\u200b" + line if line[:1] in {"#", ">", "-", "!"} else line for line in lines)


def written(message: Message, text: str, *, newline: str, title: str = "") -> str:
    """Title, `text` and link as markdown. `newline` is what the service takes for the end of a line."""
    heading = title or f"### {harmless(message.title)}"
    parts = [heading, *(line for line in harmless(text).split("\n") if line)]
    if message.url:
        parts.append(f"[{harmless(message.link_text)}]({message.url})")
    parts.append("ArkConsole")
    return newline.join(parts)
