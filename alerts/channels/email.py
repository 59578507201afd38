"""E-mail through the mail server of EMAIL_URL: text and HTML, one thread per event, unsubscribed in one click."""

from __future__ import annotations

import re
import smtplib
import time
from contextlib import suppress
from datetime import datetime
from urllib.parse import urlsplit

from django.conf import settings
from django.core import mail
from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives
from django.core.validators import validate_email
from django.template.loader import render_to_string
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from alerts.channels import base
from alerts.channels.base import Answer, Destination, Message, Outcome, Tone
from common.errors import DomainError

_COLOURS = {Tone.FIRING: "#d63939", Tone.RESOLVED: "#2fb344", Tone.INFO: "#066fd1"}


class Email:
    kind = "email"
    limits: base.Limits = ((30, 60), (300, 3600))
    sentences: base.Sentences = {
        "mail_login": gettext_lazy("The mail server refuses this console's user name or password (EMAIL_URL)."),
        "mail_sender": gettext_lazy("The mail server refuses this console's sender address (DEFAULT_FROM_EMAIL)."),
        "550": gettext_lazy("The mail server says that this mailbox does not exist or takes no mail from us."),
    }

    def tidy(self, address: str, secret: str) -> tuple[str, str]:
        address = address.strip()
        try:
            validate_email(address)
        except ValidationError:
            raise DomainError(_("This is not an e-mail address."), field="address") from None
        if len(address) > 254:
            raise DomainError(_("This is not an e-mail address."), field="address")
        name, _at, domain = address.rpartition("@")
        return f"{name}@{domain.lower()}", ""

    def hint(self, address: str) -> str:
        name, _at, domain = address.rpartition("@")
        return f"{name[:1]}{'*' * min(3, max(1, len(name) - 1))}@{domain}"

    def missing(self) -> str:
        return "" if settings.EMAIL_URL else _("No mail server is configured: an administrator has to set EMAIL_URL.")

    def send(self, to: Destination, message: Message, *, now: datetime) -> Answer:
        if missing := self.missing():
            return Answer(Outcome.OURS, code="not_set_up", text=missing)
        started = time.monotonic()

        def answer(outcome: Outcome, status: int = 0, code: str = "", text: str = "") -> Answer:
            took = round((time.monotonic() - started) * 1000)
            return Answer(outcome, status, code or str(status or ""), base.plain(text)[: base.MAX_TEXT], took)

        connection = mail.get_connection(timeout=base.READ_SECONDS)
        try:
            # Apart from sending: what fails here has surely not been sent.
            connection.open()
        except smtplib.SMTPAuthenticationError as error:
            return answer(Outcome.OURS, error.smtp_code, "mail_login", _text(error.smtp_error))
        except smtplib.SMTPResponseException as error:
            return answer(Outcome.RETRY, error.smtp_code, text=_text(error.smtp_error))
        except (OSError, smtplib.SMTPException) as error:
            return answer(Outcome.RETRY, code="no_connection", text=str(error))
        try:
            connection.send_messages([_written(to, message, connection)])
        except smtplib.SMTPRecipientsRefused as error:
            status, text = next(iter(error.recipients.values()), (550, b""))
            return answer(_of_recipient(status, _text(text)), status, text=_text(text))
        except smtplib.SMTPSenderRefused as error:
            # All that is answered to MAIL FROM: greylisting and a full disk (4xx) and too long a mail (552) as well.
            if error.smtp_code < 500:
                return answer(Outcome.RETRY, error.smtp_code, text=_text(error.smtp_error))
            if error.smtp_code == 552:
                return answer(Outcome.PERMANENT, error.smtp_code, text=_text(error.smtp_error))
            return answer(Outcome.OURS, error.smtp_code, "mail_sender", _text(error.smtp_error))
        except smtplib.SMTPResponseException as error:
            outcome = Outcome.RETRY if error.smtp_code < 500 else Outcome.PERMANENT
            return answer(outcome, error.smtp_code, text=_text(error.smtp_error))
        except TimeoutError as error:
            return answer(Outcome.LOST, code="timeout", text=str(error))
        except (OSError, smtplib.SMTPException) as error:
            return answer(Outcome.LOST, code="broken", text=str(error))
        finally:
            # After a failure it is still open; what its end says is of no interest then.
            with suppress(OSError, smtplib.SMTPException):
                connection.close()
        return answer(Outcome.OK, 250)


# RFC 3463: 5.1.1 is about the address, 5.7.1 about who may send.
_ENHANCED = re.compile(r"5\.(\d{1,3})\.\d{1,3}\b")


def _of_recipient(status: int, text: str) -> Outcome:
    if status < 500:
        return Outcome.RETRY
    enhanced = _ENHANCED.match(text.lstrip())
    subject = enhanced[1] if enhanced else ""
    if subject == "7":
        # A policy, or a relay that does not know us: every mailbox would be switched off with this one.
        return Outcome.OURS
    # 550, 551, 553: no such mailbox, moved away, no such name; the rest may be about this mail.
    return Outcome.REVOKED if status in {550, 551, 553} and subject in {"", "1"} else Outcome.PERMANENT


def _text(said: bytes | str) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def _written(to: Destination, message: Message, connection: object) -> EmailMultiAlternatives:
    host = urlsplit(settings.CONSOLE_URL).hostname or "localhost"
    headers = {
        # The same when it is tried again: mail servers drop what they have already.
        "Message-ID": f"<{message.reference or 'message'}@{host}>",
        # Programs that answer mail leave these alone (RFC 3834).
        "Auto-Submitted": "auto-generated",
    }
    if message.thread:
        # The thread's head was never sent; mail programs put together what refers to the same one all the same.
        headers["References"] = headers["In-Reply-To"] = f"<{message.thread}@{host}>"
    if message.unsubscribe_url:
        headers["List-Unsubscribe"] = f"<{message.unsubscribe_url}>"
        headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    footer = [f"{_('Receive no more messages at this address:')} {message.unsubscribe_url}"]
    text = "\n".join(
        [message.title, "", *message.lines, "", f"{message.link_text}: {message.url}" if message.url else "", ""]
        + (footer if message.unsubscribe_url else [])
    )
    mail_ = EmailMultiAlternatives(
        subject=base.cut(base.plain(message.title), 200),
        body=text,
        to=[to.address],
        headers=headers,
        connection=connection,
    )
    context = {"message": message, "colour": _COLOURS[message.tone]}
    mail_.attach_alternative(render_to_string("alerts/mail.html", context), "text/html")
    return mail_
