"""The tasks of the slow queue: how many of its threads wait for addresses."""

from __future__ import annotations

import threading

import pytest

from alerts import deliveries, tasks

DEADLINE = 15


def test_deaf_addresses_leave_threads_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    at_work = threading.Semaphore(0)

    leaving = []

    def send_due(*, leaves_deaf: bool, **_values: object) -> int:
        leaving.append(leaves_deaf)
        at_work.release()
        assert go_on.wait(DEADLINE)
        return 1

    monkeypatch.setattr(deliveries, "send_due", send_due)
    threads = [threading.Thread(target=tasks.deliver) for _ in range(tasks.DELIVERING_AT_ONCE)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert at_work.acquire(timeout=DEADLINE)

    tasks.deliver()  # returns at once
    assert not at_work.acquire(blocking=False)
    # One of them is for addresses that answer.
    assert sorted(leaving) == [False, False, True]

    go_on.set()
    for thread in threads:
        thread.join(DEADLINE)
    tasks.deliver()
    assert at_work.acquire(blocking=False)
    assert leaving[-1] is False


def test_a_task_that_fails_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def send_due(**_values: object) -> int:
        raise OSError

    monkeypatch.setattr(deliveries, "send_due", send_due)
    for _ in range(tasks.DELIVERING_AT_ONCE + 1):
        with pytest.raises(OSError):
            tasks.deliver()
