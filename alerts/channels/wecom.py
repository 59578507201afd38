"""WeCom's group bots: markdown; the key in the address is all the authentication there is (`observability.md` §8)."""

from __future__ import annotations

from datetime import datetime

from django.utils.translation import gettext_lazy as _

from alerts.channels import base, markdown
from alerts.channels.base import Answer, Destination, Message, Outcome, Tone

HOSTS = ("qyapi.weixin.qq.com",)
MAX_CONTENT = 4096
_COLOURS = {Tone.FIRING: "warning", Tone.RESOLVED: "info", Tone.INFO: "comment"}
_CODES: base.Codes = {
    -1: (Outcome.RETRY, 0),
    45009: (Outcome.RETRY, 60),
    93000: (Outcome.REVOKED, 0),
    93008: (Outcome.REVOKED, 0),
    40058: (Outcome.PERMANENT, 0),
    40008: (Outcome.PERMANENT, 0),
    44004: (Outcome.PERMANENT, 0),
    45002: (Outcome.PERMANENT, 0),
}


class WeCom:
    kind = "wecom"
    # The bot allows 20 a minute.
    limits: base.Limits = ((18, 60),)
    sentences: base.Sentences = {
        "45009": _("WeCom takes no more messages for this bot in this minute."),
        "93000": _("This bot is gone, or its address is wrong. Make a new one in the group's settings."),
        "93008": _("This bot is no longer in its group."),
        "40058": _("WeCom does not take this message: something in it is invalid or too long."),
    }

    def tidy(self, address: str, secret: str) -> tuple[str, str]:
        # The key in the address is the secret; a second one would have no use and nobody would know.
        return base.check_url(address, hosts=HOSTS), ""

    def hint(self, address: str) -> str:
        return base.url_hint(address)

    def missing(self) -> str:
        return ""

    def send(self, to: Destination, message: Message, *, now: datetime) -> Answer:
        return base.post(
            to.address,
            content=base.to_json({"msgtype": "markdown", "markdown": {"content": content(message)}}),
            content_type="application/json; charset=utf-8",
            judge=lambda got: base.judge_bot(got, code_names=("errcode",), text_names=("errmsg",), codes=_CODES),
            hosts=HOSTS,
        )


def content(message: Message) -> str:
    """The message in at most 4,096 bytes."""
    shown = markdown.harmless(base.cut(message.title, 500))
    title = f'### <font color="{_COLOURS[message.tone]}">{shown}</font>'
    fitted = base.fitted(
        lambda text: markdown.written(message, text, newline="\n", title=title).encode(), message.text, MAX_CONTENT
    )
    return fitted.decode()
