from __future__ import annotations

import json

import httpx
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from monitoring import panels, queries
from monitoring.queries import Matchers, Spans
from tests.servers import PrometheusServer

SPANS = Spans.of(step=60, range_seconds=3600, scrape_seconds=15)
NASTY = [
    '"',
    "\\",
    '\\"',
    'a"} or vector(1) or x{a="',
    "\n",
    "\t",
    "$S ${E}",
    "é 中 😀",
    "\x00\x1f\x7f",
    " ",
    "a  b",
    "`'{}[]",
]


def parsed(server: PrometheusServer, query: str) -> str:
    answer = httpx.get(f"{server.url}/api/v1/format_query", params={"query": query}, trust_env=False)
    assert answer.status_code == 200, (query, answer.text)
    return str(answer.json()["data"])


@pytest.mark.parametrize("name", sorted(queries.TEMPLATES))
def test_each_query_is_understood_by_prometheus_and_names_its_project_and_endpoint(
    prometheus: PrometheusServer, name: str
) -> None:
    matchers = Matchers.of(project="p", endpoint="e", api="chat", model="m", version="v")
    for step in (15, 3600):
        query = queries.promql(name, matchers, Spans.of(step=step, range_seconds=86_400, scrape_seconds=15))
        parsed(prometheus, query)
        if name != "workers":
            assert query.count("{") == query.count('{project="p",ark_endpoint="e"') > 0


def test_every_line_and_tile_asks_a_query_that_exists() -> None:
    for domain in ("chat", "thinking", "vision", "embedding"):
        for group in panels.groups_for(domain, has_switch=True):
            asked = [line.query for panel in group.panels for line in panel.lines]
            asked += [name for tile in group.tiles if tile.query for name in (tile.query, tile.query[: -len("_total")])]
            assert set(asked) <= set(queries.TEMPLATES)


def test_ids_of_panels_and_of_tiles_of_a_group_are_there_once() -> None:
    for domain in ("chat", "embedding"):
        groups = panels.groups_for(domain, has_switch=True)
        ids = [panel.id for panel in panels.panels(groups)]
        assert len(ids) == len(set(ids))
        assert all(len({tile.id for tile in group.tiles}) == len(group.tiles) for group in groups)


def test_embeddings_have_nothing_of_streams_and_caches() -> None:
    ids = {panel.id for panel in panels.panels(panels.groups_for("embedding", has_switch=True))}
    assert not ids & {"ttft", "tpot", "output_speed", "duration_stream", "cache_tokens", "switch_ttft"}
    assert "ttft_p95" not in {tile.id for tile in panels.tiles_for("embedding")}


@pytest.mark.parametrize("value", NASTY)
def test_a_label_value_stays_a_value(prometheus: PrometheusServer, value: str) -> None:
    prometheus_says = parsed(prometheus, f"x{{a={queries.quoted(value)}}}")
    assert prometheus_says.startswith("x{a=")
    assert prometheus_says.count("vector") == value.count("vector")
    matchers = Matchers.of(project=value, endpoint=value, api=value, model=value, version=value)
    assert "rate(" in parsed(prometheus, queries.promql("rpm", matchers, SPANS))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20))
@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@example("".join(NASTY))
def test_prometheus_reads_a_label_value_as_it_was_meant(prometheus: PrometheusServer, value: str) -> None:
    # `label_replace` makes a label of its third argument, in which a dollar is written twice.
    (labels,) = prometheus.query(f'label_replace(vector(1), "a", {queries.quoted(value.replace("$", "$$"))}, "", "")')
    assert json.loads(labels).get("a", "") == value


def test_a_window_sees_four_scrapes_and_touches_the_next() -> None:
    assert Spans.of(step=15, range_seconds=900, scrape_seconds=15).window == "60s"
    assert Spans.of(step=300, range_seconds=900, scrape_seconds=15).window == "315s"
    assert Spans.of(step=1, range_seconds=60, scrape_seconds=1).window == "4s"
