from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.http import QueryDict
from django.utils import timezone, translation
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from metering.models import UsageHour
from monitoring import filters
from monitoring.filters import SECONDS, MonitoringFilters, choices, step_for
from tests import builders

NOW = datetime(2026, 4, 21, 10, 0, 49, tzinfo=UTC)
EPOCH = int(NOW.timestamp())


def of(query: str) -> MonitoringFilters:
    with translation.override("en"):
        return MonitoringFilters.of(QueryDict(query), now=NOW)


@pytest.mark.parametrize(
    ("query", "bounds", "written", "errors"),
    [
        ("", (EPOCH - 3600, EPOCH), "", 0),
        ("range=15d", (EPOCH - 1_296_000, EPOCH), "range=15d", 0),
        ("range=2h", (EPOCH - 3600, EPOCH), "", 1),
        (f"from={EPOCH - 600}&to={EPOCH - 300}&range=6h", (EPOCH - 600, EPOCH - 300), None, 0),
        (f"from={EPOCH - 600}.5&to={EPOCH - 300}.9", (EPOCH - 600, EPOCH - 300), None, 0),
        (f"from={EPOCH - 600}", (EPOCH - 600, EPOCH), None, 0),
        (f"from={EPOCH - 600}&to={EPOCH + 600}", (EPOCH - 600, EPOCH), None, 0),
        (f"from={EPOCH - 59}&to={EPOCH}", (EPOCH - 3600, EPOCH), "", 1),
        (f"from={EPOCH}&to={EPOCH - 600}", (EPOCH - 3600, EPOCH), "", 1),
        ("from=1&to=2", (EPOCH - 3600, EPOCH), "", 2),
        (f"from={EPOCH - 15 * 86_400 - 1_800}&to={EPOCH}", (EPOCH - 15 * 86_400 - 1_800, EPOCH), None, 0),
        (f"from={EPOCH - 600}&to={EPOCH - 300}&step=30", (EPOCH - 600, EPOCH - 300),
         f"from={EPOCH - 600}&to={EPOCH - 300}&step=30", 0),
        ("range=6h&step=30", (EPOCH - 21_600, EPOCH), "range=6h", 0),
        (f"from={EPOCH - 20 * 86_400}&to={EPOCH}", (EPOCH - 15 * 86_400, EPOCH), None, 1),
        ("from=yesterday&to=now", (EPOCH - 3600, EPOCH), "", 1),
        ("to=5", (EPOCH - 3600, EPOCH), "", 1),
        ("from=99999999999999999999", (EPOCH - 3600, EPOCH), "", 1),
        ("api=chat&model=m&version=v&compare=1&auto=30", (EPOCH - 3600, EPOCH),
         "api=chat&model=m&version=v&compare=1&auto=30", 0),
        ("auto=7&compare=0&width=abc&api=%00", (EPOCH - 3600, EPOCH), "", 0),
    ],
)  # fmt: skip
def test_what_an_address_means(query: str, bounds: tuple[int, int], written: str | None, errors: int) -> None:
    found = of(query)
    assert found.bounds == bounds
    assert len(found.errors) == errors
    if written is not None:
        assert found.querystring() == written


@hypothesis_settings(max_examples=50)
@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12), st.text(max_size=200))
def test_no_address_is_refused_and_each_is_written_back_as_it_was_meant(
    since: str, until: str, chosen: str, version: str
) -> None:
    data = QueryDict(mutable=True)
    data.update({"from": since, "to": until, "range": chosen, "version": version, "width": since})
    found = MonitoringFilters.of(data, now=NOW)
    again = MonitoringFilters.of(QueryDict(found.querystring()), now=NOW)
    assert (again.bounds, again.version, again.querystring()) == (found.bounds, found.version, found.querystring())
    assert not again.errors


