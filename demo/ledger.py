"""Every call written down: counts per model, the last calls one by one, and a journal that survives kill -9.

The journal is a file of JSON lines, one when a call begins and one when it ends, the latter written before the last
bytes of the answer leave. How far a running call has come stands in a second small file, ``<journal>.running``, that
is mapped into memory: what is put there belongs to the kernel at once, so that also a call cut off by kill -9 is
counted with the tokens it had sent. Neither file is flushed to the disk: a power cut may lose the end of it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

MAX_RECENT = 100_000
_SLOTS = 4_096
_SLOT = struct.Struct("<QII")
_COMPACT_BYTES = 64 * 1024 * 1024

Outcome = Literal["running", "ok", "error", "cut", "cancelled", "lost"]


class StateError(Exception):
    """The state file cannot be used; the text says why, for a person."""


class Call(msgspec.Struct, kw_only=True):
    """One call. ``cut``: we broke it off on purpose; ``cancelled``: the client left; ``lost``: the server died."""

    sequence: int
    request_id: str
    model: str
    api: str
    is_stream: bool = False
    started_at: float
    seconds: float = 0.0
    outcome: Outcome = "running"
    status: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    slot: int = -1


class Counts(msgspec.Struct, kw_only=True):
    """Sums over calls. ``calls`` = ok + errors + cut + cancelled + lost + running."""

    calls: int = 0
    running: int = 0
    ok: int = 0
    errors: dict[str, int] = {}
    cut: int = 0
    cancelled: int = 0
    lost: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def begin(self) -> None:
        self.calls += 1
        self.running += 1

    def end(self, call: Call) -> None:
        self.running -= 1
        if call.outcome == "error":
            self.errors[str(call.status)] = self.errors.get(str(call.status), 0) + 1
        elif call.outcome == "ok":
            self.ok += 1
        elif call.outcome == "cut":
            self.cut += 1
        elif call.outcome == "cancelled":
            self.cancelled += 1
        else:
            self.lost += 1
        self.prompt_tokens += call.prompt_tokens
        self.cached_tokens += call.cached_tokens
        self.completion_tokens += call.completion_tokens
        self.reasoning_tokens += call.reasoning_tokens

    def add(self, other: Counts) -> None:
        for name in self.__struct_fields__:
            if name != "errors":
                setattr(self, name, getattr(self, name) + getattr(other, name))
        for status, count in other.errors.items():
            self.errors[status] = self.errors.get(status, 0) + count


class _Line(msgspec.Struct, omit_defaults=True):
    """A line of the journal: a call begins, ends, or (after compaction) is only remembered; or sums; or all forgotten."""

    begin: Call | None = None
    end: Call | None = None
    past: Call | None = None
    models: dict[str, Counts] | None = None
    sequence: int | None = None
    reset: bool = False


class Ledger:
    """The counts and the last calls. With ``path`` they outlive the process; without, they end with it.

    Raises ``StateError`` when the file cannot be opened, is in use by another process, or is not a journal.
    """

    def __init__(self, path: Path | None = None, max_recent: int = MAX_RECENT) -> None:
        self.models: dict[str, Counts] = {}
        self.lists = 0
        self.recent: deque[Call] = deque(maxlen=max_recent)
        self._sequence = 0
        self._journal = -1
        self._running: mmap.mmap | None = None
        self._free: list[int] = []
        if path is not None:
            self._open(path)

    def begin(
        self,
        *,
        request_id: str,
        model: str,
        api: str,
        is_stream: bool,
        prompt_tokens: int,
        cached_tokens: int,
        now: float,
    ) -> Call:
        """A call is about to be worked on. ``now``: seconds since 1970."""
        self._sequence += 1
        call = Call(
            sequence=self._sequence,
            request_id=request_id,
            model=model,
            api=api,
            is_stream=is_stream,
            started_at=now,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
        )
        if self._running is not None and self._free:
            call.slot = self._free.pop()
            _SLOT.pack_into(self._running, call.slot * _SLOT.size, call.sequence, 0, 0)
        self._counts(model).begin()
        self._write(_Line(begin=call))
        return call

    def progress(self, call: Call, completion_tokens: int, reasoning_tokens: int) -> None:
        """So many tokens have been produced; to be said before they are sent."""
        call.completion_tokens = completion_tokens
        call.reasoning_tokens = reasoning_tokens
        if call.slot >= 0 and self._running is not None:
            _SLOT.pack_into(self._running, call.slot * _SLOT.size, call.sequence, completion_tokens, reasoning_tokens)

    def end(self, call: Call, outcome: Outcome, status: int, now: float) -> None:
        """The call is over; to be said before its last bytes are sent. Only the first end of a call counts."""
        if call.outcome != "running":
            return
        slot, call.slot = call.slot, -1
        call.outcome = outcome
        call.status = status
        call.seconds = round(max(0.0, now - call.started_at), 6)
        self._counts(call.model).end(call)
        self.recent.append(call)
        self._write(_Line(end=call))
        if slot >= 0:
            self._free.append(slot)

    def totals(self) -> Counts:
        """The sums over all models."""
        totals = Counts()
        for counts in self.models.values():
            totals.add(counts)
        return totals

    def calls(self, *, limit: int, request_id: str | None = None, after: int = 0) -> list[Call]:
        """Finished calls, newest first, at most ``limit``."""
        found: list[Call] = []
        for call in reversed(self.recent):
            if len(found) >= limit:
                break
            if call.sequence > after and (request_id is None or call.request_id == request_id):
                found.append(call)
        return found

    def reset(self) -> None:
        """Forget everything but the calls that are running."""
        running = {model: counts.running for model, counts in self.models.items() if counts.running}
        self.models = {model: Counts(calls=count, running=count) for model, count in running.items()}
        self.recent.clear()
        self.lists = 0
        self._write(_Line(reset=True))

    def close(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1

    def _counts(self, model: str) -> Counts:
        counts = self.models.get(model)
        if counts is None:
            counts = self.models[model] = Counts()
        return counts

    def _write(self, line: _Line) -> None:
        if self._journal >= 0:
            os.write(self._journal, msgspec.json.encode(line) + b"\n")

    def _open(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._journal = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"The state file {path} is in use by another demo server.") from None
        except OSError as error:
            raise StateError(f"The state file {path} cannot be opened: {error.strerror}.") from None
        self._map(path.with_name(path.name + ".running"))
        open_calls = self._replay(path)
        for call in open_calls:
            self._end_lost(call)
        if os.fstat(self._journal).st_size > _COMPACT_BYTES:
            self._compact(path)
        self._free = list(range(_SLOTS))

    def _map(self, path: Path) -> None:
        try:
            with path.open("a+b") as file:
                file.truncate(_SLOTS * _SLOT.size)
                self._running = mmap.mmap(file.fileno(), _SLOTS * _SLOT.size)
        except OSError as error:
            raise StateError(f"The state file {path} cannot be opened: {error.strerror}.") from None

    def _replay(self, path: Path) -> list[Call]:
        open_calls: dict[int, Call] = {}
        decoder = msgspec.json.Decoder(_Line)
        for number, text, is_whole in _lines(path):
            try:
                line = decoder.decode(text)
            except msgspec.MsgspecError:
                if not is_whole:
                    # Killed while writing: the half line tells of nothing that was answered.
                    os.ftruncate(self._journal, os.fstat(self._journal).st_size - len(text))
                    break
                raise StateError(f"{path} is not a journal of the demo server (line {number}).") from None
            self._replay_line(line, open_calls)
        return list(open_calls.values())

    def _replay_line(self, line: _Line, open_calls: dict[int, Call]) -> None:
        if line.reset:
            self.models = {}
            self.recent.clear()
            for call in open_calls.values():
                self._counts(call.model).begin()
        if line.models is not None:
            self.models = line.models
        if line.sequence is not None:
            self._sequence = line.sequence
        if line.begin is not None:
            self._sequence = max(self._sequence, line.begin.sequence)
            open_calls[line.begin.sequence] = line.begin
            self._counts(line.begin.model).begin()
        if line.end is not None and open_calls.pop(line.end.sequence, None) is not None:
            self._counts(line.end.model).end(line.end)
            self.recent.append(line.end)
        if line.past is not None:
            self.recent.append(line.past)

    def _end_lost(self, call: Call) -> None:
        if call.slot >= 0 and self._running is not None:
            sequence, completion, reasoning = _SLOT.unpack_from(self._running, call.slot * _SLOT.size)
            if sequence == call.sequence:
                call.completion_tokens, call.reasoning_tokens = completion, reasoning
        call.slot = -1
        self.end(call, "lost", 0, call.started_at)

    def _compact(self, path: Path) -> None:
        """Write the journal anew: the sums, then the last calls. No call may be open."""
        fresh = path.with_name(path.name + ".new")
        with fresh.open("wb") as file:
            file.write(msgspec.json.encode(_Line(models=self.models, sequence=self._sequence)) + b"\n")
            for call in self.recent:
                file.write(msgspec.json.encode(_Line(past=call)) + b"\n")
        journal = os.open(fresh, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fresh.replace(path)
        os.close(self._journal)
        self._journal = journal


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            yield number, text, text.endswith(b"\n")
