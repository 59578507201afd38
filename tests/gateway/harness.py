"""The real gateway as processes, on a site of the test's own, with what it told Redis at hand."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis

from metering import events
from tests.gateway.worker_app import write
from tests.servers import NO_TLS, ROOT, HeldPort, dying_with_us, wait_until

KEY = "test-key-of-the-default-project"


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Site:
    """The file that stands for the database. Change `data`, then `save` (with the changes to announce)."""

    def __init__(self, path: Path, *upstreams: str) -> None:
        self.path = path
        servers = [
            {"id": number, "url": url, "api_key": f"sk-{number}"} for number, url in enumerate(upstreams, start=1)
        ]
        deployments = [[row["id"], "up-model", 1] for row in servers]
        self.data: dict[str, Any] = {
            "servers": servers,
            "versions": [
                {"id": 1, "model_id": "demo-fast-251001", "deployments": deployments},
                {"id": 2, "model_id": "demo-embed-1", "domain": "embedding", "deployments": deployments},
                {"id": 3, "model_id": "demo-bare-1", "deployments": []},
            ],
            "endpoints": [{"id": "ep-1", "version": 1}],
            "keys": [{"id": 1, "digest": digest(KEY)}],
            "changes": [],
        }
        self.save()

    def save(self, *changes: tuple[str, str]) -> None:
        for kind, object_id in changes:
            number = len(self.data["changes"]) + 1
            self.data["changes"].append({"id": number, "kind": kind, "object_id": object_id})
        write(self.path, self.data)

    def add_endpoint(self, endpoint_id: str, **fields: Any) -> str:
        """A new endpoint; workers find it by themselves on the first call."""
        self.data["endpoints"].append({"id": endpoint_id, "version": 1, **fields})
        self.save()
        return endpoint_id

    def add_key(self, token: str, **fields: Any) -> str:
        self.data["keys"].append({"id": len(self.data["keys"]) + 1, "digest": digest(token), **fields})
        self.save()
        return token


class GatewayProcess:
    """The gateway with the given number of workers; `client` calls it with the site's key."""

    def __init__(
        self, site: Site, redis_url: str, data_dir: Path, *, workers: int = 1, flags: Sequence[str] = (), **options: Any
    ) -> None:
        self._held = HeldPort()
        self.port = self._held.number
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        self._log = data_dir / f"gateway-{self.port}.log"
        self._environment = {
            **os.environ,
            "ARK_TEST_SITE": str(site.path),
            "ARK_TEST_OPTIONS": json.dumps({"workers": workers, "drain_seconds": 0.0, **options}),
            "REDIS_URL": redis_url,
            "DATA_DIR": str(data_dir),
        }
        self._workers = workers
        self._flags = flags
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60, verify=NO_TLS
        )

    def start(self) -> GatewayProcess:
        data = self.data_dir
        data.mkdir(parents=True, exist_ok=True)
        self._held.release()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                dying_with_us(
                    sys.executable, "-m", "gateway.serve", "tests.gateway.worker_app:app", "--host", "127.0.0.1",
                    "--port", str(self.port), "--workers", str(self._workers), "--loop", "uvloop", "--http", "httptools",
                    "--no-access-log", "--no-proxy-headers", "--lifespan", "on", "--timeout-graceful-shutdown", "5", *self._flags,
                ),
                cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(self._is_ready, seconds=60, what=f"the gateway is ready; {self._log}")
        return self

    def stop(self) -> None:
        self._held.release()
        self.client.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def worker_pids(self) -> list[int]:
        """Processes that listen for calls."""
        parent = psutil.Process(self.pid)
        return [child.pid for child in parent.children() if _serves(child)] or [parent.pid]

    def kill_worker(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def chat(
        self, model: str = "ep-1", *, key: str = KEY, headers: dict[str, str] | None = None, **body: Any
    ) -> httpx.Response:
        """One chat call; `x_script=` tells the scripted upstream what to do."""
        payload = {"model": model, "messages": [{"role": "user", "content": "hi"}], **body}
        return self.client.post(
            "/api/v3/chat/completions",
            json=payload,
            headers={"Authorization": f"Bearer {key}", **(headers or {})},
        )

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        try:
            return self.client.get("/readyz").status_code == 200 and self._all_workers_are_ready()
        except httpx.TransportError:
            return False

    def _all_workers_are_ready(self) -> bool:
        return self.log.count("Application startup complete") >= self._workers


def _serves(child: psutil.Process) -> bool:
    try:
        return child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(child.cmdline())
    except psutil.NoSuchProcess:
        return False  # it died while it was looked at


class Ledger:
    """What is in the usage stream, the first event of each call, as the drain counts it."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def events(self) -> list[events.UsageEvent]:
        generation = self._client.get(events.GENERATION_KEY)
        if generation is None:
            return []
        found: dict[str, events.UsageEvent] = {}
        for _entry, fields in self._client.xrange(events.stream_key(_text(generation))):
            event = events.decode(fields.get(b"e") or fields["e"].encode())
            found.setdefault(event.call_id, event)
        return list(found.values())

    def of(self, endpoint_id: str) -> list[events.UsageEvent]:
        return [event for event in self.events() if event.endpoint_id == endpoint_id]

    def wait_for(self, endpoint_id: str, count: int = 1) -> list[events.UsageEvent]:
        """The events of an endpoint once there are `count`; they are written after the answer."""

        def enough() -> list[events.UsageEvent] | None:
            found = self.of(endpoint_id)
            return found if len(found) >= count else None

        found = wait_until(enough, seconds=30, what=f"{count} usage events of {endpoint_id}")
        assert isinstance(found, list)
        return found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