def test_an_own_range_is_written_in_the_readers_zone() -> None:
    with timezone.override("Asia/Shanghai"):
        found = of("from=2026-04-21T17:00&to=2026-04-21T18:00")
    assert found.since == datetime(2026, 4, 21, 9, 0, tzinfo=UTC)
    assert found.until == datetime(2026, 4, 21, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize("chosen", sorted(SECONDS))
@pytest.mark.parametrize("width", [340, 800, 1_200, 4_000])
@pytest.mark.parametrize("scrape", [1, 7, 15, 60])
def test_steps_are_multiples_of_the_scrape_and_about_one_for_two_pixels(chosen: str, width: int, scrape: int) -> None:
    grid = of(f"range={chosen}&width={width}").grid(scrape_seconds=scrape)
    assert grid.step % scrape == 0
    assert grid.start % grid.step == grid.end % grid.step == 0
    assert EPOCH - grid.step < grid.end <= EPOCH
    assert len(grid.times) <= min(width // 2, 1_000) + 1
    assert len(grid.times) >= min(min(width // 2, 1_000) // 3, SECONDS[chosen] // scrape - 1)
    assert abs(grid.span - SECONDS[chosen]) <= 2 * grid.step


@pytest.mark.parametrize("chosen", sorted(SECONDS))
@pytest.mark.parametrize("width", [340, 1_200, 4_000])
def test_file_and_link_have_the_points_that_were_seen(chosen: str, width: int) -> None:
    seen = of(f"range={chosen}&width={width}").grid(scrape_seconds=15)
    fixed = f"from={seen.start - seen.step}&to={seen.end}&step={seen.step}"
    for other in (100, 800, 10_000):
        found = of(f"{fixed}&width={other}")
        assert found.grid(scrape_seconds=15) == seen
        assert not found.errors


@pytest.mark.parametrize("step", ["0", "1", "7", "86400", "99999999", "x", "-15"])
def test_a_step_that_makes_no_sense_is_left_out(step: str) -> None:
    day = f"from={EPOCH - 86_000}&to={EPOCH - 43_200}"
    assert of(f"{day}&step={step}").grid(scrape_seconds=15) == of(day).grid(scrape_seconds=15)


def test_the_same_range_a_moment_later_asks_the_same() -> None:
    grids = {
        MonitoringFilters.of(QueryDict("range=24h"), now=NOW + timedelta(seconds=later)).grid(scrape_seconds=15)
        for later in range(-40, 100, 10)
    }
    assert len(grids) <= 2


def test_the_period_before_ends_where_this_one_begins() -> None:
    grid = of("range=6h").grid(scrape_seconds=15)
    before = grid.before()
    assert (before.end + grid.step, before.step, before.span) == (grid.start, grid.step, grid.span)


def test_a_range_in_the_past_is_seen_to_its_end() -> None:
    grid = of(f"from={EPOCH - 86_000}&to={EPOCH - 43_210}").grid(scrape_seconds=15)
    assert grid.end >= EPOCH - 43_210
    assert grid.start - grid.step <= EPOCH - 86_000


def test_steps_that_fit_no_list_are_multiples_all_the_same() -> None:
    assert step_for(1, scrape_seconds=7) == 7
    assert step_for(100, scrape_seconds=7) == 105
    assert step_for(0, scrape_seconds=15) == 15


@pytest.mark.django_db
def test_what_there_is_to_choose_is_what_was_called(django_assert_num_queries: Any) -> None:
    endpoint = builders.endpoint()
    gone = builders.model_version(version="2")
    for version, api, days in ((gone.pk, "chat", 3), (gone.pk, "embeddings", 16), (0, "chat", 1)):
        UsageHour.objects.create(at=(NOW - timedelta(days=days)).replace(minute=0, second=0), project_id="default",
                                 endpoint_id=endpoint.pk, version_id=version, api=api, key_id=1, calls=1)  # fmt: skip
    with django_assert_num_queries(2):
        found = choices(endpoint, now=NOW)
    assert found.apis == [("chat", "Chat Completions")]
    assert found.versions == sorted((each.public_id, each.public_id) for each in (gone, endpoint.version))
    assert {value for value, _label in found.models} == {gone.model.name, endpoint.version.model.name}


def test_every_range_has_a_name() -> None:
    assert {value for value, _label in filters.RANGES} == set(SECONDS)
