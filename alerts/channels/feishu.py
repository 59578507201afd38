"""Feishu's custom bots (Lark's too): a signed card, red while firing and green when over (`observability.md` §8)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import datetime
from typing import Any

from django.utils.translation import gettext_lazy as _

from alerts.channels import base
from alerts.channels.base import Answer, Destination, Message, Outcome, Tone

HOSTS = ("open.feishu.cn", "open.larksuite.com")
MAX_BODY = 20 * 1024
_COLOURS = {Tone.FIRING: "red", Tone.RESOLVED: "green", Tone.INFO: "blue"}
_CODES: base.Codes = {
    9499: (Outcome.PERMANENT, 0),
    11232: (Outcome.RETRY, 10),
    19001: (Outcome.REVOKED, 0),
    19021: (Outcome.PERMANENT, 0),
    19022: (Outcome.PERMANENT, 0),
    19024: (Outcome.PERMANENT, 0),
}


class Feishu:
    kind = "feishu"
    # The bot allows 100 a minute and 5 a second.
    limits: base.Limits = ((4, 1), (80, 60))
    sentences: base.Sentences = {
        "9499": _("Feishu does not take this request. Check that the address is one of a custom bot."),
        "11232": _("Feishu takes no more messages for this bot just now."),
        "19001": _("This bot is gone, or its address is wrong. Make a new one in the group's settings."),
        "19021": _(
            "The signature is wrong. Check the bot's secret, and that this machine's clock is within an hour of the time."
        ),
        "19022": _("The bot's address list does not contain this machine's public address."),
        "19024": _("The bot wants a keyword in every message. Add “ArkConsole” to its keywords, or remove them."),
    }

    def tidy(self, address: str, secret: str) -> tuple[str, str]:
        return base.check_url(address, hosts=HOSTS), secret.strip()

    def hint(self, address: str) -> str:
        return base.url_hint(address)

    def missing(self) -> str:
        return ""

    def send(self, to: Destination, message: Message, *, now: datetime) -> Answer:
        signed = signature(to.secret, int(now.timestamp())) if to.secret else {}
        return base.post(
            to.address,
            content=base.fitted(lambda text: base.to_json({**signed, **_card(message, text)}), message.text, MAX_BODY),
            content_type="application/json; charset=utf-8",
            judge=lambda got: base.judge_bot(
                got, code_names=("code", "StatusCode"), text_names=("msg", "StatusMessage"), codes=_CODES
            ),
            hosts=HOSTS,
        )


def signature(secret: str, timestamp: int) -> dict[str, str]:
    """The two fields of a signed body: seconds and secret are the *key*, and what is signed is empty."""
    digest = hmac.new(f"{timestamp}\n{secret}".encode(), b"", hashlib.sha256).digest()
    return {"timestamp": str(timestamp), "sign": base64.b64encode(digest).decode()}


def _card(message: Message, text: str) -> dict[str, Any]:
    elements: list[dict[str, Any]] = []
    if text:
        # Plain text, not Feishu's markdown: an endpoint may be called <at id=all></at>.
        elements.append({"tag": "div", "text": {"tag": "plain_text", "content": text}})
    if message.url:
        button = {"tag": "plain_text", "content": message.link_text}
        elements.append(
            {"tag": "action", "actions": [{"tag": "button", "text": button, "url": message.url, "type": "primary"}]}
        )
    elements.append({"tag": "note", "elements": [{"tag": "plain_text", "content": "ArkConsole"}]})
    title = {"tag": "plain_text", "content": base.cut(message.title, 1000)}
    return {
        "msg_type": "interactive",
        "card": {
            "config": {"wide_screen_mode": True},
            "header": {"template": _COLOURS[message.tone], "title": title},
            "elements": elements,
        },
    }
