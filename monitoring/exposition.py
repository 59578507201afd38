"""What the console itself tells Prometheus: what only the database knows, for all projects.

Rendered by hand: 10,000 endpoints are 70,000 lines, and prometheus_client takes several times as long for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from django.conf import settings

from catalog.models import ModelServer, ModelVersion
from common.models import TickHeartbeat
from endpoints.models import Endpoint, Status, VersionSwitch

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_LABEL = 200
CACHE_SECONDS = 15.0

Sample = tuple[str, float]
"""The labels as they are written between the braces, and the value."""


def render(*, now: datetime) -> bytes:
    """Everything, in Prometheus's text format; five queries, however many endpoints there are."""
    endpoints = list(
        Endpoint.objects.alive().order_by().values_list("pk", "project_id", "status", "rpm", "tpm", "version_id")
    )
    names = [f'project="{project}",ark_endpoint="{pk}"' for pk, project, *_rest in endpoints]
    parts = [
        _family("ark_console_info", "The console that says this.", [(f'console_url="{_escaped(settings.CONSOLE_URL)}"', 1)]),
        _family("ark_endpoint_status", "1 for the status that the endpoint has, 0 for the others.",
                _statuses(names, (row[2] for row in endpoints))),
        _family("ark_endpoint_rpm_limit", "Calls per minute that the endpoint admits.",
                zip(names, (row[3] for row in endpoints), strict=True)),
        _family("ark_endpoint_tpm_limit", "Tokens per minute that the endpoint admits.",
                zip(names, (row[4] for row in endpoints), strict=True)),
        _family("ark_endpoint_version_weight", "Share of the endpoint's traffic that a version should get, 0 to 1.",
                _weights(names, ((row[0], row[5]) for row in endpoints))),
        _family("ark_gateway_upstream_up", "Whether the model server answers; servers that are switched off are left out.",
                _servers()),
        _family("ark_console_tick_age_seconds", "Seconds since a background tick last ran.", _ticks(now)),
    ]  # fmt: skip
    return "".join(parts).encode()


def _family(name: str, text: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
    lines += [f"{name}{{{labels}}} {value}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _statuses(names: list[str], statuses: Iterable[str]) -> Iterator[Sample]:
    for name, status in zip(names, statuses, strict=True):
        for each in Status.values:
            yield f'{name},status="{each}"', int(each == status)


def _weights(names: list[str], served: Iterable[tuple[str, int]]) -> Iterator[Sample]:
    """1 for the only version; both sides while a version switch is open."""
    labels = {
        pk: f'base_model="{_escaped(model)}",ark_model="{_escaped(model)}-{_escaped(version)}"'
        for pk, model, version in ModelVersion.objects.order_by().values_list("pk", "model__name", "version")
    }
    switches = {
        endpoint_id: (source_id, target_id, weight)
        for endpoint_id, source_id, target_id, weight in VersionSwitch.objects.open()
        .order_by()
        .values_list("endpoint_id", "source_id", "target_id", "weight")
    }
    for name, (pk, version_id) in zip(names, served, strict=True):
        if pk in switches:
            source_id, target_id, weight = switches[pk]
            yield f"{name},{labels[source_id]}", (100 - weight) / 100
            yield f"{name},{labels[target_id]}", weight / 100
        else:
            yield f"{name},{labels[version_id]}", 1


def _servers() -> Iterator[Sample]:
    servers = ModelServer.objects.filter(is_enabled=True).order_by("pk").values_list("pk", "name", "state")
    for pk, name, state in servers:
        yield f'server="{pk}",server_name="{_escaped(name)}"', int(state == ModelServer.State.UP)


def _ticks(now: datetime) -> Iterator[Sample]:
    beats = TickHeartbeat.objects.exclude(name=TickHeartbeat.START).order_by("name")
    for name, at in beats.values_list("name", "at"):
        yield f'tick="{_escaped(name)}"', round((now - at).total_seconds(), 3)


def _escaped(value: str) -> str:
    return value[:MAX_LABEL].replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Memo:
    """`render` once in a while, however often it is asked for; one Prometheus finds it fresh at each of its turns."""

    def __init__(self, render: Callable[..., bytes] = render, clock: Callable[[], float] = time.monotonic) -> None:
        self._render = render
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: tuple[float, bytes] | None = None

    def text(self, *, now: datetime) -> bytes:
        """What was rendered less than half a scrape interval ago, else rendered now. Raises what the database raises."""
        with self._lock:
            keep_seconds = min(CACHE_SECONDS, settings.SCRAPE_SECONDS / 2)
            if self._kept is None or self._clock() - self._kept[0] > keep_seconds:
                self._kept = (self._clock(), self._render(now=now))
            return self._kept[1]


memo = Memo()
