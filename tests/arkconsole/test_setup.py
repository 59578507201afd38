"""`make setup` on machines where something is missing: one sentence that helps, exit code not 0."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.servers import ROOT


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_under_test", ROOT / "tools" / "setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    return module


def test_an_old_python_can_read_it() -> None:
    ast.parse((ROOT / "tools" / "setup.py").read_text(encoding="utf-8"), feature_version=(3, 7))


def test_a_missing_venv_module_is_named_with_its_package(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SystemExit, match="1"):
        setup.make_venv()
    version = ".".join(map(str, sys.version_info[:2]))
    assert f"apt-get install python{version}-venv" in capsys.readouterr().err


def test_an_old_python_is_refused_by_its_version_when_there_is_no_newer(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="1"):
        setup.choose_python()
    assert "Python 3.11 or newer is needed" in capsys.readouterr().err


def test_a_step_is_done_again_only_when_its_inputs_change(setup: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "app.css").write_text("a")
    (tmp_path / "lock").write_text("1")
    first = setup.fingerprint("static", "lock", "missing")
    assert setup.fingerprint("static", "lock", "missing") == first
    (tmp_path / "lock").write_text("2")
    second = setup.fingerprint("static", "lock", "missing")
    (tmp_path / "static" / "app.css").write_text("abc")
    assert len({first, second, setup.fingerprint("static", "lock", "missing")}) == 3


def test_a_failing_step_says_which(setup: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        setup.run("Fetching", sys.executable, "-c", "raise SystemExit(7)")
    assert "Fetching failed (exit code 7)" in capsys.readouterr().err
