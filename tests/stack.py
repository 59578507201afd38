"""The whole product as a newcomer runs it, `manage.py up`, in a data directory of its own."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.servers import ROOT, HeldPort, alertmanager_binary, dying_with_us, prometheus_binary, wait_until
from tools import setup

START_SECONDS = 120
STOP_SECONDS = 60


@functools.cache
def collect_static() -> None:
    """Bring what the stack serves up to date, once for all test runs side by side: collecting moves files about."""
    with (ROOT / "manage.py").open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        setup.collect_static()


class Stack:
    """One run of `manage.py up`; `start()` returns when it has printed its block.

    Without `env` it is the quick start: SQLite and the embedded Valkey. `output` is what a person sees at the terminal.
    """

    def __init__(self, data_dir: Path, env: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self._held = HeldPort(), HeldPort()
        self.port, self.gateway_port = (held.number for held in self._held)
        self.console_url = f"http://127.0.0.1:{self.port}"
        self.gateway_url = f"http://127.0.0.1:{self.gateway_port}"
        self.env = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ},
            "DATA_DIR": str(data_dir),
            "PORT": str(self.port),
            "GATEWAY_PORT": str(self.gateway_port),
            "DEMO": "1",
            "SCRAPE_SECONDS": "1",
            "EVALUATION_SECONDS": "1",
            "ALERT_KEEP_FIRING_SECONDS": "0",
            # Got once for the run, not once for each data directory.
            **({"PROMETHEUS_BIN": str(program)} if (program := prometheus_binary()) else {}),
            **({"ALERTMANAGER_BIN": str(program)} if (program := alertmanager_binary()) else {}),
            **({"PROMTOOL_BIN": str(program.with_name("promtool"))} if (program := prometheus_binary()) else {}),
            **({"AMTOOL_BIN": str(program.with_name("amtool"))} if (program := alertmanager_binary()) else {}),
            **(env or {}),
        }
        self._terminal = data_dir.with_name(f"{data_dir.name}-terminal.txt")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        return self._terminal.read_text(encoding="utf-8") if self._terminal.exists() else ""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self, terminal: int | None = None) -> None:
        """Start without waiting; what it says goes to this file descriptor, else to where `output` reads it."""
        collect_static()
        for held in self._held:
            held.release()
        with self._terminal.open("wb") as file:
            self._process = subprocess.Popen(
                dying_with_us(sys.executable, "manage.py", "up"),
                cwd=ROOT,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=file if terminal is None else terminal,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self) -> float:
        """Start; return the seconds until everything was ready."""
        began = time.monotonic()
        self.launch()

        def is_ready() -> bool:
            assert self.process.poll() is None, f"`manage.py up` ended by itself:\n{self.output}{self.logs()}"
            return "Ctrl-C stops everything" in self.output

        try:
            wait_until(is_ready, seconds=START_SECONDS, what="`manage.py up` is ready")
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{self.output}{self.logs()}") from None
        return time.monotonic() - began

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """End it whatever its state."""
        for held in self._held:
            held.release()
        if self._process is not None and self.is_running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.interrupt()
                return
            self._process.kill()
            self._process.wait()

    def left_over(self) -> list[list[str]]:
        """Command lines of processes that still work in its data directory."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_ours = process.environ().get("DATA_DIR") == str(self.data_dir)
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.cmdline())
        return found

    def logs(self, lines: int = 15) -> str:
        """The last lines of every log, for a failure's message."""
        tails = []
        for path in sorted((self.data_dir / "log").glob("*.log")):
            text = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
            tails.append("\n".join([f"--- {path.name}", *text]))
        return "\n".join(tails)

    # --- what it says of itself ---------------------------------------------------------------------------------------

    @functools.cached_property
    def admin_password(self) -> str:
        if "ADMIN_PASSWORD" in self.env:
            return self.env["ADMIN_PASSWORD"]
        found = re.search(r"admin / (\S+)", self.output)
        assert found, self.output
        return found[1]

    @property
    def demo_key(self) -> str:
        return (self.data_dir / "demo-key").read_text().strip()

    @property
    def demo_endpoint(self) -> str:
        return (self.data_dir / "demo-endpoint").read_text().strip()

    @property
    def demo_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['demo']}"

    @property
    def prometheus_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['prometheus']}"

    @property
    def alertmanager_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['alertmanager']}"

    @property
    def metrics_token(self) -> str:
        return (self.data_dir / "metrics-token").read_text().strip()

    @property
    def ports(self) -> dict[str, int]:
        ports: dict[str, int] = json.loads((self.data_dir / "run" / "ports.json").read_text())
        return ports

    def curl_line(self, said: str = "") -> str:
        """The command that the block tells people to try."""
        found = re.search(r"^\s*(curl .*)$", said or self.output, re.MULTILINE)
        assert found, said or self.output
        return found[1]

    def is_ready(self, url: str) -> bool:
        """Whether `/readyz` at this address answers 200 now."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/readyz", timeout=2, trust_env=False).status_code == 200
        return False

    # --- breaking it --------------------------------------------------------------------------------------------------

    def pid(self, name: str) -> int:
        """The process of the table that runs now; 0 while it is down."""
        with contextlib.suppress(OSError, ValueError):
            return int(json.loads((self.data_dir / "run" / f"{name}.pid").read_text())["pid"])
        return 0

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """End one process of the table as a crash would; return its old pid. It comes back by itself."""
        pid = self.pid(name)
        assert pid, f"{name} does not run"
        os.kill(pid, number)
        return pid

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        """These processes of the table and their children are killed, and stay down for the block; then wait for them.

        Whoever would start them again is held meanwhile, so that what dies within the block stays down as well.
        """
        pids = {name: self.pid(name) for name in names}
        assert all(pids.values()), f"not all run: {pids}"
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
        try:
            for pid in pids.values():
                os.killpg(pid, signal.SIGKILL)
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)
        for name, pid in pids.items():
            self.wait_back(name, pid)

    def wait_back(self, name: str, old_pid: int, *, seconds: float = 30) -> int:
        """Wait until `name` runs again after `kill`, as another process."""
        return int(str(wait_until(lambda: self.pid(name) not in {0, old_pid} and self.pid(name), seconds=seconds)))

    @staticmethod
    def wait_until(predicate: Callable[[], object], *, seconds: float = 30, what: str = "") -> object:
        return wait_until(predicate, seconds=seconds, what=what)
