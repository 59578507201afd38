from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone, translation
from pytest_django import Settings

from audit.models import Event
from endpoints.models import Endpoint
from monitoring import grafana, panels, prometheus, queries, services
from monitoring.data_views import _cell
from tests import builders
from tests.monitoring.conftest import Known, ledger_row
from tests.servers import HeldPort, PrometheusServer

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _in_english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture
def endpoint(settings: Settings) -> Iterator[Endpoint]:
    """An endpoint of a project that opened monitoring; its Prometheus is away."""
    settings.PROMETHEUS_IS_EXTERNAL = True
    settings.PROMETHEUS_URL = f"http://127.0.0.1:{HeldPort().release()}"
    prometheus.forget()
    made = builders.endpoint()
    at = datetime.now(UTC) - timedelta(days=1)
    builders.subscription(project=made.project, asked_at=at)
    yield made
    prometheus.forget()


@pytest.fixture
def client(endpoint: Endpoint) -> Client:
    """Signed in as somebody who may see the project's monitoring and nothing else."""
    made = Client(headers={"accept-language": "en"})
    made.force_login(builders.member(endpoint.project, services.GET, language="en"))
    return made


def url(endpoint: Endpoint, rest: str) -> str:
    return f"/endpoints/{endpoint.pk}/monitoring/{rest}"


def test_each_group_answers_with_its_state_within_a_moment(client: Client, endpoint: Endpoint) -> None:
    for group in panels.groups_for(endpoint.version.model.domain, has_switch=True):
        answer = client.get(url(endpoint, f"groups/{group.id}?range=15m&width=400"))
        assert answer.status_code == 200
        told = answer.json()
        assert told["state"] == "unreachable"
        assert told["message"] == "Prometheus cannot be reached."
        assert set(told["panels"]) == {panel.id for panel in group.panels}
        assert set(told["tiles"]) == {tile.id for tile in group.tiles}
        assert answer.headers["Cache-Control"].startswith("max-age=0, no-cache, no-store")


@pytest.mark.parametrize("rest", ["groups/nothing", "groups/performance%20", "panels/nothing.csv"])
def test_what_does_not_exist_is_not_found(client: Client, endpoint: Endpoint, rest: str) -> None:
    assert client.get(url(endpoint, rest)).status_code == 404


def test_refusals_of_data_are_sentences_in_json_and_kept_in_the_record(endpoint: Endpoint) -> None:
    client = Client()
    client.force_login(builders.member(endpoint.project, "ark:GetEndpoint", language="en"))
    for rest in ("groups/summary", "marks"):
        answer = client.get(url(endpoint, rest))
        assert answer.status_code == 403
        assert "ark:GetMonitoring" in answer.json()["message"]
    assert client.get(url(endpoint, "panels/tokens.csv")).status_code == 403
    assert Event.objects.filter(action=services.GET, outcome="denied").exists()


def test_another_projects_endpoint_is_not_there(client: Client) -> None:
    other = builders.endpoint(project=builders.project("other"))
    answer = client.get(url(other, "groups/summary"))
    assert answer.status_code == 404
    assert answer.json()["state"] == "error"


def test_who_is_not_signed_in_is_sent_to_sign_in(endpoint: Endpoint) -> None:
    for rest in ("groups/summary", "marks", "panels/tokens.csv"):
        assert Client().get(url(endpoint, rest)).status_code == 302
    assert Client().get("/monitoring/grafana.json").status_code == 302


def test_a_table_without_prometheus_is_a_page_that_says_why(client: Client, endpoint: Endpoint) -> None:
    answer = client.get(url(endpoint, "panels/tokens.csv"))
    assert answer.status_code == 503
    assert "Prometheus cannot be reached." in answer.content.decode()


