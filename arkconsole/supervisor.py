"""Keeps a table of processes running: starts them in order, restarts what dies, ends whole process groups.

Knows nothing of Django or of what the processes do; `arkconsole/processes.py` has the table, `manage.py up` joins the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import psutil

from arkconsole.processes import Process

LOG_BYTES = 8 * 1024 * 1024
LOG_CHECK_SECONDS = 5.0
ORPHAN_SECONDS = 8.0


class UpError(Exception):
    """Why nothing runs, in one sentence for the person at the terminal.

    ├── DataDirInUse
    ├── PortTaken
    └── StartFailed
    """


class DataDirInUse(UpError):
    pass


class PortTaken(UpError):
    pass


class StartFailed(UpError):
    """`sentence` is the first line; the rest is the end of a log."""

    def __init__(self, sentence: str, log: str = "") -> None:
        super().__init__(f"{sentence}{log}")
        self.sentence = sentence


def lock(path: Path) -> IO[str]:
    """Hold `path` for this process's life; the returned file must stay open.

    Raises `DataDirInUse` when another process holds it, `UpError` when it cannot be written.
    """
    try:
        file = path.open("a+", encoding="ascii")
    except OSError as error:
        raise UpError(
            f"Cannot write to {path.parent}: {error.strerror}. Set DATA_DIR to a folder of your own."
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise DataDirInUse(
            f"{path.parent.parent} is in use by another run{f' (process {holder})' if holder else ''}; "
            "stop that one, or set DATA_DIR, PORT and GATEWAY_PORT for a second copy."
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def require_free_port(host: str, port: int, variable: str) -> None:
    """Raise `PortTaken`, naming the variable that chooses another port, unless `host:port` can be listened on."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise PortTaken(f"Cannot listen on {host}:{port} ({error.strerror}); set {variable} to another port.") from None


def free_ports(names: Iterable[str], kept: Mapping[str, int]) -> dict[str, int]:
    """One free loopback port per name: the kept one where it still is free, else another."""
    chosen: dict[str, int] = {}
    with contextlib.ExitStack() as held:
        for name in names:
            for candidate in (kept.get(name, 0), 0):
                probe = held.enter_context(socket.socket())
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError, OverflowError):
                    probe.bind(("127.0.0.1", candidate))
                    chosen[name] = probe.getsockname()[1]
                    break
    return chosen


