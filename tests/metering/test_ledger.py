"""Every query on the ledger, over rows that the drain itself wrote."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.models import ModelVersion
from common import paging
from metering import drain, ledger
from metering.events import Outcome
from metering.ledger import CallFilters, Cost, Usage24
from metering.models import CallRecord, UsageHour, UsageMinute
from tests import builders
from tests.builders import NOW, usage_event
from tests.metering.conftest import Send

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
Calls = Callable[..., None]


@pytest.fixture
def calls(send: Send, settings: Any) -> Calls:
    """Let calls happen: each argument is the time of one."""
    settings.CALL_RECORD_DAYS = 3650

    def happen(*times: datetime, **values: Any) -> None:
        send(*[usage_event(at=int(at.timestamp() * 1000), **values) for at in times])
        drain.drain(now=max([*times, NOW]))

    return happen


@pytest.fixture
def version(db: None) -> ModelVersion:
    """A version at 1 CNY per million input, 0.1 cached, 10 output, since long ago."""
    made = builders.model_version()
    builders.price_tier(
        version=made, input_price=Decimal(1), cached_price=Decimal("0.1"), output_price=Decimal(10),
        valid_from=datetime(2000, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    return made


def test_a_list_sees_the_last_24_hours_of_each_endpoint_in_one_query(
    calls: Calls, django_assert_num_queries: Any
) -> None:
    calls(NOW, NOW - HOUR, NOW - HOUR, NOW - 23 * HOUR, endpoint_id="ep-a", input_tokens=10, output_tokens=5)
    calls(NOW - 24 * HOUR, endpoint_id="ep-a")
    calls(NOW, endpoint_id="ep-b", outcome=Outcome.CUT, input_tokens=3, output_tokens=0)
    calls(NOW, endpoint_id="ep-other")

    with django_assert_num_queries(1):
        usage = ledger.usage_24h(["ep-a", "ep-b", "ep-quiet"], now=NOW)

    assert usage["ep-a"] == Usage24(calls=4, tokens=60, failed=0, hourly=(1, *[0] * 21, 2, 1))
    assert usage["ep-b"] == Usage24(calls=1, tokens=3, failed=1, hourly=(*[0] * 23, 1))
    assert usage["ep-quiet"] == Usage24()
    assert set(usage) == {"ep-a", "ep-b", "ep-quiet"}


def test_no_endpoints_ask_nothing(django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert ledger.usage_24h([], now=NOW) == {}
        assert ledger.pressure({}, now=NOW) == {}


def test_cost_is_what_each_kind_of_token_costs(
    calls: Calls, version: ModelVersion, django_assert_num_queries: Any
) -> None:
    calls(NOW, version_id=version.pk, input_tokens=1_000_000, cached_tokens=400_000, output_tokens=7)

    with django_assert_num_queries(2):
        costs = ledger.costs("ep-1", now=NOW, tz=UTC)

    assert costs.today.amounts == {"CNY": Decimal("0.6") + Decimal("0.04") + Decimal("0.00007")}
    assert costs.today == costs.this_month
    assert costs.today.tokens == 1_000_007
    assert costs.yesterday == costs.last_month == Cost()


def test_currencies_are_never_mixed_and_unpriced_tokens_are_said(calls: Calls, version: ModelVersion) -> None:
    dollars = builders.model_version()
    builders.price_tier(version=dollars, input_price=Decimal(2), currency="USD")
    for version_id in (version.pk, dollars.pk, 424_242):
        calls(NOW, version_id=version_id, input_tokens=1_000_000, output_tokens=0)

    today = ledger.costs("ep-1", now=NOW, tz=UTC).today

    assert today.amounts == {"CNY": Decimal(1), "USD": Decimal(2)}
    assert (today.calls, today.tokens, today.unpriced_tokens) == (3, 3_000_000, 1_000_000)


def test_a_price_that_changed_at_noon_counts_for_the_calls_after_it(calls: Calls, version: ModelVersion) -> None:
    change = NOW.replace(hour=9, minute=30, second=30)
    builders.price_tier(version=version, input_price=Decimal(3), valid_from=change)
    millisecond = timedelta(milliseconds=1)
    calls(change - millisecond, change, version_id=version.pk, input_tokens=1_000_000, output_tokens=0)

    assert ledger.costs("ep-1", now=NOW, tz=UTC).today.amounts == {"CNY": Decimal(4)}


ZONES = ["UTC", "Asia/Shanghai", "Asia/Kolkata", "Asia/Kathmandu", "America/New_York", "Africa/Cairo",
         "Australia/Lord_Howe", "America/Santiago", "Pacific/Apia"]  # fmt: skip


@pytest.mark.parametrize(
    ("zone", "now", "calls_at", "expected"),
    [
        # Kolkata's day begins at 18:30 UTC: inside an hour.
        ("Asia/Kolkata", "2026-04-21T10:00Z", ["2026-04-20T18:29Z", "2026-04-20T18:30Z"], (1, 1, 2, 0)),
        ("Asia/Kolkata", "2026-04-30T18:45Z", ["2026-04-30T18:29Z", "2026-04-30T18:31Z"], (1, 1, 1, 1)),
        # New York, the day after the clocks went forward (8 March 2026, a day of 23 hours): 8 March is 05:00Z to 04:00Z.
        ("America/New_York", "2026-03-09T12:00Z", ["2026-03-08T04:59Z", "2026-03-08T05:00Z", "2026-03-09T03:59Z"],
         (0, 2, 3, 0)),
        ("America/New_York", "2026-03-09T12:00Z", ["2026-03-09T04:00Z"], (1, 0, 1, 0)),
        # and back (1 November 2026, 25 hours): 1 November is 04:00Z to 05:00Z.
        ("America/New_York", "2026-11-01T22:00Z", ["2026-11-01T03:59Z", "2026-11-01T04:00Z", "2026-11-01T21:00Z"],
         (2, 1, 2, 1)),
        ("America/New_York", "2026-11-02T12:00Z", ["2026-11-02T04:59Z", "2026-11-02T05:00Z"], (1, 1, 2, 0)),
        # Cairo goes forward at midnight (24 April 2026): the day begins at 01:00, which is 22:00Z.
        ("Africa/Cairo", "2026-04-24T12:00Z", ["2026-04-23T21:59Z", "2026-04-23T22:00Z"], (1, 1, 2, 0)),
        # The first of January: yesterday and last month are of last year.
        ("UTC", "2027-01-01T00:00Z", ["2026-12-31T23:59Z", "2026-12-01T00:00Z", "2026-11-30T23:59Z"], (0, 1, 0, 2)),
    ],
)  # fmt: skip
def test_days_and_months_are_those_of_the_reader(
    zone: str, now: str, calls_at: list[str], expected: tuple[int, ...], calls: Calls
) -> None:
    calls(*map(datetime.fromisoformat, calls_at))

    costs = ledger.costs("ep-1", now=datetime.fromisoformat(now), tz=ZoneInfo(zone))

    assert (costs.today.calls, costs.yesterday.calls, costs.this_month.calls, costs.last_month.calls) == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    zone=st.sampled_from(ZONES),
    now=st.datetimes(min_value=datetime(2026, 1, 1), max_value=datetime(2027, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001
    minutes_ago=st.lists(st.integers(0, 70 * 24 * 60), max_size=30),
)
def test_costs_agree_with_a_count_of_single_calls_in_any_zone(
    zone: str, now: datetime, minutes_ago: list[int], calls: Calls
) -> None:
    for model in (CallRecord, UsageMinute, UsageHour):
        model.objects.all().delete()
    tz = ZoneInfo(zone)
    times = [now - timedelta(minutes=minutes) for minutes in minutes_ago]
    calls(*times)

    costs = ledger.costs("ep-1", now=now, tz=tz)

    local = now.astimezone(tz)
    days = [at.astimezone(tz).date() for at in times]
    yesterday = local.date() - timedelta(days=1)
    last_month = local.date().replace(day=1) - timedelta(days=1)
    assert costs.today.calls == sum(day == local.date() for day in days)
    assert costs.yesterday.calls == sum(day == yesterday for day in days)
    assert costs.this_month.calls == sum((day.year, day.month) == (local.year, local.month) for day in days)
    assert costs.last_month.calls == sum((day.year, day.month) == (last_month.year, last_month.month) for day in days)


def test_callers_of_the_last_days_most_calls_first(calls: Calls, django_assert_num_queries: Any) -> None:
    since = NOW - timedelta(days=7)
    calls(NOW - HOUR, NOW - 2 * HOUR, key_id=7)
    calls(NOW - 3 * HOUR, key_id=8)
    calls(since - timedelta(minutes=1), key_id=9)
    calls(NOW, key_id=7, endpoint_id="ep-other")

    with django_assert_num_queries(1):
        callers = ledger.callers("ep-1", since=since, now=NOW)

    assert [(each.key_id, each.calls) for each in callers] == [(7, 2), (8, 1)]
    assert callers[0].last_at == (NOW - HOUR).replace(second=0)


def test_pressure_is_the_share_of_the_limits_used_in_the_last_minute(
    calls: Calls, django_assert_num_queries: Any
) -> None:
    now = NOW.replace(second=15)  # three quarters of the minute before are in the window
    previous, current = NOW.replace(minute=NOW.minute) - timedelta(minutes=1), now
    calls(*[previous] * 4, endpoint_id="ep-a", input_tokens=100, output_tokens=0)
    calls(current, endpoint_id="ep-a", input_tokens=100, output_tokens=100)
    calls(current, endpoint_id="ep-b", outcome=Outcome.REJECTED, status=429, input_tokens=0, output_tokens=0)
    calls(now - timedelta(minutes=3), endpoint_id="ep-c")

    with django_assert_num_queries(1):
        pressure = ledger.pressure({"ep-a": (10, 1000), "ep-b": (10, 10), "ep-c": (1, 1)}, now=now)

    assert set(pressure) == {"ep-a", "ep-b"}
    assert (pressure["ep-a"].rpm_percent, pressure["ep-a"].tpm_percent) == (40, 50)
    assert (pressure["ep-a"].percent, pressure["ep-a"].is_high) == (50, False)
    assert (pressure["ep-b"].percent, pressure["ep-b"].limited, pressure["ep-b"].is_high) == (0, 1, True)


def test_calls_are_paged_newest_first_without_loss(calls: Calls) -> None:
    calls(*[NOW - timedelta(seconds=number // 3) for number in range(25)])
    seen: list[str] = []
    cursor = ""
    for _page in range(5):
        page = paging.paginate(ledger.calls("ep-1", CallFilters()), order=ledger.CALLS_ORDER, cursor=cursor, size=10)
        seen += [record.call_id for record in page.rows]
        cursor = page.next_cursor
        if not cursor:
            break

    assert len(seen) == len(set(seen)) == 25


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (CallFilters(), {"ok", "stream", "bad", "down", "embedding"}),
        (CallFilters(status_class="2xx"), {"ok", "stream", "embedding"}),
        (CallFilters(status_class="4xx"), {"bad"}),
        (CallFilters(status_class="5xx"), {"down"}),
        (CallFilters(status_class="nonsense"), {"ok", "stream", "bad", "down", "embedding"}),
        (CallFilters(outcome="upstream_error"), {"down"}),
        (CallFilters(code="InvalidParameter"), {"bad"}),
        (CallFilters(version_id=2), {"stream"}),
        (CallFilters(key_id=5), {"ok"}),
        (CallFilters(api="embeddings"), {"embedding"}),
        (CallFilters(is_stream=True), {"stream"}),
        (CallFilters(since=NOW - timedelta(minutes=10)), {"ok", "stream", "bad"}),
        (CallFilters(until=NOW - timedelta(minutes=10)), {"down", "embedding"}),
        (CallFilters(status_class="2xx", is_stream=False, since=NOW - timedelta(minutes=10)), {"ok"}),
    ],
)
def test_calls_can_be_filtered(filters: CallFilters, expected: set[str], calls: Calls) -> None:
    calls(NOW - timedelta(minutes=10), call_id="ok", key_id=5)
    calls(NOW, call_id="stream", is_stream=True, version_id=2)
    calls(NOW, call_id="bad", outcome=Outcome.REFUSED, status=400, code="InvalidParameter")
    calls(NOW - HOUR, call_id="down", outcome=Outcome.UPSTREAM_ERROR, status=502)
    calls(NOW - HOUR, call_id="embedding", api="embeddings")
    calls(NOW, endpoint_id="ep-other")

    assert {record.call_id for record in ledger.calls("ep-1", filters)} == expected


def test_a_summary_counts_from_the_minute_asked_for(calls: Calls, django_assert_num_queries: Any) -> None:
    since = NOW - timedelta(hours=5, minutes=17)
    calls(
        since - timedelta(minutes=1), since, NOW, input_tokens=10, cached_tokens=4, output_tokens=6, reasoning_tokens=2
    )
    calls(NOW - HOUR, outcome=Outcome.CLIENT_CLOSED, status=499, input_tokens=1, output_tokens=0)

    with django_assert_num_queries(1):
        summary = ledger.summary("ep-1", since=since, now=NOW)

    assert summary == ledger.Summary(
        calls=3, succeeded=2, cancelled=1, input_tokens=21, cached_tokens=8, output_tokens=12, reasoning_tokens=4
    )
    assert summary.tokens == 33


def test_a_summary_of_nothing_is_zero() -> None:
    assert ledger.summary("ep-1", since=NOW - HOUR, now=NOW) == ledger.Summary()
