"""The version switch as a set of rules: the diagram, the plans, and `decide`, which says what the next tick does and why.

Nothing here reads a clock, a table or the network. `endpoints.switch_moves` is the only door through which a switch
moves, `endpoints.switch_tick` asks `decide` for every open switch, `endpoints.switch_services` is what people do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Protocol

from django.db import models
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from common.errors import DomainError
from endpoints.models import OPEN_STATES, SwitchEvent, VersionSwitch
from metering.health import Sums, p95

State = VersionSwitch.State
Direction = VersionSwitch.Direction
OnBreach = VersionSwitch.OnBreach
Warm = VersionSwitch.Warm

ALLOWED: dict[State, frozenset[State]] = {
    State.PREPARING: frozenset({State.CLIMBING, State.PAUSED, State.COMPLETED, State.ROLLED_BACK, State.CANCELLED}),
    State.CLIMBING: frozenset({State.CLIMBING, State.PAUSED, State.RETURNING, State.COMPLETED, State.ROLLED_BACK}),
    State.PAUSED: frozenset(State),
    State.RETURNING: frozenset({State.RETURNING, State.PAUSED, State.COMPLETED, State.ROLLED_BACK}),
    State.COMPLETED: frozenset(),
    State.ROLLED_BACK: frozenset(),
    State.CANCELLED: frozenset(),
}
"""What moves to what; a state moves to itself where only the rung changes."""

MIN_HOLD_SECONDS = 30
MAX_HOLD_SECONDS = 24 * 3600
MAX_TOTAL_SECONDS = 7 * 24 * 3600
MAX_SAMPLES = 1_000_000
RATIO_SLACK_MS = 50
"""Ratios of times get so much on top: 6 ms beside 3 ms is twice as long, and nobody notices."""
TIMINGS_NEEDED = 10
"""A percentile of fewer calls is chance; below it nothing is said of the times."""


class Verb(models.TextChoices):
    """What a person can do with an open switch."""

    PAUSE = "pause", gettext_lazy("Pause")
    RESUME = "resume", gettext_lazy("Resume")
    STEP_BACK = "step_back", gettext_lazy("Step back")
    ADVANCE = "advance", gettext_lazy("Next step by hand")
    RETURN = "return", gettext_lazy("Roll back gradually")
    ROLL_BACK = "roll_back", gettext_lazy("Roll back now")
    FINISH = "finish", gettext_lazy("Finish now")
    CANCEL = "cancel", gettext_lazy("Cancel")


class Code(models.TextChoices):
    """Why a switch moves or stands. The value is stored; the label is the sentence, with its figures in it."""

    # It stands.
    WAITING_FOR_PROBE = (
        "waiting_for_probe",
        gettext_lazy("Waiting for a fresh probe of a model server that runs %(target)s."),
    )
    WARMING = "warming", gettext_lazy("Waiting for the one-token call to %(target)s.")
    WARM_FAILED = (
        "warm_failed",
        gettext_lazy("The one-token call to %(target)s failed. Cancel, or take the first step by hand. %(detail)s"),
    )
    PAUSED = "paused", gettext_lazy("Paused: the traffic stays as it is.")
    ENDPOINT_STOPPED = (
        "endpoint_stopped",
        gettext_lazy("The endpoint takes no calls, so the switch stands still until it does."),
    )
    SOAKING = "soaking", gettext_lazy("%(spent_seconds)s of %(hold_seconds)s of this step have passed.")
    RETURN_SOAKING = (
        "return_soaking",
        gettext_lazy("Rolling back: %(spent_seconds)s of %(hold_seconds)s of this step have passed."),
    )
    SAMPLES = (
        "samples",
        gettext_lazy("%(samples)s of %(needed)s calls on %(target)s needed before the next step."),
    )
    SOURCE_SAMPLES = (
        "source_samples",
        gettext_lazy("%(samples)s of %(needed)s calls on %(source)s needed to compare %(target)s with."),
    )
    FIGURES_LATE = (
        "figures_late",
        gettext_lazy("No fresh figures: metering is behind or cannot be reached. Nothing moves until they are here."),
    )
    # Breaches: it stands or goes back.
    NO_SERVER = "no_server", gettext_lazy("No model server that runs %(target)s is up.")
    ERROR_RATE = (
        "error_rate",
        gettext_lazy("%(percent)s %% of %(samples)s calls on %(target)s failed; %(limit)s %% are allowed."),
    )
    ERRORS_OVER_SOURCE = (
        "errors_over_source",
        gettext_lazy(
            "%(percent)s %% of %(samples)s calls on %(target)s failed, on %(source)s %(source_percent)s %%; "
            "%(limit)s points more are allowed."
        ),
    )
    REJECTIONS_OVER_SOURCE = (
        "rejections_over_source",
        gettext_lazy(
            "%(target)s rejected %(percent)s %% of %(samples)s calls (4xx), %(source)s %(source_percent)s %%; "
            "%(limit)s points more are allowed."
        ),
    )
    FIRST_TOKEN_SLOWER = (
        "first_token_slower",
        gettext_lazy(
            "The first token of %(target)s takes %(value_ms)s (p95 of %(samples)s calls), that of %(source)s "
            "%(source_ms)s; %(limit)s times as long is allowed."
        ),
    )
    DURATION_SLOWER = (
        "duration_slower",
        gettext_lazy(
            "A call on %(target)s takes %(value_ms)s (p95 of %(samples)s calls), on %(source)s %(source_ms)s; "
            "%(limit)s times as long is allowed."
        ),
    )
    # It moves.
    PREPARED = "prepared", gettext_lazy("A model server that runs %(target)s was probed and is up.")
    TIME_OVER = "time_over", gettext_lazy("The time of the step was over.")
    GATES_PASSED = (
        "gates_passed",
        gettext_lazy("The time of the step was over, and %(samples)s calls on %(target)s passed the gates."),
    )
    COMPLETED = "completed", gettext_lazy("The last step is over: %(target)s serves the endpoint.")
    RETURN_TIME_OVER = "return_time_over", gettext_lazy("Rolling back: the time of the step was over.")
    RETURNED = "returned", gettext_lazy("All traffic is back on %(source)s.")
    ENDPOINT_DELETED = "endpoint_deleted", gettext_lazy("The endpoint was deleted, which ends its switch.")
    TARGET_RETIRED = "target_retired", gettext_lazy("%(target)s was retired: all traffic went back to %(source)s.")
    SOURCE_RETIRED = "source_retired", gettext_lazy("%(source)s was retired: %(target)s took over at once.")
    BY_PERSON = "by_person", gettext_lazy("By %(name)s.")
    # It is noted.
    LIMITS_CHANGED = (
        "limits_changed",
        gettext_lazy(
            "%(name)s changed the limits of the endpoint: RPM %(old_rpm)s → %(rpm)s, TPM %(old_tpm)s → %(tpm)s. "
            "They hold for both versions together."
        ),
    )
    WARMED = "warmed", gettext_lazy("%(target)s answered the one-token call.")


ALARMING = frozenset(
    {
        Code.WARM_FAILED, Code.ENDPOINT_STOPPED, Code.FIGURES_LATE, Code.NO_SERVER, Code.ERROR_RATE,
        Code.ERRORS_OVER_SOURCE, Code.REJECTIONS_OVER_SOURCE, Code.FIRST_TOKEN_SLOWER, Code.DURATION_SLOWER,
    }
)  # fmt: skip
"""Holds that a person should know of: each is written into the log when it begins."""
STANDING = frozenset({Code.PAUSED, Code.ENDPOINT_STOPPED, Code.NO_SERVER})
"""Holds during which the time of the step stands still."""

# --- the plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rung:
    """A step: the share of conversations that the target answers, and how long it lasts at least."""

    weight: int
    hold_seconds: int


@dataclass(frozen=True, slots=True)
class Gates:
    """What the target must keep to; None leaves a gate open. Points and rates in percent, ratios of p95 times."""

    error_rate_percent: float | None = None
    error_points_over_source: float | None = None
    rejection_points_over_source: float | None = None
    first_token_ratio: float | None = None
    duration_ratio: float | None = None
    min_samples: int = 50

    @property
    def compares(self) -> bool:
        """Whether any gate needs figures of the source."""
        return any(getattr(self, name) is not None for name in RELATIVE)

    @property
    def is_open(self) -> bool:
        """Whether nothing is asked of the target."""
        return self.error_rate_percent is None and not self.compares


RELATIVE = ("error_points_over_source", "rejection_points_over_source", "first_token_ratio", "duration_ratio")
DEFAULT_GATES = Gates(
    error_rate_percent=5,
    error_points_over_source=2,
    rejection_points_over_source=2,
    first_token_ratio=2,
    duration_ratio=2,
    min_samples=50,
)


def _even(weights: Sequence[int], hold_seconds: int) -> tuple[Rung, ...]:
    return tuple(Rung(weight, hold_seconds) for weight in weights)


LADDERS: dict[str, tuple[Rung, ...]] = {
    "default": _even((1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100), 300),
    "fast": _even((5, 25, 50, 100), 60),
    "careful": _even((1, 2, 5, 10, 20, 35, 50, 75, 100), 900),
}
CUT_OVER = _even((100,), 300)
"""The only shape for embedding models: vectors of two models do not mix."""


def clean_ladder(given: Sequence[Rung | Mapping[str, Any]]) -> tuple[Rung, ...]:
    """The plan as it is stored. Raises `DomainError` (field "ladder") with the number of the step at fault."""
    if not given:
        raise DomainError(_("A plan needs at least one step."), field="ladder")
    rungs: list[Rung] = []
    for number, item in enumerate(given, start=1):
        values = asdict(item) if isinstance(item, Rung) else item
        weight, hold = _whole(values.get("weight")), _whole(values.get("hold_seconds"))
        if weight is None or not 1 <= weight <= 100:
            raise _at_step(number, _("its share must be a whole number from 1 to 100 percent."))
        if rungs and weight <= rungs[-1].weight:
            raise _at_step(number, _("its share must be larger than that of the step before."))
        if hold is None or not MIN_HOLD_SECONDS <= hold <= MAX_HOLD_SECONDS:
            raise _at_step(number, _("it must last from 30 seconds to 24 hours."))
        rungs.append(Rung(weight, hold))
    if rungs[-1].weight != 100:
        raise _at_step(len(rungs), _("the last step must be 100 percent."))
    if sum(rung.hold_seconds for rung in rungs) > MAX_TOTAL_SECONDS:
        raise DomainError(_("All steps together may last seven days at most."), field="ladder")
    return tuple(rungs)


def _at_step(number: int, problem: str) -> DomainError:
    return DomainError(_("Step %(number)d: %(problem)s") % {"number": number, "problem": problem}, field="ladder")


def _whole(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def clean_gates(given: Gates | None) -> Gates | None:
    """The gates as they are stored; None is time alone. Raises `DomainError` (field: the gate's name)."""
    if given is None:
        return None
    if given.is_open:
        raise DomainError(_("Choose at least one gate, or let time alone decide."), field="gates")
    for name in ("error_rate_percent", "error_points_over_source", "rejection_points_over_source"):
        value = getattr(given, name)
        if value is not None and not 0 <= value <= 100:
            raise DomainError(_("A gate in percent lies between 0 and 100."), field=name)
    for name in ("first_token_ratio", "duration_ratio"):
        value = getattr(given, name)
        if value is not None and not 1 <= value <= 100:
            raise DomainError(_("A gate on times lies between 1 and 100 times the present ones."), field=name)
    if not 1 <= given.min_samples <= MAX_SAMPLES:
        raise DomainError(
            _("The calls needed per step lie between 1 and %(max)s.") % {"max": f"{MAX_SAMPLES:,}"}, field="min_samples"
        )
    return given


def stored_ladder(rungs: Sequence[Rung]) -> list[dict[str, int]]:
    return [asdict(rung) for rung in rungs]


def stored_gates(gates: Gates | None) -> dict[str, Any] | None:
    return None if gates is None else asdict(gates)


def ladder_of(switch: VersionSwitch) -> tuple[Rung, ...]:
    """The plan of a stored switch."""
    return tuple(Rung(rung["weight"], rung["hold_seconds"]) for rung in switch.ladder)


def gates_of(switch: VersionSwitch) -> Gates | None:
    """The gates of a stored switch; None: time alone decides."""
    if switch.gates is None:
        return None
    known = {each.name for each in fields(Gates)}
    return Gates(**{name: value for name, value in switch.gates.items() if name in known})


# --- what decide sees and says ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SwitchState:
    """A switch and what belongs to it, at one moment. `soaked_seconds` includes the time since the tick before."""

    state: State
    ladder: tuple[Rung, ...]
    gates: Gates | None
    on_breach: OnBreach
    rung: int
    soaked_seconds: float
    created_at: datetime
    direction: Direction = Direction.UP
    return_hold_seconds: int | None = None
    warm: Warm = Warm.NONE
    warm_detail: str = ""
    source: str = ""
    target: str = ""
    source_retires_at: datetime | None = None
    target_retires_at: datetime | None = None
    is_endpoint_deleted: bool = False
    is_endpoint_closed: bool = False

    @property
    def names(self) -> dict[str, Any]:
        return {"source": self.source, "target": self.target}


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of the two sides. `target` counts this soak alone, `source` the whole switch: at 100 % it has no more
    calls, and must still be there to compare with. `probed_at`: the last good probe of a server of the target."""

    has_server: bool = False
    probed_at: datetime | None = None
    is_late: bool = False
    target: Sums = field(default_factory=Sums)
    source: Sums = field(default_factory=Sums)


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing moves."""

    code: Code
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Advance:
    """One rung up."""

    code: Code
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepDown:
    """One rung down."""

    code: Code
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Promote:
    """The target becomes the endpoint's version, and the switch ends."""

    code: Code
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RollBack:
    """All traffic goes back to the source, and the switch ends."""

    code: Code
    figures: Mapping[str, Any] = field(default_factory=dict)


Verdict = Hold | Advance | StepDown | Promote | RollBack


def decide(switch: SwitchState, health: Health, now: datetime) -> Verdict:
    """What an open switch does now and why: one step at most, by the first rule that fits. Doubt holds."""
    if switch.is_endpoint_deleted:
        return RollBack(Code.ENDPOINT_DELETED)
    if _has_come(switch.target_retires_at, now):
        return RollBack(Code.TARGET_RETIRED, switch.names)
    if _has_come(switch.source_retires_at, now):
        return Promote(Code.SOURCE_RETIRED, switch.names)
    if switch.is_endpoint_closed:
        return Hold(Code.ENDPOINT_STOPPED)
    if switch.state == State.PREPARING:
        return _prepare(switch, health)
    if switch.state == State.RETURNING:
        return _return(switch, health)
    if switch.state == State.CLIMBING:
        return _climb(switch, health)
    return Hold(Code.PAUSED)


def _has_come(at: datetime | None, now: datetime) -> bool:
    return at is not None and at <= now


def is_probed(switch: SwitchState, health: Health) -> bool:
    """Whether a server of the target was found up since the switch began."""
    return health.has_server and health.probed_at is not None and health.probed_at >= switch.created_at


def _prepare(switch: SwitchState, health: Health) -> Verdict:
    if not is_probed(switch, health):
        return Hold(Code.WAITING_FOR_PROBE, {"target": switch.target})
    if switch.warm == Warm.WANTED:
        return Hold(Code.WARMING, {"target": switch.target})
    if switch.warm == Warm.FAILED:
        return Hold(Code.WARM_FAILED, {"target": switch.target, "detail": switch.warm_detail})
    return Advance(Code.PREPARED, {"target": switch.target})


def _return(switch: SwitchState, health: Health) -> Verdict:
    if not health.has_server:
        # Whoever still stays on the target gets nothing there.
        return RollBack(Code.NO_SERVER, {"target": switch.target})
    hold = switch.return_hold_seconds or MIN_HOLD_SECONDS
    if switch.soaked_seconds < hold:
        return Hold(Code.RETURN_SOAKING, {"spent_seconds": int(switch.soaked_seconds), "hold_seconds": hold})
    if switch.rung <= 0:
        return RollBack(Code.RETURNED, {"source": switch.source})
    return StepDown(Code.RETURN_TIME_OVER)


def _climb(switch: SwitchState, health: Health) -> Verdict:
    gates, target = switch.gates, health.target
    if not health.has_server:
        return _breached(switch, Code.NO_SERVER, {"target": switch.target})
    if gates is not None:
        if health.is_late:
            return Hold(Code.FIGURES_LATE)
        if target.calls >= gates.min_samples:
            for code, figures in breaches(gates, health):
                return _breached(switch, code, {**switch.names, "samples": target.calls, **figures})
    hold = switch.ladder[switch.rung].hold_seconds
    if switch.soaked_seconds < hold:
        return Hold(Code.SOAKING, {"spent_seconds": int(switch.soaked_seconds), "hold_seconds": hold})
    if gates is not None:
        if target.calls < gates.min_samples:
            return Hold(Code.SAMPLES, {**switch.names, "samples": target.calls, "needed": gates.min_samples})
        if gates.compares and health.source.calls < gates.min_samples:
            figures = {"samples": health.source.calls, "needed": gates.min_samples}
            return Hold(Code.SOURCE_SAMPLES, {**switch.names, **figures})
    if switch.rung >= len(switch.ladder) - 1:
        return Promote(Code.COMPLETED, {"target": switch.target})
    if gates is None:
        return Advance(Code.TIME_OVER)
    return Advance(Code.GATES_PASSED, {"target": switch.target, "samples": target.calls})


def _breached(switch: SwitchState, code: Code, figures: Mapping[str, Any]) -> Verdict:
    # Without gates somebody chose that time alone decides: we wait, and never act on our own.
    if switch.gates is not None and switch.on_breach == OnBreach.ROLL_BACK:
        return RollBack(code, figures)
    return Hold(code, figures)


def breaches(gates: Gates, health: Health) -> Iterator[tuple[Code, dict[str, Any]]]:
    """The gates that the target breaks, worst kind first. What cannot be compared yet is not judged."""
    target, source = health.target, health.source
    errors, rejections = target.error_percent or 0.0, target.rejection_percent or 0.0
    if gates.error_rate_percent is not None and errors > gates.error_rate_percent:
        yield Code.ERROR_RATE, {"percent": _rounded(errors), "limit": gates.error_rate_percent}
    if source.calls < gates.min_samples:
        return
    for code, limit, mine, theirs in (
        (Code.ERRORS_OVER_SOURCE, gates.error_points_over_source, errors, source.error_percent),
        (Code.REJECTIONS_OVER_SOURCE, gates.rejection_points_over_source, rejections, source.rejection_percent),
    ):
        if limit is not None and mine - (theirs or 0.0) > limit:
            yield code, {"percent": _rounded(mine), "source_percent": _rounded(theirs or 0.0), "limit": limit}
    for code, ratio, here, there in (
        (Code.FIRST_TOKEN_SLOWER, gates.first_token_ratio, target.first_token, source.first_token),
        (Code.DURATION_SLOWER, gates.duration_ratio, target.duration, source.duration),
    ):
        count = sum(here.values())
        if ratio is None or count < TIMINGS_NEEDED or sum(there.values()) < TIMINGS_NEEDED:
            continue
        value, base = p95(here) or 0.0, p95(there) or 0.0
        if value > base * ratio + RATIO_SLACK_MS:
            yield code, {"value_ms": round(value), "source_ms": round(base), "limit": ratio, "samples": count}


def _rounded(percent: float) -> float:
    return round(percent, 2)


# --- what people may do, and what they read --------------------------------------------------------------------------


def verbs(switch: VersionSwitch) -> frozenset[Verb]:
    """What fits the state of a switch; permissions apart."""
    if switch.state not in OPEN_STATES:
        return frozenset()
    state, rung, last = State(switch.state), switch.rung, len(switch.ladder) - 1
    found = {Verb.ROLL_BACK, Verb.RESUME if state == State.PAUSED else Verb.PAUSE}
    if rung < 0:
        found |= {Verb.CANCEL, Verb.ADVANCE}
    if rung > 0:
        found.add(Verb.STEP_BACK)
    if rung >= 0 and state in (State.CLIMBING, State.PAUSED):
        found |= {Verb.RETURN, Verb.FINISH}
        if rung < last and switch.direction == Direction.UP:
            found.add(Verb.ADVANCE)
    return frozenset(found)


def resumed_state(switch: VersionSwitch) -> State:
    """Where a paused switch goes on."""
    if switch.rung < 0:
        return State.PREPARING
    return State.RETURNING if switch.direction == Direction.DOWN else State.CLIMBING


def remaining_seconds(switch: VersionSwitch) -> int | None:
    """How long until the switch ends if nothing holds it; None when it has ended."""
    if switch.state not in OPEN_STATES:
        return None
    if switch.direction == Direction.DOWN:
        steps = max(switch.rung + 1, 1)
        return max(int(steps * (switch.return_hold_seconds or MIN_HOLD_SECONDS) - switch.soaked_seconds), 0)
    holds = [rung.hold_seconds for rung in ladder_of(switch)]
    ahead = sum(holds[max(switch.rung, 0) + (switch.rung >= 0) :])
    here = max(holds[switch.rung] - switch.soaked_seconds, 0) if switch.rung >= 0 else 0
    return int(ahead + here)


class _Judged(Protocol):
    verdict: str
    verdict_figures: Any


def sentence(code: str, figures: Mapping[str, Any]) -> str:
    """A stored code as a sentence in the reader's language, with its figures; "" for no code."""
    if code not in Code.values:
        return ""
    shown = {name: _shown(name, value) for name, value in figures.items()}
    try:
        return (str(Code(code).label) % shown).strip()
    except (KeyError, ValueError):
        return code


def verdict_sentence(switch: _Judged) -> str:
    """What the last look at the switch said, in the reader's language."""
    return sentence(switch.verdict, switch.verdict_figures)


def event_sentence(event: SwitchEvent) -> str:
    """Why a line of the log came about, in the reader's language; the person's own words are in `event.reason`."""
    return sentence(event.code, event.figures)


def _shown(name: str, value: Any) -> str:
    if name.endswith("_seconds"):
        return span(int(value))
    if name.endswith("_ms"):
        return _("%(ms)s ms") % {"ms": f"{value:,}"}
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def span(seconds: int) -> str:
    """A duration for people: “45 s”, “4 min 30 s”, “2 h 5 min”."""
    if seconds < 60:
        return _("%(seconds)d s") % {"seconds": seconds}
    if seconds < 3600:
        minutes, rest = divmod(seconds, 60)
        if not rest:
            return _("%(minutes)d min") % {"minutes": minutes}
        return _("%(minutes)d min %(seconds)d s") % {"minutes": minutes, "seconds": rest}
    hours, rest = divmod(seconds, 3600)
    if rest < 60:
        return _("%(hours)d h") % {"hours": hours}
    return _("%(hours)d h %(minutes)d min") % {"hours": hours, "minutes": rest // 60}
