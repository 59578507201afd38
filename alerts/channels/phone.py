"""Phone calls through a provider's HTTP API: Aliyun VMS, Twilio, or a telephony hook of the team's own.

Which one, and with which account, is the installation's own setting (ALERT_PHONE_…): contacts give but a number.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from alerts.channels import base, webhook
from alerts.channels.base import Answer, Destination, Message, Outcome
from common import outbound
from common.errors import DomainError

_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
_FORM = "application/x-www-form-urlencoded"


class Phone:
    kind = "phone"
    # Aliyun's own limits for one number; failed calls count too. They keep a person's night bearable with any provider.
    limits: base.Limits = ((1, 60), (5, 3600), (20, 86_400))
    sentences: base.Sentences = {
        "isv.BUSINESS_LIMIT_CONTROL": gettext_lazy("The provider calls this number no more for a while."),
        "isv.MOBILE_NUMBER_ILLEGAL": gettext_lazy("The provider says that there is no such number."),
        "isv.AMOUNT_NOT_ENOUGH": gettext_lazy("The provider's account is out of money."),
        "isv.OUT_OF_SERVICE": gettext_lazy("The provider's account is out of money."),
        "isv.TTS_TEMPLATE_ILLEGAL": gettext_lazy("The provider does not know the text template of the settings."),
        "SignatureDoesNotMatch": gettext_lazy("The provider refuses this console's key or secret."),
        "InvalidAccessKeyId.NotFound": gettext_lazy("The provider refuses this console's key or secret."),
        "20003": gettext_lazy("The provider refuses this console's key or secret."),
        "21211": gettext_lazy("The provider says that there is no such number."),
        "21214": gettext_lazy("The provider cannot reach this number."),
        "21215": gettext_lazy("The provider's account may not call this country."),
        "21216": gettext_lazy("The provider does not call this number."),
    }

    def tidy(self, address: str, secret: str) -> tuple[str, str]:
        number = re.sub(r"[\s().-]", "", address)
        if number.startswith("00"):
            number = f"+{number[2:]}"
        elif re.fullmatch(r"1[3-9][0-9]{9}", number):
            number = f"+86{number}"
        if not _NUMBER.fullmatch(number):
            raise DomainError(
                _(
                    "Write the number with its country: +8613800001111. A mobile number of mainland China may stand alone."
                ),
                field="address",
            )
        return number, ""

    def hint(self, address: str) -> str:
        return f"{address[:-8]}****{address[-4:]}" if len(address) > 9 else f"****{address[-2:]}"

    def missing(self) -> str:
        if settings.ALERT_PHONE_PROVIDER in _PROVIDERS:
            return ""
        return _("No phone provider is configured: an administrator has to set ALERT_PHONE_PROVIDER.")

    def send(self, to: Destination, message: Message, *, now: datetime) -> Answer:
        if missing := self.missing():
            return Answer(Outcome.OURS, code="not_set_up", text=missing)
        return _PROVIDERS[settings.ALERT_PHONE_PROVIDER].call(to.address, message, now=now)


class Provider(Protocol):
    def call(self, number: str, message: Message, *, now: datetime) -> Answer:
        """Have `number` (with + and country) called and the message spoken."""
        ...


def _judged(got: outbound.Answer, *, code: str, text: str, table: Mapping[str, Outcome], wait: int = 0) -> Answer:
    if outcome := table.get(code):
        wait = wait or base.retry_after(got.headers.get("retry-after", ""))
        wait = wait if outcome is Outcome.RETRY else 0
        return Answer(outcome, got.status, code, base.plain(text)[: base.MAX_TEXT], got.milliseconds, wait)
    if got.status < 300:
        # A code that nobody has heard of: surely no call, perhaps one later.
        return Answer(Outcome.RETRY, got.status, code, base.plain(text)[: base.MAX_TEXT], got.milliseconds)
    answer = base.by_status(got, code=code)
    # Without a code that names the number, the number is not to blame: the account or the settings are.
    outcome = Outcome.OURS if answer.is_permanent else answer.outcome
    return Answer(outcome, got.status, code, base.plain(text)[: base.MAX_TEXT], got.milliseconds, answer.retry_after)


class Aliyun:
    """Voice Messaging Service, `SingleCallByTts` of 2017-05-25: the approved template's variables are filled in."""

    url = "https://dyvmsapi.aliyuncs.com/"
    _answers: Mapping[str, Outcome] = {
        "OK": Outcome.OK,
        "isv.BUSINESS_LIMIT_CONTROL": Outcome.RETRY,
        "isp.SYSTEM_ERROR": Outcome.RETRY,
        "Throttling": Outcome.RETRY,
        "Throttling.User": Outcome.RETRY,
        "isv.MOBILE_NUMBER_ILLEGAL": Outcome.REVOKED,
        "isv.BLACK_KEY_CONTROL_LIMIT": Outcome.PERMANENT,
        "isv.AMOUNT_NOT_ENOUGH": Outcome.OURS,
        "isv.OUT_OF_SERVICE": Outcome.OURS,
        "isv.PRODUCT_UNSUBSCRIBE": Outcome.OURS,
        "isv.PRODUCT_UN_SUBSCRIPT": Outcome.OURS,
        "isv.ACCOUNT_NOT_EXISTS": Outcome.OURS,
        "isv.ACCOUNT_ABNORMAL": Outcome.OURS,
        "isv.TTS_TEMPLATE_ILLEGAL": Outcome.OURS,
        "isv.TEMPLATE_MISSING_PARAMETERS": Outcome.OURS,
        "isv.TEMPLATE_PARAMS_ILLEGAL": Outcome.OURS,
        "isv.INVALID_PARAMETERS": Outcome.OURS,
        "isv.DISPLAY_NUMBER_ILLEGAL": Outcome.OURS,
        "SignatureDoesNotMatch": Outcome.OURS,
        "InvalidAccessKeyId.NotFound": Outcome.OURS,
    }

    def call(self, number: str, message: Message, *, now: datetime) -> Answer:
        template = settings.ALERT_PHONE_CODE_TEMPLATE if "code" in message.words else settings.ALERT_PHONE_TEMPLATE
        parameters = {
            "AccessKeyId": settings.ALERT_PHONE_KEY,
            "Action": "SingleCallByTts",
            # At home without the country, elsewhere with it and without the sign.
            "CalledNumber": number.removeprefix("+86") if number.startswith("+86") else number[1:],
            "Format": "JSON",
            "OutId": message.reference[:15],
            "PlayTimes": "2",
            "RegionId": "cn-hangzhou",
            "SignatureMethod": "HMAC-SHA1",
            "SignatureNonce": secrets.token_hex(16),
            "SignatureVersion": "1.0",
            "Timestamp": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "TtsCode": template,
            "TtsParam": json.dumps({name: word[:20] for name, word in message.words.items()}, ensure_ascii=False),
            "Version": "2017-05-25",
        }
        if settings.ALERT_PHONE_FROM:
            parameters["CalledShowNumber"] = settings.ALERT_PHONE_FROM
        parameters["Signature"] = aliyun_signature(parameters, settings.ALERT_PHONE_SECRET)
        return base.post(
            settings.ALERT_PHONE_URL or self.url,
            content=urlencode(parameters).encode(),
            content_type=_FORM,
            judge=self._judge,
            hosts=None,
        )

    def _judge(self, got: outbound.Answer) -> Answer:
        body = base.json_object(got) or {}
        code = body.get("Code")
        if not isinstance(code, str):
            return _without_code(got)
        wait = 60 if code == "isv.BUSINESS_LIMIT_CONTROL" else 0
        return _judged(got, code=code[:64], text=str(body.get("Message", "")), table=self._answers, wait=wait)


