"""Celery's entry points of alerts: the ticks, and what is nudged between them."""

from __future__ import annotations

import threading

from celery import shared_task
from django.utils import timezone

from alerts import chain, deliveries, events, sync, tending
from alerts.models import Delivery

DELIVERING_AT_ONCE = 3
"""Threads of a worker that may wait for addresses: eight deaf ones would leave none for probes, openings and `tend`."""
_may_deliver = threading.BoundedSemaphore(DELIVERING_AT_ONCE)
_may_wait = threading.BoundedSemaphore(DELIVERING_AT_ONCE - 1)
"""One of them is for addresses that answer, so that these never wait for deaf ones."""


@shared_task(name="alerts.deliver_due")
def deliver_due() -> None:
    """Hand on what is to be sent (every 2 s); sending waits for others, so it has a queue of its own."""
    if Delivery.objects.due(timezone.now()).exists():
        deliver.delay()


@shared_task(name="alerts.deliver", expires=30)
def deliver() -> None:
    """Send what is due, unless enough threads are at it: they find it too, and the tick asks again."""
    if not _may_deliver.acquire(blocking=False):
        return
    may_wait = _may_wait.acquire(blocking=False)
    try:
        deliveries.send_due(clock=timezone.now, leaves_deaf=not may_wait)
    finally:
        if may_wait:
            _may_wait.release()
        _may_deliver.release()


@shared_task(name="alerts.tend")
def tend() -> None:
    """Keep events, silences and Alertmanager's configuration as they should be (every 10 s)."""
    tending.tend(now=timezone.now())
    if sync.is_owed(now=timezone.now()):
        sync_rules.delay()
    chain.tell_admins(now=timezone.now())


@shared_task(name="alerts.sync_rules", expires=30)
def sync_rules() -> None:
    """Bring the rules to Prometheus; what came too soon after the last time is done a few seconds later."""
    outcome = sync.sync(now=timezone.now())
    if outcome.retry_seconds:
        sync_rules.apply_async(countdown=outcome.retry_seconds, expires=30)


@shared_task(name="alerts.prune")
def prune() -> None:
    """Forget what is older than it is kept."""
    now = timezone.now()
    events.prune(now=now)
    deliveries.prune(now=now)
