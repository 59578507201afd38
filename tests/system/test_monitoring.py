"""Known traffic through the running product: every query of the monitoring page says what the ledger says."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx
import pytest

from gateway.metrics import DURATION_BUCKETS, FIRST_TOKEN_BUCKETS, PER_TOKEN_BUCKETS
from monitoring import panels
from monitoring.queries import FOR_LONG_STEPS, TEMPLATES
from tests.sdk.arrange import Made, Order, Wanted, arrange
from tests.stack import Stack
from tests.system.charts import (
    SCRAPE_SECONDS,
    Charts,
    Row,
    answered,
    durations,
    first_tokens,
    is_error,
    per_tokens,
    quantile,
)
from tests.system.person import Person
from tests.system.traffic import Books, Traffic, gateway_workers

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600), pytest.mark.usefixtures("whole_again")]

CALLERS = 6
WORKERS = 2
SLACK = 0.2
"""Prometheus guesses at the two edges of a window, and late scrapes of a busy machine make it guess more. What the queries
say of scrapes in time, and the curves' areas between the edges: tests/monitoring/test_figures.py, to 5 %."""
CONTEXT = "What is known of it so far, and what every question here begins with. " * 12
"""Long enough for the demo server's prefix cache."""


@dataclass
class Known:
    """What was called, as the ledger has it, and the charts of the same time."""

    made: Made
    charts: Charts
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def of(self, name: str) -> tuple[str, list[Row]]:
        """An endpoint's id and its calls."""
        return self.made.endpoints[name], self.rows[name]


@pytest.fixture(scope="module")
def made(stack: Stack) -> Made:
    wanted = [
        Wanted("chat", "demo-fast", rpm=7_000, tpm=3_000_000),
        Wanted("thinking", "demo-thinking", domain="thinking"),
        Wanted("embedding", "demo-embedding", domain="embedding"),
        Wanted("flaky", "demo-flaky"),
        Wanted("few calls", "demo-fast", rpm=4),
        Wanted("few tokens", "demo-fast", tpm=300),
        Wanted("switched", "demo-fast"),
        Wanted("target", "demo-fast-2"),
        Wanted("killed", "demo-fast", rpm=100_000),
    ]
    return arrange(stack, Order("watched", f"{stack.demo_url}/v1", wanted))


@pytest.fixture(scope="module")
def charts(stack: Stack, made: Made, browser: httpx.Client) -> Iterator[Charts]:
    """The project's monitoring, opened, with every endpoint's series there before any call."""
    page = browser.get("/monitoring/").text
    token = page.split('name="csrfmiddlewaretoken" value="', 1)[1].split('"', 1)[0]
    form = {"project": "default", "next": "/monitoring/", "csrfmiddlewaretoken": token}
    assert browser.post("/monitoring/open", data=form).status_code == 200
    names = "|".join(made.endpoints.values())
    started = f'count by (ark_endpoint) (ark_api_proxy_request_total{{code="Success",ark_endpoint=~"{names}"}} == 0)'
    with httpx.Client(timeout=30, trust_env=False) as client:
        charts = Charts(stack, client, time.time())
        stack.wait_until(
            lambda: charts.ask(started) == dict.fromkeys(made.endpoints.values(), WORKERS),
            seconds=90,
            what="every endpoint's series of both workers are there at 0",
        )
        yield charts


