"""Trying an endpoint from its page: the console calls the gateway as any client does and passes the answer through.

Refused(DomainError)    the gateway answered with an error; `status` and `code` are its own
common.errors.Unavailable   the gateway is away, or this process has no room for another try
common.errors.NotAllowed    the person lacks `ark:InvokeEndpoint` (or `ark:GetApiKey`, for the key made on the way)
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import httpx
from django.conf import settings
from django.utils.translation import gettext as _

from catalog.models import FoundationModel
from common.errors import DomainError, Unavailable
from endpoints.models import Endpoint
from iam import services as iam
from iam.actors import Actor
from iam.models import KeyScope

ACTION = "ark:InvokeEndpoint"
KEY_LIFE = timedelta(minutes=10)
KEY_MARGIN = timedelta(seconds=10)
SLOTS = 4
TOTAL_SECONDS = 120.0
CONNECT_SECONDS = 3.0
MAX_PROMPT = 20_000


class Refused(DomainError):
    """The gateway said no; `str(error)` is our sentence for it, `status` its HTTP status, `code` Ark's code."""

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Answer:
    """A whole answer, for pages without JavaScript. `dimensions` and `vector` (its beginning) are of embeddings."""

    status: int
    text: str = ""
    reasoning: str = ""
    vector: tuple[float, ...] = ()
    dimensions: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    duration_ms: int = 0


class Room:
    """How many tries run in this process at a time; each holds a thread of the console."""

    def __init__(self, places: int) -> None:
        self._lock = threading.Lock()
        self._free = places

    @property
    def free(self) -> int:
        return self._free

    def enter(self) -> bool:
        """Take a place, if there is one."""
        with self._lock:
            if self._free == 0:
                return False
            self._free -= 1
            return True

    def leave(self) -> None:
        with self._lock:
            self._free += 1


room = Room(SLOTS)


class Stream:
    """The gateway's answer as it comes: an iterator of bytes that gives its place and connection back when closed.

    Made for `StreamingHttpResponse`, which closes it when the browser leaves: the gateway then stops the model server.
    A failure half-way becomes an error frame in Ark's shape, since the status was sent long ago.
    """

    def __init__(self, response: httpx.Response, *, deadline: float, release: Callable[[], None]) -> None:
        self.content_type = response.headers.get("Content-Type", "application/octet-stream")
        self.status = response.status_code
        self._response = response
        self._bytes: Iterator[bytes] = response.iter_raw()
        self._deadline = deadline
        self._release = release
        self._is_closed = False
        # A read that waits cannot look at the clock: the watchdog ends it from outside.
        self._watchdog = threading.Timer(max(deadline - time.monotonic(), 0), self._hang_up)
        self._watchdog.daemon = True
        self._watchdog.start()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> bytes:
        if self._is_closed:
            raise StopIteration
        try:
            return next(self._bytes)
        except StopIteration:
            if time.monotonic() < self._deadline:
                self.close()
                raise
            self.close()
            return _frame("Timeout", _too_long())
        except httpx.HTTPError:
            is_late = time.monotonic() >= self._deadline
            self.close()
            return _frame("Timeout", _too_long()) if is_late else _frame("InternalServiceError", _broke_off())

    def close(self) -> None:
        """Give everything back; as often as you like."""
        if self._is_closed:
            return
        self._is_closed = True
        self._watchdog.cancel()
        try:
            self._response.close()
        finally:
            self._release()

    def _hang_up(self) -> None:
        stream = self._response.extensions.get("network_stream")
        connection = stream.get_extra_info("socket") if stream else None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def stream(*, endpoint: Endpoint, prompt: str, by: Actor, now: datetime) -> Stream:
    """Call the endpoint and return its answer as it comes; server-sent events, or JSON for embeddings.

    Raises what the module's docstring draws; nothing was sent to the browser by then.
    """
    return _open(endpoint=endpoint, prompt=prompt, by=by, now=now, is_streamed=True)


def answer(*, endpoint: Endpoint, prompt: str, by: Actor, now: datetime) -> Answer:
    """Call the endpoint and return the whole answer. Raises as `stream` does."""
    began = time.monotonic()
    opened = _open(endpoint=endpoint, prompt=prompt, by=by, now=now, is_streamed=False)
    with contextlib.closing(opened):
        body = b"".join(opened)
    try:
        data = json.loads(body)
        return _parsed(data, status=opened.status, duration_ms=round((time.monotonic() - began) * 1000))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise Unavailable(_broke_off()) from None


def _open(*, endpoint: Endpoint, prompt: str, by: Actor, now: datetime, is_streamed: bool) -> Stream:
    by.require(ACTION, endpoint)
    prompt = prompt.strip()
    if not prompt:
        raise DomainError(_("Write something to send."), field="prompt")
    if len(prompt) > MAX_PROMPT:
        raise DomainError(_("At most %(max)s characters.") % {"max": f"{MAX_PROMPT:,}"}, field="prompt")
    if not room.enter():
        raise Unavailable(_("Others are trying endpoints at this moment. Try again in a few seconds."))
    deadline = time.monotonic() + TOTAL_SECONDS
    try:
        response = _send(endpoint, prompt, own_keys.key(endpoint, by=by, now=now), is_streamed=is_streamed)
        if response.status_code != 200:
            raise _refused(response, endpoint, by)
    except BaseException:
        room.leave()
        raise
    return Stream(response, deadline=deadline, release=room.leave)


