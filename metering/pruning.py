"""What the ledger forgets: single calls after CALL_RECORD_DAYS, minutes after ten weeks. Hours are kept."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models

from common import redis
from metering import drain
from metering.models import CallRecord, DeadEvent, UsageMinute

MINUTE_DAYS = 70
"""Last month's cost in a zone off the hour needs minutes from up to 62 days ago."""
CHUNK = 5_000
MAX_CHUNKS = 200


def prune(*, now: datetime) -> int:
    """Remove rows past their time in short transactions, so that nobody waits for it; return how many.

    What one run does not reach, the next one does.
    """
    calls_until = now - timedelta(days=settings.CALL_RECORD_DAYS) - drain.PRUNE_MARGIN
    removed = _remove(CallRecord, calls_until)
    removed += _remove(DeadEvent, calls_until)
    removed += _remove(UsageMinute, now - timedelta(days=MINUTE_DAYS))
    with contextlib.suppress(redis.Error):  # away: an orphan of the stream waits for the next hour
        drain.discover()
        drain.forget_finished(now=now)
    return removed


def _remove(model: type[models.Model], until: datetime) -> int:
    rows: Any = model._default_manager
    removed = 0
    for _chunk in range(MAX_CHUNKS):
        ids = list(rows.filter(at__lt=until).order_by("at").values_list("pk", flat=True)[:CHUNK])
        if not ids:
            break
        removed += rows.filter(pk__in=ids).delete()[0]
    return removed
