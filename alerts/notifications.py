"""From what Alertmanager posts to what people are told: one notification of each state of a group, and its deliveries.

Alertmanager posts the same thing again when an answer was lost, when it was restarted, when its routes changed, and
when it is time to repeat. Only the last one is told again. What was told of which event is in the notifications
themselves, so that neither a lost memory of Alertmanager's nor one of Redis' makes a second message, or loses one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Exists, Max, OuterRef, Q, QuerySet

from alerts import alertmanager, events, installation, routing, silences
from alerts.models import (
    AlertEvent,
    ContactMethod,
    Delivery,
    Level,
    MethodKind,
    Notification,
    NotificationPolicy,
    Phase,
    PolicyLevel,
)
from alerts.reports import GroupPost, Report

log = logging.getLogger(__name__)

Status = Notification.Status

EARLY = 0.9
"""A repeat never comes before its time; somewhat earlier is taken for one, since two clocks are never the same."""
LOOKED_AT = 50
"""Notifications that are looked at for what was told already, however old: what fires may do so for weeks."""
SHOWN = 100
"""Alerts of one notification that its payload holds; messages show far fewer, and say how many there are."""
STALE = timedelta(minutes=3)
"""Of what nobody has spoken for so long since its promise ran out it is not known that it fires: it holds nothing back."""
TOGETHER = timedelta(minutes=1)
"""What ended so shortly before another may have held it back to its end."""
REACHED = Q(state=Delivery.State.SENT) | Q(state=Delivery.State.DIGESTED, digested_into__state=Delivery.State.SENT)
"""Deliveries that somebody has got: sent, or within a summary that was."""


@dataclass(frozen=True, slots=True)
class Told:
    """A notification of the same group, the latest first: its time, and the status of each event in it."""

    at: datetime
    statuses: Mapping[str, str]


def is_news(
    statuses: Mapping[str, str],
    told: Iterable[Told],
    *,
    over: Collection[str] = (),
    seen: Collection[str] = (),
    now: datetime,
    repeat: timedelta,
) -> bool:
    """Whether anything in it was not told yet, or was told so long ago that it is time to repeat. Pure.

    `statuses` is {event id: "firing" or "resolved"}, `over` the ids of those that have ended, `seen` of those that
    somebody looks after: nobody is reminded of these. The last word on an event counts: that it fires again after a
    recovery was told is news, unless that was said earlier and came late. A recovery is told once.
    """
    last: dict[str, Told] = {}
    for one in told:
        for event_id in one.statuses:
            last.setdefault(event_id, one)
    for event_id, status in statuses.items():
        said = last.get(event_id)
        if said is None:
            return True
        if status == Status.FIRING and said.statuses[event_id] == Status.RESOLVED and event_id in over:
            continue
        if said.statuses[event_id] != status:
            return True
        if status == Status.FIRING and event_id not in seen and now - said.at >= repeat * EARLY:
            return True
    return False


def times_told(event_id: str, before: Iterable[tuple[Mapping[str, str], bool]]) -> int:
    """How often somebody heard that it fires, since it was last said to be over. Pure.

    `before` is what was said earlier, the latest first: the status of each event, and whether it reached anybody.
    """
    count = 0
    for statuses, has_reached in before:
        status = statuses.get(event_id)
        if status == Status.RESOLVED:
            break
        count += status == Status.FIRING and has_reached
    return count


def group_key(labels: Mapping[str, str]) -> str:
    """The name of a group. Alertmanager's own changes with its routes, this one does not."""
    return _hash(sorted(labels.items()))


def digest(lines: Iterable[tuple[str, datetime, str]]) -> str:
    """The name of a group's state: of each alert fingerprint, start and status."""
    return _hash(sorted((name, at.isoformat(), status) for name, at, status in lines))


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


# --- what is posted --------------------------------------------------------------------------------------------------


