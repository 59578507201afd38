from __future__ import annotations

import math

import pytest
from django.utils import translation
from hypothesis import given
from hypothesis import strategies as st

from monitoring import numbers
from monitoring.panels import Measure
from monitoring.prometheus import Series
from monitoring.quantiles import over_time, quantile


@pytest.mark.parametrize(
    ("value", "measure", "english", "chinese"),
    [
        (1_234_567, Measure.COUNT, "1.2 M", "123 万"),
        (12_340_000, Measure.TOKENS, "12.3 M", "1,234 万"),
        (9_999, Measure.COUNT, "9,999", "9,999"),
        (0, Measure.COUNT, "0", "0"),
        (3, Measure.COUNT, "3", "3"),
        (1.5, Measure.TOKENS, "1.5", "1.5"),
        (0.004, Measure.SPEED, "< 0.01", "< 0.01"),
        (42.31, Measure.SPEED, "42.3", "42.3"),
        (0.0843, Measure.SECONDS, "84.3 ms", "84.3 ms"),
        (1.239, Measure.SECONDS, "1.24 s", "1.24 s"),
        (75.2, Measure.SECONDS, "75 s", "75 s"),
        (3.216, Measure.PERCENT, "3.22 %", "3.22 %"),
        (100, Measure.PERCENT, "100 %", "100 %"),
        (None, Measure.COUNT, "–", "–"),
    ],
)
def test_figures_are_read_as_people_read_them(
    value: float | None, measure: Measure, english: str, chinese: str
) -> None:
    for language, expected in (("en", english), ("zh-hans", chinese)):
        with translation.override(language):
            assert numbers.text(value, measure) == expected


def test_figures_are_exact_on_a_closer_look() -> None:
    assert numbers.exact(1_234_567, Measure.COUNT) == "1,234,567"
    assert numbers.exact(0.084312, Measure.SECONDS) == "0.084312 s"
    assert numbers.exact(12.5, Measure.PERCENT) == "12.5 %"
    assert numbers.exact(None, Measure.COUNT) == ""


def test_a_change_is_told_where_there_was_something_before() -> None:
    assert numbers.change_percent(3, 2) == 50
    assert numbers.change_percent(1, 2) == -50
    assert numbers.change_percent(1, 0) is None
    assert numbers.change_percent(None, 2) is None


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, [10, 10, 10], 0.5),
        (0.5, [0, 10, 10], 1.5),
        (0.95, [0, 0, 10], 2.0),
        (0.5, [0, 0, 0], None),
        (0.5, [4, 3, 8], 1.0),
        (1.0, [1, 2, 2], 2.0),
    ],
)
def test_a_quantile_lies_where_prometheus_puts_it(share: float, counts: list[float], expected: float | None) -> None:
    assert quantile(share, [1.0, 2.0, math.inf], counts) == expected


@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=3), st.floats(0.01, 1))
def test_a_quantile_never_leaves_its_bounds(counts: list[float], share: float) -> None:
    found = quantile(share, [1.0, 2.0, math.inf], counts)
    assert found is None or 0 <= found <= 2


def test_buckets_without_bounds_are_nothing() -> None:
    assert over_time(0.5, [], 3) == [None, None, None]
    assert over_time(0.5, [Series({}, [1.0])], 1) == [None]
    assert over_time(0.5, [Series({"le": "1"}, [1.0])], 1) == [None]
