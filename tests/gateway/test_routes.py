"""How a worker follows changes: against a source in memory, second by second."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import pytest

from gateway.auth import KeyRing
from gateway.routes import (
    CIRCUIT_FAILURES,
    CIRCUIT_SECONDS,
    LOOKUPS_MAX,
    NEGATIVE_SECONDS,
    POLL_SECONDS,
    WINDOW_SECONDS,
    Change,
    Circuit,
    DeploymentRoute,
    EndpointRoute,
    KeyRoute,
    Reader,
    RouteTable,
    ServerRoute,
    SourceAway,
    SwitchRoute,
    VersionRoute,
)
from gateway.upstream import Origin


def endpoint(endpoint_id: str, **fields: Any) -> EndpointRoute:
    defaults = {
        "project_id": "default", "version_id": 1, "rpm": 0, "tpm": 0, "status": "Running", "is_preset": False,
    }  # fmt: skip
    return EndpointRoute(endpoint_id, **{**defaults, **fields})


def version(version_id: int, *servers: ServerRoute, weights: Iterable[int] = ()) -> VersionRoute:
    chosen = list(weights) or [1] * len(servers)
    deployments = tuple(
        DeploymentRoute(number, server, msgspec.Raw(b'"m"'), weight)
        for number, (server, weight) in enumerate(zip(servers, chosen, strict=True))
    )
    return VersionRoute(version_id, f"m-{version_id}", b'"m"', "m", "chat", 10, 0, deployments)


def server(server_id: int, *, is_up: bool = True) -> ServerRoute:
    return ServerRoute(server_id, Origin("127.0.0.1", 1, is_tls=False), "/v1", is_up=is_up)


class FakeSource:
    """`gateway.routes.Source` in memory; counts what is read."""

    def __init__(self) -> None:
        self.rows: dict[str, EndpointRoute] = {"ep-1": endpoint("ep-1")}
        self.known_versions = [version(1, server(1))]
        self.keys: dict[bytes, KeyRoute] = {}
        self.log: list[Change] = []
        self.reads: list[str] = []
        self.is_away = False
        self.gate: threading.Event | None = None
        self.gated = ""

    def _read(self, what: str) -> None:
        self.reads.append(what)
        if self.gate is not None and self.gated in ("", what):
            self.gate.wait(5)
        if self.is_away:
            raise SourceAway("away")

    def versions(self) -> list[VersionRoute]:
        self._read("versions")
        return list(self.known_versions)

    def endpoints(self, ids: Iterable[str] | None) -> list[EndpointRoute]:
        found = [row for row in self.rows.values() if ids is None or row.id in set(ids)]
        self._read("endpoints")  # where it may be slow to arrive
        return found

    def preset(self, project_id: str, version_id: int) -> EndpointRoute:
        self._read("preset")
        name = f"ep-m-{project_id}-{version_id}"
        return self.rows.setdefault(name, endpoint(name, project_id=project_id, version_id=version_id, is_preset=True))

    def key(self, digest: bytes) -> KeyRoute | None:
        self._read("key")
        return self.keys.get(digest)

    def last_change(self) -> int:
        self._read("last_change")
        return max((change.id for change in self.log), default=0)

    def changes(self, after: int) -> list[Change]:
        self._read("changes")
        return sorted((change for change in self.log if change.id > after), key=lambda change: change.id)


class World:
    """A table on a fake source, with a clock in our hands."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.source = FakeSource()
        self.reader = Reader()
        self.keys = KeyRing(self.source, self.reader, clock=lambda: self.now)
        self.table = RouteTable(self.source, self.reader, on_keys_changed=self.keys.changed, clock=lambda: self.now)

    async def load(self) -> None:
        await self.table._load()

    async def tick(self, seconds: float = 1.0) -> None:
        self.now += seconds
        await self.table._follow()

    def change(self, change_id: int, kind: str, object_id: str) -> None:
        self.source.log.append(Change(change_id, kind, object_id))


