"""The containers run what `manage.py up` runs. No engine here can start them; what can be checked is checked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import pytest
import yaml

from alerts import installation
from arkconsole.processes import Site, process_table
from monitoring import config
from monitoring import installation as prometheus
from tests.arkconsole.test_configuration import documented_variables
from tests.servers import ROOT

TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "arkconsole"}
TABLE = {
    process.name: process
    for process in process_table(Site(data_dir=Path("/data"), bind_host="0.0.0.0", python="python"))
}


def test_the_file_is_valid_against_the_compose_specification() -> None:
    schema = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(COMPOSE, json.loads(schema.read_text(encoding="utf-8")))


def test_every_process_of_the_table_has_its_container_and_no_other() -> None:
    assert OURS.keys() == TABLE.keys()


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_container_runs_exactly_the_command_of_the_table(name: str) -> None:
    assert tuple(OURS[name]["command"]) == TABLE[name].command


def test_every_variable_is_in_the_settings_table() -> None:
    for service in OURS.values():
        assert service["environment"].keys() <= documented_variables()
    asked_for = set(re.findall(r"\$\{(\w+)", TEXT)) - {"POSTGRES_PASSWORD"}
    assert asked_for <= documented_variables()


def test_every_service_that_keeps_running_has_a_health_check() -> None:
    assert [name for name, service in COMPOSE["services"].items() if "healthcheck" not in service] == ["prepare"]


def test_a_container_waits_for_what_its_process_needs() -> None:
    for name, service in OURS.items():
        for need in TABLE[name].needs:
            assert need in service["depends_on"]
    assert COMPOSE["services"]["postgres"]["volumes"]
    assert COMPOSE["services"]["redis"]["volumes"]


def test_the_prometheus_beside_them_has_the_flags_of_our_own_and_reads_what_prepare_writes() -> None:
    service = COMPOSE["services"]["prometheus"]
    assert tuple(service["command"]) == config.server_flags(
        config_file="/data/run/prometheus.yml",
        data_dir="/data/prometheus/data",
        listen="0.0.0.0:9090",
        console_url="${CONSOLE_URL:-http://127.0.0.1:8000}",
        max_size="${PROMETHEUS_MAX_SIZE:-20GB}",
    )
    assert service["volumes"] == OURS["prepare"]["volumes"]
    assert "ports" not in service, "it knows no password: only the other containers reach it"
    # The token's file is its owner's alone.
    assert f"--uid {service['user']} " in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_prometheus_beside_them_is_ours_and_only_a_url_of_the_operator_makes_it_another(
    settings: Any,
) -> None:
    told = OURS["console"]["environment"]
    assert told["PROMETHEUS_URL"] == "${PROMETHEUS_URL:-}"
    settings.PROMETHEUS_IS_EXTERNAL, settings.PROMETHEUS_INTERNAL_URL = False, told["PROMETHEUS_INTERNAL_URL"]
    seen = prometheus.look()
    assert (seen.is_on, seen.url, seen.is_external) == (True, "http://prometheus:9090", False)
    # Rules are put where ours reads them only where it is ours: the settings know which.
    for name in ("METRICS_TOKEN", "GATEWAY_METRICS_ADVERTISE", "PROMETHEUS_RULES_DIR"):
        assert told[name] == f"${{{name}:-}}"
    assert told["PROMETHEUS_RELOAD_URL"].endswith("${PROMETHEUS_URL:-http://prometheus:9090}/-/reload}")
    # Without a change of its own Compose would leave the container with the configuration that it had.
    assert COMPOSE["services"]["prometheus"]["environment"] == {"PROMETHEUS_URL": told["PROMETHEUS_URL"]}


def test_the_alertmanager_beside_them_has_the_flags_of_our_own_and_reads_what_we_write() -> None:
    service = COMPOSE["services"]["alertmanager"]
    assert tuple(service["command"]) == installation.server_flags(
        config_file="/data/alertmanager/alertmanager.yml",
        data_dir="/data/alertmanager/data",
        listen="0.0.0.0:9093",
        console_url="${CONSOLE_URL:-http://127.0.0.1:8000}",
    )
    assert (service["volumes"], service["user"]) == (OURS["prepare"]["volumes"], "10001")
    assert "ports" not in service, "it knows no password: only the other containers reach it"
    environment = OURS["console"]["environment"]
    assert environment["ALERTMANAGER_URL"].endswith("http://alertmanager:9093}")
    assert environment["ALERTMANAGER_CONFIG"].endswith("/data/alertmanager/alertmanager.yml}")
    assert environment["DATA_DIR"] == "/data"


def test_the_tools_in_the_image_are_those_of_the_servers_beside_it() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for service, tool in (("prometheus", "promtool"), ("alertmanager", "amtool")):
        image = COMPOSE["services"][service]["image"]
        assert f"COPY --from={image} /bin/{tool} /usr/local/bin/{tool}\n" in dockerfile


def test_the_image_carries_every_room_and_runs_as_nobody_special() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for room in (
        "arkconsole",
        "alerts",
        "monitoring",
        "gateway",
        "endpoints",
        "metering",
        "catalog",
        "iam",
        "audit",
        "common",
        "demo",
    ):
        assert f"COPY {room} {room}" in dockerfile
    assert re.search(r"^USER (?!root)\w+", dockerfile, re.MULTILINE)
    assert "/work" not in dockerfile
