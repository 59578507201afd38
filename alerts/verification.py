"""Whether an address agrees to be written to: a link, a code, or a test message that the bot itself takes.

Nothing but these goes to an address that has not agreed, and these are few: they are counted per address and project.
"""

from __future__ import annotations

import hmac
import math
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _

from alerts import actions, channels, deliveries, links, messages
from alerts.channels import base
from alerts.channels.base import Answer, Message
from alerts.models import ContactMethod, MethodKind, SendMark
from audit.services import attempt
from common.errors import DomainError
from iam.actors import Actor

CODE_FOR = timedelta(minutes=10)
CODE_TRIES = 5
# (seconds between two, at most in a day): a person's mailbox and telephone, a bot that one is setting up.
_FOR_PEOPLE = (60, 5)
_FOR_BOTS = (5, 50)
PER_PROJECT_AND_DAY = 100
_DAY = timedelta(days=1)


def ask(*, method: ContactMethod, by: Actor, now: datetime) -> Answer:
    """Send a link (e-mail), speak a code (phone), or send a test message (bots, webhooks: verified if it is taken).

    A newer link or code makes the older one useless. Raises `NotAllowed`, or `DomainError` when it was asked too often.
    """
    kind = method.kind
    with _sending(method, by=by, now=now) as stored:
        _count_asking(stored, now=now)
        if kind == MethodKind.EMAIL:
            nonce = links.new_nonce()
            stored.nonce_digest = links.digest_of(nonce)
        elif kind == MethodKind.PHONE:
            code = f"{secrets.randbelow(1_000_000):06d}"
            stored.code_digest, stored.code_tries = _digest_of_code(stored, code), 0
        stored.asked_at = now
        stored.save(update_fields=["nonce_digest", "code_digest", "code_tries", "asked_at"])
    # Not within the transaction: the other side may take seconds.
    reference = _reference("verify", stored, now)
    if kind == MethodKind.EMAIL:
        url = links.verify_url(stored, nonce=nonce, now=now)
        message = messages.verification(stored, url=url, by_name=by.name, reference=reference)
    elif kind == MethodKind.PHONE:
        message = messages.code(stored, code=code, reference=reference)
    else:
        message = messages.test(stored, by_name=by.name, reference=reference, now=now)
    answer = _send(stored, message, now=now)
    _note_answer(stored, answer, by=by, now=now)
    if answer.ok and kind not in (MethodKind.EMAIL, MethodKind.PHONE):
        _agreed(stored, by=by, now=now)
    return answer


def confirm_code(*, method: ContactMethod, code: str, by: Actor, now: datetime) -> ContactMethod:
    """Verify a telephone number by the code that was spoken. Raises `NotAllowed`, or `DomainError` with field "code"."""
    by_may = by.can(actions.SEND_VALIDATION_MESSAGE, method.contact)
    # Counted before it is looked at, and outside of what a refusal rolls back: five guesses are five guesses.
    if by_may and not ContactMethod.objects.filter(
        pk=method.pk, code_tries__lt=CODE_TRIES, asked_at__gt=now - CODE_FOR
    ).exclude(code_digest="").update(code_tries=F("code_tries") + 1):
        raise DomainError(_("This code is too old, or was tried too often. Ask for a new one."), field="code")
    with _sending(method, by=by, now=now) as stored:
        given = "".join(code.split())
        if not hmac.compare_digest(_digest_of_code(stored, given), stored.code_digest):
            raise DomainError(_("This is not the code that was spoken."), field="code")
        _verify(stored, now=now)
    return stored


def read_link(token: str, *, now: datetime) -> ContactMethod:
    """The method that the link would verify; changes nothing, since mail scanners follow links. Raises `LinkExpired`."""
    return links.read_verify(token, now=now)


def confirm_link(token: str, *, source_ip: str = "", now: datetime) -> ContactMethod:
    """Verify an e-mail address by its link, once. Raises `LinkExpired`."""
    method = links.read_verify(token, now=now)
    _agreed(method, by=_reader_of(method, source_ip), now=now, nonce_digest=method.nonce_digest)
    return method