@pytest.fixture(scope="module")
def known(stack: Stack, made: Made, charts: Charts) -> Iterator[Known]:
    """One calm stretch of calls of every kind, with one endpoint half-way through a version switch."""
    ask = Asker(stack, made)
    books = {name: Books(stack, endpoint_id) for name, endpoint_id in made.endpoints.items()}
    with Person(stack.env) as person:
        switch_id = person.start(
            made.endpoints["switched"], made.versions["target"], weights=[50, 100], hold_seconds=3600
        )
        person.to_the_top(switch_id)
        charts.since = time.time() - 2 * SCRAPE_SECONDS  # with a scrape before the first call
        calls: list[Callable[[], None]] = [
            *[lambda: ask.chat("chat", tokens=20) for _n in range(12)],
            *[lambda: ask.chat("chat", tokens=30, stream=True) for _n in range(12)],
            *[lambda: ask.chat("chat", messages=None) for _n in range(3)],
            *[lambda: ask.chat("thinking", tokens=120, stream=True) for _n in range(6)],
            *[lambda: ask.leave("thinking") for _n in range(2)],
            *[lambda: ask.embed("embedding") for _n in range(8)],
            *[lambda: ask.chat("flaky", tokens=5) for _n in range(10)],
            *[lambda: ask.chat("few calls", tokens=5) for _n in range(7)],
            *[lambda: ask.chat("few tokens", tokens=5, max_tokens=100) for _n in range(3)],
            *[lambda n=n: ask.chat("switched", tokens=10, stream=True, user=f"user {n}") for n in range(40)],
        ]
        with ask, ThreadPoolExecutor(CALLERS) as pool:
            for done in [pool.submit(call) for call in calls]:
                done.result()
        charts.end()
        for name, count in ask.counts.items():
            stack.wait_until(lambda: len(books[name].ledger()) >= count, what=f"{count} calls of {name}")  # noqa: B023
        yield Known(made, charts, {name: list(each.ledger().values()) for name, each in books.items()})
        person.roll_back_now(switch_id)


class Asker:
    """Makes calls and counts them."""

    def __init__(self, stack: Stack, made: Made) -> None:
        self._made = made
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(
            base_url=stack.gateway_url,
            headers={"Authorization": f"Bearer {made.api_key}"},
            limits=limits,
            timeout=60,
            trust_env=False,
        )
        self._numbers = itertools.count()
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._client.close()

    def chat(self, name: str, *, tokens: int = 0, stream: bool = False, **fields: Any) -> None:
        self.counts[name] += 1
        body = self._body(name, tokens, stream=stream, **fields)
        self._client.post("/api/v3/chat/completions", json={key: value for key, value in body.items() if value})

    def leave(self, name: str) -> None:
        """Call, and go away with the first piece of the answer."""
        self.counts[name] += 1
        body = self._body(name, 400, stream=True)
        with self._client.stream("POST", "/api/v3/chat/completions", json=body) as answer:
            next(answer.iter_raw())

    def embed(self, name: str) -> None:
        self.counts[name] += 1
        body = {"model": self._made.endpoints[name], "input": f"text {next(self._numbers)}"}
        self._client.post("/api/v3/embeddings", json=body).raise_for_status()

    def _body(self, name: str, tokens: int, **fields: Any) -> dict[str, Any]:
        question = f"{CONTEXT} Question {next(self._numbers)}: {tokens} tokens, please"
        return {
            "model": self._made.endpoints[name],
            "messages": [{"role": "user", "content": question}],
            **fields,
        }


def total(rows: Sequence[Row], *names: str) -> int:
    return sum(row[name] for row in rows for name in names)


def by(rows: Sequence[Row], name: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row[name]), []).append(row)
    return found


def error_percent(rows: Sequence[Row]) -> float:
    return 100 * sum(map(is_error, rows)) / len(rows)


def is_limited(row: Row) -> bool:
    return row["code"].startswith("RateLimitExceeded") or row["code"] == "ServerOverloaded"


PER_MINUTE: dict[str, Callable[[list[Row]], dict[str, float]]] = {
    "input_tokens": lambda rows: {"": total(rows, "input_tokens")},
    "output_tokens": lambda rows: {"": total(rows, "output_tokens")},
    "cached_tokens": lambda rows: {"": total(rows, "cached_tokens")},
    "reasoning_tokens": lambda rows: {"": total(rows, "reasoning_tokens")},
    "tpm": lambda rows: {"": total(rows, "input_tokens", "output_tokens")},
    "rpm": lambda rows: {"": len(rows)},
    "switch_calls": lambda rows: {name: len(each) for name, each in by(rows, "model_id").items()},
}
"""What the area under a curve is, by its label; the curve is per minute."""

COUNTS: dict[str, Callable[[list[Row]], dict[str, float]]] = {
    "errors_by_status": lambda rows: Counter(str(row["status"]) for row in rows if is_error(row)),
    "errors_by_code": lambda rows: Counter(row["code"] for row in rows if is_error(row)),
    "limited": lambda rows: Counter(row["code"] for row in rows if is_limited(row)),
}
"""What all bars add up to."""

