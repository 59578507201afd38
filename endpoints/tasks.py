"""What runs in the worker for endpoints, and the nudge that wakes it before its next tick."""

from __future__ import annotations

import logging
import time

import kombu.exceptions
from celery import shared_task
from django.db import transaction
from django.utils import timezone

from common import redis
from endpoints import convergence, switch_tick

log = logging.getLogger(__name__)


class Circuit:
    """After a failure the next nudges are left out for a while: the tick comes anyway, and no page waits twice."""

    quiet_seconds = 5.0

    def __init__(self) -> None:
        self._quiet_until = 0.0

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._quiet_until

    def open(self) -> None:
        self._quiet_until = time.monotonic() + self.quiet_seconds

    def close(self) -> None:
        self._quiet_until = 0.0


circuit = Circuit()


@shared_task(name="endpoints.converge")
def converge() -> None:
    """Make the status of endpoints follow what people want and what their model servers do."""
    convergence.converge(now=timezone.now())


@shared_task(name="endpoints.switches")
def switches() -> None:
    """Look at the version switches whose turn has come, and move those that may move."""
    for switch_id in switch_tick.tick(now=timezone.now()).to_warm:
        warm_switch.apply_async((switch_id,), expires=30)


@shared_task(name="endpoints.warm_switch", expires=30)
def warm_switch(switch_id: int) -> None:
    """Make the one-token call that a switch waits for."""
    switch_tick.warm(switch_id=switch_id, now=timezone.now())


def nudge() -> None:
    """After commit, ask the worker to converge now rather than at its next tick. Never raises, never waits long."""
    transaction.on_commit(_nudge, robust=True)


def _nudge() -> None:
    if circuit.is_open:
        return
    # The probe has deadlines of its own; the broker's are longer.
    if redis.is_alive():
        try:
            converge.apply_async(retry=False, expires=10)
        except (kombu.exceptions.OperationalError, redis.Error, OSError) as error:
            log.info("no nudge to the worker: %s", error)
        else:
            return
    circuit.open()
