"""Whether somebody can be told, as every process of the product sees it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.utils import translation

from alerts import installation, routing
from alerts.installation import Alertmanager
from alerts.models import Level
from alerts.routing import DEFAULT_TIMINGS, Plan
from arkconsole.data_dir import DataDir
from common.models import TickHeartbeat
from monitoring import config
from monitoring.installation import Installation, Presence, WhyOff
from tests import builders
from tests.endpoints.pages.clients import signed_in
from tests.servers import ROOT, alertmanager_binary


@pytest.fixture
def data(tmp_path: Path, settings: Any) -> DataDir:
    settings.DATA_DIR = tmp_path
    settings.PROMETHEUS_IS_EXTERNAL, settings.ALERTMANAGER_URL = False, ""
    settings.PROMETHEUS_RULES_DIR = str(tmp_path / "prometheus" / "rules")
    settings.ALERTMANAGER_CONFIG = str(tmp_path / "alertmanager" / "alertmanager.yml")
    return DataDir(tmp_path)


def test_what_up_notes_is_seen_at_once(data: DataDir) -> None:
    assert installation.look().why == WhyOff.NOT_RUN
    for noted, url in (
        (Installation(Presence.GETTING, url="http://127.0.0.1:7"), ""),
        (Installation(Presence.STARTING, url="http://127.0.0.1:7"), "http://127.0.0.1:7"),
        (Installation(Presence.ON, url="http://127.0.0.1:7"), "http://127.0.0.1:7"),
        (Installation(Presence.OFF, why=WhyOff.DOWNLOAD, detail="no route"), ""),
    ):
        data.note(installation.NOTE, noted)
        assert (installation.look().state, installation.url()) == (noted.state, url)
    assert "no route" in installation.look().reason


def test_one_of_your_own_counts_as_on_and_its_configuration_as_yours(data: DataDir, settings: Any) -> None:
    data.note(installation.NOTE, Installation(Presence.OFF, why=WhyOff.MACOS))
    settings.ALERTMANAGER_URL, settings.ALERTMANAGER_CONFIG = "https://am.example.com/", ""
    seen = installation.look()
    assert (seen.is_on, seen.is_external, seen.reason) == (True, True, "")
    assert (installation.url(), installation.config_path()) == ("https://am.example.com", None)


@pytest.mark.parametrize("why", WhyOff)
def test_every_reason_says_that_nobody_is_told_and_what_to_do(why: WhyOff) -> None:
    with translation.override("en"):
        sentence = Alertmanager(Presence.OFF, why=why, detail="what was said").reason
    assert sentence.startswith("Nobody is told of alerts: ")
    assert any(word in sentence for word in ("ALERTMANAGER_URL", "log/alertmanager.log"))
    assert "%(" not in sentence


@pytest.mark.parametrize("name", ["amtool", "promtool"])
def test_a_tool_is_the_named_one_the_machines_or_the_one_that_was_fetched(
    data: DataDir, settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    find = getattr(installation, name)
    settings.AMTOOL_BIN = settings.PROMTOOL_BIN = ""
    assert find() is None
    kept = data.root / {"amtool": "alertmanager", "promtool": "prometheus"}[name] / "bin" / name
    for place in (kept, tmp_path / "path" / name):
        place.parent.mkdir(parents=True)
        place.write_text("#!/bin/sh\n")
        place.chmod(0o755)
        assert find() == place
    settings.AMTOOL_BIN = settings.PROMTOOL_BIN = "/opt/tool"
    assert find() == Path("/opt/tool")


@pytest.mark.django_db
def test_prepare_makes_what_both_start_with(data: DataDir, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    data.note(installation.NOTE, Installation(Presence.GETTING, url="http://127.0.0.1:7"))
    settings.ALERT_HOOK_TOKEN_FILE = str(data.run / "alert-hook-token")
    call_command("prepare")
    # From here on ticks may be expected: nobody is told before that they are late.
    assert TickHeartbeat.objects.filter(name=TickHeartbeat.START).exists()
    told = (data.run / "prometheus.yml").read_text()
    assert 'targets: ["127.0.0.1:7"]' in told
    assert f'credentials_file: "{data.run}/alert-hook-token"' in told
    assert data.read("run/alert-hook-token") == settings.ALERT_HOOK_TOKEN
    first = data.read("alertmanager/alertmanager.yml")
    assert "/hooks/alertmanager" in first
    (data.root / "alertmanager" / "alertmanager.yml").write_text("what policies have made of it")
    call_command("prepare")
    assert data.read("alertmanager/alertmanager.yml") == "what policies have made of it"


@pytest.mark.django_db
def test_where_alerts_say_that_they_come_from_is_a_page_of_ours() -> None:
    """Whoever has an Alertmanager of their own follows these links from its messages."""
    browser = signed_in(builders.member(builders.project("default"), policy_name="VMPReadOnlyAccess"))
    graph = f"{config.GRAPH_PREFIX}/graph?g0.expr=vector%281%29&g0.tab=1"
    for address in (graph, "/alerts/alertmanager/"):
        answer = browser.get(address)
        assert answer.status_code == 302, answer.content
        assert answer.headers["Location"] == "/alerts/"


def blocks_of_the_docs(first_key: str) -> list[str]:
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    return [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith(f"{first_key}:")]


def test_what_the_docs_tell_your_prometheus_is_what_ours_is_told() -> None:
    (shown,) = blocks_of_the_docs("global")
    known = config.Alerting(
        "/etc/prometheus/ark-rules", "/etc/prometheus/ark-alert-token", "http://alertmanager.example.com:9093"
    )
    ours = yaml.safe_load(config.alerting(known, console_url="https://ark.example.com"))
    assert {key: value for key, value in yaml.safe_load(shown).items() if key != "global"} == ours


def test_what_the_docs_tell_your_alertmanager_to_hold_back_is_what_ours_holds_back() -> None:
    (shown,) = blocks_of_the_docs("route")
    plans = [Plan(1, level, "rule", DEFAULT_TIMINGS[level]) for level in Level]
    ours = [each.rule() for each in routing.inhibitions(plans)]
    for rule in ours:
        rule["source_matchers"] = [
            'notify_policy!=""' if matcher.startswith("notify_policy") else matcher
            for matcher in rule["source_matchers"]
        ]
    assert yaml.safe_load(shown)["inhibit_rules"] == ours


def test_what_the_docs_tell_your_alertmanager_is_accepted_by_amtool(tmp_path: Path) -> None:
    (shown,) = blocks_of_the_docs("route")
    told = yaml.safe_load(shown)
    told["route"]["receiver"] = "yours"
    told["receivers"].append({"name": "yours"})
    binary = alertmanager_binary()
    if binary is None:
        pytest.skip("needs Alertmanager")
    (tmp_path / "am.yml").write_text(yaml.safe_dump(told))
    ran = subprocess.run(
        [str(binary.with_name("amtool")), "check-config", str(tmp_path / "am.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