def aliyun_signature(parameters: Mapping[str, str], secret: str) -> str:
    """The signature of Aliyun's RPC style over a POST's parameters, sorted, each encoded by RFC 3986."""
    pairs = (f"{quote(name, safe='~')}={quote(parameters[name], safe='~')}" for name in sorted(parameters))
    signed = f"POST&%2F&{quote('&'.join(pairs), safe='~')}"
    return base64.b64encode(hmac.new(f"{secret}&".encode(), signed.encode(), hashlib.sha1).digest()).decode()


class Twilio:
    """Twilio's Programmable Voice: the text is spoken from TwiML that comes with the request."""

    url = "https://api.twilio.com"
    _answers: Mapping[str, Outcome] = {
        "20429": Outcome.RETRY,
        "20003": Outcome.OURS,
        "20404": Outcome.OURS,
        "21210": Outcome.OURS,
        "21212": Outcome.OURS,
        "21215": Outcome.OURS,
        "13227": Outcome.OURS,
        "21211": Outcome.REVOKED,
        "21217": Outcome.REVOKED,
        "21214": Outcome.PERMANENT,
        "21216": Outcome.PERMANENT,
    }

    def call(self, number: str, message: Message, *, now: datetime) -> Answer:
        account = settings.ALERT_PHONE_KEY
        voice = "zh-CN" if message.language.startswith("zh") else "en-US"
        said = f'<Say language="{voice}">{escape(base.plain(message.spoken))}</Say>'
        form = {
            "To": number,
            "From": settings.ALERT_PHONE_FROM,
            # Twice: half asleep, nobody has understood the first time.
            "Twiml": f'<Response>{said}<Pause length="1"/>{said}</Response>',
        }
        proof = base64.b64encode(f"{account}:{settings.ALERT_PHONE_SECRET}".encode()).decode()
        root = (settings.ALERT_PHONE_URL or self.url).rstrip("/")
        return base.post(
            f"{root}/2010-04-01/Accounts/{quote(account, safe='')}/Calls.json",
            content=urlencode(form).encode(),
            content_type=_FORM,
            headers={"Authorization": f"Basic {proof}"},
            judge=self._judge,
            hosts=None,
        )

    def _judge(self, got: outbound.Answer) -> Answer:
        body = base.json_object(got) or {}
        if got.status in {200, 201} and isinstance(body.get("sid"), str):
            return Answer(Outcome.OK, got.status, str(body.get("status", ""))[:64], body["sid"][:64], got.milliseconds)
        code = body.get("code")
        if not isinstance(code, int):
            return _without_code(got)
        return _judged(got, code=str(code), text=str(body.get("message", "")), table=self._answers)


