"""Dependencies are pinned, hashed, and name no place of their own."""

from __future__ import annotations

import json
import re

import pytest

from tests.servers import ROOT

LOCKS = ["requirements.txt", "requirements-dev.txt", "requirements-node.txt"]


def blocks(name: str) -> dict[str, str]:
    """Requirement → its whole block of a lock file."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return {re.split(r"[=\[ ]", line)[0]: line for line in text.splitlines() if line and not line.startswith("#")}


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_pinned_and_hashed(name: str) -> None:
    assert blocks(name)
    for package, block in blocks(name).items():
        assert re.match(r"[a-z0-9.-]+(\[[a-z,-]+\])?==\S+ ", block), package
        assert "--hash=sha256:" in block, package


@pytest.mark.parametrize("name", LOCKS)
def test_locks_name_no_registry_and_no_path(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|^-|file:|index", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["requirements", "requirements-dev", "requirements-node"])
def test_every_wanted_package_is_in_its_lock(name: str) -> None:
    wanted = (ROOT / f"{name}.in").read_text(encoding="utf-8").splitlines()
    names = {re.split(r"[\[<>=]", line)[0] for line in wanted if line and not line.startswith(("#", "-"))}
    assert names <= blocks(f"{name}.txt").keys()


def test_tests_run_on_the_versions_that_the_product_runs_on() -> None:
    runtime, development = blocks("requirements.txt"), blocks("requirements-dev.txt")
    assert {name: development.get(name) for name in runtime} == runtime


def test_front_end_packages_are_locked_by_hash_without_an_address() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    for package in packages.values():
        assert package["integrity"].startswith("sha512-")
        assert "resolved" not in package
    assert lock["packages"][""]["dependencies"] == json.loads((ROOT / "package.json").read_text())["dependencies"]
    assert "omit-lockfile-registry-resolved=true" in (ROOT / ".npmrc").read_text()
