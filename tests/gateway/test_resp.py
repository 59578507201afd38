from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop

from gateway.resp import Address, Pipe, RedisAway, Script, parse_url
from tests.gateway.test_upstream import self_signed
from tests.servers import RedisServer, dying_with_us, free_port, wait_until

ADD = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", Address("localhost")),
        ("redis://10.0.0.7:6380/3", Address("10.0.0.7", 6380, database=3)),
        ("redis://[::1]:6380", Address("::1", 6380)),
        ("redis://:p%40ss@h", Address("h", password="p@ss")),
        ("redis://us%3Aer:pw@h/1", Address("h", username="us:er", password="pw", database=1)),
        ("redis://h?db=4", Address("h", database=4)),
        ("rediss://h:6390", Address("h", 6390, is_tls=True)),
        ("rediss://h?ssl_cert_reqs=none", Address("h", is_tls=True, verifies=False)),
        ("rediss://h?ssl_ca_certs=%2Fca.pem", Address("h", is_tls=True, ca_file="/ca.pem")),
        ("unix:///run/redis.sock", Address(path="/run/redis.sock")),
        (
            "unix://user:pw@/run/redis.sock?db=2",
            Address(path="/run/redis.sock", username="user", password="pw", database=2),
        ),
    ],
)
def test_every_form_of_a_redis_url_is_read(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize("url", ["http://h", "redis://h/x", "unix://", "h:6379"])
def test_what_is_no_redis_url_is_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match=r".{20}"):
        parse_url(url)


