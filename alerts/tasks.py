"""Celery's entry points of alerts: the ticks, and what is nudged between them."""

from __future__ import annotations

import logging
from typing import Any

from celery import Task, shared_task
from django.utils import timezone
from kombu.exceptions import OperationalError

from alerts import chain, deliveries, events, tending
from alerts.models import Delivery

log = logging.getLogger(__name__)


@shared_task(name="alerts.deliver_due")
def deliver_due() -> None:
    """Hand on what is to be sent (every 2 s); sending waits for others, so it has a queue of its own."""
    if Delivery.objects.due(timezone.now()).exists():
        deliver.delay()


@shared_task(name="alerts.deliver", expires=30)
def deliver() -> None:
    """Send what is due."""
    deliveries.send_due(clock=timezone.now)


@shared_task(name="alerts.tend")
def tend() -> None:
    """Keep events, silences and Alertmanager's configuration as they should be (every 10 s)."""
    tending.tend(now=timezone.now())
    chain.tell_admins(now=timezone.now())


@shared_task(name="alerts.prune")
def prune() -> None:
    """Forget what is older than it is kept."""
    now = timezone.now()
    events.prune(now=now)
    deliveries.prune(now=now)


def nudge_deliveries() -> None:
    """Ask a worker to send now. Nothing depends on it: the tick finds the same rows two seconds later."""
    _enqueue(deliver)


def _enqueue(task: Task[..., Any]) -> None:
    try:
        task.delay()
    except OperationalError as error:
        log.debug("no nudge of %s: %s", task.name, error)
