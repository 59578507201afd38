"""What Prometheus is told, judged by Prometheus' own tool and by what it then does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import config
from tests.servers import ROOT, PrometheusServer, prometheus_binary


@pytest.mark.parametrize("scrape_seconds", [1, 15, 60])
def test_promtool_accepts_it(prometheus: PrometheusServer, tmp_path: Path, scrape_seconds: int) -> None:
    (tmp_path / "token").write_text("a token")
    path = tmp_path / "prometheus.yml"
    rules = tmp_path / 'rules "of ours"'
    rules.mkdir()
    (rules / "a.json").write_text('{"groups": [{"name": "a", "rules": [{"alert": "A", "expr": "vector(1)"}]}]}')
    path.write_text(
        config.prometheus_yml(
            console_url="http://127.0.0.1:8000",
            scrape_seconds=scrape_seconds,
            token_file=str(tmp_path / "token"),
            alerts=config.Alerting(str(rules), str(tmp_path / "token"), "http://127.0.0.1:9093"),
        )
    )
    binary = prometheus_binary()
    assert binary
    ran = subprocess.run(
        [str(binary.with_name("promtool")), "check", "config", str(path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 rule files found" in ran.stdout


def test_one_job_reads_what_the_console_names_with_one_token_for_both() -> None:
    (job,) = yaml.safe_load(
        config.scrape_job(console_url="https://ark.example.com/", scrape_seconds=15, token_file="/etc/ark token")
    )
    assert job["job_name"] == "ark-gateway"
    assert job["authorization"] == {"type": "Bearer", "credentials_file": "/etc/ark token"}
    assert job["http_sd_configs"][0]["authorization"] == job["authorization"]
    assert job["http_sd_configs"][0]["url"] == "https://ark.example.com/monitoring/targets"
    assert (job["scrape_interval"], job["scrape_timeout"]) == ("15s", "10s")


def test_the_job_to_paste_can_hold_the_token_itself() -> None:
    (job,) = yaml.safe_load(config.scrape_job(console_url="http://[::1]:8000", scrape_seconds=1, token='a"b\\c'))
    assert job["authorization"] == {"type": "Bearer", "credentials": 'a"b\\c'}
    with pytest.raises(ValueError, match="either a token or"):
        config.scrape_job(console_url="http://x", scrape_seconds=1)


def test_the_job_in_the_docs_is_the_one_that_the_console_shows() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    shown = re.search(r"```yaml\n(scrape_configs:.*?)```", text, re.DOTALL)
    assert shown
    assert yaml.safe_load(shown[1])["scrape_configs"] == yaml.safe_load(
        config.scrape_job(
            console_url="https://ark.example.com", scrape_seconds=15, token_file="/etc/prometheus/ark-metrics-token"
        )
    )


def test_only_our_own_limits_labels_since_victoria_metrics_refuses_what_it_does_not_know() -> None:
    ours = config.prometheus_yml(console_url="http://x", scrape_seconds=15, token_file="/t")
    theirs = config.scrape_job(console_url="http://x", scrape_seconds=15, token_file="/t")
    assert "label_value_length_limit" in ours
    assert "label_" not in theirs
    assert "VictoriaMetrics" not in ours


def told(console_url: str, alertmanager_url: str) -> list[Any]:
    text = config.alerting(config.Alerting("/data/rules/", "/t", alertmanager_url), console_url=console_url)
    read = yaml.safe_load(text)
    assert read["rule_files"] == ["/data/rules/*.json"]
    found: list[Any] = read["alerting"]["alertmanagers"]
    return found


def test_what_fires_is_posted_to_alertmanager_and_to_the_console_which_alone_gets_the_token() -> None:
    theirs, ours = told("https://ark.example.com/", "http://127.0.0.1:9093")
    assert theirs == {"api_version": "v2", "scheme": "http", "static_configs": [{"targets": ["127.0.0.1:9093"]}]}
    assert ours == {
        "api_version": "v2",
        "scheme": "https",
        "path_prefix": "/hooks/prom",
        "authorization": {"type": "Bearer", "credentials_file": "/t"},
        "static_configs": [{"targets": ["ark.example.com:443"]}],
    }


def test_without_an_alertmanager_events_are_still_recorded() -> None:
    (ours,) = told("http://[::1]:8000", "")
    assert ours["static_configs"] == [{"targets": ["[::1]:8000"]}]
    elsewhere, _ours = told("http://x", "https://me:secret@alerts.example.com/am/")
    assert (elsewhere["path_prefix"], elsewhere["static_configs"]) == ("/am", [{"targets": ["alerts.example.com:443"]}])
