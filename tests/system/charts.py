"""What the page's queries say of an endpoint, asked of the stack's own Prometheus, and what they should say by the ledger."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from monitoring.queries import Matchers, Spans, promql
from tests.stack import Stack

SCRAPE_SECONDS = 1
LAG_SECONDS = 6
"""After so long every window of a rate that saw a call has been over: four scrapes, and the scrapes themselves."""
Row = dict[str, Any]


@dataclass
class Charts:
    """The queries of the page over the time from `since` (epoch seconds) to `until`, which `end` sets."""

    stack: Stack
    client: httpx.Client
    since: float
    until: float = 0.0

    def end(self) -> None:
        """All that is to be seen has happened: wait until Prometheus has read the workers for long enough after it."""
        last = time.time()
        self.stack.wait_until(
            lambda: min(self.ask("timestamp(ark_gateway_worker_info)").values(), default=0) > last + LAG_SECONDS,
            seconds=60,
            what="Prometheus has read every gateway worker",
        )
        self.until = last + LAG_SECONDS

    @property
    def minutes(self) -> float:
        """How long it was, as `whole` takes it."""
        return int(self.until - self.since) / 60

    def whole(self, name: str, endpoint: str = "", **filters: str) -> dict[str, float]:
        """One value of `name` for the whole time, by the value of its one label; what is no number is left out."""
        seconds = int(self.until - self.since)
        return self.ask(self._query(name, endpoint, seconds, filters), at=int(self.until))

    def curves(self, query: str, times: Sequence[float]) -> dict[str, dict[float, float]]:
        """`query` at these times, which lie evenly: by the value of its one label, by time."""
        step = times[1] - times[0]
        found = self._get("query_range", query=query, start=times[0], end=times[-1], step=step)
        return {_label(one): {at: float(value) for at, value in one["values"] if value != "NaN"} for one in found}

    def ask(self, query: str, *, at: float | None = None) -> dict[str, float]:
        """An instant query: values by that of its labels but the instance, joined."""
        found = self._get("query", query=query, **({} if at is None else {"time": at}))
        values = {_label(one): float(one["value"][1]) for one in found}
        return {label: value for label, value in values.items() if value == value}

    def raw(self, selector: str, *, at: float, seconds: int) -> dict[str, list[tuple[float, float]]]:
        """The samples themselves of the last `seconds` until `at`, by instance."""
        found = self._get("query", query=f"{selector}[{seconds}s]", time=at)
        return {one["metric"]["instance"]: [(at, float(value)) for at, value in one["values"]] for one in found}

    def _query(self, name: str, endpoint: str, step: int, filters: dict[str, str]) -> str:
        matchers = Matchers.of(project="default", endpoint=endpoint, **filters)
        return promql(name, matchers, Spans.of(step=step, range_seconds=step, scrape_seconds=SCRAPE_SECONDS))

    def _get(self, what: str, **params: Any) -> list[dict[str, Any]]:
        answer = self.client.get(f"{self.stack.prometheus_url}/api/v1/{what}", params=params)
        assert answer.status_code == 200, f"{params}: {answer.text}"
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result


def _label(one: dict[str, Any]) -> str:
    return " ".join(value for name, value in sorted(one["metric"].items()) if name not in ("__name__", "job"))


# --- by the ledger --------------------------------------------------------------------------------------------------------


def is_error(row: Row) -> bool:
    return row["code"] not in ("Success", "ClientClosed")


def answered(rows: Iterable[Row]) -> list[Row]:
    """Calls that used tokens."""
    return [row for row in rows if row["input_tokens"] or row["output_tokens"]]


def first_tokens(rows: Iterable[Row]) -> list[float]:
    """Seconds to the first token of each stream that succeeded."""
    return [
        row["first_token_ms"] / 1000 for row in rows if row["code"] == "Success" and row["first_token_ms"] is not None
    ]


def per_tokens(rows: Iterable[Row]) -> list[float]:
    """Seconds of each further token of each stream that succeeded, the mean."""
    return [
        (row["duration_ms"] - row["first_token_ms"]) / (row["output_tokens"] - 1) / 1000
        for row in rows
        if row["code"] == "Success" and row["first_token_ms"] is not None and row["output_tokens"] > 1
    ]


def durations(rows: Iterable[Row], *, is_stream: bool) -> list[float]:
    return [row["duration_ms"] / 1000 for row in rows if row["code"] == "Success" and row["is_stream"] == is_stream]


def quantile(share: float, values: Sequence[float], bounds: Sequence[float]) -> float:
    """What `histogram_quantile` says of these values in these buckets."""
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    rank, below = min(max(share, 0.0), 1.0) * len(values), 0
    for number, count in enumerate(counts[:-1]):
        if count and below + count >= rank:
            low = bounds[number - 1] if number else 0.0
            return low + (bounds[number] - low) * (rank - below) / count
        below += count
    return bounds[-1]
