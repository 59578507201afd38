"""The history of what fired: written from Prometheus' own posts, so that it is whole whoever is told of it.

Everybody who writes events holds one row's lock (`_alone`), so two workers never make two rows of one incident.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Count, Exists, OuterRef, Q

from alerts import incidents, reports, silences
from alerts.incidents import UNSAID, Act, Change, Known
from alerts.models import KEPT_FOR, OPEN_PHASES, AlertEvent, EventNote, Level, Notification, Phase, Pulse, Rule
from alerts.reports import Report
from iam.models import Project

log = logging.getLogger(__name__)

POSTED, WATCHED, TOLD = "prometheus.posts", "prometheus.watchdog", "alertmanager.watchdog"
"""Pulses: Prometheus posted anything; it posted the alert that always fires; Alertmanager told us of that one."""

GAP = timedelta(seconds=150)
"""A pulse that was away for longer than this has come back, and begins anew."""
GRACE = timedelta(seconds=30)
SETTLED = timedelta(seconds=120)
"""Prometheus has spoken of everything that fires after having been heard for so long; it does so every minute."""
PENDING_LASTS = timedelta(seconds=45)
CHUNK = 500
MAX_CHUNKS = 100

Kind = EventNote.Kind


@dataclass
class Recorded:
    """What a post came to; `events` by the place of each report, where it has one."""

    changed: int = 0
    foreign: int = 0
    events: dict[int, AlertEvent] = field(default_factory=dict)


# --- pulses ----------------------------------------------------------------------------------------------------------


def beat(name: str, *, now: datetime) -> None:
    """Note that a part of the chain was heard of."""
    pulse, is_new = Pulse.objects.get_or_create(name=name, defaults={"at": now, "since": now})
    if not is_new:
        since = now if now - pulse.at > GAP or pulse.at > now + GAP else pulse.since
        Pulse.objects.filter(pk=name).update(at=now, since=since)


@contextmanager
def _alone(now: datetime) -> Iterator[None]:
    """A transaction that nobody else who writes events is in at the same time."""
    with transaction.atomic():
        Pulse.objects.get_or_create(name="events", defaults={"at": now, "since": now})
        Pulse.objects.select_for_update().get(name="events")
        yield


# --- what is posted --------------------------------------------------------------------------------------------------


def record_post(posted: Sequence[Report], *, now: datetime) -> Recorded:
    """What Prometheus posted: its pulse, and the events. May be given the same any number of times."""
    beat(POSTED, now=now)
    if any(report.is_watchdog and report.is_firing(now) for report in posted):
        beat(WATCHED, now=now)
    return record(posted, now=now)


def record(told: Sequence[Report], *, now: datetime) -> Recorded:
    """Write down what the reports say. One that cannot be written does not keep the others from being."""
    ours = [(place, report) for place, report in enumerate(told) if report.is_ours and not report.is_watchdog]
    recorded = Recorded(foreign=len(told) - len(ours))
    if not ours:
        return recorded
    try:
        _record(ours, recorded, now=now)
    except IntegrityError:
        log.exception("a post of %d alerts could not be written at once; each is tried alone", len(ours))
        recorded = Recorded(foreign=len(told) - len(ours))
        for one in ours:
            try:
                _record([one], recorded, now=now)
            except IntegrityError:
                log.exception("an alert could not be written: %s", dict(one[1].labels))
    return recorded


def _record(ours: Sequence[tuple[int, Report]], recorded: Recorded, *, now: datetime) -> None:
    with _alone(now):
        batch = _Batch([report for _place, report in ours], now=now)
        for place, report in ours:
            event = batch.take(report)
            if event is None:
                recorded.foreign += 1
            else:
                recorded.events[place] = event
        recorded.changed += batch.save()


class _Batch:
    """The rows that some reports speak of, changed in memory and written together."""

    def __init__(self, told: Sequence[Report], *, now: datetime) -> None:
        self.now = now
        names = {report.fingerprint for report in told}
        since = min(report.starts_at for report in told)
        self.rows: dict[str, list[AlertEvent]] = defaultdict(list)
        for row in AlertEvent.objects.filter(fingerprint__in=names).filter(
            Q(phase__in=OPEN_PHASES) | Q(ends_at__gte=since)
        ):
            self.rows[row.fingerprint].append(row)
        self.projects = _projects(told)
        self.moved: dict[int, AlertEvent] = {}
        self.heard: dict[int, AlertEvent] = {}
        self.news: dict[int, AlertEvent] = {}
        self.made: list[AlertEvent] = []
        self.notes: list[tuple[AlertEvent, EventNote]] = []

    def take(self, report: Report) -> AlertEvent | None:
        """Do what the report says; None when it is of nobody's project."""
        if not _has_owner(report, self.projects):
            return None
        rows = self.rows[report.fingerprint]
        # What was made in this very post has no key yet: its place from the end names it.
        by_key = {row.pk or -place: row for place, row in enumerate(rows, start=1)}
        change = incidents.decide(report, [_known(key, row) for key, row in by_key.items()], self.now)
        if change.expired is not None:
            self._expire(by_key[change.expired])
        row = by_key.get(change.pk) if change.pk is not None else None
        return self._do(change, report, row)

    def _do(self, change: Change, report: Report, row: AlertEvent | None) -> AlertEvent | None:
        match change.act:
            case Act.CREATE:
                row = self._make(report)
                self._firing(row, report)
            case Act.CREATE_RESOLVED:
                row = self._make(report)
                self._note(row, Kind.FIRING, at=report.starts_at)
                self._resolve(row, report)
            case Act.REFRESH if row is not None:
                self._say(row, report)
            case Act.FIRE if row is not None:
                row.pending_at, row.starts_at = row.pending_at or row.starts_at, report.starts_at
                self._firing(row, report)
            case Act.REOPEN if row is not None:
                row.ends_at, row.has_expired = None, False
                self._firing(row, report, at=self.now)
            case Act.RESOLVE if row is not None:
                if row.phase == Phase.PENDING:
                    row.pending_at, row.starts_at = row.starts_at, report.starts_at
                self._resolve(row, report)
            case Act.CORRECT_END if row is not None:
                row.ends_at, row.has_expired = report.ends_at, False
                self._touch(row)
        return row

    def _make(self, report: Report) -> AlertEvent:
        row = new_row(report, now=self.now)
        self.rows[report.fingerprint].append(row)
        self.made.append(row)
        return row

    def _say(self, row: AlertEvent, report: Report) -> None:
        # Alertmanager passes on what it was told some time ago, and promises nothing: it only stands in for Prometheus.
        if report.ends_at is not None or row.expires_at is None:
            row.expires_at = report.ends_at or self.now + UNSAID
            value = row.value if report.value is None else report.value
            summary = report.annotations.get("summary", row.summary)[:500]
            if row.pk is not None and (value, summary) != (row.value, row.summary):
                self.news[row.pk] = row
            row.value, row.summary = value, summary
        row.last_at = max(self.now, row.last_at)
        if row.pk is not None:
            self.heard[row.pk] = row

    def _firing(self, row: AlertEvent, report: Report, *, at: datetime | None = None) -> None:
        row.phase, row.expires_at = Phase.FIRING, None
        row.threshold = row.threshold if report.threshold is None else report.threshold
        row.comparator = report.annotations.get("comparator", row.comparator)[:2]
        row.expression = report.expression or row.expression
        self._say(row, report)
        self._touch(row)
        self._note(row, Kind.FIRING, at=at or row.starts_at)

    def _resolve(self, row: AlertEvent, report: Report) -> None:
        row.phase, row.has_expired = Phase.RESOLVED, False
        row.ends_at = max(report.ends_at or self.now, row.starts_at)
        row.last_at = max(self.now, row.last_at)
        self._touch(row)
        self._note(row, Kind.RESOLVED, at=row.ends_at)

    def _expire(self, row: AlertEvent) -> None:
        expire_row(row)
        self._touch(row)
        self._note(row, Kind.EXPIRED, at=row.ends_at or self.now)

    def _touch(self, row: AlertEvent) -> None:
        if row.pk is not None:
            self.moved[row.pk] = row

    def _note(self, row: AlertEvent, kind: str, *, at: datetime) -> None:
        self.notes.append((row, EventNote(at=at, kind=kind)))

    def save(self) -> int:
        """Write all of it; how many rows."""
        # What ended is written first: one fingerprint has one open row. One by one, since Django makes a statement of so
        # many cases of many rows that it takes a second; few move at a time.
        for row in sorted(self.moved.values(), key=lambda row: row.is_open):
            row.save(update_fields=_CHANGING)
        heard: dict[tuple[datetime | None, datetime], list[int]] = defaultdict(list)
        for pk, row in self.heard.items():
            if pk not in self.moved:
                heard[row.expires_at, row.last_at].append(pk)
        for (expires_at, last_at), pks in heard.items():
            AlertEvent.objects.filter(pk__in=pks).update(expires_at=expires_at, last_at=last_at)
        news = [row for pk, row in self.news.items() if pk not in self.moved]
        AlertEvent.objects.bulk_update(news, ["value", "summary"], batch_size=CHUNK)
        _fill(self.made)
        mark_silenced(self.made, now=self.now)
        AlertEvent.objects.bulk_create(self.made, batch_size=CHUNK)
        for row, note in self.notes:
            note.event = row
        EventNote.objects.bulk_create([note for _row, note in self.notes], batch_size=CHUNK)
        return len(self.moved | self.heard) + len(self.made)


