"""How messages travel: one module for each kind of address, one line here."""

from __future__ import annotations

from alerts.channels.base import SENTENCES, Channel
from alerts.channels.dingtalk import DingTalk
from alerts.channels.email import Email
from alerts.channels.feishu import Feishu
from alerts.channels.phone import Phone
from alerts.channels.webhook import Webhook
from alerts.channels.wecom import WeCom

ALL: dict[str, Channel] = {
    channel.kind: channel for channel in (Email(), Phone(), Feishu(), DingTalk(), WeCom(), Webhook())
}


def of(kind: str) -> Channel:
    """The channel for addresses of this kind."""
    return ALL[kind]


def is_set_up(kind: str) -> bool:
    """Whether this installation can send to addresses of this kind at all."""
    return not ALL[kind].missing()


def missing(kind: str) -> str:
    """What an administrator has to set before it can, as a sentence; "" when nothing."""
    return ALL[kind].missing()


def explain(kind: str, code: str) -> str:
    """What the code of an answer means and what to do about it, in the reader's language; "" where nobody knows."""
    return str(ALL[kind].sentences.get(code) or SENTENCES.get(code) or "")


def sentence(kind: str, last_error: str) -> str:
    """The same for a method's `last_error`, whose first word is the code."""
    return explain(kind, last_error.partition(" · ")[0])
