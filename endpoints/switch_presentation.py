"""What the pages of a version switch show, gathered in a fixed number of queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _

from endpoints import switch_services, switching
from endpoints.models import Endpoint, SwitchEvent, VersionSwitch
from endpoints.switching import Code, Health, Verb
from iam.actors import Actor
from metering import health
from metering.health import Sums

State = VersionSwitch.State
_VERB_ORDER = (Verb.PAUSE, Verb.RESUME, Verb.ADVANCE, Verb.STEP_BACK, Verb.RETURN, Verb.FINISH, Verb.CANCEL)
_ICONS = {
    Verb.PAUSE: "pause",
    Verb.RESUME: "play",
    Verb.ADVANCE: "step-forward",
    Verb.STEP_BACK: "step-back",
    Verb.RETURN: "undo-2",
    Verb.FINISH: "fast-forward",
    Verb.CANCEL: "x",
    Verb.ROLL_BACK: "rotate-ccw",
}


@dataclass(frozen=True)
class Step:
    """One step of the plan. `place` is "past", "here" or "ahead"."""

    number: int
    weight: int
    hold: str
    place: str


@dataclass(frozen=True)
class SoakRow:
    """Both sides during one stay on a rung; `weight` is what was wanted meanwhile."""

    at: datetime
    weight: int
    is_here: bool
    source: Sums
    target: Sums

    @property
    def seen_percent(self) -> float | None:
        """The share of calls that the target had; None without calls."""
        both = self.source.calls + self.target.calls
        return None if not both else 100 * self.target.calls / both


@dataclass(frozen=True)
class LogLine:
    """One line of the log: what happened, why by the rules, and why in a person's words."""

    event: SwitchEvent
    sentence: str

    @property
    def is_move(self) -> bool:
        return self.event.weight != self.event.from_weight


@dataclass(frozen=True)
class GateLine:
    """One gate with its figures: percentages, or milliseconds where `is_time`. `source` is None for the absolute gate.

    `state`: "kept", "broken", or "open" while too few calls speak.
    """

    label: str
    target: float | None
    source: float | None
    allowed: str
    is_time: bool
    state: str


@dataclass(frozen=True)
class Button:
    """A verb that fits the state and that the person may use.

    `slot` names its place: going on stands where pausing stood, so that the keyboard stays there.
    """

    verb: Verb
    icon: str

    @property
    def slot(self) -> str:
        return Verb.PAUSE.value if self.verb == Verb.RESUME else self.verb.value


@dataclass(frozen=True)
class Watch:
    """Everything on the page of one switch."""

    switch: VersionSwitch
    steps: Sequence[Step]
    rows: Sequence[SoakRow]
    log: Sequence[LogLine]
    sentence: str
    is_alarming: bool
    gates: Sequence[GateLine]
    remaining: str
    buttons: Sequence[Button]
    may_roll_back: bool
    may_switch_back: bool

    @property
    def here(self) -> SoakRow | None:
        return next((row for row in self.rows if row.is_here), None)

    @property
    def seen_percent(self) -> float | None:
        return self.here.seen_percent if self.here else None


def watch(switch: VersionSwitch, *, by: Actor) -> Watch:
    """What the page of `switch` shows `by`; two queries."""
    events = list(switch.events.all())
    sums = health.by_soak(switch.pk)
    remaining = switching.remaining_seconds(switch)
    fitting = [verb for verb in switching.verbs(switch) if by.can(switch_services.PERMISSION[verb], switch.endpoint)]
    return Watch(
        switch=switch,
        steps=_steps(switch),
        rows=_rows(switch, events, sums),
        log=[LogLine(event, switching.event_sentence(event)) for event in reversed(events)],
        sentence=_sentence(switch),
        gates=_gate_lines(switch, sums),
        is_alarming=switch.is_open and switch.verdict in switching.ALARMING,
        remaining="" if remaining is None else switching.span(remaining),
        buttons=[Button(verb, _ICONS[verb]) for verb in _VERB_ORDER if verb in fitting],
        # Before the first step there is nothing to roll back: cancelling says the same.
        may_roll_back=Verb.ROLL_BACK in fitting and switch.rung >= 0,
        may_switch_back=may_switch_back(switch, by=by),
    )


def may_switch_back(switch: VersionSwitch, *, by: Actor) -> bool:
    """Whether the person may now start the same switch in the other direction."""
    is_served = switch.state == State.COMPLETED and switch.target_id == switch.endpoint.version_id
    return is_served and by.can(switch_services.START, switch.endpoint)


def _sentence(switch: VersionSwitch) -> str:
    if switch.is_open:
        return switching.verdict_sentence(switch)
    last = switch.events.last()
    if last is None:
        return ""
    return _("%(what)s. %(why)s") % {"what": last.get_kind_display(), "why": switching.event_sentence(last)}


def _steps(switch: VersionSwitch) -> list[Step]:
    def place(index: int) -> str:
        if switch.state == State.COMPLETED or index < switch.rung:
            return "past"
        return "here" if index == switch.rung and switch.is_open else "ahead"

    return [
        Step(index + 1, rung.weight, switching.span(rung.hold_seconds), place(index))
        for index, rung in enumerate(switching.ladder_of(switch))
    ]


