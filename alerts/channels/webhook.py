"""A program of the team's own: our JSON, signed. Its schema is described in `docs/alert-messages.md`."""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime

from django.utils.translation import gettext as _

from alerts.channels import base
from alerts.channels.base import Answer, Destination, Message, Outcome
from common import outbound
from common.errors import DomainError

BEARER = "Bearer "


class Webhook:
    kind = "webhook"
    limits: base.Limits = ((10, 1), (300, 60))
    sentences: base.Sentences = {}

    def tidy(self, address: str, secret: str) -> tuple[str, str]:
        secret = secret.strip()
        if not (secret.isascii() and secret.isprintable()):
            raise DomainError(_("The secret may hold only ASCII letters, digits and signs."), field="secret")
        return base.check_url(address), secret

    def hint(self, address: str) -> str:
        return base.url_hint(address)

    def missing(self) -> str:
        return ""

    def send(self, to: Destination, message: Message, *, now: datetime) -> Answer:
        content = base.to_json(dict(message.payload))
        answer = base.post(
            to.address,
            content=content,
            content_type="application/json",
            headers=headers(content, secret=to.secret, reference=message.reference, timestamp=int(now.timestamp())),
            judge=_judge,
        )
        if answer.code == "too_large" and 200 <= answer.status < 300:
            # Whatever page it answers with, it has taken the message.
            return Answer(Outcome.OK, answer.status, str(answer.status), "", answer.latency_ms)
        return answer


def headers(content: bytes, *, secret: str, reference: str, timestamp: int) -> dict[str, str]:
    """The headers that prove where a message comes from: HMAC over time and body, or the bearer token given."""
    proof = {"X-ArkConsole-Delivery": reference, "X-ArkConsole-Timestamp": str(timestamp)}
    if secret.startswith(BEARER):
        return {**proof, "Authorization": secret}
    if secret:
        digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + content, hashlib.sha256).hexdigest()
        return {**proof, "X-ArkConsole-Signature": f"sha256={digest}"}
    return proof


def _judge(got: outbound.Answer) -> Answer:
    if 200 <= got.status < 300:
        return Answer(Outcome.OK, got.status, str(got.status), base.said(got), got.milliseconds)
    if got.status == 404:
        # A program that is being installed anew answers so for a while; only 410 says that it is gone for good.
        return Answer(Outcome.PERMANENT, got.status, "404", base.said(got), got.milliseconds)
    return base.by_status(got)
