"""Many rows in one UPDATE, with the values that Django would have written."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pytest_django import DjangoAssertNumQueries

from common.rows import update_rows
from endpoints.models import VersionSwitch
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db


def columns(row: VersionSwitch) -> dict[str, Any]:
    return {field.attname: getattr(row, field.attname) for field in VersionSwitch._meta.concrete_fields}


def test_each_row_gets_its_own_values_and_keeps_the_others(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    rows = [builders.version_switch() for _ in range(3)]
    for number, row in enumerate(rows):
        row.verdict, row.verdict_figures = f"it's {number} %", {"name": '李 "wei" %s', "list": [number, None]}
        row.soaked_seconds, row.check_at = number + 0.5, NOW + timedelta(days=number, microseconds=1)
        row.ended_at = None if number else NOW
        row.reason = "not written"
    with django_assert_num_queries(1):
        update_rows(rows, ["verdict", "verdict_figures", "soaked_seconds", "check_at", "ended_at"])
    for row, found in zip(rows, VersionSwitch.objects.order_by("pk"), strict=True):
        row.reason = ""
        assert columns(found) == columns(row)


def test_no_rows_are_no_question(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with django_assert_num_queries(0):
        update_rows([], ["verdict"])
