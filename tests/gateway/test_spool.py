from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gateway.spool import Spool


class Ledger:
    """Takes spooled lines; fails after `fails_after` batches when told to."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.lines: list[bytes] = []
        self._fails_after = fails_after

    async def take(self, lines: list[bytes]) -> None:
        if self._fails_after is not None:
            if self._fails_after == 0:
                raise OSError("away")
            self._fails_after -= 1
        self.lines += lines


def lines(count: int, start: int = 0) -> list[bytes]:
    return [b'{"n":%d}' % number for number in range(start, start + count)]


def test_what_was_spooled_is_replayed_in_order_and_the_files_go(tmp_path: Path) -> None:
    spool, ledger = Spool(tmp_path / "spool", worker="w1"), Ledger()
    for line in lines(1200):
        spool.append(line)
    assert not spool.is_empty
    assert asyncio.run(spool.replay(ledger.take)) == 1200
    assert ledger.lines == lines(1200)
    assert spool.is_empty
    assert not list((tmp_path / "spool").iterdir())


def test_events_that_come_while_replaying_are_kept_for_the_next_time(tmp_path: Path) -> None:
    spool, ledger = Spool(tmp_path, worker="w1"), Ledger()
    spool.append(lines(1)[0])

    async def take(batch: list[bytes]) -> None:
        spool.append(lines(1, start=7)[0])
        await ledger.take(batch)

    asyncio.run(spool.replay(take))
    asyncio.run(spool.replay(ledger.take))
    assert ledger.lines == [b'{"n":0}', b'{"n":7}']


def test_a_replay_that_fails_keeps_the_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path, worker="w1")
    for line in lines(1200):
        spool.append(line)
    with pytest.raises(OSError, match="away"):
        asyncio.run(spool.replay(Ledger(fails_after=1).take))
    ledger = Ledger()
    assert asyncio.run(spool.replay(ledger.take)) == 1200


def test_files_of_dead_workers_are_replayed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    dead, living, mine, ledger = (*(Spool(tmp_path, worker=name) for name in ("dead", "living", "mine")), Ledger())
    dead.append(lines(1, start=1)[0])
    living.append(lines(1, start=2)[0])
    dead.close()  # as the kernel does for a process that was killed
    assert asyncio.run(mine.replay(ledger.take)) == 1
    assert ledger.lines == [b'{"n":1}']
    assert asyncio.run(living.replay(ledger.take)) == 1


def test_half_a_line_of_a_killed_worker_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "dead.jsonl").write_bytes(b'{"n":1}\n{"n":2')
    ledger = Ledger()
    assert asyncio.run(Spool(tmp_path, worker="mine").replay(ledger.take)) == 1


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").exists(), reason="needs a folder nobody can write")
def test_a_disk_that_takes_nothing_loses_nothing_yet(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    spool, ledger = Spool(blocked / "spool", worker="w1"), Ledger()
    for line in lines(3):
        spool.append(line)
    assert not spool.is_empty
    assert asyncio.run(spool.replay(ledger.take)) == 3
    assert ledger.lines == lines(3)
    assert spool.lost == 0