def read_unsubscribe(token: str) -> ContactMethod:
    """The method whose messages the link would end; changes nothing. Raises `LinkExpired`."""
    return links.read_unsubscribe(token)


def unsubscribe(token: str, *, source_ip: str = "", now: datetime) -> ContactMethod:
    """End all messages to an address: it counts as never verified. A second time changes nothing. Raises `LinkExpired`."""
    method = links.read_unsubscribe(token)
    contact = method.contact
    with attempt(
        by=_reader_of(method, source_ip), action=actions.UPDATE_CONTACT, project_id=contact.project_id,
        resource=contact.trn, resource_name=contact.name, now=now,
    ) as noted:  # fmt: skip
        stored = ContactMethod.objects.select_for_update().get(pk=method.pk)
        noted.changed(state=(stored.state, ContactMethod.State.UNVERIFIED), method=(None, str(stored)))
        stored.state, stored.verified_at, stored.nonce_digest = ContactMethod.State.UNVERIFIED, None, ""
        stored.last_error = UNSUBSCRIBED
        stored.save(update_fields=["state", "verified_at", "nonce_digest", "last_error"])
    return stored


UNSUBSCRIBED = "unsubscribed"
"""`last_error` of an address whose reader has asked for no more messages."""


def test_send(*, method: ContactMethod, by: Actor, now: datetime) -> Answer:
    """Send a test message and return what came of it. Mailboxes and telephones have to be verified first.

    Raises `NotAllowed`, or `DomainError` when the address has not agreed or may get no more for the moment.
    """
    if method.kind not in (MethodKind.EMAIL, MethodKind.PHONE) and not method.is_usable:
        return ask(method=method, by=by, now=now)
    with _sending(method, by=by, now=now) as stored:
        if not stored.is_usable:
            raise DomainError(_("Verify this address first."))
        _count_message(stored, now=now)
    message = messages.test(stored, by_name=by.name, reference=_reference("test", stored, now), now=now)
    answer = _send(stored, message, now=now)
    _note_answer(stored, answer, by=by, now=now)
    if answer.ok:
        with transaction.atomic():
            deliveries.note_on_method(stored.pk, answer, now=now)
    return answer


# --- what they share ---------------------------------------------------------------------------------------------------


@contextmanager
def _sending(method: ContactMethod, *, by: Actor, now: datetime) -> Iterator[ContactMethod]:
    """One audited transaction around the locked method, for those who may send to it."""
    contact = method.contact
    with attempt(
        by=by, action=actions.SEND_VALIDATION_MESSAGE, project_id=contact.project_id, resource=contact.trn,
        resource_name=contact.name, now=now,
    ) as noted:  # fmt: skip
        by.require(actions.SEND_VALIDATION_MESSAGE, contact)
        stored = _locked(method)
        before = stored.state
        yield stored
        noted.changed(method=(None, str(stored)), state=(before, stored.state))


def _agreed(method: ContactMethod, *, by: Actor, now: datetime, nonce_digest: str | None = None) -> None:
    """Verify the method in a transaction of its own, unless it changed since `method` was read."""
    contact = method.contact
    with attempt(
        by=by, action=actions.SEND_VALIDATION_MESSAGE, project_id=contact.project_id, resource=contact.trn,
        resource_name=contact.name, now=now,
    ) as noted:  # fmt: skip
        stored = _locked(method)
        is_same = (stored.address_digest, stored.secret) == (method.address_digest, method.secret)
        if not is_same or (nonce_digest is not None and stored.nonce_digest != nonce_digest):
            raise links.LinkExpired(_("The address has been changed meanwhile. Verify it again."))
        noted.changed(method=(None, str(stored)), state=(stored.state, ContactMethod.State.VERIFIED))
        _verify(stored, now=now)


