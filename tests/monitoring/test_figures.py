from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.http import QueryDict
from django.utils import translation
from pytest_django import Settings

from endpoints.models import Endpoint
from monitoring import figures, panels, prometheus, queries
from monitoring.filters import MonitoringFilters
from monitoring.models import Subscription
from tests import builders
from tests.monitoring.conftest import NEW, PLAIN, SCRAPE, STREAMED, Known, ledger_row
from tests.servers import HeldPort, PrometheusServer

pytestmark = pytest.mark.django_db
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _in_english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture
def endpoint(known: Known) -> Endpoint:
    """The endpoint of the known hour, its ledger filled with the same calls, monitoring open."""
    model = builders.foundation_model(name="fast", domain="thinking")
    old = builders.model_version(model=model, version="1")
    new = builders.model_version(model=model, version="2")
    made = builders.endpoint(id=known.endpoint, version=old)
    opened(made, at=datetime.fromtimestamp(known.start - 600, UTC))
    price = builders.price_tier(version=old)
    rounds, at = known.rounds, datetime.fromtimestamp(known.start + 300, UTC)
    ledger_row(made, at, price_id=price.pk, calls=3 * rounds + 120 + 2, succeeded=3 * rounds, limited=120, failed=1,
               cancelled=1, input_tokens=rounds * 250, output_tokens=rounds * 102, cached_tokens=rounds * 80,
               reasoning_tokens=rounds * 20)  # fmt: skip
    ledger_row(made, at, version_id=new.pk, calls=120, succeeded=120, input_tokens=24_000, output_tokens=1_320)
    return made


def opened(endpoint: Endpoint, *, at: datetime) -> None:
    builders.subscription(project=endpoint.project, asked_at=at)


@pytest.fixture
def ask(asked: PrometheusServer, endpoint: Endpoint, known: Known) -> Ask:
    """Ask for a group of the known hour."""

    def one(group: str, query: str = "", **own: Any) -> dict[str, Any]:
        wanted = next(each for each in panels.groups_for("thinking", has_switch=True) if each.id == group)
        return figures.group(own.get("endpoint", endpoint), wanted, hour(known, query, later=own.get("later", 0)))

    return one


def hour(known: Known, query: str = "", *, later: int = 0) -> MonitoringFilters:
    data = QueryDict(f"from={known.start}&to={known.end}&{query}")
    return MonitoringFilters.of(data, now=datetime.fromtimestamp(known.end + later, UTC))


def area(answer: dict[str, Any], panel: str, key: str) -> float:
    """What a curve per minute adds up to."""
    return sum(value or 0 for value in line(answer, panel, key)["values"]) * float(answer["step"]) / 60


def line(answer: dict[str, Any], panel: str, key: str) -> dict[str, Any]:
    found: dict[str, Any] = {one["key"]: one for one in answer["panels"][panel]["series"]}
    return dict(found[key])


def total(answer: dict[str, Any], panel: str, key: str) -> float:
    return sum(value or 0 for value in line(answer, panel, key)["values"])


def middle(answer: dict[str, Any], panel: str, key: str, share: float = 0.25) -> float:
    values = line(answer, panel, key)["values"]
    return float(values[int(len(values) * share)])


def test_every_panel_shows_something_of_the_known_hour(ask: Ask) -> None:
    for group in panels.groups_for("thinking", has_switch=True):
        answer = ask(group.id)
        assert (answer["state"], answer["message"]) == ("ok", "")
        assert set(answer["panels"]) == {panel.id for panel in group.panels}
        for name, panel in answer["panels"].items():
            assert panel["empty"] == "", name
            for series in panel["series"]:
                assert len(series["values"]) == len(answer["time"])
                assert any(value is not None for value in series["values"]), (name, series["key"])


def test_curves_hold_exactly_the_tokens_of_the_hour(ask: Ask, known: Known) -> None:
    answer = ask("tokens")
    expected = {"input": known.rounds * 250 + 24_000, "output": known.rounds * 102 + 1_320, "cached": known.rounds * 80,
                "reasoning": known.rounds * 20}  # fmt: skip
    for key, tokens in expected.items():
        assert area(answer, "tokens", key) == pytest.approx(tokens, rel=0.02)
        assert line(answer, "tokens", key)["total"] == tokens
    assert middle(answer, "tpm", "used") == pytest.approx(4 * 352, rel=0.01)
    assert middle(answer, "tpm", "limit") == known.tpm_limit
    assert line(answer, "tpm", "limit")["dash"]
    assert middle(answer, "rpm", "used") == pytest.approx(12, rel=0.01)
    assert middle(answer, "tokens_per_call", "input") == pytest.approx(250 / 3, rel=0.01)