@contextlib.asynccontextmanager
async def running(url: str, **options: Any) -> AsyncIterator[Pipe]:
    pipe = Pipe(parse_url(url), scripts=(ADD,), **options)
    task = asyncio.ensure_future(pipe.run())
    try:
        await until(lambda: pipe.is_connected)
        yield pipe
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(predicate: Any, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not predicate():
            await asyncio.sleep(0.005)


def test_replies_come_back_to_those_who_asked(gateway_redis: RedisServer) -> None:
    async def scenario() -> list[Any]:
        async with running(gateway_redis.url) as pipe:
            await pipe.ask(None, ("DEL", "n"))
            return await asyncio.gather(*(pipe.ask(ADD, (1, "n", 1)) for _ in range(500)))

    assert asyncio.run(scenario()) == list(range(1, 501))


def test_scripts_that_redis_forgot_are_sent_again(gateway_redis: RedisServer) -> None:
    async def scenario() -> list[Any]:
        async with running(gateway_redis.url) as pipe:
            await pipe.ask(None, ("DEL", "n"))
            flushed = pipe.ask(None, ("SCRIPT", "FLUSH"))
            asked = [pipe.ask(ADD, (1, "n", 1)) for _ in range(3)]
            await flushed
            return [*await asyncio.gather(*asked), await pipe.ask(ADD, (1, "n", 1))]

    assert asyncio.run(scenario()) == [1, 2, 3, 4]


def test_an_error_of_redis_is_told_as_redis_away(gateway_redis: RedisServer) -> None:
    async def scenario() -> None:
        async with running(gateway_redis.url) as pipe:
            with pytest.raises(RedisAway, match="ERR"):
                await pipe.ask(None, ("NOSUCH",))
            assert await pipe.ask(None, ("PING",)) == b"PONG"

    asyncio.run(scenario())


def test_a_late_reply_is_waited_for_no_longer_than_the_deadline(
    gateway_redis: RedisServer, gateway_redis_client: redis.Redis
) -> None:
    async def scenario() -> None:
        async with running(gateway_redis.url, deadline_seconds=0.1) as pipe:
            loop = asyncio.get_running_loop()
            sleeping = pipe.ask(None, ("BLPOP", "something-late", "60"))
            counted = pipe.ask(ADD, (1, "late", 0))
            began = loop.time()
            with pytest.raises(RedisAway):
                await counted
            # Redis answers the blocked command below, and not before.
            assert 0.09 < loop.time() - began < 30
            assert pipe.is_stalled
            with pytest.raises(RedisAway, match="stalled"):
                await pipe.ask(None, ("PING",))
            with pytest.raises(RedisAway):
                await sleeping
            gateway_redis_client.lpush("something-late", "1")
            await until(lambda: not pipe.is_stalled)
            assert await pipe.ask(None, ("PING",)) == b"PONG"

    asyncio.run(scenario())


def test_a_process_that_was_busy_itself_does_not_blame_redis(
    gateway_redis: RedisServer, gateway_redis_client: redis.Redis
) -> None:
    gateway_redis_client.delete("busy")

    async def scenario() -> None:
        async with running(gateway_redis.url, deadline_seconds=0.05) as pipe:
            asked = [pipe.ask(ADD, (1, "busy", 1)) for _ in range(3)]
            await asyncio.sleep(0)
            # The whole loop stands still, past the deadline; the replies wait in the socket.
            time.sleep(0.2)  # noqa: ASYNC251
            wait_until(lambda: gateway_redis_client.get("busy") == b"3")
            assert await asyncio.gather(*asked) == [1, 2, 3]
            assert not pipe.is_stalled

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_the_connection_comes_back_by_itself_and_tells_what_was_not_answered() -> None:
    server = RedisServer()
    server.start()

    async def scenario() -> None:
        async with running(server.url) as pipe:
            unanswered: list[str] = []
            blocked = pipe.ask(None, ("BLPOP", "nothing-here", "30"))
            pipe.submit(ADD, (1, "n", 1), lambda: unanswered.append("lost"))
            await asyncio.to_thread(server.kill)
            with pytest.raises(RedisAway):
                await blocked
            await until(lambda: not pipe.is_connected)
            assert unanswered == ["lost"]
            pipe.submit(ADD, (1, "n", 1), lambda: unanswered.append("at once"))
            assert unanswered == ["lost", "at once"]
            with pytest.raises(RedisAway):
                await pipe.ask(None, ("PING",))
            await asyncio.to_thread(server.start)
            await until(lambda: pipe.is_connected)
            assert await pipe.ask(ADD, (1, "n", 5)) == 5

    try:
        asyncio.run(scenario())
    finally:
        server.stop()


def test_user_password_and_database_are_honoured(gateway_redis: RedisServer) -> None:
    async def scenario() -> None:
        async with running(gateway_redis.url) as admin:
            await admin.ask(None, ("ACL", "SETUSER", "gw", "on", ">p@ss", "~*", "+@all"))
        async with running(f"redis://gw:p%40ss@127.0.0.1:{gateway_redis.port}/5") as pipe:
            assert await pipe.ask(None, ("ACL", "WHOAMI")) == b"gw"
            await pipe.ask(None, ("SET", "only-here", "1"))
            assert b"db=5" in await pipe.ask(None, ("CLIENT", "INFO"))
        async with running(gateway_redis.url) as other:
            assert await other.ask(None, ("EXISTS", "only-here")) == 0

    asyncio.run(scenario())


def test_unix_sockets_and_tls_are_spoken(tmp_path: Path) -> None:
    certificate, path, port = str(self_signed(tmp_path)), str(tmp_path / "redis.sock"), free_port()
    command = [
        shutil.which("redis-server") or "", "--port", "0", "--save", "", "--unixsocket", path, "--dir", str(tmp_path),
        "--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", certificate,
        "--tls-ca-cert-file", certificate, "--tls-auth-clients", "no", "--bind", "127.0.0.1",
    ]  # fmt: skip
    if not command[0]:
        pytest.skip("the embedded server speaks no TLS")

    async def scenario() -> None:
        for url in (
            f"unix://{path}?db=3",
            f"rediss://127.0.0.1:{port}/3?ssl_ca_certs={certificate}",
            f"rediss://127.0.0.1:{port}/3?ssl_cert_reqs=none",
        ):
            async with running(url) as pipe:
                assert b"db=3" in await pipe.ask(None, ("CLIENT", "INFO"))

    process = subprocess.Popen(dying_with_us(*command), stdout=subprocess.DEVNULL)
    try:
        asyncio.run(scenario())
    finally:
        process.kill()
        process.wait()