_CHANGING = [
    "starts_at", "pending_at", "summary", "value", "comparator", "threshold", "expression", "phase", "last_at",
    "expires_at", "ends_at", "has_expired",
]  # fmt: skip


def _known(key: int, row: AlertEvent) -> Known:
    return Known(key, row.starts_at, row.phase, row.expires_at, row.ends_at, row.has_expired)


def new_row(report: Report, *, now: datetime) -> AlertEvent:
    """An event as the report has it, firing, not saved."""
    return AlertEvent(
        fingerprint=report.fingerprint,
        starts_at=report.starts_at,
        project_id=report.labels.get("project"),
        endpoint_id=report.labels.get("ark_endpoint", "")[:64],
        level=report.level,
        labels=dict(report.labels),
        summary=report.annotations.get("summary", "")[:500],
        value=report.value,
        threshold=report.threshold,
        comparator=report.annotations.get("comparator", "")[:2],
        expression=report.expression,
        phase=Phase.FIRING,
        last_at=now,
        has_policy=bool(report.labels.get("notify_policy")),
    )


def _fill(rows: Sequence[AlertEvent]) -> None:
    """What their rules say of them, in one query. A label that names another project's rule is not believed."""
    wanted = {int(row.labels["rule_id"]) for row in rows if row.labels.get("rule_id", "").isdecimal()}
    found = Rule.objects.select_related("group").in_bulk([pk for pk in wanted if pk < 2**63]) if wanted else {}
    for row in rows:
        text = row.labels.get("rule_id", "")
        rule = found.get(int(text)) if text.isdecimal() else None
        if rule is not None and rule.group.project_id != row.project_id:
            rule = None
        row.rule_key = (rule.key if rule else row.labels.get("alertname", ""))[:64]
        row.rule_name = (rule.name if rule else row.labels.get("alertname", ""))[:128]
        if rule is None:
            continue
        row.rule, row.group_name = rule, rule.group.name
        row.comparator = row.comparator or rule.comparator
        if row.threshold is None:
            thresholds: Mapping[Any, Any] = {each.get("level"): each.get("threshold") for each in rule.levels}
            row.threshold = reports.number(thresholds.get(row.level))


