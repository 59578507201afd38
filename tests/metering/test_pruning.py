"""What the ledger forgets, and what it must not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import redis as redis_client

from metering import drain, pruning
from metering.models import CallRecord, DeadEvent, UsageHour, UsageMinute
from tests import builders
from tests.builders import NOW, usage_event
from tests.metering.conftest import Send

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def test_calls_go_after_their_days_and_an_hour_and_not_before(settings: Any, stream: redis_client.Redis) -> None:
    settings.CALL_RECORD_DAYS = 3
    limit = NOW - timedelta(days=3) - HOUR
    for number in range(7):
        builders.call_record(call_id=f"old-{number}", at=limit - timedelta(seconds=number + 1))
    builders.call_record(call_id="young", at=limit)

    assert pruning.prune(now=NOW) == 7

    assert CallRecord.objects.get().call_id == "young"


def test_a_replay_of_a_call_whose_record_was_pruned_is_not_counted_again(settings: Any, send: Send) -> None:
    settings.CALL_RECORD_DAYS = 3
    event = usage_event()
    send(event)
    drain.drain(now=NOW)
    later = NOW + timedelta(days=3, hours=2)
    pruning.prune(now=later)
    assert not CallRecord.objects.exists()
    send(event)

    assert drain.drain(now=later) == drain.Drained(read=1, dead=1)

    assert sum(UsageHour.objects.values_list("calls", flat=True)) == 1


def test_minutes_go_after_ten_weeks_and_hours_stay(settings: Any, send: Send) -> None:
    settings.CALL_RECORD_DAYS = 365
    send(*[usage_event(at=int((NOW - timedelta(days=days)).timestamp() * 1000)) for days in (69, 71)])
    drain.drain(now=NOW)

    pruning.prune(now=NOW)

    assert (UsageMinute.objects.count(), UsageHour.objects.count()) == (1, 2)


def test_more_rows_than_a_chunk_go_in_one_run(monkeypatch: pytest.MonkeyPatch, stream: redis_client.Redis) -> None:
    monkeypatch.setattr(pruning, "CHUNK", 3)
    for number in range(10):
        DeadEvent.objects.create(
            generation="g", entry_id=str(number), at=NOW - timedelta(days=400), reason="invalid", detail="x", data=b"x"
        )

    assert pruning.prune(now=NOW) == 10
