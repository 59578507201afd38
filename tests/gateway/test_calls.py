"""Calls through the real gateway process, a real Redis and a scripted model server."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from metering.events import Outcome, UsageEvent
from tests.gateway.harness import KEY, GatewayProcess, Ledger, Site
from tests.gateway.scripted import ScriptedUpstream, Seen
from tests.servers import wait_until

NewEndpoint = Callable[..., str]


def refused(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "param", "type"}
    assert answer.headers["x-request-id"] in error["message"]
    return answer.status_code, error["code"], error["type"]


def events_of(answer: httpx.Response) -> list[dict[str, object]]:
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_call_is_answered_and_metered(
    gateway: GatewayProcess, upstream: ScriptedUpstream, ledger: Ledger, new_endpoint: NewEndpoint
) -> None:
    endpoint = new_endpoint()
    usage = {"prompt_tokens": 12, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}
    answer = gateway.chat(
        endpoint, temperature=0.5, headers={"X-Client-Request-Id": "mine-1"}, x_script={"usage": usage}
    )

    assert answer.status_code == 200
    assert answer.json()["model"] == "demo-fast-251001"
    assert answer.json()["x_extra"] == {"a": [1]}
    assert answer.headers["x-client-request-id"] == "mine-1"
    assert re.fullmatch(r"02\d{13}[0-9a-f]{36}", answer.headers["x-request-id"])

    [event] = ledger.wait_for(endpoint)
    assert isinstance(event, UsageEvent)
    assert (event.outcome, event.status, event.code) == (Outcome.SUCCESS, 200, "Success")
    assert (event.input_tokens, event.cached_tokens, event.output_tokens, event.is_estimated) == (12, 4, 7, False)
    assert event.call_id == answer.headers["x-request-id"]
    assert event.request_id == "mine-1"
    assert (event.model_id, event.server_id, event.key_id, event.api) == ("demo-fast-251001", 1, 1, "chat")
    assert event.parameters == ["messages", "temperature", "x_script"]
    assert abs(event.at - time.time() * 1000) < 30_000

    [seen] = upstream.seen
    assert seen.headers["x-request-id"] == event.call_id
    assert seen.headers["authorization"] == "Bearer sk-1"
    assert seen.path == "/v1/chat/completions"


def test_only_what_must_change_changes_on_the_way_up(
    gateway: GatewayProcess, upstream: ScriptedUpstream, new_endpoint: NewEndpoint
) -> None:
    body = (
        '{"messages":[{"role":"assistant","content":null},{"role":"user","content":"你好"}],"model":"%s","logit_bias":null,'
        '"stream":null,"thinking":{"type":"disabled"},"x_future":[1.50,{"k":null}]}'
    )
    gateway.client.post("/api/v3/chat/completions", content=(body % new_endpoint()).encode())
    assert upstream.seen[-1].raw.decode() == (
        '{"messages":[{"role":"assistant","content":null},{"role":"user","content":"你好"}],"model":"up-model",'
        '"thinking":{"type":"disabled"},"x_future":[1.50,{"k":null}]}'
    )


def test_a_stream_is_handed_on_with_our_model_name_and_without_the_usage_that_nobody_asked_for(
    gateway: GatewayProcess, upstream: ScriptedUpstream, ledger: Ledger, new_endpoint: NewEndpoint
) -> None:
    endpoint = new_endpoint()
    answer = gateway.chat(endpoint, stream=True, x_script={"chunks": 4, "split": 11})
    chunks = events_of(answer)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert {chunk["model"] for chunk in chunks} == {"demo-fast-251001"}
    assert len(chunks) == 5
    assert not any("usage" in chunk for chunk in chunks)
    assert upstream.seen[-1].body["stream_options"] == {"include_usage": True}
    [event] = ledger.wait_for(endpoint)
    assert (event.is_stream, event.input_tokens, event.output_tokens, event.is_estimated) == (True, 10, 5, False)
    assert event.first_token_ms is not None


def test_a_caller_who_asks_for_the_usage_gets_it(gateway: GatewayProcess, new_endpoint: NewEndpoint) -> None:
    answer = gateway.chat(new_endpoint(), stream=True, stream_options={"include_usage": True})
    last = events_of(answer)[-1]
    assert (last["choices"], last["usage"]) == ([], {"prompt_tokens": 10, "completion_tokens": 5})


def test_a_stream_without_usage_is_metered_by_what_came(
    gateway: GatewayProcess, ledger: Ledger, new_endpoint: NewEndpoint
) -> None:
    endpoint = new_endpoint()
    gateway.chat(endpoint, stream=True, x_script={"chunks": 6, "usage": None})
    [event] = ledger.wait_for(endpoint)
    assert event.is_estimated
    assert 5 <= event.output_tokens <= 8
    assert event.input_tokens > 0


def test_embeddings_are_served_by_embedding_models_alone(
    gateway: GatewayProcess, ledger: Ledger, new_endpoint: NewEndpoint
) -> None:
    endpoint = new_endpoint(version=2)
    answer = gateway.client.post("/api/v3/embeddings", json={"model": endpoint, "input": ["a"], "user": None})
    assert answer.json()["model"] == "demo-embed-1"
    [event] = ledger.wait_for(endpoint)
    assert (event.api, event.input_tokens, event.output_tokens) == ("embeddings", 7, 0)
    assert refused(gateway.chat(endpoint)) == (400, "InvalidParameter", "BadRequest")


def test_a_model_id_makes_the_preset_endpoint_appear_once(gateway: GatewayProcess, ledger: Ledger, site: Site) -> None:
    key = site.add_key("key-of-team-a", project="team-a")
    threads = [threading.Thread(target=gateway.chat, args=("demo-fast-251001",), kwargs={"key": key}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = ledger.wait_for("ep-m-team-a-1", 8)
    assert {event.project_id for event in found} == {"team-a"}
    made = [row for row in json.loads(site.path.read_text())["endpoints"] if row.get("project") == "team-a"]
    site.data["endpoints"] += made  # the gateway wrote the file; the next save must not lose it
    assert len(made) == 1


def test_models_lists_what_the_key_may_call(gateway: GatewayProcess, site: Site, new_endpoint: NewEndpoint) -> None:
    endpoint = new_endpoint()
    scoped = site.add_key("key-for-the-list", scopes=[["endpoint", endpoint], ["model", "demo-embed-1"]])
    gateway.chat(endpoint, key=scoped)

    def ids(key: str) -> list[str]:
        answer = gateway.client.get("/api/v3/models", headers={"Authorization": f"Bearer {key}"})
        assert answer.json()["object"] == "list"
        return [row["id"] for row in answer.json()["data"]]

    assert ids(scoped) == ["demo-embed-1", endpoint]
    assert gateway.client.get("/api/v3/models", headers={"Authorization": "Bearer no"}).status_code == 401


@pytest.mark.parametrize("authorization", ["", "Bearer nobody", "Basic abc"])
def test_an_unknown_caller_gets_401(gateway: GatewayProcess, authorization: str) -> None:
    answer = gateway.client.post("/api/v3/chat/completions", json={}, headers={"Authorization": authorization})
    assert refused(answer) == (401, "AuthenticationError", "Unauthorized")


def test_disabled_and_expired_keys_and_foreign_addresses_are_refused(gateway: GatewayProcess, site: Site) -> None:
    assert gateway.chat(key=site.add_key("off", is_enabled=False)).status_code == 401
    assert gateway.chat(key=site.add_key("old", expires_at=time.time() - 1)).status_code == 401
    narrow = site.add_key("narrow", allowed_ips=["198.51.100.0/24"])
    assert refused(gateway.chat(key=narrow)) == (403, "AccessDenied", "Forbidden")
    # The test's own address is a trusted proxy here.
    assert gateway.chat(key=narrow, headers={"X-Forwarded-For": "198.51.100.9"}).status_code == 200


def test_a_changed_key_is_obeyed_within_a_second_or_two(gateway: GatewayProcess, site: Site) -> None:
    key = site.add_key("short-lived")
    assert gateway.chat(key=key).status_code == 200
    row = site.data["keys"][-1]
    row["is_enabled"] = False
    site.save(("key", str(row["id"])))
    wait_until(lambda: gateway.chat(key=key).status_code == 401, seconds=10)


def test_a_key_out_of_scope_is_refused_and_metered(
    gateway: GatewayProcess, ledger: Ledger, site: Site, new_endpoint: NewEndpoint
) -> None:
    endpoint = new_endpoint()
    key = site.add_key("scoped-elsewhere", scopes=[["endpoint", "ep-other"]])
    assert refused(gateway.chat(endpoint, key=key)) == (403, "AccessDenied", "Forbidden")
    [event] = ledger.wait_for(endpoint)
    assert (event.outcome, event.status, event.code) == (Outcome.REFUSED, 403, "AccessDenied")
    assert refused(gateway.chat("demo-fast-251001", key=key))[0] == 403


def test_unknown_and_foreign_endpoints_look_the_same(
    gateway: GatewayProcess, site: Site, new_endpoint: NewEndpoint
) -> None:
    foreign = new_endpoint(project="another")
    expected = (404, "InvalidEndpointOrModel.NotFound", "NotFound")
    assert refused(gateway.chat("ep-nothing")) == expected
    assert refused(gateway.chat(foreign)) == expected
    assert refused(gateway.chat("no-such-model-1")) == expected
    for strange in ("ep-\x00", "ep-模型", "ep-" + "x" * 5000, "a\x00b", "模型"):
        assert refused(gateway.chat(strange)) == expected


@pytest.mark.parametrize("status", ["Stopped", "Scheduling"])
def test_closed_endpoints_say_so(
    gateway: GatewayProcess, ledger: Ledger, new_endpoint: NewEndpoint, status: str
) -> None:
    endpoint = new_endpoint(status=status)
    assert refused(gateway.chat(endpoint)) == (400, "InvalidEndpoint.ClosedEndpoint", "BadRequest")
    [event] = ledger.wait_for(endpoint)
    assert event.outcome is Outcome.REFUSED


def test_abnormal_endpoints_are_forwarded_and_those_without_a_server_answer_503(
    gateway: GatewayProcess, new_endpoint: NewEndpoint
) -> None:
    assert gateway.chat(new_endpoint(status="Abnormal")).status_code == 200
    assert refused(gateway.chat(new_endpoint(version=3)))[0] == 503


def test_a_stopped_endpoint_is_closed_within_a_second_or_two(
    gateway: GatewayProcess, site: Site, new_endpoint: NewEndpoint
) -> None:
    endpoint = new_endpoint()
    assert gateway.chat(endpoint).status_code == 200
    site.data["endpoints"][-1]["status"] = "Stopped"
    site.save(("endpoint", endpoint))
    wait_until(lambda: gateway.chat(endpoint).status_code == 400, seconds=10)


def test_over_rpm_and_tpm_the_caller_hears_which_and_when_to_come_back(
    gateway: GatewayProcess, ledger: Ledger, new_endpoint: NewEndpoint
) -> None:
    by_calls, by_tokens = new_endpoint(rpm=2), new_endpoint(tpm=150)
    assert [gateway.chat(by_calls).status_code for _ in range(3)] == [200, 200, 429]
    answer = gateway.chat(by_calls)
    assert refused(answer) == (429, "RateLimitExceeded.EndpointRPMExceeded", "TooManyRequests")
    assert 55 <= int(answer.headers["retry-after"]) <= 61

    slow = threading.Thread(target=gateway.chat, args=(by_tokens,), kwargs={"x_script": {"delay_ms": 400}})
    slow.start()
    wait_until(lambda: gateway.chat(by_tokens, max_tokens=140).status_code == 429)
    answer = gateway.chat(by_tokens, max_tokens=140)
    assert refused(answer) == (429, "RateLimitExceeded.EndpointTPMExceeded", "TooManyRequests")
    slow.join()
    ledger.wait_for(by_tokens, 3)
    # Settled: 15 tokens of the 100 that were reserved were used.
    assert gateway.chat(by_tokens, max_tokens=110).status_code == 200
    assert [(e.limit, e.status) for e in ledger.wait_for(by_calls, 4) if e.outcome is Outcome.REJECTED] == [
        ("rpm", 429)
    ] * 2


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"not json", (400, "InvalidParameter", "BadRequest")),
        (b"[]", (400, "InvalidParameter", "BadRequest")),
        (b"{}", (400, "MissingParameter", "BadRequest")),
        (b'{"model":"ep-1"}', (400, "MissingParameter", "BadRequest")),
        (b'{"model":"ep-1","messages":{}}', (400, "InvalidParameter", "BadRequest")),
        (b'{"model":"ep-1","messages":[{}],"stream":1}', (400, "InvalidParameter", "BadRequest")),
        (
            b'{"model":"ep-1","messages":"' + b"x" * 120_000 + b'"}',
            (413, "InvalidParameter.BodyTooLarge", "BadRequest"),
        ),
    ],
)
def test_bodies_that_cannot_be_used_are_refused(
    gateway: GatewayProcess, body: bytes, expected: tuple[int, str, str]
) -> None:
    assert refused(gateway.client.post("/api/v3/chat/completions", content=body)) == expected


def test_a_body_of_unknown_length_is_not_read_beyond_the_limit(gateway: GatewayProcess) -> None:
    pieces = (b"x" * 50_000 for _ in range(4))
    answer = gateway.client.post("/api/v3/chat/completions", content=pieces)
    assert refused(answer)[0] == 413
    assert answer.headers["connection"] == "close"


def test_a_body_that_arrives_slowly_is_read_whole(gateway: GatewayProcess, new_endpoint: NewEndpoint) -> None:
    body = json.dumps({"model": new_endpoint(), "messages": [{}]}).encode()

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 20):
            # Longer than the time after which a caller's leaving is watched for: the watcher must not take the body.
            time.sleep(0.06)
            yield body[start : start + 20]

    answer = gateway.client.post("/api/v3/chat/completions", content=pieces())
    assert answer.status_code == 200


def test_a_body_that_came_while_the_key_was_looked_up_is_not_lost(
    gateway: GatewayProcess, site: Site, new_endpoint: NewEndpoint
) -> None:
    # Longer than the time after which a caller's leaving is watched for: the watcher must not take the body.
    token = site.add_key("slow-key", lookup_seconds=0.2)
    answer = gateway.client.post(
        "/api/v3/chat/completions",
        json={"model": new_endpoint(), "messages": [{}]},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 200


def test_a_body_that_never_ends_is_given_up(gateway: GatewayProcess) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.sendall(
            b"POST /api/v3/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
            b"Authorization: Bearer test-key-of-the-default-project\r\n\r\n{"
        )
        raw.settimeout(30)
        assert raw.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_paths_and_methods_that_are_not_ours(gateway: GatewayProcess) -> None:
    assert refused(gateway.client.get("/api/v3/chat/completions"))[0] == 405
    assert refused(gateway.client.post("/v1/chat/completions", json={}))[0] == 404
    assert gateway.client.get("/healthz").json() == {"status": "alive"}
    assert gateway.client.get("/readyz").json() == {"status": "ready", "degraded": []}


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"status": 400, "answer": {"error": {"message": "bad max_tokens"}}}, (400, "InvalidParameter")),
        ({"status": 429, "answer": {"error": {"message": "slow"}}}, (429, "ServerOverloaded")),
        ({"status": 401, "answer": {"error": {"message": "Incorrect key sk-1"}}}, (503, "ServiceUnavailable")),
        ({"status": 500, "answer": {"error": {"message": "CUDA"}}}, (500, "InternalServiceError")),
        ({"status": 503, "answer": {}}, (503, "InternalServiceError")),
        ({"status": 302, "answer": {}}, (502, "InternalServiceError")),
        ({"answer": ["not", "an", "object"]}, (502, "InternalServiceError")),
        ({"cut_after": 30}, (502, "InternalServiceError")),
    ],
)
def test_what_the_model_server_answers_wrongly_is_told_in_arks_words_and_metered(
    gateway: GatewayProcess,
    ledger: Ledger,
    new_endpoint: NewEndpoint,
    script: dict[str, object],
    expected: tuple[int, str],
) -> None:
    endpoint = new_endpoint()
    answer = gateway.chat(endpoint, x_script=script)
    assert refused(answer)[:2] == expected
    assert "sk-1" not in answer.text
    [event] = ledger.wait_for(endpoint)
    assert (event.outcome, event.status, event.output_tokens) == (Outcome.UPSTREAM_ERROR, expected[0], 0)


def test_a_stream_that_breaks_ends_with_an_error_frame_and_what_was_produced_is_metered(
    gateway: GatewayProcess, ledger: Ledger, upstream: ScriptedUpstream, new_endpoint: NewEndpoint
) -> None:
    endpoint = new_endpoint()
    answer = gateway.chat(endpoint, stream=True, x_script={"chunks": 10, "cut_after": 4})
    frames = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert answer.status_code == 200
    assert [("error" in frame) for frame in frames] == [False] * 4 + [True]
    assert frames[-1]["error"]["code"] == "InternalServiceError"
    [event] = ledger.wait_for(endpoint)
    assert (event.outcome, event.is_estimated, event.output_tokens) == (Outcome.CUT, True, 3)
    assert len(upstream.seen) == 1


def test_a_stream_in_which_the_server_says_that_it_failed_is_no_success(
    gateway: GatewayProcess, ledger: Ledger, new_endpoint: NewEndpoint
) -> None:
    endpoint = new_endpoint()
    answer = gateway.chat(endpoint, stream=True, x_script={"chunks": 9, "error_after": 3, "usage": None})
    assert answer.text.count('"error"') == 1
    [event] = ledger.wait_for(endpoint)
    assert (event.outcome, event.code) == (Outcome.CUT, "InternalServiceError")


def test_a_stream_that_ends_with_its_connection_is_whole_only_with_done(
    gateway: GatewayProcess, ledger: Ledger, new_endpoint: NewEndpoint
) -> None:
    whole, cut = new_endpoint(), new_endpoint()
    assert "[DONE]" in gateway.chat(whole, stream=True, x_script={"is_framed": False}).text
    assert '"error"' in gateway.chat(cut, stream=True, x_script={"is_framed": False, "says_done": False}).text
    assert [e.outcome for e in (*ledger.wait_for(whole), *ledger.wait_for(cut))] == [Outcome.SUCCESS, Outcome.CUT]


@pytest.mark.parametrize("leaves", ["before the answer", "in the middle of a stream"])
def test_a_caller_who_leaves_stops_the_model_server_within_100_ms_and_is_metered(
    gateway: GatewayProcess, ledger: Ledger, upstream: ScriptedUpstream, new_endpoint: NewEndpoint, leaves: str
) -> None:
    endpoint = new_endpoint()
    is_stream = leaves == "in the middle of a stream"
    script = {"chunks": 500, "every_ms": 20} if is_stream else {"never": True}
    body = {"model": endpoint, "messages": [{}], "stream": is_stream, "x_script": script}
    took: list[float] = []
    # The machine may be busy with other things in that very moment, so the best of a few counts.
    while len(took) < 5 and min(took, default=1.0) >= 0.1:
        upstream.seen.clear()
        left_at = leave(gateway, upstream, body, after_lines=20 if is_stream else 0)
        seen = ended(upstream)
        assert seen.is_cut
        assert seen.ended_at is not None
        took.append(seen.ended_at - left_at)
    assert min(took) < 0.1
    event = max(ledger.wait_for(endpoint, len(took)), key=lambda found: found.at)
    assert (event.outcome, event.status, event.code) == (Outcome.CLIENT_CLOSED, 499, "ClientClosed")
    assert event.is_estimated
    assert max(seen.sent_chunks - 3, 0) <= event.output_tokens <= seen.sent_chunks


def leave(gateway: GatewayProcess, upstream: ScriptedUpstream, body: dict[str, object], *, after_lines: int) -> float:
    """Begin a call and close the connection after so many lines of the answer, or while waiting for it; return when."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    headers = {"Authorization": f"Bearer {KEY}"}
    connection.request("POST", "/api/v3/chat/completions", json.dumps(body), headers)
    if after_lines:
        answer = connection.getresponse()
        for _ in range(after_lines):
            answer.readline()
        left_at = time.monotonic()
        answer.close()
    else:
        wait_until(lambda: upstream.seen)
        time.sleep(0.3)  # both wait by now
        left_at = time.monotonic()
    connection.close()
    return left_at


