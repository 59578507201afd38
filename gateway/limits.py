"""Limits of an endpoint over all workers: one script to admit a call, one to settle it.

The truth is a sliding minute in Redis (`lua/window.lua`). While Redis is away or late, each worker keeps to its share of
the limit by its own window, and usage events go to the spool. `admit` waits for Redis at most for the pipe's deadline;
`settle` never waits.
"""

from __future__ import annotations

import math
import secrets
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from gateway.resp import Pipe, RedisAway, Script
from metering import events

WINDOW_PREFIX = "ark:limit:"
OPEN_PREFIX = "ark:open:"
RING = 121
SLOT_SECONDS = 0.5
_LUA = Path(__file__).parent / "lua"
_WINDOW = (_LUA / "window.lua").read_text(encoding="utf-8")

ADMIT = Script(_WINDOW + (_LUA / "admit.lua").read_text(encoding="utf-8"))
SETTLE = Script(_WINDOW + (_LUA / "settle.lua").read_text(encoding="utf-8"))


def new_generation() -> str:
    """A generation id for a Redis that has none."""
    return secrets.token_hex(8)


class Admission(msgspec.Struct, frozen=True):
    """What the limits said. `limit` is None when the call may go, else the limit ("rpm", "tpm") that refused it.

    `reserved` tokens are held until the call is settled; `at` is this process's clock at that time.
    """

    reserved: int = 0
    limit: str | None = None
    retry_after_seconds: int = 0
    at: float = 0.0


class Limiter(Protocol):
    """Admits calls and settles them."""

    async def admit(
        self, *, call_id: str, endpoint_id: str, rpm: int, tpm: int, tokens: int, record: bytes
    ) -> Admission:
        """Check both limits (0: none) and reserve `tokens`; `record` is the usage event should this worker die."""

    def settle(self, admission: Admission | None, *, call_id: str, endpoint_id: str, tokens: int, event: bytes) -> None:
        """Replace the reservation, if there is one, by the `tokens` really used, and put the usage event into the ledger."""


class LocalWindow:
    """The same sliding minute for one endpoint in this process, by a monotonic clock."""

    __slots__ = ("_calls", "_slots", "_tokens")

    def __init__(self) -> None:
        self._slots: deque[list[int]] = deque()
        self._calls = 0
        self._tokens = 0

    def counts(self, now: float) -> tuple[int, int]:
        """Calls and tokens in the window."""
        self._advance(int(now / SLOT_SECONDS))
        return self._calls, self._tokens

    def add(self, now: float, tokens: int) -> None:
        """Count one call with `tokens`, whatever the limits."""
        slot = int(now / SLOT_SECONDS)
        slots = self._slots
        if not slots or slots[-1][0] != slot:
            self._advance(slot)
            slots.append([slot, 0, 0])
        last = slots[-1]
        last[1] += 1
        last[2] += tokens
        self._calls += 1
        self._tokens += tokens

    def admit(self, now: float, *, rpm: int, tpm: int, tokens: int) -> Admission:
        """Count the call if both limits (0: none) allow it."""
        calls, used = self.counts(now)
        if tpm > 0:
            tokens = min(tokens, tpm)
        if rpm > 0 and calls + 1 > rpm:
            return Admission(limit="rpm", retry_after_seconds=self._wait(now, 1, calls + 1 - rpm))
        if tpm > 0 and used + tokens > tpm:
            return Admission(limit="tpm", retry_after_seconds=self._wait(now, 2, used + tokens - tpm))
        self.add(now, tokens)
        return Admission(reserved=tokens, at=now)

    def settle(self, now: float, admission: Admission, tokens: int) -> None:
        """Return what was reserved and not used to its own slot, if that still counts; charge an excess now."""
        delta = tokens - admission.reserved
        self._advance(int(now / SLOT_SECONDS))
        slot = int((now if delta > 0 else admission.at) / SLOT_SECONDS)
        for entry in reversed(self._slots):
            if entry[0] == slot:
                entry[2] += delta
                self._tokens += delta
                return
            if entry[0] < slot:
                break
        if delta > 0:
            self._slots.append([slot, 0, delta])
            self._tokens += delta

    def _advance(self, slot: int) -> None:
        slots = self._slots
        while slots and slot - slots[0][0] >= RING:
            _slot, calls, tokens = slots.popleft()
            self._calls -= calls
            self._tokens -= tokens

    def _wait(self, now: float, field: int, excess: int) -> int:
        for entry in self._slots:
            excess -= entry[field]
            if excess <= 0:
                return max(math.ceil((entry[0] + RING) * SLOT_SECONDS - now), 1)
        return math.ceil(RING * SLOT_SECONDS)


