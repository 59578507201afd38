"""Any sequence of what people, servers, clocks and dying ticks do to version switches: the promises hold at every step."""

from __future__ import annotations

import os
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from catalog.models import ModelServer, ModelVersion
from common.errors import DomainError
from common.models import RouteChange, TickHeartbeat
from endpoints import convergence, services, switch_moves, switch_services, switch_tick, switching
from endpoints.models import Endpoint, SwitchEvent, VersionSwitch
from endpoints.switching import CUT_OVER, Code, Gates, Rung, Verb
from metering import health
from metering.models import HealthSum
from tests import builders
from tests.builders import NOW

LADDERS = [
    (Rung(10, 30), Rung(50, 30), Rung(100, 30)),
    (Rung(1, 30), Rung(2, 60), Rung(30, 30), Rung(100, 60)),
    CUT_OVER,
]
STEPS = ["locked", "decided", "held", "moved", "recorded", "committed"]
GATES = st.sampled_from([None, Gates(error_rate_percent=10, min_samples=20)])
SELDOM = st.integers(0, 7).map(lambda number: number == 7)
KEEPS = (SwitchEvent.Kind.NOTE, SwitchEvent.Kind.HELD)


class Death(Exception):
    """The worker died here."""


class Week(RuleBasedStateMachine):
    """One endpoint, three versions on three servers; everything happens in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.now = NOW
        self.by = builders.actor()
        self.servers = [builders.model_server(state="up", probed_at=NOW) for _ in range(3)]
        self.versions = [builders.model_version(servers=[server]) for server in self.servers]
        self.endpoint = builders.endpoint(version=self.versions[0])
        self.first_version = self.versions[0].pk

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.transaction.__exit__(None, None, None)

    @initialize(which=st.integers(1, 2), ladder=st.sampled_from(LADDERS), gates=GATES, rolls_back=st.booleans())
    def a_switch_is_under_way(
        self, which: int, ladder: tuple[Rung, ...], gates: Gates | None, rolls_back: bool
    ) -> None:
        self.somebody_starts(which, ladder, gates, rolls_back, False)
        self.a_probe_comes()
        self.tick()
        self.somebody_goes_on()

    def stored(self) -> Endpoint:
        return Endpoint.objects.select_related("version__model", "project").get(pk=self.endpoint.pk)

    def latest(self) -> VersionSwitch | None:
        return VersionSwitch.objects.select_related("endpoint__project").order_by("-pk").first()

    # --- people
    @rule(
        which=st.integers(0, 2),
        ladder=st.sampled_from(LADDERS),
        gates=GATES,
        rolls_back=st.booleans(),
        warm=st.booleans(),
    )
    def somebody_starts(
        self, which: int, ladder: tuple[Rung, ...], gates: Gates | None, rolls_back: bool, warm: bool
    ) -> None:
        try:
            switch_services.start(
                endpoint=self.stored(), target=self.versions[which], ladder=ladder, gates=gates,
                on_breach="roll_back" if rolls_back else "hold", warm=warm, confirmed=True, reason="", by=self.by,
                now=self.now,
            )  # fmt: skip
        except DomainError:
            return

    @rule(number=st.integers(0, 7), hold=st.integers(30, 90))
    def somebody_does_what_fits(self, number: int, hold: int) -> None:
        switch = self.latest()
        # What ends it is left to chance: most of the life of a switch is on its ladder.
        if switch is not None and (
            fitting := sorted(switching.verbs(switch) - {Verb.FINISH, Verb.ROLL_BACK, Verb.CANCEL})
        ):
            self.act(switch, Verb(fitting[number % len(fitting)]), hold, is_late=False)

    @rule()
    def somebody_goes_on(self) -> None:
        if switch := self.latest():
            self.act(switch, Verb.ADVANCE, 0, is_late=False)

    @precondition(lambda self: VersionSwitch.objects.open().filter(rung__gt=0).exists())
    @rule(verb=st.sampled_from([Verb.STEP_BACK, Verb.RETURN]), hold=st.integers(30, 45))
    def somebody_goes_back(self, verb: Verb, hold: int) -> None:
        if switch := self.latest():
            self.act(switch, verb, hold, is_late=False)

    @rule(verb=st.sampled_from(Verb), is_late=st.booleans(), hold=st.integers(30, 90))
    def somebody_does_anything(self, verb: Verb, is_late: bool, hold: int) -> None:
        switch = self.latest()
        if switch is not None:
            self.act(switch, verb, hold, is_late=is_late)

    def act(self, switch: VersionSwitch, verb: Verb, hold: int, *, is_late: bool) -> None:
        fits = verb in switching.verbs(switch) and switch.endpoint.deleted_at is None
        common: dict[str, Any] = {"switch": switch, "reason": "because", "by": self.by, "now": self.now}
        seen = {"seen_moves": switch.moves - is_late}
        calls: dict[Verb, Any] = {
            Verb.PAUSE: lambda: switch_services.pause(**common, **seen),
            Verb.RESUME: lambda: switch_services.resume(**common, **seen),
            Verb.STEP_BACK: lambda: switch_services.step_back(**common, **seen),
            Verb.ADVANCE: lambda: switch_services.advance(**common, **seen),
            Verb.RETURN: lambda: switch_services.return_gradually(**common, **seen, hold_seconds=hold),
            Verb.ROLL_BACK: lambda: switch_services.roll_back_now(**common),
            Verb.FINISH: lambda: switch_services.finish_now(**common, **seen),
            Verb.CANCEL: lambda: switch_services.cancel(**common, **seen),
        }
        try:
            moved = calls[verb]()
        except DomainError:
            assert VersionSwitch.objects.get(pk=switch.pk).moves == switch.moves
            # Back now always works while the switch is open.
            assert not (fits and verb == Verb.ROLL_BACK)
        else:
            assert fits
            assert not is_late or verb == Verb.ROLL_BACK
            assert moved.moves == switch.moves + 1
            assert moved == VersionSwitch.objects.get(pk=switch.pk)

    @rule(verb=st.sampled_from([services.start, services.start, services.stop]))
    def somebody_stops_or_starts_the_endpoint(self, verb: Any) -> None:
        try:
            verb(endpoint=self.stored(), by=self.by, now=self.now)
        except DomainError:
            return

    @rule(rpm=st.integers(2, 5_000_000))
    def somebody_changes_the_limits(self, rpm: int) -> None:
        stored = self.stored()
        if stored.deleted_at is None and stored.rpm != rpm:
            services.edit(endpoint=stored, revision=stored.revision, name="n", description="", rpm=rpm, tpm=9, tags={},
                          by=self.by, now=self.now)  # fmt: skip

    @rule(is_sure=SELDOM)
    def somebody_deletes_the_endpoint(self, is_sure: bool) -> None:
        stored = self.stored()
        if not is_sure:
            return
        try:
            services.delete(endpoint=stored, confirm_name=stored.name, by=self.by, now=self.now)
        except DomainError:
            return
        assert not VersionSwitch.objects.open().exists()

    # --- the world
    @rule(which=st.integers(0, 2), state=st.sampled_from(["up", "up", "down", "unknown"]))
    def a_server_changes(self, which: int, state: str) -> None:
        ModelServer.objects.filter(pk=self.servers[which].pk).update(state=state)

    @rule()
    def a_probe_comes(self) -> None:
        ModelServer.objects.filter(state="up").update(probed_at=self.now)

    @rule(which=st.integers(0, 2), is_retired=SELDOM)
    def an_admin_retires_a_version_or_offers_it_again(self, which: int, is_retired: bool) -> None:
        ModelVersion.objects.filter(pk=self.versions[which].pk).update(retires_at=self.now if is_retired else None)

    @rule(errors=st.integers(3, 20))
    def calls_fail(self, errors: int) -> None:
        self.calls_are_counted(25, errors)
        self.all_is_looked_at()

    def all_is_looked_at(self) -> None:
        """As if every switch's turn had come."""
        self.now += timedelta(seconds=11)
        TickHeartbeat.beat(name="metering.drain", now=self.now)
        self.tick()

    @rule(calls=st.integers(10, 60), errors=st.sampled_from([0, 0, 1]))
    def calls_are_counted(self, calls: int, errors: int) -> None:
        switch = self.latest()
        if switch is not None:
            for rung in (switch.soak, health.WHOLE):
                for version_id in (switch.source_id, switch.target_id):
                    row, _new = HealthSum.objects.get_or_create(
                        switch_id=switch.pk, rung=rung, version_id=version_id, defaults={"at": self.now}
                    )
                    row.calls += calls
                    row.errors += min(errors, calls)
                    row.save()

    @rule(is_running=st.booleans())
    def metering_runs_or_not(self, is_running: bool) -> None:
        TickHeartbeat.beat(name="metering.drain", now=self.now if is_running else self.now - timedelta(minutes=5))

    @rule(seconds=st.integers(-7200, 7200))
    def the_clock_is_set(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    # --- the ticks
    @rule(seconds=st.integers(0, 30))
    def the_ticks_run(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        convergence.converge(now=self.now)
        self.tick()

    @rule(times=st.integers(3, 8))
    def all_goes_well_for_a_while(self, times: int) -> None:
        ModelServer.objects.update(state="up", probed_at=self.now)
        for _ in range(times):
            self.calls_are_counted(20, 0)
            self.now += timedelta(seconds=11)
            TickHeartbeat.beat(name="metering.drain", now=self.now)
            switch_tick.tick(now=self.now)

    def tick(self) -> None:
        before = self.rows()
        switch_tick.tick(now=self.now)
        after = self.rows()
        assert all(after[pk]["moves"] - row["moves"] in (0, 1) for pk, row in before.items())
        events = SwitchEvent.objects.count()
        assert switch_tick.tick(now=self.now) == switch_tick.Ticked()
        assert self.rows() == after
        assert SwitchEvent.objects.count() == events

    @rule(step=st.sampled_from(STEPS), seconds=st.integers(0, 30))
    def the_tick_dies(self, step: str, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        before = self.rows()

        def checkpoint(name: str) -> None:
            if name == step:
                raise Death(name)

        try:
            switch_tick.tick(now=self.now, checkpoint=checkpoint)
        except Death:
            if step != "committed":
                assert self.rows() == before
        self.tick()

    def rows(self) -> dict[int, dict[str, Any]]:
        return {row["id"]: row for row in VersionSwitch.objects.values()}

    # --- the promises
    @invariant()
    def the_weight_is_on_the_ladder(self) -> None:
        for switch in VersionSwitch.objects.all():
            if switch.state in ("rolled_back", "cancelled"):
                assert (switch.weight, switch.rung) == (0, -1)
            elif switch.state == "completed":
                assert (switch.weight, switch.rung) == (100, len(switch.ladder) - 1)
            else:
                assert -1 <= switch.rung < len(switch.ladder)
                assert switch.weight == (switch.ladder[switch.rung]["weight"] if switch.rung >= 0 else 0)
                assert (switch.state == "preparing") <= (switch.rung == -1)
                assert (switch.state in ("climbing", "returning")) <= (switch.rung >= 0)
            assert (switch.ended_at is None) == switch.is_open

    @invariant()
    def an_endpoint_has_one_open_switch_at_most(self) -> None:
        assert VersionSwitch.objects.open().count() <= 1

    @invariant()
    def every_move_is_in_the_log_and_skips_no_rung(self) -> None:
        for switch in VersionSwitch.objects.prefetch_related("events"):
            log = list(switch.events.all())
            moves = [event for event in log if event.kind not in KEEPS]
            assert moves[0].kind == "started"
            assert len(moves) == switch.moves + 1
            last = moves[-1]
            assert (last.soak, last.rung, last.weight) == (switch.soak, switch.rung, switch.weight)
            for earlier, later in pairwise(moves):
                assert later.from_weight == earlier.weight
                assert later.soak == earlier.soak or later.soak == earlier.soak + 1
                assert (later.soak > earlier.soak) or later.weight == earlier.weight
                if later.rung > earlier.rung + 1:
                    assert later.kind == "finished" or later.code == Code.SOURCE_RETIRED
                if later.kind in ("advanced", "advanced_by_hand"):
                    assert later.rung == earlier.rung + 1
            assert all(event.weight == event.from_weight for event in log if event.kind in KEEPS)

    @invariant()
    def the_endpoint_serves_the_target_only_after_a_switch_was_completed(self) -> None:
        completed = VersionSwitch.objects.filter(state="completed").order_by("-pk").first()
        assert self.stored().version_id == (completed.target_id if completed else self.first_version)

    @invariant()
    def the_gateway_hears_of_every_move(self) -> None:
        told = RouteChange.objects.filter(kind="endpoint", object_id=self.endpoint.pk).count()
        assert told >= SwitchEvent.objects.exclude(kind__in=KEEPS).count()

    @invariant()
    def a_turn_is_never_far_ahead_of_the_clock_that_set_it(self) -> None:
        for switch in VersionSwitch.objects.open():
            assert switch.check_at - switch.ticked_at <= timedelta(seconds=switch_moves.CHECK_SECONDS)


@pytest.mark.django_db
@pytest.mark.usefixtures("fresh_redis")
def test_the_promises_of_the_switch_hold_whatever_happens() -> None:
    run_state_machine_as_test(
        Week,
        settings=settings(
            # A week of a switch costs seconds; ARK_TEST_EXAMPLES=100 asks for many of them.
            max_examples=int(os.environ.get("ARK_TEST_EXAMPLES", "10")),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
