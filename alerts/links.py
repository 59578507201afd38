"""Addresses of pages that messages name, and the signed ones that need no sign-in."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.conf import settings
from django.core import signing
from django.utils.translation import gettext as _

from alerts.models import AlertEvent, ContactMethod
from common.errors import DomainError

VERIFY_FOR = timedelta(hours=24)
_VERIFY = signing.Signer(salt="alerts.verify")
_UNSUBSCRIBE = signing.Signer(salt="alerts.unsubscribe")


class LinkExpired(DomainError):
    """The link was used, is too old, was made for another address, or is not one of ours."""


def event_url(event: AlertEvent) -> str:
    return f"{settings.CONSOLE_URL}/alerts/events/{event.pk}"


def events_url(*, project_id: str, **filters: str) -> str:
    """The list of events, narrowed."""
    return f"{settings.CONSOLE_URL}/alerts/events?{urlencode({'project': project_id, **filters})}"


def new_nonce() -> str:
    return secrets.token_urlsafe(16)


def digest_of(nonce: str) -> str:
    """What the database keeps of a nonce: who reads the table cannot make the link."""
    return hashlib.sha256(nonce.encode()).hexdigest()


def verify_url(method: ContactMethod, *, nonce: str, now: datetime) -> str:
    """A link that confirms this method at this address, once, within `VERIFY_FOR`."""
    token = _VERIFY.sign(f"{method.pk}:{int(now.timestamp())}:{nonce}")
    return f"{settings.CONSOLE_URL}/alerts/verify/{token}"


def read_verify(token: str, *, now: datetime) -> ContactMethod:
    """The method that the link would confirm; changes nothing. Raises `LinkExpired`."""
    try:
        pk, asked, nonce = _VERIFY.unsign(token).split(":")
        method = ContactMethod.objects.select_related("contact__project").get(
            pk=int(pk), nonce_digest=digest_of(nonce), contact__deleted_at__isnull=True
        )
    except (signing.BadSignature, ValueError, ContactMethod.DoesNotExist):
        raise LinkExpired(_("This link has been used, or a newer one has been sent.")) from None
    if now.timestamp() - int(asked) > VERIFY_FOR.total_seconds():
        raise LinkExpired(_("This link is more than 24 hours old. Ask for a new one."))
    return method


def unsubscribe_url(method: ContactMethod) -> str:
    """A link that ends all messages to this address of this contact; it never gets too old."""
    token = _UNSUBSCRIBE.sign(f"{method.pk}:{method.address_digest[:16]}")
    return f"{settings.CONSOLE_URL}/alerts/unsubscribe/{token}"


def read_unsubscribe(token: str) -> ContactMethod:
    """The method whose messages the link would end; changes nothing. Raises `LinkExpired`."""
    try:
        pk, digest = _UNSUBSCRIBE.unsign(token).split(":")
        return ContactMethod.objects.select_related("contact__project").get(
            pk=int(pk), address_digest__startswith=digest
        )
    except (signing.BadSignature, ValueError, ContactMethod.DoesNotExist):
        raise LinkExpired(_("Nothing is sent to this address any more.")) from None