def test_a_long_range_holds_them_as_well_and_shows_the_busiest_minute(ask: Ask, known: Known) -> None:
    answer = ask("tokens", f"from={known.end - 14 * 86_400}", later=3_600)
    assert answer["step"] >= 1_800
    assert area(answer, "tokens", "input") == pytest.approx(known.rounds * 250 + 24_000, rel=0.05)
    assert max(value or 0 for value in line(answer, "rpm", "peak")["values"]) == pytest.approx(20, rel=0.05)


def test_a_worker_that_was_replaced_leaves_neither_gap_nor_peak(ask: Ask) -> None:
    values = [value for value in line(ask("tokens"), "tokens", "reasoning")["values"] if value is not None]
    assert max(values) <= 80 * 1.1
    assert min(values[4:-4]) >= 80 * 0.45  # one of two workers, for a scrape at most


def test_times_are_those_that_calls_took(ask: Ask) -> None:
    answer = ask("performance")
    assert 0.25 <= middle(answer, "ttft", "p95") <= 0.5
    assert 0.025 <= middle(answer, "tpot", "p50") <= 0.05
    assert 1 <= middle(answer, "duration_stream", "p50") <= 2.5
    assert 0.5 <= middle(answer, "duration", "p50") <= 1
    assert middle(answer, "output_speed", "speed") == pytest.approx(40 / 1.7, rel=0.01)
    assert middle(answer, "in_flight", "in_flight") == 0
    assert middle(answer, "ttft", "p95", 0.9) > 0.5  # the new version is slower


def test_quantiles_are_what_prometheus_itself_answers(ask: Ask, known: Known) -> None:
    answer = ask("performance")
    for panel in ("ttft", "tpot", "duration_stream", "duration"):
        for series in answer["panels"][panel]["series"]:
            question = (series["query"], hour(known).grid(scrape_seconds=SCRAPE))
            (said,) = prometheus.fetch([question])[question]
            assert series["values"] == [
                None if value is None else pytest.approx(value, abs=1e-6) for value in said.values
            ]


def test_bars_hold_whole_calls(ask: Ask) -> None:
    answer = ask("errors")
    by_cause = {one["key"]: sum(value or 0 for value in one["values"]) for one in series_of(answer, "errors_by_cause")}
    assert by_cause == {
        "code:InternalServiceError": 1,
        "code:RateLimitExceeded.EndpointRPMExceeded": pytest.approx(120, abs=1),
    }
    assert {one["key"] for one in series_of(answer, "errors_by_code")} == {"status:502", "status:429"}
    bars = [value for value in line(answer, "errors_by_cause", "code:InternalServiceError")["values"] if value]
    assert bars == [1]
    assert total(answer, "limited", "code:RateLimitExceeded.EndpointRPMExceeded") == pytest.approx(120, rel=0.02)
    assert middle(answer, "error_rate", "errors", 0.9) == pytest.approx(20, rel=0.02)
    assert middle(answer, "error_rate", "errors", 0.3) == 0


def series_of(answer: dict[str, Any], panel: str) -> list[dict[str, Any]]:
    return list(answer["panels"][panel]["series"])


def test_the_cache_is_counted_by_tokens_and_by_calls(ask: Ask) -> None:
    answer = ask("cache")
    assert middle(answer, "cache_tokens", "tokens") == pytest.approx(32, rel=0.01)
    assert middle(answer, "cache_calls", "calls") == pytest.approx(100 * 2 / 3, rel=0.01)
    tiles = answer["tiles"]
    assert tiles["cached_tokens"]["value"] == 240 * 80
    assert tiles["cache_hit"]["value"] == pytest.approx(100 * 240 * 80 / 84_000, abs=0.001)
    saved = Decimal(240 * 80) * (Decimal("0.8") - Decimal("0.16")) / 1_000_000
    assert tiles["saved"]["value"] == float(saved)
    assert tiles["saved"]["exact"] == f"{saved.normalize():f} CNY"


