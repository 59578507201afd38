"""One call, from its limits to its last byte, and what the ledger hears of it.

A `Call` collects what becomes known. `Forwarder.run` admits it, sends it to a model server (another one, as long as the
caller has not got a byte), hands the answer on, and in every case, also when the caller leaves, settles it once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from gateway import body as request_body
from gateway import errors, sse
from gateway import usage as usage_module
from gateway.errors import NOT_JSON, AnswerBroken, AnswerTimedOut, ConnectFailed, Refusal, UpstreamFailure
from gateway.limits import Admission, Limiter
from gateway.metrics import Metrics, Series, labels_of, status_name
from gateway.record import CallFacts, EventWriter
from gateway.routes import DeploymentRoute, EndpointRoute, KeyRoute, RouteTable, VersionRoute
from gateway.upstream import Answer, Request, Upstream
from gateway.usage import Usage
from metering.events import Outcome

log = logging.getLogger(__name__)

WATCH_AFTER_SECONDS = 0.05
WATCH_EVERY_SECONDS = 0.02
_ERROR_BYTES = 64 * 1024
_TRY_ANOTHER = frozenset({401, 403, 407, 502, 503, 504})
_CLOSES = (408, 413)
PATHS = {"chat": "/chat/completions", "embeddings": "/embeddings"}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_NO_USAGE = Usage()
_JSON = (b"content-type", b"application/json")
_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class ClientGone(Exception):
    """The caller closed the connection before it had sent its whole request."""


class _ToldAlready(Exception):
    """The model server ended its stream with an error frame, which the caller has got."""


class Call:
    """What is known of a call so far."""

    # Defaults live on the class: a call sets only what becomes known of it.
    client_id: bytes = b""
    content_length: int = 0
    source_ip: str = ""
    key: KeyRoute | None = None
    route: EndpointRoute | None = None
    version: VersionRoute | None = None
    fields: request_body.Fields = {}
    parameters: list[str] = []
    refused: Refusal | None = None
    is_stream: bool = False
    input_estimate: int = 0
    admission: Admission | None = None
    deployment: DeploymentRoute | None = None
    usage: Usage | None = None
    first_token_at: float | None = None
    has_started: bool = False
    sending_since: float = 0.0
    is_client_gone: bool = False
    is_over: bool = False
    task: asyncio.Task[Any] | None = None
    watch_task: asyncio.Task[None] | None = None

    def __init__(self, call_id: str, api: str, at_ms: int, started_at: float, receive: Receive, send: Send) -> None:
        self.id = call_id
        self.api = api
        self.at_ms = at_ms
        self.started_at = started_at
        self.receive = receive
        self.send = send

    def headers(self, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Headers of every answer to this call."""
        found = [*more, (b"x-request-id", self.id.encode())]
        if self.client_id:
            found.append((b"x-client-request-id", self.client_id))
        return found

    async def answer(self, status: int, data: bytes, *more: tuple[bytes, bytes]) -> None:
        """A whole answer at once."""
        self.has_started = True
        headers = self.headers(_JSON, (b"content-length", str(len(data)).encode()), *more)
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": data})

    async def refuse(self, refusal: Refusal) -> None:
        """The refusal as the answer, or as the last frame when an answer has begun."""
        if self.has_started:
            await self.send({"type": "http.response.body", "body": refusal.frame(self.id), "more_body": False})
            return
        more: tuple[tuple[bytes, bytes], ...] = ()
        if refusal.retry_after_seconds is not None:
            more = ((b"retry-after", str(refusal.retry_after_seconds).encode()),)
        if refusal.status in _CLOSES:
            more = (*more, (b"connection", b"close"))  # what is left of the body is not worth reading
        await self.answer(refusal.status, refusal.body(self.id), *more)

    # -- the caller leaves --

    def begin_watch(self) -> None:
        """From now on, cancel the task of this call as soon as its caller is gone."""
        if not self.is_over:
            self.watch_task = asyncio.ensure_future(self._wait_for_disconnect())

    def end(self) -> None:
        """Nothing more is to be watched."""
        self.is_over = True
        if self.watch_task is not None:
            self.watch_task.cancel()
            self.watch_task = None

    async def _wait_for_disconnect(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.is_client_gone = True
        if self.task is not None:
            self.task.cancel()


class Watch:
    """Begins to watch for the caller's leaving in calls that last longer than `WATCH_AFTER_SECONDS`.

    Most calls are over by then; a task for each would cost 17 % of the CPU, a timer for each a part of that. Hence one
    timer, which runs only while there are calls.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._young: deque[Call] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Call) -> None:
        """Watch this call when it has lasted long enough; to be called in its own task."""
        call.task = asyncio.current_task(self._loop)  # named, since finding the running loop costs a system call
        self._young.append(call)
        if self._timer is None:
            self._timer = self._loop.call_later(WATCH_AFTER_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        young = self._young
        limit = self._loop.time() - WATCH_AFTER_SECONDS
        while young and (young[0].is_over or young[0].started_at <= limit):
            young.popleft().begin_watch()
        if young:
            self._timer = self._loop.call_later(WATCH_EVERY_SECONDS, self._look)


class Patience:
    """Gives streams up whose caller has not taken anything for `seconds`, though there is something to take.

    Such a caller would hold its call, its reservation and its model server for as long as the connection stands. One
    timer for all streams; a timeout around each chunk would cost more than what else is done for it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._streams: set[Call] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Call) -> None:
        """Look after this stream until `remove`; while it waits for its caller, `sending_since` is set."""
        self._streams.add(call)
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds / 4, self._look)

    def remove(self, call: Call) -> None:
        self._streams.discard(call)

    def _look(self) -> None:
        self._timer = None
        limit = self._loop.time() - self._seconds
        for call in self._streams:
            if 0.0 < call.sending_since < limit and not call.is_client_gone and call.task is not None:
                log.warning("call %s: its caller has taken nothing for %g s", call.id, self._seconds)
                call.is_client_gone = True
                call.task.cancel()
        if self._streams:
            self._timer = self._loop.call_later(self._seconds / 4, self._look)


