"""Calls to typed addresses: to vetted addresses only, by the right name, within limits."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from common import addresses, outbound, tls


def client(
    transport: httpx.BaseTransport | None = None,
    *,
    total: float = 5,
    read: float = 5,
    size: int = 1000,
    to: str = "127.0.0.1",
) -> outbound.Client:
    return outbound.Client(
        connect_seconds=2, read_seconds=read, total_seconds=total, max_bytes=size, transport=transport,
        resolver=lambda _host, _port: to.split(","),
    )  # fmt: skip


class Recorder(httpx.BaseTransport):
    """Answers 200, except for the hosts that refuse."""

    def __init__(self, *refusing: str) -> None:
        self.refusing = refusing
        self.seen: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if request.url.host in self.refusing:
            raise httpx.ConnectError("refused") from ConnectionRefusedError(111, "Connection refused")
        return httpx.Response(200, json={"ok": True})


def test_a_host_that_no_name_can_be_is_told_as_such() -> None:
    for host in ("xn--", "a\u2024\u2024b"):
        with pytest.raises(outbound.OutboundError):
            client(Recorder()).get(f"http://{host}/v1")


@pytest.mark.parametrize(
    ("to", "url"), [("10.1.2.3", "http://10.1.2.3:8000/v1"), ("2001:db8::7", "http://[2001:db8::7]:8000/v1")]
)
def test_the_connection_goes_to_the_vetted_address_under_the_typed_name(to: str, url: str) -> None:
    transport = Recorder()
    assert client(transport, to=to).get("http://models.example:8000/v1").status == 200
    assert str(transport.seen[0].url) == url
    assert transport.seen[0].headers["Host"] == "models.example:8000"


def test_the_second_address_is_tried_when_the_first_refuses() -> None:
    transport = Recorder("10.0.0.1")
    assert client(transport, to="10.0.0.1,10.0.0.2").post("http://models.example/", json={}).status == 200
    assert [request.url.host for request in transport.seen] == ["10.0.0.1", "10.0.0.2"]
    with pytest.raises(outbound.Refused):
        client(Recorder("10.0.0.1"), to="10.0.0.1").get("http://models.example/")


def test_a_forbidden_address_raises_before_anything_is_sent() -> None:
    transport = Recorder()
    forbidden = outbound.Client(
        connect_seconds=1, read_seconds=1, total_seconds=1, max_bytes=1, transport=transport, resolver=addresses.resolve
    )
    with pytest.raises(addresses.UnsafeAddress):
        forbidden.get("http://169.254.169.254/latest/meta-data")
    with pytest.raises(addresses.UnsafeAddress):
        outbound.check_tcp("169.254.169.254", 80, connect_seconds=1)
    assert transport.seen == []


def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert client(Recorder()).get("http://models.example/").status == 200


def test_an_answer_that_is_too_long_is_not_read_to_its_end() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 600

    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=endless()))
    with pytest.raises(outbound.TooLarge):
        client(transport).get("http://models.example/")


def test_a_body_that_drips_ends_at_the_deadline() -> None:
    def dripping() -> Iterator[bytes]:
        while True:
            yield b"x"

    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=dripping()))
    with pytest.raises(outbound.TimedOut):
        client(transport, total=0.05, size=10**9).get("http://models.example/")


def test_headers_that_drip_end_at_the_deadline_too() -> None:
    # Each byte comes well within the read timeout; only the deadline of the whole call ends it.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        is_over = threading.Event()

        def drip() -> None:
            connection, _address = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not is_over.wait(0.02):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        dripper = threading.Thread(target=drip)
        dripper.start()
        try:
            with client(total=0.3) as called, pytest.raises(outbound.TimedOut):
                called.post(f"http://127.0.0.1:{listener.getsockname()[1]}/", content=b"{}")
        finally:
            is_over.set()
            dripper.join()


def test_tcp_says_refused_and_reached() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with pytest.raises(outbound.Refused):
            outbound.check_tcp("127.0.0.1", port, connect_seconds=1)
        listener.listen()
        assert outbound.check_tcp("127.0.0.1", port, connect_seconds=1) >= 0


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for models.example, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "models.example")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("models.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + signed.public_bytes(pem))
    return path


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers["Host"].encode())

    def log_message(self, *args: object) -> None:
        pass


class QuietServer(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in the handshake is what these tests are about."""


@pytest.fixture(scope="module")
def tls_port(certificate: Path) -> Iterator[int]:
    server = QuietServer(("127.0.0.1", 0), Hello)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_certificate_is_checked_against_the_name_and_not_the_address(certificate: Path, tls_port: int) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    answer = client(httpx.HTTPTransport(verify=trusting)).get(f"https://models.example:{tls_port}/")
    assert answer.body.decode() == f"models.example:{tls_port}"
    with pytest.raises(outbound.TlsFailed, match="models.other"):
        client(httpx.HTTPTransport(verify=trusting)).get(f"https://models.other:{tls_port}/")


def test_a_certificate_that_nobody_signed_is_refused(tls_port: int) -> None:
    with pytest.raises(outbound.TlsFailed, match="self-signed"):
        client().get(f"https://models.example:{tls_port}/")


def test_a_machine_without_certificates_of_its_own_still_trusts_the_public_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Probes and the gateway share this context; with two of them a server was up for one and unreachable for the other."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")

    assert len(tls.client_context.__wrapped__().get_ca_certs()) > 50