def test_both_versions_of_a_switch_are_seen_apart(ask: Ask, known: Known) -> None:
    answer = ask("switch")
    late = 0.9
    assert middle(answer, "switch_share", f"seen:{known.new}", late) == pytest.approx(20, rel=0.02)
    assert middle(answer, "switch_share", f"seen:{known.old}", late) == pytest.approx(80, rel=0.02)
    assert middle(answer, "switch_share", f"wanted:{known.new}", late) == 25
    assert line(answer, "switch_share", f"wanted:{known.new}")["dash"]
    assert middle(answer, "switch_errors", f"version:{known.new}", late) == 0
    assert middle(answer, "switch_errors", f"version:{known.old}", late) == pytest.approx(25, rel=0.02)
    assert middle(answer, "switch_ttft", f"version:{known.old}", late) < 0.5
    assert middle(answer, "switch_ttft", f"version:{known.new}", late) > 0.75
    assert middle(answer, "switch_calls", f"version:{known.new}", late) == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(
    ("query", "tokens"),
    [
        ("version=fast-2", 24_000),
        ("version=fast-1", 60_000),
        ("model=fast&api=chat", 84_000),
        ("model=fast&version=fast-2&api=chat", 24_000),
    ],
)
def test_each_filter_changes_curves_and_totals_alike(ask: Ask, query: str, tokens: int) -> None:
    answer = ask("tokens", query)
    assert area(answer, "tokens", "input") == pytest.approx(tokens, rel=0.02)
    assert line(answer, "tokens", "input")["total"] == tokens
    assert answer["tiles"]["input_tokens"]["value"] == tokens
    assert middle(answer, "rpm", "used", 0.9) == pytest.approx(20, rel=0.02)  # the limit is the whole endpoint's


@pytest.mark.parametrize(
    "query", ["api=embeddings", "model=other", "version=fast-3", "version=%22%7D%20or%20vector(1)"]
)
def test_a_filter_that_nothing_matches_says_so(ask: Ask, query: str) -> None:
    answer = ask("tokens", query)
    assert answer["state"] == "ok"
    assert answer["panels"]["tokens"]["empty"] == "No call in this range matches the filters."
    assert answer["panels"]["rpm"]["empty"] == ""
    assert ask("summary", query)["tiles"]["calls"]["value"] == 0


def test_tiles_are_the_ledger_to_the_last_call(ask: Ask) -> None:
    tiles = ask("summary")["tiles"]
    assert tiles["calls"]["value"] == 962
    assert tiles["tokens"]["value"] == 240 * 352 + 25_320
    assert tiles["tokens"]["exact"] == "109,800"
    assert tiles["error_rate"]["value"] == pytest.approx(100 * 121 / 962, abs=0.001)
    assert sum(tiles["calls"]["spark"]) == 962
    assert tiles["calls"]["change_percent"] is None
    cost = (Decimal("0.8") * 240 * 170 + Decimal("0.16") * 240 * 80 + 2 * Decimal(240 * 102)) / 1_000_000
    assert tiles["cost"]["value"] == float(cost)
    assert tiles["cost"]["text"] == f"¥{cost:.2f}"
    assert tiles["cost"]["note"] == "25,320 tokens had no price."
    assert 0.25 < tiles["ttft_p95"]["value"] <= 1
    assert tiles["ttft_p95"]["text"].endswith("ms")


def test_tiles_know_the_period_before(ask: Ask, known: Known, endpoint: Endpoint) -> None:
    ledger_row(endpoint, datetime.fromtimestamp(known.start - 600, UTC), calls=481, succeeded=481)
    calls = ask("summary")["tiles"]["calls"]
    assert (calls["value"], calls["previous"], calls["change_percent"]) == (962, 481, 100.0)


def test_large_figures_are_read_in_the_readers_language(ask: Ask) -> None:
    assert ask("summary")["tiles"]["tokens"]["text"] == "110 K"
    with translation.override("zh-hans"):
        assert ask("summary")["tiles"]["tokens"]["text"] == "11 万"


def test_the_period_before_is_moved_onto_the_same_times(ask: Ask, known: Known) -> None:
    half = f"from={known.start + 1800}&compare=1"
    answer = ask("switch", half)
    assert answer["shift"] == 1800
    answer = ask("tokens", half)
    limited = line(answer, "rpm", "used")
    assert limited["values"][60] == pytest.approx(20, rel=0.02)
    assert limited["previous"][60] == pytest.approx(12, rel=0.02)
    assert answer["time"][60] - known.start - 1800 == 61 * SCRAPE


def test_the_query_is_there_to_be_copied(ask: Ask, endpoint: Endpoint, asked: PrometheusServer) -> None:
    for group in panels.groups_for("thinking", has_switch=True):
        for panel in ask(group.id)["panels"].values():
            for series in panel["series"]:
                assert f'project="default",ark_endpoint="{endpoint.pk}"' in series["query"]
                asked.query(series["query"])


# --- why there is nothing --------------------------------------------------------------------------------------------


def other(endpoint: Endpoint, number: int, **values: Any) -> Endpoint:
    return builders.endpoint(id=f"ep-20261122000000-other{number}", version=endpoint.version, **values)


