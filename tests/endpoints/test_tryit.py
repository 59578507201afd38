"""Trying an endpoint, against a gateway that the test plays on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.utils import translation

from audit.models import Event
from common.errors import DomainError, NotAllowed, Unavailable
from endpoints import tryit
from endpoints.models import Endpoint
from iam import keys
from iam.actors import Actor
from iam.models import ApiKey
from tests import builders
from tests.builders import NOW
from tests.servers import free_port, wait_until

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_english")]
CHUNK = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'


@dataclass
class Gateway:
    """What the played gateway was asked, and how it answers: `respond(handler)` writes the answer."""

    url: str = ""
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    respond: Callable[[BaseHTTPRequestHandler], None] = lambda _handler: None
    go_on: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)

    def answers(self, status: int, body: object, **headers: str) -> None:
        def respond(handler: BaseHTTPRequestHandler) -> None:
            data = json.dumps(body).encode()
            handler.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **headers,
            }.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(data)

        self.respond = respond

    def refuses(self, status: int, code: str, **headers: str) -> None:
        self.answers(status, {"error": {"code": code, "message": f"said {code}", "type": "", "param": ""}}, **headers)

    def streams(self, *chunks: bytes, is_cut: bool = False, waits: bool = False) -> None:
        def respond(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Type", "text/event-stream")
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            try:
                for chunk in chunks:
                    handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                    handler.wfile.flush()
                if waits:
                    while not self.go_on.wait(0.01):
                        handler.wfile.write(b"3\r\n:\n\n\r\n")
                        handler.wfile.flush()
                if not is_cut:
                    handler.wfile.write(b"0\r\n\r\n")
            except OSError:
                self.left.set()

        self.respond = respond


@pytest.fixture
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture
def gateway(settings: Any) -> Iterator[Gateway]:
    played = Gateway()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            played.asked.append((self.path, self.headers["Authorization"], body))
            played.respond(self)

        def end_headers(self) -> None:
            # Said, not only done: a pooled connection that closes by itself may meet the next request half-way.
            self.send_header("Connection", "close")
            super().end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    played.url = settings.GATEWAY_INTERNAL_URL = f"http://127.0.0.1:{server.server_address[1]}"
    tryit.own_keys.held.clear()
    yield played
    played.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def endpoint() -> Endpoint:
    return builders.endpoint()


@pytest.fixture
def by(endpoint: Endpoint) -> Actor:
    return builders.actor(builders.member(endpoint.project, username="li.wei"))


def all_free() -> bool:
    return tryit.room.free == tryit.SLOTS


def test_the_answer_comes_through_byte_by_byte_with_a_key_for_this_endpoint_alone(
    gateway: Gateway, endpoint: Endpoint, by: Actor
) -> None:
    gateway.streams(CHUNK, b"data: [DONE]\n\n")
    stream = tryit.stream(endpoint=endpoint, prompt=" Hello! ", by=by, now=NOW)
    assert (stream.content_type, stream.status) == ("text/event-stream", 200)
    assert b"".join(stream) == CHUNK + b"data: [DONE]\n\n"
    ((path, authorization, body),) = gateway.asked
    assert (path, body["model"], body["stream"]) == ("/api/v3/chat/completions", endpoint.pk, True)
    assert body["messages"] == [{"role": "user", "content": "Hello!"}]
    assert body["stream_options"] == {"include_usage": True}
    key = ApiKey.objects.get(digest=keys.digest(authorization.removeprefix("Bearer ")))
    assert (key.is_internal, key.expires_at, key.created_by) == (True, NOW + timedelta(minutes=10), by.user)
    assert list(key.scopes.values_list("resource_type", "resource_id")) == [("endpoint", endpoint.pk)]
    assert all_free()


def test_a_preset_endpoint_is_called_with_a_key_for_preset_endpoints(gateway: Gateway) -> None:
    preset = builders.endpoint(kind="preset")
    gateway.answers(200, {"choices": [{"message": {"content": "Hi"}}]})
    tryit.answer(endpoint=preset, prompt="x", by=builders.actor(), now=NOW)
    assert list(ApiKey.objects.get().scopes.values_list("resource_type", "resource_id")) == [
        ("presetendpoint", preset.pk)
    ]


def test_one_person_uses_one_key_per_endpoint_until_it_is_about_to_expire(
    gateway: Gateway, endpoint: Endpoint, by: Actor
) -> None:
    gateway.answers(200, {"choices": [{"message": {"content": "Hi"}}]})
    for seconds in (0, 1, 589, 591):
        tryit.answer(endpoint=endpoint, prompt="x", by=by, now=NOW + timedelta(seconds=seconds))
    assert len({authorization for _path, authorization, _body in gateway.asked}) == 2
    tryit.answer(endpoint=endpoint, prompt="x", by=builders.actor(), now=NOW)
    tryit.answer(endpoint=builders.endpoint(), prompt="x", by=by, now=NOW)
    assert ApiKey.objects.count() == 4
    assert Event.objects.filter(action="ark:GetApiKey", outcome="allowed").count() == 4


def test_the_whole_answer_is_told_with_its_tokens(gateway: Gateway, endpoint: Endpoint, by: Actor) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
    message = {"role": "assistant", "content": "Hi", "reasoning_content": "Hm"}
    gateway.answers(200, {"object": "chat.completion", "choices": [{"message": message}], "usage": usage})
    told = tryit.answer(endpoint=endpoint, prompt="x", by=by, now=NOW)
    assert (told.status, told.text, told.reasoning) == (200, "Hi", "Hm")
    assert (told.input_tokens, told.cached_tokens, told.output_tokens) == (9, 4, 3)
    assert "stream" not in gateway.asked[0][2]


def test_text_is_embedded_by_an_embedding_model(gateway: Gateway) -> None:
    model = builders.foundation_model(domain="embedding")
    endpoint = builders.endpoint(version=builders.model_version(model=model, servers=[builders.model_server()]))
    vector = [float(number) for number in range(16)]
    gateway.answers(200, {"object": "list", "data": [{"embedding": vector}], "usage": {"prompt_tokens": 2}})
    told = tryit.answer(endpoint=endpoint, prompt="x", by=builders.actor(), now=NOW)
    assert (told.vector, told.dimensions, told.input_tokens) == (tuple(vector[:8]), 16, 2)
    stream = tryit.stream(endpoint=endpoint, prompt="x", by=builders.actor(), now=NOW)
    assert stream.content_type == "application/json"
    assert json.loads(b"".join(stream))["data"][0]["embedding"] == vector
    assert gateway.asked[0][0] == "/api/v3/embeddings"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (400, "InvalidEndpoint.ClosedEndpoint", "stopped or still starting"),
        (429, "RateLimitExceeded.EndpointRPMExceeded", "(RPM) of this endpoint are used up. Try again in 7 s."),
        (429, "RateLimitExceeded.EndpointTPMExceeded", "(TPM) of this endpoint are used up. Try again in 7 s."),
        (503, "ServiceUnavailable", "No model server"),
        (422, "SomethingNew", "The gateway refused the call: said SomethingNew"),
    ],
)
def test_a_refusal_is_a_sentence(
    gateway: Gateway, endpoint: Endpoint, by: Actor, status: int, code: str, words: str
) -> None:
    gateway.refuses(status, code, Retry_After="7")
    for ask in (tryit.stream, tryit.answer):
        with pytest.raises(tryit.Refused) as refusal:
            ask(endpoint=endpoint, prompt="x", by=by, now=NOW)
        assert (refusal.value.status, refusal.value.code) == (status, code)
        assert words in str(refusal.value)
    assert all_free()


def test_a_key_that_is_not_taken_is_not_used_again(gateway: Gateway, endpoint: Endpoint, by: Actor) -> None:
    gateway.refuses(401, "AuthenticationError")
    for _ in range(2):
        with pytest.raises(tryit.Refused):
            tryit.answer(endpoint=endpoint, prompt="x", by=by, now=NOW)
    assert len({authorization for _path, authorization, _body in gateway.asked}) == 2


def test_an_answer_that_is_no_answer_is_said_to_be_none(gateway: Gateway, endpoint: Endpoint, by: Actor) -> None:
    for body in ([], {}, {"choices": []}, {"object": "list", "data": [{"embedding": None}]}):
        gateway.answers(200, body)
        with pytest.raises(Unavailable):
            tryit.answer(endpoint=endpoint, prompt="x", by=by, now=NOW)
    gateway.answers(500, "no object")
    with pytest.raises(tryit.Refused):
        tryit.answer(endpoint=endpoint, prompt="x", by=by, now=NOW)
    assert all_free()


def test_a_gateway_that_is_away_is_said_to_be_away(settings: Any, endpoint: Endpoint, by: Actor) -> None:
    settings.GATEWAY_INTERNAL_URL = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match="does not answer"):
        tryit.stream(endpoint=endpoint, prompt="x", by=by, now=NOW)
    assert all_free()


def test_an_answer_that_breaks_off_ends_with_an_error_frame(gateway: Gateway, endpoint: Endpoint, by: Actor) -> None:
    gateway.streams(CHUNK, is_cut=True)
    received = b"".join(tryit.stream(endpoint=endpoint, prompt="x", by=by, now=NOW))
    assert received.startswith(CHUNK)
    frame = received.removeprefix(CHUNK).strip().removeprefix(b"data: ")
    assert json.loads(frame)["error"]["message"] == "The answer broke off before its end."
    assert all_free()


def test_an_answer_that_takes_too_long_is_ended_here(
    gateway: Gateway, endpoint: Endpoint, by: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tryit, "TOTAL_SECONDS", 0.3)
    gateway.streams(CHUNK, waits=True)
    received = b"".join(tryit.stream(endpoint=endpoint, prompt="x", by=by, now=NOW))
    assert b"took longer than" in received
    assert gateway.left.wait(10)
    assert all_free()


def test_a_browser_that_leaves_ends_the_call_at_the_gateway(gateway: Gateway, endpoint: Endpoint, by: Actor) -> None:
    gateway.streams(CHUNK, waits=True)
    stream = tryit.stream(endpoint=endpoint, prompt="x", by=by, now=NOW)
    assert next(stream) == CHUNK
    stream.close()
    stream.close()
    assert gateway.left.wait(10)
    assert list(stream) == []
    assert all_free()


def test_a_process_has_room_for_four_at_once(gateway: Gateway, endpoint: Endpoint, by: Actor) -> None:
    gateway.streams(CHUNK, waits=True)
    streams = [tryit.stream(endpoint=endpoint, prompt="x", by=by, now=NOW) for _ in range(tryit.SLOTS)]
    with pytest.raises(Unavailable, match="Others are trying"):
        tryit.stream(endpoint=endpoint, prompt="x", by=by, now=NOW)
    streams.pop().close()
    streams.append(tryit.stream(endpoint=endpoint, prompt="x", by=by, now=NOW))
    for stream in streams:
        stream.close()
    wait_until(all_free, seconds=5)


@pytest.mark.parametrize("prompt", ["", "  \n", "x" * 20_001])
def test_a_prompt_that_will_not_do_is_refused_before_anything_is_sent(
    gateway: Gateway, endpoint: Endpoint, by: Actor, prompt: str
) -> None:
    with pytest.raises(DomainError) as refusal:
        tryit.stream(endpoint=endpoint, prompt=prompt, by=by, now=NOW)
    assert refusal.value.field == "prompt"
    assert gateway.asked == []


@pytest.mark.parametrize("who", ["reads only", "other project"])
def test_who_may_only_look_may_not_spend_tokens(gateway: Gateway, endpoint: Endpoint, who: str) -> None:
    someone = (
        builders.member(endpoint.project, policy_name="ArkReadOnlyAccess")
        if who == "reads only"
        else builders.member(builders.project("other"))
    )
    with pytest.raises(NotAllowed) as refusal:
        tryit.stream(endpoint=endpoint, prompt="x", by=builders.actor(someone), now=NOW)
    assert refusal.value.action == tryit.ACTION
    assert gateway.asked == []
    assert not ApiKey.objects.exists()
