"""Silences: when and what they cover. Pure but for `active`, `create` and `end`; `alertmanager` puts them in force."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.db.models import Q
from django.utils.translation import gettext as _

from alerts import actions, nudges
from alerts.models import AlertEvent, Silence
from audit.services import attempt
from common.errors import DomainError
from iam.actors import Actor
from iam.models import Project

LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
MAX_MATCHERS = 10
MAX_VALUE = 256
LONGEST = timedelta(days=366)
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time that is silent."""

    starts_at: datetime
    ends_at: datetime

    def holds(self, at: datetime) -> bool:
        return self.starts_at <= at < self.ends_at


class Labelled(Protocol):
    """What a silence may cover."""

    @property
    def project_id(self) -> str | None: ...
    @property
    def labels(self) -> Mapping[str, str]: ...


def covers(silence: Silence, what: AlertEvent | Labelled) -> bool:
    """Whether its matchers fit, whatever the time. It never reaches beyond its project."""
    if silence.project_id != what.project_id:
        return False
    return all(what.labels.get(name, "") == value for name, value in silence.matchers.items())


def window(silence: Silence, *, now: datetime) -> Window | None:
    """The stretch that holds now, else the next one; None when there is none left."""
    if silence.ended_at is not None or silence.ends_at <= now:
        return None
    if not silence.weekly:
        return Window(silence.starts_at, silence.ends_at)
    begin = max(silence.starts_at, now)
    for each in _weekly(silence.weekly, since=begin):
        cut = Window(max(each.starts_at, silence.starts_at), min(each.ends_at, silence.ends_at))
        if cut.ends_at > begin and cut.starts_at < cut.ends_at:
            return cut
    return None


def _weekly(plan: Mapping[str, Any], *, since: datetime) -> list[Window]:
    """The stretches of a week and a day around, in order; a night belongs to the day on which it begins."""
    zone = ZoneInfo(plan["zone"])
    begin, end = time.fromisoformat(plan["from"]), time.fromisoformat(plan["to"])
    first = since.astimezone(zone).date() - DAY
    found = []
    for offset in range(9):
        day = first + timedelta(days=offset)
        if day.weekday() in plan["days"]:
            found.append(Window(_at(day, begin, zone), _at(day + DAY if end <= begin else day, end, zone)))
    return found


def _at(day: date, clock: time, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, clock, zone).astimezone(UTC)


def active(*, now: datetime) -> list[Silence]:
    """Those that hold at this moment, over all projects."""
    alive = Silence.objects.filter(ended_at__isnull=True, starts_at__lte=now, ends_at__gt=now)
    return [each for each in alive if (held := window(each, now=now)) is not None and held.holds(now)]


def alive(*, now: datetime) -> list[Silence]:
    """Those that hold or are still to come."""
    return list(Silence.objects.filter(ended_at__isnull=True, ends_at__gt=now))


def of_event(event: AlertEvent, *, now: datetime) -> list[Silence]:
    """Those that cover the event now or later, for its page."""
    some = Silence.objects.filter(Q(project_id=event.project_id), ended_at__isnull=True, ends_at__gt=now)
    return [each for each in some if covers(each, event)]


# --- what people do ----------------------------------------------------------------------------------------------------


def create(
    *,
    project: Project,
    matchers: Mapping[str, str],
    reason: str,
    starts_at: datetime,
    ends_at: datetime,
    weekly: Mapping[str, Any] | None = None,
    by: Actor,
    now: datetime,
) -> Silence:
    """Tell nobody of what the matchers fit, from `starts_at` (now at the earliest) until `ends_at`, or in it at the weekly
    hours only.

    It is in force within seconds. Raises `NotAllowed`, and `DomainError` with `field` for what cannot be.
    """
    with attempt(
        by=by, action=actions.CREATE_SILENCE, project_id=project.pk, project_name=project.name, resource=project.trn,
        resource_name=reason, now=now,
    ) as noted:  # fmt: skip
        by.require(actions.CREATE_SILENCE, project)
        # What is over needs no silence; and the year 1 is in no other zone.
        starts_at = max(starts_at, now)
        silence = Silence(
            project=project, matchers=_checked(matchers), reason=_reason(reason), starts_at=starts_at, ends_at=ends_at,
            weekly=_plan(weekly) if weekly else None, created_by_name=by.name, created_at=now,
        )  # fmt: skip
        _check_time(silence, now=now)
        silence.save()
        noted.resource = silence.trn
        noted.changed(
            matchers=(None, silence.matchers), starts_at=(None, starts_at), ends_at=(None, ends_at),
            weekly=(None, silence.weekly),
        )  # fmt: skip
        nudges.nudge("alerts.tend")
    return silence


