"""The process table: what depends on where it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from arkconsole.processes import Process, Site, process_table


def table(**site: object) -> dict[str, Process]:
    return {process.name: process for process in process_table(Site(data_dir=Path("/data"), **site))}  # type: ignore[arg-type]


def test_optional_parts_are_left_out() -> None:
    assert not {"valkey", "demo", "seed-demo"} & table().keys()
    assert {"valkey", "demo", "seed-demo"} <= table(valkey=("valkey-server",), demo_port=7).keys()


def test_what_serves_waits_for_the_migrations_and_for_the_embedded_redis() -> None:
    processes = table(valkey=("valkey-server",), redis_url="redis://127.0.0.1:7/0")
    for name in ("console", "gateway", "worker-ticks", "worker-slow", "beat"):
        assert set(processes[name].needs) == {"prepare", "valkey"}


def test_nothing_waits_for_prometheus_which_waits_for_its_configuration_and_its_program() -> None:
    assert "prometheus" not in table()
    there = table(prometheus="/usr/bin/prometheus", prometheus_port=9)
    assert there["prometheus"].needs == ("prepare",)
    assert there["prometheus"].ready == "http://127.0.0.1:9/-/ready"
    assert {
        "--config.file=/data/run/prometheus.yml",
        "--storage.tsdb.path=/data/prometheus/data",
        "--storage.tsdb.retention.time=15d",
        "--web.listen-address=127.0.0.1:9",
    } <= set(there["prometheus"].command)
    fetched = table(prometheus="/data/prometheus/bin/prometheus", is_prometheus_missing=True)
    assert fetched["prometheus"].needs == ("prepare", "get-prometheus")
    assert fetched["get-prometheus"].is_step
    optional = {name for name, process in fetched.items() if process.is_optional}
    assert optional == {"prometheus", "get-prometheus"}
    assert not [process.name for process in fetched.values() if optional & {*process.needs} and not process.is_optional]


def test_nothing_waits_for_alertmanager_which_is_reached_from_this_machine_alone() -> None:
    assert "alertmanager" not in table()
    there = table(alertmanager="/usr/bin/prometheus-alertmanager", alertmanager_port=9)["alertmanager"]
    assert (there.needs, there.ready, there.is_optional) == (("prepare",), "http://127.0.0.1:9/-/ready", True)
    assert {
        "--config.file=/data/alertmanager/alertmanager.yml",
        "--storage.path=/data/alertmanager/data",
        "--web.listen-address=127.0.0.1:9",
        "--cluster.listen-address=",
    } <= set(there.command)
    fetched = table(alertmanager="/data/alertmanager/bin/prometheus-alertmanager", is_alertmanager_missing=True)
    assert fetched["alertmanager"].needs == ("prepare", "get-alertmanager")
    assert fetched["alertmanager"].folder == "/data/alertmanager/bin"
    assert fetched["get-alertmanager"].command[-1] == "prometheus-alertmanager"


@pytest.mark.parametrize(
    ("bind", "listens", "is_probed_at"),
    [
        ("127.0.0.1", "127.0.0.1:8000", "http://127.0.0.1:8000/readyz"),
        ("0.0.0.0", "0.0.0.0:8000", "http://127.0.0.1:8000/readyz"),
        ("::", "[::]:8000", "http://[::1]:8000/readyz"),
        ("::1", "[::1]:8000", "http://[::1]:8000/readyz"),
        ("10.0.0.5", "10.0.0.5:8000", "http://10.0.0.5:8000/readyz"),
    ],
)
def test_the_console_is_probed_where_it_listens(bind: str, listens: str, is_probed_at: str) -> None:
    console = table(bind_host=bind)["console"]
    assert listens in console.command
    assert console.ready == is_probed_at


def test_two_sites_share_no_file() -> None:
    one = " ".join(part for process in table(demo_port=1).values() for part in process.command)
    assert "/data/" in one
    assert "/tmp" not in one