class HeldBack(Exception):
    """Some of what Alertmanager tells of is silenced, or something worse holds it back, and it does not know yet.

    It was not told of the silence, or has forgotten it; or it was just started, and looked at a group before it had
    read what inhibits it. That is not passed on; the rest is, in `told`. Taken as heard it would never be told when the
    silence, or what is worse, ends.
    """

    def __init__(self, told: Notification | None, *, is_silenced: bool) -> None:
        super().__init__("Some of it is silenced or inhibited: ask for the silences, then again.")
        self.told, self.is_silenced = told, is_silenced


def receive(post: GroupPost, *, now: datetime) -> Notification | None:
    """Write down what is to be told of a group, if that is news; None where it is not, or nobody is to be told.

    The rows are all there is to it: whoever sends finds them, whether or not he is nudged. Raises `HeldBack`.
    """
    if any(report.is_watchdog for report in post.reports):
        if any(report.is_watchdog and report.is_firing(now) for report in post.reports):
            events.beat(events.TOLD, now=now)
        return None
    policy_id, level = post.policy_id, post.labels.get("level", "")
    if not policy_id.isdecimal() or len(policy_id) > 18 or level not in Level.values or not post.reports:
        log.warning("Alertmanager told of a group without policy or level: %s", dict(post.labels))
        return None
    found = _events(post.reports, now=now)
    if not found:
        return None
    lines = [(event, Status.FIRING if report.is_firing(now) else Status.RESOLVED) for event, report in found]
    held, is_silenced = _held(lines, int(policy_id), level, now)
    lines = [line for line in lines if line[0].pk not in held]
    told = tell(policy_id=int(policy_id), level=level, labels=post.labels, lines=lines, left_out=post.left_out, now=now)
    if held:
        raise HeldBack(told, is_silenced=is_silenced)
    return told


def _held(lines: Sequence[tuple[AlertEvent, str]], policy_id: int, level: str, now: datetime) -> tuple[set[int], bool]:
    """Which of them fire and are covered by a silence, or held back by what is worse; whether any is silenced.

    Ends are told in any case.
    """
    firing = [event for event, status in lines if status == Status.FIRING]
    active = silences.active(now=now) if firing else []
    silenced = {event.pk for event in firing if any(silences.covers(silence, event) for silence in active)}
    others = [event for event in firing if event.pk not in silenced]
    return silenced | _inhibited(others, policy_id, level, now), bool(silenced)


def _inhibited(firing: Sequence[AlertEvent], policy_id: int, level: str, now: datetime) -> set[int]:
    """Those that our configuration of Alertmanager has something worse hold back. One query where nothing worse fires.

    Alertmanager tries again with what it saw at first. So what is over by now, and was held back when it ended, is
    held back for good: its end is told to nobody either.
    """
    if not firing or installation.config_path() is None:
        return set()
    ended = [event.ends_at for event in firing if event.phase == Phase.RESOLVED and event.ends_at]
    may_hold = Q(phase=Phase.FIRING, expires_at__gt=now - STALE)
    if ended:
        may_hold |= Q(phase=Phase.RESOLVED, ends_at__gt=min(ended) - TOGETHER)
    worse = AlertEvent.objects.filter(
        may_hold,
        Q(level__lt=level) | Q(rule_key=routing.CAUSE),
        project_id__in={event.project_id for event in firing},
        labels__notify_policy=str(policy_id),
    )
    sources = list(worse.order_by().values_list("labels", "ends_at"))
    if not sources:
        return set()
    by_end: dict[datetime | None, list[AlertEvent]] = {}
    for event in firing:
        by_end.setdefault(event.ends_at if event.phase == Phase.RESOLVED else None, []).append(event)
    inhibitions = routing.inhibitions(alertmanager.plans(policy_id))
    held = set()
    for until, some in by_end.items():
        alive = [labels for labels, end in sources if end is None or (until and end > until - TOGETHER)]
        wanted = [event.labels for event in some]
        held |= {some[place].pk for each in inhibitions for place in each.held_back(alive, wanted)}
    return held