def ended(upstream: ScriptedUpstream) -> Seen:
    def last() -> Seen | None:
        return upstream.seen[-1] if upstream.seen and upstream.seen[-1].ended_at else None

    found = wait_until(last, what="the model server saw the end")
    assert isinstance(found, Seen)
    return found


def test_a_caller_who_reads_slowly_slows_the_model_server_and_loses_nothing(
    gateway: GatewayProcess, upstream: ScriptedUpstream, new_endpoint: NewEndpoint
) -> None:
    body = {
        "model": new_endpoint(),
        "messages": [{}],
        "stream": True,
        "x_script": {"chunks": 600, "chunk_bytes": 60_000},
    }
    payload = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        raw.sendall(
            b"POST /api/v3/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Authorization: Bearer test-key-of-the-default-project\r\nContent-Length: %d\r\n\r\n%s"
            % (len(payload), payload)
        )
        wait_until(lambda: upstream.seen and upstream.seen[-1].sent_bytes > 1_000_000)
        sent = -1
        while upstream.seen[-1].sent_bytes != sent:
            sent = upstream.seen[-1].sent_bytes
            time.sleep(0.2)
        assert sent < 25_000_000
        assert upstream.seen[-1].ended_at is None
        size = 0
        tail = b""
        while piece := raw.recv(1_000_000):
            size += len(piece)
            tail = (tail + piece)[-200:]
    assert size > 600 * 60_000
    assert b"[DONE]" in tail


def test_nothing_of_a_call_is_ever_logged(gateway: GatewayProcess, new_endpoint: NewEndpoint) -> None:
    secret = "the-quick-brown-fox"
    gateway.chat(
        new_endpoint(), messages_note=secret, x_script={"status": 500, "answer": {"error": {"message": secret}}}
    )
    gateway.chat(new_endpoint(), stream=True, user=secret, x_script={"cut_after": 1, "text": secret})
    assert secret not in gateway.log
    assert "sk-1" not in gateway.log
    assert "test-key-of" not in gateway.log
