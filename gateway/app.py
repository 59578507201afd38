"""The data plane as a bare ASGI callable: paths, bodies, keys and endpoints; `gateway.forward` does the rest.

No framework: a Django view costs twelve times the CPU of this per call (`docs/bench.md`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway import auth, errors, split
from gateway import body as request_body
from gateway.auth import KeyRing
from gateway.config import Config
from gateway.errors import Refusal
from gateway.forward import Call, ClientGone, Forwarder, Receive, Send, Watch
from gateway.metrics import Metrics
from gateway.routes import EndpointRoute, KeyRoute, NotServed, RouteTable, SourceAway, SwitchRoute, VersionRoute

log = logging.getLogger(__name__)

Scope = Any
_APIS = {"/api/v3/chat/completions": "chat", "/api/v3/embeddings": "embeddings"}
_encode = msgspec.json.Encoder().encode


class Gateway:
    """Serves `/api/v3`, `/healthz` and `/readyz`. `degraded` names what is away; `is_draining` makes it unready."""

    def __init__(
        self,
        *,
        config: Config,
        routes: RouteTable,
        keys: KeyRing,
        forwarder: Forwarder,
        metrics: Metrics,
        degraded: Callable[[], list[str]] = list,
    ) -> None:
        self._config = config
        self._routes = routes
        self._keys = keys
        self._forwarder = forwarder
        self._metrics = metrics
        self._degraded = degraded
        self._loop = asyncio.get_running_loop()
        self._watch = Watch(self._loop)
        self._id_suffix = secrets.token_hex(14)
        self._id_count = secrets.randbits(24)
        self.is_draining = False
        self._pages: dict[str, Callable[[Scope, Receive, Send], Awaitable[None]]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/api/v3/models": self._models,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        api = _APIS.get(path)
        if api is not None:
            await self._call(api, scope, receive, send)
            return
        page = self._pages.get(path)
        if page is not None:
            await page(scope, receive, send)
            return
        await self._begin("", receive, send).refuse(errors.path_not_found())

    # -- calls --

    async def _call(self, api: str, scope: Scope, receive: Receive, send: Send) -> None:
        call = self._begin(api, receive, send)
        try:
            await self._resolve(call, scope)
            if call.route is not None:
                await self._forwarder.run(call)
        except Refusal as refusal:
            self._metrics.unresolved[refusal.code, refusal.status] += 1
            await call.refuse(refusal)
        except ClientGone:
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not call.is_client_gone or task is None or task.uncancel():
                raise
        except Exception:
            log.exception("call %s failed", call.id)
            await call.refuse(errors.internal())
        finally:
            call.end()

    async def _resolve(self, call: Call, scope: Scope) -> None:
        """Everything up to the endpoint. Raises `Refusal` where the call ends before one is known."""
        if scope["method"] != "POST":
            raise errors.method_not_allowed()
        call.key = await self._authenticate(call, scope)
        body = await self._read_body(call)
        # Not before: a watcher that waits beside the reader of the body takes pieces of it, and the reader waits on.
        self._watch.add(call)
        fields = call.fields = request_body.parse(body)
        route, version = await self._route(call.key, request_body.model_of(fields))
        call.parameters = request_body.parameters(fields)
        if route.switch is not None:
            version = self._side(call, scope, route.switch, version)
        # From here on there is an endpoint, so whatever happens is metered: refusals go through the forwarder too.
        call.route, call.version = route, version
        call.refused = self._objection(call, route, version)

    def _side(self, call: Call, scope: Scope, switch: SwitchRoute, source: VersionRoute | None) -> VersionRoute | None:
        """The version that serves this call while its endpoint is being switched; it stays so to its last byte."""
        assert call.key is not None
        if not split.takes_target(switch, fields=call.fields, headers=scope["headers"], key_id=call.key.id):
            return source
        # A target that this worker has not read yet fails no call.
        return self._routes.version(switch.target_version_id) or source

    def _objection(self, call: Call, route: EndpointRoute, version: VersionRoute | None) -> Refusal | None:
        """Why this key may not make this call on this endpoint, if so."""
        assert call.key is not None
        if not auth.may_call(call.key, route, version):
            return errors.access_denied()
        if version is not None and version.api != call.api:
            return errors.unsupported_api(version.model_id, call.api)
        try:
            call.is_stream = request_body.check(call.fields, call.api)
        except Refusal as refusal:
            return refusal
        return None

    async def _authenticate(self, call: Call, scope: Scope) -> KeyRoute:
        authorization = forwarded_for = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"content-length":
                call.content_length = int(value) if value.isdigit() else 0
            elif name == b"x-client-request-id":
                call.client_id = value[:128]
            elif name == b"x-forwarded-for":
                forwarded_for = value if forwarded_for is None else forwarded_for + b"," + value
        peer = scope["client"]
        trusted = self._config.trusted_proxies
        call.source_ip = auth.caller_address(peer[0] if peer else "", forwarded_for, trusted)
        token = auth.bearer(authorization)
        key = self._keys.known(token)
        if key is None:
            try:
                key = await self._keys.find(token)
            except SourceAway:
                raise errors.not_ready() from None
        return auth.check(key, now=call.at_ms / 1000, address=call.source_ip)

    async def _read_body(self, call: Call) -> bytes:
        limit = self._config.max_body_bytes
        if call.content_length > limit:
            raise errors.body_too_large(limit)
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return body
        try:
            async with asyncio.timeout(self._config.body_seconds):
                return await self._read_rest(call, body, limit)
        except TimeoutError:
            raise errors.body_too_slow() from None

    @staticmethod
    async def _read_rest(call: Call, body: bytes, limit: int) -> bytes:
        parts = [body]
        size = len(body)
        has_more = True
        while has_more:
            message = await call.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            parts.append(part)
            size += len(part)
            if size > limit:
                raise errors.body_too_large(limit)
            has_more = message.get("more_body", False)
        return b"".join(parts)

    async def _route(self, key: KeyRoute, model: str) -> tuple[EndpointRoute, VersionRoute | None]:
        """The endpoint that `model` means to this key: an endpoint id, or a model id with its preset endpoint."""
        routes = self._routes
        try:
            if model.startswith("ep-"):
                route = routes.endpoint(model) or await routes.find_endpoint(model)
                # Another project's endpoint is answered like one that does not exist.
                if route is None or route.project_id != key.project_id:
                    raise errors.endpoint_not_found(model)
                return route, routes.version(route.version_id)
            version = routes.model(model)
            if version is None:
                raise errors.endpoint_not_found(model) if routes.is_ready else errors.not_ready()
            preset = routes.preset(key.project_id, version.id)
            if preset is None:
                # Only who may call it makes it appear.
                if not auth.may_call_model(key, version):
                    raise errors.access_denied()
                preset = await routes.find_preset(key.project_id, version.id)
        except SourceAway:
            raise errors.not_ready() from None
        except NotServed:
            raise errors.endpoint_not_found(model) from None
        return preset, version

    def _begin(self, api: str, receive: Receive, send: Send) -> Call:
        count = self._id_count = (self._id_count + 1) & 0xFFFFFFFF
        # Ark's form: 02, 13 digits of milliseconds, hexadecimal; unique by worker and count.
        at_ms = time.time_ns() // 1_000_000
        return Call(f"02{at_ms:013d}{self._id_suffix}{count:08x}", api, at_ms, self._loop.time(), receive, send)

    # -- the rest --

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An OpenAI-style list of what the key may name as `model`: model ids, then endpoint ids."""
        call = self._begin("models", receive, send)
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise errors.method_not_allowed()
            key = await self._authenticate(call, scope)
            if not self._routes.is_ready:
                raise errors.not_ready()
        except Refusal as refusal:
            self._metrics.unresolved[refusal.code, refusal.status] += 1
            await call.refuse(refusal)
            return
        routes = self._routes
        entries = [
            _entry(version.model_id, version.released, version.base_model)
            for version in routes.models()
            if version.deployments and auth.may_call_model(key, version)
        ]
        for route in routes.endpoints_of(key.project_id):
            version = routes.version(route.version_id)
            if version is not None and auth.may_call(key, route, version):
                entries.append(_entry(route.id, version.released, version.base_model))
        await call.answer(200, _encode({"object": "list", "data": entries}))

    async def _healthz(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._begin("", receive, send).answer(200, b'{"status":"alive"}')

    async def _readyz(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_ready = self._routes.is_ready and not self.is_draining
        state = "draining" if self.is_draining else "ready" if is_ready else "loading"
        body = _encode({"status": state, "degraded": self._degraded()})
        await self._begin("", receive, send).answer(200 if is_ready else 503, body)


def _entry(model: str, created: int, owner: str) -> dict[str, object]:
    return {"id": model, "object": "model", "created": created, "owned_by": owner}