_GATE_CODES = {
    "error_rate_percent": Code.ERROR_RATE,
    "error_points_over_source": Code.ERRORS_OVER_SOURCE,
    "rejection_points_over_source": Code.REJECTIONS_OVER_SOURCE,
    "first_token_ratio": Code.FIRST_TOKEN_SLOWER,
    "duration_ratio": Code.DURATION_SLOWER,
}


def _gate_lines(switch: VersionSwitch, sums: Mapping[tuple[int, int], Sums]) -> list[GateLine]:
    gates = switching.gates_of(switch)
    if gates is None or not switch.is_open or switch.rung < 0:
        return []
    target = sums.get((switch.soak, switch.target_id), Sums())
    source = sums.get((health.WHOLE, switch.source_id), Sums())
    broken = {code for code, _figures in switching.breaches(gates, Health(target=target, source=source))}
    # Not judged yet, as `decide` has it.
    is_open = target.calls < gates.min_samples
    is_alone = is_open or source.calls < gates.min_samples
    shown: list[tuple[str, str, str, float | None, float | None]] = [
        ("error_rate_percent", _("Errors"), "≤ %s %%", target.error_percent, None),
        (
            "error_points_over_source", _("Errors beside the source"), _("+ %s points"),
            target.error_percent, source.error_percent,
        ),
        (
            "rejection_points_over_source", _("Rejections (4xx) beside the source"), _("+ %s points"),
            target.rejection_percent, source.rejection_percent,
        ),
        ("first_token_ratio", "TTFT p95", "× %s", target.first_token_p95, source.first_token_p95),
        ("duration_ratio", _("Duration p95"), "× %s", target.duration_p95, source.duration_p95),
    ]  # fmt: skip
    lines = []
    for name, label, allowed, mine, theirs in shown:
        limit = getattr(gates, name)
        if limit is None:
            continue
        is_waiting = is_open if name == "error_rate_percent" else is_alone
        state = "open" if is_waiting else "broken" if _GATE_CODES[name] in broken else "kept"
        is_time = name.endswith("_ratio")
        lines.append(GateLine(label, mine, theirs, allowed % f"{limit:g}", is_time, state))
    return lines


def _rows(switch: VersionSwitch, events: Sequence[SwitchEvent], sums: Mapping[tuple[int, int], Sums]) -> list[SoakRow]:
    begun: dict[int, SwitchEvent] = {}
    for event in events:
        begun.setdefault(event.soak, event)
    rows = [
        SoakRow(
            at=event.at,
            weight=event.weight,
            is_here=switch.is_open and soak == switch.soak,
            source=sums.get((soak, switch.source_id), Sums()),
            target=sums.get((soak, switch.target_id), Sums()),
        )
        for soak, event in begun.items()
    ]
    return [row for row in reversed(rows) if row.is_here or row.source.calls or row.target.calls]


@dataclass(frozen=True)
class Point:
    """One step of the chart: the share wanted and the share seen (None without calls), in percent."""

    at: datetime
    wanted: int
    seen: float | None
    source_calls: int
    target_calls: int


def points(switch: VersionSwitch, *, now: datetime) -> list[Point]:
    """Wanted and seen share over time, oldest first; two queries."""
    until = switch.ended_at or now
    calls: dict[datetime, dict[int, int]] = {}
    for share in health.shares(switch.pk, since=switch.created_at, now=until):
        calls.setdefault(share.at, {})[share.version_id] = share.calls
    moves = [(event.at, event.weight) for event in switch.events.all()]
    times = sorted({*calls, *(at for at, _wanted in moves), until})
    found, wanted = [], 0
    for at in times:
        wanted = next((weight for moved_at, weight in reversed(moves) if moved_at <= at), wanted)
        mine = calls.get(at, {})
        source, target = mine.get(switch.source_id, 0), mine.get(switch.target_id, 0)
        seen = 100 * target / (source + target) if source + target else None
        found.append(Point(at, wanted, seen, source, target))
    return found


def chart(switch: VersionSwitch, *, now: datetime) -> dict[str, Any]:
    """`points` as the chart reads them: columns, times in epoch seconds."""
    found = points(switch, now=now)
    return {
        "time": [point.at.timestamp() for point in found],
        "wanted": [point.wanted for point in found],
        "seen": [None if point.seen is None else round(point.seen, 1) for point in found],
    }


def open_switches(endpoints: Sequence[Endpoint]) -> dict[str, VersionSwitch]:
    """The open switch of each endpoint that has one; one query."""
    wanted = [endpoint.pk for endpoint in endpoints if not endpoint.is_preset]
    rows = VersionSwitch.objects.open().filter(endpoint__in=wanted)
    return {switch.endpoint_id: switch for switch in rows}


def banner(endpoint: Endpoint, *, by: Actor) -> VersionSwitch | None:
    """The open switch for the banner on the endpoint's other pages; no query for a preset one, which has none."""
    if endpoint.is_preset or not by.can(switch_services.GET, endpoint):
        return None
    return switch_services.open_switch(endpoint.pk)


def last_points(switch: VersionSwitch, *, most: int = 60) -> list[Point]:
    """The latest points, newest first, for the table beside the chart."""
    return list(reversed(points(switch, now=timezone.now())))[:most]
