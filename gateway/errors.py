"""What a caller is told when a call cannot be done: Ark's codes in Ark's shape (`ark.md` §3.5, §3.7).

Refusal                 one answer: HTTP status, Ark code, type, message
UpstreamFailure         the model server did not do its share; never leaves the gateway as it is
├── ConnectFailed       no connection, nothing was sent
├── AnswerTimedOut      connected, but no first byte in time
└── AnswerBroken        the answer ended or stalled half-way, or was not HTTP
"""

from __future__ import annotations

import msgspec

NOT_JSON = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""What decoding raises for bytes that are not the JSON that was asked for."""


class Refusal(Exception):
    """An answer in place of the one asked for. `{id}` in the message is the call's id."""

    def __init__(
        self,
        status: int,
        code: str,
        kind: str,
        message: str,
        *,
        param: str = "",
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.kind = kind
        self.message = message
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    def body(self, call_id: str) -> bytes:
        """The JSON body, `{"error": {code, message, param, type}}`."""
        message = self.message.replace("{id}", call_id)
        if call_id not in message:
            message = f"{message} Request id: {call_id}"
        return _encode({"error": {"code": self.code, "message": message, "param": self.param, "type": self.kind}})

    def frame(self, call_id: str) -> bytes:
        """The same as an SSE frame, for streams that fail half-way."""
        return b"data: " + self.body(call_id) + b"\n\n"


_encode = msgspec.json.Encoder().encode


class UpstreamFailure(Exception):
    """The model server did not do its share; `str(error)` is for logs and holds no content and no secret."""


class ConnectFailed(UpstreamFailure):
    """No connection could be made; nothing was sent."""


class AnswerTimedOut(UpstreamFailure):
    """Connected and sent, but the first byte of the answer did not come in time."""


class AnswerBroken(UpstreamFailure):
    """The answer ended early, stalled, or was not HTTP. `had_bytes` says whether anything of it came."""

    def __init__(self, message: str, *, had_bytes: bool) -> None:
        super().__init__(message)
        self.had_bytes = had_bytes


def bad_key() -> Refusal:
    return Refusal(
        401,
        "AuthenticationError",
        "Unauthorized",
        "The API key or AK/SK in the request is missing or invalid. Request ID: {id}",
    )


def access_denied() -> Refusal:
    return Refusal(
        403,
        "AccessDenied",
        "Forbidden",
        "The request failed because you do not have access to the requested resource. Request ID: {id}",
    )


def endpoint_not_found(name: str) -> Refusal:
    return Refusal(
        404,
        "InvalidEndpointOrModel.NotFound",
        "NotFound",
        f"The model or endpoint {name[:128]} does not exist or you do not have access to it. Request ID: {{id}}",
        param="model",
    )


def path_not_found() -> Refusal:
    return Refusal(404, "NotFound", "NotFound", "The requested path does not exist. Request ID: {id}")


def method_not_allowed() -> Refusal:
    return Refusal(405, "MethodNotAllowed", "BadRequest", "The method is not allowed for this path. Request ID: {id}")


def closed_endpoint() -> Refusal:
    return Refusal(
        400,
        "InvalidEndpoint.ClosedEndpoint",
        "BadRequest",
        "The request targeted an endpoint that is currently closed or temporarily unavailable. Request ID: {id}",
        param="model",
    )


def missing_parameter(name: str) -> Refusal:
    return Refusal(
        400,
        "MissingParameter",
        "BadRequest",
        f"The request failed because it is missing one or multiple required parameters: {name}. Request ID: {{id}}",
        param=name,
    )


def invalid_parameter(name: str, why: str) -> Refusal:
    return Refusal(
        400,
        "InvalidParameter",
        "BadRequest",
        f"One or more parameters specified in the request are not valid: {why}. Request ID: {{id}}",
        param=name,
    )


def unsupported_api(model_id: str, api: str) -> Refusal:
    return Refusal(
        400,
        "InvalidParameter",
        "BadRequest",
        f"The model {model_id} does not support this API ({api}). Request ID: {{id}}",
        param="model",
    )


def body_too_large(limit_bytes: int) -> Refusal:
    return Refusal(
        413,
        "InvalidParameter.BodyTooLarge",
        "BadRequest",
        f"The request body is larger than {limit_bytes} bytes. Request ID: {{id}}",
    )


def body_too_slow() -> Refusal:
    return Refusal(408, "RequestTimeout", "BadRequest", "The request body did not arrive in time. Request ID: {id}")


def rpm_exceeded(retry_after_seconds: int) -> Refusal:
    return Refusal(
        429,
        "RateLimitExceeded.EndpointRPMExceeded",
        "TooManyRequests",
        "The Requests Per Minute (RPM) limit of the associated endpoint for your account has been exceeded. "
        "Request ID: {id}",
        retry_after_seconds=retry_after_seconds,
    )


def tpm_exceeded(retry_after_seconds: int) -> Refusal:
    return Refusal(
        429,
        "RateLimitExceeded.EndpointTPMExceeded",
        "TooManyRequests",
        "The Tokens Per Minute (TPM) limit of the associated endpoint for your account has been exceeded. "
        "Request ID: {id}",
        retry_after_seconds=retry_after_seconds,
    )


def overloaded() -> Refusal:
    return Refusal(
        429,
        "ServerOverloaded",
        "TooManyRequests",
        "The service is currently unable to handle additional requests due to server overload. Please retry later. "
        "Request ID: {id}",
        retry_after_seconds=1,
    )


def no_live_server() -> Refusal:
    return Refusal(
        503,
        "ServiceUnavailable",
        "InternalServerError",
        "No model server behind this endpoint can answer at the moment. Please retry later. Request ID: {id}",
        retry_after_seconds=1,
    )


def not_ready() -> Refusal:
    return Refusal(
        503,
        "ServiceUnavailable",
        "InternalServerError",
        "The service cannot look up this key or endpoint at the moment. Please retry later. Request ID: {id}",
        retry_after_seconds=1,
    )


def answer_cut() -> Refusal:
    return Refusal(
        502,
        "InternalServiceError",
        "InternalServerError",
        "The model server stopped in the middle of its answer. Please retry later. Request ID: {id}",
    )


def answer_timed_out() -> Refusal:
    return Refusal(
        504,
        "InternalServiceError",
        "InternalServerError",
        "The model server did not answer in time. Please retry later. Request ID: {id}",
    )


def bad_answer() -> Refusal:
    return Refusal(
        502,
        "InternalServiceError",
        "InternalServerError",
        "The model server's answer could not be understood. Please retry later. Request ID: {id}",
    )


def internal() -> Refusal:
    return Refusal(
        500,
        "InternalServiceError",
        "InternalServerError",
        "The service encountered an unexpected internal error. Please retry later. Request ID: {id}",
    )


_BY_STATUS = {
    400: ("InvalidParameter", "BadRequest"),
    404: ("NotFound", "NotFound"),
    413: ("InvalidParameter.BodyTooLarge", "BadRequest"),
    422: ("InvalidParameter", "BadRequest"),
}


class _UpstreamError(msgspec.Struct):
    message: str = ""
    code: str | int | None = None
    param: str | None = None


class _UpstreamErrorBody(msgspec.Struct):
    error: _UpstreamError | str | None = None
    message: str | None = None
    detail: str | None = None


_decode_error = msgspec.json.Decoder(_UpstreamErrorBody).decode


def from_upstream(status: int, body: bytes) -> Refusal:
    """The refusal that tells the caller what the model server's error answer (status >= 400) means for them.

    401, 402, 403 and 407 are our own configuration at fault, so the caller hears 503 and never the server's words (they
    may name our key). 429 is the server's overload, not the caller's limit. Else status and message are kept.
    """
    if status == 429:
        return overloaded()
    if status in (401, 402, 403, 407):
        return no_live_server()
    message, param = "", ""
    try:
        parsed = _decode_error(body)
    except NOT_JSON:
        pass
    else:
        if isinstance(parsed.error, _UpstreamError):
            message, param = parsed.error.message, parsed.error.param or ""
        else:
            message = parsed.error or parsed.message or parsed.detail or ""
    if 400 <= status < 500:
        code, kind = _BY_STATUS.get(status, ("InvalidParameter", "BadRequest"))
    else:
        code, kind = "InternalServiceError", "InternalServerError"
    message = (message[:2000] or f"The model server answered with status {status}.").rstrip()
    return Refusal(status, code, kind, message.replace("{id}", "{ id }"), param=param)
