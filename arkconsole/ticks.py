"""The only schedule: what beat sends, how often, and whether it still arrives.

Each tick is the Celery task of the same name in its room's `tasks.py`. A message that was not taken up within its
interval is dropped (`expires`), so a worker that was away finds no pile of old ticks. Each run of a tick writes a
heartbeat: the console says "ticks late" from it, and the supervisor restarts beat and workers from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

GRACE = timedelta(seconds=15)
"""Pages say that ticks are late a while before the supervisor, after 30 seconds, restarts who should send them."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A task's name, its interval, and the queue that it waits in."""

    name: str
    seconds: int
    queue: str = "ticks"


TICKS = (
    Tick("metering.drain", 1),
    Tick("endpoints.converge", 2),
    Tick("endpoints.switches", 2),
    Tick("catalog.probe_due", 2),
    Tick("gateway.reap", 3),
    Tick("monitoring.openings", 2),
    Tick("monitoring.watch", 15, queue="slow"),
    Tick("alerts.deliver_due", 2),
    Tick("alerts.tend", 10, queue="slow"),
    Tick("metering.prune", 3600, queue="slow"),
    Tick("alerts.prune", 3600, queue="slow"),
    Tick("arkconsole.tidy", 3600, queue="slow"),
)
BY_NAME = {tick.name: tick for tick in TICKS}
BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    tick.name: {
        "task": tick.name,
        "schedule": float(tick.seconds),
        "options": {"queue": tick.queue, "expires": float(tick.seconds)},
    }
    for tick in TICKS
}
ROUTES: dict[str, dict[str, str]] = {
    **{tick.name: {"queue": tick.queue} for tick in TICKS},
    "catalog.probe_server": {"queue": "slow"},
    "endpoints.warm_switch": {"queue": "slow"},
    "monitoring.advance_openings": {"queue": "slow"},
    "alerts.deliver": {"queue": "slow"},
    "alerts.sync_rules": {"queue": "slow"},
}
"""Where tasks wait, also when something else than beat sends them; the others go to `ticks`."""


def are_late(now: datetime) -> bool:
    """Whether any tick has not run for its interval and `GRACE`, nor could have since the last start; one query.

    A heartbeat that lies ahead (the clock was set back) says nothing about now, and counts as late too.
    """
    # Only here: beat reads this table before Django has loaded any model.
    from common.models import TickHeartbeat

    beats = dict(TickHeartbeat.objects.values_list("name", "at"))
    started = beats.get(TickHeartbeat.START)
    for tick in TICKS:
        if tick.name not in beats and tick.seconds > GRACE.total_seconds():
            continue  # a rare tick before its first turn
        known = [at for at in (beats.get(tick.name), started) if at is not None]
        if not known or min(abs(now - at) for at in known) > timedelta(seconds=tick.seconds) + GRACE:
            return True
    return False