def _living(group: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _is_ours(note: Mapping[str, Any], members: list[psutil.Process]) -> bool:
    """Whether a group is the one that the pid file speaks of, and not a stranger that got its number."""
    for process in members:
        with contextlib.suppress(psutil.Error):
            if process.pid == note["pid"]:
                # The clock may have been set since, which moves every start time: then the command decides.
                return bool(abs(process.create_time() - note["created_at"]) < 2 or process.cmdline() == note["command"])
    # The leader is gone. A number is not given out again while its group lives, so who is left is ours.
    return all(bool(process.create_time() >= note["created_at"] - 2) for process in members)


def reap_orphans(run_dir: Path) -> list[str]:
    """End what a killed run left behind, by its pid files; return the names of what was ended."""
    ended: dict[int, str] = {}
    for path in sorted(run_dir.glob("*.pid")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(path.read_text(encoding="utf-8"))
            members = _living(int(note["pid"]))
            if members and _is_ours(note, members):
                _signal_group(int(note["pid"]), signal.SIGTERM)
                ended[int(note["pid"])] = path.stem
        path.unlink(missing_ok=True)
    deadline = time.monotonic() + ORPHAN_SECONDS
    for group in ended:
        while _living(group) and time.monotonic() < deadline:
            time.sleep(0.05)
        _signal_group(group, signal.SIGKILL)
        while _living(group) and time.monotonic() < deadline + 2:
            time.sleep(0.05)
    return sorted(ended.values())


async def answers(address: str) -> bool:
    """Whether the thing at `address` says it is ready: `http://…` answers 200, `redis://…` answers a ping."""
    parts = urlsplit(address)
    if parts.scheme == "http":
        request = f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
        wanted = b" 200 "
    else:
        login = f"AUTH {parts.password}\r\n" if parts.password else ""
        request = f"{login}PING\r\n"
        wanted = b"+PONG"
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(request.encode())
                for _ in range(2):
                    if wanted in await reader.readline():
                        return True
                return False
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


class _Child:
    def __init__(self, process: Process) -> None:
        self.process = process
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self.settled = asyncio.Event()
        self.was_ready = False
        self.gave_up = ""
        self.pid: int | None = None
        self.log_offset = 0


class Supervisor:
    """Runs a table of processes until told to stop.

    `start()` returns when every process is ready and every step has ended well; `stop()` ends all, those that others
    need last. `log_dir/<name>.log` gets what a child writes, `run_dir/<name>.pid` says who it is.
    """

    def __init__(
        self,
        processes: Iterable[Process],
        *,
        run_dir: Path,
        log_dir: Path,
        env: Mapping[str, str],
        cwd: Path,
        say: Callable[[str], None],
        patience_seconds: float = 120,
        steady_seconds: float = 60,
        first_delay_seconds: float = 0.5,
        longest_delay_seconds: float = 30,
        tries_to_start: int = 5,
    ) -> None:
        self._children = {process.name: _Child(process) for process in processes}
        for child in self._children.values():
            unknown = set(child.process.needs) - self._children.keys()
            if unknown:
                raise ValueError(f"{child.process.name} needs {', '.join(sorted(unknown))}, which is not in the table")
        self._run_dir, self._log_dir, self._env, self._cwd, self._say = run_dir, log_dir, dict(env), cwd, say
        self._patience, self._steady = patience_seconds, steady_seconds
        self._first_delay, self._longest_delay, self._tries = first_delay_seconds, longest_delay_seconds, tries_to_start
        self._stopping = asyncio.Event()
        self._failed: asyncio.Future[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def pid(self, name: str) -> int | None:
        """The process id of `name` now, or None while it is down."""
        return self._children[name].pid

    def request_stop(self) -> None:
        """Ask for the end (from a signal handler); a second call ends everything at once."""
        if self._stopping.is_set():
            for child in self._children.values():
                if child.pid:
                    _signal_group(child.pid, signal.SIGKILL)
        self._stopping.set()
        if self._failed and not self._failed.done():
            self._failed.set_result(None)

    async def start(self) -> bool:
        """Start everything; True when all but the optional are ready, False when a stop was asked for meanwhile.

        Raises `StartFailed` with the last lines of the log when a step fails, a process keeps dying or is not ready
        in time; what runs by then still has to be ended with `stop()`.
        """
        self._failed = asyncio.get_running_loop().create_future()
        for child in self._children.values():
            self._background(self._keep(child))
        self._background(self._bound_logs())
        wanted = [child for child in self._children.values() if not child.process.is_optional]
        ready = asyncio.gather(*(child.ready.wait() for child in wanted))
        try:
            ends: list[asyncio.Future[Any]] = [ready, self._failed]
            await asyncio.wait(ends, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
                return False
            if not ready.done():
                late = [child for child in wanted if not child.ready.is_set() and child.pid]
                names = ", ".join(child.process.name for child in late) or "a process"
                raise StartFailed(
                    f"Not ready after {self._patience:g} s: {names}.", self._tail(late[0]) if late else ""
                )
            return True
        finally:
            ready.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ready

    async def wait(self) -> None:
        """Return when a stop is asked for."""
        await self._stopping.wait()

    async def settle(self, name: str) -> str:
        """Wait until an optional process is ready for the first time (""), or given up: why, in a sentence.

        It is given up when it, or what it needs, cannot be started.
        """
        child = self._children[name]
        await child.settled.wait()
        return child.gave_up

    def watch(self, job: Coroutine[Any, Any, None]) -> None:
        """Run `job` beside the processes until the stop."""
        self._background(job)

    async def restart(self, *names: str) -> None:
        """End these processes; they are started again as if they had died."""
        children = [self._children[name] for name in names]
        await asyncio.gather(*(self._end(child) for child in children))

    async def stop(self) -> None:
        """End everything, those that others need last; returns when no process group is left."""
        self._stopping.set()

        async def end_in_turn(child: _Child) -> None:
            users = [other for other in self._children.values() if child.process.name in other.process.needs]
            await asyncio.gather(*(other.gone.wait() for other in users))
            await self._end(child)
            await child.gone.wait()

        if self._tasks:
            await asyncio.gather(*(end_in_turn(child) for child in self._children.values()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- one child ----------------------------------------------------------------------------------------------------

    async def _keep(self, child: _Child) -> None:
        try:
            for need in child.process.needs:
                if not await self._unless_stopping(self._children[need].settled.wait()):
                    return
                if reason := self._children[need].gave_up:
                    raise StartFailed(reason)
            deaths = 0
            while not self._stopping.is_set():
                started = time.monotonic()
                try:
                    code = await self._run_once(child)
                except OSError as error:
                    if not child.was_ready:
                        raise StartFailed(f"Cannot start {child.process.name}: {error}") from None
                    self._say(f"Cannot start {child.process.name}: {error}")
                    code = 0
                if self._stopping.is_set():
                    return
                if child.process.is_step and code == 0:
                    child.ready.set()
                    child.settled.set()
                    return
                deaths = 1 if time.monotonic() - started >= self._steady else deaths + 1
                if child.process.is_step or (not child.was_ready and deaths >= self._tries):
                    raise StartFailed(f"{child.process.name} {_how_it_ended(code)}.", self._tail(child))
                delay = min(self._longest_delay, self._first_delay * 2 ** (deaths - 1))
                if child.was_ready or not child.process.is_optional:
                    self._say(
                        f"{child.process.name} {_how_it_ended(code)}; starting it again in {delay:g} s."
                        + (self._tail(child) if code not in {0, -signal.SIGKILL, -signal.SIGTERM} else "")
                    )
                await self._unless_stopping(asyncio.sleep(delay))
        except StartFailed as error:
            child.gave_up = error.sentence
            child.settled.set()
            if not child.process.is_optional and self._failed and not self._failed.done():
                self._failed.set_exception(error)
        finally:
            child.gone.set()

    async def _run_once(self, child: _Child) -> int:
        process = child.process
        log = self._log_dir / f"{process.name}.log"
        with log.open("ab") as out:
            out.write(f"--- {time.strftime('%Y-%m-%dT%H:%M:%S%z')} {process.name} starts\n".encode())
            out.flush()
            child.log_offset = out.tell()
            # Straight into the file: a pipe through the supervisor would break when the supervisor is killed.
            running = await asyncio.create_subprocess_exec(
                *process.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=asyncio.subprocess.STDOUT,
                cwd=process.folder or self._cwd,
                env={**self._env, **process.env},
                start_new_session=True,
            )
        child.pid = running.pid
        self._note_pid(child)
        probe = asyncio.create_task(self._probe(child))
        try:
            return await running.wait()
        finally:
            probe.cancel()
            child.ready.clear()
            await self._end_rest_of_group(running.pid)
            child.pid = None
            (self._run_dir / f"{process.name}.pid").unlink(missing_ok=True)

    def _note_pid(self, child: _Child) -> None:
        note = {"pid": child.pid, "command": list(child.process.command), "created_at": time.time()}
        with contextlib.suppress(psutil.Error):
            me = psutil.Process(child.pid)
            note |= {"created_at": me.create_time(), "command": me.cmdline()}
        path = self._run_dir / f"{child.process.name}.pid"
        path.write_text(json.dumps(note), encoding="utf-8")

    async def _probe(self, child: _Child) -> None:
        if child.process.is_step:
            return
        while child.process.ready and not await answers(child.process.ready):
            await asyncio.sleep(0.1)
        child.was_ready = True
        child.ready.set()
        child.settled.set()

    async def _end(self, child: _Child) -> None:
        pid = child.pid
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            # The leader alone: gunicorn, uvicorn and Celery end their own children in order.
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + child.process.stop_seconds
        while child.pid == pid:
            if time.monotonic() > deadline:
                _signal_group(pid, signal.SIGKILL)
            await asyncio.sleep(0.05)

    async def _end_rest_of_group(self, group: int) -> None:
        """End what the leader left: a worker that still listens would keep its successor from the port."""
        for number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
            if not _living(group):
                return
            _signal_group(group, number)
            deadline = time.monotonic() + seconds
            while _living(group) and time.monotonic() < deadline:
                await asyncio.sleep(0.05)

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _background(self, job: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(job))

    async def _unless_stopping(self, job: Coroutine[Any, Any, Any]) -> bool:
        """Wait for `job`, or for a stop; True when it was the job."""
        work = asyncio.ensure_future(job)
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        is_done = work.done()
        for task in (work, stop):
            task.cancel()
        return is_done and not self._stopping.is_set()

    def _tail(self, child: _Child, lines: int = 12) -> str:
        log = self._log_dir / f"{child.process.name}.log"
        with contextlib.suppress(OSError), log.open("rb") as file:
            size = log.stat().st_size
            file.seek(max(min(child.log_offset, size), size - 16_384))
            last = file.read().decode(errors="replace").strip().splitlines()[-lines:]
            if last:
                return f" The end of {log}:\n" + "\n".join(f"    {line}" for line in last)
        return ""

    async def _bound_logs(self) -> None:
        """Keep each log under `LOG_BYTES`, with one older part beside it. Children append, so truncating is safe."""
        while True:
            await asyncio.sleep(LOG_CHECK_SECONDS)
            for path in self._log_dir.glob("*.log"):
                with contextlib.suppress(OSError):
                    if path.stat().st_size > LOG_BYTES:
                        await asyncio.to_thread(shutil.copyfile, path, path.with_suffix(".log.1"))
                        os.truncate(path, 0)


def _how_it_ended(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