def _locked(method: ContactMethod) -> ContactMethod:
    rows = ContactMethod.objects.select_for_update(of=("self",)).select_related("contact__project")
    stored = rows.filter(pk=method.pk, contact__deleted_at__isnull=True).first()
    if stored is None:
        raise DomainError(_("This address has been deleted."))
    return stored


def _verify(stored: ContactMethod, *, now: datetime) -> None:
    stored.state, stored.verified_at = ContactMethod.State.VERIFIED, now
    stored.nonce_digest = stored.code_digest = stored.last_error = ""
    stored.failures = stored.code_tries = 0
    stored.save(
        update_fields=[
            "state", "verified_at", "nonce_digest", "code_digest", "last_error", "failures", "code_tries",
        ]
    )  # fmt: skip


def _count_asking(method: ContactMethod, *, now: datetime) -> None:
    """Count this asking, or refuse it. By address: deleting it and entering it anew gives nobody five more."""
    people = (MethodKind.EMAIL, MethodKind.PHONE)
    apart, in_a_day = _FOR_PEOPLE if method.kind in people else _FOR_BOTS
    key = f"asked:{method.kind}:{method.address_digest}"
    asked = list(
        SendMark.objects.filter(key=key, at__gt=now - _DAY).order_by("-at").values_list("at", flat=True)[:in_a_day]
    )
    if asked and (wait := apart - (now - asked[0]).total_seconds()) > 0:
        raise DomainError(_("Wait %(seconds)s seconds before you ask again.") % {"seconds": math.ceil(wait)})
    if len(asked) >= in_a_day:
        raise DomainError(
            _("This address has been asked %(count)s times within a day. Try again tomorrow.") % {"count": in_a_day}
        )
    project_key = f"asked-in:{method.contact.project_id}"[:96]
    if SendMark.objects.filter(key=project_key, at__gt=now - _DAY).count() >= PER_PROJECT_AND_DAY:
        raise DomainError(_("This project has asked too many addresses within a day. Try again tomorrow."))
    SendMark.objects.bulk_create([SendMark(key=key, at=now), SendMark(key=project_key, at=now)])
    _count_message(method, now=now)


def _count_message(method: ContactMethod, *, now: datetime) -> None:
    """Count a message that a person sends, or refuse it: the address has the same limits whoever sends."""
    free = deliveries.free_at(kind=method.kind, address_digest=method.address_digest, now=now)
    if free > now:
        seconds = math.ceil((free - now).total_seconds())
        raise DomainError(_("This address may get no more messages for %(seconds)s seconds.") % {"seconds": seconds})
    deliveries.mark(kind=method.kind, address_digest=method.address_digest, now=now)


def _send(method: ContactMethod, message: Message, *, now: datetime) -> Answer:
    return base.discreet(channels.of(method.kind).send(method, message, now=now), method)


def _note_answer(method: ContactMethod, answer: Answer, *, by: Actor, now: datetime) -> None:
    """Record what came of it: outcome, status and code. Not the other side's words: some repeat what they were sent."""
    contact = method.contact
    with attempt(
        by=by, action=actions.SEND_VALIDATION_MESSAGE, project_id=contact.project_id, resource=contact.trn,
        resource_name=contact.name, now=now,
    ) as noted:  # fmt: skip
        parts = (answer.outcome, str(answer.status or ""), answer.code)
        noted.changed(
            method=(None, str(method)), answer=(None, " ".join(dict.fromkeys(part for part in parts if part)))
        )


def _digest_of_code(method: ContactMethod, code: str) -> str:
    # Keyed: six digits are guessed at once from any hash that anybody can compute.
    return salted_hmac("alerts.code", f"{method.pk}:{method.address_digest}:{code}", algorithm="sha256").hexdigest()


def _reader_of(method: ContactMethod, source_ip: str) -> Actor:
    """Whoever reads what comes to the address; the link is all that is known of them."""
    return Actor(id="link", name=f"{method.contact.name} ({method.hint})", source_ip=source_ip)


def _reference(what: str, method: ContactMethod, now: datetime) -> str:
    return f"{what}-{method.pk}-{int(now.timestamp())}"
