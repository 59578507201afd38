"""The process table: what `manage.py up` runs here, and `docker-compose.yml` runs in containers.

A later part of the product adds its process to `process_table` and gets restarts, logs and the orderly end for free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alerts import installation as alertmanager
from monitoring import config, installation


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the table.

    `needs` names what has to be ready before the first start (and is ended later). `ready` is the address that says
    so: `http://…` must answer 200, `redis://…` a ping; without one a process is ready as soon as it runs. A step
    (`is_step`) runs once and is ready when it has ended with exit code 0. It runs in `folder`, by default in the product's.

    The rest is started without waiting for what `is_optional`, and runs on when that cannot be started: whoever put it
    into the table says so (`Supervisor.settle`).
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    ready: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    is_step: bool = False
    is_optional: bool = False
    stop_seconds: float = 12


@dataclass(frozen=True, slots=True)
class Site:
    """Where the table runs: addresses, folders, and which of the optional parts are wanted.

    `valkey` is the command of the embedded server, empty when `REDIS_URL` names another; `demo_port` is 0 without demo.
    `prometheus` and `alertmanager` are the programs to run, "" for none; those that are `missing` are got first.
    """

    data_dir: Path
    bind_host: str = "127.0.0.1"
    port: int = 8000
    gateway_port: int = 8001
    gateway_workers: int = 2
    demo_port: int = 0
    valkey: tuple[str, ...] = ()
    redis_url: str = ""
    prometheus: str = ""
    prometheus_port: int = 0
    prometheus_max_size: str = config.MAX_SIZE
    is_prometheus_missing: bool = False
    alertmanager: str = ""
    alertmanager_port: int = 0
    is_alertmanager_missing: bool = False
    console_url: str = "http://127.0.0.1:8000"
    admin_password: str = ""
    python: str = "python"

    @property
    def probe_host(self) -> str:
        """The address under which this machine itself reaches what listens on `bind_host`."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.bind_host, self.bind_host)
        return _bracketed(host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def process_table(site: Site) -> list[Process]:
    """Everything that runs, in reading order; `needs` decides the order of starting."""
    manage = (site.python, "manage.py")
    # Without Celery's own run of Django's checks: it shows nobody what they find, and takes each process to the views.
    celery = (site.python, "-m", "celery", "--app", "arkconsole.celery:app", "--skip-checks", "--quiet")
    beat = (site.python, "-m", "celery", "--app", "arkconsole.beat:app", "--quiet")
    worker_flags = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO", "-O", "fair")
    redis = ("valkey",) if site.valkey else ()
    # Ended after the gateway, so that calls under way come to their end; up before it, so that the first call is answered.
    demo = ("demo",) if site.demo_port else ()
    table: list[Process] = []
    if site.valkey:
        table.append(Process("valkey", site.valkey, ready=site.redis_url))
    made = {"ADMIN_PASSWORD": site.admin_password} if site.admin_password else {}
    table.append(Process("prepare", (*manage, "prepare"), env=made, is_step=True))
    if site.demo_port:
        table += [
            Process(
                "demo",
                (
                    *(site.python, "-m", "demo", "--port", str(site.demo_port)),
                    *("--state", str(site.data_dir / "demo-state")),
                ),
                ready=f"http://127.0.0.1:{site.demo_port}/healthz",
            ),
            Process("seed-demo", (*manage, "seed_demo"), needs=("prepare", "demo"), is_step=True),
        ]
    table += [
        Process(
            "console",
            (
                *(site.python, "-m", "gunicorn", "arkconsole.wsgi:application"),
                *("--bind", f"{_bracketed(site.bind_host)}:{site.port}", "--worker-class", "gthread", "--workers", "2"),
                *("--threads", "8", "--timeout", "60", "--graceful-timeout", "8", "--keep-alive", "30"),
                *("--no-control-socket", "--preload"),
            ),
            needs=("prepare", *redis),
            ready=f"http://{site.probe_host}:{site.port}/readyz",
        ),
        Process(
            "gateway",
            (
                *(site.python, "-m", "gateway.serve", "gateway.asgi:app"),
                *("--host", site.bind_host, "--port", str(site.gateway_port), "--workers", str(site.gateway_workers)),
                *("--loop", "uvloop", "--http", "httptools", "--lifespan", "on", "--no-access-log"),
                *("--no-server-header", "--no-proxy-headers", "--timeout-keep-alive", "75", "--backlog", "4096"),
                # A worker that computes for a while is not a dead one: uvicorn's own patience of 5 s is too short here.
                *("--timeout-graceful-shutdown", "8", "--timeout-worker-healthcheck", "30"),
            ),
            needs=("prepare", *redis, *demo),
            ready=f"http://{site.probe_host}:{site.gateway_port}/readyz",
        ),
        Process(
            "worker-ticks",
            # Processes, since only they can be ended by the time limit when a tick hangs.
            (*celery, "worker", "-Q", "ticks", "-n", "ticks@%h", "-P", "prefork", "-c", "2", *worker_flags),
            needs=("prepare", *redis),
        ),
        Process(
            "worker-slow",
            # Threads: probes and deliveries wait for others, and have deadlines of their own.
            (*celery, "worker", "-Q", "slow", "-n", "slow@%h", "-P", "threads", "-c", "8", *worker_flags),
            needs=("prepare", *redis),
        ),
        Process(
            "beat",
            (*beat, "beat", "--pidfile=", "--schedule", str(site.data_dir / "run" / "celerybeat-schedule")),
            needs=("prepare", *redis),
        ),
    ]
    if site.prometheus:
        table += _prometheus(site)
    if site.alertmanager:
        table += _alertmanager(site)
    return table


def _prometheus(site: Site) -> list[Process]:
    listen = f"127.0.0.1:{site.prometheus_port}"
    flags = config.server_flags(
        config_file=str(site.data_dir / "run" / "prometheus.yml"),
        data_dir=str(site.data_dir / "prometheus" / "data"),
        listen=listen,
        console_url=site.console_url,
        max_size=site.prometheus_max_size,
    )
    getting = [_getting(site, "prometheus", "prometheus", installation.NOTE)] if site.is_prometheus_missing else []
    # It writes its head block to disk at the end.
    return [*getting, _server("prometheus", (site.prometheus, *flags), listen, getting, stop_seconds=20)]


def _alertmanager(site: Site) -> list[Process]:
    listen = f"127.0.0.1:{site.alertmanager_port}"
    flags = alertmanager.server_flags(
        config_file=str(site.data_dir / "alertmanager" / "alertmanager.yml"),
        data_dir=str(site.data_dir / "alertmanager" / "data"),
        listen=listen,
        console_url=site.console_url,
    )
    getting = (
        [_getting(site, "prometheus-alertmanager", "alertmanager", alertmanager.NOTE)]
        if site.is_alertmanager_missing
        else []
    )
    # One that was fetched finds its templates where it runs.
    folder = str(Path(site.alertmanager).parent)
    return [
        *getting,
        _server("alertmanager", (site.alertmanager, *flags), listen, getting, stop_seconds=12, folder=folder),
    ]


def _getting(site: Site, package: str, name: str, note: Path) -> Process:
    folder = str(site.data_dir / name)
    return Process(
        f"get-{name}",
        (site.python, "-m", "arkconsole.prometheus_server", folder, str(site.data_dir / note), package),
        is_step=True,
        is_optional=True,
    )


def _server(
    name: str, command: tuple[str, ...], listen: str, getting: list[Process], *, stop_seconds: float, folder: str = ""
) -> Process:
    return Process(
        name,
        command,
        # The step `prepare` writes its configuration.
        needs=("prepare", *(step.name for step in getting)),
        ready=f"http://{listen}/-/ready",
        is_optional=True,
        stop_seconds=stop_seconds,
        folder=folder,
    )
