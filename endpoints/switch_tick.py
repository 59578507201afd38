"""The tick of version switches: what is due is locked, judged by `switching.decide` and moved one step at most.

Truth is in the rows. A tick that dies, runs twice, late or beside another changes nothing more: rows are taken with
SKIP LOCKED, what was looked at is not due again, and a batch is one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Max

from audit import services as audit
from catalog import probing
from catalog.models import Deployment, FoundationModel, ModelServer
from endpoints import switch_moves, switching
from endpoints.models import Desired, Endpoint, Status, SwitchEvent, VersionSwitch
from endpoints.switch_moves import Step
from endpoints.switching import (
    Advance,
    Code,
    Direction,
    Health,
    Hold,
    OnBreach,
    Promote,
    RollBack,
    State,
    StepDown,
    SwitchState,
    Warm,
)
from iam.actors import SYSTEM
from metering import health
from metering.health import Sums

BATCH = 200
"""Rows per transaction: a person's verb waits for one of them at most."""
WARM_AGAIN = timedelta(seconds=60)
"""A call that nobody reported on was lost with its worker; its deadline is a third of this."""

Checkpoint = Callable[[str], None]
"""Called with the name of each step that was just done: where a test lets the tick die."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """How many switches were looked at and moved, and which of them want their one-token call now."""

    looked_at: int = 0
    moved: int = 0
    to_warm: tuple[int, ...] = ()

    def __add__(self, other: Ticked) -> Ticked:
        return Ticked(self.looked_at + other.looked_at, self.moved + other.moved, self.to_warm + other.to_warm)


def tick(*, now: datetime, checkpoint: Checkpoint = lambda _step: None) -> Ticked:
    """Look at every open switch whose turn has come. Running it again at once, or twice at a time, changes nothing more."""
    ticked = Ticked()
    last = 0
    is_late: bool | None = None
    while True:
        with transaction.atomic():
            batch = _due(now, after=last)
            if batch and is_late is None:
                is_late = health.is_late(now)
            ticked += _settle(batch, is_late=bool(is_late), now=now, checkpoint=checkpoint)
        checkpoint("committed")
        if len(batch) < BATCH:
            return ticked
        last = batch[-1].pk


def servers_of(version_ids: Iterable[int]) -> dict[int, datetime]:
    """{version: last probe of a server that is up and runs it}; a version without one is left out. One query."""
    rows = (
        Deployment.objects.filter(
            version__in=set(version_ids),
            is_enabled=True,
            server__is_enabled=True,
            server__state=ModelServer.State.UP,
        )
        .order_by()
        .values_list("version_id")
        .annotate(at=Max("server__probed_at"))
    )
    return {version_id: at or _NEVER for version_id, at in rows}


_NEVER = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _due(now: datetime, *, after: int) -> list[VersionSwitch]:
    return list(
        VersionSwitch.objects.due(now)
        .filter(pk__gt=after)
        .select_related("endpoint__project", "source__model", "target__model")
        .select_for_update(of=("self",), skip_locked=True, no_key=True)
        .order_by("pk")[:BATCH]
    )


def _settle(batch: Sequence[VersionSwitch], *, is_late: bool, now: datetime, checkpoint: Checkpoint) -> Ticked:
    if not batch:
        return Ticked()
    checkpoint("locked")
    facts = _health(batch, is_late=is_late)
    holds: list[tuple[VersionSwitch, Hold, float]] = []
    steps: list[tuple[VersionSwitch, Step]] = []
    to_warm: list[int] = []
    for switch in batch:
        seconds = switch_moves.soaked(switch, now) if switch.state in _RUNNING else switch.soaked_seconds
        verdict = switching.decide(_state(switch, seconds), facts[switch.pk], now)
        if isinstance(verdict, Hold):
            if verdict.code in switching.STANDING:
                seconds = switch.soaked_seconds
            if verdict.code == Code.WARMING and _may_ask(switch, now):
                to_warm.append(switch.pk)
            holds.append((switch, verdict, seconds))
        else:
            steps.append((switch, _step(switch, verdict)))
    checkpoint("decided")
    switch_moves.hold_locked(holds=holds, now=now)
    checkpoint("held")
    VersionSwitch.objects.filter(pk__in=to_warm).update(warm_asked_at=now)
    steps = _without_busy_endpoints(steps)
    switch_moves.move_locked(steps=steps, now=now)
    checkpoint("moved")
    _record_endings(steps, now=now)
    checkpoint("recorded")
    return Ticked(looked_at=len(batch), moved=len(steps), to_warm=tuple(to_warm))


_RUNNING = (State.CLIMBING, State.RETURNING)


def _may_ask(switch: VersionSwitch, now: datetime) -> bool:
    return switch.warm_asked_at is None or abs(now - switch.warm_asked_at) > WARM_AGAIN


def _step(switch: VersionSwitch, verdict: Advance | StepDown | Promote | RollBack) -> Step:
    match verdict:
        case Advance():
            to, rung, kind = State.CLIMBING, switch.rung + 1, SwitchEvent.Kind.ADVANCED
        case StepDown():
            to, rung, kind = State.RETURNING, switch.rung - 1, SwitchEvent.Kind.STEPPED_BACK
        case Promote():
            to, rung, kind = State.COMPLETED, len(switch.ladder) - 1, SwitchEvent.Kind.COMPLETED
        case RollBack():
            to, rung, kind = State.ROLLED_BACK, -1, SwitchEvent.Kind.ROLLED_BACK
    return Step(to, rung, kind, code=verdict.code, figures=verdict.figures)


def _state(switch: VersionSwitch, seconds: float) -> SwitchState:
    endpoint, source, target = switch.endpoint, switch.source, switch.target
    is_closed = endpoint.desired == Desired.STOPPED or endpoint.status in (Status.STOPPED, Status.SCHEDULING)
    return SwitchState(
        state=State(switch.state), ladder=switching.ladder_of(switch), gates=switching.gates_of(switch),
        on_breach=OnBreach(switch.on_breach), rung=switch.rung, soaked_seconds=seconds, created_at=switch.created_at,
        direction=Direction(switch.direction), return_hold_seconds=switch.return_hold_seconds, warm=Warm(switch.warm),
        warm_detail=switch.warm_detail, source=source.public_id, target=target.public_id,
        source_retires_at=source.retires_at, target_retires_at=target.retires_at,
        is_endpoint_deleted=endpoint.deleted_at is not None, is_endpoint_closed=is_closed,
    )  # fmt: skip


def _health(batch: Sequence[VersionSwitch], *, is_late: bool) -> dict[int, Health]:
    """What is known of both sides of each switch; two queries for all of them."""
    up = servers_of(switch.target_id for switch in batch)
    gated = [switch for switch in batch if switch.gates is not None and switch.state == State.CLIMBING]
    sums = health.sums(
        key
        for switch in gated
        for key in ((switch.pk, switch.soak, switch.target_id), (switch.pk, health.WHOLE, switch.source_id))
    )
    nothing = Sums()
    return {
        switch.pk: Health(
            has_server=switch.target_id in up,
            probed_at=up.get(switch.target_id),
            is_late=is_late,
            target=sums.get((switch.pk, switch.soak, switch.target_id), nothing),
            source=sums.get((switch.pk, health.WHOLE, switch.source_id), nothing),
        )
        for switch in batch
    }


def _without_busy_endpoints(steps: Sequence[tuple[VersionSwitch, Step]]) -> list[tuple[VersionSwitch, Step]]:
    """The steps, less those that would complete on an endpoint which somebody holds at the moment: they come next time.

    People lock the endpoint first and its switch then; whoever holds the switch must not wait for the endpoint.
    """
    completing = [switch.endpoint_id for switch, step in steps if step.to == State.COMPLETED]
    if not completing:
        return list(steps)
    free = set(
        Endpoint.objects.filter(pk__in=completing)
        .select_for_update(skip_locked=True, no_key=True)
        .values_list("pk", flat=True)
    )
    return [(switch, step) for switch, step in steps if step.to != State.COMPLETED or switch.endpoint_id in free]


def _record_endings(steps: Sequence[tuple[VersionSwitch, Step]], *, now: datetime) -> None:
    """What the system ended goes into the audit record: it changed what an endpoint serves, or gave up doing so."""
    ended = [(switch, step) for switch, step in steps if step.to in switch_moves.ENDED]
    # Chains in one order, so that two ticks never wait for each other crosswise.
    for switch, step in sorted(ended, key=lambda pair: (pair[0].endpoint.project_id, pair[0].pk)):
        endpoint = switch.endpoint
        is_complete = step.to == State.COMPLETED
        with audit.attempt(
            by=SYSTEM, action="ark:FinishVersionSwitch" if is_complete else "ark:RollBackVersionSwitch",
            project_id=endpoint.project_id, project_name=endpoint.project.name, resource=endpoint.trn,
            resource_name=endpoint.name, now=now,
        ) as noted:  # fmt: skip
            noted.changed(state=(None, switch.state), weight=(None, switch.weight), why=(None, str(step.code)))
            if is_complete:
                noted.changed(version=(switch.source.public_id, switch.target.public_id))


def warm(
    *, switch_id: int, now: datetime, client: Callable[[ModelServer], probing.ModelServerClient] = probing.client_for
) -> None:
    """Make the one-token call to a server of the target, and write down how it went. Paid, so once: whoever is late or
    second finds nothing wanted."""
    switch = (
        VersionSwitch.objects.filter(pk=switch_id, state=State.PREPARING, warm=Warm.WANTED)
        .select_related("target__model")
        .first()
    )
    if switch is None:
        return
    deployment = (
        Deployment.objects.filter(
            version=switch.target_id, is_enabled=True, server__is_enabled=True, server__state=ModelServer.State.UP
        )
        .select_related("server")
        .order_by("-weight", "pk")
        .first()
    )
    if deployment is None:
        return  # the tick asks again when one is up
    is_embedding = switch.target.model.domain == FoundationModel.Domain.EMBEDDING
    try:
        with client(deployment.server) as asked:
            asked.warm(deployment.upstream_model, is_embedding=is_embedding)
    except probing.ProbeFailed as failure:
        result, detail = Warm.FAILED, f"{deployment.server.name}: {failure.detail or failure.trouble.value}"
    else:
        result, detail = Warm.PASSED, deployment.server.name
    VersionSwitch.objects.filter(pk=switch_id, warm=Warm.WANTED).update(
        warm=result, warm_detail=detail[:255], check_at=now
    )