def mark_silenced(rows: Sequence[AlertEvent], *, now: datetime) -> None:
    """Say of rows that are not saved whether a silence of ours covers them now."""
    if not rows:
        return
    active = silences.active(now=now)
    for row in rows:
        row.is_silenced = any(silences.covers(silence, row) for silence in active)


# --- what nobody speaks of any more ------------------------------------------------------------------------------------


def expire_row(row: AlertEvent) -> None:
    """End it when its last promise ran out."""
    row.phase, row.has_expired = Phase.RESOLVED, True
    row.ends_at = max(row.expires_at or row.last_at, row.starts_at)


def expire(*, now: datetime) -> int:
    """End what Prometheus no longer speaks of, while it speaks at all; how many.

    A Prometheus that is silent says nothing of any alert: they go on firing here until it is back, or Alertmanager says
    that they ended.
    """
    pulse = Pulse.objects.filter(pk=POSTED).first()
    if pulse is None or now - pulse.at > SETTLED or now - pulse.since < SETTLED:
        return 0
    late = Q(phase=Phase.FIRING, expires_at__lt=now - GRACE)
    if not AlertEvent.objects.filter(late).exists():
        return 0
    with _alone(now):
        rows = list(AlertEvent.objects.filter(late)[:CHUNK])
        for row in rows:
            expire_row(row)
        AlertEvent.objects.bulk_update(rows, ["phase", "has_expired", "ends_at"])
        EventNote.objects.bulk_create([EventNote(event=row, at=row.ends_at or now, kind=Kind.EXPIRED) for row in rows])
    return len(rows)