RATIOS: dict[str, Callable[[list[Row]], dict[str, float]]] = {
    "input_per_call": lambda rows: {"": total(rows, "input_tokens") / len(answered(rows))},
    "output_per_call": lambda rows: {"": total(rows, "output_tokens") / len(answered(rows))},
    "error_rate": lambda rows: {"": error_percent(rows)},
    "output_speed": lambda rows: {"": len(per_tokens(rows)) / sum(per_tokens(rows))} if per_tokens(rows) else {},
    "cache_token_percent": lambda rows: {"": 100 * total(rows, "cached_tokens") / total(rows, "input_tokens")},
    "cache_call_percent": lambda rows: {
        "": 100
        * sum(1 for row in rows if row["code"] == "Success" and row["cached_tokens"])
        / sum(1 for row in rows if row["code"] == "Success")
    },
    "switch_share": lambda rows: {name: 100 * len(each) / len(rows) for name, each in by(rows, "model_id").items()},
    "switch_errors": lambda rows: {name: error_percent(each) for name, each in by(rows, "model_id").items()},
}
"""What a curve is as a whole, when its window holds all calls."""

QUANTILES: dict[str, tuple[Callable[[list[Row]], list[float]], Sequence[float]]] = {
    "ttft": (first_tokens, FIRST_TOKEN_BUCKETS),
    "tpot": (per_tokens, PER_TOKEN_BUCKETS),
    "duration_stream": (lambda rows: durations(rows, is_stream=True), DURATION_BUCKETS),
    "duration": (lambda rows: durations(rows, is_stream=False), DURATION_BUCKETS),
}
OTHERS = {"tpm_limit", "rpm_limit", "in_flight", "switch_wanted", "switch_ttft", "switch_duration"}
"""Of each there is a test below."""


def test_every_query_of_every_panel_is_tested_here() -> None:
    lines = {
        line.query
        for domain in panels.Domain
        for panel in panels.panels(panels.groups_for(domain, has_switch=True))
        for line in panel.lines
    }
    quantiles = {f"{name}_p{share}" for name in QUANTILES for share in (50, 95, 99)}
    assert lines - FOR_LONG_STEPS == {*PER_MINUTE, *COUNTS, *RATIOS, *quantiles, *OTHERS}
    assert lines <= set(TEMPLATES)


COUNTED_TOKENS = {
    "request": "input_tokens", "response": "output_tokens", "cached": "cached_tokens", "reasoning": "reasoning_tokens",
}  # fmt: skip
DOMAINS = {"thinking": "thinking", "embedding": "embedding"}
NAMES = ("chat", "thinking", "embedding", "flaky", "few calls", "few tokens", "switched")


@pytest.mark.parametrize("name", NAMES)
def test_each_curve_says_what_was_used_and_called(name: str, known: Known) -> None:
    endpoint_id, rows = known.of(name)
    for query, expected in PER_MINUTE.items():
        found = {label: rate * known.charts.minutes for label, rate in known.charts.whole(query, endpoint_id).items()}
        assert nearly(found, expected(rows)), (query, found, expected(rows))
    for query, expected in COUNTS.items():
        found = known.charts.whole(query, endpoint_id)
        assert nearly(found, expected(rows)), (query, found, expected(rows))


@pytest.mark.parametrize("name", NAMES)
def test_prometheus_has_counted_every_call_and_token(name: str, known: Known) -> None:
    """To the last one: what a curve guesses it guesses of these."""
    endpoint_id, rows = known.of(name)
    where, until = f'{{ark_endpoint="{endpoint_id}"}}', known.charts.until
    calls = known.charts.ask(f"sum by (code) (ark_api_proxy_request_total{where}) > 0", at=until)
    assert calls == Counter(row["code"] for row in rows)
    for metric, column in COUNTED_TOKENS.items():
        found = known.charts.ask(f"sum(ark_api_proxy_{metric}_token_count_sum{where})", at=until)
        assert found == {"": total(rows, column)}, metric