def tell(
    *,
    policy_id: int,
    level: str,
    labels: Mapping[str, str],
    lines: Sequence[tuple[AlertEvent, str]],
    left_out: int = 0,
    now: datetime,
) -> Notification | None:
    """Make the notification of a group as it stands and its deliveries, once; None when all of it was told."""
    with transaction.atomic():
        # One at a time for each policy: of two posts of the same thing the second one sees the first.
        policy = NotificationPolicy.objects.select_for_update(of=("self",)).filter(pk=policy_id).first()
        if policy is None:
            return None
        plan = PolicyLevel.objects.filter(policy=policy, level=level).first()
        # A label can be forged by nobody but an operator of Prometheus; still, nobody hears of others' projects.
        lines = [(event, status) for event, status in lines if event.project_id == policy.project_id]
        told = _told(policy_id, lines)
        if policy.deleted_at is not None:
            lines = _ends_of_what_was_told(lines, told)
        if plan is None or not lines:
            return None
        key = group_key(labels)
        statuses = {str(event.pk): status for event, status in lines}
        # Asked anew: what was read before the lock may have ended since, and its end been told.
        is_of_interest = Q(phase=Phase.RESOLVED) | Q(acknowledged_at__isnull=False)
        stand = AlertEvent.objects.filter(is_of_interest, pk__in=[event.pk for event, _status in lines]).order_by()
        over, seen = set(), set()
        for pk, phase, acknowledged_at in stand.values_list("pk", "phase", "acknowledged_at"):
            if phase == Phase.RESOLVED:
                over.add(str(pk))
            if acknowledged_at is not None:
                seen.add(str(pk))
        repeat = timedelta(seconds=plan.repeat_seconds)
        if not is_news(statuses, told, over=over, seen=seen, now=now, repeat=repeat):
            return None
        return _make(policy, plan, key, labels, lines, statuses, left_out, now)


def _ends_of_what_was_told(
    lines: Sequence[tuple[AlertEvent, str]], told: Iterable[Told]
) -> list[tuple[AlertEvent, str]]:
    """What a deleted policy still tells: nothing that begins, but who heard a beginning hears the end."""
    last: dict[str, str] = {}
    for one in told:
        for event_id, status in one.statuses.items():
            last.setdefault(event_id, status)
    return [
        (event, status)
        for event, status in lines
        if status == Status.RESOLVED and last.get(str(event.pk)) == Status.FIRING
    ]


def _told(policy_id: int, lines: Sequence[tuple[AlertEvent, str]]) -> list[Told]:
    """What the people of the policy heard of these events, in whatever group: a changed grouping is no news."""
    speak = Notification.events.through._default_manager.filter(alertevent__in=[event.pk for event, _status in lines])
    rows = Notification.objects.filter(policy_id=policy_id, pk__in=speak.values("notification_id"))
    return [Told(at, told) for at, told in rows.order_by("-at", "-pk").values_list("at", "told")[:LOOKED_AT]]


def repeats(notification: Notification) -> int:
    """How often all that fires in it had reached somebody before; 0 when some of it is news. One query.

    Not its slot: a first message that was lost makes no reminder of the second, and another grouping no first one.
    """
    firing = [event_id for event_id, status in notification.told.items() if status == Status.FIRING]
    if not firing:
        return 0
    speak = Notification.events.through._default_manager.filter(alertevent__in=firing)
    before = (
        Notification.objects.filter(
            policy_id=notification.policy_id, pk__lt=notification.pk, pk__in=speak.values("notification_id"),
        )
        .annotate(has_reached=Exists(Delivery.objects.filter(REACHED, notification=OuterRef("pk"))))
        .order_by("-pk")
    )  # fmt: skip
    said = list(before.values_list("told", "has_reached")[:LOOKED_AT])
    count = min(times_told(event_id, said) for event_id in firing)
    # Of more than are looked at the slot has counted on.
    return max(count, notification.slot) if len(said) == LOOKED_AT and count else count


