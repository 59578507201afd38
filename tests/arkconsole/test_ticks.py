"""The schedule, and what a tick that fails does to the log and to the heartbeats."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.beat import Service
from django.db import OperationalError

from arkconsole import ticks
from arkconsole.beat import app as beat_app
from arkconsole.celery import app
from common.models import TickHeartbeat
from tests.builders import NOW

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("tick", ticks.TICKS, ids=lambda tick: tick.name)
def test_each_tick_is_a_task_whose_messages_expire_within_its_interval(tick: ticks.Tick) -> None:
    app.loader.import_default_modules()
    entry = beat_app.conf.beat_schedule[tick.name]

    assert entry["task"] in app.tasks
    assert 0 < entry["options"]["expires"] <= entry["schedule"]
    assert entry["options"]["queue"] in ("ticks", "slow")


def test_beat_itself_reads_the_schedule(tmp_path: Path) -> None:
    service = Service(app=beat_app, schedule_filename=str(tmp_path / "schedule"))
    try:
        assert {tick.name for tick in ticks.TICKS} == set(service.scheduler.schedule)
    finally:
        service.scheduler.close()


def test_beat_loads_the_schedule_and_what_is_logged_but_no_model_and_no_task() -> None:
    read = (
        "import logging; from arkconsole.beat import app; app.loader.init_worker(); app.finalize(); "
        "from django.apps import apps; assert not apps.ready; assert len(app.conf.beat_schedule) > 4; "
        "assert not [name for name in app.tasks if not name.startswith('celery.')]; "
        "assert logging.getLogger('celery.beat').filters"
    )
    subprocess.run([sys.executable, "-c", read], check=True, timeout=60)


def beat(*, seconds_ago: float = 0, leave_out: str = "") -> None:
    for tick in ticks.TICKS:
        if tick.name != leave_out:
            TickHeartbeat.beat(name=tick.name, now=NOW - timedelta(seconds=seconds_ago))


@pytest.mark.parametrize(("seconds", "expected"), [(0, False), (14, False), (60, True)])
def test_after_a_start_ticks_have_some_seconds_until_they_are_late(seconds: float, expected: bool) -> None:
    """Whether they never ran, or ran long ago when the product was last up."""
    TickHeartbeat.beat(name=TickHeartbeat.START, now=NOW - timedelta(seconds=seconds))
    assert ticks.are_late(NOW) is expected
    beat(seconds_ago=7200)
    assert ticks.are_late(NOW) is expected


def test_ticks_are_late_before_they_ever_ran() -> None:
    assert ticks.are_late(NOW)


@pytest.mark.parametrize(
    ("seconds_ago", "expected"), [(0, False), (15, False), (19, True), (-10, False), (-3600, True)]
)
def test_ticks_are_late_some_seconds_after_their_interval_and_when_the_clock_went_back(
    seconds_ago: float, expected: bool
) -> None:
    beat(seconds_ago=seconds_ago)

    assert ticks.are_late(NOW) is expected


def test_one_tick_that_stands_still_is_enough() -> None:
    beat()
    TickHeartbeat.beat(name="endpoints.converge", now=NOW - timedelta(minutes=1))

    assert ticks.are_late(NOW)


def test_an_hourly_tick_is_not_missed_in_the_first_hour_nor_by_heartbeats_of_ticks_that_are_no_more() -> None:
    beat(leave_out="arkconsole.tidy")
    TickHeartbeat.beat(name=TickHeartbeat.START, now=NOW - timedelta(hours=2))
    TickHeartbeat.beat(name="a.tick.of.an.old.release", now=NOW - timedelta(days=9))

    assert not ticks.are_late(NOW)


class Trouble:
    """The body of a tick; raises what it is given."""

    def __init__(self) -> None:
        self.raises: Exception | None = None
        self.runs = 0

    def __call__(self) -> None:
        self.runs += 1
        if self.raises:
            raise self.raises


@pytest.fixture
def trouble() -> Trouble:
    return Trouble()


@pytest.fixture
def tick(trouble: Trouble, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tick as a worker runs it, in an application of its own."""
    monkeypatch.setitem(ticks.BY_NAME, "tests.trouble", ticks.Tick("tests.trouble", 1))
    own = Celery("own", task_cls="arkconsole.tick_task:TickTask", set_as_current=False)

    @own.task(name="tests.trouble", shared=False)
    def run() -> None:
        trouble()

    return run


def test_a_tick_that_fails_says_so_once_in_a_sentence_and_says_when_it_works_again(
    tick: Any, trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    trouble.raises = OperationalError("the connection\nis closed")
    with caplog.at_level(logging.WARNING, logger="arkconsole.tick_task"):
        for _time in range(5):
            tick.apply()
        trouble.raises = None
        tick.apply()
        tick.apply()

    assert trouble.runs == 7
    assert [record.getMessage() for record in caplog.records] == [
        "tests.trouble failed (1 times by now): the connection is closed",
        "tests.trouble works again after 5 failures",
    ]
    assert not any(record.exc_info for record in caplog.records)


def test_a_mistake_of_ours_comes_with_its_traceback(
    tick: Any, trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    trouble.raises = KeyError("x")
    tick.apply()

    assert caplog.records[0].exc_info


def test_a_tick_beats_though_it_failed_and_not_at_every_run(
    tick: Any, trouble: Trouble, django_assert_num_queries: Any
) -> None:
    trouble.raises = KeyError("x")
    tick.apply()

    assert TickHeartbeat.objects.filter(name="tests.trouble").exists()
    with django_assert_num_queries(0):
        tick.apply()


def test_called_as_a_function_a_tick_raises(tick: Any, trouble: Trouble) -> None:
    trouble.raises = KeyError("x")

    with pytest.raises(KeyError):
        tick()