def run(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def wrapped() -> None:
        world = World()
        try:
            await scenario(world)
        finally:
            world.reader.close()

    asyncio.run(wrapped())


def test_a_changed_endpoint_is_read_again_and_only_it() -> None:
    async def scenario(world: World) -> None:
        world.source.rows["ep-2"] = endpoint("ep-2")
        await world.load()
        world.source.rows["ep-1"] = endpoint("ep-1", status="Stopped")
        world.source.rows["ep-2"] = endpoint("ep-2", status="Stopped")
        world.change(1, "endpoint", "ep-1")
        await world.tick()
        assert world.table.endpoint("ep-1") == endpoint("ep-1", status="Stopped")
        assert world.table.endpoint("ep-2") == endpoint("ep-2")

    run(scenario)


def test_a_deleted_endpoint_is_gone() -> None:
    async def scenario(world: World) -> None:
        await world.load()
        del world.source.rows["ep-1"]
        world.change(1, "endpoint", "ep-1")
        await world.tick()
        assert world.table.endpoint("ep-1") is None

    run(scenario)


def test_a_change_that_was_committed_late_with_a_lower_id_is_not_missed() -> None:
    async def scenario(world: World) -> None:
        await world.load()
        world.change(12, "endpoint", "ep-other")
        await world.tick()
        await world.tick(WINDOW_SECONDS - 5)
        world.source.rows["ep-1"] = endpoint("ep-1", status="Stopped")
        world.change(11, "endpoint", "ep-1")
        await world.tick()
        found = world.table.endpoint("ep-1")
        assert found is not None
        assert found.status == "Stopped"

    run(scenario)


def test_a_change_that_was_uncommitted_while_the_table_was_loaded_is_not_missed() -> None:
    async def scenario(world: World) -> None:
        world.change(50, "endpoint", "ep-other")
        await world.load()
        world.source.rows["ep-1"] = endpoint("ep-1", status="Stopped")
        world.change(49, "endpoint", "ep-1")
        await world.tick()
        found = world.table.endpoint("ep-1")
        assert found is not None
        assert found.status == "Stopped"

    run(scenario)


def test_changes_are_applied_once_and_the_window_moves_on() -> None:
    async def scenario(world: World) -> None:
        await world.load()
        for change_id in range(1, 201):
            world.change(change_id, "endpoint", "ep-1")
        await world.tick()
        world.source.reads.clear()
        for _ in range(3):
            await world.tick()
        assert world.source.reads == ["changes"] * 3
        await world.tick(WINDOW_SECONDS + 1)
        assert world.table._floor == 200
        assert not world.table._seen

    run(scenario)


def test_a_change_of_a_server_or_version_reads_the_catalogue_again() -> None:
    async def scenario(world: World) -> None:
        await world.load()
        world.source.known_versions = [version(1, server(1, is_up=False)), version(2, server(1))]
        world.change(1, "server", "1")
        await world.tick()
        assert world.table.model("m-2") is not None
        found = world.table.version(1)
        assert found is not None
        assert not found.deployments[0].server.is_up

    run(scenario)


def test_without_the_database_what_was_known_stays() -> None:
    async def scenario(world: World) -> None:
        await world.load()
        world.source.is_away = True
        with pytest.raises(SourceAway):
            await world.tick()
        assert world.table.endpoint("ep-1") is not None
        with pytest.raises(SourceAway):
            await world.table.find_endpoint("ep-2")
        world.source.is_away = False
        assert await world.table.find_endpoint("ep-2") is None

    run(scenario)


def test_an_unknown_endpoint_is_asked_for_once_in_a_while_and_found_when_it_appears() -> None:
    async def scenario(world: World) -> None:
        await world.load()
        for _ in range(5):
            assert await world.table.find_endpoint("ep-new") is None
        assert world.source.reads.count("endpoints") == 2
        world.source.rows["ep-new"] = endpoint("ep-new")
        world.now += NEGATIVE_SECONDS + 0.1
        assert await world.table.find_endpoint("ep-new") == endpoint("ep-new")

    run(scenario)


def test_a_flood_of_unknown_keys_is_bounded_and_never_makes_routes_stale() -> None:
    async def scenario(world: World) -> None:
        await world.load()
        world.source.gate = threading.Event()
        callers = [asyncio.ensure_future(world.keys.find(b"%d" % number)) for number in range(LOOKUPS_MAX + 50)]
        await asyncio.sleep(0.01)
        assert sum(isinstance(caller.exception(), SourceAway) for caller in callers if caller.done()) == 50
        gate, world.source.gate = world.source.gate, None
        await world.tick()  # its own thread: the two that look keys up are stuck
        gate.set()
        assert await asyncio.gather(*callers[:LOOKUPS_MAX]) == [None] * LOOKUPS_MAX

    run(scenario)


def test_many_callers_of_a_new_preset_endpoint_make_one() -> None:
    async def scenario(world: World) -> None:
        await world.load()
        world.source.gate = threading.Event()
        callers = [asyncio.ensure_future(world.table.find_preset("team", 1)) for _ in range(20)]
        await asyncio.sleep(0.01)
        world.source.gate.set()
        found = await asyncio.gather(*callers)
        assert {route.id for route in found} == {"ep-m-team-1"}
        assert world.source.reads.count("preset") == 1
        await world.table.find_preset("team", 1)
        assert world.source.reads.count("preset") == 1

    run(scenario)


def test_keys_are_looked_up_once_and_forgotten_when_they_change() -> None:
    async def scenario(world: World) -> None:
        digest = hashlib.sha256(b"token").digest()
        key = KeyRoute(7, digest, "default", True, None, None, None)
        for _ in range(3):
            assert await world.keys.find(b"token") is None
        assert world.source.reads.count("key") == 1
        await world.load()
        world.source.keys[digest] = key
        world.change(1, "key", "7")
        await world.tick()
        for _ in range(3):
            assert await world.keys.find(b"token") == key
        assert world.source.reads.count("key") == 2
        del world.source.keys[digest]
        world.change(2, "key", "7")
        await world.tick()
        assert await world.keys.find(b"token") is None
        world.source.is_away = True
        with pytest.raises(SourceAway):
            await world.keys.find(b"another")

    run(scenario)


def test_a_key_that_changed_while_it_was_read_is_not_kept() -> None:
    async def scenario(world: World) -> None:
        digest = hashlib.sha256(b"token").digest()
        world.source.keys[digest] = KeyRoute(7, digest, "default", True, None, None, None)
        world.source.gate = threading.Event()
        looking = asyncio.ensure_future(world.keys.find(b"token"))
        await asyncio.sleep(0.01)
        world.keys.changed([7])
        world.source.gate.set()
        assert await looking is not None
        assert world.keys.known(b"token") is None

    run(scenario)


def test_healthy_servers_come_first_and_by_weight() -> None:
    async def scenario(world: World) -> None:
        table = world.table
        found = version(1, server(1), server(2), server(3, is_up=False), weights=[1, 4, 1000])
        firsts = [table.candidates(found)[0].server.id for _ in range(1000)]
        assert 3 not in firsts
        assert 120 < firsts.count(1) < 290
        assert {table.candidates(found)[-1].server.id for _ in range(50)} == {3}
        for _ in range(CIRCUIT_FAILURES):
            table.circuit.failed(2)
        assert [d.server.id for d in table.candidates(found)] == [1, 3, 2]

    run(scenario)


def test_the_circuit_opens_after_failures_in_a_row_and_closes_by_time_or_success() -> None:
    now = [0.0]
    circuit = Circuit(lambda: now[0])
    for _ in range(CIRCUIT_FAILURES - 1):
        circuit.failed(1)
    assert not circuit.is_open(1)
    circuit.failed(1)
    assert circuit.is_open(1)
    now[0] = CIRCUIT_SECONDS + 0.1
    assert not circuit.is_open(1)
    circuit.failed(1)
    assert circuit.is_open(1)
    circuit.worked(1)
    assert not circuit.is_open(1)


def test_a_wake_up_during_a_read_is_not_lost() -> None:
    async def scenario(world: World) -> None:
        await world.load()
        world.change(1, "endpoint", "ep-1")
        world.source.gate, world.source.gated = threading.Event(), "endpoints"
        world.source.reads.clear()
        following = asyncio.ensure_future(world.table.run())
        while "endpoints" not in world.source.reads:
            await asyncio.sleep(0.001)
        # What this turn reads is settled; another change is announced.
        world.source.rows["ep-1"] = endpoint("ep-1", status="Stopped")
        world.change(2, "endpoint", "ep-1")
        world.table.wake()
        woken_at = asyncio.get_running_loop().time()
        world.source.gate.set()
        while 2 not in world.table._seen:
            await asyncio.sleep(0.001)
        assert asyncio.get_running_loop().time() - woken_at < POLL_SECONDS / 2
        following.cancel()

    run(scenario)


def test_an_endpoint_that_is_switched_to_an_unknown_version_reads_the_catalogue_first() -> None:
    async def scenario(world: World) -> None:
        await world.load()
        world.source.known_versions = [version(1, server(1)), version(2, server(1))]
        world.source.rows["ep-1"] = endpoint("ep-1", switch=SwitchRoute(7, 1, 5, 2))
        world.change(1, "endpoint", "ep-1")
        await world.tick()
        assert world.table.version(2) is not None
        world.source.known_versions.append(version(3, server(1)))
        world.source.rows["ep-2"] = endpoint("ep-2", switch=SwitchRoute(8, 1, 5, 3))
        assert await world.table.find_endpoint("ep-2") is not None
        assert world.table.version(3) is not None

    run(scenario)


def test_what_a_call_looked_up_before_a_change_does_not_replace_what_came_with_it() -> None:
    async def scenario(world: World) -> None:
        await world.load()
        old = endpoint("ep-new", switch=SwitchRoute(7, 1, 30, 2))
        world.source.rows["ep-new"] = old
        gate = threading.Event()
        world.source.gate = gate
        world.source.reads.clear()
        looking = asyncio.ensure_future(world.table.find_endpoint("ep-new"))
        while not world.source.reads:
            await asyncio.sleep(0.001)
        # The call's answer is on its way; the switch is rolled back, and what follows changes is quicker.
        world.source.gate = None
        world.source.rows["ep-new"] = endpoint("ep-new")
        world.change(1, "endpoint", "ep-new")
        await world.tick()
        gate.set()
        assert await looking == old
        assert world.table.endpoint("ep-new") == endpoint("ep-new")

    run(scenario)
