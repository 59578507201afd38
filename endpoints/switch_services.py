"""What people do with a version switch. Each function is one transaction with its audit event as the last statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _

from audit import services as audit
from catalog.models import FoundationModel, ModelServer, ModelVersion
from common.errors import Conflict, DomainError
from endpoints import switch_moves, switch_preview, switch_tick, switching, tasks
from endpoints.models import Desired, Endpoint, SwitchEvent, VersionSwitch
from endpoints.switch_moves import Step
from endpoints.switching import Code, Direction, Gates, OnBreach, Rung, State, Verb, Warm
from iam.actors import Actor

START = "ark:StartVersionSwitch"
PAUSE = "ark:PauseVersionSwitch"
RESUME = "ark:ResumeVersionSwitch"
STEP_BACK = "ark:StepBackVersionSwitch"
ADVANCE = "ark:AdvanceVersionSwitch"
FINISH = "ark:FinishVersionSwitch"
ROLL_BACK = "ark:RollBackVersionSwitch"
CANCEL = "ark:CancelVersionSwitch"
GET = "ark:GetVersionSwitch"

PERMISSION: dict[Verb, str] = {
    Verb.PAUSE: PAUSE,
    Verb.RESUME: RESUME,
    Verb.STEP_BACK: STEP_BACK,
    Verb.ADVANCE: ADVANCE,
    Verb.RETURN: ROLL_BACK,
    Verb.ROLL_BACK: ROLL_BACK,
    Verb.FINISH: FINISH,
    Verb.CANCEL: CANCEL,
}


def start(
    *,
    endpoint: Endpoint,
    target: ModelVersion,
    ladder: Sequence[Rung | Mapping[str, Any]],
    gates: Gates | None,
    on_breach: str,
    warm: bool,
    confirmed: bool,
    reason: str,
    by: Actor,
    now: datetime,
) -> VersionSwitch:
    """Begin to move the endpoint's traffic to `target` step by step; the first step waits for a fresh probe.

    Raises `NotAllowed`; `DomainError` with `field` ("target", "ladder", "gates" or a gate's name, "on_breach", "warm",
    "confirmed", "reason"), without one where the endpoint itself will not do or has an open switch already.
    """
    with _acting(endpoint, START, by=by, now=now) as (stored, noted):
        _check_endpoint(stored)
        fresh = ModelVersion.objects.for_list().filter(pk=target.pk).first()
        if fresh is None:
            raise DomainError(_("There is no such version."), field="target")
        if why_not := switch_preview.refusal(endpoint=stored, target=fresh, now=now):
            raise DomainError(why_not, field="target")
        rungs = switching.clean_ladder(ladder)
        kept = switching.clean_gates(gates)
        if stored.version.model.domain == FoundationModel.Domain.EMBEDDING:
            _check_cut_over(rungs, kept)
        if on_breach not in OnBreach.values:
            raise DomainError(_("Choose what a breach does."), field="on_breach")
        if not confirmed:
            raise DomainError(_("Confirm that you have read what changes."), field="confirmed")
        switch = VersionSwitch(
            endpoint=stored, source=stored.version, target=fresh, ladder=switching.stored_ladder(rungs),
            gates=switching.stored_gates(kept), on_breach=on_breach, warm=Warm.WANTED if warm else Warm.NONE,
            verdict=Code.WAITING_FOR_PROBE, verdict_figures={"target": fresh.public_id},
            reason=_clean_reason(reason), started_by_id=by.id, started_by_name=by.name, created_at=now, ticked_at=now,
            check_at=now,
        )  # fmt: skip
        switch.save(force_insert=True)
        switch_moves.begin(switch=switch, by=by, now=now)
        # The probe is free, and comes with the next tick of the catalogue.
        ModelServer.objects.filter(is_enabled=True, deployments__version=fresh, deployments__is_enabled=True).update(
            next_probe_at=now
        )
        noted.changed(
            version=(switch.source.public_id, switch.target.public_id),
            ladder=(None, switch.ladder),
            gates=(None, switch.gates),
            on_breach=(None, on_breach),
            reason=("", switch.reason),
        )
    return switch


def pause(*, switch: VersionSwitch, seen_moves: int, reason: str, by: Actor, now: datetime) -> VersionSwitch:
    """Keep the traffic as it is until somebody resumes. Raises as `_moving` says."""
    with _moving(switch, Verb.PAUSE, seen_moves=seen_moves, reason=reason, by=by, now=now) as (stored, words):
        stored.soaked_seconds = switch_moves.soaked(stored, now)
        step = Step(State.PAUSED, stored.rung, SwitchEvent.Kind.PAUSED, code=Code.PAUSED, reason=words)
        switch_moves.move(switch=stored, step=step, by=by, now=now)
    return stored


def resume(*, switch: VersionSwitch, seen_moves: int, reason: str, by: Actor, now: datetime) -> VersionSwitch:
    """Go on where the switch was paused, in the same direction. Raises as `_moving` says."""
    with _moving(switch, Verb.RESUME, seen_moves=seen_moves, reason=reason, by=by, now=now) as (stored, words):
        _by_hand(stored, switching.resumed_state(stored), stored.rung, SwitchEvent.Kind.RESUMED, words, by=by, now=now)
    return stored


def step_back(*, switch: VersionSwitch, seen_moves: int, reason: str, by: Actor, now: datetime) -> VersionSwitch:
    """One rung down, and its time begins anew; a paused switch stays paused. Raises as `_moving` says."""
    with _moving(switch, Verb.STEP_BACK, seen_moves=seen_moves, reason=reason, by=by, now=now) as (stored, words):
        _by_hand(stored, State(stored.state), stored.rung - 1, SwitchEvent.Kind.STEPPED_BACK, words, by=by, now=now)
    return stored


def advance(*, switch: VersionSwitch, seen_moves: int, reason: str, by: Actor, now: datetime) -> VersionSwitch:
    """One rung up whatever the gates say; a paused switch stays paused. The first one still needs the probe.

    Raises as `_moving` says, and `DomainError` where the target cannot serve.
    """
    with _moving(switch, Verb.ADVANCE, seen_moves=seen_moves, reason=reason, by=by, now=now) as (stored, words):
        _check_can_serve(stored, now=now, is_first=stored.rung < 0)
        state = State(stored.state)
        to = State.CLIMBING if state == State.PREPARING else state
        _by_hand(stored, to, stored.rung + 1, SwitchEvent.Kind.ADVANCED_BY_HAND, words, by=by, now=now)
    return stored


def return_gradually(
    *, switch: VersionSwitch, hold_seconds: int, seen_moves: int, reason: str, by: Actor, now: datetime
) -> VersionSwitch:
    """Down the ladder rung by rung, each for `hold_seconds`; the first step down is now. Raises as `_moving` says."""
    with _moving(switch, Verb.RETURN, seen_moves=seen_moves, reason=reason, by=by, now=now) as (stored, words):
        if not switching.MIN_HOLD_SECONDS <= hold_seconds <= switching.MAX_HOLD_SECONDS:
            raise DomainError(_("A step must last from 30 seconds to 24 hours."), field="hold_seconds")
        if stored.rung == 0:
            _by_hand(stored, State.ROLLED_BACK, -1, SwitchEvent.Kind.ROLLED_BACK, words, by=by, now=now)
        else:
            _by_hand(
                stored, State.RETURNING, stored.rung - 1, SwitchEvent.Kind.RETURNING, words, by=by, now=now,
                direction=Direction.DOWN, return_hold_seconds=hold_seconds,
            )  # fmt: skip
    return stored


def roll_back_now(*, switch: VersionSwitch, reason: str, by: Actor, now: datetime) -> VersionSwitch:
    """All traffic back to the source with one write, whatever moved meanwhile. Raises `NotAllowed`, `DomainError` when
    the switch has ended."""
    with _moving(switch, Verb.ROLL_BACK, seen_moves=None, reason=reason, by=by, now=now) as (stored, words):
        _by_hand(stored, State.ROLLED_BACK, -1, SwitchEvent.Kind.ROLLED_BACK, words, by=by, now=now)
    return stored


def finish_now(*, switch: VersionSwitch, seen_moves: int, reason: str, by: Actor, now: datetime) -> VersionSwitch:
    """All traffic to the target, which becomes the endpoint's version at once. Raises as `_moving` says, and
    `DomainError` where the target cannot serve."""
    with _moving(switch, Verb.FINISH, seen_moves=seen_moves, reason=reason, by=by, now=now) as (stored, words):
        _check_can_serve(stored, now=now, is_first=False)
        _by_hand(stored, State.COMPLETED, len(stored.ladder) - 1, SwitchEvent.Kind.FINISHED, words, by=by, now=now)
        tasks.nudge()
    return stored


def cancel(*, switch: VersionSwitch, seen_moves: int, reason: str, by: Actor, now: datetime) -> VersionSwitch:
    """End a switch that has moved nothing yet. Raises as `_moving` says."""
    with _moving(switch, Verb.CANCEL, seen_moves=seen_moves, reason=reason, by=by, now=now) as (stored, words):
        _by_hand(stored, State.CANCELLED, -1, SwitchEvent.Kind.CANCELLED, words, by=by, now=now)
    return stored


def open_switch(endpoint_id: str) -> VersionSwitch | None:
    """The open switch of an endpoint, with its versions and their models; one query."""
    return (
        VersionSwitch.objects.open()
        .filter(endpoint=endpoint_id)
        .select_related("endpoint__project", "source__model", "target__model")
        .first()
    )


@contextmanager
def _acting(endpoint: Endpoint, action: str, *, by: Actor, now: datetime) -> Iterator[tuple[Endpoint, audit.Attempt]]:
    """The stored endpoint, locked, inside an audited transaction in which `by` may do `action`."""
    with audit.attempt(
        by=by, action=action, project_id=endpoint.project_id, project_name=endpoint.project.name,
        resource=endpoint.trn, resource_name=endpoint.name, now=now,
    ) as noted:  # fmt: skip
        by.require(action, endpoint)
        # First the row alone: locked together with its version, PostgreSQL drops a row whose version changed during
        # the wait, and people would read that their endpoint has been deleted.
        Endpoint.objects.select_for_update(no_key=True).filter(pk=endpoint.pk).first()
        stored = Endpoint.objects.alive().select_related("version__model", "project").filter(pk=endpoint.pk).first()
        if stored is None:
            raise DomainError(_("This endpoint has been deleted."))
        yield stored, noted


@contextmanager
def _moving(
    switch: VersionSwitch, verb: Verb, *, seen_moves: int | None, reason: str, by: Actor, now: datetime
) -> Iterator[tuple[VersionSwitch, str]]:
    """The stored switch, locked after its endpoint, and the person's words.

    Raises `NotAllowed`; `Conflict` when it has moved since it had `seen_moves`; `DomainError` when it has ended or the
    verb does not fit its state.
    """
    with _acting(switch.endpoint, PERMISSION[verb], by=by, now=now) as (endpoint, noted):
        stored = (
            VersionSwitch.objects.select_related("source__model", "target__model")
            .select_for_update(of=("self",), no_key=True)
            .get(pk=switch.pk, endpoint=endpoint)
        )
        stored.endpoint = endpoint
        if not stored.is_open:
            raise DomainError(_("This switch has ended: “%(state)s”.") % {"state": stored.get_state_display()})
        if seen_moves is not None and stored.moves != seen_moves:
            raise Conflict(_("This switch has moved meanwhile. Look again, then decide."))
        if verb not in switching.verbs(stored):
            raise DomainError(_refusal(verb, stored))
        words = _clean_reason(reason)
        before = (stored.state, stored.weight)
        yield stored, words
        noted.changed(
            state=(before[0], stored.state),
            weight=(before[1], stored.weight),
            reason=("", words),
        )
        if stored.state == State.COMPLETED:
            noted.changed(version=(stored.source.public_id, stored.target.public_id))


def _by_hand(
    switch: VersionSwitch,
    to: State,
    rung: int,
    kind: SwitchEvent.Kind,
    reason: str,
    *,
    by: Actor,
    now: datetime,
    direction: Direction | None = None,
    return_hold_seconds: int | None = None,
) -> None:
    step = Step(to, rung, kind, direction, Code.BY_PERSON, {"name": by.name}, reason, return_hold_seconds)
    switch_moves.move(switch=switch, step=step, by=by, now=now)


def _refusal(verb: Verb, switch: VersionSwitch) -> str:
    """Why `verb` does not fit the state of an open switch."""
    if verb == Verb.CANCEL:
        return _("The first step has been taken. Roll back instead.")
    if switch.rung < 0 and verb in (Verb.STEP_BACK, Verb.RETURN, Verb.FINISH):
        return _("The first step has not been taken yet. Cancel the switch instead.")
    if verb == Verb.STEP_BACK:
        return _("This is the first step. Roll back instead.")
    if verb == Verb.ADVANCE and switch.direction == Direction.UP:
        return _("This is the last step. Finish instead.")
    return _("A switch that is “%(state)s” cannot do this: %(verb)s.") % {
        "state": switch.get_state_display(),
        "verb": verb.label,
    }


def _check_endpoint(endpoint: Endpoint) -> None:
    if endpoint.is_preset:
        raise DomainError(_("A preset endpoint always serves its own version. Create a custom one to switch."))
    if endpoint.desired == Desired.STOPPED:
        raise DomainError(_("This endpoint is stopped. Start it first."))
    if VersionSwitch.objects.open().filter(endpoint=endpoint).exists():
        raise DomainError(_("A switch of this endpoint is under way already."))


def _check_cut_over(rungs: Sequence[Rung], gates: Gates | None) -> None:
    if [rung.weight for rung in rungs] != [100]:
        raise DomainError(
            _("Vectors of two embedding models do not mix: there is one step of 100 percent."), field="ladder"
        )
    if gates is not None and gates.compares:
        raise DomainError(
            _("At 100 percent there is nothing to compare with: only the error rate itself can be a gate."),
            field="gates",
        )


def _check_can_serve(switch: VersionSwitch, *, now: datetime, is_first: bool) -> None:
    """Raise where people must not send traffic to the target by hand either."""
    target = {"target": switch.target.public_id}
    if switch.target.is_retired(now):
        raise DomainError(_("%(target)s has been retired.") % target)
    fact = switch_tick.servers_of([switch.target_id]).get(switch.target_id)
    if fact is None:
        raise DomainError(switching.sentence(Code.NO_SERVER, target))
    if is_first and fact < switch.created_at:
        raise DomainError(switching.sentence(Code.WAITING_FOR_PROBE, target))


def _clean_reason(reason: str) -> str:
    clean = reason.replace("\0", "").strip()
    if len(clean) > switch_moves.REASON_LENGTH:
        raise DomainError(
            _("A reason has at most %(max)s characters.") % {"max": switch_moves.REASON_LENGTH}, field="reason"
        )
    return clean
