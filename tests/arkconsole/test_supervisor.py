"""The supervisor on tiny children: order, restarts, back-off, groups, orphans, locks, ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from arkconsole import supervisor
from arkconsole.processes import Process
from arkconsole.supervisor import Supervisor
from tests.servers import free_port

SLEEP = "import time; time.sleep(600)"
SERVE = """
import http.server, sys
class Ok(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ok).serve_forever()
"""


def child(name: str, code: str, *args: str, **options: object) -> Process:
    return Process(name, (sys.executable, "-c", code, *args), **options)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def supervised(
    tmp_path: Path, *table: Process, said: list[str] | None = None, **options: float
) -> AsyncIterator[Supervisor]:
    run_dir, log_dir = tmp_path / "run", tmp_path / "log"
    run_dir.mkdir(exist_ok=True)
    log_dir.mkdir(exist_ok=True)
    boss = Supervisor(
        table,
        run_dir=run_dir,
        log_dir=log_dir,
        env=dict(os.environ),
        cwd=tmp_path,
        say=(said if said is not None else []).append,
        **{"patience_seconds": 20, "first_delay_seconds": 0.02, **options},  # type: ignore[arg-type]
    )
    try:
        yield boss
    finally:
        async with asyncio.timeout(20):
            await boss.stop()


async def until(predicate: Callable[[], object], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not predicate():
            await asyncio.sleep(0.01)


def test_processes_start_in_the_order_of_their_needs(tmp_path: Path) -> None:
    note = tmp_path / "order"
    write = f"open({str(note)!r}, 'a').write(__import__('sys').argv[1]); {SLEEP}"

    async def scene() -> None:
        port = free_port()
        async with supervised(
            tmp_path,
            child("last", write, "3", needs=("step", "server")),
            child("step", f"open({str(note)!r}, 'a').write('2')", needs=("server",), is_step=True),
            child("server", SERVE, str(port), ready=f"http://127.0.0.1:{port}/"),
        ) as boss:
            assert await boss.start()
            await until(lambda: note.exists() and note.read_text() == "23")
            assert boss.pid("step") is None
            assert boss.pid("last")

    asyncio.run(scene())


def test_what_dies_is_started_again_and_the_others_go_on(tmp_path: Path) -> None:
    async def scene() -> None:
        said: list[str] = []
        async with supervised(tmp_path, child("a", SLEEP), child("b", SLEEP, needs=("a",)), said=said) as boss:
            await boss.start()
            first, other = boss.pid("a"), boss.pid("b")
            assert first
            os.kill(first, signal.SIGKILL)
            await until(lambda: boss.pid("a") not in {None, first})
            assert boss.pid("b") == other
        assert said == ["a was ended by SIGKILL; starting it again in 0.02 s."]

    asyncio.run(scene())


def test_the_pause_doubles_with_each_death_and_begins_anew_after_a_steady_time(tmp_path: Path) -> None:
    async def scene(steady: float) -> list[str]:
        said: list[str] = []
        async with supervised(
            tmp_path,
            child("a", "raise SystemExit(0)"),
            said=said,
            steady_seconds=steady,
            longest_delay_seconds=0.05,
        ) as boss:
            assert await boss.start()
            await until(lambda: len(said) >= 4)
        return [line.rsplit(" in ", 1)[1] for line in said[:4]]

    assert asyncio.run(scene(60)) == ["0.02 s.", "0.04 s.", "0.05 s.", "0.05 s."]
    assert asyncio.run(scene(0)) == ["0.02 s."] * 4


def test_a_failing_step_ends_the_start_with_its_last_words(tmp_path: Path) -> None:
    async def scene() -> None:
        async with supervised(
            tmp_path,
            child("migrate", "print('no such table'); raise SystemExit(3)", is_step=True),
            child("console", SLEEP, needs=("migrate",)),
        ) as boss:
            with pytest.raises(supervisor.StartFailed, match=r"(?s)migrate ended with exit code 3.*no such table"):
                await boss.start()
            assert boss.pid("console") is None

    asyncio.run(scene())


def test_a_process_that_never_gets_ready_ends_the_start_by_its_name(tmp_path: Path) -> None:
    async def scene() -> None:
        dead = f"http://127.0.0.1:{free_port()}/"
        async with supervised(tmp_path, child("mute", SLEEP, ready=dead), patience_seconds=0.4) as boss:
            with pytest.raises(supervisor.StartFailed, match="Not ready after 0.4 s: mute"):
                await boss.start()

    asyncio.run(scene())


def test_a_process_that_keeps_dying_before_it_is_ready_ends_the_start(tmp_path: Path) -> None:
    async def scene() -> None:
        dead = f"http://127.0.0.1:{free_port()}/"
        async with supervised(tmp_path, child("broken", "1/0", ready=dead), tries_to_start=3) as boss:
            with pytest.raises(supervisor.StartFailed, match="(?s)broken ended with exit code 1.*ZeroDivisionError"):
                await boss.start()

    asyncio.run(scene())


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    async def scene() -> None:
        async with supervised(tmp_path, Process("valkey", (str(tmp_path / "nothing-here"),))) as boss:
            with pytest.raises(supervisor.StartFailed, match="Cannot start valkey: .*nothing-here"):
                await boss.start()

    asyncio.run(scene())


def test_the_start_does_not_wait_for_what_is_optional(tmp_path: Path) -> None:
    go = tmp_path / "go"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)"

    async def scene() -> None:
        async with supervised(
            tmp_path,
            child("main", SLEEP),
            child("fetch", wait, is_step=True, is_optional=True),
            child("extra", SLEEP, needs=("fetch",), is_optional=True),
        ) as boss:
            assert await boss.start()
            assert boss.pid("extra") is None
            go.touch()
            assert await asyncio.wait_for(boss.settle("extra"), 15) == ""
            assert boss.pid("extra")

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("fetch", "extra", "why"),
    [
        ("raise SystemExit(1)", SLEEP, "fetch ended with exit code 1."),
        ("", "raise SystemExit(2)", "extra ended with exit code 2."),
    ],
)
def test_what_is_optional_and_cannot_be_started_is_given_up_in_silence(
    tmp_path: Path, fetch: str, extra: str, why: str
) -> None:
    said: list[str] = []

    async def scene() -> None:
        async with supervised(
            tmp_path,
            child("main", SLEEP),
            child("fetch", fetch, is_step=True, is_optional=True),
            # Ready only when it answers: a process that dies at once never is.
            child("extra", extra, needs=("fetch",), ready=f"http://127.0.0.1:{free_port()}/", is_optional=True),
            said=said,
            longest_delay_seconds=0.02,
        ) as boss:
            assert await boss.start()
            assert await asyncio.wait_for(boss.settle("extra"), 15) == why
            assert boss.pid("main")
            assert not said

    asyncio.run(scene())


def test_the_whole_group_ends_with_its_leader(tmp_path: Path) -> None:
    """A worker that keeps the listening socket would keep its leader's successor from starting."""
    port = free_port()
    forks = """
import os, socket, sys, time
listener = socket.socket(); listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1]))); listener.listen()
os.fork()
time.sleep(600)
"""

    async def scene() -> None:
        async with supervised(tmp_path, child("forks", forks, str(port)), steady_seconds=0) as boss:
            await boss.start()
            first = boss.pid("forks")
            assert first
            await until(lambda: len(psutil.Process(first).children()) == 1)
            worker = psutil.Process(first).children()[0]
            os.kill(first, signal.SIGKILL)
            await until(lambda: boss.pid("forks") not in {None, first})
            second = boss.pid("forks")
            assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
            await until(lambda: second and len(psutil.Process(second).children()) == 1)

    asyncio.run(scene())