class FailureLog:
    """Says which model servers fail, but not for each of thousands of calls: at most `LINES` lines per server and minute."""

    LINES = 20

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._minute = 0
        self._counts: dict[int, int] = {}

    def failure(self, call_id: str, server_id: int, what: str) -> None:
        minute = int(self._clock() / 60)
        if minute != self._minute:
            for failed, count in self._counts.items():
                if count > self.LINES:
                    log.warning("model server %s: %d more failures in that minute", failed, count - self.LINES)
            self._minute = minute
            self._counts.clear()
        count = self._counts[server_id] = self._counts.get(server_id, 0) + 1
        if count <= self.LINES:
            log.warning("call %s: model server %s: %s", call_id, server_id, what)


class Forwarder:
    """Carries calls whose endpoint is known."""

    def __init__(
        self,
        *,
        routes: RouteTable,
        limiter: Limiter,
        upstream: Upstream,
        metrics: Metrics,
        worker: str,
        max_answer_bytes: int,
        stall_seconds: float = 120.0,
    ) -> None:
        self._routes = routes
        self._limiter = limiter
        self._upstream = upstream
        self._metrics = metrics
        self._max_answer_bytes = max_answer_bytes
        self._loop = asyncio.get_running_loop()
        self._log = FailureLog(self._loop.time)
        self._patience = Patience(self._loop, stall_seconds)
        self._events = EventWriter(worker)
        self.in_flight = 0

    async def run(self, call: Call) -> None:
        """Serve the call: `call.route` is set and its body parsed; `call.refused` ends it here, metered like all else.

        Raises nothing but the cancellation of its task.
        """
        assert call.route is not None
        version = call.version
        series = self._metrics.series(labels_of(call.route, version, call.api))
        series.in_flight += 1
        self.in_flight += 1
        outcome, refusal = Outcome.REFUSED, None
        try:
            if call.refused is not None:
                raise call.refused
            if not call.route.is_open:
                raise errors.closed_endpoint()
            if version is None or not version.deployments:
                raise errors.no_live_server()
            await self._admit(call, call.route, version)
            outcome = Outcome.UPSTREAM_ERROR
            await self._forward(call, version)
            outcome = Outcome.SUCCESS
        except Refusal as error:
            refusal = error
            if call.admission is not None and call.admission.limit is not None:
                outcome = Outcome.REJECTED
            elif call.has_started:
                outcome = Outcome.CUT
            await call.refuse(refusal)
        except _ToldAlready:
            outcome, refusal = Outcome.CUT, errors.answer_cut()
        except asyncio.CancelledError:
            outcome = Outcome.CLIENT_CLOSED if call.is_client_gone else Outcome.CUT
            raise
        except Exception:
            log.exception("call %s failed", call.id)
            refusal = errors.internal()
            outcome = Outcome.CUT if call.has_started else Outcome.UPSTREAM_ERROR
            await call.refuse(refusal)
        finally:
            call.end()
            series.in_flight -= 1
            self.in_flight -= 1
            self._settle(call, call.route, outcome, refusal, series)

    async def _admit(self, call: Call, route: EndpointRoute, version: VersionRoute) -> None:
        call.input_estimate, output = request_body.estimate(call.fields, call.api, version.default_output_tokens)
        admission = call.admission = await self._limiter.admit(
            call_id=call.id,
            endpoint_id=route.id,
            rpm=route.rpm,
            tpm=route.tpm,
            tokens=call.input_estimate + output,
            record=self._record(call, route, version),
        )
        if admission.limit == "rpm":
            raise errors.rpm_exceeded(max(admission.retry_after_seconds, 1))
        if admission.limit == "tpm":
            raise errors.tpm_exceeded(max(admission.retry_after_seconds, 1))

    def _record(self, call: Call, route: EndpointRoute, version: VersionRoute) -> bytes:
        """The usage event should this worker die during the call."""
        facts = CallFacts(call.id, call.at_ms, "lost", 500, "InternalServiceError", 0, None, call.is_stream)
        facts.input_tokens, facts.is_estimated = call.input_estimate, True
        return self._events.encode(facts, route=route, version=version, key_id=_key_id(call), api=call.api)

    # -- to the model server and back --

    async def _forward(self, call: Call, version: VersionRoute) -> None:
        answer, drops_usage = await self._send(call, version)
        try:
            if call.is_stream and _content_type(answer).startswith(b"text/event-stream"):
                self._patience.add(call)
                try:
                    await self._stream(call, version, answer, drops_usage=drops_usage)
                finally:
                    self._patience.remove(call)
            else:
                await self._plain(call, version, answer)
        finally:
            answer.close()

    async def _send(self, call: Call, version: VersionRoute) -> tuple[Answer, bool]:
        """The answer of the first model server that gives a good one, and whether the usage event is only for us."""
        last: Refusal | None = None
        wants_usage = call.is_stream and not request_body.asks_usage(call.fields)
        for deployment in self._routes.candidates(version):
            server = deployment.server
            call.deployment = deployment
            adds_usage = wants_usage and server.accepts_stream_options
            request = Request(
                server.origin,
                server.head(PATHS[call.api], "text/event-stream" if call.is_stream else "application/json"),
                call.id,
                request_body.render(
                    call.fields,
                    upstream_model=deployment.upstream_json,
                    stream_options=request_body.with_usage(call.fields) if adds_usage else None,
                ),
                server.connect_seconds,
                server.read_seconds,
                server.read_seconds,
            )
            try:
                answer = await self._upstream.send(request)
            except UpstreamFailure as error:
                last = self._note_failure(call, server.id, error)
                continue
            self._routes.circuit.worked(server.id)
            if 200 <= answer.status < 300:
                return answer, adds_usage
            last = await self._error_answer(call, server.id, answer)
            if answer.status not in _TRY_ANOTHER:
                break
        raise last or errors.no_live_server()

    def _note_failure(self, call: Call, server_id: int, error: UpstreamFailure) -> Refusal:
        kind = "connect" if isinstance(error, ConnectFailed) else "broken"
        refusal = errors.no_live_server()
        if isinstance(error, ConnectFailed):
            self._routes.circuit.failed(server_id)
        elif isinstance(error, AnswerTimedOut):
            kind, refusal = "timeout", errors.answer_timed_out()
        self._metrics.upstream_errors[str(server_id), kind] += 1
        self._log.failure(call.id, server_id, str(error))
        return refusal

    async def _error_answer(self, call: Call, server_id: int, answer: Answer) -> Refusal:
        self._metrics.upstream_errors[str(server_id), status_name(answer.status)] += 1
        try:
            data = await answer.read(_ERROR_BYTES)
        except AnswerBroken:
            data = b""
        finally:
            answer.close()
        if answer.status in _TRY_ANOTHER or answer.status >= 500:
            self._log.failure(call.id, server_id, f"answered {answer.status}")
        if answer.status < 400:
            return errors.bad_answer()
        return errors.from_upstream(answer.status, data)

    async def _plain(self, call: Call, version: VersionRoute, answer: Answer) -> None:
        try:
            data = await answer.read(self._max_answer_bytes)
        except AnswerBroken as error:
            self._note_failure(call, _server_id(call), error)
            raise errors.answer_cut() from None
        try:
            fields = _decode_fields(data)
        except NOT_JSON:
            self._metrics.upstream_errors[str(_server_id(call)), "not json"] += 1
            raise errors.bad_answer() from None
        if (raw := fields.get("usage")) is not None:
            call.usage = usage_module.parse(raw)
        if call.usage is None:
            output = 0 if call.api != "chat" else usage_module.estimate_text(data)
            call.usage = Usage(call.input_estimate, 0, output, 0, is_estimated=True)
        if "model" in fields:
            fields["model"] = msgspec.Raw(version.model_json)
            data = _encode(fields)
        await call.answer(200, data)

    async def _stream(self, call: Call, version: VersionRoute, answer: Answer, *, drops_usage: bool) -> None:
        rewriter = sse.StreamRewriter(ours=version.model_json, drops_usage=drops_usage)
        send = call.send
        call.has_started = True
        await send({"type": "http.response.start", "status": 200, "headers": call.headers(*_EVENTS)})
        is_whole = False
        now = self._loop.time
        try:
            while chunk := await answer.next():
                out = rewriter.feed(chunk)
                if call.first_token_at is None and rewriter.has_token:
                    call.first_token_at = now()
                if out:
                    call.sending_since = now()
                    await send({"type": "http.response.body", "body": out, "more_body": True})
                    call.sending_since = 0.0
            is_whole = answer.is_framed or rewriter.is_done
        except AnswerBroken as error:
            # After [DONE] nothing is missing: some servers then close without ceremony.
            is_whole = rewriter.is_done
            if not is_whole:
                self._note_failure(call, _server_id(call), error)
        finally:
            self._count_stream(call, rewriter)
        if not is_whole:
            raise errors.answer_cut()
        call.sending_since = now()
        await send({"type": "http.response.body", "body": rewriter.finish(), "more_body": False})
        if rewriter.has_error:
            # The caller has the server's own words already; the ledger must not call that a success.
            self._metrics.upstream_errors[str(_server_id(call)), "error frame"] += 1
            raise _ToldAlready

    @staticmethod
    def _count_stream(call: Call, rewriter: sse.StreamRewriter) -> None:
        call.usage = usage_module.last_in(rewriter.tail)
        if call.usage is None:
            # Servers send about a token an event; the first one only names the role.
            call.usage = Usage(call.input_estimate, 0, max(rewriter.events - 1, 0), 0, is_estimated=True)

    # -- the ledger --

    def _settle(
        self, call: Call, route: EndpointRoute, outcome: Outcome, refusal: Refusal | None, series: Series
    ) -> None:
        status, code = 200, "Success"
        if refusal is not None:
            status, code = refusal.status, refusal.code
        elif outcome is Outcome.CLIENT_CLOSED:
            status, code = 499, "ClientClosed"
            if call.usage is None and call.deployment is not None:
                call.usage = Usage(call.input_estimate, is_estimated=True)
        elif outcome is not Outcome.SUCCESS:
            status, code = 500, "InternalServiceError"
        facts = self._facts(call, outcome, status, code)
        self._limiter.settle(
            call.admission,
            call_id=call.id,
            endpoint_id=route.id,
            tokens=facts.input_tokens + facts.output_tokens,
            event=self._events.encode(facts, route=route, version=call.version, key_id=_key_id(call), api=call.api),
        )
        count_call(facts, series)

    def _facts(self, call: Call, outcome: Outcome, status: int, code: str) -> CallFacts:
        usage = call.usage or _NO_USAGE  # a call that reached no server used nothing
        deployment = call.deployment
        admission = call.admission
        started_at = call.started_at
        first_token_at = call.first_token_at
        overrun = 0
        if admission is not None and admission.limit is None and deployment is not None:
            overrun = usage.input_tokens + usage.output_tokens - admission.reserved
        return CallFacts(
            call.id,
            call.at_ms,
            outcome.value,
            status,
            code,
            int((self._loop.time() - started_at) * 1000),
            None if first_token_at is None else int((first_token_at - started_at) * 1000),
            call.is_stream,
            usage.input_tokens,
            usage.cached_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            usage.is_estimated,
            max(0, overrun),
            None if admission is None else admission.limit,
            None if deployment is None else deployment.server.id,
            None if deployment is None else deployment.id,
            call.client_id.decode("latin-1"),
            call.source_ip,
            call.parameters,
        )


