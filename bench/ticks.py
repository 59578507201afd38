"""What a tick costs with a thousand open switches: all due at once and held, all due at once and moved, and none due.

On the database of the environment, which `measure` makes: SQLite in a temporary folder, and PostgreSQL where it is
installed. Every switch has gates and figures of seven soaks, so that nothing is left out that a real one has.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.fernet import Fernet

from bench.run import ROOT, free_port, running, tool, wait_for

OPEN = 1_000
ROUNDS = 5
GOAL_SECONDS = 1.0


def measure() -> list[str]:
    """The lines to print, for each database."""
    return [*_on_sqlite(), *_on_postgres()]


def _on_sqlite() -> list[str]:
    with tempfile.TemporaryDirectory(prefix="ark-bench-") as name:
        return _in_child("SQLite", "", Path(name))


def _on_postgres() -> list[str]:
    # The tests' own server: initdb and postgres in a temporary folder, gone with us.
    from tests.servers import PostgresServer

    server = PostgresServer()
    server.start()
    try:
        with tempfile.TemporaryDirectory(prefix="ark-bench-") as name:
            return _in_child("PostgreSQL", server.create_database("bench"), Path(name))
    finally:
        server.stop()


def _in_child(name: str, database_url: str, folder: Path) -> list[str]:
    """Run `python -m bench.ticks` in a process with settings of its own, and Redis beside it."""
    port = free_port()
    env = {
        **os.environ,
        "DATA_DIR": str(folder),
        "DATABASE_URL": database_url,
        "REDIS_URL": f"redis://127.0.0.1:{port}/0",
        "SECRET_KEY": secrets.token_hex(32),
        "FIELD_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "DJANGO_SETTINGS_MODULE": "arkconsole.settings",
    }
    redis_command = [tool("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                     "--dir", str(folder)]  # fmt: skip
    with running(redis_command, core=1, log=folder / "log", env=env):
        wait_for(port)
        done = subprocess.run(
            [sys.executable, "-m", "bench.ticks", name], cwd=ROOT, env=env, check=True, capture_output=True, text=True
        )
    return done.stdout.splitlines()


def _seed(now: datetime) -> None:
    from django.core.management import call_command

    from catalog.models import Deployment, FoundationModel, ModelServer, ModelVersion
    from endpoints import switching
    from endpoints.models import Endpoint, Status, VersionSwitch
    from iam.models import Project
    from metering.health import WHOLE
    from metering.models import HealthSum

    call_command("migrate", verbosity=0, interactive=False)
    project, _made = Project.objects.get_or_create(pk="default", defaults={"name": "Default"})
    server = ModelServer.objects.create(name="mock", base_url="http://127.0.0.1:1/v1", state="up", probed_at=now)
    model = FoundationModel.objects.create(name="bench", display_name="Bench")
    source, target = (ModelVersion.objects.create(model=model, version=name) for name in ("1", "2"))
    for version in (source, target):
        Deployment.objects.create(version=version, server=server, upstream_model="bench-up")
    endpoints = [
        Endpoint(id=f"ep-{number}", project=project, version=source, name=f"bench {number}", rpm=600, tpm=1_000_000,
                 status=Status.RUNNING, status_at=now, created_at=now, updated_at=now)
        for number in range(OPEN)
    ]  # fmt: skip
    Endpoint.objects.bulk_create(endpoints)
    ladder = switching.stored_ladder(switching.LADDERS["default"])
    gates = switching.stored_gates(switching.DEFAULT_GATES)
    switches = VersionSwitch.objects.bulk_create(
        VersionSwitch(endpoint=endpoint, source=source, target=target, state="climbing", rung=5, weight=40, soak=6,
                      moves=6, ladder=ladder, gates=gates, ticked_at=now, check_at=now, created_at=now)
        for endpoint in endpoints
    )  # fmt: skip
    buckets = {str(index): 7 for index in range(8, 30)}
    HealthSum.objects.bulk_create(
        (
            HealthSum(switch_id=switch.pk, rung=rung, version_id=version.pk, at=now, calls=200, errors=1,
                      first_token=buckets, duration=buckets)
            for switch in switches for rung in (*range(7), WHOLE) for version in (source, target)
        ),
        batch_size=1_000,
    )  # fmt: skip


def _rounds(now: datetime, *, moves: bool) -> list[tuple[float, float]]:
    """(seconds, seconds of our own CPU) of ticks that find every switch due."""
    from common.models import TickHeartbeat
    from endpoints import switch_tick
    from endpoints.models import VersionSwitch

    found = []
    for number in range(ROUNDS):
        moment = now + timedelta(seconds=number)
        soaked = 1e6 if moves else 0
        VersionSwitch.objects.update(
            check_at=moment, ticked_at=moment, soaked_seconds=soaked, rung=5, weight=40, soak=6
        )
        TickHeartbeat.beat(name="metering.drain", now=moment)
        began_at, cpu = time.perf_counter(), time.process_time()
        ticked = switch_tick.tick(now=moment)
        found.append((time.perf_counter() - began_at, time.process_time() - cpu))
        assert (ticked.looked_at, ticked.moved) == (OPEN, OPEN if moves else 0), ticked
    return found


def main(name: str) -> None:
    import django

    django.setup()
    from django.utils import timezone

    from endpoints import switch_tick

    now = timezone.now()
    _seed(now)
    print(f"A tick with {OPEN:,} open switches on {name}, best / worst of {ROUNDS}, and CPU of the worker:")
    for text, moves in (("all due, all held", False), ("all due, all moved", True)):
        found = _rounds(now, moves=moves)
        best, worst, cpu = min(found)[0], max(found)[0], min(cpu for _wall, cpu in found)
        verdict = "met" if best <= GOAL_SECONDS else "**missed**"
        print(f"  {text}: {best:.2f} / {worst:.2f} s, {cpu:.2f} s of CPU; goal {GOAL_SECONDS:g} s: {verdict}")
    began_at = time.perf_counter()
    switch_tick.tick(now=now)
    print(f"  none due: {(time.perf_counter() - began_at) * 1000:.0f} ms")


if __name__ == "__main__":
    main(sys.argv[1])
