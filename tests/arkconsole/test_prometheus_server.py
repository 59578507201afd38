"""Which Prometheus `up` runs, and getting one: once from Debian, the failures with an apt-get that fails as told."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from arkconsole import prometheus_server
from arkconsole.prometheus_server import ALERTMANAGER, CannotGet
from arkconsole.supervisor import UpError
from monitoring.installation import WhyOff, parse
from tests.servers import ON_SQLITE, AlertmanagerServer


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def a_prometheus(path: Path, version: str = "2.42.0") -> Path:
    return program(path, f'echo "prometheus, version {version} (branch: HEAD)"')


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is all of PATH, but for the shell and what it needs; no Prometheus, no apt-get."""
    folder = tmp_path / "machine"
    folder.mkdir()
    for name in ("sh", "cp", "mkdir", "chmod", "cat", "touch", "sleep"):
        (folder / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(folder))
    return folder


# --- which one --------------------------------------------------------------------------------------------------------


def test_the_machines_own_comes_before_the_one_that_was_fetched(machine: Path, tmp_path: Path) -> None:
    assert prometheus_server.find("", tmp_path) is None
    kept = a_prometheus(tmp_path / "bin" / "prometheus")
    assert prometheus_server.find("", tmp_path) == kept
    own = a_prometheus(machine / "prometheus")
    assert prometheus_server.find("", tmp_path) == own


def test_another_program_of_the_same_name_is_not_taken_for_it(machine: Path, tmp_path: Path) -> None:
    program(machine / "prometheus", "echo a film")
    assert prometheus_server.find("", tmp_path) is None


def test_one_that_cannot_ask_us_for_targets_is_too_old(machine: Path, tmp_path: Path) -> None:
    a_prometheus(machine / "prometheus", "2.24.1+ds")
    with pytest.raises(CannotGet) as refused:
        prometheus_server.find("", tmp_path)
    assert (refused.value.why, refused.value.detail) == (WhyOff.TOO_OLD, f"{machine}/prometheus, 2.24.1+ds")


def test_a_named_one_is_taken_or_refused_in_one_sentence(machine: Path, tmp_path: Path) -> None:
    named = a_prometheus(tmp_path / "own" / "prom", "3.1.0")
    assert prometheus_server.find(str(named), tmp_path) == named
    (tmp_path / "text").write_text("")
    for wanted, says in (
        (str(tmp_path / "nowhere"), "does not exist"),
        (str(tmp_path / "text"), "may not be executed"),
        (str(program(tmp_path / "other", "echo hello")), "is not a Prometheus"),
        (str(a_prometheus(tmp_path / "old", "2.15.2")), "is too old: 2.15.2"),
    ):
        with pytest.raises(UpError, match=rf"PROMETHEUS_BIN='{wanted}' {says}"):
            prometheus_server.find(wanted, tmp_path)


def test_alertmanager_goes_by_debians_name_or_its_own(machine: Path, tmp_path: Path) -> None:
    program(machine / "alertmanager", 'echo "alertmanager, version 0.28.1 (branch: HEAD)"')
    assert prometheus_server.find("", tmp_path, ALERTMANAGER) == machine / "alertmanager"
    program(machine / "prometheus-alertmanager", 'echo "alertmanager, version 0.15.3"')
    with pytest.raises(CannotGet) as refused:
        prometheus_server.find("", tmp_path, ALERTMANAGER)
    assert refused.value.why == WhyOff.TOO_OLD
    with pytest.raises(UpError, match=r"ALERTMANAGER_BIN='\S+' is not an Alertmanager"):
        prometheus_server.find(str(a_prometheus(tmp_path / "p")), tmp_path, ALERTMANAGER)


# --- getting it -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(ON_SQLITE or shutil.which("apt-get") is None, reason="needs Debian's archive")
def test_debians_package_is_unpacked_and_nothing_is_installed(tmp_path: Path) -> None:
    got = prometheus_server.get(tmp_path / "prometheus")
    assert prometheus_server.version(got)
    assert {path.name for path in got.parent.iterdir()} == {"prometheus", "promtool"}
    assert [path.name for path in (tmp_path / "prometheus").iterdir()] == ["bin"], "nothing else is left behind"
    installed = subprocess.run(["dpkg-query", "--show", "prometheus"], capture_output=True, text=True, check=False)
    own = shutil.which("prometheus")
    assert own or installed.returncode, "the package is unknown to the machine"


@pytest.mark.skipif(ON_SQLITE or shutil.which("apt-get") is None, reason="needs Debian's archive")
def test_a_fetched_alertmanager_starts_without_the_files_that_its_package_would_install(tmp_path: Path) -> None:
    """What every test of alerts runs on was got by the same code; here it has to take a configuration."""
    server = AlertmanagerServer()
    server.config_path.write_text(
        '{"route": {"receiver": "x"}, "receivers": [{"name": "x", "webhook_configs": [{"url": "http://127.0.0.1:1"}]}]}'
    )
    try:
        server.start()
        assert server.alerts() == []
    finally:
        server.stop()


