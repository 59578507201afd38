"""Make what a test calls inside the running product: a model server, versions, endpoints and a key.

The stack has a database of its own, so this runs as a process with the stack's environment and uses the services that
the console's pages use. Run as a script it reads an ``Order`` as JSON from each line of stdin, and prints what it made as
another: Django takes a second of processor time to come up, so it comes up once for each stack.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

if TYPE_CHECKING:
    # Not at run time: `tests.servers`, which it needs, points Django at the test run's own servers.
    from tests.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 60


@dataclass(frozen=True)
class Wanted:
    """An endpoint named ``name`` on ``upstream``, a model that the server knows."""

    name: str
    upstream: str
    domain: str = "chat"
    rpm: int = 6_000
    tpm: int = 10_000_000
    is_stopped: bool = False


@dataclass(frozen=True)
class Order:
    """A model server and the endpoints on it. ``prefix`` keeps the names of one test file's things apart."""

    prefix: str
    server_url: str
    endpoints: Sequence[Wanted]


@dataclass(frozen=True)
class Made:
    """Endpoint ids and the public ids of their versions by the names that were wanted, and a key for all of them."""

    api_key: str
    endpoints: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def arrange(stack: Stack, order: Order) -> Made:
    """Have it made in ``stack``, and wait until the endpoints are what they shall be."""
    reply = _helper(json.dumps(stack.env)).ask(asdict(order))
    assert "made" in reply, reply["error"]
    return Made(**reply["made"])


@functools.cache
def _helper(env: str) -> _Helper:
    return _Helper(json.loads(env))


class _Helper:
    """This file as a process with the environment of a stack; it ends with the test run."""

    def __init__(self, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.sdk.arrange"],
            cwd=ROOT,
            env={**env, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self._end)

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(order)}\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], WAIT_SECONDS + 30)
        line = self._process.stdout.readline() if ready else ""
        assert line, "no reply; what it said is on stderr"
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _end(self) -> None:
        # It waits for nothing but the next order.
        self._process.kill()
        self._process.communicate()


def call_records(stack: Stack, *endpoint_ids: str) -> list[dict[str, Any]]:
    """The ledger's records of the endpoints' calls, oldest first."""
    # Read past Django, whose own database here is that of the test run.
    query = "SELECT * FROM metering_callrecord WHERE endpoint_id = ANY(%s) ORDER BY at, id"
    with psycopg.connect(stack.env["DATABASE_URL"], row_factory=dict_row) as connection:
        return connection.execute(query, [list(endpoint_ids)]).fetchall()


def _make(order: Order) -> Made:
    from django.utils import timezone

    from catalog import services as catalog
    from catalog.models import ModelVersion
    from endpoints import services as endpoints
    from endpoints.models import Endpoint, Status
    from iam.actors import SYSTEM
    from iam.models import Project

    server = catalog.add_server(
        settings=catalog.ServerSettings(name=f"{order.prefix} server", base_url=order.server_url),
        by=SYSTEM,
        now=timezone.now(),
    )
    assert catalog.probe_now(server=server, now=timezone.now()), order.server_url
    versions: dict[str, ModelVersion] = {}
    made: dict[str, Endpoint] = {}
    for wanted in order.endpoints:
        version = versions.get(wanted.upstream)
        if version is None:
            version = versions[wanted.upstream] = catalog.publish(
                server=server,
                publication=catalog.Publication(
                    upstream_model=wanted.upstream,
                    model_name=f"{order.prefix}-{wanted.upstream}",
                    version="260401",
                    domain=wanted.domain,
                    default_rpm=6_000,
                    default_tpm=10_000_000,
                ),
                by=SYSTEM,
                now=timezone.now(),
            )
        made[wanted.name] = endpoints.create(
            project=Project.objects.get(pk="default"),
            name=f"{order.prefix} {wanted.name}",
            description="",
            version=version,
            rpm=wanted.rpm,
            tpm=wanted.tpm,
            tags={},
            by=SYSTEM,
            now=timezone.now(),
        )
    _wait_for({endpoint.pk for endpoint in made.values()}, Status.RUNNING)
    stopped = [made[wanted.name] for wanted in order.endpoints if wanted.is_stopped]
    for endpoint in stopped:
        endpoints.stop(endpoint=endpoint, by=SYSTEM, now=timezone.now())
    _wait_for({endpoint.pk for endpoint in stopped}, Status.STOPPED)
    return Made(
        api_key=_key(order.prefix),
        endpoints={name: endpoint.pk for name, endpoint in made.items()},
        versions={name: endpoint.version.public_id for name, endpoint in made.items()},
    )


def _wait_for(ids: set[str], status: str) -> None:
    from endpoints.models import Endpoint

    deadline = time.monotonic() + WAIT_SECONDS
    while waiting := list(Endpoint.objects.filter(pk__in=ids).exclude(status=status)):
        assert time.monotonic() < deadline, [(endpoint.name, endpoint.status) for endpoint in waiting]
        time.sleep(0.1)


def _key(name: str) -> str:
    from django.utils import timezone

    from iam import services as iam
    from iam.actors import SYSTEM
    from iam.models import Project

    project = Project.objects.get(pk="default")
    return iam.create_api_key(project=project, name=name, by=SYSTEM, now=timezone.now())[1]


def _reply(line: str) -> dict[str, Any]:
    try:
        order = json.loads(line)
        order["endpoints"] = [Wanted(**wanted) for wanted in order["endpoints"]]
        return {"made": asdict(_make(Order(**order)))}
    except Exception:  # noqa: BLE001 – the test that asked tells it
        return {"error": traceback.format_exc()}


def _serve() -> None:
    """Reply to order after order, each from a process of its own: what a stack loses between them, its database or its
    Redis, leaves no broken connection behind."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            print(json.dumps(_reply(line)), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"error": f"the process ended with {status}"}), flush=True)


if __name__ == "__main__":
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "arkconsole.settings"
    django.setup()
    # Here, or each process of an order would import them again.
    for name in ("catalog", "endpoints", "iam"):
        importlib.import_module(f"{name}.services")
    _serve()