def test_no_calls(ask: Ask, endpoint: Endpoint) -> None:
    quiet = other(endpoint, 1)
    for group in ("tokens", "performance", "errors", "cache"):
        answer = ask(group, endpoint=quiet)
        assert {panel["empty"] for panel in answer["panels"].values()} == {"No calls in this range."}
    assert ask("summary", endpoint=quiet)["tiles"]["calls"]["text"] == "0"


def test_calls_that_prometheus_was_not_there_for(ask: Ask, endpoint: Endpoint, known: Known) -> None:
    unseen = other(endpoint, 2)
    at = datetime.fromtimestamp(known.start + 1800, UTC)
    ledger_row(unseen, at, calls=3, succeeded=3)

    def why(query: str = "", later: int = 0) -> str:
        return str(ask("tokens", query, endpoint=unseen, later=later)["panels"]["tokens"]["empty"])

    not_read = "nothing of the 3 calls of this range: it did not read the gateway at that time."
    assert not_read in why()  # half an hour old: no curve follows
    assert not_read in why(f"to={known.start + 2400}", later=86_400)  # least of all when that was yesterday
    Subscription.objects.update(opened_at=at)
    assert "the 3 calls of this range: monitoring was opened at" in why()
    ledger_row(unseen, at + timedelta(minutes=3), price_id=1, calls=1, succeeded=1)
    assert "nothing of the 4 calls of this range: it did not read" in why()


def test_calls_of_just_now_are_promised(ask: Ask, endpoint: Endpoint, known: Known) -> None:
    unseen = other(endpoint, 5)
    ledger_row(unseen, datetime.fromtimestamp(known.end - 60, UTC), calls=3, succeeded=3)
    assert "nothing yet of the 3 calls" in ask("tokens", endpoint=unseen)["panels"]["tokens"]["empty"]
    Subscription.objects.update(opened_at=datetime.fromtimestamp(known.end - 50, UTC))
    assert "nothing yet of the 3 calls" in ask("tokens", endpoint=unseen)["panels"]["tokens"]["empty"]


def test_calls_beyond_what_a_worker_counts_apart_are_told(
    ask: Ask, endpoint: Endpoint, known: Known, asked: PrometheusServer
) -> None:
    unseen = other(endpoint, 6)
    start = known.start - 9 * 3600
    Subscription.objects.update(opened_at=datetime.fromtimestamp(start - 3600, UTC))
    times = range(start, start + 1800, SCRAPE)
    asked.write(
        {'ark_gateway_label_sets_overflow_total{instance="1"}': [(at, max(at - start - 600, 0)) for at in times]}
    )
    ledger_row(unseen, datetime.fromtimestamp(start + 900, UTC), calls=3, succeeded=3)
    answer = ask("tokens", f"from={start}&to={start + 1800}", endpoint=unseen, later=-7 * 3600)
    assert "a gateway worker counts 2,000 endpoints and models apart" in answer["panels"]["tokens"]["empty"]


@pytest.mark.parametrize(
    ("lines", "newest"),
    [
        ([], (None, 0)),
        ([[1.0, 2.0, None]], (2.0, 1)),
        ([[1.0, None, None]], (None, 0)),
        ([[None, 1.0, 2.0], [None, 4.0, None], [None, None, 5.0]], (7.0, 0)),
        ([[3.0]], (3.0, 0)),
    ],
)
def test_what_is_current_is_the_newest_and_not_what_was_once(
    lines: list[Any], newest: tuple[float | None, int]
) -> None:
    assert figures._newest(lines) == newest


def test_the_current_value_says_whose_it_is(ask: Ask) -> None:
    panels_ = ask("performance")["panels"] | ask("errors")["panels"]
    assert panels_["ttft"]["current_label"] == "P50"
    assert panels_["output_speed"]["current_label"] == ""
    assert panels_["limited"]["current_label"] == ""
    limited = panels_["limited"]
    assert limited["current"] == sum(one["values"][-1] for one in limited["series"])


def test_money_of_several_currencies_has_no_curve(ask: Ask, endpoint: Endpoint, known: Known) -> None:
    assert ask("summary")["tiles"]["cost"]["spark"]
    dollars = builders.price_tier(version=builders.model_version(), currency="USD")
    ledger_row(endpoint, datetime.fromtimestamp(known.start + 600, UTC), price_id=dollars.pk, version_id=dollars.version_id,
               calls=1, succeeded=1, input_tokens=1_000_000)  # fmt: skip
    assert ask("summary")["tiles"]["cost"]["spark"] is None


