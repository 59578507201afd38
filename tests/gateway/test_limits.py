"""The limit scripts on a real Redis, against a plain model of a sliding minute; time is what the test says."""

from __future__ import annotations

import itertools
import json
import re

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.limits import ADMIT, OPEN_PREFIX, SETTLE, WINDOW_PREFIX, Admission, LocalWindow
from metering import events

_CLOCK = re.compile(r"local function clock\(\).*?\nend\n", re.DOTALL)
_TEST_CLOCK = "local function clock()\n  return tonumber(redis.call('GET', 'test:now'))\nend\n"
_numbers = itertools.count(1)
START_MS = 1_700_000_000_000


class Window:
    """One endpoint's limits through the real scripts, with the clock in our hands."""

    def __init__(self, client: redis.Redis, *, rpm: int = 0, tpm: int = 0) -> None:
        self._client = client
        self._endpoint = f"ep-limits-{next(_numbers)}"
        self._worker = f"w-{self._endpoint}"
        self._admit = client.register_script(_CLOCK.sub(_TEST_CLOCK, ADMIT.source))
        self._settle = client.register_script(_CLOCK.sub(_TEST_CLOCK, SETTLE.source))
        self.rpm, self.tpm = rpm, tpm

    def admit(self, at_ms: int, call_id: str, tokens: int = 0) -> int:
        self._client.set("test:now", at_ms)
        keys = [WINDOW_PREFIX + self._endpoint, OPEN_PREFIX + self._worker]
        return int(self._admit(keys, [call_id, self.rpm, self.tpm, tokens, "{}"]))

    def settle(self, at_ms: int, call_id: str, tokens: int) -> int:
        self._client.set("test:now", at_ms)
        keys = [WINDOW_PREFIX + self._endpoint, OPEN_PREFIX + self._worker, "test:generation"]
        return int(self._settle(keys, [call_id, tokens, json.dumps({"call_id": call_id}), "g1"]))

    def totals(self) -> tuple[int, int]:
        """Calls and tokens as of the last touch, after checking that they are the sum of their slots."""
        found = {k.decode(): int(v) for k, v in self._client.hgetall(WINDOW_PREFIX + self._endpoint).items()}
        if not found:
            return 0, 0
        for field in ("r", "t"):
            assert found[field] == sum(v for k, v in found.items() if re.fullmatch(field + r"\d+", k))
        return found["r"], found["t"]

    def open_calls(self) -> int:
        return int(self._client.hlen(OPEN_PREFIX + self._worker))


@pytest.fixture
def client(gateway_redis_client: redis.Redis) -> redis.Redis:
    return gateway_redis_client


steps = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 120, 499, 500, 501, 3000, 29_999, 59_500, 60_000, 60_500, 61_000, 200_000]),
        st.integers(0, 60),
        st.sampled_from(["keep", "less", "more"]),
    ),
    max_size=40,
)


