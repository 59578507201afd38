"""What Prometheus is told, judged by Prometheus' own tool and by what it then does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from monitoring import config
from tests.servers import ROOT, PrometheusServer, prometheus_binary


@pytest.mark.parametrize("scrape_seconds", [1, 15, 60])
def test_promtool_accepts_it(prometheus: PrometheusServer, tmp_path: Path, scrape_seconds: int) -> None:
    (tmp_path / "token").write_text("a token")
    path = tmp_path / "prometheus.yml"
    path.write_text(
        config.prometheus_yml(
            console_url="http://127.0.0.1:8000",
            scrape_seconds=scrape_seconds,
            token_file=str(tmp_path / "token"),
        )
    )
    binary = prometheus_binary()
    assert binary
    ran = subprocess.run(
        [str(binary.with_name("promtool")), "check", "config", str(path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


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
