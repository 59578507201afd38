"""The fakes are as strict as what they stand for: the limits that no other test runs into."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from dataclasses import replace
from email.message import EmailMessage

import pytest
from pytest_django import Settings

from alerts import channels
from alerts.channels.base import Outcome
from tests.alerts import fakes
from tests.alerts.test_channels import MESSAGE, NOW, To, clock


@pytest.fixture(autouse=True)
def _local(settings: Settings) -> None:
    settings.ALERT_BOT_HOSTS = ["127.0.0.1"]
    settings.ALERT_ALLOW_HTTP = settings.ALERT_ALLOW_PRIVATE_ADDRESSES = True


def test_feishu_takes_five_a_second() -> None:
    at = [clock()]
    with fakes.running(fakes.Feishu(lambda: at[0])) as bot:
        answers = [channels.of("feishu").send(To(bot.url), MESSAGE, now=NOW) for _ in range(6)]
        at[0] += 1
        answers.append(channels.of("feishu").send(To(bot.url), MESSAGE, now=NOW))

    assert [answer.code for answer in answers] == ["0"] * 5 + ["11232", "0"]


def test_a_webhook_takes_no_more_than_its_size() -> None:
    with fakes.running(fakes.Webhook(clock)) as hook:
        large = replace(MESSAGE, payload={**MESSAGE.payload, "text": "x" * 1024 * 1024})
        answer = channels.of("webhook").send(To(hook.url), large, now=NOW)

    assert (answer.outcome, answer.status, hook.taken) == (Outcome.PERMANENT, 413, [])


def test_a_webhook_says_when_it_takes_the_next() -> None:
    with fakes.running(fakes.Webhook(clock, per_minute=1, retry_after=7)) as hook:
        answers = [channels.of("webhook").send(To(hook.url), MESSAGE, now=NOW) for _ in range(2)]

    assert [(answer.outcome, answer.status, answer.retry_after) for answer in answers] == [
        (Outcome.OK, 204, 0),
        (Outcome.RETRY, 429, 7),
    ]


# --- mail


@pytest.fixture
def server() -> Iterator[fakes.Smtp]:
    with fakes.running(fakes.Smtp(max_size=2_000)) as server:
        yield server


def written(*, without: str = "", text: str = "P0") -> EmailMessage:
    mail = EmailMessage()
    headers = {"Message-ID": "<1@ark>", "Date": "Sun, 22 Nov 2026 21:00:00 +0000", "From": "a@ark", "To": "b@ark"}
    for name, value in headers.items():
        if name != without:
            mail[name] = value
    mail.set_content(text, subtype="html" if without == "text part" else "plain")
    return mail


def send(server: fakes.Smtp, mail: EmailMessage, *, announced: bool = True) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, timeout=5) as connection:
        (connection.ehlo if announced else connection.helo)()
        connection.send_message(mail, from_addr="a@ark", to_addrs=["b@ark"])


def test_a_whole_mail_is_kept(server: fakes.Smtp) -> None:
    send(server, written())

    assert len(server.mails) == 1


@pytest.mark.parametrize("missing", ["Message-ID", "Date", "From", "To", "text part"])
def test_a_mail_that_is_not_whole_is_refused(server: fakes.Smtp, missing: str) -> None:
    with pytest.raises(smtplib.SMTPDataError, match=f"5.6.0 no {missing}"):
        send(server, written(without=missing))

    assert server.mails == []


@pytest.mark.parametrize(("announced", "error"), [(True, smtplib.SMTPSenderRefused), (False, smtplib.SMTPDataError)])
def test_a_mail_that_is_too_large_is_refused(
    server: fakes.Smtp, announced: bool, error: type[smtplib.SMTPResponseException]
) -> None:
    with pytest.raises(error, match="5.3.4"):
        send(server, written(text="too long\n" * 500), announced=announced)

    assert server.mails == []