def _send(endpoint: Endpoint, prompt: str, key: str, *, is_streamed: bool) -> httpx.Response:
    path, body = _body(endpoint, prompt, is_streamed=is_streamed)
    client = _client()
    request = client.build_request(
        "POST",
        f"{settings.GATEWAY_INTERNAL_URL}/api/v3{path}",
        json=body,
        headers={"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"},
    )
    try:
        return client.send(request, stream=True)
    except httpx.TimeoutException as error:
        is_away = isinstance(error, httpx.ConnectTimeout)
        raise Unavailable(_gateway_away() if is_away else _too_long()) from None
    except httpx.HTTPError:
        raise Unavailable(_gateway_away()) from None


def _body(endpoint: Endpoint, prompt: str, *, is_streamed: bool) -> tuple[str, dict[str, Any]]:
    if endpoint.version.model.domain == FoundationModel.Domain.EMBEDDING:
        return "/embeddings", {"model": endpoint.pk, "input": [prompt], "encoding_format": "float"}
    body: dict[str, Any] = {"model": endpoint.pk, "messages": [{"role": "user", "content": prompt}]}
    if is_streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return "/chat/completions", body


@cache
def _client() -> httpx.Client:
    """One pool per process. Settings of the environment such as proxies are not for calls to our own gateway."""
    return httpx.Client(trust_env=False, timeout=httpx.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS))


@dataclass
class Keys:
    """Keys of this process by person and endpoint: only digests are stored, so each process makes its own."""

    held: dict[tuple[str, str], tuple[str, datetime]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def key(self, endpoint: Endpoint, *, by: Actor, now: datetime) -> str:
        """A key that may call `endpoint` alone and is good for now; made when there is none."""
        mine = (by.id, endpoint.pk)
        with self.lock:
            self.held = {name: pair for name, pair in self.held.items() if pair[1] - KEY_MARGIN > now}
            if mine in self.held:
                return self.held[mine][0]
        kind = KeyScope.ResourceType.PRESET_ENDPOINT if endpoint.is_preset else KeyScope.ResourceType.ENDPOINT
        expires_at = now + KEY_LIFE
        _row, secret = iam.create_api_key(
            project=endpoint.project, name=f"try-it {by.name}"[: iam.MAX_NAME], by=by, now=now,
            scopes=[(kind.value, endpoint.pk)], expires_at=expires_at, is_internal=True,
        )  # fmt: skip
        with self.lock:
            self.held[mine] = (secret, expires_at)
        return secret

    def forget(self, endpoint: Endpoint, *, by: Actor) -> None:
        """The gateway does not take the key any more."""
        with self.lock:
            self.held.pop((by.id, endpoint.pk), None)


own_keys = Keys()


def _refused(response: httpx.Response, endpoint: Endpoint, by: Actor) -> Refused:
    """What the gateway's refusal says, as our error; reads and closes the response."""
    try:
        body = response.read()
        error = json.loads(body)["error"]
        code, message = str(error.get("code") or ""), str(error.get("message") or "")
    except (httpx.HTTPError, ValueError, TypeError, KeyError, AttributeError):
        code, message = "", ""
    finally:
        response.close()
    if response.status_code == 401:
        own_keys.forget(endpoint, by=by)
    sentence = _sentences(response.headers.get("Retry-After", "1")).get(code)
    if sentence is None:
        sentence = _("The gateway refused the call: %(message)s") % {"message": message or response.status_code}
    return Refused(sentence, status=response.status_code, code=code)


def _sentences(seconds: str) -> dict[str, str]:
    return {
        "AuthenticationError": _("The key made for this try was not accepted. Try again."),
        "InvalidEndpointOrModel.NotFound": _("The gateway does not know this endpoint yet. Try again in a second."),
        "InvalidEndpoint.ClosedEndpoint": _("This endpoint is stopped or still starting, so it takes no calls."),
        "RateLimitExceeded.EndpointRPMExceeded": _(
            "The calls per minute (RPM) of this endpoint are used up. Try again in %(seconds)s s."
        )
        % {"seconds": seconds},
        "RateLimitExceeded.EndpointTPMExceeded": _(
            "The tokens per minute (TPM) of this endpoint are used up. Try again in %(seconds)s s."
        )
        % {"seconds": seconds},
        "ServerOverloaded": _("The service is overloaded at the moment. Try again shortly."),
        "ServiceUnavailable": _("No model server behind this endpoint answers at the moment."),
    }


def _parsed(data: Any, *, status: int, duration_ms: int) -> Answer:
    usage = data.get("usage") or {}
    known: dict[str, Any] = {
        "status": status,
        "duration_ms": duration_ms,
        "input_tokens": int(usage.get("prompt_tokens") or 0),
        "cached_tokens": int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        "output_tokens": int(usage.get("completion_tokens") or 0),
    }
    if data.get("object") == "list":
        vector = data["data"][0]["embedding"]
        return Answer(**known, vector=tuple(float(number) for number in vector[:8]), dimensions=len(vector))
    message = data["choices"][0]["message"]
    return Answer(**known, text=message.get("content") or "", reasoning=message.get("reasoning_content") or "")


def _frame(code: str, message: str) -> bytes:
    """An error frame in Ark's shape; it begins anew, whatever was cut before it."""
    error = {"error": {"code": code, "message": message, "param": "", "type": "InternalServerError"}}
    return b"\n\ndata: " + json.dumps(error, ensure_ascii=False).encode() + b"\n\n"


def _gateway_away() -> str:
    return _("The gateway does not answer. Its process may be starting or down.")


def _too_long() -> str:
    return _("The answer took longer than %(seconds)s s, so it was ended here.") % {"seconds": round(TOTAL_SECONDS)}


def _broke_off() -> str:
    return _("The answer broke off before its end.")
