"""Tells when ticks have stopped, by the monotonic clock: the wall clock may be set back, which is one of the causes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime


class TickWatch:
    """Remembers when each heartbeat last moved.

    A heartbeat is late when it has not moved for its interval plus `grace_seconds`. A name that has never been seen
    counts from the first look.
    """

    def __init__(self, intervals: Mapping[str, float], *, grace_seconds: float = 30) -> None:
        self._allowed = {name: seconds + grace_seconds for name, seconds in intervals.items()}
        self._seen: dict[str, datetime | None] = {}
        self._moved_at: dict[str, float] = {}

    def late(self, heartbeats: Mapping[str, datetime], *, monotonic: float) -> list[str]:
        """The names that are late at `monotonic` seconds, given every heartbeat row as it is now."""
        for name in self._allowed:
            at = heartbeats.get(name)
            if name not in self._moved_at or at != self._seen[name]:
                self._seen[name], self._moved_at[name] = at, monotonic
        return sorted(name for name, allowed in self._allowed.items() if monotonic - self._moved_at[name] > allowed)

    def forgive(self) -> None:
        """Count anew from the next look: after a restart, or while Redis is away and nothing can be expected."""
        self._moved_at.clear()


async def keep_ticking(
    watch: TickWatch,
    *,
    look: Callable[[], Mapping[str, datetime] | None],
    restart: Callable[[list[str]], Awaitable[None]],
    pause_seconds: float,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Look again and again, for ever, and await `restart` with the late names when ticks stand still.

    `look` runs in a thread and returns every heartbeat, or None while nothing can be expected: no database, no Redis.
    """
    while True:
        await asyncio.sleep(pause_seconds)
        heartbeats = await asyncio.to_thread(look)
        if heartbeats is None:
            watch.forgive()
        elif late := watch.late(heartbeats, monotonic=monotonic()):
            await restart(late)
            watch.forgive()