def note_pending(seen: Sequence[Report], *, now: datetime) -> None:
    """What Prometheus holds pending at this moment. Those that it no longer holds are forgotten: they never fired."""
    ours = {report.fingerprint: report for report in seen if report.is_ours and not report.is_watchdog}
    if not ours and not AlertEvent.objects.filter(phase=Phase.PENDING).exists():
        return
    with _alone(now):
        since = min((report.starts_at for report in ours.values()), default=now)
        is_known = Q(phase__in=OPEN_PHASES) | Q(ends_at__gte=since)
        known = set(
            AlertEvent.objects.filter(is_known, fingerprint__in=set(ours)).values_list("fingerprint", flat=True)
        )
        of_projects = _projects(ours.values())
        made = [
            _pending(report, now)
            for name, report in ours.items()
            if name not in known and _has_owner(report, of_projects)
        ]
        _fill(made)
        mark_silenced(made, now=now)
        AlertEvent.objects.bulk_create(made, batch_size=CHUNK)
        EventNote.objects.bulk_create(
            [EventNote(event=row, at=row.starts_at, kind=Kind.PENDING) for row in made], batch_size=CHUNK
        )
        pending = AlertEvent.objects.filter(phase=Phase.PENDING)
        pending.filter(fingerprint__in=set(ours)).update(expires_at=now + PENDING_LASTS, last_at=now)
        # A moment's grace: one that has just begun to fire is no longer pending, and its post is on the way.
        pending.filter(expires_at__lt=now).delete()


def _pending(report: Report, now: datetime) -> AlertEvent:
    row = new_row(report, now=now)
    row.phase, row.pending_at, row.expires_at = Phase.PENDING, report.starts_at, now + PENDING_LASTS
    return row


def _projects(told: Iterable[Report]) -> set[str]:
    """Which of the projects that they name there are."""
    named = {report.labels.get("project", "") for report in told}
    return set(Project.objects.filter(pk__in=named).values_list("pk", flat=True))


def _has_owner(report: Report, projects: set[str]) -> bool:
    """Whether it is of a project of ours, or of the installation itself."""
    project = report.labels.get("project", "")
    return project in projects if project else report.labels.get("group_id") == reports.OPERATORS


# --- silenced, inhibited -----------------------------------------------------------------------------------------------


def mark(suppressed: Mapping[str, tuple[bool, bool]], *, now: datetime) -> int:
    """Say whether Alertmanager holds back what fires: {fingerprint: (silenced, inhibited)}; how many changed.

    What it does not speak of stays as it was: it may have been started just now.
    """
    firing = AlertEvent.objects.filter(phase=Phase.FIRING).only("pk", "fingerprint", "is_silenced", "is_inhibited")
    changed, notes = [], []
    for row in firing:
        if row.fingerprint not in suppressed:
            continue
        silenced, inhibited = suppressed[row.fingerprint]
        for was, is_now, on, off in (
            (row.is_silenced, silenced, Kind.SILENCED, Kind.UNSILENCED),
            (row.is_inhibited, inhibited, Kind.INHIBITED, Kind.UNINHIBITED),
        ):
            if was != is_now:
                notes.append(EventNote(event_id=row.pk, at=now, kind=on if is_now else off))
        if (row.is_silenced, row.is_inhibited) != (silenced, inhibited):
            row.is_silenced, row.is_inhibited = silenced, inhibited
            changed.append(row)
    with transaction.atomic():
        AlertEvent.objects.bulk_update(changed, ["is_silenced", "is_inhibited"], batch_size=CHUNK)
        EventNote.objects.bulk_create(notes, batch_size=CHUNK)
    return len(changed)


# --- forgetting --------------------------------------------------------------------------------------------------------


def prune(*, now: datetime) -> int:
    """Remove events that ended 90 days ago, then older notifications of no other, in short transactions; how many rows.

    A notification stays as long as an event that it speaks of: what was told is known from these alone, so that what
    still fires would be told as news again.
    """
    removed = 0
    until = now - KEPT_FOR
    speaks = Notification.events.through._default_manager.filter(notification=OuterRef("pk"))
    rows: tuple[Any, ...] = (
        AlertEvent.objects.filter(phase=Phase.RESOLVED, ends_at__lt=until).order_by("ends_at"),
        Notification.objects.filter(~Exists(speaks), at__lt=until).order_by("at"),
    )
    for some in rows:
        for _chunk in range(MAX_CHUNKS):
            ids = list(some.values_list("pk", flat=True)[:CHUNK])
            if not ids:
                break
            removed += some.model._default_manager.filter(pk__in=ids).delete()[0]
    return removed


def counts(*, project_id: str) -> dict[str, int]:
    """Firing events of a project by level, for the counter on every page; one query on a small index."""
    rows = AlertEvent.objects.filter(phase=Phase.FIRING, project_id=project_id).order_by()
    found = dict(rows.values_list("level").annotate(count=Count("pk")))
    return {level: found.get(level, 0) for level in Level.values}
