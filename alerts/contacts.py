"""What people do with contacts, their addresses and their groups. Addresses and secrets never reach the record."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _

from alerts import actions, channels
from alerts.models import Contact, ContactGroup, ContactMethod, MethodKind, NotificationPolicy
from audit.services import Attempt, attempt
from common.errors import DomainError
from iam.actors import Actor
from iam.models import Project

MAX_NAME = 64
MAX_NOTE = 255
MAX_METHODS = 20
LANGUAGES = tuple(code for code, _name in settings.LANGUAGES)


# --- contacts ----------------------------------------------------------------------------------------------------------


def create_contact(
    *, project: Project, name: str, language: str, time_zone: str, note: str, by: Actor, now: datetime
) -> Contact:
    """A contact without any address yet. Raises `NotAllowed`, or `DomainError` with `field`."""
    with attempt(
        by=by, action=actions.CREATE_CONTACT, project_id=project.pk, project_name=project.name,
        resource_name=name.strip(), now=now,
    ) as noted:  # fmt: skip
        by.require(actions.CREATE_CONTACT, project)
        values = _clean_contact(name=name, language=language, time_zone=time_zone, note=note)
        contact = Contact(project=project, **values, created_by_name=by.name, created_at=now)
        with _unique_name():
            contact.save()
        noted.resource = contact.trn
        noted.changed(**{field: (None, value) for field, value in values.items()})
    return contact


def update_contact(
    *, contact: Contact, name: str, language: str, time_zone: str, note: str, by: Actor, now: datetime
) -> Contact:
    """Rename a contact, or change how it is written to. Raises `NotAllowed`, or `DomainError` with `field`."""
    with _of_contact(contact, actions.UPDATE_CONTACT, by=by, now=now) as (stored, noted):
        values = _clean_contact(name=name, language=language, time_zone=time_zone, note=note)
        noted.changed(**{field: (getattr(stored, field), value) for field, value in values.items()})
        for field, value in values.items():
            setattr(stored, field, value)
        with _unique_name():
            stored.save(update_fields=list(values))
    return stored


def delete_contact(*, contact: Contact, by: Actor, now: datetime) -> None:
    """Nobody is told at this contact's addresses from now on; they are forgotten. What was sent stays on record."""
    with _of_contact(contact, actions.DELETE_CONTACT, by=by, now=now) as (stored, noted):
        hints = [str(method) for method in stored.methods.all()]
        stored.methods.all().delete()
        stored.groups.clear()
        stored.deleted_at = now
        stored.save(update_fields=["deleted_at"])
        noted.changed(name=(stored.name, None), methods=(hints, []))


# --- addresses ---------------------------------------------------------------------------------------------------------


def add_method(
    *, contact: Contact, kind: str, address: str, secret: str = "", by: Actor, now: datetime
) -> ContactMethod:
    """An address that is not written to before it is verified (`alerts.verification.ask`).

    Raises `NotAllowed`, or `DomainError` with `field` "kind", "address" or "secret".
    """
    with _of_contact(contact, actions.UPDATE_CONTACT, by=by, now=now) as (stored, noted):
        if kind not in MethodKind.values:
            raise DomainError(_("Choose one of the kinds."), field="kind")
        if stored.methods.count() >= MAX_METHODS:
            raise DomainError(
                _("A contact can have at most %(count)s addresses.") % {"count": MAX_METHODS}, field="kind"
            )
        method = ContactMethod(contact=stored, kind=kind, created_at=now)
        _set_address(method, *channels.of(kind).tidy(address, secret))
        method.save()
        noted.changed(method=(None, str(method)), has_secret=(False, bool(method.secret)))
    return method


def update_method(
    *, method: ContactMethod, address: str = "", secret: str | None = None, by: Actor, now: datetime
) -> ContactMethod:
    """Give a method another address or secret: "" keeps the address, None the secret. A change unverifies it."""
    with _of_method(method, by=by, now=now) as (stored, noted):
        before = (stored.address, stored.secret, str(stored), bool(stored.secret))
        tidied = channels.of(stored.kind).tidy(
            address.strip() or stored.address, stored.secret if secret is None else secret
        )
        if tidied == before[:2]:
            return stored
        _set_address(stored, *tidied)
        stored.state = ContactMethod.State.UNVERIFIED
        stored.verified_at = None
        stored.nonce_digest = stored.code_digest = stored.last_error = ""
        stored.failures = stored.code_tries = 0
        stored.save()
        noted.changed(
            method=(before[2], str(stored)), has_secret=(before[3], bool(stored.secret)),
            # Two addresses may be masked alike, and a new secret shows nowhere else.
            is_verified=(True, False) if method.is_usable else (None, False),
        )  # fmt: skip
    return stored


def delete_method(*, method: ContactMethod, by: Actor, now: datetime) -> None:
    """Forget an address. What was sent to it stays on record under its mask."""
    with _of_method(method, by=by, now=now) as (stored, noted):
        noted.changed(method=(str(stored), None))
        stored.delete()


def digest_of(kind: str, address: str) -> str:
    """What limits and links know an address by. Keyed: a telephone number is guessed in no time from a plain hash."""
    return salted_hmac("alerts.address", f"{kind}:{address}", algorithm="sha256").hexdigest()


# --- groups ------------------------------------------------------------------------------------------------------------