def _make(
    policy: NotificationPolicy,
    plan: PolicyLevel,
    key: str,
    labels: Mapping[str, str],
    lines: Sequence[tuple[AlertEvent, str]],
    statuses: Mapping[str, str],
    left_out: int,
    now: datetime,
) -> Notification:
    name = digest((event.fingerprint, event.starts_at, status) for event, status in lines)
    same = Notification.objects.filter(policy=policy, group_key=key, digest=name)
    last = same.aggregate(last=Max("slot"))["last"]
    slot = 0 if last is None else last + 1
    is_firing = Status.FIRING in statuses.values()
    notification = Notification.objects.create(
        policy=policy, level=plan.level, group_key=key, digest=name, slot=slot, at=now, told=statuses,
        status=Status.FIRING if is_firing else Status.RESOLVED, payload=_payload(labels, lines, left_out),
    )  # fmt: skip
    # It is new: nothing has to be looked for first, as `add` would.
    speak = Notification.events.through
    speak._default_manager.bulk_create(
        [speak(notification_id=notification.pk, alertevent_id=event.pk) for event, _status in lines]
    )
    Delivery.objects.bulk_create(_deliveries(notification, plan, set(statuses.values()), now))
    return notification


def _payload(labels: Mapping[str, str], lines: Sequence[tuple[AlertEvent, str]], left_out: int) -> dict[str, Any]:
    # Those that fire first, the worst, the oldest: what a short message shows.
    ordered = sorted(lines, key=lambda line: (line[1] != Status.FIRING, line[0].level, line[0].starts_at))
    return {
        "group_labels": dict(labels),
        "alerts": [_line(event, status) for event, status in ordered[:SHOWN]],
        "total": len(lines) + left_out,
        "firing": sum(status == Status.FIRING for _event, status in lines),
    }


def _line(event: AlertEvent, status: str) -> dict[str, Any]:
    return {
        "event_id": event.pk,
        "fingerprint": event.fingerprint,
        "status": str(status),
        "starts_at": event.starts_at.isoformat(),
        "ends_at": event.ends_at.isoformat() if event.ends_at else None,
        "labels": event.labels,
        "value": event.value,
        "summary": event.summary,
    }


def _deliveries(notification: Notification, plan: PolicyLevel, statuses: set[str], now: datetime) -> list[Delivery]:
    """One for each address of the level's people, also for those that cannot be written to, with why."""
    kinds: set[str] = set()
    if Status.FIRING in statuses:
        kinds |= set(plan.kinds)
    if Status.RESOLVED in statuses:
        kinds |= set(plan.resolved_kinds)
    if plan.level != Level.P0:
        kinds.discard(MethodKind.PHONE)
    methods = (
        ContactMethod.objects.filter(
            kind__in=kinds,
            contact__deleted_at__isnull=True,
            contact__groups__deleted_at__isnull=True,
            contact__groups__policy_levels=plan,
        )
        .select_related("contact")
        .defer("address", "secret")
        .distinct()
        .order_by("pk")
    )
    made = []
    for method in methods:
        delivery = Delivery(
            notification=notification, method=method, contact_name=method.contact.name, kind=method.kind,
            hint=method.hint, at=now,
        )  # fmt: skip
        if method.is_usable:
            delivery.next_at = now
        else:
            delivery.state = Delivery.State.SKIPPED
            delivery.answer_code = str(method.state)
        made.append(delivery)
    return made


