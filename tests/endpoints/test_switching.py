"""What `decide` says, rule by rule; what a plan may be; what fits which state; what people read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.utils.translation import override
from hypothesis import given
from hypothesis import strategies as st

from common.errors import DomainError
from endpoints import switching
from endpoints.models import VersionSwitch
from endpoints.switching import (
    CUT_OVER,
    DEFAULT_GATES,
    LADDERS,
    Advance,
    Code,
    Direction,
    Gates,
    Health,
    Hold,
    OnBreach,
    Promote,
    RollBack,
    Rung,
    State,
    StepDown,
    SwitchState,
    Verb,
    Verdict,
    Warm,
    decide,
)
from metering.health import BOUNDS_MS, Sums, bucket
from tests.builders import NOW

LADDER = (Rung(10, 60), Rung(50, 60), Rung(100, 60))
GATES = Gates(error_rate_percent=5, min_samples=20)
CLIMBING = SwitchState(
    state=State.CLIMBING, ladder=LADDER, gates=None, on_breach=OnBreach.HOLD, rung=0, soaked_seconds=60,
    created_at=NOW, source="old-1", target="new-2",
)  # fmt: skip
GATED = replace(CLIMBING, gates=GATES)
PREPARING = replace(CLIMBING, state=State.PREPARING, rung=-1, soaked_seconds=0)
RETURNING = replace(CLIMBING, state=State.RETURNING, rung=1, direction=Direction.DOWN, return_hold_seconds=30)
UP = Health(has_server=True, probed_at=NOW, target=Sums(calls=100), source=Sums(calls=1000))
BEFORE, LATER = NOW - timedelta(seconds=1), NOW + timedelta(days=1)


@pytest.fixture(autouse=True)
def _in_english() -> Iterator[None]:
    with override("en", deactivate=True):
        yield


def times(milliseconds: float, calls: int) -> dict[int, int]:
    return {bucket(milliseconds): calls}


def failing(calls: int, errors: int) -> Health:
    return replace(UP, target=Sums(calls=calls, errors=errors))


RULES: list[tuple[str, SwitchState, Health, type, Code]] = [
    ("the endpoint is deleted", replace(GATED, is_endpoint_deleted=True), UP, RollBack, Code.ENDPOINT_DELETED),
    ("the target is retired", replace(GATED, target_retires_at=NOW), UP, RollBack, Code.TARGET_RETIRED),
    ("the target is retired while paused", replace(GATED, state=State.PAUSED, target_retires_at=NOW), UP, RollBack,
     Code.TARGET_RETIRED),
    ("both are retired", replace(GATED, source_retires_at=NOW, target_retires_at=NOW), UP, RollBack, Code.TARGET_RETIRED),
    ("the target will be retired", replace(CLIMBING, target_retires_at=LATER), UP, Advance, Code.TIME_OVER),
    ("the source is retired", replace(GATED, source_retires_at=NOW), UP, Promote, Code.SOURCE_RETIRED),
    ("the source is retired before the first step", replace(PREPARING, source_retires_at=NOW), Health(), Promote,
     Code.SOURCE_RETIRED),
    ("the source is retired, which stopped the endpoint", replace(GATED, source_retires_at=NOW, is_endpoint_closed=True),
     UP, Promote, Code.SOURCE_RETIRED),
    ("the source is retired on the way back", replace(RETURNING, source_retires_at=NOW), UP, Promote,
     Code.SOURCE_RETIRED),
    ("the endpoint is stopped", replace(GATED, is_endpoint_closed=True), UP, Hold, Code.ENDPOINT_STOPPED),
    ("the endpoint is stopped on the way back", replace(RETURNING, is_endpoint_closed=True, soaked_seconds=99), UP, Hold,
     Code.ENDPOINT_STOPPED),
    ("paused", replace(GATED, state=State.PAUSED), UP, Hold, Code.PAUSED),
    ("paused on the way back", replace(RETURNING, state=State.PAUSED), UP, Hold, Code.PAUSED),
    ("paused, and the target fails", replace(GATED, state=State.PAUSED), failing(100, 100), Hold, Code.PAUSED),
    ("no probe yet", PREPARING, Health(has_server=True), Hold, Code.WAITING_FOR_PROBE),
    ("a probe from before", PREPARING, replace(UP, probed_at=BEFORE), Hold, Code.WAITING_FOR_PROBE),
    ("no server before the first step", PREPARING, replace(UP, has_server=False), Hold, Code.WAITING_FOR_PROBE),
    ("a fresh probe", PREPARING, UP, Advance, Code.PREPARED),
    ("figures are late before the first step", replace(PREPARING, gates=GATES), replace(UP, is_late=True), Advance,
     Code.PREPARED),
    ("the paid call is under way", replace(PREPARING, warm=Warm.WANTED), UP, Hold, Code.WARMING),
    ("the paid call failed", replace(PREPARING, warm=Warm.FAILED), UP, Hold, Code.WARM_FAILED),
    ("the paid call passed", replace(PREPARING, warm=Warm.PASSED), UP, Advance, Code.PREPARED),
    ("on the way back, time not over", replace(RETURNING, soaked_seconds=29), UP, Hold, Code.RETURN_SOAKING),
    ("on the way back, time over", replace(RETURNING, soaked_seconds=30), UP, StepDown, Code.RETURN_TIME_OVER),
    ("at the bottom", replace(RETURNING, rung=0, soaked_seconds=30), UP, RollBack, Code.RETURNED),
    ("on the way back the target's server goes", RETURNING, Health(), RollBack, Code.NO_SERVER),
    ("on the way back failing does not matter", replace(RETURNING, gates=GATES, soaked_seconds=1), failing(100, 99), Hold,
     Code.RETURN_SOAKING),
    ("no server, time alone", replace(CLIMBING, on_breach=OnBreach.ROLL_BACK), Health(), Hold, Code.NO_SERVER),
    ("no server, hold", GATED, Health(), Hold, Code.NO_SERVER),
    ("no server, roll back", replace(GATED, on_breach=OnBreach.ROLL_BACK), Health(), RollBack, Code.NO_SERVER),
    ("figures are late", GATED, replace(UP, is_late=True), Hold, Code.FIGURES_LATE),
    ("figures are late, and bad", replace(GATED, on_breach=OnBreach.ROLL_BACK), replace(failing(100, 99), is_late=True),
     Hold, Code.FIGURES_LATE),
    ("figures are late, time alone", CLIMBING, replace(UP, is_late=True), Advance, Code.TIME_OVER),
    ("time alone does not look at figures", CLIMBING, failing(100, 100), Advance, Code.TIME_OVER),
    ("time alone, time not over", replace(CLIMBING, soaked_seconds=59.9), UP, Hold, Code.SOAKING),
    ("gates, time not over", replace(GATED, soaked_seconds=10), UP, Hold, Code.SOAKING),
    ("too few calls, time not over", replace(GATED, soaked_seconds=10), Health(has_server=True), Hold, Code.SOAKING),
    ("idle never passes", replace(GATED, soaked_seconds=1e6), Health(has_server=True), Hold, Code.SAMPLES),
    ("too few calls", GATED, replace(UP, target=Sums(calls=19)), Hold, Code.SAMPLES),
    ("just enough calls", GATED, replace(UP, target=Sums(calls=20)), Advance, Code.GATES_PASSED),
    ("too few failures to judge by", GATED, failing(19, 19), Hold, Code.SAMPLES),
    ("a breach holds before the time is over", replace(GATED, soaked_seconds=1), failing(20, 2), Hold, Code.ERROR_RATE),
    ("a breach rolls back", replace(GATED, on_breach=OnBreach.ROLL_BACK), failing(20, 2), RollBack, Code.ERROR_RATE),
    ("exactly at the gate", GATED, failing(20, 1), Advance, Code.GATES_PASSED),
    ("nothing of the source to compare with", replace(CLIMBING, gates=Gates(error_points_over_source=1, min_samples=20)),
     replace(UP, source=Sums(calls=19)), Hold, Code.SOURCE_SAMPLES),
    ("the source is not needed", GATED, replace(UP, source=Sums()), Advance, Code.GATES_PASSED),
    ("the last step over, time alone", replace(CLIMBING, rung=2), UP, Promote, Code.COMPLETED),
    ("the last step over, gates", replace(GATED, rung=2), UP, Promote, Code.COMPLETED),
    ("the last step not over", replace(GATED, rung=2, soaked_seconds=59), UP, Hold, Code.SOAKING),
    ("the last step, idle", replace(GATED, rung=2), Health(has_server=True), Hold, Code.SAMPLES),
    ("the last step, failing", replace(GATED, rung=2), failing(100, 50), Hold, Code.ERROR_RATE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("switch", "health", "kind", "code"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES]
)
def test_decide_follows_its_rules(switch: SwitchState, health: Health, kind: type, code: Code) -> None:
    verdict = decide(switch, health, NOW)
    assert (type(verdict), verdict.code) == (kind, code)
    assert "%(" not in switching.sentence(verdict.code, verdict.figures)
    assert switching.sentence(verdict.code, verdict.figures) != code


@pytest.mark.parametrize(
    ("gates", "target", "source", "code"),
    [
        (Gates(error_points_over_source=2), Sums(calls=100, errors=5), Sums(calls=100, errors=2), Code.ERRORS_OVER_SOURCE),
        (Gates(error_points_over_source=3), Sums(calls=100, errors=5), Sums(calls=100, errors=2), None),
        (Gates(error_points_over_source=2), Sums(calls=100, errors=1), Sums(calls=100, errors=50), None),
        (Gates(rejection_points_over_source=0), Sums(calls=100, rejections=1), Sums(calls=100), Code.REJECTIONS_OVER_SOURCE),
        (Gates(rejection_points_over_source=1), Sums(calls=100, rejections=1), Sums(calls=100), None),
        (Gates(error_rate_percent=0), Sums(calls=100, rejections=99), Sums(calls=100), None),
        (Gates(rejection_points_over_source=0), Sums(calls=100, errors=99), Sums(calls=100), None),
        (Gates(first_token_ratio=2), Sums(calls=100, first_token=times(900, 50)),
         Sums(calls=100, first_token=times(300, 50)), Code.FIRST_TOKEN_SLOWER),
        (Gates(first_token_ratio=4), Sums(calls=100, first_token=times(900, 50)),
         Sums(calls=100, first_token=times(300, 50)), None),
        (Gates(first_token_ratio=1), Sums(calls=100, first_token=times(900, 9)),
         Sums(calls=100, first_token=times(300, 50)), None),
        (Gates(first_token_ratio=1), Sums(calls=100, first_token=times(900, 50)),
         Sums(calls=100, first_token=times(300, 9)), None),
        (Gates(duration_ratio=2), Sums(calls=100, duration=times(9000, 50)), Sums(calls=100, duration=times(900, 50)),
         Code.DURATION_SLOWER),
        (Gates(duration_ratio=1), Sums(calls=100, duration=times(30, 50)), Sums(calls=100, duration=times(6, 50)), None),
    ],
)  # fmt: skip
def test_each_gate_judges_by_its_own_figures(gates: Gates, target: Sums, source: Sums, code: Code | None) -> None:
    verdict = decide(replace(CLIMBING, gates=gates), replace(UP, target=target, source=source), NOW)
    if code is None:
        assert isinstance(verdict, Advance)
    else:
        assert verdict.code == code
        assert "%(" not in switching.sentence(code, verdict.figures)


states = st.builds(
    SwitchState,
    state=st.sampled_from([State.PREPARING, State.CLIMBING, State.PAUSED, State.RETURNING]),
    ladder=st.just(LADDER),
    gates=st.none() | st.just(GATES) | st.just(DEFAULT_GATES),
    on_breach=st.sampled_from(OnBreach),
    rung=st.integers(0, 2),
    soaked_seconds=st.floats(0, 1e6),
    created_at=st.just(NOW),
    return_hold_seconds=st.none() | st.integers(30, 86_400),
    warm=st.sampled_from(Warm),
    source_retires_at=st.none() | st.sampled_from([BEFORE, LATER]),
    target_retires_at=st.none() | st.sampled_from([BEFORE, LATER]),
    is_endpoint_deleted=st.booleans(),
    is_endpoint_closed=st.booleans(),
)
sums = st.builds(
    lambda good, errors, rejections, slow: Sums(good + errors + rejections, errors, rejections, times(slow, good),
                                                times(slow * 3, good)),
    st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.floats(1, 1e6),
)  # fmt: skip
healths = st.builds(
    Health, has_server=st.booleans(), probed_at=st.none() | st.sampled_from([BEFORE, NOW]), is_late=st.booleans(),
    target=sums, source=sums,
)  # fmt: skip


@given(switch=states, health=healths)
def test_decide_always_says_something_that_fits(switch: SwitchState, health: Health) -> None:
    verdict: Verdict = decide(switch, health, NOW)
    assert "%(" not in switching.sentence(verdict.code, verdict.figures)
    if isinstance(verdict, Advance):
        assert switch.state == State.PREPARING or (switch.state == State.CLIMBING and switch.rung < 2)
        assert health.has_server
    if isinstance(verdict, StepDown):
        assert switch.state == State.RETURNING
        assert switch.rung > 0
    if isinstance(verdict, Promote) and verdict.code == Code.COMPLETED:
        assert switch.rung == 2
    if isinstance(verdict, (Advance, Promote)) and switch.gates and verdict.code in (Code.GATES_PASSED, Code.COMPLETED):
        assert health.target.calls >= switch.gates.min_samples
        assert not health.is_late
    if switch.is_endpoint_closed and not isinstance(verdict, Hold):
        assert verdict.code in (Code.ENDPOINT_DELETED, Code.TARGET_RETIRED, Code.SOURCE_RETIRED)


@pytest.mark.parametrize("name", LADDERS)
def test_the_ready_plans_are_valid_and_end_at_all(name: str) -> None:
    assert switching.clean_ladder(LADDERS[name]) == LADDERS[name]


def test_the_plan_by_default_takes_about_an_hour() -> None:
    assert sum(rung.hold_seconds for rung in LADDERS["default"]) == 3600
    assert [rung.weight for rung in LADDERS["default"]] == [1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]


@pytest.mark.parametrize(
    ("ladder", "says"),
    [
        ([], "at least one step"),
        ([Rung(0, 60), Rung(100, 60)], "Step 1: its share must be a whole number"),
        ([Rung(50, 60), Rung(50, 60), Rung(100, 60)], "Step 2: its share must be larger"),
        ([Rung(50, 60), Rung(40, 60), Rung(100, 60)], "Step 2: its share must be larger"),
        ([Rung(50, 60), Rung(101, 60)], "Step 2: its share must be a whole number"),
        ([Rung(50, 60), Rung(90, 60)], "Step 2: the last step must be 100"),
        ([Rung(50, 29), Rung(100, 60)], "Step 1: it must last from 30 seconds"),
        ([Rung(50, 60), Rung(100, 86_401)], "Step 2: it must last from 30 seconds"),
        ([*(Rung(weight, 86_400) for weight in range(1, 8)), Rung(100, 30)], "seven days"),
        ([{"weight": "x", "hold_seconds": 60}], "Step 1: its share"),
        ([{"weight": 99.5, "hold_seconds": 60}], "Step 1: its share"),
        ([{"weight": True, "hold_seconds": 60}], "Step 1: its share"),
        ([{"weight": 100}], "Step 1: it must last"),
        ([{"weight": float("inf"), "hold_seconds": float("nan")}], "Step 1: its share"),
    ],
)
def test_a_plan_that_will_not_do_is_refused_with_its_step(ladder: Any, says: str) -> None:
    with pytest.raises(DomainError, match=says) as refusal:
        switching.clean_ladder(ladder)
    assert refusal.value.field == "ladder"


def test_a_plan_from_a_form_is_taken_as_numbers() -> None:
    assert switching.clean_ladder([{"weight": "100", "hold_seconds": "300"}]) == CUT_OVER


@pytest.mark.parametrize(
    ("gates", "field"),
    [
        (Gates(), "gates"),
        (Gates(error_rate_percent=101), "error_rate_percent"),
        (Gates(error_points_over_source=-1), "error_points_over_source"),
        (Gates(first_token_ratio=0.5), "first_token_ratio"),
        (Gates(duration_ratio=101), "duration_ratio"),
        (Gates(error_rate_percent=float("nan")), "error_rate_percent"),
        (Gates(error_rate_percent=5, min_samples=0), "min_samples"),
    ],
)
def test_gates_that_will_not_do_are_refused(gates: Gates, field: str) -> None:
    with pytest.raises(DomainError) as refusal:
        switching.clean_gates(gates)
    assert refusal.value.field == field


def test_gates_and_ladder_come_back_as_they_were_stored() -> None:
    switch = VersionSwitch(
        ladder=switching.stored_ladder(LADDERS["careful"]), gates=switching.stored_gates(DEFAULT_GATES)
    )
    assert switching.ladder_of(switch) == LADDERS["careful"]
    assert switching.gates_of(switch) == DEFAULT_GATES
    assert switching.gates_of(VersionSwitch(gates=None)) is None
    assert switching.gates_of(VersionSwitch(gates={"error_rate_percent": 1, "of_a_later_release": 2})) == Gates(1)


PAUSE, RESUME, BACK, UP_BY_HAND = Verb.PAUSE, Verb.RESUME, Verb.STEP_BACK, Verb.ADVANCE
RETURN, NOW_BACK, FINISH, CANCEL = Verb.RETURN, Verb.ROLL_BACK, Verb.FINISH, Verb.CANCEL


@pytest.mark.parametrize(
    ("state", "rung", "direction", "verbs"),
    [
        ("preparing", -1, "up", {PAUSE, UP_BY_HAND, NOW_BACK, CANCEL}),
        ("paused", -1, "up", {RESUME, UP_BY_HAND, NOW_BACK, CANCEL}),
        ("climbing", 0, "up", {PAUSE, UP_BY_HAND, RETURN, NOW_BACK, FINISH}),
        ("climbing", 1, "up", {PAUSE, UP_BY_HAND, BACK, RETURN, NOW_BACK, FINISH}),
        ("climbing", 2, "up", {PAUSE, BACK, RETURN, NOW_BACK, FINISH}),
        ("paused", 1, "up", {RESUME, UP_BY_HAND, BACK, RETURN, NOW_BACK, FINISH}),
        ("paused", 1, "down", {RESUME, BACK, RETURN, NOW_BACK, FINISH}),
        ("returning", 1, "down", {PAUSE, BACK, NOW_BACK}),
        ("returning", 0, "down", {PAUSE, NOW_BACK}),
        ("completed", 2, "up", set()),
        ("rolled_back", -1, "up", set()),
        ("cancelled", -1, "up", set()),
    ],
)
def test_each_state_has_its_verbs(state: str, rung: int, direction: str, verbs: set[Verb]) -> None:
    switch = VersionSwitch(state=state, rung=rung, direction=direction, ladder=switching.stored_ladder(LADDER))
    assert switching.verbs(switch) == verbs


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ({"state": "preparing", "rung": -1}, 180),
        ({"state": "climbing", "rung": 0, "soaked_seconds": 20.5}, 159),
        ({"state": "climbing", "rung": 2, "soaked_seconds": 90}, 0),
        ({"state": "returning", "rung": 1, "direction": "down", "return_hold_seconds": 30, "soaked_seconds": 10}, 50),
        ({"state": "completed", "rung": 2}, None),
    ],
)
def test_the_time_left_is_that_of_the_steps_ahead(values: Mapping[str, Any], seconds: int | None) -> None:
    assert switching.remaining_seconds(VersionSwitch(ladder=switching.stored_ladder(LADDER), **values)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (60, "1 min"), (270, "4 min 30 s"), (3600, "1 h"), (7500, "2 h 5 min")]
)
def test_durations_are_written_for_people(seconds: int, text: str) -> None:
    assert switching.span(seconds) == text


def test_a_code_of_a_later_release_is_no_error() -> None:
    assert switching.sentence("not_yet_known", {}) == ""
    assert switching.sentence(Code.SAMPLES, {"samples": 1}) == Code.SAMPLES


def test_the_bounds_reach_from_milliseconds_to_minutes() -> None:
    assert BOUNDS_MS[0] == 5
    assert BOUNDS_MS[-1] == 600_000
    assert list(BOUNDS_MS) == sorted(set(BOUNDS_MS))