def end(*, silence: Silence, by: Actor, now: datetime) -> Silence:
    """End it now; ending one that has ended changes nothing. Raises `NotAllowed`."""
    project = silence.project
    with attempt(
        by=by, action=actions.DELETE_SILENCE, project_id=project.pk, project_name=project.name, resource=silence.trn,
        resource_name=silence.reason, now=now,
    ) as noted:  # fmt: skip
        by.require(actions.DELETE_SILENCE, silence)
        changed = Silence.objects.filter(pk=silence.pk, ended_at__isnull=True, ends_at__gt=now).update(
            ended_at=now, ended_by_name=by.name
        )
        if changed:
            noted.changed(ended_at=(None, now))
            nudges.nudge("alerts.tend")
    silence.refresh_from_db()
    return silence


def _checked(matchers: Mapping[str, str]) -> dict[str, str]:
    given = {name.strip(): value for name, value in matchers.items() if value}
    if not given:
        raise DomainError(_("Say what is to be silent: an endpoint, a rule or a level at least."), field="matchers")
    if len(given) > MAX_MATCHERS or any(len(value) > MAX_VALUE or "\0" in value for value in given.values()):
        raise DomainError(
            _("At most %(count)d labels, each of %(length)d characters.")
            % {"count": MAX_MATCHERS, "length": MAX_VALUE},
            field="matchers",
        )
    for name in given:
        if not LABEL.fullmatch(name) or name == "project":
            raise DomainError(_("“%(name)s” is not a label to match.") % {"name": name}, field="matchers")
    return given


def _reason(reason: str) -> str:
    text = " ".join(reason.replace("\0", "").split())
    if not text:
        raise DomainError(_("Say why, so that others know."), field="reason")
    if len(text) > 255:
        raise DomainError(_("At most 255 characters."), field="reason")
    return text


def _check_time(silence: Silence, *, now: datetime) -> None:
    if silence.ends_at <= silence.starts_at or silence.ends_at <= now:
        raise DomainError(_("It must end after it begins, and after now."), field="ends_at")
    if silence.starts_at - now > LONGEST:
        raise DomainError(_("At most a year: nobody remembers a silence for longer."), field="starts_at")
    if silence.ends_at - silence.starts_at > LONGEST:
        raise DomainError(_("At most a year: nobody remembers a silence for longer."), field="ends_at")
    if window(silence, now=now) is None:
        raise DomainError(_("None of these hours lies before the end."), field="weekly")


def _plan(weekly: Mapping[str, Any]) -> dict[str, Any]:
    """The weekly hours in their one form."""
    try:
        days = sorted({int(day) for day in weekly["days"]})
        begin, stop = time.fromisoformat(weekly["from"]), time.fromisoformat(weekly["to"])
        zone = ZoneInfo(weekly["zone"])
    except (KeyError, TypeError, ValueError, ZoneInfoNotFoundError, OSError):
        raise DomainError(_("Give days, hours like 22:00 and 06:00, and a time zone."), field="weekly") from None
    if not days or days[0] < 0 or days[-1] > 6 or begin.tzinfo or stop.tzinfo:
        raise DomainError(_("Give days, hours like 22:00 and 06:00, and a time zone."), field="weekly")
    return {"days": days, "from": f"{begin:%H:%M}", "to": f"{stop:%H:%M}", "zone": zone.key}
