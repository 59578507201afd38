"""Which event a report speaks of, and what becomes of it. Pure: `events` reads and writes the rows.

An incident is one time that a rule fired for one set of labels. Reports come again and again while it lasts, late, in
the wrong order, from Prometheus and from Alertmanager; and a Prometheus that was restarted says of the same incident
that it began just now. As Alertmanager does, a report that begins before the last one's promise has run out is the
same incident.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from alerts.models import Phase
from alerts.reports import Report

UNSAID = timedelta(minutes=4)
"""How long an alert is taken to fire after somebody said so who does not say for how long."""


@dataclass(frozen=True, slots=True)
class Known:
    """An event that is there already, as far as it matters here."""

    pk: int
    starts_at: datetime
    phase: str
    expires_at: datetime | None = None
    ends_at: datetime | None = None
    has_expired: bool = False

    @property
    def is_open(self) -> bool:
        return self.phase != Phase.RESOLVED


class Act(StrEnum):
    """What a report does to an event."""

    CREATE = "create"
    CREATE_RESOLVED = "create_resolved"
    REFRESH = "refresh"
    FIRE = "fire"
    """A pending one fires."""
    REOPEN = "reopen"
    """It had been given up as no longer heard of, and is heard of."""
    RESOLVE = "resolve"
    CORRECT_END = "correct_end"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Change:
    """`act` on the event `pk` (None: a new one). `expired` is an older one that must have ended meanwhile, unheard."""

    act: Act
    pk: int | None = None
    expired: int | None = None


def decide(report: Report, known: Sequence[Known], now: datetime) -> Change:
    """What `report` means, given every event of its fingerprint that is open or ended after the report's start."""
    ended = [event for event in known if not event.is_open]
    for event in known:
        if not event.is_open:
            continue
        if any(each.starts_at == report.starts_at for each in ended):
            return Change(Act.NOTHING)  # of the one before, and late
        if event.phase == Phase.PENDING:
            return _of_pending(report, event, ended, now)
        return _of_firing(report, event, ended, now)
    return _of_ended(report, ended, now)


def _of_pending(report: Report, event: Known, ended: Sequence[Known], now: datetime) -> Change:
    if report.is_firing(now):
        is_late = any(_covers(each, report) for each in ended)
        return Change(Act.NOTHING) if is_late else Change(Act.FIRE, event.pk)
    if report.starts_at < event.starts_at:
        return _of_ended(report, ended, now)
    return Change(Act.RESOLVE, event.pk)


def _of_firing(report: Report, event: Known, ended: Sequence[Known], now: datetime) -> Change:
    expires_at = event.expires_at or event.starts_at + UNSAID
    if report.starts_at > expires_at:
        act = Act.CREATE if report.is_firing(now) else Act.CREATE_RESOLVED
        return Change(act, expired=event.pk)
    if report.is_firing(now):
        return Change(Act.REFRESH, event.pk)
    if report.ends_at is not None and report.ends_at < event.starts_at:
        return _of_ended(report, ended, now)
    return Change(Act.RESOLVE, event.pk)


def _covers(event: Known, report: Report) -> bool:
    return event.ends_at is not None and event.starts_at <= report.starts_at <= event.ends_at


def _of_ended(report: Report, ended: Sequence[Known], now: datetime) -> Change:
    for event in ended:
        if not _covers(event, report):
            continue
        if report.is_firing(now):
            # Said before it ended and heard after; unless we had only supposed that it ended.
            return Change(Act.REOPEN if event.has_expired else Act.NOTHING, event.pk)
        is_better = event.has_expired and report.ends_at != event.ends_at
        return Change(Act.CORRECT_END if is_better else Act.NOTHING, event.pk)
    return Change(Act.CREATE if report.is_firing(now) else Act.CREATE_RESOLVED)
