"""The server as an ASGI application. ``DemoServer`` is the whole of it; ``demo.__main__`` puts it on a port."""

from __future__ import annotations

import asyncio
import base64
import hmac
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

import msgspec

from demo import vectors, wire
from demo.ledger import Call, Ledger, Outcome
from demo.models import CATALOGUE, CREATED_AT, Behaviour, BehaviourChange, Model
from demo.prompts import prompt_tokens
from demo.replies import Reply, compose
from demo.tokens import PrefixCache
from demo.wire import ApiError, ChatRequest, EmbeddingRequest

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Json = dict[str, Any]

MAX_BODY_BYTES = 64 * 1024 * 1024
_EVENTS_AT_ONCE = 64
_SHARES = {"error": 0.6180339887498949, "cut": 0.4142135623730951}


class CallerLeft(Exception):
    """The client has closed its connection."""


class Caller:
    """The client of one request: its body, whether it is still there, and what is sent to it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._is_gone = False
        self._has_begun = False
        self.request_id = self.headers.get(b"x-request-id", b"")[:200].decode("latin-1")

    async def body(self) -> bytes:
        """The whole request body. Raises ``ApiError`` 413, and ``CallerLeft`` when it never comes."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise CallerLeft
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > MAX_BODY_BYTES:
                raise ApiError(413, f"The body is larger than {MAX_BODY_BYTES} bytes.", code="request_too_large")
            if not message.get("more_body", False):
                return b"".join(parts)

    def watch(self) -> None:
        """From now on notice at once when the client leaves. The body must have been read."""
        self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()

    def check(self) -> None:
        """Raises ``CallerLeft`` when the client has gone."""
        if self._is_gone:
            raise CallerLeft

    async def wait_until(self, deadline: float) -> None:
        """Wait until the loop's clock shows ``deadline``. Raises ``CallerLeft`` as soon as the client leaves."""
        self.check()
        if deadline <= self._loop.time():
            return
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_at(deadline, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        self.check()

    async def start(self, status: int, content_type: bytes, length: int | None, *more: tuple[bytes, bytes]) -> None:
        headers = [(b"content-type", content_type), *more]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        if self.request_id:
            headers.append((b"x-request-id", self.request_id.encode("latin-1")))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, is_last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def send_events(self, events: list[bytes], *, is_last: bool = False) -> None:
        """Send server-sent events; the answer begins with the first of them."""
        if not self._has_begun:
            self._has_begun = True
            await self.start(200, b"text/event-stream; charset=utf-8", None, (b"cache-control", b"no-cache"))
        await self.write(b"".join(events), is_last=is_last)

    async def cut_short(self, body: bytes) -> None:
        """Announce ``body`` and send half of it; the server closes the connection when the application returns."""
        await self.start(200, b"application/json", len(body))
        await self.write(body[: len(body) // 2])

    async def answer(self, status: int, body: bytes, *more: tuple[bytes, bytes]) -> None:
        await self.start(status, b"application/json", len(body), *more)
        await self.write(body, is_last=True)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Served:
    """A model with what changes while it is served."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.behaviour: Behaviour = model.behaviour
        self.cache = PrefixCache()
        self._drawn = {"error": 0, "cut": 0}

    def set(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        if not behaviour.prefix_cache:
            self.cache.clear()

    def draws(self, name: str, rate: float) -> bool:
        """Whether it happens this time. Spread evenly: of N calls about N × rate, and no luck in it."""
        self._drawn[name] += 1
        return (self._drawn[name] * _SHARES[name]) % 1.0 < rate

    def fail_perhaps(self) -> None:
        """Raises ``ApiError`` when the model is down, or when its error rate says so."""
        if self.behaviour.down:
            raise ApiError(503, f"The model {self.model.id} is down.", code="model_down")
        if self.draws("error", self.behaviour.error_rate):
            status = self.behaviour.error_status
            raise ApiError(status, f"The model {self.model.id} fails on purpose.", code="demo_failure")


class DemoServer:
    """An ASGI application. ``api_key``: when set, every request but ``/healthz`` must bear it."""

    def __init__(
        self, *, api_key: str | None = None, ledger: Ledger | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._api_key = api_key.encode() if api_key else None
        self._clock = clock
        self.ledger = ledger or Ledger()
        self.served = {model.id: Served(model) for model in CATALOGUE}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        caller = Caller(scope, receive, send)
        try:
            await self._route(scope, caller)
        except ApiError as error:
            more = ((b"retry-after", b"1"),) if error.status in (429, 503) else ()
            await caller.answer(error.status, error.body(), *more)
        except CallerLeft:
            pass
        finally:
            caller.unwatch()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self.ledger.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _route(self, scope: Scope, caller: Caller) -> None:
        path: str = scope["path"].rstrip("/") or "/"
        method: str = scope["method"]
        if path == "/healthz":
            await caller.answer(200, b'{"status":"ok"}')
            return
        self._authenticate(caller)
        if path == "/v1/chat/completions":
            _only(method, "POST")
            await self._chat(caller)
        elif path == "/v1/embeddings":
            _only(method, "POST")
            await self._embeddings(caller)
        elif path == "/v1/models":
            _only(method, "GET", "HEAD")
            await self._list_models(caller)
        elif path.startswith("/v1/models/"):
            _only(method, "GET", "HEAD")
            served = self._find(unquote(path.removeprefix("/v1/models/")))
            await caller.answer(200, msgspec.json.encode(_described(served.model)))
        elif path == "/demo/stats":
            _only(method, "GET", "DELETE")
            if method == "DELETE":
                self.ledger.reset()
            await caller.answer(200, self._stats(scope["query_string"]))
        elif path == "/demo/models":
            _only(method, "GET")
            await caller.answer(200, msgspec.json.encode(self._behaviours()))
        elif path.startswith("/demo/models/"):
            _only(method, "GET", "POST")
            body = await caller.body()
            await caller.answer(
                200, self._behave(path.removeprefix("/demo/models/"), body if method == "POST" else b"")
            )
        else:
            raise ApiError(404, f"There is nothing at {method} {path}.", code="not_found")

    def _authenticate(self, caller: Caller) -> None:
        if self._api_key is None:
            return
        scheme, _, key = caller.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(key.strip(), self._api_key):
            raise ApiError(401, "The API key is missing or wrong.", code="invalid_api_key")

    def _find(self, model_id: str) -> Served:
        served = self.served.get(model_id)
        if served is None:
            known = ", ".join(self.served)
            raise ApiError(
                404,
                f"The model {model_id!r} does not exist. There are: {known}.",
                param="model",
                code="model_not_found",
            )
        return served

    # The demo's own pages

    async def _list_models(self, caller: Caller) -> None:
        self.ledger.lists += 1
        up = [served.model for served in self.served.values() if not served.behaviour.down]
        if not up:
            raise ApiError(503, "All models are down.", code="model_down")
        await caller.answer(200, msgspec.json.encode({"object": "list", "data": [_described(model) for model in up]}))

    def _behaviours(self) -> dict[str, Behaviour]:
        return {model_id: served.behaviour for model_id, served in self.served.items()}

    def _behave(self, model_id: str, body: bytes) -> bytes:
        chosen = list(self.served.values()) if model_id == "*" else [self._find(model_id)]
        if body:
            change = wire.decoded(body, BehaviourChange)
            for served in chosen:
                served.set(change.applied_to(served.behaviour))
        return msgspec.json.encode(chosen[0].behaviour)

    def _stats(self, query_string: bytes) -> bytes:
        query = parse_qs(query_string.decode("latin-1"))
        limit = _whole(query, "recent", 100)
        after = _whole(query, "after", 0)
        request_id = query["request_id"][0] if "request_id" in query else None
        calls = self.ledger.calls(limit=limit, request_id=request_id, after=after)
        recent = [{name: getattr(call, name) for name in call.__struct_fields__ if name != "slot"} for call in calls]
        stats = {
            "totals": self.ledger.totals(),
            "models": self.ledger.models,
            "lists": self.ledger.lists,
            "recent": recent,
        }
        return msgspec.json.encode(stats)

    # Calls

    async def _chat(self, caller: Caller) -> None:
        body = await caller.body()
        with self._refusals(caller, "chat") as seen:
            served = self._addressed(body, "chat", ChatRequest, seen)
            request = wire.checked_chat(wire.decoded(body, ChatRequest))
            if not served.model.can_see and any(message.images for message in request.messages):
                raise ApiError(400, f"The model {served.model.id} does not accept images.", param="messages")
            tokens = prompt_tokens(request)
            room = _room(served.model, len(tokens), request.output_limit)
            served.fail_perhaps()
        digests = served.cache.digests(tokens) if served.behaviour.prefix_cache else []
        call = self.ledger.begin(
            request_id=caller.request_id,
            model=served.model.id,
            api="chat",
            is_stream=bool(request.stream),
            prompt_tokens=len(tokens),
            cached_tokens=served.cache.cached_tokens(digests),
            now=self._clock(),
        )
        replies = [compose(served.model, request, index, room) for index in range(request.n or 1)]
        pace = Pace(served.behaviour, _loop_time())
        caller.watch()
        with self._departures(call):
            await caller.wait_until(pace.deadline(0))
            served.cache.remember(digests)
            if request.stream:
                await self._stream(caller, call, served, replies, pace, includes_usage=request.includes_usage)
            else:
                await self._answer(caller, call, served, replies, pace)

    async def _stream(
        self, caller: Caller, call: Call, served: Served, replies: list[Reply], pace: Pace, *, includes_usage: bool
    ) -> None:
        frames = Frames(call, includes_usage=includes_usage)
        cut_at = _steps(replies) // 2 + 1 if served.draws("cut", pace.behaviour.cut_rate) else None
        # Under load a stream falls behind its schedule; it then catches up with several events in one write.
        pending: list[bytes] = []
        completion = reasoning = 0
        for step, units in enumerate(zip_longest(*(frames.units(index, reply) for index, reply in enumerate(replies)))):
            if step == cut_at:
                break
            if pending and (len(pending) >= _EVENTS_AT_ONCE or pace.deadline(step) > _loop_time()):
                self.ledger.progress(call, completion, reasoning)
                await caller.send_events(pending)
                pending = []
                await caller.wait_until(pace.deadline(step))
            for unit in units:
                if unit is not None:
                    pending.append(unit.event)
                    completion += unit.tokens
                    reasoning += unit.reasoning_tokens
        caller.check()
        self.ledger.progress(call, completion, reasoning)
        if cut_at is not None:
            self._end(call, "cut", 200)
            await caller.send_events(pending)
            return
        pending += frames.ending(replies)
        self._end(call, "ok", 200)
        await caller.send_events(pending, is_last=True)

    async def _answer(self, caller: Caller, call: Call, served: Served, replies: list[Reply], pace: Pace) -> None:
        steps = _steps(replies)
        is_cut = served.draws("cut", pace.behaviour.cut_rate)
        end_step = steps // 2 if is_cut else max(steps - 1, 0)
        try:
            await caller.wait_until(pace.deadline(end_step))
        except (CallerLeft, asyncio.CancelledError):
            self._progress(call, replies, min(end_step, pace.steps_done(_loop_time())))
            raise
        self._progress(call, replies, end_step + 1)
        body = msgspec.json.encode(_completion(call, replies, int(self._clock())))
        if is_cut:
            self._end(call, "cut", 200)
            await caller.cut_short(body)
            return
        self._end(call, "ok", 200)
        await caller.answer(200, body)

    def _progress(self, call: Call, replies: list[Reply], steps: int) -> None:
        self.ledger.progress(
            call,
            sum(min(steps, reply.completion_tokens) for reply in replies),
            sum(min(steps, reply.reasoning_tokens) for reply in replies),
        )

    async def _embeddings(self, caller: Caller) -> None:
        body = await caller.body()
        with self._refusals(caller, "embeddings") as seen:
            served = self._addressed(body, "embedding", EmbeddingRequest, seen)
            request = wire.decoded(body, EmbeddingRequest)
            inputs = [vectors.tokens_of(item) for item in request.inputs]
            if (longest := max(map(len, inputs))) > served.model.context_tokens:
                raise _too_long(served.model, longest)
            served.fail_perhaps()
        call = self.ledger.begin(
            request_id=caller.request_id,
            model=served.model.id,
            api="embeddings",
            is_stream=False,
            prompt_tokens=sum(map(len, inputs)),
            cached_tokens=0,
            now=self._clock(),
        )
        pace = Pace(served.behaviour, _loop_time())
        caller.watch()
        with self._departures(call):
            await caller.wait_until(pace.deadline(0))
            answer = msgspec.json.encode(_embedded(request, call, inputs))
            if served.draws("cut", pace.behaviour.cut_rate):
                self._end(call, "cut", 200)
                await caller.cut_short(answer)
                return
            self._end(call, "ok", 200)
            await caller.answer(200, answer)

    def _addressed(self, body: bytes, kind: str, request: type[msgspec.Struct], seen: Seen) -> Served:
        """The model that a request is for. Raises ``ApiError`` when it cannot do this, or not with these parameters."""
        given = wire.fields(body)
        served = self._find(wire.model_of(given))
        model = served.model
        seen.model = model.id
        if model.kind != kind:
            raise ApiError(400, f"The model {model.id} is of kind {model.kind}; this is for {kind}.", param="model")
        unknown = given.keys() - set(request.__struct_fields__) if model.is_strict else set()
        for name in sorted(unknown | (given.keys() & model.refuses)):
            raise ApiError(
                400, f"The model {model.id} does not support {name}.", param=name, code="unsupported_parameter"
            )
        return served

    @contextmanager
    def _refusals(self, caller: Caller, api: str) -> Iterator[Seen]:
        """Count a call that is refused in this block."""
        seen = Seen()
        caller.request_id = caller.request_id or f"demo-{time.time_ns():x}"
        try:
            yield seen
        except ApiError as error:
            now = self._clock()
            call = self.ledger.begin(
                request_id=caller.request_id,
                model=seen.model,
                api=api,
                is_stream=False,
                prompt_tokens=0,
                cached_tokens=0,
                now=now,
            )
            self.ledger.end(call, "error", error.status, now)
            raise

    @contextmanager
    def _departures(self, call: Call) -> Iterator[None]:
        """Count a call that ends early, because the client left or because this server is being stopped."""
        try:
            yield
        except CallerLeft:
            self._end(call, "cancelled", 499)
        except asyncio.CancelledError:
            # To end quietly is what closes the connection here; raised further it would be printed as a crash.
            self._end(call, "cut", 200)

    def _end(self, call: Call, outcome: Outcome, status: int) -> None:
        self.ledger.end(call, outcome, status, self._clock())


class Seen:
    """What is known of a request before it is accepted."""

    model = "unknown"


class Pace:
    """When each step of an answer is due, by the loop's clock. Absolute, so that waking up late never adds up."""

    def __init__(self, behaviour: Behaviour, began: float) -> None:
        self.behaviour = behaviour
        self._first = began + behaviour.first_token_seconds

    def deadline(self, step: int) -> float:
        return self._first + step * self.behaviour.token_seconds

    def steps_done(self, now: float) -> int:
        if now < self._first:
            return 0
        if self.behaviour.token_seconds == 0:
            return sys.maxsize
        return int((now - self._first) / self.behaviour.token_seconds) + 1


class Unit(NamedTuple):
    """One event of a stream and the tokens in it."""

    event: bytes
    tokens: int
    reasoning_tokens: int


class Frames:
    """The events of one stream, each ``data: {…}`` and an empty line."""

    def __init__(self, call: Call, *, includes_usage: bool) -> None:
        self._call = call
        self._includes_usage = includes_usage
        self._id = _completion_id(call)
        self._created = int(call.started_at)
        head = msgspec.json.encode(self._base([]))
        # {"id":…,"choices":[ | ]}: what stands between is written for each token, the rest only once.
        self._before = b"data: " + head[: head.index(b"[]") + 1]
        self._after = b"]" + (b',"usage":null' if includes_usage else b"") + b"}\n\n"

    def units(self, index: int, reply: Reply) -> Iterator[Unit]:
        """The events of one choice, one for each token; the first one also says the role."""
        opening = self._event(index, {"role": "assistant", "content": ""})
        for token in reply.reasoning:
            yield Unit(opening + self._token(index, b'"reasoning_content":', token), 1, 1)
            opening = b""
        if reply.tool_name is not None:
            called = {"name": reply.tool_name, "arguments": ""}
            first = {"index": 0, "id": reply.tool_call_id, "type": "function", "function": called}
            yield Unit(opening + self._event(index, {"tool_calls": [first]}), len(reply.name_tokens), 0)
            opening = b""
            for token in reply.arguments:
                more = {"index": 0, "function": {"arguments": token}}
                yield Unit(self._event(index, {"tool_calls": [more]}), 1, 0)
        for token in reply.content:
            yield Unit(opening + self._token(index, b'"content":', token), 1, 0)
            opening = b""
        if opening:
            yield Unit(opening, 0, 0)

    def ending(self, replies: list[Reply]) -> list[bytes]:
        """The last events: why each choice ended, the usage if it was asked for, and ``[DONE]``."""
        events = [self._event(index, {}, reply.finish_reason) for index, reply in enumerate(replies)]
        if self._includes_usage:
            usage = self._base([]) | {"usage": _usage(self._call)}
            events.append(b"data: " + msgspec.json.encode(usage) + b"\n\n")
        events.append(b"data: [DONE]\n\n")
        return events

    def _base(self, choices: list[Json]) -> Json:
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._call.model,
            "choices": choices,
        }

    def _event(self, index: int, delta: Json, finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._before + msgspec.json.encode(choice) + self._after

    def _token(self, index: int, field: bytes, token: str) -> bytes:
        return b'%b{"index":%d,"delta":{%b%b},"logprobs":null,"finish_reason":null}%b' % (
            self._before,
            index,
            field,
            msgspec.json.encode(token),
            self._after,
        )


def _completion_id(call: Call) -> str:
    return f"chatcmpl-{int(call.started_at):x}{call.sequence:08x}"


def _completion(call: Call, replies: list[Reply], created: int) -> Json:
    return {
        "id": _completion_id(call),
        "object": "chat.completion",
        "created": created,
        "model": call.model,
        "choices": [
            {"index": index, "message": _message(reply), "logprobs": None, "finish_reason": reply.finish_reason}
            for index, reply in enumerate(replies)
        ],
        "usage": _usage(call),
    }


def _message(reply: Reply) -> Json:
    message: Json = {"role": "assistant", "content": "".join(reply.content)}
    if reply.reasoning:
        message["reasoning_content"] = "".join(reply.reasoning)
    if reply.tool_name is not None:
        called = {"name": reply.tool_name, "arguments": "".join(reply.arguments)}
        message["content"] = None
        message["tool_calls"] = [{"id": reply.tool_call_id, "type": "function", "function": called}]
    return message


def _usage(call: Call) -> Json:
    return {
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": call.completion_tokens,
        "total_tokens": call.prompt_tokens + call.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": call.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": call.reasoning_tokens},
    }


def _embedded(request: EmbeddingRequest, call: Call, inputs: list[list[str]]) -> Json:
    data: list[Json] = []
    for index, tokens in enumerate(inputs):
        packed = vectors.packed_vector(tokens, request.dimensions or vectors.DEFAULT_DIMENSIONS)
        is_base64 = request.encoding_format == "base64"
        vector = base64.b64encode(packed).decode() if is_base64 else vectors.floats(packed)
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": call.prompt_tokens, "total_tokens": call.prompt_tokens}
    return {"object": "list", "data": data, "model": call.model, "usage": usage}


def _described(model: Model) -> Json:
    return {
        "id": model.id,
        "object": "model",
        "created": CREATED_AT,
        "owned_by": "demo",
        "max_model_len": model.context_tokens,
    }


def _steps(replies: list[Reply]) -> int:
    return max(reply.completion_tokens for reply in replies)


def _room(model: Model, prompt: int, limit: int | None) -> int:
    """How many tokens one choice may have. Raises ``ApiError`` 400 when prompt and answer do not fit the context."""
    if prompt + (limit or 1) > model.context_tokens:
        raise _too_long(model, prompt, limit)
    return limit or model.context_tokens - prompt


def _too_long(model: Model, prompt: int, limit: int | None = None) -> ApiError:
    asked = f"{prompt} tokens in the prompt" + (f" and up to {limit} for the answer" if limit else "")
    return ApiError(
        400,
        f"The model {model.id} reads at most {model.context_tokens} tokens; this request has {asked}.",
        param="messages" if model.kind == "chat" else "input",
        code="context_length_exceeded",
    )


def _only(method: str, *allowed: str) -> None:
    if method not in allowed:
        raise ApiError(405, f"{method} is not possible here; {' or '.join(allowed)} is.", code="method_not_allowed")


def _whole(query: dict[str, list[str]], name: str, otherwise: int) -> int:
    text = query.get(name, [str(otherwise)])[0]
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ApiError(400, f"{name} must be a whole number, not {text!r}.", param=name)
    return int(text)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
