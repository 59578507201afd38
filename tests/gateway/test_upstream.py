from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import ipaddress
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common import addresses
from gateway.errors import AnswerBroken, AnswerTimedOut, ConnectFailed
from gateway.upstream import HIGH_WATER_BYTES, HttpUpstream, Origin, Request
from tests.gateway.scripted import ScriptedUpstream
from tests.servers import HeldPort

T = TypeVar("T")


@pytest.fixture
def server() -> Iterator[ScriptedUpstream]:
    found = ScriptedUpstream().start()
    yield found
    found.stop()


def request(port: int, *, host: str = "127.0.0.1", **options: Any) -> Request:
    script = options.pop("script", {})
    stream = options.pop("stream", False)
    body = json.dumps({"model": "m", "stream": stream, "x_script": script}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n".encode()
    return Request(Origin(host, port, is_tls=options.pop("is_tls", False)), head, "call-1", body, **options)


def run(scenario: Callable[[HttpUpstream], Awaitable[T]], **options: Any) -> T:
    async def wrapped() -> T:
        upstream = HttpUpstream(**options)
        try:
            return await scenario(upstream)
        finally:
            await upstream.aclose()

    return asyncio.run(wrapped())


async def read(upstream: HttpUpstream, wanted: Request) -> bytes:
    answer = await upstream.send(wanted)
    assert answer.status == 200
    return await answer.read(10_000_000)


@pytest.mark.parametrize(
    ("url", "origin", "host_header"),
    [
        ("http://10.0.0.5:8000/v1", Origin("10.0.0.5", 8000, is_tls=False), "10.0.0.5:8000"),
        ("https://api.example.com/v1", Origin("api.example.com", 443, is_tls=True), "api.example.com"),
        ("http://[::1]:9000", Origin("::1", 9000, is_tls=False), "[::1]:9000"),
    ],
)
def test_the_origin_of_an_address_is_read(url: str, origin: Origin, host_header: str) -> None:
    assert Origin.of(url) == origin
    assert origin.host_header == host_header


def test_connections_are_kept_and_used_again(server: ScriptedUpstream) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        for _ in range(5):
            assert b"hello" in await read(upstream, request(server.port))
        await asyncio.gather(*(read(upstream, request(server.port, script={"delay_ms": 20})) for _ in range(3)))

    run(scenario)
    assert len(server.seen) == 8
    assert server.connections == 3
    assert server.seen[0].headers["x-request-id"] == "call-1"


def test_a_connection_that_the_server_closed_while_idle_is_not_used(server: ScriptedUpstream) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        await read(upstream, request(server.port, script={"close_after_answer": True}))
        await asyncio.sleep(0.05)
        await read(upstream, request(server.port))

    run(scenario)
    assert server.connections == 2


def test_a_request_that_met_a_closing_connection_is_sent_once_more(server: ScriptedUpstream) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        await read(upstream, request(server.port))
        server.force = {"close_at_once": True}
        with pytest.raises(AnswerBroken):  # the second try is on a new connection and is the last
            await upstream.send(request(server.port))
        server.force = {}
        await read(upstream, request(server.port))

        kept = upstream.open_connections
        server.close_connections()  # in the moment of the next request, as far as the client can see
        await read(upstream, request(server.port))
        assert kept == 1

    run(scenario)
    assert len(server.seen) == 3


def test_an_answer_that_broke_half_way_is_never_sent_again(server: ScriptedUpstream) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        await read(upstream, request(server.port))
        answer = await upstream.send(request(server.port, script={"cut_after": 20}))
        with pytest.raises(AnswerBroken) as caught:
            await answer.read(1_000_000)
        assert caught.value.had_bytes

    run(scenario)
    assert len(server.seen) == 2


def test_idle_connections_are_closed_before_the_server_would(server: ScriptedUpstream) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        await read(upstream, request(server.port))
        assert upstream.open_connections == 1
        async with asyncio.timeout(30):
            while upstream.open_connections:
                await asyncio.sleep(0.02)

    run(scenario, idle_seconds=0.2)


def test_a_server_that_says_how_long_it_waits_is_believed(server: ScriptedUpstream) -> None:
    raw = "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1, max=100\r\nContent-Length: 2\r\n\r\nok"

    async def scenario(upstream: HttpUpstream) -> None:
        assert await read(upstream, request(server.port, script={"raw_answer": raw})) == b"ok"
        assert upstream.open_connections == 0

    run(scenario)


def test_nobody_listening_is_a_failed_connection() -> None:
    held = HeldPort()

    async def scenario(upstream: HttpUpstream) -> None:
        with pytest.raises(ConnectFailed):
            await upstream.send(request(held.number))

    run(scenario)
    held.release()


def test_a_server_that_takes_no_connection_is_given_up_in_time() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))

        async def scenario(upstream: HttpUpstream) -> None:
            with pytest.raises(ConnectFailed, match="in time"):
                await upstream.send(request(port, connect_seconds=0.2))

        run(scenario)
        for one in waiting:
            one.close()


def test_a_server_that_says_nothing_is_given_up_in_time(server: ScriptedUpstream) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        with pytest.raises(AnswerTimedOut):
            await upstream.send(request(server.port, script={"never": True}, first_byte_seconds=0.2))
        async with asyncio.timeout(30):
            while not server.seen[-1].is_cut:
                await asyncio.sleep(0.01)

    run(scenario)


def test_an_answer_that_stalls_is_broken(server: ScriptedUpstream) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        wanted = request(server.port, stream=True, script={"every_ms": 5000}, idle_seconds=0.3)
        answer = await upstream.send(wanted)
        with pytest.raises(AnswerBroken, match="stalled"):
            await answer.next()

    run(scenario)


