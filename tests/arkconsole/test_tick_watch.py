"""When ticks count as late."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from arkconsole.tick_watch import TickWatch

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_a_heartbeat_that_moves_is_never_late_even_when_the_clock_is_set_back() -> None:
    watch = TickWatch({"drain": 1})
    for second in range(0, 100, 20):
        assert watch.late({"drain": NOON - timedelta(hours=second)}, monotonic=second) == []


def test_a_heartbeat_that_stands_still_is_late_after_its_interval_and_the_grace() -> None:
    watch = TickWatch({"drain": 1, "retire": 60})
    still = {"drain": NOON, "retire": NOON}
    assert watch.late(still, monotonic=100) == []
    assert watch.late(still, monotonic=131) == []
    assert watch.late(still, monotonic=131.5) == ["drain"]
    assert watch.late(still, monotonic=191) == ["drain", "retire"]


def test_a_tick_that_never_came_is_late_too() -> None:
    watch = TickWatch({"drain": 1})
    assert watch.late({}, monotonic=0) == []
    assert watch.late({}, monotonic=32) == ["drain"]


def test_forgiven_ticks_have_their_whole_time_again() -> None:
    watch = TickWatch({"drain": 1})
    watch.late({}, monotonic=0)
    watch.forgive()
    assert watch.late({}, monotonic=40) == []
    assert watch.late({}, monotonic=80) == ["drain"]


def test_heartbeats_of_ticks_that_are_no_longer_in_the_schedule_do_not_count() -> None:
    watch = TickWatch({"drain": 1})
    watch.late({"old": NOON}, monotonic=0)
    assert watch.late({"old": NOON}, monotonic=10) == []
