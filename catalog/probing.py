"""Asking a model server how it is and what it can do.

ProbeFailed   the server could not be asked; `trouble` says why as a `catalog.models.Trouble`, `detail` in the words of
              the system or the server (untranslated, without the key). Nothing else leaves this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import httpx

from catalog.models import ModelServer, Trouble
from common import addresses, outbound

READ_SECONDS = 10
TOTAL_SECONDS = 20
MAX_BYTES = 8 * 1024 * 1024
NO_SUCH_MODEL = "arkconsole-connection-test"
"""A model that no server has: a server that charges refuses it before it computes anything."""

_DETAIL_LENGTH = 200
_REFUSAL = re.compile(
    r"extra|unknown|unrecogni[sz]ed|unsupported|not support|not permitted|not allowed|unexpected", re.IGNORECASE
)


class ProbeFailed(Exception):
    """The server gave no usable answer; see the module's docstring."""

    def __init__(self, trouble: Trouble, detail: str = "") -> None:
        super().__init__(f"{trouble.value}: {detail}" if detail else trouble.value)
        self.trouble = trouble
        self.detail = detail


class Capability(StrEnum):
    """What a check found. `ignored`: the parameter was taken without complaint, and without effect."""

    YES = "yes"
    NO = "no"
    IGNORED = "ignored"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ListedModel:
    """A model as the server lists it; `context_tokens` where it says so (vLLM, SGLang, llama.cpp do)."""

    id: str
    context_tokens: int | None = None
    owner: str = ""


@dataclass(frozen=True)
class Probe:
    """A probe that went well. `models` is None for a probe that asks for no list (TCP)."""

    milliseconds: int
    models: tuple[ListedModel, ...] | None


@dataclass(frozen=True)
class Inspection:
    """The result of *Test connection*. With `trouble` set, nothing after `detail` was found out."""

    trouble: Trouble | None = None
    detail: str = ""
    milliseconds: int = 0
    models: tuple[ListedModel, ...] = ()
    has_model_list: bool = True
    stream_options: Capability = Capability.UNKNOWN
    embeddings: Capability = Capability.UNKNOWN
    paid_model: str = ""
    paid_detail: str = ""

    @property
    def is_good(self) -> bool:
        return self.trouble is None

    @property
    def sentence(self) -> str:
        """What went wrong, for people; "" when nothing did."""
        return str(self.trouble.label) if self.trouble else ""


