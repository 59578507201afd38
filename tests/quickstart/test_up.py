"""`manage.py up` as a newcomer meets it: SQLite, embedded Valkey, nothing configured."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from arkconsole.management.commands import up as up_command
from tests.quickstart.terminal import left_over, says
from tests.servers import ROOT, free_port, redis_server
from tests.stack import Stack

pytestmark = [pytest.mark.quickstart, pytest.mark.timeout(300)]


def call(stack: Stack, said: str = "") -> dict[str, object]:
    """Run the printed curl line as it stands."""
    done = subprocess.run(f"{stack.curl_line(said)} -sS --fail-with-body", shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def up(**env: str) -> subprocess.CompletedProcess[str]:
    """Another `manage.py up`, expected to refuse."""
    return subprocess.run(
        [sys.executable, "manage.py", "up"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )


def test_one_block_says_everything_and_its_curl_line_answers(running: Stack) -> None:
    for wanted in (running.console_url, f"{running.gateway_url}/api/v3", running.demo_key):
        assert wanted in running.output
    for what, line in (
        ("Monitoring", f"on: Prometheus runs at {running.prometheus_url}"),
        ("Alerts", f"on: Alertmanager runs at {running.alertmanager_url}"),
    ):

        def is_said(what: str = what, line: str = line) -> bool:
            return says(running.output, what, line)

        running.wait_until(is_said, seconds=60, what=line)
    assert call(running)["choices"]
    assert httpx.get(f"{running.console_url}/", follow_redirects=True, timeout=30, trust_env=False).status_code == 200


def test_a_killed_run_leaves_nothing_that_blocks_the_next(running: Stack) -> None:
    running.process.kill()
    running.process.wait()
    assert left_over(running)
    running.start()
    assert "Ended what an earlier run had left behind" in running.output
    assert call(running)["choices"]


def test_a_second_run_on_the_same_data_is_refused_in_one_sentence(running: Stack) -> None:
    refused = up(**running.env)
    assert refused.returncode == 1
    assert re.fullmatch(r"\S+ is in use by another run \(process \d+\); stop that one, .*\n", refused.stderr)
    assert refused.stdout == ""


@pytest.mark.parametrize("variable", ["PORT", "GATEWAY_PORT"])
def test_a_taken_port_is_refused_in_one_sentence(running: Stack, tmp_path: Path, variable: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        free = {"PORT": str(free_port()), "GATEWAY_PORT": str(free_port())}
        refused = up(**{**running.env, "DATA_DIR": str(tmp_path), **free, variable: port})
    assert refused.returncode == 1
    assert f"127.0.0.1:{port}" in refused.stderr
    assert f"set {variable} to another port" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_wrong_variable_is_refused_in_one_sentence(running: Stack) -> None:
    refused = up(**{**running.env, "PORT": "eighty"})
    assert refused.returncode == 1
    assert "PORT" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_data_directory_that_cannot_be_is_refused_in_one_sentence(running: Stack, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = up(**{**running.env, "DATA_DIR": str(tmp_path / "file")})
    assert refused.returncode == 1
    assert re.fullmatch(r"Cannot use \S+ as data directory: .*\n", refused.stderr)


def test_a_killed_prometheus_comes_back_and_keeps_its_data(running: Stack) -> None:
    """It reads what the console names, with the token, as soon as monitoring has been opened."""
    code = "from monitoring.models import *; from iam.models import Project; from django.utils import timezone as t; "
    code += "Subscription.objects.create(project=Project.objects.first(), asked_at=t.now(), step_at=t.now(), look_at=t.now())"
    subprocess.run([sys.executable, "manage.py", "shell", "-v", "0", "-c", code], cwd=ROOT, env=running.env, check=True)

    def began() -> float:
        """When the first figure was read from the console; 0 while there is none."""
        query = {"query": 'min_over_time(timestamp(up{job="ark-console"} == 1)[1h:1s])'}
        try:
            answer = httpx.get(f"{running.prometheus_url}/api/v1/query", params=query, timeout=5, trust_env=False)
            return float(answer.json()["data"]["result"][0]["value"][1])
        except (httpx.HTTPError, LookupError, ValueError):
            return 0

    first = running.wait_until(began, seconds=60, what="figures of the console")
    running.wait_back("prometheus", running.kill("prometheus"), seconds=60)
    assert running.wait_until(began, seconds=60, what="Prometheus answers again") == first


def test_a_killed_alertmanager_comes_back_and_remembers_what_was_silenced(running: Stack) -> None:
    silence = {
        "matchers": [{"name": "alertname", "value": "x", "isRegex": False, "isEqual": True}],
        "startsAt": "2020-01-01T00:00:00Z", "endsAt": "2099-01-01T00:00:00Z", "createdBy": "a test", "comment": "",
    }  # fmt: skip
    address = f"{running.alertmanager_url}/api/v2/silences"

    def silences() -> list[str] | None:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            return [each["id"] for each in httpx.get(address, timeout=5, trust_env=False).raise_for_status().json()]
        return None

    # Nobody waits for it when the product starts, or when another test has ended it.
    running.wait_until(lambda: silences() is not None, seconds=60, what="Alertmanager answers")
    made = httpx.post(address, json=silence, timeout=10, trust_env=False)
    assert made.is_success, made.text
    # In order: after a crash it knows what it wrote down in the last quarter of an hour.
    running.wait_back("alertmanager", running.kill("alertmanager", signal.SIGTERM), seconds=60)
    wanted = [made.json()["silenceID"]]
    running.wait_until(lambda: silences() == wanted, seconds=60, what="Alertmanager has its silence again")
    running.wait_back("alertmanager", running.kill("alertmanager"), seconds=60)


def test_a_copy_runs_beside_it_without_prometheus_and_ends_with_its_terminal(running: Stack, tmp_path: Path) -> None:
    """It finds none, and the package cannot be had: all the rest runs, and it says why monitoring is off."""
    for name, script in {
        "prometheus": "echo another program",
        "prometheus-alertmanager": "echo another program",
        "alertmanager": "echo another program",
        "apt-get": "echo \"E: Failed to fetch http://deb/p.deb  Temporary failure resolving 'deb'\"; exit 100",
        "dpkg-deb": "exit 1",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    other = Stack(
        tmp_path / "data", {"PROMETHEUS_BIN": "", "ALERTMANAGER_BIN": "", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )
    reader, writer = os.pipe()
    other.launch(writer)
    os.close(writer)
    try:
        said = ""
        off = {
            "Monitoring": "off: Prometheus could not be downloaded (Temporary failure resolving 'deb'). Start",
            "Alerts": "off: Nobody is told of alerts: Alertmanager could not be downloaded (Temporary",
        }
        with open(reader) as terminal:
            for line in terminal:
                said += line
                if "Ctrl-C stops everything" in said and all(says(said, what, why) for what, why in off.items()):
                    break
            else:
                pytest.fail(f"It ended, or never said why:\n{said}")
            assert other.demo_key in said
            assert call(other, said)["choices"]
            assert call(running)["choices"]
            assert running.demo_key not in said
        # The terminal is closed now: nobody reads what is said any more, and the signal is another.
        other.process.send_signal(signal.SIGHUP)
        other.process.wait(60)
        assert left_over(other) == []
    finally:
        other.stop()


def test_a_redis_that_does_not_answer_is_said_without_its_password() -> None:
    trouble = up_command._redis_trouble(f"redis://me:secret@127.0.0.1:{free_port()}/0")
    assert "REDIS_URL (127.0.0.1:" in trouble
    assert "does not answer" in trouble
    assert "secret" not in trouble
    assert up_command._redis_trouble(redis_server.url) == ""
