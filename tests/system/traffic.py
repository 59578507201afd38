"""Calls that go on while a test breaks something, and the comparison of three accounts of them afterwards.

The accounts: what callers saw, what the demo model server counted, what the ledger says.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import psycopg
import redis
from psycopg.rows import dict_row

from gateway.limits import OPEN_PREFIX
from gateway.workers import WORKER_PREFIX, WORKERS_KEY
from tests.stack import Stack

TOKENS = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
CALL_SECONDS = 60
"""After so long a caller gives up: only what hangs is meant, not a machine that stalls."""
DEMO_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


@dataclass(frozen=True)
class Seen:
    """One call as its caller saw it. `status` is 0 without an answer; `began_at` is monotonic seconds.

    `model` is what the answer says of itself; of a stream whose frames disagree, all names.
    """

    began_at: float
    call_id: str = ""
    status: int = 0
    code: str = ""
    is_complete: bool = False
    tokens: tuple[int, ...] = ()
    error: str = ""
    user: str = ""
    model: str = ""

    @property
    def is_good(self) -> bool:
        return self.status == 200 and self.is_complete


@dataclass
class Traffic:
    """Callers that call one endpoint after the other until the `with` block ends, half of them streaming.

    With `has_users` each call is that of another user, and so another conversation. Each caller rests between two calls:
    what the callers burn is taken from who comes back.
    """

    url: str
    api_key: str
    endpoint_id: str
    callers: int = 4
    output_tokens: int = 20
    has_users: bool = False
    seen: list[Seen] = field(default_factory=list)
    pause_seconds: float = 0.05

    def __enter__(self) -> Self:
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._call_on, args=(number,), daemon=True) for number in range(self.callers)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS + 10)

    def good(self) -> int:
        """How many calls were answered in full so far."""
        return sum(each.is_good for each in self.seen)

    def wait_for_more(self, calls: int, *, seconds: float = 90) -> None:
        """Wait until so many more calls were answered in full."""
        target = self.good() + calls
        Stack.wait_until(
            lambda: self.good() >= target, seconds=seconds, what=f"{calls} more calls answered; last: {self.seen[-3:]}"
        )

    def bad_since(self, moment: float) -> list[Seen]:
        """Calls that began at or after a monotonic moment and were not answered in full."""
        return [each for each in self.seen if each.began_at >= moment and not each.is_good]

    def _call_on(self, number: int) -> None:
        calls = itertools.count()
        # A connection of its own for each call: a kept one belongs to a gateway worker that may be dead by now.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(limits=limits, timeout=CALL_SECONDS, trust_env=False) as client:
            while not self._is_over.is_set():
                user = f"caller {number} call {next(calls)}" if self.has_users else ""
                seen = call(
                    client, self.url, self.api_key, self.endpoint_id, self.output_tokens, is_stream=number % 2 == 0, user=user
                )  # fmt: skip
                self.seen.append(seen)
                self._is_over.wait(self.pause_seconds)


def call(
    client: httpx.Client, url: str, key: str, endpoint_id: str, output_tokens: int, *, is_stream: bool, user: str = ""
) -> Seen:
    """Make one call. Never raises for what the other side does."""
    began_at = time.monotonic()
    body: dict[str, Any] = {
        "model": endpoint_id,
        "messages": [{"role": "user", "content": f"{output_tokens} tokens, please"}],
        "stream": is_stream,
    }
    if user:
        body["user"] = user
    models: set[str] = set()
    if is_stream:
        body["stream_options"] = {"include_usage": True}
    call_id, status, usage, is_done, code = "", 0, None, False, ""
    try:
        with client.stream(
            "POST", f"{url}/api/v3/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
        ) as answer:
            call_id, status = answer.headers.get("x-request-id", ""), answer.status_code
            if not is_stream or status != 200:
                found = json.loads(answer.read())
                usage, is_done = found.get("usage"), "choices" in found
                code = (found.get("error") or {}).get("code", "")
                models.add(found.get("model", ""))
            else:
                for line in answer.iter_lines():
                    if line == "data: [DONE]":
                        is_done = True
                    elif line.startswith("data: "):
                        frame = json.loads(line[6:])
                        usage = frame.get("usage") or usage
                        code = (frame.get("error") or {}).get("code", code)
                        models.add(frame.get("model", ""))
    except (httpx.HTTPError, ValueError) as error:
        return Seen(began_at, call_id, status, code, error=repr(error), user=user)
    is_complete = is_done and usage is not None
    return Seen(began_at, call_id, status, code, is_complete, _tokens(usage), user=user, model=" ".join(sorted(models)))


def _tokens(usage: dict[str, Any] | None) -> tuple[int, ...]:
    if not usage:
        return ()
    return (
        usage["prompt_tokens"],
        (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        usage["completion_tokens"],
        (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0),
    )


def wait_for_every_worker(stack: Stack, redis_url: str, workers: int = 2) -> None:
    """Wait until each gateway worker has been seen to work on a call, so that it knows the key and the endpoint.

    A few calls prove nothing of it: on a busy machine one worker may take them all.
    """
    busy: set[str] = set()

    def are_known() -> bool:
        for each in client.smembers(WORKERS_KEY):
            worker = each.decode() if isinstance(each, bytes) else each
            # A dead one's calls stay open until it is reaped.
            if client.exists(WORKER_PREFIX + worker) and client.hlen(OPEN_PREFIX + worker):
                busy.add(worker)
        return len(busy) >= workers

    with redis.Redis.from_url(redis_url) as client:
        stack.wait_until(are_known, seconds=60, what="each gateway worker has a call under way")


class Books:
    """The three accounts of one endpoint's calls since this object was made."""

    def __init__(self, stack: Stack, endpoint_id: str, demo_url: str = "") -> None:
        self.stack, self.endpoint_id, self.demo_url = stack, endpoint_id, demo_url or stack.demo_url
        # The call that ended last need not be the one that began last.
        self._after = max((each["sequence"] for each in self._stats(recent=1_000)["recent"]), default=0)
        self._before = set(self.ledger())

    def ledger(self) -> dict[str, dict[str, Any]]:
        """Call records by call id."""
        rows = self.ask("SELECT * FROM metering_callrecord WHERE endpoint_id = %s", self.endpoint_id)
        return {row["call_id"]: row for row in rows if row["call_id"] not in getattr(self, "_before", set())}

    def demo(self) -> dict[str, list[dict[str, Any]]]:
        """The model server's calls by request id; a call that the gateway tried twice is there twice."""
        calls: dict[str, list[dict[str, Any]]] = {}
        for each in self._stats(recent=100_000, after=self._after)["recent"]:
            calls.setdefault(each["request_id"], []).append(each)
        return calls

    def ask(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Rows of the stack's own database."""
        if "DATABASE_URL" not in self.stack.env:
            with closing(sqlite3.connect(self.stack.data_dir / "arkconsole.sqlite3", timeout=20)) as quick_start:
                quick_start.row_factory = sqlite3.Row
                return [dict(row) for row in quick_start.execute(sql.replace("%s", "?"), values)]
        with psycopg.connect(self.stack.env["DATABASE_URL"], row_factory=dict_row) as connection:
            return connection.execute(sql.encode(), values).fetchall()

    def do(self, sql: str, *values: object) -> None:
        """Change the stack's own database, PostgreSQL."""
        with psycopg.connect(self.stack.env["DATABASE_URL"]) as connection:
            connection.execute(sql.encode(), values)

    def running(self) -> int:
        """How many calls the model server works on now."""
        return int(self._stats(recent=0)["totals"]["running"])

    def wait_complete(self, seen: Iterable[Seen], *, seconds: float = 120) -> None:
        """Wait until the ledger has every call that a caller or the model server knows of, and none runs any more."""
        known = {each.call_id for each in seen if each.call_id and each.code != "ServiceUnavailable"}

        def missing() -> set[str]:
            return (set(self.demo()) | known) - set(self.ledger())

        try:
            self.stack.wait_until(
                lambda: not self.running() and not missing(),
                seconds=seconds,
                what="every call is in the ledger",
            )
        except AssertionError as error:
            lost = [(each, self.demo().get(each), [s for s in seen if s.call_id == each]) for each in missing()]
            raise AssertionError(f"{error}: {lost}\n{self.stack.logs()}") from None

    def must_agree(self, seen: Iterable[Seen], *, excused: Iterable[str] = ()) -> list[str]:
        """Compare the accounts call by call.

        `excused` are outcomes that a call may have though the model server did all of it; returns those call ids.
        """
        seen = list(seen)
        self.wait_complete(seen)
        ledger, demo = self.ledger(), self.demo()
        used: list[str] = []
        for call_id, tries in demo.items():
            record, last = ledger[call_id], tries[-1]
            if last["outcome"] == "ok" and record["outcome"] != "success":
                assert record["outcome"] in set(excused), (record, tries)
                used.append(call_id)
            if record["outcome"] == "success":
                assert [each["outcome"] for each in tries].count("ok") == 1, (record, tries)
                assert [record[name] for name in TOKENS] == [last[name] for name in DEMO_TOKENS], (record, tries)
        for each in seen:
            if each.is_good:
                record = ledger[each.call_id]
                assert record["outcome"] == "success", (each, record)
                assert each.tokens == tuple(record[name] for name in TOKENS), (each, record)
        self._sums_must_agree()
        return used

    def _sums_must_agree(self) -> None:
        """Minutes and hours of the endpoint hold exactly the sums of its records: nothing was added twice."""
        sums = ", ".join(f"CAST(sum({name}) AS bigint) AS {name}" for name in TOKENS)
        [records] = self.ask(
            f"SELECT count(*) AS calls, {sums} FROM metering_callrecord WHERE endpoint_id = %s", self.endpoint_id
        )
        for table in ("metering_usageminute", "metering_usagehour"):
            [found] = self.ask(
                f"SELECT CAST(sum(calls) AS bigint) AS calls, {sums} FROM {table} WHERE endpoint_id = %s",
                self.endpoint_id,
            )
            assert found == records, table

    def _stats(self, **query: int) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(
            f"{self.demo_url}/demo/stats", params=query, timeout=60, trust_env=False
        ).json()
        return found


def degraded(url: str) -> list[str] | None:
    """What `/readyz` lists as away; None when it is not ready."""
    try:
        answer = httpx.get(f"{url}/readyz", timeout=15, trust_env=False)
    except httpx.HTTPError:
        return None
    return list(answer.json()["degraded"]) if answer.status_code == 200 else None


def lives(url: str) -> bool:
    """Whether `/healthz` answers."""
    try:
        return httpx.get(f"{url}/healthz", timeout=15, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def gateway_workers(stack: Stack) -> list[psutil.Process]:
    """The gateway's processes that serve."""
    pid = stack.pid("gateway")
    if not pid:
        return []
    return [child for child in psutil.Process(pid).children() if _serves(child)]


def _serves(child: psutil.Process) -> bool:
    try:
        return child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(child.cmdline())
    except psutil.NoSuchProcess:
        return False  # it died while it was looked at