@pytest.mark.parametrize("name", NAMES)
def test_ratios_and_quantiles_are_those_of_the_calls(name: str, known: Known) -> None:
    endpoint_id, rows = known.of(name)
    for query, expected in RATIOS.items():
        if name == "embedding" and query.startswith("cache_call"):
            assert known.charts.whole(query, endpoint_id) == {}, "there is no prefix cache for embeddings"
            continue
        found = known.charts.whole(query, endpoint_id)
        assert nearly(found, expected(rows)), (query, found, expected(rows))
    for query, (values_of, bounds) in QUANTILES.items():
        for share in (50, 95, 99):
            found = known.charts.whole(f"{query}_p{share}", endpoint_id)
            must_be_quantile(share, found.get(""), values_of(rows), bounds)
    found = known.charts.whole("ttft_p95_total", endpoint_id)
    must_be_quantile(95, found.get(""), first_tokens(rows), FIRST_TOKEN_BUCKETS)
    # Whether a scrape falls into so short a call is luck; two workers are read at two moments, and added.
    assert 0 <= known.charts.whole("in_flight", endpoint_id)[""] <= 2 * CALLERS


def test_the_calls_were_of_every_kind(known: Known) -> None:
    """Or the tests above prove less than they seem to."""
    codes = {name: Counter(row["code"] for row in rows) for name, rows in known.rows.items()}
    assert codes["chat"] == {"Success": 24, "MissingParameter": 3}
    assert codes["thinking"] == {"Success": 6, "ClientClosed": 2}
    assert codes["embedding"] == {"Success": 8}
    assert set(codes["flaky"]) == {"Success", "InternalServiceError"}
    # On a slow machine the first of the seven are a minute old before the last.
    assert set(codes["few calls"]) == {"Success", "RateLimitExceeded.EndpointRPMExceeded"}
    assert codes["few calls"].total() == 7
    assert codes["few calls"]["Success"] >= 4
    assert codes["few tokens"] == {"Success": 1, "RateLimitExceeded.EndpointTPMExceeded": 2}
    assert codes["switched"] == {"Success": 40}
    assert total(known.rows["chat"], "cached_tokens") > 0
    assert total(known.rows["thinking"], "reasoning_tokens") > 0


def test_limits_stand_beside_what_is_used(known: Known) -> None:
    endpoint_id, _rows = known.of("chat")
    assert known.charts.whole("rpm_limit", endpoint_id) == {"": 7_000}
    assert known.charts.whole("tpm_limit", endpoint_id) == {"": 3_000_000}


def test_each_filter_leaves_what_it_says(known: Known) -> None:
    endpoint_id, rows = known.of("switched")
    for model_id, own in by(rows, "model_id").items():
        for filters in (
            {"version": model_id},
            {"model": model_id.rpartition("-")[0]},
            {"version": model_id, "api": "chat"},
        ):
            found = known.charts.whole("input_tokens", endpoint_id, **filters)[""] * known.charts.minutes
            # What a filter takes away is much more than that.
            assert found == pytest.approx(total(own, "input_tokens"), rel=SLACK), (filters, found)
            durations_found = known.charts.whole("duration_stream_p50", endpoint_id, **filters)
            must_be_quantile(50, durations_found[""], durations(own, is_stream=True), DURATION_BUCKETS)
    for filters in ({"api": "embeddings"}, {"version": "no-such"}, {"model": 'no"such\\'}):
        assert known.charts.whole("input_tokens", endpoint_id, **filters) == {}
    # A limit is one for all models and APIs, so what stands beside it is too.
    found = known.charts.whole("rpm", endpoint_id, version="no-such")[""] * known.charts.minutes
    assert found == pytest.approx(len(rows), rel=SLACK)