def count_call(event: CallFacts, series: Series) -> None:
    series.count(event.code, event.status)
    series.overrun_tokens += event.overrun_tokens
    if not (event.input_tokens or event.output_tokens):
        return
    series.answered += 1
    series.input_tokens += event.input_tokens
    series.output_tokens += event.output_tokens
    series.cached_tokens += event.cached_tokens
    series.reasoning_tokens += event.reasoning_tokens
    if event.code != "Success":
        return
    if event.cached_tokens:
        series.cache_hits += 1
    else:
        series.cache_misses += 1
    series.duration[event.is_stream].observe(event.duration_ms / 1000)
    if event.first_token_ms is not None:
        # Whole milliseconds as long as they are whole: fractions put a token of just 10 ms above its bucket's bound.
        rest_ms, further = event.duration_ms - event.first_token_ms, event.output_tokens - 1
        per_token = rest_ms / further / 1000 if further > 0 else None
        series.stream_times(event.first_token_ms / 1000, per_token)


def _key_id(call: Call) -> int:
    assert call.key is not None
    return call.key.id


def _server_id(call: Call) -> int:
    return 0 if call.deployment is None else call.deployment.server.id


def _content_type(answer: Answer) -> bytes:
    for name, value in answer.headers:
        if name == b"content-type":
            return value.lower()
    return b""
