"""The one door through which a version switch moves: row, log and route change in one transaction, by compare-and-set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _

from common import routing
from common.errors import Conflict, DomainError
from common.models import RouteChange
from common.rows import update_rows
from endpoints import switching
from endpoints.models import OPEN_STATES, Endpoint, SwitchEvent, VersionSwitch
from endpoints.switching import Code, Direction, Hold, State
from iam.actors import SYSTEM, Actor

REASON_LENGTH = 500
MAX_STEP = timedelta(seconds=15)
"""A tick counts no more than this as time spent: an outage or a clock that jumps is not a soak."""
CHECK_SECONDS = 10
BATCH = 200

ENDED = (State.COMPLETED, State.ROLLED_BACK, State.CANCELLED)


def begin(*, switch: VersionSwitch, by: Actor, now: datetime) -> None:
    """Write the first line of a switch that was just saved. The caller holds the transaction."""
    _line(switch, kind=SwitchEvent.Kind.STARTED, from_weight=0, code="", figures={}, reason=switch.reason, by=by,
          now=now).save(force_insert=True)  # fmt: skip
    routing.announce(kind=RouteChange.Kind.ENDPOINT, object_ids=[switch.endpoint_id], now=now)


@dataclass(frozen=True, slots=True)
class Step:
    """Where a switch goes, and what its log says of it."""

    to: State
    rung: int
    kind: SwitchEvent.Kind
    direction: Direction | None = None
    code: Code | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    return_hold_seconds: int | None = None


def move(*, switch: VersionSwitch, step: Step, now: datetime, by: Actor = SYSTEM) -> None:
    """Move one open switch on from what `switch` says, and update `switch`.

    The weight follows from the rung: the ladder's, 100 when completed, 0 when rolled back, cancelled or before the
    first. Completing gives the endpoint its new version. Raises `Conflict` when the stored switch has moved meanwhile,
    `DomainError` when the diagram has no such arrow.
    """
    seen = switch.moves
    values, event = _apply(switch, step, now=now, by=by)
    with transaction.atomic():
        if not VersionSwitch.objects.filter(pk=switch.pk, moves=seen, state__in=OPEN_STATES).update(**values):
            raise Conflict(_("This switch has moved meanwhile. Look again, then decide."))
        event.save(force_insert=True)
        _give_version([switch], now=now)
        routing.announce(kind=RouteChange.Kind.ENDPOINT, object_ids=[switch.endpoint_id], now=now)


def move_locked(*, steps: Sequence[tuple[VersionSwitch, Step]], now: datetime) -> None:
    """Move many switches by the system's own hand, in a handful of statements; the caller's transaction holds their rows
    locked, and those of the endpoints of the ones that complete."""
    if not steps:
        return
    events = [_apply(switch, step, now=now, by=SYSTEM)[1] for switch, step in steps]
    moved = [switch for switch, _step in steps]
    update_rows(moved, _MOVED)
    SwitchEvent.objects.bulk_create(events, batch_size=BATCH)
    _give_version(moved, now=now)
    routing.announce(kind=RouteChange.Kind.ENDPOINT, object_ids=[switch.endpoint_id for switch in moved], now=now)


_MOVED = (
    "state", "rung", "weight", "direction", "soak", "soaked_seconds", "moves", "ticked_at", "check_at", "verdict",
    "verdict_figures", "ended_at", "ended_reason",
)  # fmt: skip


def _apply(switch: VersionSwitch, step: Step, *, now: datetime, by: Actor) -> tuple[dict[str, Any], SwitchEvent]:
    """Take the step on the object alone: the columns that changed, and the line for the log."""
    here, to, rung = State(switch.state), step.to, step.rung
    if to not in switching.ALLOWED[here]:
        raise DomainError(
            _("A switch that is “%(here)s” cannot become “%(to)s”.") % {"here": here.label, "to": to.label}
        )
    direction = step.direction or Direction(switch.direction)
    if to in (State.ROLLED_BACK, State.CANCELLED):
        rung = -1
    elif to == State.COMPLETED:
        rung = len(switch.ladder) - 1
    weight = int(switch.ladder[rung]["weight"]) if rung >= 0 else 0
    is_new_soak = (rung, weight, direction) != (switch.rung, switch.weight, switch.direction)
    from_weight = switch.weight
    values: dict[str, Any] = {
        "state": to,
        "rung": rung,
        "weight": weight,
        "direction": direction,
        "soak": switch.soak + is_new_soak,
        "soaked_seconds": 0.0 if is_new_soak else switch.soaked_seconds,
        "moves": switch.moves + 1,
        "ticked_at": now,
        "verdict": step.code or "",
        "verdict_figures": dict(step.figures),
    }
    if step.return_hold_seconds is not None:
        values["return_hold_seconds"] = step.return_hold_seconds
    if to in ENDED:
        values |= {"ended_at": now, "ended_reason": step.code or ""}
    for name, value in values.items():
        setattr(switch, name, value)
    # After a person's hand the page waits for the tick's word.
    values["check_at"] = switch.check_at = next_check(switch, now=now) if by == SYSTEM else now
    event = _line(switch, kind=step.kind, from_weight=from_weight, code=step.code or "", figures=step.figures,
                  reason=step.reason, by=by, now=now)  # fmt: skip
    return values, event


def _give_version(switches: Sequence[VersionSwitch], *, now: datetime) -> None:
    for switch in switches:
        if switch.state == State.COMPLETED:
            Endpoint.objects.filter(pk=switch.endpoint_id).update(version=switch.target_id, updated_at=now)


def hold_locked(*, holds: Sequence[tuple[VersionSwitch, Hold, float]], now: datetime) -> None:
    """Note why switches stand still, and the seconds of their soak; the caller's transaction holds their rows locked.

    What a person should know of is written into the log when it begins, once in a soak: figures that swing around a
    gate for a week must not fill it.
    """
    if not holds:
        return
    lines: list[SwitchEvent] = []
    for switch, hold, seconds in holds:
        has_begun = hold.code in switching.ALARMING and hold.code != switch.verdict
        switch.verdict, switch.verdict_figures = hold.code, dict(hold.figures)
        switch.soaked_seconds, switch.ticked_at = seconds, now
        switch.check_at = next_check(switch, now=now)
        if has_begun:
            lines.append(_line(switch, kind=SwitchEvent.Kind.HELD, from_weight=switch.weight, code=hold.code,
                               figures=hold.figures, reason="", by=SYSTEM, now=now))  # fmt: skip
    held = [switch for switch, _hold, _seconds in holds]
    update_rows(held, ["verdict", "verdict_figures", "soaked_seconds", "ticked_at", "check_at"])
    if lines:
        said = set(
            SwitchEvent.objects.filter(switch__in=[line.switch_id for line in lines], kind=SwitchEvent.Kind.HELD)
            .values_list("switch_id", "soak", "code")
            .distinct()
        )
        new = [line for line in lines if (line.switch_id, line.soak, str(line.code)) not in said]
        SwitchEvent.objects.bulk_create(new, batch_size=BATCH)


def note(
    *,
    switch: VersionSwitch,
    code: Code,
    figures: Mapping[str, Any],
    now: datetime,
    kind: SwitchEvent.Kind = SwitchEvent.Kind.NOTE,
    by: Actor = SYSTEM,
) -> None:
    """Write a line into the log; nothing moves."""
    _line(switch, kind=kind, from_weight=switch.weight, code=code, figures=figures, reason="", by=by,
          now=now).save(force_insert=True)  # fmt: skip


def soaked(switch: VersionSwitch, now: datetime) -> float:
    """The seconds spent in this soak up to `now`, as the next tick would count them."""
    since = now - switch.ticked_at
    return switch.soaked_seconds + min(max(since, timedelta(0)), MAX_STEP).total_seconds()


def next_check(switch: VersionSwitch, *, now: datetime) -> datetime:
    """When the tick looks again: at the end of the step, and every six to ten seconds until then.

    By id, so that a thousand switches do not all have the same turn.
    """
    if switch.state == State.PREPARING:
        return now + timedelta(seconds=1)
    turn = float(CHECK_SECONDS - (switch.pk or 0) % 5)
    remaining = _hold_seconds(switch) - switch.soaked_seconds
    return now + timedelta(seconds=min(turn, remaining) if remaining > 0 else turn)


def _hold_seconds(switch: VersionSwitch) -> float:
    if switch.state == State.RETURNING:
        return float(switch.return_hold_seconds or 0)
    return float(switch.ladder[switch.rung]["hold_seconds"]) if switch.rung >= 0 else 0.0


def _line(
    switch: VersionSwitch,
    *,
    kind: SwitchEvent.Kind,
    from_weight: int,
    code: str,
    figures: Mapping[str, Any],
    reason: str,
    by: Actor,
    now: datetime,
) -> SwitchEvent:
    return SwitchEvent(
        switch=switch, at=now, kind=kind, soak=switch.soak, rung=switch.rung, weight=switch.weight,
        from_weight=from_weight, code=code, figures=dict(figures), reason=reason[:REASON_LENGTH], actor_id=by.id,
        actor_name=by.name,
    )  # fmt: skip
