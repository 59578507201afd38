"""Calls to addresses that people typed: only to vetted addresses, without redirects, within limits of time and size.

OutboundError            the call got no usable answer; `detail` is what the system said, untranslated
├── NameNotFound         the host name does not resolve
├── Refused              nothing listens at the address
├── Unreachable          there is no way to the address
├── TlsFailed            no trusted encrypted connection came about
├── TimedOut             no answer within the time allowed
│   └── NeverConnected   not even a connection, so nothing was sent
├── TooLarge             the answer is longer than `max_bytes`
└── Broken               the connection broke, or what came is not HTTP

`common.addresses.UnsafeAddress` is raised, before anything is sent, for an address that we never call.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from common import addresses, tls

Resolver = Callable[[str, int], list[str]]


class OutboundError(Exception):
    """A call that got no usable answer."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail


class NameNotFound(OutboundError): ...


class Refused(OutboundError): ...


class Unreachable(OutboundError): ...


class TlsFailed(OutboundError): ...


class TimedOut(OutboundError): ...


class NeverConnected(TimedOut): ...


class TooLarge(OutboundError):
    # What the answer began with; a long page under a 200 is still a 200.
    status: int = 0


class Broken(OutboundError): ...


class VettedTransport(httpx.BaseTransport):
    """Resolves the host itself and connects only to the addresses that were checked.

    The name is asked once: whoever answers a second question differently (DNS rebinding) is not asked it. `Host` and
    the name in TLS stay those of the URL, so certificates are verified against the name and not the address.
    """

    def __init__(self, inner: httpx.BaseTransport | None = None, *, resolver: Resolver = addresses.resolve) -> None:
        self._inner = inner or httpx.HTTPTransport(verify=tls.client_context(), trust_env=False)
        self._resolve = resolver

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        port = request.url.port or {"http": 80, "https": 443}[request.url.scheme]
        vetted = self._resolve(host, port)
        last = len(vetted) - 1
        for position, address in enumerate(vetted):
            attempt = httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return self._inner.handle_request(attempt)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if position == last:
                    raise
        raise httpx.ConnectError(f"{host} has no address")

    def close(self) -> None:
        self._inner.close()


class _Watch:
    """Ends a call that takes too long, whatever it is doing.

    Read timeouts count silence only, and are the only ones there are before the headers are complete: a server that
    drips a byte of them every few seconds would hold its caller for a day.
    """

    def __init__(self, seconds: float) -> None:
        self.has_fired = False
        self._streams: list[Any] = []
        self._timer = threading.Timer(seconds, self._fire)
        self._timer.daemon = True

    def __enter__(self) -> _Watch:
        self._timer.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._timer.cancel()

    def note(self, event: str, info: Mapping[str, Any]) -> None:
        """httpcore's `trace`: remembers the connection when there is one."""
        if event == "connection.connect_tcp.complete":
            self._streams.append(info["return_value"])

    def _fire(self) -> None:
        self.has_fired = True
        for stream in self._streams:
            with suppress(OSError):
                # Closing it would not wake the thread that waits for it.
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class Answer:
    """What came back; `headers` with lower-case names, `milliseconds` from the first byte sent to the last received."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    milliseconds: int


class Client:
    """A client for one short job. Sends nothing but to vetted addresses; raises what the module's docstring draws.

    `connect_seconds` per address, `read_seconds` between two bytes, `total_seconds` for the whole call, `max_bytes` of
    answer body. `transport` and `resolver` are the seams for tests.
    """

    def __init__(
        self,
        *,
        connect_seconds: float,
        read_seconds: float,
        total_seconds: float,
        max_bytes: int,
        transport: httpx.BaseTransport | None = None,
        resolver: Resolver = addresses.resolve,
    ) -> None:
        self._total_seconds = total_seconds
        self._max_bytes = max_bytes
        self._http = httpx.Client(
            transport=VettedTransport(transport, resolver=resolver),
            timeout=httpx.Timeout(read_seconds, connect=connect_seconds),
            follow_redirects=False,
            # A proxy from the environment would resolve the name by itself, past our check.
            trust_env=False,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        return self._send("GET", url, headers=headers)

    def post(
        self, url: str, *, json: Any = None, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send `json`, or `content` byte by byte as it is (what is signed must not be written anew)."""
        return self._send("POST", url, headers=headers, json=json, content=content)

    def _send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None,
        json: Any = None,
        content: bytes | None = None,
    ) -> Answer:
        started = time.monotonic()
        try:
            # Inside: a host such as `xn--` is refused as soon as the request is made.
            request = self._http.build_request(method, url, headers=headers, json=json, content=content)
            with _Watch(self._total_seconds) as watch:
                request.extensions["trace"] = watch.note
                try:
                    response = self._http.send(request, stream=True)
                    try:
                        body = self._read(response, deadline=started + self._total_seconds)
                    except TooLarge as error:
                        error.status = response.status_code
                        raise
                    finally:
                        response.close()
                except httpx.TransportError:
                    if watch.has_fired:
                        raise TimedOut(f"not complete after {self._total_seconds:g} s") from None
                    raise
        except httpx.ConnectTimeout as error:
            raise NeverConnected(_told(error)) from None
        except httpx.TimeoutException as error:
            raise TimedOut(_told(error)) from None
        except (httpx.TransportError, httpx.DecodingError, httpx.InvalidURL) as error:
            raise _translated(error) from None
        except socket.gaierror as error:
            raise NameNotFound(error.strerror or str(error)) from None
        except UnicodeError:
            raise NameNotFound("the host name is not a valid one") from None
        return Answer(
            status=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            body=body,
            milliseconds=round((time.monotonic() - started) * 1000),
        )

    def _read(self, response: httpx.Response, *, deadline: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        for part in response.iter_bytes():
            size += len(part)
            if size > self._max_bytes:
                raise TooLarge(f"more than {self._max_bytes} bytes")
            # The read timeout counts silence only; a server that drips a byte a second would hold us for ever.
            if time.monotonic() > deadline:
                raise TimedOut(f"not complete after {self._total_seconds:g} s")
            parts.append(part)
        return b"".join(parts)


def check_tcp(host: str, port: int, *, connect_seconds: float, resolver: Resolver = addresses.resolve) -> int:
    """Connect to a vetted address of `host` and hang up; the milliseconds it took. Raises as `Client` does."""
    started = time.monotonic()
    try:
        vetted = resolver(host, port)
    except socket.gaierror as error:
        raise NameNotFound(error.strerror or str(error)) from None
    failure: OutboundError = Unreachable(f"{host} has no address")
    for address in vetted:
        try:
            socket.create_connection((address, port), timeout=connect_seconds).close()
        except TimeoutError:
            failure = TimedOut(f"{address} did not answer")
        except OSError as error:
            failure = _of_os(error)
        else:
            return round((time.monotonic() - started) * 1000)
    raise failure


def _translated(error: httpx.TransportError | httpx.DecodingError | httpx.InvalidURL) -> OutboundError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TlsFailed(cause.verify_message)
        if isinstance(cause, ssl.SSLError):
            return TlsFailed(cause.reason or str(cause))
        if isinstance(cause, OSError):
            return _of_os(cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError):
        return Unreachable(_told(error))
    return Broken(_told(error))


def _of_os(error: OSError) -> OutboundError:
    text = error.strerror or str(error)
    if isinstance(error, ConnectionRefusedError):
        return Refused(text)
    if isinstance(error, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)):
        return Broken(text)
    return Unreachable(text)


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
