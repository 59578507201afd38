"""What a run keeps in its data directory, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import yaml
from cryptography.fernet import Fernet

from arkconsole.data_dir import DataDir
from arkconsole.supervisor import UpError
from monitoring import config


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path / "var")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_made_for_its_owner_alone(data: DataDir) -> None:
    assert mode(data.root) == mode(data.run) == mode(data.log) == 0o700


def test_secrets_are_made_once_and_kept(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRET_KEY")
    monkeypatch.delenv("FIELD_ENCRYPTION_KEY")
    monkeypatch.delenv("METRICS_TOKEN")
    monkeypatch.delenv("ALERT_HOOK_TOKEN")
    names = ("secret-key", "field-encryption-key", "metrics-token", "alert-hook-token")
    data.ensure_secrets()
    first = [data.read(name) for name in names]
    assert len(first[0]) > 50
    Fernet(first[1])
    assert len(first[2]) > 40
    assert {mode(data.root / name) for name in names} == {0o600}
    data.ensure_secrets()
    assert [data.read(name) for name in names] == first


def test_prometheus_reads_the_token_from_a_private_file(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data.configure_prometheus(console_url="http://127.0.0.1:8000", scrape_seconds=15)
    assert f'credentials_file: "{data.run}/metrics-token"' in path.read_text()
    assert data.read("run/metrics-token") == os.environ["METRICS_TOKEN"]
    assert mode(path) == mode(data.run / "metrics-token") == 0o600
    monkeypatch.delenv("METRICS_TOKEN")
    data.ensure_secrets()
    path = data.configure_prometheus(console_url="http://127.0.0.1:8000", scrape_seconds=15)
    assert f'credentials_file: "{data.root}/metrics-token"' in path.read_text()
    assert data.read("metrics-token") not in path.read_text()


def test_where_another_prometheus_does_the_work_ours_reads_nothing_and_evaluates_nothing(data: DataDir) -> None:
    path = data.configure_prometheus(
        console_url="http://127.0.0.1:8000", scrape_seconds=15, is_idle=True,
        alerts=config.Alerting(rules_dir="/rules", token_file="/token"),
    )  # fmt: skip
    assert yaml.safe_load(path.read_text()) == {"global": {}}
    assert (data.root / "prometheus").is_dir(), "the container still keeps its files there"


def test_secrets_of_the_environment_are_not_written_down(data: DataDir) -> None:
    assert os.environ["SECRET_KEY"]
    data.ensure_secrets()
    assert not (data.root / "secret-key").exists()


def test_inner_ports_survive_a_restart(data: DataDir) -> None:
    ports = data.ports()
    assert ports.keys() == {"valkey", "demo", "prometheus", "alertmanager"}
    data.note_ports(ports, redis_url="redis://:secret@127.0.0.1:1/0", prometheus_url="")
    assert data.ports() == ports
    assert mode(data.run / "ports.json") == 0o600
    noted = json.loads(data.read("run/ports.json"))
    assert noted["redis_url"].startswith("redis://")
    assert "prometheus_url" not in noted


@pytest.mark.parametrize("text", ["", "not json", "[1]", '{"valkey": "x", "demo": -5}', '{"valkey": 99999999}'])
def test_a_broken_note_of_ports_is_made_anew(data: DataDir, text: str) -> None:
    (data.run / "ports.json").write_text(text)
    assert all(1024 < port < 65536 for port in data.ports().values())


def test_the_embedded_server_is_durable_and_asks_for_a_password(data: DataDir) -> None:
    path, url = data.configure_valkey(7001)
    text = path.read_text()
    password = data.read("redis-password")
    assert url == f"redis://:{password}@127.0.0.1:7001/0"
    assert f"requirepass {password}" in text
    assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction", "bind 127.0.0.1"} <= set(
        text.splitlines()
    )
    assert mode(path) == 0o600
    assert data.configure_valkey(7001)[1] == url


def test_a_file_in_the_place_of_the_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("")
    with pytest.raises(UpError, match=r"Cannot use .*/var as data directory: File exists\. Set DATA_DIR to another\."):
        DataDir(tmp_path / "var")


def test_somebody_elses_folder_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, flags: False)
    with pytest.raises(UpError, match=r"Cannot read and write .*: it belongs to another user\. Set DATA_DIR"):
        DataDir(tmp_path)


def test_a_secret_that_cannot_be_read_is_named(data: DataDir) -> None:
    (data.root / "secret-key").mkdir()
    with pytest.raises(UpError, match="Cannot read .*secret-key"):
        data.read("secret-key")
