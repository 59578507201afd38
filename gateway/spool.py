"""Usage events on disk while Redis is away: a file per worker, replayed by whichever worker finds it free.

A worker holds a lock on the file that it writes; a file that can be locked has no living writer. Lines are the JSON of
usage events. A crash half-way through a replay replays the file again, which the ledger sees through by call id.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

log = logging.getLogger(__name__)

SUFFIX = ".jsonl"
BATCH_LINES = 500
_KEPT_IN_MEMORY = 100_000

Replay = Callable[[list[bytes]], Awaitable[None]]


class Spool:
    """`append` never raises: what the disk does not take stays in memory, up to a bound, and `lost` counts the rest."""

    def __init__(self, folder: Path, *, worker: str) -> None:
        self._folder = folder
        self._worker = worker
        self._fd: int | None = None
        self._path: Path | None = None
        self._number = 0
        self._memory: deque[bytes] = deque()
        self._is_replaying = False
        self.appended = 0
        self.lost = 0

    def append(self, line: bytes) -> None:
        """Keep one event."""
        self.appended += 1
        try:
            self._write(line)
        except OSError as error:
            if not self._memory:
                log.error("the spool cannot be written, keeping usage events in memory: %s", error.strerror)
            if len(self._memory) < _KEPT_IN_MEMORY:
                self._memory.append(line)
            else:
                self.lost += 1

    @property
    def is_empty(self) -> bool:
        """Whether this worker has nothing waiting."""
        return self._fd is None and not self._memory

    async def replay(self, settle: Replay) -> int:
        """Hand every event that has no living writer, and our own, to `settle`, in batches; return how many.

        What `settle` raises is raised on; the files that were not finished stay.
        """
        if self._is_replaying:
            return 0
        self._is_replaying = True
        try:
            count = await self._replay_memory(settle)
            self._rotate()
            for path in self._files():
                count += await self._replay_file(path, settle)
            return count
        finally:
            self._is_replaying = False

    def close(self) -> None:
        """Let go of our file; another worker, or the next start, replays it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    async def _replay_memory(self, settle: Replay) -> int:
        count = 0
        while self._memory:
            batch = [self._memory[i] for i in range(min(BATCH_LINES, len(self._memory)))]
            await settle(batch)
            for _line in batch:
                self._memory.popleft()
            count += len(batch)
        return count

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self._folder.iterdir() if path.suffix == SUFFIX and path != self._path)
        except OSError:
            return []

    async def _replay_file(self, path: Path, settle: Replay) -> int:
        try:
            fd = os.open(path, os.O_RDWR)
        except OSError:
            return 0
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return 0  # somebody writes or replays it
            if os.fstat(fd).st_nlink == 0:
                return 0  # replayed by another between open and lock
            count = 0
            with os.fdopen(os.dup(fd), "rb") as file:
                batch: list[bytes] = []
                for line in file:
                    if line.endswith(b"}\n"):  # the last line of a killed worker may be half a line
                        batch.append(line[:-1])
                    if len(batch) >= BATCH_LINES:
                        await settle(batch)
                        count += len(batch)
                        batch = []
                if batch:
                    await settle(batch)
                    count += len(batch)
            _remove(path)
            return count
        finally:
            os.close(fd)

    def _rotate(self) -> None:
        """Stop writing the present file, so that it can be replayed; the next event begins another."""
        self.close()
        self._path = None

    def _write(self, line: bytes) -> None:
        if self._fd is None:
            self._open()
        assert self._fd is not None
        os.write(self._fd, line + b"\n")

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            self._number += 1
            name = self._worker if self._number == 1 else f"{self._worker}.{self._number}"
            path = self._folder / (name + SUFFIX)
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)  # a replaying worker was quicker than our lock and will remove the empty file
                continue
            if os.fstat(fd).st_nlink == 0:
                os.close(fd)
                continue
            self._fd, self._path = fd, path
            return


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
