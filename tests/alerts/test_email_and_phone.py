"""E-mail against a mail server, phone calls against each provider: what is sent, and what each answer means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from django.utils import translation
from pytest_django import Settings

from alerts import channels
from alerts.channels import base
from alerts.channels.base import Answer, Message, Outcome
from tests.alerts import fakes
from tests.alerts.test_channels import MESSAGE, NOW, To, clock
from tests.servers import HeldPort

NUMBER = To("+8613800001111")


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(base, "READ_SECONDS", 0.4)
    with translation.override("en"):
        yield


def send(kind: str, to: To, message: Message = MESSAGE) -> Answer:
    return channels.of(kind).send(to, message, now=NOW)


# --- e-mail


@pytest.fixture
def smtp(settings: Settings) -> Iterator[fakes.Smtp]:
    with fakes.running(fakes.Smtp()) as server:
        settings.EMAIL_URL = f"smtp://127.0.0.1:{server.port}"
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
        settings.CONSOLE_URL = "https://ark.example.com"
        yield server


def test_a_mail_has_text_and_html_a_thread_and_a_way_out(smtp: fakes.Smtp) -> None:
    answer = send("email", To("ann@example.com"), replace(MESSAGE, title="[P0] <b>客服</b>\r\nBcc: evil@example.com"))

    assert (answer.ok, answer.status) == (True, 250)
    (mail,) = smtp.mails
    assert (mail["To"], mail["Subject"]) == ("ann@example.com", "[P0] <b>客服</b> Bcc: evil@example.com")
    assert mail["Bcc"] is None
    assert (mail["Message-ID"], mail["References"]) == ("<delivery-1@ark.example.com>", "<alert-7@ark.example.com>")
    assert mail["In-Reply-To"] == mail["References"]
    assert mail["List-Unsubscribe"] == "<https://ark.example.com/alerts/unsubscribe/abc>"
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert mail["Auto-Submitted"] == "auto-generated"
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    assert MESSAGE.url in text.get_content()
    assert "&lt;b&gt;客服" in html.get_content()
    assert "&lt;at id=all&gt;" in html.get_content()
    assert f'href="{MESSAGE.url}"' in html.get_content()


@pytest.mark.parametrize(
    ("stage", "said", "outcome", "code"),
    [
        ("RCPT", "550 5.1.1 no such user", Outcome.REVOKED, "550"),
        ("RCPT", "550 no such user", Outcome.REVOKED, "550"),
        ("RCPT", "550 5.7.1 relaying denied", Outcome.OURS, "550"),
        ("RCPT", "553 5.7.23 SPF validation failed", Outcome.OURS, "553"),
        ("RCPT", "550 5.2.1 mailbox takes nothing for now", Outcome.PERMANENT, "550"),
        ("RCPT", "552 mailbox full", Outcome.PERMANENT, "552"),
        ("RCPT", "451 greylisted, come again", Outcome.RETRY, "451"),
        ("MAIL", "553 this sender may not", Outcome.OURS, "mail_sender"),
        ("MAIL", "451 4.7.1 greylisted, come again", Outcome.RETRY, "451"),
        ("MAIL", "552 5.3.4 too long", Outcome.PERMANENT, "552"),
        ("DATA", "554 looks like spam", Outcome.PERMANENT, "554"),
        ("END", "452 out of disk", Outcome.RETRY, "452"),
        ("HELLO", "421 too busy", Outcome.RETRY, "421"),
    ],
)
def test_what_a_mail_server_says(smtp: fakes.Smtp, stage: str, said: str, outcome: Outcome, code: str) -> None:
    smtp.refuse[stage] = said

    answer = send("email", To("ann@example.com"))

    assert (answer.outcome, answer.code) == (outcome, code)


def test_a_mail_server_that_hangs_up_may_have_taken_the_mail(smtp: fakes.Smtp) -> None:
    smtp.hangs_up_after_data = True

    assert send("email", To("ann@example.com")).is_lost
    assert len(smtp.mails) == 1


def test_a_mail_server_that_is_away_is_worth_another_try(smtp: fakes.Smtp, settings: Settings) -> None:
    held = HeldPort()
    settings.EMAIL_PORT = held.number

    answer = send("email", To("ann@example.com"))

    held.release()
    assert (answer.outcome, answer.code) == (Outcome.RETRY, "no_connection")


def test_without_a_mail_server_it_is_said_plainly(settings: Settings) -> None:
    settings.EMAIL_URL = ""

    answer = send("email", To("ann@example.com"))

    assert (answer.outcome, answer.code) == (Outcome.OURS, "not_set_up")
    assert "No mail server is configured" in answer.text
    assert not channels.is_set_up("email")


# --- phone


@pytest.fixture
def aliyun(settings: Settings) -> Iterator[fakes.Aliyun]:
    with fakes.running(fakes.Aliyun(clock)) as service:
        settings.ALERT_PHONE_PROVIDER, settings.ALERT_PHONE_URL = "aliyun", service.url
        settings.ALERT_PHONE_KEY, settings.ALERT_PHONE_SECRET = service.key, service.secret
        settings.ALERT_PHONE_TEMPLATE, settings.ALERT_PHONE_CODE_TEMPLATE = "TTS_1001", "TTS_1002"
        yield service


@pytest.fixture
def twilio(settings: Settings) -> Iterator[fakes.Twilio]:
    with fakes.running(fakes.Twilio(clock)) as service:
        settings.ALERT_PHONE_PROVIDER, settings.ALERT_PHONE_URL = "twilio", service.url
        settings.ALERT_PHONE_KEY, settings.ALERT_PHONE_SECRET = service.account, service.token
        settings.ALERT_PHONE_FROM = "+15005550006"
        yield service


@pytest.fixture
def hook(settings: Settings) -> Iterator[fakes.Webhook]:
    with fakes.running(fakes.Webhook(clock, secret="hook-secret")) as service:
        settings.ALERT_PHONE_PROVIDER, settings.ALERT_PHONE_URL = "webhook", service.url
        settings.ALERT_PHONE_SECRET = "hook-secret"
        yield service


def test_aliyun_speaks_the_template_with_its_words(aliyun: fakes.Aliyun) -> None:
    answer = send("phone", NUMBER, replace(MESSAGE, words={**MESSAGE.words, "endpoint": "客服 ~*+/&=% 助手" * 5}))

    assert (answer.outcome, answer.code) == (Outcome.OK, "OK")
    form = aliyun.taken[0].form
    assert (form["CalledNumber"], form["TtsCode"], form["OutId"]) == ("13800001111", "TTS_1001", "delivery-1")
    assert json.loads(form["TtsParam"])["endpoint"] == ("客服 ~*+/&=% 助手" * 5)[:20]


def test_aliyun_speaks_a_code_with_the_other_template_and_calls_abroad(aliyun: fakes.Aliyun) -> None:
    assert send("phone", To("+85212345678"), replace(MESSAGE, words={"code": "123456"})).ok

    form = aliyun.taken[0].form
    assert (form["CalledNumber"], form["TtsCode"]) == ("85212345678", "TTS_1002")


def test_aliyuns_own_limit_for_a_number_is_waited_for(aliyun: fakes.Aliyun) -> None:
    assert send("phone", NUMBER).ok

    answer = send("phone", NUMBER)

    assert (answer.outcome, answer.code, answer.retry_after) == (Outcome.RETRY, "isv.BUSINESS_LIMIT_CONTROL", 60)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("isv.MOBILE_NUMBER_ILLEGAL", Outcome.REVOKED),
        ("isv.AMOUNT_NOT_ENOUGH", Outcome.OURS),
        ("isp.SYSTEM_ERROR", Outcome.RETRY),
        ("SignatureDoesNotMatch", Outcome.OURS),
        ("Some.NewCode", Outcome.OURS),
        ("500", Outcome.RETRY),
        ("429", Outcome.RETRY),
        ("garbage", Outcome.LOST),
        ("nothing", Outcome.LOST),
    ],
)
def test_what_aliyun_says(aliyun: fakes.Aliyun, code: str, outcome: Outcome) -> None:
    aliyun.fail(code)

    assert send("phone", NUMBER).outcome is outcome


def test_a_wrong_secret_of_the_installation_is_not_the_numbers_fault(aliyun: fakes.Aliyun, settings: Settings) -> None:
    settings.ALERT_PHONE_SECRET = "another"

    answer = send("phone", NUMBER)

    assert (answer.outcome, answer.code) == (Outcome.OURS, "SignatureDoesNotMatch")
    assert "key or secret" in channels.explain("phone", answer.code)


def test_twilio_speaks_the_text_twice_in_the_readers_language(twilio: fakes.Twilio) -> None:
    answer = send("phone", NUMBER, replace(MESSAGE, spoken="P0 <客服> & more"))

    assert (answer.outcome, answer.code) == (Outcome.OK, "queued")
    form = twilio.taken[0].form
    assert (form["To"], form["From"]) == ("+8613800001111", "+15005550006")
    assert form["Twiml"].count('<Say language="zh-CN">P0 &lt;客服&gt; &amp; more</Say>') == 2


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("21211", Outcome.REVOKED),
        ("21216", Outcome.PERMANENT),
        ("21215", Outcome.OURS),
        ("20429", Outcome.RETRY),
        ("99999", Outcome.OURS),
        ("500", Outcome.RETRY),
        ("nothing", Outcome.LOST),
    ],
)
def test_what_twilio_says(twilio: fakes.Twilio, code: str, outcome: Outcome) -> None:
    twilio.fail(code)

    assert send("phone", NUMBER).outcome is outcome


def test_a_wrong_twilio_token_is_not_the_numbers_fault(twilio: fakes.Twilio, settings: Settings) -> None:
    settings.ALERT_PHONE_SECRET = "another"

    assert send("phone", NUMBER).outcome is Outcome.OURS


def test_a_hook_of_ones_own_gets_number_and_text_signed(hook: fakes.Webhook) -> None:
    assert send("phone", NUMBER).ok

    body = hook.taken[0].json
    assert (body["number"], body["text"], body["words"]["level"]) == ("+8613800001111", MESSAGE.spoken, "P0")


@pytest.mark.parametrize(("how", "outcome"), [("500", Outcome.RETRY), ("410", Outcome.OURS), ("nothing", Outcome.LOST)])
def test_what_the_hook_says(hook: fakes.Webhook, how: str, outcome: Outcome) -> None:
    hook.fail(how)

    assert send("phone", NUMBER).outcome is outcome


def test_without_a_provider_it_is_said_plainly() -> None:
    answer = send("phone", NUMBER)

    assert (answer.outcome, answer.code) == (Outcome.OURS, "not_set_up")
    assert "ALERT_PHONE_PROVIDER" in answer.text