def test_stopping_ends_users_before_what_they_need_and_the_stubborn_by_force(tmp_path: Path) -> None:
    note = tmp_path / "order"
    polite = f"""
import signal, sys, time
def end(*args):
    open({str(note)!r}, "a").write(sys.argv[1]); sys.exit(0)
signal.signal(signal.SIGTERM, end)
open({str(note)!r} + sys.argv[1], "w")
time.sleep(600)
"""
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(note)!r} + 'd', 'w'); {SLEEP}"

    async def scene() -> None:
        async with supervised(
            tmp_path,
            child("store", polite, "2"),
            child("user", polite, "1", needs=("store",)),
            child("deaf", deaf, stop_seconds=0.2),
        ) as boss:
            await boss.start()
            await until(lambda: all(Path(f"{note}{letter}").exists() for letter in "12d"))
            started = time.monotonic()
            await boss.stop()
            assert time.monotonic() - started < 5
        assert note.read_text() == "12"
        assert not list((tmp_path / "run").glob("*.pid"))

    asyncio.run(scene())


def test_a_restart_on_request_gives_a_new_process(tmp_path: Path) -> None:
    async def scene() -> None:
        async with supervised(tmp_path, child("beat", SLEEP)) as boss:
            await boss.start()
            first = boss.pid("beat")
            await boss.restart("beat")
            await until(lambda: boss.pid("beat") not in {None, first})

    asyncio.run(scene())