def test_what_these_calls_had_none_of(ask: Ask, known: Known) -> None:
    # The first three quarters of the first half: neither a limit nor, of plain calls alone, anything else.
    answer = ask("errors", f"to={known.start + 540}")
    assert answer["panels"]["limited"]["empty"] == "No call of this range was limited."
    assert answer["panels"]["error_rate"]["empty"] == ""
    assert ask("performance", "version=fast-2")["panels"]["duration"]["empty"] == (
        "No call of this range succeeded without streaming."
    )


def test_monitoring_that_nobody_opened(ask: Ask) -> None:
    Subscription.objects.all().delete()
    answer = ask("tokens")
    assert (answer["state"], answer["message"]) == ("off", "Monitoring is not opened for this project.")
    assert answer["panels"]["tokens"]["empty"] == answer["message"]
    assert answer["tiles"]["input_tokens"]["value"] == 84_000  # the ledger counts all the same


def test_no_prometheus_at_all(ask: Ask, settings: Settings) -> None:
    settings.PROMETHEUS_IS_EXTERNAL = False
    answer = ask("tokens")
    assert answer["state"] == "off"
    assert "PROMETHEUS_URL" in answer["message"]


def test_a_prometheus_that_is_gone_leaves_the_time_and_the_tiles(ask: Ask, settings: Settings) -> None:
    ask("errors")
    settings.PROMETHEUS_URL = f"http://127.0.0.1:{HeldPort().release()}"
    answer = ask("summary")
    assert answer["state"] == "unreachable"
    assert answer["last_at"]
    assert answer["message"].startswith("No data since ")
    assert answer["tiles"]["calls"]["value"] == 962
    assert answer["tiles"]["ttft_p95"]["note"] == answer["message"]
    assert ask("tokens")["panels"]["tokens"]["empty"].startswith("No data since ")


def test_workers_that_are_read_no_more_are_told(
    ask: Ask, endpoint: Endpoint, known: Known, asked: PrometheusServer
) -> None:
    stopped = other(endpoint, 4)
    here = f'project="default",ark_endpoint="{stopped.pk}",api="chat",base_model="fast",ark_model="fast-1"'
    start, until = known.start - 4 * 3600, known.start - 4 * 3600 + 1800
    times = range(start, until, SCRAPE)
    asked.write({
        f'ark_api_proxy_request_total{{{here},code="Success",http_status_code="200"}}': [(at, at - start) for at in times],
        'ark_gateway_worker_info{worker="1"}': [(at, 1) for at in times],
    })  # fmt: skip
    answer = ask("errors", f"from={start}", endpoint=stopped, later=-4 * 3600)
    assert answer["state"] == "ok"
    assert answer["message"].startswith("No data since ")
    assert answer["message"].endswith("Prometheus reads none of the gateway's workers.")
    assert until - 60 <= answer["last_at"] <= until + 360


def test_more_lines_than_can_be_told_apart_are_named(
    ask: Ask, endpoint: Endpoint, known: Known, asked: PrometheusServer
) -> None:
    many = other(endpoint, 3)
    here = f'project="default",ark_endpoint="{many.pk}",api="chat",base_model="fast",ark_model="fast-1"'
    asked.write({
        f'ark_api_proxy_request_total{{{here},code="Code{n}",http_status_code="500"}}':
        [(known.start, 0), (known.start + 15, n + 1), (known.start + 30, n + 1)] for n in range(20)
    })  # fmt: skip
    ledger_row(many, datetime.fromtimestamp(known.start, UTC), calls=210, failed=210)
    panel = ask("errors", endpoint=many)["panels"]["errors_by_cause"]
    assert len(panel["series"]) == figures.MAX_LINES
    assert panel["note"] == "The 12 largest of 20 are drawn."
    assert "code:Code19" in {one["key"] for one in panel["series"]}


def test_the_whole_page_costs_few_queries(ask: Ask, django_assert_max_num_queries: Any) -> None:
    for group, most in (("summary", 3), ("tokens", 3), ("performance", 3), ("errors", 3), ("cache", 3)):
        with django_assert_max_num_queries(most):
            ask(group)


def test_nothing_of_the_known_hour_was_forgotten() -> None:
    """The constants that expectations above are written with."""
    assert (2 * STREAMED["input_tokens"] + PLAIN["input_tokens"], NEW["input_tokens"]) == (250, 200)
    assert 2 * STREAMED["output_tokens"] + PLAIN["output_tokens"] == 102
    assert queries.SHARES == (50, 95, 99)
    assert timedelta(seconds=240 * SCRAPE) == timedelta(hours=1)
