"""From the click to the last gateway worker: how long a roll-back takes until no new call goes to the target.

Two workers, each called without a pause on a connection of its own, so that what is measured is the worker that obeys last.
The roll-back itself is the service that the page calls. Everything else, the callers too, shares the machine with them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from cryptography.fernet import Fernet

from bench.run import ROOT, compile_c, free_port, running, tool, wait_for
from bench.site import ENDPOINT

WORKERS = 2
ROUNDS = 100
ROUNDS_WITHOUT_REDIS = 20
GOAL_SECONDS = 1.0


@dataclass(frozen=True)
class RollBack:
    """Seconds until the service had committed, and until no worker took a call to the target any more."""

    service: float
    from_click: float
    from_commit: float


class Caller:
    """Calls one worker without a pause; `model` answered last, `target_at` is when its last call to the target began."""

    def __init__(self, connection: http.client.HTTPConnection, key: str, target: str) -> None:
        self.model = ""
        self.target_at = 0.0
        self.failures = 0
        self._connection, self._key, self._target = connection, key, target
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._call_on, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join(10)

    def _call_on(self) -> None:
        body = json.dumps({"model": ENDPOINT, "messages": [{"role": "user", "content": "hi"}]})
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        while not self._is_over.is_set():
            began_at = time.monotonic()
            self._connection.request("POST", "/api/v3/chat/completions", body, headers)
            answer = self._connection.getresponse()
            found = json.loads(answer.read())
            self.failures += answer.status != 200
            self.model = found.get("model", "")
            if self.model == self._target:
                self.target_at = began_at
            self._is_over.wait(0.002)


def connect(port: int, gateway_pid: int) -> list[http.client.HTTPConnection]:
    """One connection to each worker."""
    found: dict[int, http.client.HTTPConnection] = {}
    while len(found) < WORKERS:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        ours = connection.sock.getsockname()[1]
        for child in psutil.Process(gateway_pid).children():
            with contextlib.suppress(psutil.Error):
                if any(each.raddr and each.raddr.port == ours for each in child.net_connections("tcp")):
                    found.setdefault(child.pid, connection)
    return list(found.values())


@contextlib.contextmanager
def site(folder: Path) -> Iterator[tuple[int, int, str, int]]:
    """The gateway's port and process, a key, and Redis's process; this process has the product's settings then."""
    key = "bench-key-" + secrets.token_hex(16)
    ports = {name: free_port() for name in ("mock", "redis", "gateway")}
    os.environ.update(
        DATA_DIR=str(folder / "data"),
        DATABASE_URL="",
        REDIS_URL=f"redis://127.0.0.1:{ports['redis']}/0",
        SECRET_KEY=secrets.token_hex(32),
        FIELD_ENCRYPTION_KEY=Fernet.generate_key().decode(),
        GATEWAY_WORKERS=str(WORKERS),
        DJANGO_SETTINGS_MODULE="arkconsole.settings",
    )
    (folder / "data").mkdir()
    env = dict(os.environ)
    seed = [sys.executable, "-m", "bench.site", f"http://127.0.0.1:{ports['mock']}/v1", key]
    subprocess.run(seed, cwd=ROOT, env=env, check=True)
    uvicorn = [
        sys.executable, "-m", "uvicorn", "gateway.asgi:app", "--host", "127.0.0.1", "--port", str(ports["gateway"]),
        "--workers", str(WORKERS), "--loop", "uvloop", "--http", "httptools", "--lifespan", "on", "--no-access-log",
        "--no-proxy-headers", "--timeout-keep-alive", "75", "--log-level", "warning",
    ]  # fmt: skip
    redis_command = [tool("redis-server", "redis-server"), "--port", str(ports["redis"]), "--bind", "127.0.0.1",
                     "--save", "", "--dir", str(folder)]  # fmt: skip
    log = folder / "log"
    with contextlib.ExitStack() as stack:
        stack.enter_context(running([compile_c("mock", folder), str(ports["mock"])], core=1, log=log, env=env))
        redis_pid = stack.enter_context(running(redis_command, core=1, log=log, env=env))
        wait_for(ports["mock"])
        wait_for(ports["redis"])
        gateway_pid = stack.enter_context(running(uvicorn, core=0, log=log, env=env))
        wait_for(ports["gateway"], "/readyz")
        yield ports["gateway"], gateway_pid, key, redis_pid


