"""The design's table "when a part is away", row by row, for the parts that are not processes of our own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.sdk.arrange import Made, Order, Wanted, arrange
from tests.servers import ROOT, PostgresServer, RedisServer, dying_with_us, free_port
from tests.stack import Stack
from tests.system.traffic import Books, Traffic, call, degraded, lives, wait_for_every_worker

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400), pytest.mark.usefixtures("whole_again")]


class ModelServer:
    """A demo server of the test's own, to kill and to start."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._state = folder / "demo-state"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            dying_with_us(sys.executable, "-m", "demo", "--port", str(self.port), "--state", str(self._state)),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        Stack.wait_until(lambda: lives(self.url), seconds=60, what="the model server answers")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    server = ModelServer(tmp_path_factory.mktemp("away"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def made(stack: Stack, model_server: ModelServer) -> Made:
    """Endpoints on that server alone, each of a version of its own."""
    wanted = [Wanted("chat", "demo-fast", rpm=100_000), Wanted("two", "demo-fast-2", rpm=100_000)]
    return arrange(stack, Order("away", f"{model_server.url}/v1", wanted))


@contextmanager
def database_away(postgres: PostgresServer) -> Iterator[None]:
    """The stack's database refuses everybody, and has thrown out who was there."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("ALTER DATABASE ark_stack ALLOW_CONNECTIONS false")
        try:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ark_stack'")
            yield
        finally:
            connection.execute("ALTER DATABASE ark_stack ALLOW_CONNECTIONS true")


def test_with_the_database_away_known_calls_go_on_and_usage_waits_in_redis(
    stack: Stack,
    stack_redis: RedisServer,
    postgres: PostgresServer,
    traffic: Traffic,
    books: Books,
    browser: httpx.Client,
) -> None:
    with traffic:
        traffic.wait_for_more(10)
        wait_for_every_worker(stack, stack_redis.url)
        with database_away(postgres):
            stack.wait_until(
                lambda: "database" in (degraded(stack.gateway_url) or []), seconds=60, what="the gateway says so"
            )
            traffic.wait_for_more(30)
            stack.wait_until(lambda: degraded(stack.console_url) is None, seconds=60, what="the console says so")
            page = browser.get("/endpoints/")
            assert page.status_code == 503
            assert "The database does not answer" in page.text
            with httpx.Client(timeout=60, trust_env=False) as client:
                unknown = call(client, stack.gateway_url, "never seen", traffic.endpoint_id, 5, is_stream=False)
            assert unknown.status == 503, "an unknown key may be a good one: nobody can tell now"
        traffic.wait_for_more(20)

    assert traffic.bad_since(0) == []
    stack.wait_until(
        lambda: browser.get("/endpoints/").status_code == 200, seconds=60, what="the console is back by itself"
    )
    books.must_agree(traffic.seen)


def test_with_a_database_that_hangs_known_calls_go_on(
    stack: Stack, stack_redis: RedisServer, postgres: PostgresServer, traffic: Traffic, books: Books
) -> None:
    with traffic:
        traffic.wait_for_more(10)
        wait_for_every_worker(stack, stack_redis.url)
        postgres.pause()
        try:
            traffic.wait_for_more(80)
        finally:
            postgres.resume()
        traffic.wait_for_more(10)

    assert traffic.bad_since(0) == []
    books.must_agree(traffic.seen)


def test_with_a_redis_that_hangs_calls_go_on_hardly_later_and_each_is_counted_once(
    stack: Stack, stack_redis: RedisServer, traffic: Traffic, books: Books
) -> None:
    with traffic:
        traffic.wait_for_more(10)
        stack_redis.pause()
        try:
            traffic.wait_for_more(40)
            stack.wait_until(lambda: "redis" in (degraded(stack.gateway_url) or []), seconds=60, what="gateway says so")
            traffic.wait_for_more(10)
        finally:
            stack_redis.resume()
        traffic.wait_for_more(20)

    assert traffic.bad_since(0) == []
    books.must_agree(traffic.seen)


def status(books: Books) -> str:
    [row] = books.ask("SELECT status FROM endpoints_endpoint WHERE id = %s", books.endpoint_id)
    return str(row["status"])


def test_with_its_only_model_server_dead_an_endpoint_turns_abnormal_says_why_and_comes_back_by_itself(
    stack: Stack, made: Made, model_server: ModelServer, browser: httpx.Client
) -> None:
    traffic = Traffic(stack.gateway_url, made.api_key, made.endpoints["chat"], callers=2)
    books = Books(stack, traffic.endpoint_id, model_server.url)
    with traffic:
        traffic.wait_for_more(4)
        model_server.kill()
        try:
            stack.wait_until(lambda: status(books) == "Abnormal", seconds=120, what="the endpoint is abnormal")
            page = browser.get(f"/endpoints/{traffic.endpoint_id}").raise_for_status().text
            assert "Abnormal" in page
            assert re.search(r"Model server away server is down|latest calls failed on model server away server", page)
            dead_at = time.monotonic()
            stack.wait_until(lambda: len(traffic.bad_since(dead_at)) > 2, seconds=60, what="calls during the outage")
        finally:
            model_server.start()
        stack.wait_until(lambda: status(books) == "Running", seconds=120, what="the endpoint is healthy again")
        traffic.wait_for_more(10)

    refused = [each for each in traffic.seen if not each.is_good]
    assert {each.status for each in refused} <= {200, 500, 502, 503}
    assert all(each.code and not each.error for each in refused), "a caller always gets an answer in our own shape"
    books.must_agree(traffic.seen)


def test_with_one_of_two_model_servers_dead_every_call_is_answered_by_the_other(
    stack: Stack, stack_redis: RedisServer, made: Made, system_made: Made, model_server: ModelServer
) -> None:
    second = """
from django.utils import timezone
from catalog import services
from catalog.models import Deployment, ModelServer, ModelVersion
from iam.actors import SYSTEM
now = timezone.now()
server = ModelServer.objects.get(name="system server")
version = ModelVersion.objects.get(endpoints__id={endpoint!r})
deployment = Deployment(version=version, server=server, upstream_model="demo-fast-2")
services.save_deployment(deployment=deployment, by=SYSTEM, now=now)
"""
    # 'system server' is the stack's own demo server, under the endpoint of the other tests here.
    arrange_second = second.format(endpoint=made.endpoints["two"])
    subprocess.run(
        [sys.executable, "manage.py", "shell", "-v0", "-c", arrange_second], cwd=ROOT, env=stack.env, check=True
    )
    traffic = Traffic(stack.gateway_url, made.api_key, made.endpoints["two"])
    second_books = Books(stack, traffic.endpoint_id)
    with traffic:
        traffic.wait_for_more(20)
        wait_for_every_worker(stack, stack_redis.url)
        stack.wait_until(lambda: len(second_books.demo()) > 5, seconds=60, what="the second server is called too")
        model_server.kill()
        killed_at = time.monotonic()
        try:
            traffic.wait_for_more(40)
        finally:
            model_server.start()
        traffic.wait_for_more(10)

    assert traffic.bad_since(killed_at + 0.1) == []
