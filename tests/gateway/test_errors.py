from __future__ import annotations

import json

import pytest

from gateway import errors

CALL = "0217000000000000"


@pytest.mark.parametrize(
    ("refusal", "status", "kind", "code"),
    [
        (errors.bad_key(), 401, "Unauthorized", "AuthenticationError"),
        (errors.access_denied(), 403, "Forbidden", "AccessDenied"),
        (errors.endpoint_not_found("ep-x"), 404, "NotFound", "InvalidEndpointOrModel.NotFound"),
        (errors.closed_endpoint(), 400, "BadRequest", "InvalidEndpoint.ClosedEndpoint"),
        (errors.missing_parameter("model"), 400, "BadRequest", "MissingParameter"),
        (errors.rpm_exceeded(3), 429, "TooManyRequests", "RateLimitExceeded.EndpointRPMExceeded"),
        (errors.tpm_exceeded(3), 429, "TooManyRequests", "RateLimitExceeded.EndpointTPMExceeded"),
        (errors.overloaded(), 429, "TooManyRequests", "ServerOverloaded"),
        (errors.internal(), 500, "InternalServerError", "InternalServiceError"),
    ],
)
def test_refusals_have_arks_shape_and_name_the_call(refusal: errors.Refusal, status: int, kind: str, code: str) -> None:
    error = json.loads(refusal.body(CALL))["error"]
    assert refusal.status == status
    assert (error["type"], error["code"]) == (kind, code)
    assert set(error) == {"code", "message", "param", "type"}
    assert CALL in error["message"]
    assert "{id}" not in error["message"]


@pytest.mark.parametrize(
    ("status", "body", "expected_status", "code", "words"),
    [
        (
            400,
            b'{"error":{"message":"max_tokens is too large","param":"max_tokens"}}',
            400,
            "InvalidParameter",
            "too large",
        ),
        (422, b'{"detail":"bad role"}', 422, "InvalidParameter", "bad role"),
        (400, b'{"error":"plain words"}', 400, "InvalidParameter", "plain words"),
        (404, b'{"message":"no such model"}', 404, "NotFound", "no such model"),
        (500, b"<html>", 500, "InternalServiceError", "500"),
        (418, b"", 418, "InvalidParameter", "418"),
        (429, b'{"error":{"message":"slow down"}}', 429, "ServerOverloaded", "overload"),
        (401, b'{"error":{"message":"bad key sk-secret"}}', 503, "ServiceUnavailable", "model server"),
        (403, b'{"error":{"message":"key sk-secret may not"}}', 503, "ServiceUnavailable", "model server"),
        (400, b'{"error":{"message":"use {id} here","code":7}}', 400, "InvalidParameter", "use"),
    ],
)
def test_a_model_servers_error_is_told_in_arks_shape_and_never_our_credentials(
    status: int, body: bytes, expected_status: int, code: str, words: str
) -> None:
    refusal = errors.from_upstream(status, body)
    text = refusal.body(CALL).decode()
    assert (refusal.status, refusal.code) == (expected_status, code)
    assert words in text
    assert "sk-secret" not in text
