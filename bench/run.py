"""The gateway against nginx as a plain proxy, in one interleaved run: `make bench`.

Both stand on one core before the same mock model server (`mock.c`) under the same load (`load.c`), which share the other
core with Redis and the drain. Everything of ours is on: keys, routes from the product's database, limits in Redis, usage
events, metrics, the drain. CPU is the kernel's own clock of each process. Ratios are what counts; the machine is shared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.fernet import Fernet

from bench.site import ENDPOINT

ROOT = Path(__file__).resolve().parent.parent
KEY = "bench-key-" + secrets.token_hex(16)
CASES = (
    ("1 connection", 1, False),
    ("16 connections", 16, False),
    ("64 connections", 64, False),
    ("200 streams", 200, True),
)
GOALS = {
    "CPU per call at 64 connections, × nginx": 7.0,
    "CPU per chunk at 200 streams, × nginx": 3.0,
    "first chunk p99 added at 200 streams, ms": 10.0,
    "memory of a worker, MB": 100.0,
}


@dataclass
class Target:
    """What is measured: where it listens, and the processes whose CPU is its price."""

    name: str
    port: int
    pids: list[int]
    runs: dict[str, list[dict[str, float]]] = field(default_factory=dict)


class Cannot(Exception):
    """What is missing, in one sentence."""


def tool(name: str, package: str) -> str:
    """The path of a program; from Debian's package, unpacked aside (never installed, so no daemon starts)."""
    if found := shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin"):
        return found
    folder = ROOT / "var" / "bench" / package
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True, capture_output=True)
            for file in folder.glob("*.deb"):
                subprocess.run(["dpkg", "-x", file, folder], check=True)
        except (OSError, subprocess.CalledProcessError):
            raise Cannot(f"{name} is needed: install Debian's package {package} and run again.") from None
        (folder / "done").touch()
    return str(next(folder.rglob(f"bin/{name}"), None) or next(folder.rglob(f"sbin/{name}")))