def test_a_switch_shows_both_versions_apart(known: Known) -> None:
    endpoint_id, rows = known.of("switched")
    versions = {known.made.versions["switched"], known.made.versions["target"]}
    sides = by(rows, "model_id")
    assert set(sides) == versions
    assert known.charts.ask(
        f'100 * max by (ark_model) (ark_endpoint_version_weight{{ark_endpoint="{endpoint_id}"}})', at=known.charts.until
    ) == dict.fromkeys(versions, 50)
    assert known.charts.whole("switch_wanted", endpoint_id) == dict.fromkeys(versions, 50)
    slow = known.charts.whole("switch_ttft", endpoint_id)
    for model_id, own in sides.items():
        must_be_quantile(95, slow[model_id], first_tokens(own), FIRST_TOKEN_BUCKETS)
    embeddings, calls = known.of("embedding")
    found = known.charts.whole("switch_duration", embeddings)
    must_be_quantile(95, found[calls[0]["model_id"]], durations(calls, is_stream=False), DURATION_BUCKETS)


def test_the_projects_curves_hold_every_endpoint(known: Known) -> None:
    minutes = known.charts.minutes
    calls, tokens, errors = (known.charts.whole(f"project_{what}") for what in ("calls", "tokens", "errors"))
    for name in NAMES:
        endpoint_id, rows = known.of(name)
        assert calls[endpoint_id] * minutes == pytest.approx(len(rows), rel=SLACK)
        used = total(rows, "input_tokens", "output_tokens")
        assert tokens[endpoint_id] * minutes == pytest.approx(used, rel=SLACK)
        assert errors.get(endpoint_id, 0) * minutes == pytest.approx(sum(map(is_error, rows)), rel=SLACK)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_exact_tiles_and_these_curves_or_says_why_not(
    name: str, stack: Stack, known: Known, browser: httpx.Client
) -> None:
    endpoint_id, rows = known.of(name)
    # Charts end at whole steps, those of an hour at every tenth second.
    stack.wait_until(lambda: time.time() > known.charts.until // 10 * 10 + 10, what="the step of the last call is over")
    groups = {}
    for group in panels.groups_for(DOMAINS.get(name, "chat"), has_switch=name == "switched"):
        answer = browser.get(f"/endpoints/{endpoint_id}/monitoring/groups/{group.id}", params={"range": "1h"})
        groups[group.id] = found = answer.json()
        assert (answer.status_code, found["state"], found["message"]) == (200, "ok", ""), found
        assert set(found["panels"]) == {panel.id for panel in group.panels}
        assert set(found["tiles"]) == {tile.id for tile in group.tiles}
        for panel_id, panel in found["panels"].items():
            assert panel["series"] or panel["empty"], (panel_id, panel)

    tiles = groups["summary"]["tiles"]
    assert tiles["calls"]["value"] == len(rows)
    assert tiles["tokens"]["value"] == total(rows, "input_tokens", "output_tokens")
    assert tiles["error_rate"]["value"] == pytest.approx(error_percent(rows), abs=0.001)
    for what in ("input", "output", "cached", "reasoning"):
        if f"{what}_tokens" in groups["tokens"]["tiles"]:
            assert groups["tokens"]["tiles"][f"{what}_tokens"]["value"] == total(rows, f"{what}_tokens")

    assert "input" in {series["key"] for series in groups["tokens"]["panels"]["tokens"]["series"]}
    must_be_drawn(known.charts, groups["tokens"], "tokens")
    must_be_drawn(known.charts, groups["errors"], "errors_by_cause")
    if name == "switched":
        must_be_drawn(known.charts, groups["switch"], "switch_calls")
        version = known.made.versions["target"]
        narrow = {"range": "1h", "version": version}
        tiles = browser.get(f"/endpoints/{endpoint_id}/monitoring/groups/summary", params=narrow).json()["tiles"]
        assert tiles["calls"]["value"] == len(by(rows, "model_id")[version])


def must_be_drawn(charts: Charts, group: dict[str, Any], panel_id: str) -> None:
    """The panel's lines are what Prometheus answers to the query that the panel shows; of those that are left out all is 0."""
    drawn = group["panels"][panel_id]["series"]
    for query in {series["query"] for series in drawn}:
        answers = charts.curves(query, group["time"])
        for series in (each for each in drawn if each["query"] == query):
            values = answers.pop(series["key"].partition(":")[2], {})
            expected = [values.get(at, 0.0) for at in group["time"]]
            # A bar is drawn in whole calls.
            assert [value or 0.0 for value in series["values"]] == pytest.approx(expected, rel=0.001, abs=0.51), series
        assert not any(any(values.values()) for values in answers.values()), (query, answers)


def test_a_killed_gateway_worker_costs_a_scrape_interval_at_most_and_makes_no_jump(
    stack: Stack, made: Made, charts: Charts
) -> None:
    endpoint_id = made.endpoints["killed"]
    traffic = Traffic(stack.gateway_url, made.api_key, endpoint_id, callers=4, output_tokens=5)
    books = Books(stack, endpoint_id)
    charts = Charts(stack, charts.client, time.time())
    requests = f'ark_api_proxy_request_total{{ark_endpoint="{endpoint_id}",code="Success"}}'
    with traffic:
        # Both workers are known to have been called.
        stack.wait_until(
            lambda: len([value for value in charts.ask(requests).values() if value > 5]) == WORKERS,
            what="both workers' calls are seen",
        )
        before = charts.raw(requests, at=time.time(), seconds=60)
        worker = gateway_workers(stack)[0]
        killed_at = time.time()
        worker.kill()
        worker.wait()
        stack.wait_until(lambda: len(gateway_workers(stack)) == WORKERS, seconds=60, what="a new gateway worker")
        traffic.wait_for_more(30)
        # The new one's calls are seen too: a counter of some instance has begun anew.
        stack.wait_until(
            lambda: any(resets(samples) for samples in charts.raw(requests, at=time.time(), seconds=60).values()),
            what=f"the new worker is read in the dead one's place: {before}",
        )
        traffic.wait_for_more(30)
    charts.end()
    books.wait_complete(traffic.seen)

    rows = [row for row in books.ledger().values() if row["code"] == "Success"]
    # A second more: the worker may be dead within the first one, and what was read of it before must be in it.
    samples = charts.raw(requests, at=charts.until, seconds=math.ceil(charts.until - charts.since) + 1)
    assert len(samples) == WORKERS, "the new worker is where the dead one was"
    grown = sum(growth(each) for each in samples.values())
    [dead] = [each for each in samples.values() if resets(each)]
    last_read_at = max(at for at, _value in dead if at <= killed_at)
    assert killed_at - last_read_at < 30, "it was read until then, on a machine with other work"
    unseen = [row for row in rows if last_read_at - 1 <= ended_at(row) <= killed_at + 1]
    assert len(rows) - len(unseen) <= grown <= len(rows), (len(rows), len(unseen), grown)

    # The page's query holds no call of the dead worker twice, either.
    called = charts.whole("rpm", endpoint_id)[""] * charts.minutes
    assert called == pytest.approx(grown, rel=SLACK), (called, grown)


def resets(samples: Sequence[tuple[float, float]]) -> int:
    """How often a counter began anew."""
    return sum(1 for (_at, one), (_then, two) in itertools.pairwise(samples) if two < one)


def growth(samples: Sequence[tuple[float, float]]) -> float:
    """By how much a counter grew, as Prometheus sees it."""
    values = [value for _at, value in samples]
    return sum(two - one if two >= one else two for one, two in itertools.pairwise(values))


def ended_at(row: Row) -> float:
    return float(row["at"].timestamp()) + row["duration_ms"] / 1000


def nearly(found: dict[str, float], expected: dict[str, float]) -> bool:
    """Whether all values are what they should be but for SLACK; what is nothing may be missing."""
    return all(
        found.get(label, 0.0) == pytest.approx(expected.get(label, 0.0), rel=SLACK, abs=0.3)
        for label in {*found, *expected}
    )


def must_be_quantile(share: int, found: float | None, values: Sequence[float], bounds: Sequence[float]) -> None:
    """Where two buckets meet a single call decides, and Prometheus's counts are rates of two workers."""
    if not values:
        assert found is None
        return
    slack = 4 + 150 / len(values)  # a call or two more or less
    low, high = (quantile(min(max(share + way * slack, 1), 99.9) / 100, values, bounds) for way in (-1, 1))
    assert found is not None
    assert low * 0.95 <= found <= high * 1.05, (share, found, low, high, sorted(values))
