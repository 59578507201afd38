"""The monitoring tab as the server renders it: who may see it, what stands on it, and what it asks of the database."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation
from pytest_django import DjangoAssertNumQueries

from arkconsole import health
from catalog.models import ModelVersion
from endpoints.models import Endpoint, Kind
from iam.models import Project
from monitoring import panels
from tests import builders
from tests.endpoints.pages.clients import signed_in

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(health, "watch", health.Watch(remember_seconds=1e9))
    with translation.override("en"):
        yield


@pytest.fixture
def project() -> Project:
    return builders.project("default")


@pytest.fixture
def endpoint(project: Project) -> Endpoint:
    return builders.endpoint(project=project, version=version("doubao-seed", domain="thinking"), name="客服助手")


@pytest.fixture
def reader(project: Project) -> Client:
    return signed_in(builders.member(project, policy_name="ArkReadOnlyAccess"))


def version(name: str, **values: str) -> ModelVersion:
    model = builders.foundation_model(name=name, **values)
    return builders.model_version(model=model, servers=[builders.model_server()])


def page(client: Client, endpoint: Endpoint, query: str = "", status: int = 200) -> str:
    answer = client.get(reverse("monitoring:endpoint", args=[endpoint.pk]) + query)
    assert answer.status_code == status, answer.content[:2000]
    return answer.content.decode()


def panels_on(html: str) -> list[str]:
    return re.findall(r'data-panel="([a-z0-9_]+)"', html)


def test_each_panel_of_the_models_domain_has_its_box_csv_and_query(reader: Client, endpoint: Endpoint) -> None:
    builders.subscription(project=endpoint.project)
    html = page(reader, endpoint)
    wanted = [panel.id for panel in panels.panels(panels.groups_for("thinking"))]
    assert panels_on(html) == wanted
    assert len(re.findall(r'data-part="to-queries"', html)) == len(wanted)
    for panel in wanted:
        # In its menu, and for browsers without a script.
        assert html.count(f'href="{reverse("monitoring:csv", args=[endpoint.pk, panel])}"') == 2
    assert 'aria-current="page">Monitoring</a>' in html
    assert "which is the bill" in html


def test_an_embedding_endpoint_has_no_first_token_and_a_preset_one_has_the_tab_too(
    reader: Client, project: Project
) -> None:
    builders.subscription(project=project)
    embedding = builders.endpoint(project=project, version=version("vectors", domain="embedding"), kind=Kind.PRESET)
    html = page(reader, embedding)
    assert "ttft" not in panels_on(html)
    assert {"tokens", "duration", "error_rate"} <= set(panels_on(html))


def test_the_form_says_what_the_address_says_and_csv_links_carry_it(reader: Client, endpoint: Endpoint) -> None:
    builders.subscription(project=endpoint.project)
    html = page(reader, endpoint, f"?range=24h&version={endpoint.version.public_id}&compare=1&auto=30&api=gone")
    assert '<option value="gone" selected>' in html
    assert '<option value="24h" selected>' in html
    assert f'<option value="{endpoint.version.public_id}" selected>' in html
    assert re.search(r'name="compare" value="1" checked', html)
    assert (
        f"/panels/tokens.csv?range=24h&amp;api=gone&amp;version={endpoint.version.public_id}&amp;compare=1&amp;auto=30"
        in html
    )


def test_what_cannot_be_understood_is_a_sentence_and_the_page_is_there(reader: Client, endpoint: Endpoint) -> None:
    builders.subscription(project=endpoint.project)
    html = page(reader, endpoint, "?range=<script>&from=yesterday&to=5")
    assert "There is no range" in html
    assert "<script>&" not in html
    assert "tokens" in panels_on(html)


def test_the_charts_of_a_switch_are_there_where_there_was_one_within_fifteen_days(
    reader: Client, endpoint: Endpoint
) -> None:
    builders.subscription(project=endpoint.project)
    now = timezone.now()
    assert "switch_share" not in panels_on(page(reader, endpoint))
    began, ended = now - timedelta(days=20), now - timedelta(days=19)
    old = builders.version_switch(endpoint=endpoint, created_at=began, state="completed", weight=100, ended_at=ended)
    assert "switch_share" not in panels_on(page(reader, endpoint))
    old.ended_at = now - timedelta(days=1)
    old.save(update_fields=["ended_at"])
    html = page(reader, endpoint)
    assert "switch_share" in panels_on(html)
    assert f'data-spans="{int(began.timestamp())}-{int(old.ended_at.timestamp())}"' in html


def test_words_and_zone_of_the_scripts_are_the_readers(endpoint: Endpoint) -> None:
    builders.subscription(project=endpoint.project)
    person = builders.member(
        endpoint.project, policy_name="ArkReadOnlyAccess", language="zh-hans", time_zone="Asia/Tokyo"
    )
    html = page(signed_in(person), endpoint)
    told = json.loads(re.search(r'<script id="monitoring-words"[^>]*>(.*?)</script>', html, re.DOTALL)[1])  # type: ignore[index]
    assert told["zone"] == "Asia/Tokyo"
    assert told["units"][0] == [10_000, "万"]
    assert all(told["words"].values())


def test_until_the_project_has_opened_monitoring_the_tab_says_so(reader: Client, endpoint: Endpoint) -> None:
    html = page(reader, endpoint)
    assert 'id="monitoring-opening"' in html
    assert panels_on(html) == []


def test_who_may_not_see_figures_is_told_the_action_and_strangers_find_nothing(endpoint: Endpoint) -> None:
    builders.subscription(project=endpoint.project)
    blind = signed_in(builders.member(endpoint.project, "ark:GetEndpoint"))
    assert "ark:GetMonitoring" in page(blind, endpoint, status=403)
    stranger = signed_in(builders.member(builders.project("elsewhere")))
    page(stranger, endpoint, status=404)


def test_the_page_asks_the_database_no_more_with_more_calls(
    reader: Client, endpoint: Endpoint, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    builders.subscription(project=endpoint.project)
    page(reader, endpoint)
    with django_assert_max_num_queries(24):
        page(reader, endpoint)
