"""Whether there is a Prometheus here, as every process of the product sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.utils import translation

from arkconsole.data_dir import DataDir
from monitoring import installation
from monitoring.installation import Installation, Presence, WhyOff


@pytest.fixture
def data(tmp_path: Path, settings: Any) -> DataDir:
    settings.DATA_DIR = tmp_path
    settings.PROMETHEUS_IS_EXTERNAL = False
    return DataDir(tmp_path)


def test_without_a_note_nobody_runs_one(data: DataDir) -> None:
    assert installation.look() == Installation(Presence.OFF, why=WhyOff.NOT_RUN)
    assert "PROMETHEUS_URL" in installation.look().reason


def test_what_up_notes_is_seen_at_once_by_a_process_that_has_looked_before(data: DataDir) -> None:
    for noted in (
        Installation(Presence.GETTING, url="http://127.0.0.1:7"),
        Installation(Presence.STARTING, url="http://127.0.0.1:7"),
        Installation(Presence.ON, url="http://127.0.0.1:7"),
        Installation(Presence.OFF, why=WhyOff.DOWNLOAD, detail="no route"),
    ):
        data.note_prometheus(noted)
        assert installation.look() == noted


def test_one_of_your_own_counts_as_on_whatever_is_noted(data: DataDir, settings: Any) -> None:
    data.note_prometheus(Installation(Presence.OFF, why=WhyOff.MACOS))
    settings.PROMETHEUS_IS_EXTERNAL, settings.PROMETHEUS_URL = True, "https://prom.example.com"
    seen = installation.look()
    assert (seen.is_on, seen.url, seen.is_external, seen.reason) == (True, "https://prom.example.com", True, "")


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", "{}", '{"state": "on"}', '{"state": "x", "why": "", "url": ""}']
)
def test_a_broken_note_is_none(text: str) -> None:
    assert installation.parse(text).why == WhyOff.NOT_RUN


@pytest.mark.parametrize("why", WhyOff)
def test_every_reason_says_what_to_do_about_it(why: WhyOff) -> None:
    with translation.override("en"):
        sentence = Installation(Presence.OFF, why=why, detail="what was said").reason
    assert any(word in sentence for word in ("PROMETHEUS_BIN", "brew install", "log/prometheus.log", "manage.py up"))
    assert "%(" not in sentence
