"""/metrics of the console: what only the database knows, for whoever has the token."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from prometheus_client.parser import text_string_to_metric_families

from common.models import TickHeartbeat
from endpoints.models import Endpoint, Status
from monitoring import exposition
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db
TOKEN = {"Authorization": f"Bearer {settings.METRICS_TOKEN}"}


def samples(text: bytes | None = None) -> dict[str, list[tuple[dict[str, str], float]]]:
    """{metric: [(labels, value)]} of what is rendered at NOW."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families((text or exposition.render(now=NOW)).decode()):
        found[family.name] = [(sample.labels, sample.value) for sample in family.samples]
    return found


def of(endpoint: Endpoint) -> dict[str, str]:
    return {"project": endpoint.project_id, "ark_endpoint": endpoint.pk}


def test_each_endpoint_has_its_status_and_limits() -> None:
    endpoint = builders.endpoint(status=Status.ABNORMAL, rpm=60, tpm=9_000)
    builders.endpoint(deleted_at=NOW)
    found = samples()
    assert found["ark_endpoint_status"] == [
        ({**of(endpoint), "status": status}, float(status == "Abnormal"))
        for status in ("Scheduling", "Running", "Stopped", "Abnormal")
    ]
    assert found["ark_endpoint_rpm_limit"] == [(of(endpoint), 60)]
    assert found["ark_endpoint_tpm_limit"] == [(of(endpoint), 9_000)]


def test_the_only_version_has_all_the_weight_and_an_open_switch_shares_it() -> None:
    still = builders.endpoint(version=builders.model_version(model=builders.foundation_model(name="still")))
    switch = builders.version_switch(rung=1)  # 40 %
    builders.version_switch(endpoint=still, state="rolled_back", weight=0)
    found = {
        (labels["ark_endpoint"], labels["base_model"], labels["ark_model"]): value
        for labels, value in samples()["ark_endpoint_version_weight"]
    }
    assert found == {
        (still.pk, "still", "still-260415"): 1,
        (switch.endpoint_id, switch.source.model.name, switch.source.public_id): 0.6,
        (switch.endpoint_id, switch.target.model.name, switch.target.public_id): 0.4,
    }


def test_model_servers_and_ticks_are_told_and_their_names_cannot_break_the_format() -> None:
    up = builders.model_server(name='rack "7"\\\nA')
    down = builders.model_server(name="down", state="down")
    builders.model_server(is_enabled=False)
    TickHeartbeat.beat(name="metering.drain", now=NOW - timedelta(seconds=2.5))
    found = samples()
    assert found["ark_gateway_upstream_up"] == [
        ({"server": str(up.pk), "server_name": 'rack "7"\\\nA'}, 1),
        ({"server": str(down.pk), "server_name": "down"}, 0),
    ]
    assert found["ark_console_tick_age_seconds"] == [({"tick": "metering.drain"}, 2.5)]
    assert found["ark_console_info"] == [({"console_url": settings.CONSOLE_URL}, 1)]


def many(number: int) -> None:
    project, version = builders.project("default"), builders.model_version()
    Endpoint.objects.bulk_create(builders.endpoint_row(project=project, version=version) for _each in range(number))


def test_ten_thousand_endpoints_cost_as_many_queries_as_one() -> None:
    many(10_000)
    with CaptureQueriesContext(connection) as queries:
        text = exposition.render(now=NOW)
    assert len(queries) == 5
    assert text.count(b"\nark_endpoint_status{") == 40_000


def test_it_is_rendered_once_for_many_who_ask() -> None:
    clock, rendered = [0.0], []

    def render(**_at: Any) -> bytes:
        rendered.append(clock[0])
        return b"text"

    memo = exposition.Memo(render, clock=lambda: clock[0])
    for moment in (0.0, 0.1, 0.4, 0.6, 0.9):  # SCRAPE_SECONDS is 1 in tests
        clock[0] = moment
        assert memo.text(now=NOW) == b"text"
    assert rendered == [0.0, 0.6]


def test_a_failure_is_not_kept() -> None:
    answers = iter([OSError, b"text"])

    def render(**_at: Any) -> bytes:
        answer = next(answers)
        if not isinstance(answer, bytes):
            raise answer
        return answer

    memo = exposition.Memo(render)
    with pytest.raises(OSError):
        memo.text(now=NOW)
    assert memo.text(now=NOW) == b"text"


def test_whoever_has_the_token_reads_it_without_a_session(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "memo", exposition.Memo())
    endpoint = builders.endpoint()
    response = client.get("/metrics", headers=TOKEN)
    assert response.status_code == 200
    assert response["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert samples(response.content)["ark_endpoint_rpm_limit"] == [(of(endpoint), 600)]
    assert not response.cookies


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {settings.METRICS_TOKEN}", f"Bearer {settings.METRICS_TOKEN}é"],
)
@pytest.mark.parametrize("url", ["/metrics", "/monitoring/targets"])
def test_nobody_else_does(client: Client, given: str, url: str) -> None:
    client.force_login(builders.user(is_superuser=True))
    response = client.get(url, headers={"Authorization": given} if given else None)
    assert response.status_code == 401
    assert response["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("given", ["Bearer ", "Bearer anything"])
def test_without_a_token_of_our_own_nobody_does(client: Client, settings: Any, given: str) -> None:
    settings.METRICS_TOKEN = ""
    for url in ("/metrics", "/monitoring/targets"):
        assert client.get(url, headers={"Authorization": given}).status_code == 401


def test_only_reading_is_possible(client: Client) -> None:
    assert client.post("/metrics", headers=TOKEN).status_code == 405
