"""The list: what each filter and order finds, what there is to choose, and what a page costs when the list is full."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from common.paging import paginate
from endpoints import queries
from endpoints.models import Endpoint
from endpoints.queries import Filters
from iam.models import Project
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture
def project() -> Project:
    """Four endpoints of two models and two people, a preset one, a deleted one, and one of another project."""
    project = builders.project("default")
    li, wang = builders.user(username="li.wei"), builders.user(username="wang.fang")
    doubao = builders.model_version(
        model=builders.foundation_model(name="doubao-seed", display_name="豆包"), version="251015"
    )
    deepseek = builders.model_version(model=builders.foundation_model(name="deepseek-v3"), version="251201")
    common: dict[str, Any] = {"project": project, "version": doubao, "creator": li}
    for number, values in enumerate([
        {"name": "客服助手", "tags": {"env": "prod", "2024": "yes"}},
        {"name": "搜索", "version": deepseek, "creator": wang, "tags": {"env": "test", "a__b": "c=d"}},
        {"name": "Billing 100%", "status": "Stopped", "tags": {"team": ""}},
        {"name": "billing_old", "status": "Abnormal", "creator": None},
        {"name": "preset", "kind": "preset", "creator": None},
        {"name": "gone", "deleted_at": NOW},
        {"name": "elsewhere", "project": builders.project("other")},
    ]):  # fmt: skip
        builders.endpoint(**{**common, "created_at": NOW + timedelta(hours=number), **values})
    return project


def found(project: Project, **params: str) -> list[str]:
    filters = Filters.of(params)
    return [row.name for row in queries.endpoints(filters, project=project).order_by(*filters.order)]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, ["billing_old", "Billing 100%", "搜索", "客服助手"]),
        ({"kind": "preset"}, ["preset"]),
        ({"q": "客服"}, ["客服助手"]),
        ({"q": "BILLING"}, ["billing_old", "Billing 100%"]),
        ({"q": "100%"}, ["Billing 100%"]),
        ({"q": "g_o"}, ["billing_old"]),
        ({"q": "doubao-seed-251015"}, ["billing_old", "Billing 100%", "客服助手"]),
        ({"q": "豆包"}, ["billing_old", "Billing 100%", "客服助手"]),
        ({"q": "251201"}, ["搜索"]),
        ({"q": "no such thing"}, []),
        ({"q": " \0 "}, ["billing_old", "Billing 100%", "搜索", "客服助手"]),
        ({"status": "Stopped"}, ["Billing 100%"]),
        ({"status": "nonsense"}, ["billing_old", "Billing 100%", "搜索", "客服助手"]),
        ({"model": "deepseek-v3"}, ["搜索"]),
        ({"tag": "env=prod"}, ["客服助手"]),
        ({"tag": "env"}, ["搜索", "客服助手"]),
        ({"tag": "2024=yes"}, ["客服助手"]),
        ({"tag": "a__b=c=d"}, ["搜索"]),
        ({"tag": "team="}, ["Billing 100%"]),
        ({"tag": "team=x"}, []),
        ({"tag": '"]=x'}, []),
        ({"tag": "env=prod", "model": "deepseek-v3"}, []),
        ({"sort": "created"}, ["客服助手", "搜索", "Billing 100%", "billing_old"]),
        ({"sort": "nonsense"}, ["billing_old", "Billing 100%", "搜索", "客服助手"]),
        ({"creator": "99999"}, []),
        ({"creator": "x"}, ["billing_old", "Billing 100%", "搜索", "客服助手"]),
        ({"creator": "9" * 30}, ["billing_old", "Billing 100%", "搜索", "客服助手"]),
    ],
)
def test_each_filter_finds_what_it_says(project: Project, params: dict[str, str], expected: list[str]) -> None:
    assert found(project, **params) == expected


def test_an_id_or_a_part_of_it_finds_its_endpoint(project: Project) -> None:
    endpoint = Endpoint.objects.get(name="搜索")
    assert found(project, q=endpoint.pk) == ["搜索"]
    assert found(project, q=endpoint.pk[-5:]) == ["搜索"]


def test_a_creator_finds_what_that_person_made(project: Project) -> None:
    wang = Endpoint.objects.get(name="搜索").creator_id
    assert found(project, creator=str(wang)) == ["搜索"]


@pytest.mark.parametrize("sort", list(queries.SORTS))
def test_every_order_pages_through_each_row_once_and_back(project: Project, sort: str) -> None:
    filters = Filters.of({"sort": sort})
    rows = queries.endpoints(filters, project=project)
    whole = [row.pk for row in rows.order_by(*filters.order)]
    walked, cursor = [], ""
    while True:
        page = paginate(rows, order=filters.order, cursor=cursor, size=1)
        walked += [row.pk for row in page.rows]
        if not page.next_cursor:
            break
        cursor = page.next_cursor
    assert walked == whole
    assert set(queries.SORT_LABELS) == set(queries.SORTS)


def test_problems_come_first_by_status(project: Project) -> None:
    assert found(project, sort="status")[0] == "billing_old"


def test_the_choices_are_what_the_tab_has(project: Project) -> None:
    offered = queries.choices(project=project, kind="custom")
    assert [value for value, _label in offered.models] == ["deepseek-v3", "doubao-seed"]
    assert [label for _value, label in offered.creators] == ["li.wei", "wang.fang"]
    assert offered.tags == [
        ("2024=yes", "2024 = yes"), ("a__b=c=d", "a__b = c=d"), ("env=prod", "env = prod"), ("env=test", "env = test"),
        ("team=", "team"),
    ]  # fmt: skip
    assert [value for value, _label in offered.statuses] == ["Scheduling", "Running", "Stopped", "Abnormal"]
    assert queries.choices(project=project, kind="preset").creators == []
    assert queries.counts(project=project) == queries.Counts(custom=4, preset=1)


def test_a_page_takes_five_queries_however_full_the_list_is(project: Project) -> None:
    filters = Filters.of({"q": "e", "status": "Running", "tag": "env"})
    version = builders.model_version()
    rows = [builders.endpoint_row(project=project, version=version, tags={"env": str(n % 9)}) for n in range(200)]
    Endpoint.objects.bulk_create(rows)
    with CaptureQueriesContext(connection) as asked:
        page = paginate(queries.endpoints(filters, project=project), order=filters.order, cursor="", size=50)
        assert all(row.version.model.name and row.project.name for row in page.rows)
        queries.choices(project=project, kind=filters.kind)
        queries.counts(project=project)
    assert len(page.rows) == 50
    assert len(asked) == 5