class RedisLimiter:
    """Limits in Redis, the worker's share of them while Redis is away.

    `spool` takes an event that could not be appended; `live_workers` says by how many the limits are shared then.
    """

    def __init__(
        self,
        pipe: Pipe,
        *,
        worker: str,
        spool: Callable[[bytes], None],
        live_workers: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pipe = pipe
        self._spool = spool
        self._live_workers = live_workers
        self._clock = clock
        self._open_key = OPEN_PREFIX + worker
        self._generation = new_generation()
        self._windows: dict[str, LocalWindow] = {}

    async def admit(
        self, *, call_id: str, endpoint_id: str, rpm: int, tpm: int, tokens: int, record: bytes
    ) -> Admission:
        window = self._windows.get(endpoint_id)
        if window is None:
            window = self._windows[endpoint_id] = LocalWindow()
        try:
            reply = await self._pipe.ask(
                ADMIT, (2, WINDOW_PREFIX + endpoint_id, self._open_key, call_id, rpm, tpm, tokens, record)
            )
        except RedisAway:
            share = max(self._live_workers(), 1)
            return window.admit(
                self._clock(),
                rpm=max(rpm // share, 1) if rpm > 0 else 0,
                tpm=max(tpm // share, 1) if tpm > 0 else 0,
                tokens=tokens,
            )
        if reply < 0:
            wait_ms, is_rpm = divmod(-reply, 2)
            return Admission(limit="rpm" if is_rpm else "tpm", retry_after_seconds=math.ceil(wait_ms / 1000))
        # Counted here too, so that the share is right from the first moment without Redis.
        now = self._clock()
        window.add(now, reply)
        return Admission(reply, None, 0, now)

    def settle(self, admission: Admission | None, *, call_id: str, endpoint_id: str, tokens: int, event: bytes) -> None:
        if admission is not None and admission.limit is None and tokens != admission.reserved:
            window = self._windows.get(endpoint_id)
            if window is not None:
                window.settle(self._clock(), admission, tokens)

        args = self._settle_args(self._open_key, call_id, endpoint_id, tokens, event)
        self._pipe.submit(SETTLE, args, partial(self._spool, event))

    async def replay(self, lines: list[bytes]) -> None:
        """Settle spooled events (of any worker). Raises `RedisAway` unless all were taken."""
        waiting = []
        for line in lines:
            event = events.decode(line)
            tokens = event.input_tokens + event.output_tokens
            args = self._settle_args(OPEN_PREFIX + event.worker, event.call_id, event.endpoint_id, tokens, line)
            waiting.append(self._pipe.ask(SETTLE, args))
        failed = None
        for future in waiting:
            try:
                await future
            except RedisAway as error:
                failed = error
        if failed is not None:
            raise failed

    def forget_idle(self) -> None:
        """Drop local windows in which nothing is left. Call now and then."""
        now = self._clock()
        for endpoint_id in [name for name, window in self._windows.items() if window.counts(now)[0] == 0]:
            del self._windows[endpoint_id]

    def _settle_args(
        self, open_key: str, call_id: str, endpoint_id: str, tokens: int, event: bytes
    ) -> tuple[bytes | str | int, ...]:
        return (
            3,
            WINDOW_PREFIX + endpoint_id,
            open_key,
            events.GENERATION_KEY,
            call_id,
            tokens,
            event,
            self._generation,
        )
