"""Every variable that is read is in the table that operators read."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.servers import ROOT

ROOMS = ("arkconsole", "monitoring", "gateway", "endpoints", "metering", "catalog", "iam", "audit", "common")
# Read or set for the children of `up`, by Python and Django themselves.
NOT_OURS = {"DJANGO_SETTINGS_MODULE", "PYTHONUNBUFFERED"}
SETTINGS_HELPERS = {
    "_url",
    "_number",
    "_secret_from_data_dir",
    "_token_from_data_dir",
    "_zone",
    "_networks",
    "_headers",
}


def documented_variables() -> set[str]:
    """The names in the table of `docs/configuration.md`."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| \*{0,2}`([A-Z_]+)`", text, re.MULTILINE))


def _read_variables(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.args[0].value
            called = ast.unparse(node.func)
            is_reader = called.startswith(("env.", "os.environ", "os.getenv")) or called in SETTINGS_HELPERS
            if is_reader and isinstance(name, str) and re.fullmatch(r"[A-Z][A-Z_]+", name):
                yield name
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            yield ast.unparse(node.slice).strip("'")


def variables_in_use() -> set[str]:
    found = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            if "migrations" not in path.parts:
                found |= set(_read_variables(path.read_text(encoding="utf-8")))
    return found - NOT_OURS


def test_every_variable_that_is_read_is_documented() -> None:
    assert variables_in_use() - documented_variables() == set()


def test_the_table_names_nothing_that_does_not_exist() -> None:
    assert documented_variables() - variables_in_use() == set()


@pytest.mark.parametrize("name", ["SECRET_KEY", "DATABASE_URL", "GATEWAY_WORKERS", "CALL_RECORD_DAYS"])
def test_the_search_for_variables_finds_what_we_know_of(name: str) -> None:
    assert name in variables_in_use()


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"PORT": "18000", "GATEWAY_PORT": "18000"}, "PORT and GATEWAY_PORT are both 18000"),
        ({"TIME_ZONE": "Mars/Base"}, "TIME_ZONE='Mars/Base': no such time zone"),
        ({"TRUSTED_PROXIES": "10.0.0.0/8, nonsense"}, "TRUSTED_PROXIES: ' nonsense' is neither"),
        ({"METRICS_TOKEN": "short"}, "METRICS_TOKEN: must be 16 or more letters"),
        ({"PROMETHEUS_URL": "http://me:secret@host"}, "name PROMETHEUS_USERNAME and PROMETHEUS_PASSWORD apart"),
        ({"PROMETHEUS_MAX_SIZE": "much"}, "PROMETHEUS_MAX_SIZE='much': write it like 20GB"),
        ({"PROMETHEUS_HEADERS": "team"}, "PROMETHEUS_HEADERS: write it like X-Scope-OrgID=team"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name_in_one_line(variables: dict[str, str], says: str) -> None:
    ran = _manage("check", **variables)

    assert ran.returncode != 0
    assert says in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_database_that_does_not_answer_is_said_in_one_line() -> None:
    ran = _manage("prepare", DATABASE_URL="postgres://ark:secret@127.0.0.1:1/ark")

    assert ran.returncode != 0
    assert ran.stderr.startswith("CommandError: The database of DATABASE_URL does not answer")
    assert len(ran.stderr.splitlines()) == 1
    assert "secret" not in ran.stderr


def test_prometheus_gets_in_by_the_inner_name_and_without_tls_everybody_else_is_redirected() -> None:
    code = (
        "from django.test import Client; ask = Client(headers={'host': '127.0.0.1:8000'}).get; "
        "print([ask(path).status_code for path in ('/metrics', '/monitoring/targets', '/')])"
    )
    ran = _manage("shell", "-v", "0", "-c", code, CONSOLE_URL="https://ark.example.com")

    assert ran.stdout.strip().splitlines()[-1:] == ["[401, 401, 301]"], ran.stderr


def test_the_console_does_not_start_when_the_checks_of_django_find_something() -> None:
    code = (
        "from django.conf import settings; settings.CSRF_TRUSTED_ORIGINS = ['ark.example.com']\n"
        "from django.core.management import CommandError\n"
        "try: import arkconsole.wsgi\n"
        "except CommandError as error: print(error)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )

    assert "(4_0.E001)" in ran.stdout, ran.stderr


def _manage(command: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", command, *arguments], cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