def test_closing_an_answer_stops_the_server(server: ScriptedUpstream) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        answer = await upstream.send(request(server.port, stream=True, script={"chunks": 1000, "every_ms": 5}))
        await answer.next()
        answer.close()
        answer.close()
        async with asyncio.timeout(30):
            while not server.seen[-1].is_cut:
                await asyncio.sleep(0.01)
        assert upstream.open_connections == 0

    run(scenario)


def test_a_cancelled_request_stops_the_server(server: ScriptedUpstream) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        task = asyncio.ensure_future(upstream.send(request(server.port, script={"never": True})))
        async with asyncio.timeout(30):
            while not server.seen:
                await asyncio.sleep(0.01)
            task.cancel()
            while not server.seen[-1].is_cut:
                await asyncio.sleep(0.01)

    run(scenario)


def test_a_reader_who_stops_makes_the_server_stop(server: ScriptedUpstream) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        script = {"chunks": 1000, "chunk_bytes": 50_000}
        answer = await upstream.send(request(server.port, stream=True, script=script, idle_seconds=2.0))
        await answer.next()
        sent = -1
        while server.seen[-1].sent_bytes != sent:  # until the kernel's buffers are full and the server stands still
            sent = server.seen[-1].sent_bytes
            await asyncio.sleep(0.1)
        await asyncio.sleep(2.5)  # longer than the idle limit, which is not for readers who are slow
        assert server.seen[-1].sent_bytes < 20_000_000
        size = 0
        while piece := await answer.next():
            size += len(piece)
            assert len(piece) <= HIGH_WATER_BYTES + 1_000_000
        assert size > 50_000_000 * 0.9

    run(scenario)


def test_informational_answers_are_passed_over(server: ScriptedUpstream) -> None:
    raw = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def scenario(upstream: HttpUpstream) -> None:
        for _ in range(2):
            assert await read(upstream, request(server.port, script={"raw_answer": raw})) == b"ok"

    run(scenario)
    assert server.connections == 1


def test_more_than_the_answer_makes_the_connection_unusable(server: ScriptedUpstream) -> None:
    raw = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

    async def scenario(upstream: HttpUpstream) -> None:
        assert await read(upstream, request(server.port, script={"raw_answer": raw})) == b"ok"
        assert b"hello" in await read(upstream, request(server.port))

    run(scenario)
    assert server.connections == 2


@pytest.mark.parametrize("raw", ["SSH-2.0-OpenSSH\r\n", "HTTP/1.1 abc\r\n\r\n", "\x00\x01\x02"])
def test_what_is_not_http_is_a_broken_answer(server: ScriptedUpstream, raw: str) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        with pytest.raises(AnswerBroken):
            await upstream.send(request(server.port, script={"raw_answer": raw, "close_after_answer": True}))

    run(scenario)


def test_an_answer_that_ends_with_its_connection_is_whole(server: ScriptedUpstream) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        answer = await upstream.send(request(server.port, script={"is_framed": False}))
        assert not answer.is_framed
        assert b"hello" in await answer.read(1_000_000)

    run(scenario)


def test_an_answer_that_came_compressed_anyway_is_read(server: ScriptedUpstream) -> None:
    packed = gzip.compress(b'{"a":1}' * 100).decode("latin-1")

    async def scenario(upstream: HttpUpstream) -> None:
        raw = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"

        # latin-1 text sent as UTF-8 would not be the same bytes: send from a server of our own.
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"}}")
            writer.write(raw.encode() + packed.encode("latin-1"))
            await writer.drain()
            writer.close()

        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with listener:
            port = listener.sockets[0].getsockname()[1]
            assert await read(upstream, request(port)) == b'{"a":1}' * 100

    run(scenario)


def test_too_large_an_answer_is_not_read_to_its_end(server: ScriptedUpstream) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        answer = await upstream.send(request(server.port, script={"text": "x" * 100_000}))
        with pytest.raises(AnswerBroken, match="too large"):
            await answer.read(50_000)

    run(scenario)


@pytest.mark.parametrize("host", ["169.254.169.254", "0.0.0.0", "fe80::1", "100.100.100.200"])
def test_forbidden_addresses_are_never_called(host: str) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        with pytest.raises(ConnectFailed, match="never call"):
            await upstream.send(request(80, host=host))

    run(scenario)


def test_a_name_that_resolves_to_a_forbidden_address_is_never_called() -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise addresses.UnsafeAddress(f"{host} is one of those")

    async def scenario(upstream: HttpUpstream) -> None:
        with pytest.raises(ConnectFailed, match="never call"):
            await upstream.send(request(80, host="metadata.example"))

    run(scenario, resolve=resolve)


def test_the_next_address_of_a_name_is_tried(server: ScriptedUpstream) -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        assert b"hello" in await read(upstream, request(server.port, host="model.example"))

    run(scenario, resolve=lambda _host, _port: ["127.0.0.2", "127.0.0.1"])


def test_a_host_that_no_name_can_be_is_a_server_that_cannot_be_reached() -> None:
    async def scenario(upstream: HttpUpstream) -> None:
        with pytest.raises(ConnectFailed, match="no host name"):
            await upstream.send(request(80, host="a..b"))

    run(scenario)


def test_tls_is_spoken_and_certificates_are_checked(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)

    async def scenario(upstream: HttpUpstream) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"}}")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()

        listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        async with listener:
            port = listener.sockets[0].getsockname()[1]
            assert await read(upstream, request(port, is_tls=True)) == b"ok"
            strict = HttpUpstream()
            with pytest.raises(ConnectFailed, match="TLS"):
                await strict.send(request(port, is_tls=True))
            await strict.aclose()

    run(scenario, tls=ssl.create_default_context(cafile=str(certificate)))


def self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(private + certificate.public_bytes(pem))
    return path