class OwnHook:
    """A telephony hook of the team's own at ALERT_PHONE_URL: number and text as JSON, signed as webhooks are."""

    def call(self, number: str, message: Message, *, now: datetime) -> Answer:
        body: dict[str, Any] = {
            "version": "1", "number": number, "text": message.spoken, "language": message.language,
            "reference": message.reference, "words": dict(message.words),
        }  # fmt: skip
        content = base.to_json(body)
        return base.post(
            settings.ALERT_PHONE_URL,
            content=content,
            content_type="application/json",
            headers=webhook.headers(
                content, secret=settings.ALERT_PHONE_SECRET, reference=message.reference, timestamp=int(now.timestamp())
            ),
            judge=self._judge,
            hosts=None,
        )

    def _judge(self, got: outbound.Answer) -> Answer:
        if got.status < 300:
            return Answer(Outcome.OK, got.status, str(got.status), base.said(got), got.milliseconds)
        return _without_code(got)


def _without_code(got: outbound.Answer) -> Answer:
    answer = base.by_status(got)
    if answer.is_permanent:
        return Answer(Outcome.OURS, got.status, str(got.status), answer.text, got.milliseconds)
    return answer


_PROVIDERS: dict[str, Provider] = {"aliyun": Aliyun(), "twilio": Twilio(), "webhook": OwnHook()}