def test_a_stop_asked_for_during_the_start_is_obeyed(tmp_path: Path) -> None:
    async def scene() -> None:
        dead = f"http://127.0.0.1:{free_port()}/"
        async with supervised(
            tmp_path, child("mute", SLEEP, ready=dead), child("next", SLEEP, needs=("mute",))
        ) as boss:
            asyncio.get_running_loop().call_later(0.1, boss.request_stop)
            assert not await boss.start()

    asyncio.run(scene())


def test_logs_are_cut_before_they_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 1000)
    monkeypatch.setattr(supervisor, "LOG_CHECK_SECONDS", 0.02)
    chatter = "import time\nwhile True: print('x' * 99, flush=True); time.sleep(.001)"

    async def scene() -> None:
        async with supervised(tmp_path, child("chatter", chatter)) as boss:
            await boss.start()
            older = tmp_path / "log" / "chatter.log.1"
            await until(older.exists)
            await until(lambda: older.stat().st_size > 1000)
            assert (tmp_path / "log" / "chatter.log").stat().st_size < 100_000

    asyncio.run(scene())


def test_a_need_that_is_not_in_the_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a needs nothing, which is not in the table"):
        Supervisor(
            [Process("a", ("true",), needs=("nothing",))],
            run_dir=tmp_path,
            log_dir=tmp_path,
            env={},
            cwd=tmp_path,
            say=print,
        )


# --- orphans ----------------------------------------------------------------------------------------------------------


def orphan(tmp_path: Path, *, created_offset: float = 0, command: list[str] | None = None) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
    created = psutil.Process(process.pid).create_time()
    note = {
        "pid": process.pid,
        "command": command or psutil.Process(process.pid).cmdline(),
        "created_at": created + created_offset,
    }
    (tmp_path / "old.pid").write_text(json.dumps(note))
    return process


def test_what_a_killed_run_left_behind_is_ended(tmp_path: Path) -> None:
    process = orphan(tmp_path)
    assert supervisor.reap_orphans(tmp_path) == ["old"]
    assert process.wait(5) == -signal.SIGTERM
    assert not list(tmp_path.glob("*.pid"))


def test_an_orphan_is_known_by_its_command_when_the_clock_was_set(tmp_path: Path) -> None:
    process = orphan(tmp_path, created_offset=-7200)
    assert supervisor.reap_orphans(tmp_path) == ["old"]
    process.wait(5)


def test_a_stranger_with_the_same_number_is_left_alone(tmp_path: Path) -> None:
    process = orphan(tmp_path, created_offset=-7200, command=["something", "else"])
    assert supervisor.reap_orphans(tmp_path) == []
    assert process.poll() is None
    process.kill()
    process.wait()


def test_workers_whose_leader_is_gone_are_ended_too(tmp_path: Path) -> None:
    code = f"import os\nif os.fork() == 0:\n    {SLEEP}\n{SLEEP}"
    leader = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    created = psutil.Process(leader.pid).create_time()
    while not (workers := psutil.Process(leader.pid).children()):
        assert leader.poll() is None
    (tmp_path / "old.pid").write_text(json.dumps({"pid": leader.pid, "command": [], "created_at": created}))
    leader.kill()
    leader.wait()
    assert supervisor.reap_orphans(tmp_path) == ["old"]
    assert not workers[0].is_running() or workers[0].status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": "x"}', '{"pid": 999999999, "command": [], "created_at": 0}'])
def test_a_broken_pid_file_is_only_removed(tmp_path: Path, text: str) -> None:
    (tmp_path / "old.pid").write_text(text)
    assert supervisor.reap_orphans(tmp_path) == []
    assert not list(tmp_path.glob("*.pid"))


# --- lock and ports ---------------------------------------------------------------------------------------------------


def test_a_data_directory_has_one_run_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (
        supervisor.lock(tmp_path / "run" / "up.lock"),
        pytest.raises(supervisor.DataDirInUse, match=f"{tmp_path} is in use by another run .process {os.getpid()}"),
    ):
        supervisor.lock(tmp_path / "run" / "up.lock")
    supervisor.lock(tmp_path / "run" / "up.lock").close()


def test_a_taken_port_is_named_with_its_variable() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(supervisor.PortTaken, match=f"127.0.0.1:{port} .*set GATEWAY_PORT"):
            supervisor.require_free_port("127.0.0.1", port, "GATEWAY_PORT")
    supervisor.require_free_port("127.0.0.1", port, "GATEWAY_PORT")


def test_inner_ports_are_kept_while_they_are_free() -> None:
    kept = supervisor.free_ports(["valkey", "demo"], {})
    assert len(set(kept.values())) == 2
    assert supervisor.free_ports(["valkey", "demo"], kept) == kept
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", kept["demo"]))
        holder.listen()
        again = supervisor.free_ports(["valkey", "demo"], kept)
    assert again["valkey"] == kept["valkey"]
    assert again["demo"] != kept["demo"]
