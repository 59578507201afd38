"""Where calls go: every worker keeps all routes in memory and follows `RouteChange` rows.

`RouteTable` is what the hot path asks; it never waits for a read except for an endpoint that it has not heard of.
`Source` is where it reads from (blocking, so it is called in threads): the database, or a fake in tests.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from gateway.upstream import Origin

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Half of the second within which a change is obeyed: what is left is for the reads, also when nobody wakes us."""
WINDOW_SECONDS = 30.0
"""How long a `RouteChange` with a lower id may still appear: PostgreSQL commits ids out of order."""
LOOKUP_SECONDS = 3.0
LOOKUPS_MAX = 200
FOLLOW_SECONDS = 30.0
NEGATIVE_SECONDS = 2.0
NEGATIVE_MAX = 10_000
CIRCUIT_FAILURES = 2
CIRCUIT_SECONDS = 5.0

_ENDPOINT_ID = re.compile(r"ep-[A-Za-z0-9._-]{1,61}")

T = TypeVar("T")


class SourceAway(Exception):
    """The database cannot be read now."""


class NotServed(Exception):
    """There is no such project or version, or the version was retired."""


@dataclass(frozen=True, slots=True)
class ServerRoute:
    """A model server. `base_path` has no slash at its end; `api_key` never leaves the head of an upstream request."""

    id: int
    origin: Origin
    base_path: str
    api_key: str = field(repr=False, default="")
    accepts_stream_options: bool = True
    is_up: bool = True
    connect_seconds: float = 5.0
    read_seconds: float = 600.0
    heads: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    def head(self, path: str, accept: str) -> bytes:
        """The start of a request to `path` (below `base_path`), up to the call's own header lines."""
        found = self.heads.get(path + accept)
        if found is None:
            key = f"Authorization: Bearer {self.api_key}\r\n" if self.api_key else ""
            found = (
                f"POST {self.base_path}{path} HTTP/1.1\r\nHost: {self.origin.host_header}\r\n{key}"
                f"Content-Type: application/json\r\nAccept: {accept}\r\nAccept-Encoding: identity\r\n"
                "User-Agent: ArkConsole\r\n"
            ).encode()
            self.heads[path + accept] = found
        return found


@dataclass(frozen=True, slots=True)
class DeploymentRoute:
    """A version on a server; `upstream_json` is the server's model name as a JSON string."""

    id: int
    server: ServerRoute
    upstream_json: msgspec.Raw
    weight: int


@dataclass(frozen=True, slots=True)
class VersionRoute:
    """A model version. `model_id` is `<name>-<version>`, `model_json` the same as a JSON string."""

    id: int
    model_id: str
    model_json: bytes
    base_model: str
    domain: str
    default_output_tokens: int
    released: int
    deployments: tuple[DeploymentRoute, ...]

    @property
    def api(self) -> str:
        """The API that serves it."""
        return "embeddings" if self.domain == "embedding" else "chat"


@dataclass(frozen=True, slots=True)
class SwitchRoute:
    """An open version switch. `weight` percent of conversations go to the target; `soak` names the stay at this weight."""

    id: int
    soak: int
    weight: int
    target_version_id: int


@dataclass(frozen=True, slots=True)
class EndpointRoute:
    """An endpoint. Limits of 0 are none. During a switch `version_id` is its source."""

    id: str
    project_id: str
    version_id: int
    rpm: int
    tpm: int
    status: str
    is_preset: bool
    switch: SwitchRoute | None = None

    @property
    def is_open(self) -> bool:
        """Whether calls are forwarded: an abnormal endpoint's are, which is how it is found to be well again."""
        return self.status in ("Running", "Abnormal")


@dataclass(frozen=True, slots=True)
class KeyRoute:
    """An API key. `scopes` are (kind, id) pairs, None for the whole project; `networks` are None for any address."""

    id: int
    digest: bytes
    project_id: str
    is_enabled: bool
    expires_at: float | None
    networks: tuple[Any, ...] | None
    scopes: frozenset[tuple[str, str]] | None


