from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.http import QueryDict
from django.utils import translation

from catalog import services as catalog
from catalog.models import Deployment, Trouble
from catalog.services import ProbeOutcome, ServerSettings
from endpoints import services
from endpoints.lifecycle import Reason
from endpoints.models import Endpoint, EndpointEvent, SwitchEvent
from monitoring import marks
from monitoring.filters import MonitoringFilters
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _in_english() -> Iterator[None]:
    with translation.override("en"):
        yield


def last_hour(endpoint: Endpoint) -> dict[str, Any]:
    return marks.marks(endpoint, MonitoringFilters.of(QueryDict("range=1h"), now=NOW))


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def moved(endpoint: Endpoint, origin: str, to: str, minutes: float, **values: Any) -> None:
    EndpointEvent.objects.create(endpoint=endpoint, at=ago(minutes), from_status=origin, to_status=to, **values)


def band(found: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    now = NOW.timestamp()
    return [
        (each["status"], each["tone"], (now - each["from"]) / 60, (now - each["to"]) / 60) for each in found["band"]
    ]


def test_each_move_of_the_status_is_marked_and_makes_the_band() -> None:
    endpoint = builders.endpoint(created_at=ago(600))
    moved(endpoint, "", "Scheduling", 600)
    moved(endpoint, "Scheduling", "Running", 90)
    moved(endpoint, "Running", "Abnormal", 40, reason=Reason.SERVERS_DOWN, subject="gpu-1", detail="refused", actor_id="system", actor_name="system")  # fmt: skip
    moved(endpoint, "Abnormal", "Running", 30)
    moved(endpoint, "Running", "Stopped", 10, actor_id="7", actor_name="li.wei")
    found = last_hour(endpoint)
    assert [(mark["kind"], mark["title"], mark["by"]) for mark in found["marks"]] == [
        ("status", "Healthy → Abnormal", ""),
        ("status", "Abnormal → Healthy", ""),
        ("status", "Healthy → Stopped", "li.wei"),
    ]
    assert "gpu-1" in found["marks"][0]["detail"]
    assert band(found) == [
        ("Running", "good", 60, 40), ("Abnormal", "bad", 40, 30), ("Running", "good", 30, 10), ("Stopped", "off", 10, 0),
    ]  # fmt: skip


def test_a_quiet_hour_has_the_status_from_before_it() -> None:
    endpoint = builders.endpoint(created_at=ago(600))
    moved(endpoint, "Scheduling", "Abnormal", 300)
    assert band(last_hour(endpoint)) == [("Abnormal", "bad", 60, 0)]


def test_before_it_was_made_an_endpoint_has_no_status() -> None:
    endpoint = builders.endpoint(created_at=ago(20))
    moved(endpoint, "", "Scheduling", 20)
    moved(endpoint, "Scheduling", "Running", 15)
    assert band(last_hour(endpoint)) == [("Scheduling", "warn", 20, 15), ("Running", "good", 15, 0)]


def test_rungs_of_a_switch_are_marked_with_who_and_why() -> None:
    switch = builders.version_switch(endpoint=builders.endpoint(created_at=ago(600)), created_at=ago(50))
    for kind, before, after, minutes, who in (
        ("started", 0, 0, 50, "li.wei"), ("advanced", 0, 10, 45, ""), ("held", 10, 10, 40, ""), ("rolled_back", 10, 0, 5, "wang.fang"),
    ):  # fmt: skip
        SwitchEvent.objects.create(
            switch=switch, at=ago(minutes), kind=kind, soak=1, rung=0, weight=after, from_weight=before,
            reason="too slow" if who == "wang.fang" else "", actor_id=who or "system", actor_name=who or "system",
        )  # fmt: skip
    found = last_hour(switch.endpoint)["marks"]
    assert [(mark["kind"], mark["title"], mark["by"]) for mark in found] == [
        ("switch", "Version switch. Started", "li.wei"),
        ("switch", "Version switch. Advanced: 0 % → 10 %", ""),
        ("switch", "Version switch. Rolled back: 10 % → 0 %", "wang.fang"),
    ]
    assert "too slow" in found[-1]["detail"]
    assert found[-1]["url"].endswith(f"/switch/{switch.pk}")


def test_edits_are_marked_with_what_they_changed() -> None:
    endpoint = builders.endpoint(created_at=ago(600), rpm=600)
    who = builders.actor(builders.member(endpoint.project))
    services.edit(
        endpoint=endpoint, name=endpoint.name, description="", rpm=1_200, tpm=endpoint.tpm, tags={},
        revision=endpoint.revision, by=who, now=ago(5),
    )  # fmt: skip
    (mark,) = last_hour(endpoint)["marks"]
    assert (mark["kind"], mark["title"], mark["by"]) == ("edit", "Limits changed", who.name)
    assert mark["detail"] == "RPM: 600 → 1,200"
    assert mark["at"] == ago(5).timestamp()


def test_servers_that_went_came_back_or_were_switched_off_are_marked() -> None:
    server, elsewhere = builders.model_server(name="gpu-1"), builders.model_server(name="gpu-9")
    version = builders.model_version(servers=[server])
    endpoint = builders.endpoint(created_at=ago(600), version=version)
    target = builders.model_version(servers=[builders.model_server(name="gpu-2")])
    builders.version_switch(endpoint=endpoint, target=target, created_at=ago(50))
    refused = ProbeOutcome(trouble=Trouble.REFUSED, detail="Connection refused")
    for each in (server, elsewhere):
        for second in range(3):
            catalog.record_probe(server_id=each.pk, outcome=refused, now=ago(40) + timedelta(seconds=second))
    catalog.record_probe(server_id=server.pk, outcome=ProbeOutcome(), now=ago(30))
    who = builders.actor()
    settings = ServerSettings(name="gpu-1", base_url=server.base_url, is_enabled=False, connect_timeout_seconds=9)
    catalog.update_server(server=server, settings=settings, by=who, now=ago(20))
    (running,) = Deployment.objects.filter(version=target)
    running.is_enabled = False
    catalog.save_deployment(deployment=running, by=who, now=ago(10))
    found = last_hour(endpoint)["marks"]
    assert [(mark["kind"], mark["title"], mark["by"]) for mark in found] == [
        ("server", "A model server stopped answering", ""),
        ("server", "A model server answers again", ""),
        ("server", "A model server was switched off: no new calls go to it", who.name),
        ("server", "A model server was switched off: no new calls go to it", who.name),
    ]
    assert found[0]["detail"].startswith("Nothing listens there")
    assert "gpu" not in str(found)
    shown = marks.marks(endpoint, MonitoringFilters.of(QueryDict("range=1h"), now=NOW), shows_servers=True)["marks"]
    assert shown[0]["title"] == "Model server gpu-1 stopped answering"
    assert shown[0]["detail"].endswith("Connection refused")
    assert (shown[2]["title"], shown[2]["detail"]) == (
        "Model server gpu-1 was switched off: no new calls go to it", "connect timeout (s): 5 → 9",
    )  # fmt: skip
    assert found[2]["detail"] == "connect timeout (s)"


def test_an_endpoint_that_flaps_shows_the_latest_and_says_how_many(django_assert_max_num_queries: Any) -> None:
    endpoint = builders.endpoint(created_at=ago(600))
    for number in range(150):
        here, there = ("Running", "Abnormal")[:: 1 if number % 2 else -1]
        moved(endpoint, here, there, 59 - number / 3)
    with django_assert_max_num_queries(8):
        found = last_hour(endpoint)
    assert len(found["marks"]) == marks.MOST
    assert found["note"] == "The latest 100 of 150 changes are marked."
    assert len(found["band"]) == 151
