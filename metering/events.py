"""The usage event: what the gateway says about one call, and where it says it.

The gateway appends one event for each call that resolved to an endpoint to the Redis stream of the present
generation. The draining task reads the stream and writes the ledger.

The promise is *at least once*: after a reconnect, a replayed spool file or a reaped worker the same call may be in
the stream twice (also twice in one batch, also with two outcomes). `call_id` is unique to a call; the first event
seen of a call counts and later ones are dropped by the drain. There is no content of a call in an event.
"""

from __future__ import annotations

import enum

import msgspec

GENERATION_KEY = "ark:usage:generation"
"""String key with the id of the present generation; set NX by whoever comes first, so a wiped Redis starts anew."""

STREAM_PREFIX = "ark:usage:"
"""The stream of a generation is `STREAM_PREFIX + generation`."""

FIELD = b"e"
"""The one field of a stream entry; its value is the JSON of a `UsageEvent`."""


class Outcome(enum.StrEnum):
    """How a call ended.

    `success`: answered in full. `rejected`: refused by a limit (429), nothing sent upstream. `refused`: refused for
    another reason after the endpoint was known (closed, no live deployment, bad parameter), nothing sent upstream.
    `upstream_error`: the model server failed or answered an error before the first byte. `client_closed`: the caller
    left. `cut`: the model server failed after the first byte. `lost`: the gateway worker died; tokens are unknown
    (the input is an estimate).
    """

    SUCCESS = "success"
    REJECTED = "rejected"
    REFUSED = "refused"
    UPSTREAM_ERROR = "upstream_error"
    CLIENT_CLOSED = "client_closed"
    CUT = "cut"
    LOST = "lost"


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call. Times are epoch milliseconds, durations milliseconds, tokens integers.

    `input_tokens` includes `cached_tokens`; `output_tokens` includes `reasoning_tokens`. `is_estimated` says that the
    model server sent no usage. `first_token_ms` counts from `at` and is None when nothing was streamed.
    `code` is "Success" or one of Ark's error codes, `status` the HTTP status the caller got (499: the caller left).
    `limit` is "rpm" or "tpm" when that limit refused the call. `overrun_tokens` is what the call used beyond its
    reservation. `parameters` are names of top-level parameters of the request, never values.
    """

    call_id: str
    at: int
    endpoint_id: str
    project_id: str
    api: str
    outcome: Outcome
    status: int
    code: str
    duration_ms: int = 0
    first_token_ms: int | None = None
    request_id: str = ""
    version_id: int | None = None
    model_id: str = ""
    server_id: int | None = None
    deployment_id: int | None = None
    key_id: int | None = None
    is_stream: bool = False
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    is_estimated: bool = False
    overrun_tokens: int = 0
    limit: str | None = None
    switch_id: int | None = None
    rung: int | None = None
    parameters: list[str] = []
    source_ip: str = ""
    worker: str = ""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(UsageEvent)


def stream_key(generation: str) -> str:
    """The name of the usage stream of a generation."""
    return STREAM_PREFIX + generation


def encode(event: UsageEvent) -> bytes:
    """The event as JSON, the value of `FIELD`."""
    return _encoder.encode(event)


def decode(data: bytes) -> UsageEvent:
    """The event from its JSON; unknown fields are ignored. Raises `msgspec.MsgspecError` when it is not one."""
    return _decoder.decode(data)