def wait_until(predicate: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError("a worker does not obey")
        time.sleep(0.001)


def measure() -> list[str]:
    """Roll back again and again, with Redis and without; the lines to print."""
    with tempfile.TemporaryDirectory(prefix="ark-bench-") as name, site(Path(name)) as (port, pid, key, redis_pid):
        import django

        django.setup()
        target = _add_target()
        callers = [Caller(connection, key, target) for connection in connect(port, pid)]
        try:
            with_redis = [_round(callers, target) for _number in range(ROUNDS)]
            psutil.Process(redis_pid).kill()
            without = [_round(callers, target) for _number in range(ROUNDS_WITHOUT_REDIS)]
        finally:
            for caller in callers:
                caller.stop()
    failures = sum(caller.failures for caller in callers)
    return [
        *_lines("with Redis", with_redis),
        *_lines("without Redis", without),
        f"  failed calls meanwhile: {failures}",
    ]


def _add_target() -> str:
    """A second version on the same server; its public id."""
    from catalog.models import Deployment, ModelServer, ModelVersion
    from endpoints.models import Endpoint

    source = Endpoint.objects.select_related("version__model").get(pk=ENDPOINT).version
    version = ModelVersion.objects.create(model=source.model, version="2", is_switchable=True)
    Deployment.objects.create(version=version, server=ModelServer.objects.get(), upstream_model="bench-up")
    return version.public_id


def _round(callers: list[Caller], target: str) -> RollBack:
    """Up to 100 % by the door that ticks use, then back by the service that the page calls."""
    from django.utils import timezone

    from catalog.models import ModelVersion
    from endpoints import switch_moves, switch_services
    from endpoints.models import Endpoint, SwitchEvent, VersionSwitch
    from endpoints.switching import Rung
    from iam.actors import SYSTEM

    [version] = [each for each in ModelVersion.objects.select_related("model") if each.public_id == target]
    switch = switch_services.start(
        endpoint=Endpoint.objects.select_related("project", "version__model").get(pk=ENDPOINT),
        target=version, ladder=[Rung(100, 3600)], gates=None, on_breach=VersionSwitch.OnBreach.HOLD, warm=False,
        confirmed=True, reason="bench", by=SYSTEM, now=timezone.now(),
    )  # fmt: skip
    step = switch_moves.Step(to=VersionSwitch.State.CLIMBING, rung=0, kind=SwitchEvent.Kind.ADVANCED_BY_HAND)
    switch_moves.move(switch=switch, step=step, now=timezone.now())
    wait_until(lambda: all(caller.model == target for caller in callers))
    clicked_at = time.monotonic()
    switch_services.roll_back_now(switch=switch, reason="", by=SYSTEM, now=timezone.now())
    done_at = time.monotonic()
    wait_until(lambda: all(caller.model != target for caller in callers))
    last = max(caller.target_at for caller in callers)
    return RollBack(done_at - clicked_at, max(last - clicked_at, 0.0), max(last - done_at, 0.0))


def _lines(name: str, found: list[RollBack]) -> list[str]:
    def p99(values: list[float]) -> float:
        return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]

    def text(values: list[float]) -> str:
        return f"{statistics.median(values) * 1000:.0f} / {p99(values) * 1000:.0f} / {max(values) * 1000:.0f} ms"

    clicks, commits = [each.from_click for each in found], [each.from_commit for each in found]
    verdict = "met" if p99(clicks) <= GOAL_SECONDS else "**missed**"
    return [
        f"Roll-back to effect on the last of {WORKERS} workers, {name}, {len(found)} times, p50 / p99 / most:",
        f"  {text(clicks)} from the click, {text(commits)} after the commit; goal p99 {GOAL_SECONDS:g} s: {verdict}",
    ]