def _events(told: Sequence[Report], *, now: datetime) -> list[tuple[AlertEvent, Report]]:
    """The event of each report. What Prometheus has not told us itself is written down from here."""
    since = min(report.starts_at for report in told)
    rows: dict[str, list[AlertEvent]] = {}
    for row in AlertEvent.objects.filter(fingerprint__in={report.fingerprint for report in told}).filter(
        Q(phase__in=(Phase.PENDING, Phase.FIRING)) | Q(ends_at__gte=since)
    ):
        rows.setdefault(row.fingerprint, []).append(row)
    found: dict[int, AlertEvent] = {}
    unsaid: list[int] = []
    for place, report in enumerate(told):
        matched = _match(report, rows.get(report.fingerprint, []), now)
        if matched is None:
            unsaid.append(place)
        else:
            found[place] = matched
    if unsaid:
        recorded = events.record([told[place] for place in unsaid], now=now)
        found |= {unsaid[place]: event for place, event in recorded.events.items()}
    # A report twice in one post is one line.
    by_event = {found[place].pk: (found[place], told[place]) for place in sorted(found)}
    return list(by_event.values())


def _match(report: Report, rows: Sequence[AlertEvent], now: datetime) -> AlertEvent | None:
    """The row that already says what the report says; None when it must be recorded first."""
    is_firing = report.is_firing(now)
    for row in rows:
        if row.phase == Phase.FIRING and is_firing and row.starts_at <= report.starts_at:
            return row
        if row.phase == Phase.RESOLVED and row.ends_at and row.starts_at <= report.starts_at <= row.ends_at:
            # It has ended here already; Alertmanager hears of that with its next round.
            return None if row.has_expired and is_firing else row
    return None


# --- what Alertmanager forgot --------------------------------------------------------------------------------------------

FORGOTTEN_AFTER = timedelta(minutes=3)
FORGOTTEN_WITHIN = timedelta(hours=6)
"""Of older recoveries nobody wants to hear any more; where groups have long intervals, two of these later."""


def tell_forgotten(*, now: datetime) -> int:
    """Tell of recoveries that Alertmanager should have told of and did not; how many notifications that made.

    It forgets a group whose alerts ended while it was away, or whose route was changed in that moment: people would go
    on believing that it fires. Nor does it tell of the end of what is held back by then: who heard the beginning, before
    a silence or a worse alert came, hears the end here.
    """
    longest = PolicyLevel.objects.aggregate(longest=Max("interval_seconds"))["longest"] or 0
    ended = AlertEvent.objects.filter(
        phase=Phase.RESOLVED, ends_at__gt=now - _forgotten_within(longest), ends_at__lt=now - FORGOTTEN_AFTER
    )
    speak = Notification.events.through._default_manager.filter(alertevent__in=ended).order_by()
    # The last word on each event to each policy: what repeats for weeks was told a thousand times.
    words = list(speak.values_list("alertevent_id", "notification__policy_id").annotate(last=Max("notification_id")))
    said = Notification.objects.defer("digest").in_bulk({last for _event_id, _policy_id, last in words})
    unsaid: dict[tuple[int, str], tuple[Notification, list[int]]] = {}
    for event_id, policy_id, last in words:
        notification = said.get(last)
        if notification is not None and notification.told.get(str(event_id)) == Status.FIRING:
            unsaid.setdefault((policy_id, notification.group_key), (notification, []))[1].append(event_id)
    return sum(_tell_ends(notification, ended.filter(pk__in=ids), now) for notification, ids in unsaid.values())


def _forgotten_within(interval_seconds: int) -> timedelta:
    return FORGOTTEN_WITHIN + timedelta(seconds=2 * interval_seconds)


def _tell_ends(notification: Notification, ended: QuerySet[AlertEvent], now: datetime) -> int:
    plan = PolicyLevel.objects.filter(policy_id=notification.policy_id, level=notification.level).first()
    if plan is None:
        return 0
    # Alertmanager itself tells of it with the group's next round.
    late = now - FORGOTTEN_AFTER - timedelta(seconds=2 * plan.interval_seconds)
    early = now - _forgotten_within(plan.interval_seconds)
    lines = [(event, str(Status.RESOLVED)) for event in ended.filter(ends_at__gt=early, ends_at__lt=late)]
    if not lines:
        return 0
    labels = notification.payload.get("group_labels", {})
    return int(
        tell(policy_id=notification.policy_id, level=notification.level, labels=labels, lines=lines, now=now)
        is not None
    )
