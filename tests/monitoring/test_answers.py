"""Answers of a group as they are put together, from what a Prometheus said: none is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.http import QueryDict
from django.utils import timezone, translation
from pytest_django import Settings

from endpoints.models import Endpoint
from metering import ledger
from monitoring import figures, panels, prometheus
from monitoring.filters import Grid, MonitoringFilters
from monitoring.prometheus import Series
from tests import builders
from tests.monitoring.conftest import ledger_row

NOW = datetime(2026, 11, 23, 9, 50, 20, tzinfo=UTC)
Curve = Callable[[Grid], Sequence[float | None]]
Said = Mapping[str, Mapping[str, Curve]]
Ask = Callable[..., dict[str, Any]]


def always(value: float) -> Curve:
    return lambda grid: [value] * len(grid.times)


def until_now(value: float) -> Curve:
    """What there is no more: it was before the range of an hour that ends now."""
    return lambda grid: [value if at <= NOW.timestamp() - 3600 else None for at in grid.times]


@pytest.fixture(autouse=True)
def _in_english() -> Iterator[None]:
    with translation.override("en"), timezone.override("UTC"):
        yield


@pytest.fixture
def endpoint(db: None) -> Endpoint:
    made = builders.endpoint()
    builders.subscription(project=made.project, asked_at=NOW - timedelta(days=40))
    return made


@pytest.fixture
def ask(endpoint: Endpoint, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Ask for a group; `said` has the curves by a part of the query, each by the value of its one label."""
    settings.PROMETHEUS_IS_EXTERNAL, settings.PROMETHEUS_URL, settings.SCRAPE_SECONDS = True, "http://unasked", 15

    def one(group: str, query: str, said: Said, *, gap: str = "") -> dict[str, Any]:
        def fetch(asks: Sequence[prometheus.Ask], *, until: Any = None, gaps: Any = None) -> dict[Any, Any]:
            if gap and gaps is not None:
                gaps.add(gap)
            return {
                (promql, grid): [
                    Series({label: label for label in ("code", "http_status_code")} | {"code": key}, curve(grid))
                    for part, curves in said.items() if part in promql for key, curve in curves.items()
                ] for promql, grid in asks
            }  # fmt: skip

        monkeypatch.setattr(prometheus, "fetch", fetch)
        wanted = next(each for each in panels.groups_for("language") if each.id == group)
        return figures.group(endpoint, wanted, MonitoringFilters.of(QueryDict(query), now=NOW))

    return one


@pytest.mark.parametrize(
    ("ago", "query", "why"),
    [
        (timedelta(minutes=20), "range=15d", "reach to 09:00, its 3 calls came later. A shorter range shows them."),
        (timedelta(hours=10), "range=15d", "it did not read the gateway at that time."),
        (timedelta(minutes=20), "range=1h", "it did not read the gateway at that time."),
        (timedelta(minutes=1), "range=1h", "nothing yet of the 3 calls"),
    ],
)
def test_calls_that_no_curve_shows_have_the_right_reason(
    ask: Ask, endpoint: Endpoint, ago: timedelta, query: str, why: str
) -> None:
    ledger_row(endpoint, NOW - ago, calls=3, succeeded=3)
    assert why in ask("tokens", query, {})["panels"]["tokens"]["empty"]


def test_no_such_call_is_said_of_what_the_curves_reach(ask: Ask, endpoint: Endpoint) -> None:
    ledger_row(endpoint, NOW - timedelta(minutes=20), calls=3, limited=3)
    answer = ask("errors", "range=15d", {"60 * sum(rate": {"": always(5)}})
    assert answer["panels"]["limited"]["empty"] == (
        "No call of this range was limited. The curves of this range reach to 09:00."
    )


@pytest.mark.parametrize(("query", "label"), [("range=15d", "Used · 09:00"), ("range=1h", "")])
def test_a_current_value_that_is_old_says_of_when_it_is(ask: Ask, query: str, label: str) -> None:
    answer = ask("tokens", query, {"60 * (": {"": always(7)}, "ark_endpoint_tpm_limit": {"": always(100)}})
    panel = answer["panels"]["tpm"]
    assert (panel["current"], panel["current_at"], panel["current_label"]) == (7, answer["to"], label)
    assert answer["until"] == int(NOW.timestamp())


def test_a_comparison_shows_what_is_gone(ask: Ask, endpoint: Endpoint) -> None:
    ledger_row(endpoint, NOW - timedelta(minutes=20), calls=3, succeeded=3)
    said = {
        "sum by (code)": {"Gone": until_now(2), "Never": always(0), "Here": always(1)},
        "count(": {"": always(1)},
        "60 * sum(rate": {"": always(5)},
    }
    shown = ask("errors", "compare=1", said)
    by_cause = {one["label"]: one for one in shown["panels"]["errors_by_cause"]["series"]}
    assert set(by_cause) == {"Gone", "Here"}
    assert not any(by_cause["Gone"]["values"])
    assert all(by_cause["Gone"]["previous"])
    assert shown["panels"]["errors_by_cause"]["current"] == 1
    assert shown["message"] == ""
    assert len(ask("errors", "", said)["panels"]["errors_by_cause"]["series"]) == 1

    said["sum by (code)"] = {"Gone": until_now(2)}
    limited = ask("errors", "compare=1", said)["panels"]["limited"]
    assert (limited["empty"], limited["note"]) == ("", "No call of this range was limited.")
    assert limited["current"] is None


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        (always(1), ""),
        (lambda grid: [1 if at >= NOW.timestamp() - 5400 else None for at in grid.times],
         "Of the period before Prometheus has only what is later than 08:20."),
        (lambda grid: [1 if at > NOW.timestamp() - 3600 else None for at in grid.times],
         "There is nothing to compare with: Prometheus has nothing of the period before."),
    ],
)  # fmt: skip
def test_a_period_before_that_is_not_known_is_told(ask: Ask, workers: Curve, message: str) -> None:
    assert ask("errors", "compare=1", {"count(": {"": workers}})["message"] == message
    assert ask("errors", "", {"count(": {"": workers}})["message"] == ""


def test_half_an_answer_is_told(ask: Ask) -> None:
    answer = ask("errors", "", {"60 * sum(rate": {"": always(5)}}, gap="no store")
    assert answer["message"] == "Prometheus answers only in part, figures may be too low: no store"


@pytest.mark.parametrize("seconds", [0, 20, 59])
@pytest.mark.parametrize("minutes", [15, 60, 24 * 60, 15 * 24 * 60])
def test_even_traffic_compares_as_even_and_its_sparkline_is_flat(minutes: int, seconds: int) -> None:
    now = NOW.replace(second=seconds)
    since, until = ledger.floor_minute(now - timedelta(minutes=minutes)), ledger.floor_minute(now) + ledger.MINUTE
    spans = figures._LedgerSpans.of(since, until, now=now)
    assert list(spans.bounds) == sorted(spans.bounds)
    first, rest, *steps = (
        (min(end, now) - start) / ledger.MINUTE
        for start, end in zip(spans.bounds[:-1], spans.bounds[1:], strict=True)
    )  # fmt: skip
    assert first * spans.share + rest == pytest.approx(sum(steps))
    drawn = [step for step, is_whole in zip(steps, spans.whole, strict=True) if is_whole]
    assert len(set(drawn)) == 1
    assert figures.SPARKS / 2 - 1 <= len(drawn) <= figures.SPARKS
    assert sum(drawn) >= 0.8 * minutes