def test_the_table_is_what_the_chart_shows(asked: PrometheusServer, known: Known) -> None:
    endpoint = builders.endpoint(id=known.endpoint)
    at = datetime.fromtimestamp(known.start, UTC)
    builders.subscription(project=endpoint.project, asked_at=at)
    ledger_row(endpoint, at, calls=1)
    client = Client()
    client.force_login(builders.member(endpoint.project, services.GET, language="en", time_zone="Asia/Tokyo"))
    query = f"?from={known.start}&to={known.end}&width=400&compare=1"
    chart = client.get(url(endpoint, f"groups/errors{query}")).json()
    answer = client.get(url(endpoint, f"panels/errors_by_cause.csv{query}"))
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{known.endpoint}-errors_by_cause.csv"'
    head, *rows = list(csv.reader(io.StringIO(answer.content.decode("utf-8-sig"))))
    series = chart["panels"]["errors_by_cause"]["series"]
    assert head == ["Time", *(text for one in series for text in
                              (f"{one['label']} (calls)", f"{one['label']}, the period before (calls)"))]  # fmt: skip
    assert [int(datetime.fromisoformat(row[0]).timestamp()) for row in rows] == chart["time"]
    assert all(row[0].endswith("+09:00") for row in rows)
    for position, one in enumerate(series):
        values = [float(row[1 + 2 * position]) if row[1 + 2 * position] else None for row in rows]
        assert values == one["values"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "\r=1", "%0A", "|calc"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert _cell(text) == f"'{text}"


def test_data_cost_few_queries(client: Client, endpoint: Endpoint, django_assert_max_num_queries: Any) -> None:
    client.get(url(endpoint, "marks"))
    for rest, most in (("groups/summary", 13), ("groups/tokens", 13), ("groups/performance", 11), ("marks", 16)):
        with django_assert_max_num_queries(most):
            client.get(url(endpoint, rest))


def test_the_grafana_dashboard_has_every_panel_with_its_own_queries(client: Client, endpoint: Endpoint) -> None:
    answer = client.get("/monitoring/grafana.json")
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"] == 'attachment; filename="arkconsole-grafana.json"'
    made = json.loads(answer.content)
    shown = {panel["title"]: panel for panel in made["panels"]}
    translation.activate("en")  # the request has ended its own; the fixture ends this one
    for panel in panels.panels(panels.groups_for("thinking", has_switch=True)):
        targets = shown[str(panel.title)]["targets"]
        asked = [line.query for line in panel.lines if line.query not in queries.FOR_LONG_STEPS]
        assert [each["expr"] for each in targets] == [
            queries.promql(name, grafana.MATCHERS, grafana.SPANS) for name in asked
        ]
        assert all('project="$project",ark_endpoint="$endpoint"' in each["expr"] for each in targets)
    for panel in panels.project_group().panels:
        (target,) = shown[str(panel.title)]["targets"]
        assert target["expr"] == queries.promql(panel.id, grafana.PROJECT_MATCHERS, grafana.SPANS)
        assert target["legendFormat"] == "{{ark_endpoint}}"
    assert [each["name"] for each in made["templating"]["list"]] == [
        "source", "project", "endpoint", "api", "model", "version",
    ]  # fmt: skip
    assert made["templating"]["list"][1]["query"] == endpoint.project_id
    ids = [panel["id"] for panel in made["panels"]]
    assert len(ids) == len(set(ids))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in made["panels"]]
    assert len(places) == len(set(places))


def test_the_dashboard_of_an_endpoints_page_is_for_its_project_whatever_the_switcher_says(endpoint: Endpoint) -> None:
    elsewhere = builders.endpoint(project=builders.project("elsewhere"))
    client = Client()
    client.force_login(builders.user(is_superuser=True))

    def variables(query: str) -> dict[str, Any]:
        listed = client.get(f"/monitoring/grafana.json{query}").json()["templating"]["list"]
        return {each["name"]: each.get("current", {}).get("value") for each in listed}

    found = variables(f"?endpoint={elsewhere.pk}")
    assert (found["project"], found["endpoint"]) == ("elsewhere", elsewhere.pk)
    plain = variables("")
    assert (plain["project"], plain["endpoint"]) == (endpoint.project_id, None)
    assert f"grafana.json?endpoint={endpoint.pk}" in client.get(url(endpoint, "").rstrip("/")).content.decode()
    stranger = Client()
    stranger.force_login(builders.member(endpoint.project, services.GET))
    assert stranger.get(f"/monitoring/grafana.json?endpoint={elsewhere.pk}").status_code == 404


def test_the_queries_of_the_dashboard_are_understood_once_grafana_has_filled_them_in(
    prometheus: PrometheusServer,
) -> None:
    filled = {
        "$__rate_interval": "1m", "$__interval_ms": "15000", "$__interval": "15s", "$__range": "1h", "$project": "p",
        "$endpoint": "e", "$api": ".*", "$model": ".*", "$version": ".*",
    }  # fmt: skip
    for name in queries.TEMPLATES:
        for matchers in (grafana.MATCHERS, grafana.PROJECT_MATCHERS):
            query = queries.promql(name, matchers, grafana.SPANS)
            for variable, value in filled.items():
                query = query.replace(variable, value)
            assert "$" not in query
            prometheus.query(query)


def test_times_are_those_of_the_clock(client: Client, endpoint: Endpoint) -> None:
    told = client.get(url(endpoint, "groups/tokens?range=1h")).json()
    assert abs(told["to"] - timezone.now().timestamp()) < 120
    assert told["time"][-1] == told["to"]