@given(steps=steps, rpm=st.integers(0, 8), tpm=st.integers(0, 150))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
def test_no_sixty_seconds_ever_hold_more_than_the_limit_and_no_call_waits_half_a_second_too_long(
    client: redis.Redis, steps: list[tuple[int, int, str]], rpm: int, tpm: int
) -> None:
    window = Window(client, rpm=rpm, tpm=tpm)
    now = START_MS
    admitted: list[tuple[int, int]] = []  # when, tokens; excess is charged when it is known, as a row without a call
    calls: list[int] = []
    for number, (pause, tokens, settle_as) in enumerate(steps):
        now += pause
        reserve = min(tokens, tpm) if tpm else tokens
        in_60 = [row for row in admitted if row[0] > now - 60_000]
        in_61 = [row for row in admitted if row[0] > now - 60_500]
        reply = window.admit(now, f"c{number}", tokens)
        if reply >= 0:
            assert reply == reserve
            assert not rpm or len([at for at in calls if at > now - 60_000]) + 1 <= rpm
            assert not tpm or sum(row[1] for row in in_60) + reserve <= tpm
            calls.append(now)
            used = {"keep": reserve, "less": reserve // 2, "more": reserve + 7}[settle_as]
            window.settle(now, f"c{number}", used)
            admitted.append((now, used))
        else:
            wait_ms, is_rpm = divmod(-reply, 2)
            assert 1 <= wait_ms <= 60_500
            if is_rpm:
                assert len([at for at in calls if at > now - 60_500]) + 1 > rpm
            else:
                assert sum(row[1] for row in in_61) + reserve > tpm
        window.totals()
    assert window.open_calls() == 0


def test_rpm_is_exact_and_the_wait_that_is_told_is_right(client: redis.Redis) -> None:
    window = Window(client, rpm=3)
    for number in range(3):
        assert window.admit(START_MS + number * 1000, f"c{number}") == 0
    wait_ms, is_rpm = divmod(-window.admit(START_MS + 3000, "c3"), 2)
    assert is_rpm
    assert window.admit(START_MS + 3000 + wait_ms - 1, "c4") < 0
    assert window.admit(START_MS + 3000 + wait_ms, "c5") >= 0


def test_tokens_not_used_come_back_to_their_own_slot(client: redis.Redis) -> None:
    window = Window(client, tpm=100)
    assert window.admit(START_MS, "a", 90) == 90
    assert window.admit(START_MS + 10_000, "b", 20) < 0
    window.settle(START_MS + 10_000, "a", 30)
    assert window.admit(START_MS + 10_000, "b", 70) == 70
    # What "a" really used leaves with its own slot, not with the settling.
    assert window.admit(START_MS + 60_500, "c", 30) == 30


def test_tokens_beyond_the_reservation_are_charged_when_they_are_known(client: redis.Redis) -> None:
    window = Window(client, tpm=100)
    window.admit(START_MS, "a", 10)
    window.settle(START_MS + 30_000, "a", 95)
    assert window.admit(START_MS + 30_000, "b", 6) < 0
    assert window.admit(START_MS + 61_000, "c", 16) < 0
    assert window.admit(START_MS + 61_000, "d", 15) == 15


def test_a_refund_after_its_slot_has_left_changes_nothing(client: redis.Redis) -> None:
    window = Window(client, tpm=100)
    window.admit(START_MS, "a", 80)
    window.admit(START_MS + 70_000, "b", 10)
    window.settle(START_MS + 70_000, "a", 0)
    assert window.totals() == (1, 10)


def test_settling_twice_is_settling_once(client: redis.Redis) -> None:
    window = Window(client, tpm=100)
    window.admit(START_MS, "a", 80)
    assert window.settle(START_MS, "a", 10) == 1
    assert window.settle(START_MS, "a", 10) == 0
    assert window.totals() == (1, 10)


def test_a_call_larger_than_the_whole_limit_may_go_when_nothing_else_does(client: redis.Redis) -> None:
    window = Window(client, tpm=100)
    assert window.admit(START_MS, "a", 5000) == 100
    assert window.admit(START_MS, "b", 1) < 0


def test_a_clock_set_back_neither_frees_nor_loses(client: redis.Redis) -> None:
    window = Window(client, rpm=2)
    assert window.admit(START_MS + 5000, "a") == 0
    assert window.admit(START_MS, "b") == 0
    assert window.admit(START_MS, "c") < 0
    assert window.totals()[0] == 2


def test_a_wiped_redis_begins_a_new_generation_and_takes_the_event(client: redis.Redis) -> None:
    window = Window(client, tpm=100)
    window.admit(START_MS, "a", 80)
    client.flushall()
    assert window.settle(START_MS, "a", 10) == 0
    assert client.xlen(events.stream_key("g1")) == 1
    client.delete(events.stream_key("g1"), "test:generation")


def test_windows_go_away_by_themselves(client: redis.Redis) -> None:
    window = Window(client, rpm=5)
    window.admit(START_MS, "a")
    assert 60_000 < client.pttl(WINDOW_PREFIX + window._endpoint) <= 90_000


@given(steps=steps, rpm=st.integers(0, 8), tpm=st.integers(0, 150))
def test_the_local_window_keeps_the_same_promise(steps: list[tuple[int, int, str]], rpm: int, tpm: int) -> None:
    window = LocalWindow()
    now = 1000.0
    rows: list[tuple[float, int]] = []
    for pause, tokens, settle_as in steps:
        now += pause / 1000
        admission = window.admit(now, rpm=rpm, tpm=tpm, tokens=tokens)
        reserve = min(tokens, tpm) if tpm else tokens
        if admission.limit is None:
            assert not rpm or len([at for at, _tokens in rows if at > now - 60]) + 1 <= rpm
            assert not tpm or sum(used for at, used in rows if at > now - 60) + reserve <= tpm
            used = {"keep": reserve, "less": reserve // 2, "more": reserve + 7}[settle_as]
            window.settle(now, admission, used)
            rows.append((now, used))
        elif admission.limit == "rpm":
            assert len([at for at, _tokens in rows if at > now - 60.5]) + 1 > rpm
            assert 1 <= admission.retry_after_seconds <= 61
        else:
            assert sum(used for at, used in rows if at > now - 60.5) + reserve > tpm
    calls, _tokens = window.counts(now + 61)
    assert calls == 0


def test_a_refund_of_the_local_window_comes_back_to_its_own_slot() -> None:
    window = LocalWindow()
    first = window.admit(0.0, rpm=0, tpm=100, tokens=90)
    assert window.admit(10.0, rpm=0, tpm=100, tokens=20).limit == "tpm"
    window.settle(10.0, first, 30)
    assert window.admit(10.0, rpm=0, tpm=100, tokens=70) == Admission(reserved=70, at=10.0)