def create_group(*, project: Project, name: str, contacts: Iterable[Contact], by: Actor, now: datetime) -> ContactGroup:
    """Contacts that policies name together. Raises `NotAllowed`, or `DomainError` with `field`."""
    with attempt(
        by=by, action=actions.CREATE_CONTACT_GROUP, project_id=project.pk, project_name=project.name,
        resource_name=name.strip(), now=now,
    ) as noted:  # fmt: skip
        by.require(actions.CREATE_CONTACT_GROUP, project)
        group = ContactGroup(project=project, name=_clean_name(name), created_at=now)
        members = _members(project, contacts)
        with _unique_name():
            group.save()
        group.contacts.set(members)
        noted.resource = group.trn
        noted.changed(name=(None, group.name), contacts=(None, _names(members)))
    return group


def update_group(
    *, group: ContactGroup, name: str, contacts: Iterable[Contact], by: Actor, now: datetime
) -> ContactGroup:
    """Rename a group, or change who is in it. Raises `NotAllowed`, or `DomainError` with `field`."""
    with _of_group(group, actions.UPDATE_CONTACT_GROUP, by=by, now=now) as (stored, noted):
        members = _members(stored.project, contacts)
        noted.changed(
            name=(stored.name, name.strip()), contacts=(_names(stored.contacts.order_by("name")), _names(members))
        )
        stored.name = _clean_name(name)
        with _unique_name():
            stored.save(update_fields=["name"])
        stored.contacts.set(members)
    return stored


def delete_group(*, group: ContactGroup, by: Actor, now: datetime) -> None:
    """Delete a group that no policy names; its contacts stay. Raises `NotAllowed`, or `DomainError` with the policies."""
    with _of_group(group, actions.DELETE_CONTACT_GROUP, by=by, now=now) as (stored, noted):
        policies = NotificationPolicy.objects.filter(levels__groups=stored, deleted_at__isnull=True).distinct()
        if names := [policy.name for policy in policies]:
            # A policy that silently tells nobody is found out at the wrong time.
            raise DomainError(
                _("These policies tell this group; change them first: %(names)s") % {"names": ", ".join(names)}
            )
        noted.changed(name=(stored.name, None))
        stored.contacts.clear()
        stored.deleted_at = now
        stored.save(update_fields=["deleted_at"])


# --- what they share ---------------------------------------------------------------------------------------------------


@contextmanager
def _of_contact(contact: Contact, action: str, *, by: Actor, now: datetime) -> Iterator[tuple[Contact, Attempt]]:
    with attempt(
        by=by, action=action, project_id=contact.project_id, resource=contact.trn, resource_name=contact.name, now=now
    ) as noted:
        by.require(action, contact)
        stored = Contact.objects.select_for_update().filter(pk=contact.pk, deleted_at__isnull=True).first()
        if stored is None:
            raise DomainError(_("This contact has been deleted."))
        yield stored, noted


@contextmanager
def _of_method(method: ContactMethod, *, by: Actor, now: datetime) -> Iterator[tuple[ContactMethod, Attempt]]:
    with _of_contact(method.contact, actions.UPDATE_CONTACT, by=by, now=now) as (_contact, noted):
        stored = ContactMethod.objects.select_for_update().filter(pk=method.pk).first()
        if stored is None:
            raise DomainError(_("This address has been deleted."))
        yield stored, noted


@contextmanager
def _of_group(group: ContactGroup, action: str, *, by: Actor, now: datetime) -> Iterator[tuple[ContactGroup, Attempt]]:
    with attempt(
        by=by, action=action, project_id=group.project_id, resource=group.trn, resource_name=group.name, now=now
    ) as noted:
        by.require(action, group)
        stored = ContactGroup.objects.select_for_update().filter(pk=group.pk, deleted_at__isnull=True).first()
        if stored is None:
            raise DomainError(_("This group has been deleted."))
        yield stored, noted


@contextmanager
def _unique_name() -> Iterator[None]:
    try:
        with transaction.atomic():
            yield
    except IntegrityError:
        raise DomainError(_("There is one of this name already in this project."), field="name") from None


def _set_address(method: ContactMethod, address: str, secret: str) -> None:
    digest = digest_of(method.kind, address)
    if method.contact.methods.filter(address_digest=digest).exclude(pk=method.pk).exists():
        raise DomainError(_("This contact has this address already."), field="address")
    method.address, method.secret, method.address_digest = address, secret, digest
    method.hint = channels.of(method.kind).hint(address)[:128]


def _clean_contact(*, name: str, language: str, time_zone: str, note: str) -> dict[str, str]:
    if language not in LANGUAGES:
        raise DomainError(_("Choose one of the languages."), field="language")
    try:
        zoneinfo.ZoneInfo(time_zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise DomainError(_("There is no such time zone."), field="time_zone") from None
    note = note.strip()
    if len(note) > MAX_NOTE:
        raise DomainError(_("At most %(count)s characters.") % {"count": MAX_NOTE}, field="note")
    return {"name": _clean_name(name), "language": language, "time_zone": time_zone, "note": note}


def _clean_name(name: str) -> str:
    name = name.strip()
    if not name or not name.isprintable():
        raise DomainError(_("Give it a name."), field="name")
    if len(name) > MAX_NAME:
        raise DomainError(_("At most %(count)s characters.") % {"count": MAX_NAME}, field="name")
    return name


def _members(project: Project, contacts: Iterable[Contact]) -> list[Contact]:
    wanted = {contact.pk for contact in contacts}
    found = list(Contact.objects.filter(pk__in=wanted, project=project, deleted_at__isnull=True).order_by("name"))
    if len(found) != len(wanted):
        raise DomainError(_("One of the contacts has been deleted. Load the page anew."), field="contacts")
    return found


def _names(contacts: Iterable[Contact]) -> list[str]:
    return [contact.name for contact in contacts]
