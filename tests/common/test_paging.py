"""Keyset paging: each row once, forward and back, however the rows tie and change."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.models import RouteChange
from common.paging import paginate
from tests.builders import NOW

pytestmark = pytest.mark.django_db

ORDERS = [["-at", "-id"], ["at", "id"], ["kind", "-at", "id"], ["-kind", "id"], ["id"]]


def fill(moments: list[tuple[int, str]]) -> None:
    RouteChange.objects.all().delete()
    RouteChange.objects.bulk_create(
        RouteChange(kind=kind, object_id=str(number), at=NOW + timedelta(minutes=minute))
        for number, (minute, kind) in enumerate(moments)
    )


def page(order: list[str], cursor: str, size: int) -> Any:
    return paginate(RouteChange.objects.all(), order=order, cursor=cursor, size=size)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moments=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["key", "server"])), max_size=17),
    order=st.sampled_from(ORDERS),
    size=st.integers(1, 6),
)
def test_a_walk_forward_and_back_visits_each_row_once(
    moments: list[tuple[int, str]], order: list[str], size: int
) -> None:
    fill(moments)
    expected = [row.pk for row in RouteChange.objects.order_by(*order)]

    pages, cursor = [], ""
    while True:
        current = page(order, cursor, size)
        pages.append([row.pk for row in current.rows])
        assert bool(current.previous_cursor) == (len(pages) > 1)
        if not current.next_cursor:
            break
        cursor = current.next_cursor
    assert [pk for rows in pages for pk in rows] == expected
    assert all(len(rows) == size for rows in pages[:-1])

    back = []
    while current.previous_cursor:
        current = page(order, current.previous_cursor, size)
        back.append([row.pk for row in current.rows])
    assert [pk for rows in reversed(back) for pk in rows] == [pk for rows in pages[:-1] for pk in rows]


def test_a_row_that_comes_or_goes_meanwhile_moves_no_other_row() -> None:
    fill([(minute, "key") for minute in range(6)])
    order = ["-at", "-id"]
    first = page(order, "", 2)
    following = [row.pk for row in page(order, first.next_cursor, 2).rows]

    RouteChange.objects.create(kind="key", object_id="new", at=NOW + timedelta(days=1))
    first.rows[-1].delete()

    assert [row.pk for row in page(order, first.next_cursor, 2).rows] == following


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "bm9uc2Vuc2U",
        "W10",
        "WyJuIixbXV0",
        "WyJ4IixbMV1d",
        "WyJuIixbbnVsbF1d",
        "WyJuIixbImFiYyJdXQ",
        "é",
        "a" * 5000,
    ],
)
def test_a_cursor_that_was_made_up_shows_the_first_page(cursor: str) -> None:
    fill([(0, "key")] * 3)

    assert [row.pk for row in page(["id"], cursor, 2).rows] == [row.pk for row in page(["id"], "", 2).rows]


def test_a_cursor_of_another_order_shows_the_first_page() -> None:
    fill([(minute, "key") for minute in range(4)])
    by_kind = page(["kind", "id"], "", 2).next_cursor

    rows = page(["-at", "-id"], by_kind, 2).rows

    assert [row.pk for row in rows] == [row.pk for row in page(["-at", "-id"], "", 2).rows]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60))
def test_no_cursor_breaks_a_page(cursor: str) -> None:
    page(["-at", "-id"], cursor, 2)


def test_a_page_costs_one_query(django_assert_num_queries: Any) -> None:
    fill([(0, "key")] * 5)

    with django_assert_num_queries(1):
        page(["-at", "-id"], "", 2)