def fake_apt(machine: Path, *, lists: str = "", download: str) -> None:
    """An apt-get whose `download` does as told; with `lists` it says so until `update` has been run."""
    program(
        machine / "apt-get",
        f"""
case "$*" in
  *update*) touch updated; exit 0;;
esac
if [ -n "{lists}" ] && [ ! -e updated ]; then echo "E: {lists}"; exit 100; fi
{download}
""",
    )
    program(
        machine / "dpkg-deb",
        """
[ "$(cat "$2")" = good ] || { echo "dpkg-deb: error: not a Debian format archive" >&2; exit 2; }
mkdir -p "$3/usr/bin"
for name in prometheus promtool; do
  printf '#!/bin/sh\\necho "prometheus, version 2.42.0"\\n' > "$3/usr/bin/$name"; chmod 755 "$3/usr/bin/$name"
done
""",
    )


GOOD = "printf good > prometheus_2_amd64.deb"


def test_with_package_lists_it_takes_one_download(machine: Path, tmp_path: Path) -> None:
    fake_apt(machine, download=GOOD)
    assert prometheus_server.get(tmp_path / "p") == tmp_path / "p" / "bin" / "prometheus"
    assert prometheus_server.find("", tmp_path / "p"), "the next start finds it"


@pytest.mark.parametrize(
    "complaint", ["Unable to locate package prometheus", "Failed to fetch http://x  404  Not Found"]
)
def test_missing_or_old_package_lists_are_got_for_this_alone(machine: Path, tmp_path: Path, complaint: str) -> None:
    fake_apt(machine, lists=complaint, download=GOOD)
    assert prometheus_server.get(tmp_path / "p").exists()


def test_the_files_that_a_program_looks_for_are_put_beside_it(machine: Path, tmp_path: Path) -> None:
    program(machine / "apt-get", "printf good > prometheus-alertmanager_2_amd64.deb")
    share = ALERTMANAGER.share
    program(
        machine / "dpkg-deb",
        f"""
mkdir -p "$3/usr/bin" "$3{share}"
for name in prometheus-alertmanager amtool; do
  printf '#!/bin/sh\\n# {share}/ui\\necho "alertmanager, version 0.25.0"; cat "{share}//default.tmpl"\\n' > "$3/usr/bin/$name"
  chmod 755 "$3/usr/bin/$name"
done
echo a template > "$3{share}/default.tmpl"
""",
    )
    got = prometheus_server.get(tmp_path / "a", ALERTMANAGER)
    assert {path.name for path in got.parent.iterdir()} == {"prometheus-alertmanager", "amtool", "default.tmpl"}
    assert f"{share}/ui" in got.read_text(), "what is longer is another place"


def test_what_a_killed_attempt_left_is_removed_and_an_old_program_replaced(machine: Path, tmp_path: Path) -> None:
    fake_apt(machine, download=GOOD)
    a_prometheus(tmp_path / "bin" / "prometheus", "0.1")
    (tmp_path / "getting-half").mkdir()
    assert prometheus_server.version(prometheus_server.get(tmp_path)) == "2.42.0"
    assert not list(tmp_path.glob("getting-*"))


@pytest.mark.parametrize(
    ("download", "why", "detail"),
    [
        (
            "echo \"E: Failed to fetch http://x/y.deb  Temporary failure resolving 'deb.example'\"; exit 100",
            WhyOff.DOWNLOAD,
            "Temporary failure resolving 'deb.example'",
        ),
        ("echo 'E: Unable to locate package prometheus'; exit 100", WhyOff.NO_PACKAGE, "Unable to locate package prometheus"),
        ("printf bad > prometheus_2_amd64.deb", WhyOff.NO_PACKAGE, "error: not a Debian format archive"),
    ],
)  # fmt: skip
def test_a_failure_is_noted_for_the_console_and_leaves_nothing(
    machine: Path, tmp_path: Path, download: str, why: WhyOff, detail: str
) -> None:
    fake_apt(machine, download=download)
    noted = tmp_path / "prometheus.json"
    assert prometheus_server.main([str(tmp_path / "p"), str(noted)]) == 1
    found = parse(noted.read_text())
    assert (found.state, found.why, found.detail) == ("off", why, detail)
    assert list((tmp_path / "p").iterdir()) == []


def test_a_silent_server_is_given_up(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_apt(machine, download="exec sleep 60")
    monkeypatch.setattr(prometheus_server, "GET_SECONDS", 0.2)
    with pytest.raises(CannotGet) as refused:
        prometheus_server.get(tmp_path)
    assert refused.value.why == WhyOff.DOWNLOAD


def test_other_systems_are_told_what_to_do(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = prometheus_server.why_not_gettable()
    assert reason
    assert (reason.why, reason.detail) == (WhyOff.NO_PACKAGE, "no apt-get")
    monkeypatch.setattr(sys, "platform", "darwin")
    reason = prometheus_server.why_not_gettable()
    assert reason
    assert reason.why == WhyOff.MACOS