@dataclass(frozen=True, slots=True)
class Change:
    """A `RouteChange` row."""

    id: int
    kind: str
    object_id: str


class Source(Protocol):
    """Where routes are read; every method blocks and raises `SourceAway`."""

    def versions(self) -> list[VersionRoute]:
        """All model versions with their enabled deployments on enabled servers."""

    def endpoints(self, ids: Iterable[str] | None) -> list[EndpointRoute]:
        """These endpoints (all when None), without deleted ones, newest first."""

    def preset(self, project_id: str, version_id: int) -> EndpointRoute:
        """The project's preset endpoint of a version, made when there is none. Raises `NotServed`."""

    def key(self, digest: bytes) -> KeyRoute | None:
        """The key with this SHA-256, also a disabled one; None when there is none or it was deleted."""

    def last_change(self) -> int:
        """The greatest change id, 0 when there is none."""

    def changes(self, after: int) -> list[Change]:
        """Changes with a greater id."""


class Negative(Generic[T]):
    """Things that were looked up and are not there: bounded, and soon asked for again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[T, float] = {}

    def add(self, item: T) -> None:
        while len(self._until) >= NEGATIVE_MAX:
            del self._until[next(iter(self._until))]
        self._until[item] = self._clock() + NEGATIVE_SECONDS

    def __contains__(self, item: T) -> bool:
        until = self._until.get(item)
        if until is None:
            return False
        if until < self._clock():
            del self._until[item]
            return False
        return True

    def clear(self) -> None:
        self._until.clear()


class Reader:
    """Runs a source's reads in threads of its own, one read per key at a time, each with a deadline.

    What follows changes has a thread to itself, so that a flood of unknown keys never makes routes stale; how many
    look-ups may wait is bounded.
    """

    def __init__(self) -> None:
        self._lookups = ThreadPoolExecutor(max_workers=2, thread_name_prefix="lookups")
        self._following = ThreadPoolExecutor(max_workers=1, thread_name_prefix="routes")
        self._flights: dict[Hashable, asyncio.Task[Any]] = {}

    async def look_up(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function` in a thread. Raises `SourceAway`, also when it takes too long or too many wait."""
        return await self._run(self._lookups, LOOKUP_SECONDS, function, *args)

    async def follow(self, function: Callable[..., T], *args: Any) -> T:
        """The same for what keeps the table up to date, with more patience."""
        return await self._run(self._following, FOLLOW_SECONDS, function, *args)

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, seconds: float, function: Callable[..., T], *args: Any) -> T:
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(pool, function, *args)
        except TimeoutError:
            raise SourceAway("no answer in time") from None

    async def once(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """The result of `make()`, shared with everybody who asks for `key` meanwhile."""
        task = self._flights.get(key)
        if task is None:
            if len(self._flights) >= LOOKUPS_MAX:
                raise SourceAway("too many look-ups wait")
            task = asyncio.ensure_future(make())
            self._flights[key] = task
            task.add_done_callback(lambda _task: self._flights.pop(key, None))
        result: T = await asyncio.shield(task)
        return result

    def close(self) -> None:
        for pool in (self._lookups, self._following):
            pool.shutdown(wait=False, cancel_futures=True)


class Circuit:
    """Servers that could not be reached lately, as this worker saw it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[int, int] = {}
        self._until: dict[int, float] = {}

    def failed(self, server_id: int) -> None:
        count = self._failures.get(server_id, 0) + 1
        self._failures[server_id] = count
        if count >= CIRCUIT_FAILURES:
            self._until[server_id] = self._clock() + CIRCUIT_SECONDS

    def worked(self, server_id: int) -> None:
        if self._failures:
            self._failures.pop(server_id, None)
            self._until.pop(server_id, None)

    def is_open(self, server_id: int) -> bool:
        """Whether it is better to try another one first."""
        return bool(self._until) and self._until.get(server_id, 0.0) > self._clock()


class RouteTable:
    """All routes of a worker. `is_ready` after the first load; later failures to read leave what was known."""

    def __init__(
        self,
        source: Source,
        reader: Reader,
        *,
        on_keys_changed: Callable[[list[int]], None] = lambda _ids: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._reader = reader
        self._on_keys_changed = on_keys_changed
        self._clock = clock
        self._endpoints: dict[str, EndpointRoute] = {}
        self._versions: dict[int, VersionRoute] = {}
        self._models: dict[str, VersionRoute] = {}
        self._presets: dict[tuple[str, int], str] = {}
        self._missing: Negative[str] = Negative(clock)
        self._generation = 0
        self._floor = 0
        self._seen: dict[int, float] = {}
        self._wake = asyncio.Event()
        self.circuit = Circuit(clock)
        self.is_ready = False
        self.is_away = False

    # -- asked by calls --

    def endpoint(self, endpoint_id: str) -> EndpointRoute | None:
        """A known endpoint."""
        return self._endpoints.get(endpoint_id)

    def version(self, version_id: int) -> VersionRoute | None:
        """A known version."""
        return self._versions.get(version_id)

    def model(self, model_id: str) -> VersionRoute | None:
        """The version that a model id names."""
        return self._models.get(model_id)

    def models(self) -> Iterable[VersionRoute]:
        """All versions."""
        return self._versions.values()

    def endpoints_of(self, project_id: str) -> list[EndpointRoute]:
        """Every endpoint of a project."""
        return [route for route in self._endpoints.values() if route.project_id == project_id]

    def newest(self) -> Iterable[EndpointRoute]:
        """Every endpoint, those that came last first."""
        return reversed(self._endpoints.values())

    async def find_endpoint(self, endpoint_id: str) -> EndpointRoute | None:
        """An endpoint, looked up when it is not known yet. Raises `SourceAway`."""
        known = self._endpoints.get(endpoint_id)
        # What cannot be an id (a NUL, say, which PostgreSQL refuses with an error) is not worth a question.
        if known is not None or endpoint_id in self._missing or not _ENDPOINT_ID.fullmatch(endpoint_id):
            return known

        async def look() -> EndpointRoute | None:
            generation = self._generation
            found = await self._reader.look_up(self._source.endpoints, [endpoint_id])
            if not found:
                self._missing.add(endpoint_id)
                return None
            if self._lacks_versions(found):
                await self._load_versions()
            # Changed meanwhile: good for this call, not to be kept. What came with the change is newer.
            if generation == self._generation:
                self._put(found[0])
            return found[0]

        return await self._reader.once(("endpoint", endpoint_id), look)

    def preset(self, project_id: str, version_id: int) -> EndpointRoute | None:
        """The project's preset endpoint of a version, if there is one."""
        return self._endpoints.get(self._presets.get((project_id, version_id), ""))

    async def find_preset(self, project_id: str, version_id: int) -> EndpointRoute:
        """The project's preset endpoint of a version, created on the first call. Raises `SourceAway`, `NotServed`."""
        known = self.preset(project_id, version_id)
        if known is not None:
            return known

        async def look() -> EndpointRoute:
            found = await self._reader.look_up(self._source.preset, project_id, version_id)
            self._put(found)
            return found

        return await self._reader.once(("preset", project_id, version_id), look)

    def candidates(self, version: VersionRoute) -> list[DeploymentRoute]:
        """Deployments in the order to try: healthy ones by weighted chance, then the rest by weighted chance."""
        deployments = version.deployments
        if len(deployments) == 1:
            return list(deployments)
        return sorted(deployments, key=self._rank)

    def _rank(self, deployment: DeploymentRoute) -> tuple[bool, bool, float]:
        server = deployment.server
        # Exponential keys: the smallest of them is a choice by weight, and so is each next one.
        return self.circuit.is_open(server.id), not server.is_up, random.expovariate(max(deployment.weight, 1e-9))

    # -- kept up to date --

    def wake(self) -> None:
        """There may be a change: look now, not at the next second."""
        self._wake.set()

    async def run(self) -> None:
        """Load everything, then follow changes until cancelled."""
        while True:
            # Before reading: a wake-up that comes while rows are read may speak of a newer one.
            self._wake.clear()
            try:
                if not self.is_ready:
                    await self._load()
                else:
                    await self._follow()
                if self.is_away:
                    log.warning("the database is back")
                self.is_away = False
            except SourceAway as error:
                if not self.is_away:
                    log.warning("routes cannot be read, going on with what is known: %s", error)
                self.is_away = True
            except Exception:
                # Whatever a row holds, the table must go on following: a dead follower serves old routes for ever.
                log.exception("routes cannot be read")
                self.is_away = True
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _load(self) -> None:
        # First the position, then the rows: what changes in between is read twice, not missed.
        last = await self._reader.follow(self._source.last_change)
        floor = max(last - 1000, 0)
        recent = await self._reader.follow(self._source.changes, floor)
        await self._load_versions()
        endpoints = await self._reader.follow(self._source.endpoints, None)
        self._endpoints = {}
        self._presets = {}
        for route in reversed(endpoints):
            self._put(route)
        now = self._clock()
        self._floor = floor
        self._seen = {change.id: now for change in recent}
        self.is_ready = True
        log.info("routes loaded: %d endpoints, %d versions", len(self._endpoints), len(self._versions))

    async def _load_versions(self) -> None:
        versions = await self._reader.follow(self._source.versions)
        self._versions = {version.id: version for version in versions}
        self._models = {version.model_id: version for version in versions}

    async def _follow(self) -> None:
        rows = await self._reader.follow(self._source.changes, self._floor)
        new = [change for change in rows if change.id not in self._seen]
        if new:
            await self._apply(new)
        now = self._clock()
        for change in new:
            self._seen[change.id] = now
        # Ids that were seen long enough ago bound the window from below: nothing older can still appear.
        old = [change_id for change_id, at in self._seen.items() if now - at > WINDOW_SECONDS]
        if old:
            self._floor = max(self._floor, *old)
            self._seen = {change_id: at for change_id, at in self._seen.items() if change_id > self._floor}

    async def _apply(self, changes: list[Change]) -> None:
        self._generation += 1
        kinds: dict[str, set[str]] = {}
        for change in changes:
            kinds.setdefault(change.kind, set()).add(change.object_id)
        if "server" in kinds or "version" in kinds:
            await self._load_versions()
        if ids := kinds.get("endpoint"):
            await self._reload_endpoints(ids)
        if ids := kinds.get("key"):
            self._on_keys_changed([int(key_id) for key_id in ids if key_id.isdigit()])
        if "project" in kinds:
            self._on_keys_changed([])

    async def _reload_endpoints(self, ids: set[str]) -> None:
        wanted = list(ids)
        for start in range(0, len(wanted), 500):
            batch = wanted[start : start + 500]
            found = {route.id: route for route in await self._reader.follow(self._source.endpoints, batch)}
            if self._lacks_versions(found.values()):
                await self._load_versions()
            for endpoint_id in batch:
                if route := found.get(endpoint_id):
                    self._put(route)
                else:
                    self._drop(endpoint_id)
        self._missing.clear()

    def _lacks_versions(self, routes: Iterable[EndpointRoute]) -> bool:
        known = self._versions
        return any(
            route.version_id not in known or (route.switch is not None and route.switch.target_version_id not in known)
            for route in routes
        )

    def _put(self, route: EndpointRoute) -> None:
        self._endpoints[route.id] = route
        if route.is_preset:
            self._presets[route.project_id, route.version_id] = route.id

    def _drop(self, endpoint_id: str) -> None:
        route = self._endpoints.pop(endpoint_id, None)
        if route is not None and self._presets.get((route.project_id, route.version_id)) == endpoint_id:
            del self._presets[route.project_id, route.version_id]
