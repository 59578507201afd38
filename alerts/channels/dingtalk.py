"""DingTalk's custom bots: markdown, signed in the query (`observability.md` §8)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import datetime
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from django.utils.translation import gettext_lazy as _

from alerts.channels import base, markdown
from alerts.channels.base import Answer, Destination, Message, Outcome

HOSTS = ("oapi.dingtalk.com",)
MAX_BODY = 20_000
# After too many messages a bot is deaf for ten minutes; each further try would begin them anew.
_DEAF = 600
_CODES: base.Codes = {
    -1: (Outcome.RETRY, 0),
    130101: (Outcome.RETRY, _DEAF),
    410100: (Outcome.RETRY, _DEAF),
    300001: (Outcome.REVOKED, 0),
    400013: (Outcome.REVOKED, 0),
    400101: (Outcome.REVOKED, 0),
    400102: (Outcome.REVOKED, 0),
    400106: (Outcome.REVOKED, 0),
    310000: (Outcome.PERMANENT, 0),
    40035: (Outcome.PERMANENT, 0),
    43004: (Outcome.PERMANENT, 0),
}


class DingTalk:
    kind = "dingtalk"
    # The bot allows 20 a minute.
    limits: base.Limits = ((18, 60),)
    sentences: base.Sentences = {
        "130101": _("DingTalk takes no more messages for this bot for ten minutes."),
        "410100": _("DingTalk takes no more messages for this bot for ten minutes."),
        "300001": _("This bot is gone, or its address is wrong. Make a new one in the group's settings."),
        "400013": _("The group of this bot has been dissolved."),
        "400101": _("This bot is gone, or its address is wrong. Make a new one in the group's settings."),
        "400102": _("This bot has been switched off in its group."),
        "400106": _("This bot is gone, or its address is wrong. Make a new one in the group's settings."),
        "310000": _(
            "The bot's safety settings refuse the message: check its secret, its keywords (add “ArkConsole”) and its "
            "address list; and this machine's clock."
        ),
    }

    def tidy(self, address: str, secret: str) -> tuple[str, str]:
        return base.check_url(address, hosts=HOSTS), secret.strip()

    def hint(self, address: str) -> str:
        return base.url_hint(address)

    def missing(self) -> str:
        return ""

    def send(self, to: Destination, message: Message, *, now: datetime) -> Answer:
        url = signed(to.address, to.secret, int(now.timestamp() * 1000)) if to.secret else to.address
        # The title is only the preview: what is to be read stands in the text again.
        title = base.cut(message.title, 200)

        def render(text: str) -> bytes:
            shown = markdown.written(message, text, newline="\n\n")
            return base.to_json({"msgtype": "markdown", "markdown": {"title": title, "text": shown}})

        return base.post(
            url,
            content=base.fitted(render, message.text, MAX_BODY),
            content_type="application/json; charset=utf-8",
            judge=lambda got: base.judge_bot(got, code_names=("errcode",), text_names=("errmsg",), codes=_CODES),
            hosts=HOSTS,
        )


def signed(url: str, secret: str, timestamp: int) -> str:
    """`url` with its two signing parameters (milliseconds); encoded exactly once, or DingTalk sees another sign."""
    digest = hmac.new(secret.encode(), f"{timestamp}\n{secret}".encode(), hashlib.sha256).digest()
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query) if pair[0] not in {"timestamp", "sign"}]
    query += [("timestamp", str(timestamp)), ("sign", base64.b64encode(digest).decode())]
    return urlunsplit(parts._replace(query=urlencode(query)))