def compile_c(name: str, into: Path) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Cannot("A C compiler is needed for the mock and the load client: install Debian's package gcc.")
    subprocess.run([compiler, "-O2", "-o", into / name, ROOT / "bench" / f"{name}.c"], check=True)
    return str(into / name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, from its own clock."""
    with contextlib.suppress(OSError):
        return time.clock_gettime(((~pid) << 3) | 2)
    return 0.0


is_first = False
"""Whether everything measured runs before all else on the machine (`--first`), for machines that have other work."""


def place(cores: set[int]) -> None:
    """Onto these cores."""
    os.sched_setaffinity(0, cores)
    if is_first:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def memory_mb(pid: int) -> float:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024


def wait_for(port: int, path: str = "") -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if not path:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1) as answer:
                if answer.status == 200:
                    return
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.05)
    raise Cannot(f"nothing answers on port {port}")


@contextlib.contextmanager
def running(command: list[str], *, core: int, log: Path, env: dict[str, str] | None = None) -> Iterator[int]:
    cores = {core % (os.cpu_count() or 1)}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, preexec_fn=lambda: place(cores),
        )  # fmt: skip
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def nginx_config(folder: Path, port: int, mock_port: int) -> Path:
    path = folder / "nginx.conf"
    path.write_text(f"""
        daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
        {"user root;" if os.geteuid() == 0 else ""}
        events {{ worker_connections 4096; }}
        http {{
          access_log off; tcp_nodelay on; keepalive_requests 1000000; client_max_body_size 32m; client_body_buffer_size 64k;
          client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
          uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
          upstream mock {{ server 127.0.0.1:{mock_port}; keepalive 512; keepalive_requests 1000000; }}
          server {{
            listen 127.0.0.1:{port};
            location / {{
              if ($http_authorization != "Bearer {KEY}") {{ return 401; }}
              proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
            }}
          }}
        }}""")
    return path


def request_file(folder: Path, *, is_stream: bool, prompt_bytes: int = 1000) -> Path:
    words = "The quick brown fox jumps over the lazy dog. "
    body = json.dumps(
        {
            "model": ENDPOINT,
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": (words * (prompt_bytes // len(words) + 1))[:prompt_bytes]},
            ],
            "temperature": 0.7,
            "max_tokens": 256,
            **({"stream": True} if is_stream else {}),
        },
        separators=(",", ":"),
    )
    path = folder / ("stream.http" if is_stream else "plain.http")
    path.write_bytes(
        (
            "POST /api/v3/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: application/json\r\n"
            f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
    )
    return path


def measure(target: Target, load: str, request: Path, connections: int, seconds: float) -> dict[str, float]:
    before = sum(map(cpu_seconds, target.pids))
    done = subprocess.run(
        [load, str(target.port), str(connections), str(seconds), str(request)],
        check=True, capture_output=True, preexec_fn=lambda: place({1 % (os.cpu_count() or 1)}),
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    found["cpu"] = sum(map(cpu_seconds, target.pids)) - before
    found["units"] = found["chunks"] or found["answers"]
    found["cpu_us"] = found["cpu"] / max(found["units"], 1) * 1e6
    found["rate"] = found["units"] / seconds
    return found


def child_of(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def median(target: Target, case: str, name: str) -> float:
    return statistics.median(run[name] for run in target.runs[case])


def measure_all(folder: Path, repetitions: int, seconds: float) -> tuple[list[Target], dict[str, float], float]:
    mock, load = compile_c("mock", folder), compile_c("load", folder)
    nginx, redis = tool("nginx", "nginx"), tool("redis-server", "redis-server")
    ports = {name: free_port() for name in ("mock", "nginx", "redis", "gateway")}
    env = {
        **os.environ,
        "DATA_DIR": str(folder / "data"),
        "DATABASE_URL": "",
        "REDIS_URL": f"redis://127.0.0.1:{ports['redis']}/0",
        "SECRET_KEY": secrets.token_hex(32),
        "FIELD_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        "GATEWAY_WORKERS": "1",
        "DJANGO_SETTINGS_MODULE": "arkconsole.settings",
    }
    (folder / "data").mkdir()
    seed = [sys.executable, "-m", "bench.site"]
    subprocess.run([*seed, f"http://127.0.0.1:{ports['mock']}/v1", KEY], cwd=ROOT, env=env, check=True)
    log = folder / "log"
    uvicorn = [
        sys.executable, "-m", "uvicorn", "gateway.asgi:app", "--host", "127.0.0.1", "--port", str(ports["gateway"]),
        "--loop", "uvloop", "--http", "httptools", "--lifespan", "on", "--no-access-log", "--no-server-header",
        "--no-proxy-headers", "--timeout-keep-alive", "75", "--backlog", "4096", "--log-level", "warning",
    ]  # fmt: skip
    redis_command = [
        redis, "--port", str(ports["redis"]), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes",
        "--dir", str(folder),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:

        def start(command: list[str], core: int, port: int = 0, path: str = "") -> int:
            pid = stack.enter_context(running(command, core=core, log=log, env=env))
            if port:
                wait_for(port, path)
            return pid

        start([mock, str(ports["mock"])], 1, ports["mock"])
        redis_pid = start(redis_command, 1, ports["redis"])
        nginx_conf = nginx_config(folder, ports["nginx"], ports["mock"])
        nginx_pid = start([nginx, "-c", str(nginx_conf), "-p", str(folder)], 0, ports["nginx"])
        gateway_pid = start(uvicorn, 0, ports["gateway"], "/readyz")
        drain_pid = start([*seed, "--drain"], 1)
        targets = [
            Target("nginx", ports["nginx"], [nginx_pid, *child_of(nginx_pid)]),
            Target("gateway", ports["gateway"], [gateway_pid]),
        ]
        beside = {"redis": 0.0, "drain": 0.0, "calls": 0.0}
        requests = {is_stream: request_file(folder, is_stream=is_stream) for is_stream in (False, True)}
        for target in targets:
            measure(target, load, requests[False], 16, 1.0)
        for repetition in range(repetitions):
            for case, connections, is_stream in CASES:
                for target in random.sample(targets, len(targets)):
                    before = cpu_seconds(redis_pid), cpu_seconds(drain_pid)
                    found = measure(target, load, requests[is_stream], connections, max(seconds, 3.0 * is_stream))
                    target.runs.setdefault(case, []).append(found)
                    if target.name == "gateway":
                        beside["redis"] += cpu_seconds(redis_pid) - before[0]
                        beside["drain"] += cpu_seconds(drain_pid) - before[1]
                        beside["calls"] += found["answers"]
            print(f"  repetition {repetition + 1} of {repetitions} done", file=sys.stderr)
        return targets, beside, memory_mb(gateway_pid)


def report(targets: list[Target], beside: dict[str, float], memory: float, options: argparse.Namespace) -> str:
    nginx, gateway = targets
    about = (
        f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, {options.repetitions} repetitions of {options.seconds:g} s, medians; load average "
        f"{os.getloadavg()[1]:.1f}{', real-time priority' if options.first else ''}."
    )
    lines = [
        about,
        "",
        "| case | target | answers or chunks /s | CPU µs each | × nginx | p50 / p99 ms | failures |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, _connections, _is_stream in CASES:
        for target in targets:
            ratio = median(target, case, "cpu_us") / median(nginx, case, "cpu_us")
            failures = sum(run["failures"] for run in target.runs[case])
            lines.append(
                f"| {case} | {target.name} | {median(target, case, 'rate'):,.0f} | {median(target, case, 'cpu_us'):.1f} "
                f"| {ratio:.2f} | {median(target, case, 'p50') / 1000:.2f} / {median(target, case, 'p99') / 1000:.2f} "
                f"| {failures:.0f} |"
            )
    calls, streams = CASES[2][0], CASES[3][0]
    results = dict(
        zip(
            GOALS,
            (
                _ratio(gateway, nginx, calls),
                _ratio(gateway, nginx, streams),
                (median(gateway, streams, "p99") - median(nginx, streams, "p99")) / 1000,
                memory,
            ),
            strict=True,
        )
    )
    lines += ["", "| goal | at most | measured | |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {goal:g} | {results[name]:.2f} | {'met' if results[name] <= goal else '**missed**'} |"
        for name, goal in GOALS.items()
    ]
    per_call = beside["calls"] or 1.0
    lines.append("")
    lines.append(
        f"Beside the worker, for each call of the gateway: Redis {beside['redis'] / per_call * 1e6:.1f} µs, the drain "
        f"{beside['drain'] / per_call * 1e6:.1f} µs. A stream's p50 / p99 are those of its first chunk; chunks came "
        f"{median(gateway, streams, 'delay50') / 1000:.2f} / {median(gateway, streams, 'delay99') / 1000:.2f} ms after they "
        f"were sent (nginx {median(nginx, streams, 'delay50') / 1000:.2f} / {median(nginx, streams, 'delay99') / 1000:.2f})."
    )
    return "\n".join(lines)


def _ratio(target: Target, nginx: Target, case: str) -> float:
    """The median of the ratios of neighbouring runs: both had the same noise."""
    pairs = zip(target.runs[case], nginx.runs[case], strict=True)
    return statistics.median(ours["cpu_us"] / theirs["cpu_us"] for ours, theirs in pairs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument(
        "--first", action="store_true", help="real-time priority (root), where other work would disturb"
    )
    parser.add_argument("--write", action="store_true", help="put the result into docs/bench.md")
    options = parser.parse_args()
    global is_first
    is_first = options.first
    try:
        with tempfile.TemporaryDirectory(prefix="ark-bench-") as folder:
            targets, beside, memory = measure_all(Path(folder), options.repetitions, options.seconds)
    except Cannot as error:
        print(error, file=sys.stderr)
        return 1
    text = report(targets, beside, memory, options)
    print(text)
    if options.write:
        path = ROOT / "docs" / "bench.md"
        head, _mark, _old = path.read_text(encoding="utf-8").partition("<!-- result -->\n")
        path.write_text(f"{head}<!-- result -->\n{text}\n", encoding="utf-8")
    return 1 if "**missed**" in text else 0


if __name__ == "__main__":
    sys.exit(main())
