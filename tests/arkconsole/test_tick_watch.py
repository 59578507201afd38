"""When ticks count as late."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from arkconsole.tick_watch import TickWatch, keep_ticking

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


def restarts(looks: list[Mapping[str, datetime] | None]) -> list[list[str]]:
    """What is restarted over a series of looks, twenty seconds apart, at a tick of one second."""
    asked: list[list[str]] = []
    moments = iter(range(0, 20 * len(looks), 20))
    left = iter(looks)

    class Done(Exception):
        pass

    def look() -> Mapping[str, datetime] | None:
        try:
            seen = next(left)
        except StopIteration:
            raise Done from None
        if seen is None:
            next(moments)
        return seen

    async def restart(late: list[str]) -> None:
        asked.append(late)

    async def scene() -> None:
        watch = TickWatch({"drain": 1})
        await keep_ticking(watch, look=look, restart=restart, pause_seconds=0, monotonic=lambda: next(moments))

    try:
        asyncio.run(scene())
    except Done:
        pass
    return asked


def test_ticks_that_stand_still_are_restarted_once_and_then_have_their_time() -> None:
    assert restarts([{"drain": NOON}] * 4) == [["drain"]]
    assert restarts([{"drain": NOON}] * 7) == [["drain"], ["drain"]]


def test_moving_ticks_are_left_alone() -> None:
    assert restarts([{"drain": NOON + timedelta(seconds=second)} for second in range(8)]) == []


def test_nothing_is_restarted_while_redis_or_the_database_is_away() -> None:
    still = {"drain": NOON}
    assert restarts([still, still, None, still, still, None, still]) == []
