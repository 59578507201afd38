"""Writing the record, and checking it. Every service of every room writes through `attempt`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from django.db import transaction

from audit.models import Event, Head
from common.errors import DomainError, NotAllowed

# The chain of acts that concern no single project: sign-in, users, policies, the catalogue.
GLOBAL = "*"


class ActorLike(Protocol):
    """Who did it, as the record keeps it."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def source_ip(self) -> str: ...
    @property
    def request_id(self) -> str: ...


@dataclass
class Attempt:
    """What the service tells of the act while it does it; the resource may become known only on the way."""

    project_id: str
    project_name: str = ""
    resource: str = ""
    resource_name: str = ""
    changes: dict[str, list[Any]] = field(default_factory=dict)

    def changed(self, **fields: tuple[Any, Any]) -> None:
        """Note `field=(before, after)`; equal pairs are left out. Never pass a secret."""
        self.changes.update({name: [_plain(a), _plain(b)] for name, (a, b) in fields.items() if a != b})


@contextmanager
def attempt(
    *,
    by: ActorLike,
    action: str,
    project_id: str,
    now: datetime,
    project_name: str = "",
    resource: str = "",
    resource_name: str = "",
) -> Iterator[Attempt]:
    """Run a service's body in one transaction whose last statement is its audit event.

    `NotAllowed` is recorded as denied and any other `DomainError` as failed, both in a transaction of their own after
    the roll-back; other exceptions are defects, recorded as failed without their text. All are raised again.
    """
    noted = Attempt(project_id=project_id, project_name=project_name, resource=resource, resource_name=resource_name)
    try:
        with transaction.atomic():
            yield noted
            _append(by=by, action=action, noted=noted, outcome=Event.Outcome.ALLOWED, reason="", now=now)
    except NotAllowed as error:
        _refused(by=by, action=action, noted=noted, outcome=Event.Outcome.DENIED, reason=error.message, now=now)
        error.is_recorded = True
        raise
    except DomainError as error:
        _refused(by=by, action=action, noted=noted, outcome=Event.Outcome.FAILED, reason=error.message, now=now)
        raise
    except Exception as error:
        _refused(by=by, action=action, noted=noted, outcome=Event.Outcome.FAILED, reason=type(error).__name__, now=now)
        raise


def record_denied(
    *,
    by: ActorLike,
    action: str,
    project_id: str,
    now: datetime,
    resource: str = "",
    resource_name: str = "",
    reason: str = "",
) -> None:
    """Record that `by` was refused where no service ran, such as opening a page."""
    noted = Attempt(project_id=project_id, resource=resource, resource_name=resource_name)
    _refused(by=by, action=action, noted=noted, outcome=Event.Outcome.DENIED, reason=reason, now=now)


def _refused(**kwargs: Any) -> None:
    kwargs["noted"].changes = {}
    with transaction.atomic():
        _append(**kwargs)


def _append(*, by: ActorLike, action: str, noted: Attempt, outcome: Event.Outcome, reason: str, now: datetime) -> None:
    Head.objects.get_or_create(project_id=noted.project_id)
    head = Head.objects.select_for_update().get(project_id=noted.project_id)
    event = Event(
        project_id=noted.project_id, sequence=head.sequence + 1, at=now, outcome=outcome, changes=noted.changes,
        previous_hash=head.hash,
    )  # fmt: skip
    texts = {
        "project_name": noted.project_name, "actor_id": by.id, "actor_name": by.name, "action": action,
        "resource": noted.resource, "resource_name": noted.resource_name, "reason": reason, "source_ip": by.source_ip,
        "request_id": by.request_id,
    }  # fmt: skip
    for name, text in texts.items():
        setattr(event, name, _fit(text, _LENGTHS[name]))
    event.hash = digest(event)
    event.save()
    head.sequence, head.hash = event.sequence, event.hash
    head.save(update_fields=["sequence", "hash"])


_LENGTHS = {field.name: field.max_length for field in Event._meta.concrete_fields}


def _fit(text: str, length: int | None) -> str:
    """An act is never refused because its record does not fit; PostgreSQL takes no NUL."""
    return str(text).replace("\0", "")[:length]


_HASHED = (
    "project_id", "project_name", "sequence", "actor_id", "actor_name", "action", "resource", "resource_name",
    "outcome", "reason", "source_ip", "request_id", "changes", "previous_hash",
)  # fmt: skip


def digest(event: Event) -> str:
    """SHA-256 over every column of the event and the previous hash, as canonical JSON."""
    values = {name: getattr(event, name) for name in _HASHED}
    values["at"] = event.at.astimezone(UTC).isoformat(timespec="microseconds")
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else str(value)


@dataclass(frozen=True)
class BrokenLink:
    """The first event of a project's chain that does not fit, and why."""

    project_id: str
    sequence: int
    why: str


def verify(*, project_id: str) -> BrokenLink | None:
    """Walk one project's chain; the first broken link, or None when it holds to the head."""
    head = Head.objects.filter(project_id=project_id).first()
    expected_hash, expected_sequence = "0" * 64, 1
    events = Event.objects.filter(project_id=project_id).order_by("sequence")
    for event in events.iterator(chunk_size=2_000):
        if event.sequence != expected_sequence:
            return BrokenLink(project_id, expected_sequence, "is missing")
        if event.previous_hash != expected_hash:
            return BrokenLink(project_id, event.sequence, "does not follow the event before it")
        if event.hash != digest(event):
            return BrokenLink(project_id, event.sequence, "was changed after it was written")
        expected_hash, expected_sequence = event.hash, expected_sequence + 1
    if head is None:
        return BrokenLink(project_id, expected_sequence, "has no head") if expected_sequence > 1 else None
    if (head.sequence, head.hash) != (expected_sequence - 1, expected_hash):
        return BrokenLink(project_id, expected_sequence, "is missing at the end of the chain")
    return None


def chains() -> list[str]:
    """The projects that have a chain."""
    from_heads = set(Head.objects.values_list("project_id", flat=True))
    return sorted(from_heads | set(Event.objects.values_list("project_id", flat=True).distinct()))
