"""Celery's entry points of the ledger."""

from __future__ import annotations

import time

from celery import shared_task
from django.utils import timezone

from metering import drain as draining
from metering import pruning

MAX_SECONDS = 3.0


@shared_task(name="metering.drain")
def drain() -> None:
    """Bring the usage stream into the ledger, batch by batch until it is empty or the next tick's turn has come."""
    end = time.monotonic() + MAX_SECONDS
    while time.monotonic() < end:
        drained = draining.drain(now=timezone.now())
        if drained.is_busy or drained.read < draining.BATCH:
            return


@shared_task(name="metering.prune")
def prune() -> None:
    """Remove what is older than it is kept."""
    pruning.prune(now=timezone.now())