class ModelServerClient:
    """One OpenAI-compatible server. Use as a context manager; each method asks anew.

    `transport` and `resolver` are the seams for tests. Raises `ProbeFailed`.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str = "",
        connect_seconds: float = 5,
        read_seconds: float = READ_SECONDS,
        transport: httpx.BaseTransport | None = None,
        resolver: outbound.Resolver = addresses.resolve,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._connect_seconds = connect_seconds
        self._resolver = resolver
        self._http = outbound.Client(
            connect_seconds=connect_seconds,
            # A person, or a worker's thread, waits: the long read timeout of real calls does not fit here.
            read_seconds=min(read_seconds, READ_SECONDS),
            total_seconds=TOTAL_SECONDS,
            max_bytes=MAX_BYTES,
            transport=transport,
            resolver=resolver,
        )

    def __enter__(self) -> ModelServerClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()

    def probe(self, kind: str) -> Probe:
        """Ask as often as you like: it is free on every server. `kind` is a `ModelServer.ProbeKind`."""
        if kind == ModelServer.ProbeKind.TCP:
            return Probe(milliseconds=self._connect(), models=None)
        return self.list_models()

    def list_models(self) -> Probe:
        """`GET {base_url}/models`, with the milliseconds it took."""
        answer = self._ask("GET", "/models")
        if trouble := _trouble_of(answer.status):
            raise ProbeFailed(trouble, self._told(answer))
        payload = _json(answer.body)
        if payload is None:
            raise ProbeFailed(Trouble.NOT_JSON, self._told(answer))
        # Together and a few others answer with the bare list.
        rows = payload.get("data") if isinstance(payload, dict) else payload
        if not isinstance(rows, list):
            raise ProbeFailed(Trouble.NOT_A_MODEL_LIST, self._told(answer))
        return Probe(milliseconds=answer.milliseconds, models=tuple(_listed(row) for row in rows if _has_id(row)))

    def inspect(self, *, kind: str, paid_model: str = "") -> Inspection:
        """Everything *Test connection* shows; never raises. Free, unless `paid_model` names a model to ask one token of.

        How capabilities are found free of charge: a request for a model that does not exist, or with an empty
        conversation, is refused before anything is computed. Put a `stream_options` of the wrong type into it, and a
        server that complains about that field knows it, and one that calls it extra or unknown does not. Some servers
        (vLLM, SGLang, Ollama) read the whole request before they look for the model, others (OpenAI, our demo) after,
        hence both questions. From a server that complains of neither nothing is learnt. `POST /embeddings` for a model
        that does not exist tells a missing page from a missing model.
        """
        try:
            probe = self.probe(kind)
        except ProbeFailed as failure:
            return Inspection(trouble=failure.trouble, detail=failure.detail)
        models, has_model_list = probe.models or (), True
        if probe.models is None:
            try:
                models = self.list_models().models or ()
            except ProbeFailed as failure:
                if failure.trouble in (Trouble.UNAUTHORIZED, Trouble.FORBIDDEN):
                    return Inspection(trouble=failure.trouble, detail=failure.detail)
                has_model_list = False
        stream_options, paid_detail = self._stream_options_free(models), ""
        if paid_model:
            stream_options, paid_detail = self._stream_options_paid(paid_model)
        return Inspection(
            milliseconds=probe.milliseconds,
            models=models,
            has_model_list=has_model_list,
            stream_options=stream_options,
            embeddings=self._embeddings_free(),
            paid_model=paid_model,
            paid_detail=paid_detail,
        )

    def _stream_options_free(self, models: tuple[ListedModel, ...]) -> Capability:
        questions = [_chat(NO_SUCH_MODEL, stream_options="arkconsole")]
        chat_models = [model.id for model in models if "embed" not in model.id.lower()]
        if chat_models:
            questions.append(_chat(chat_models[0], stream_options="arkconsole") | {"messages": []})
        for question in questions:
            try:
                answer = self._ask("POST", "/chat/completions", question)
            except ProbeFailed:
                continue
            text = answer.body.decode(errors="replace")
            if answer.status >= 400 and "stream_options" in text:
                return Capability.NO if _REFUSAL.search(text) else Capability.YES
        return Capability.UNKNOWN

    def warm(self, model: str, *, is_embedding: bool = False) -> int:
        """One paid call of one token, so that the model is loaded before people wait for it; the milliseconds it took."""
        if is_embedding:
            answer = self._ask("POST", "/embeddings", {"model": model, "input": "ping"})
        else:
            messages = [{"role": "user", "content": "ping"}]
            answer = self._ask("POST", "/chat/completions", {"model": model, "messages": messages, "max_tokens": 1})
        if trouble := _trouble_of(answer.status):
            raise ProbeFailed(trouble, self._told(answer))
        return answer.milliseconds

    def _stream_options_paid(self, model: str) -> tuple[Capability, str]:
        try:
            answer = self._ask("POST", "/chat/completions", _chat(model, stream_options={"include_usage": True}))
        except ProbeFailed as failure:
            return Capability.UNKNOWN, failure.detail or str(failure.trouble.label)
        if answer.status >= 400:
            told = self._told(answer)
            return (Capability.NO if "stream_options" in told else Capability.UNKNOWN), told
        return (Capability.YES if _streamed_usage(answer.body) else Capability.IGNORED), ""

    def _embeddings_free(self) -> Capability:
        try:
            answer = self._ask("POST", "/embeddings", {"model": NO_SUCH_MODEL, "input": "ping"})
        except ProbeFailed:
            return Capability.UNKNOWN
        if answer.status < 300:
            return Capability.YES  # llama.cpp does not look at the model's name
        text = answer.body.decode(errors="replace").lower()
        if answer.status in (405, 501):
            return Capability.NO
        if answer.status in (400, 404, 422):
            if re.search(r"not support|unsupported", text):
                return Capability.NO
            if NO_SUCH_MODEL in text or "model" in text:
                return Capability.YES
            return Capability.NO if answer.status == 404 else Capability.UNKNOWN
        return Capability.UNKNOWN

    def _connect(self) -> int:
        parts = urlsplit(self._base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            return outbound.check_tcp(
                parts.hostname or "", port, connect_seconds=self._connect_seconds, resolver=self._resolver
            )
        except addresses.UnsafeAddress as error:
            raise ProbeFailed(Trouble.FORBIDDEN_ADDRESS, error.message) from None
        except outbound.OutboundError as error:
            raise ProbeFailed(_TROUBLES[type(error)], error.detail[:_DETAIL_LENGTH]) from None

    def _ask(self, method: str, path: str, payload: Mapping[str, Any] | None = None) -> outbound.Answer:
        url = self._base_url + path
        headers = {"Accept": "application/json", "User-Agent": "ArkConsole"}
        if not is_sendable(self._api_key):
            raise ProbeFailed(Trouble.UNAUTHORIZED, "the key holds characters that no HTTP header takes")
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        try:
            if method == "GET":
                return self._http.get(url, headers=headers)
            return self._http.post(url, json=payload, headers=headers)
        except addresses.UnsafeAddress as error:
            raise ProbeFailed(Trouble.FORBIDDEN_ADDRESS, error.message) from None
        except outbound.OutboundError as error:
            raise ProbeFailed(_TROUBLES[type(error)], self._hushed(error.detail)) from None

    def _told(self, answer: outbound.Answer) -> str:
        """What the server itself said, in a line."""
        if 300 <= answer.status < 400:
            return self._hushed(answer.headers.get("location", ""))
        payload = _json(answer.body)
        said: Any = payload
        for name in ("error", "message", "detail"):
            if isinstance(said, dict) and said.get(name):
                said = said[name]
        if said is payload:
            said = answer.body.decode(errors="replace")
        text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
        return self._hushed(f"HTTP {answer.status}: {' '.join(text.split())}")

    def _hushed(self, text: str) -> str:
        # Some servers repeat the key that they refuse.
        if self._api_key:
            text = text.replace(self._api_key, "•••")
        return text[:_DETAIL_LENGTH]


_TROUBLES: dict[type[outbound.OutboundError], Trouble] = {
    outbound.NameNotFound: Trouble.NAME_NOT_FOUND,
    outbound.Refused: Trouble.REFUSED,
    outbound.Unreachable: Trouble.UNREACHABLE,
    outbound.TlsFailed: Trouble.TLS,
    outbound.TimedOut: Trouble.TIMEOUT,
    outbound.NeverConnected: Trouble.TIMEOUT,
    outbound.TooLarge: Trouble.TOO_LARGE,
    outbound.Broken: Trouble.BROKEN,
}


def is_sendable(api_key: str) -> bool:
    """Whether a key can stand in a header: printable ASCII, no line break."""
    return api_key.isascii() and (api_key.isprintable() or not api_key)


def client_for(server: ModelServer) -> ModelServerClient:
    """The client of a stored server, with its key and its connect timeout."""
    return ModelServerClient(
        base_url=server.base_url,
        api_key=server.api_key,
        connect_seconds=server.connect_timeout_seconds,
        read_seconds=server.read_timeout_seconds,
    )


def _trouble_of(status: int) -> Trouble | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return Trouble.REDIRECTED
    if status >= 500:
        return Trouble.SERVER_ERROR
    return {
        401: Trouble.UNAUTHORIZED,
        403: Trouble.FORBIDDEN,
        404: Trouble.NOT_FOUND,
        405: Trouble.NOT_FOUND,
        429: Trouble.RATE_LIMITED,
    }.get(status, Trouble.UNEXPECTED_STATUS)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _has_id(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("id"), str) and 0 < len(row["id"]) <= 255


def _listed(row: dict[str, Any]) -> ListedModel:
    meta = row.get("meta")
    candidates = [row.get("max_model_len"), row.get("context_length"), row.get("context_window")]
    if isinstance(meta, dict):
        candidates.append(meta.get("n_ctx_train"))
    context = next((value for value in candidates if isinstance(value, int) and 0 < value < 2**31), None)
    owner = row.get("owned_by")
    return ListedModel(id=row["id"], context_tokens=context, owner=owner[:64] if isinstance(owner, str) else "")


def _chat(model: str, *, stream_options: Any) -> dict[str, Any]:
    # First, since servers name the first fault that they meet.
    return {
        "stream_options": stream_options,
        "model": model,
        "messages": [{"role": "user", "content": "ping"}],
        "max_tokens": 1,
        "stream": True,
    }


def _streamed_usage(body: bytes) -> bool:
    for line in body.decode(errors="replace").splitlines():
        if line.startswith("data:"):
            event = _json(line[5:].encode())
            if isinstance(event, dict) and isinstance(event.get("usage"), dict):
                return True
    return False
