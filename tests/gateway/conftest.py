"""One gateway and one scripted model server for the tests that need nothing special."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.gateway.harness import GatewayProcess, Ledger, Site
from tests.gateway.scripted import ScriptedUpstream
from tests.servers import RedisServer


@pytest.fixture(scope="session")
def gateway_redis() -> Iterator[RedisServer]:
    """A Redis of the gateway's tests alone: others empty theirs between tests."""
    server = RedisServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def gateway_redis_client(gateway_redis: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(gateway_redis.url) as client:
        yield client


@pytest.fixture(scope="session")
def shared_upstream() -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream().start()
    yield server
    server.stop()


@pytest.fixture
def upstream(shared_upstream: ScriptedUpstream) -> ScriptedUpstream:
    """The scripted model server behind `gateway`, with an empty memory."""
    shared_upstream.reset()
    return shared_upstream


@pytest.fixture(scope="session")
def site(shared_upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site") / "site.json", shared_upstream.url)


@pytest.fixture(scope="session")
def gateway(
    site: Site, gateway_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    process = GatewayProcess(
        site,
        gateway_redis.url,
        tmp_path_factory.mktemp("gateway"),
        max_body_bytes=100_000,
        body_seconds=4.0,
        trusted_proxies=["127.0.0.1"],
    )
    yield process.start()
    process.stop()


@pytest.fixture
def ledger(gateway_redis_client: redis.Redis) -> Ledger:
    return Ledger(gateway_redis_client)


_numbers = itertools.count(1)


@pytest.fixture
def new_endpoint(site: Site) -> Callable[..., str]:
    """Makes an endpoint that no other test uses."""

    def make(**fields: object) -> str:
        return site.add_endpoint(f"ep-test-{next(_numbers)}", **fields)

    return make


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"
