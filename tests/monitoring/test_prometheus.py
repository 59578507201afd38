from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import redis
from pytest_django import Settings

from monitoring import prometheus
from monitoring.filters import Grid
from monitoring.prometheus import Kind, Trouble
from tests.servers import HeldPort, PrometheusServer, wait_until

GRID = Grid(start=1_700_000_000 // 60 * 60, end=1_700_000_000 // 60 * 60 + 240, step=60)
Answer = Callable[[BaseHTTPRequestHandler], None]


class Stub:
    """Something at the address of Prometheus that answers as a test wants; `asked` are the requests' headers."""

    def __init__(self, answer: Answer) -> None:
        stub = self
        self.asked: list[dict[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                stub.asked.append({name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
                answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def reply(body: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def result(*series: dict[str, object]) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": list(series)}}).encode()


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    prometheus.forget()
    yield
    prometheus.forget()


@pytest.fixture
def at(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Stub]]:
    """Put something at the address of Prometheus; half a second is all that it gets."""
    monkeypatch.setattr(prometheus, "TIMEOUT_SECONDS", 0.5)
    settings.PROMETHEUS_IS_EXTERNAL = True
    stubs: list[Stub] = []

    def make(answer: Answer) -> Stub:
        stubs.append(Stub(answer))
        settings.PROMETHEUS_URL = stubs[-1].url
        return stubs[-1]

    yield make
    for stub in stubs:
        stub.close()


def trouble(query: str = "up") -> Trouble:
    with pytest.raises(Trouble) as caught:
        prometheus.fetch([(query, GRID)])
    return caught.value


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def test_values_are_laid_on_the_times_that_were_asked_for(at: Callable[[Answer], Stub]) -> None:
    first = GRID.start
    pairs = [[first, "1"], [first + 60, "NaN"], [first + 120.0, "2.5"], [first + 180, "+Inf"], [first + 9_999, "7"]]
    at(reply(result({"metric": {"code": "x"}, "values": pairs})))
    (series,) = prometheus.fetch([("up", GRID)])["up", GRID]
    assert series.labels == {"code": "x"}
    assert series.values == [1.0, None, 2.5, None, None]


def test_an_answer_is_remembered_by_query_range_and_step(at: Callable[[Answer], Stub]) -> None:
    stub = at(reply(result()))
    later = Grid(GRID.start + 60, GRID.end + 60, 60)
    for asks in ([("up", GRID), ("up", GRID)], [("up", GRID)], [("up", later)], [("up", GRID), ("down", GRID)]):
        prometheus.fetch(asks)
    assert len(stub.asked) == 3


@pytest.mark.parametrize(
    ("remarks", "gaps"),
    [
        ({"warnings": ["store 10.0.0.7:10901 does not answer", "PromQL info: x"]}, {"store 10.0.0.7:10901 does not answer"}),
        ({"isPartial": True}, {"isPartial"}),
        ({"isPartial": False, "warnings": ["PromQL warning: bucket label is missing"]}, set()),
        ({"warnings": "no list"}, set()),
    ],
)  # fmt: skip
def test_half_an_answer_says_so_also_from_the_cache(
    at: Callable[[Answer], Stub], remarks: dict[str, object], gaps: set[str]
) -> None:
    stub = at(reply(json.dumps(json.loads(result()) | remarks).encode()))
    for _ in range(2):
        said: set[str] = set()
        prometheus.fetch([("up", GRID)], gaps=said)
        assert said == gaps
    assert len(stub.asked) == 1


def test_nobody_listens(settings: Settings) -> None:
    held = HeldPort()
    settings.PROMETHEUS_IS_EXTERNAL, settings.PROMETHEUS_URL = True, f"http://127.0.0.1:{held.release()}"
    with within(2):
        assert trouble().kind == Kind.UNREACHABLE


def test_who_has_not_looked_for_hours_knows_when_it_last_answered(
    at: Callable[[Answer], Stub], fresh_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus._breaker, "answered_at", time.time() - 3 * 3600)
    assert prometheus.last_answer_at() is None  # others may know better, and none has said so
    at(reply(b'{"status":"success","data":{"resultType":"vector","result":[]}}'))
    began = time.time()
    prometheus.watch()
    prometheus.forget()
    assert (prometheus.last_answer_at() or 0) >= began
    noted = prometheus.last_answer_at()
    at(hang_up)
    prometheus.watch()
    assert prometheus.last_answer_at() == noted


def test_a_slow_one_makes_instant_queries_wait_once_as_well(at: Callable[[Answer], Stub]) -> None:
    released = threading.Event()
    stub = at(lambda handler: released.wait(20) and None)
    for query in "abc":
        with pytest.raises(Trouble) as caught:
            prometheus.instant(query, timeout_seconds=0.5)
        assert caught.value.kind == Kind.SLOW
    assert len(stub.asked) == 1
    released.set()


def test_no_answer_costs_the_timeout_once_and_then_nothing_for_a_while(at: Callable[[Answer], Stub]) -> None:
    released = threading.Event()
    stub = at(lambda handler: released.wait(20) and None)
    with within(2):
        assert trouble("a").kind == Kind.SLOW
    with within(2):
        assert [trouble(query).kind for query in "bcdefgh"] == [Kind.SLOW] * 7
    assert len(stub.asked) == 1
    released.set()


@pytest.mark.parametrize("part", ["body", "whole"])
def test_a_trickle_is_no_answer(at: Callable[[Answer], Stub], part: str) -> None:
    ended = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        if part == "body":
            handler.send_response(200)
            handler.send_header("Content-Length", "1000000")
            handler.end_headers()
        while not ended.wait(0.05):
            try:
                handler.wfile.write(b"x")
                handler.wfile.flush()
            except OSError:
                return

    at(drip)
    with within(2):
        assert trouble().kind in (Kind.SLOW, Kind.UNREACHABLE, Kind.GARBAGE)
    ended.set()


def json_error(kind: str, text: str) -> bytes:
    return json.dumps({"status": "error", "errorType": kind, "error": text}).encode()


@pytest.mark.parametrize(
    ("answer", "kind", "detail"),
    [
        (reply(b"<html>hello</html>"), Kind.GARBAGE, ""),
        (reply(b""), Kind.GARBAGE, ""),
        (reply(b'{"status":"success"}'), Kind.GARBAGE, ""),
        (reply(b"[]"), Kind.GARBAGE, ""),
        (reply(b'{"data":{"result":{}}}'), Kind.GARBAGE, ""),
        (reply(b'{"data":{"result":[{"metric":{}}]}}'), Kind.GARBAGE, ""),
        (reply(b'{"data":{"result":[{"metric":{},"values":[[1,"x"]]}]}}'), Kind.GARBAGE, ""),
        (reply(b'{"data":{"result":["x"]}}'), Kind.GARBAGE, ""),
        (reply(b"[" * 100_000), Kind.GARBAGE, ""),
        (reply(b"not gzip", **{"Content-Encoding": "gzip"}), Kind.GARBAGE, ""),
        (reply(b"no", 401), Kind.UNAUTHORIZED, "401"),
        (reply(b"no", 403), Kind.UNAUTHORIZED, "403"),
        (reply(b"oops", 502), Kind.ERROR, "HTTP 502"),
        (reply(b"", 302, Location="/login"), Kind.ERROR, ""),
        (reply(json_error("bad_data", "parse error"), 400), Kind.ERROR, "parse error"),
        (reply(json_error("timeout", "query timed out"), 503), Kind.SLOW, "query timed out"),
        (
            reply(json_error("execution", "query processing would load too many samples into memory"), 422),
            Kind.TOO_MUCH,
            "too many samples",
        ),
        (reply(result(*[{"metric": {"a": str(n)}, "values": []} for n in range(5_000)])), Kind.TOO_MUCH, "5000"),
        (reply(b" " * (prometheus.MAX_BYTES + 1)), Kind.TOO_MUCH, "MB"),
        (hang_up, Kind.UNREACHABLE, ""),
    ],
)  # fmt: skip
def test_whatever_else_is_said_has_a_word(
    at: Callable[[Answer], Stub], monkeypatch: pytest.MonkeyPatch, answer: Answer, kind: Kind, detail: str
) -> None:
    at(answer)
    monkeypatch.setattr(prometheus, "TIMEOUT_SECONDS", 20.0)
    found = trouble()
    assert found.kind == kind
    assert detail in found.detail


def test_trouble_tells_neither_address_nor_password(at: Callable[[Answer], Stub], settings: Settings) -> None:
    settings.PROMETHEUS_USERNAME, settings.PROMETHEUS_PASSWORD = "console", "hunter2"
    at(hang_up)
    assert "hunter2" not in str(trouble())
    assert "127.0.0.1" not in str(trouble())


def test_credentials_and_headers_go_along(at: Callable[[Answer], Stub], settings: Settings) -> None:
    stub = at(reply(result()))
    settings.PROMETHEUS_TOKEN, settings.PROMETHEUS_HEADERS = "secret-token", {"X-Scope-OrgID": "team"}
    prometheus.fetch([("a", GRID)])
    settings.PROMETHEUS_TOKEN = ""
    settings.PROMETHEUS_USERNAME, settings.PROMETHEUS_PASSWORD = "console", "hunter2"
    prometheus.fetch([("b", GRID)])
    token, password = stub.asked
    assert token["authorization"] == "Bearer secret-token"
    assert token["x-scope-orgid"] == "team"
    assert password["authorization"].startswith("Basic ")


def test_a_refusal_of_one_query_leaves_the_breaker_alone(at: Callable[[Answer], Stub]) -> None:
    stub = at(reply(json_error("bad_data", "no"), 400))
    assert trouble("a").kind == Kind.ERROR
    assert trouble("b").kind == Kind.ERROR
    assert len(stub.asked) == 2


def test_at_most_four_wait_for_prometheus_and_others_are_told_at_once(
    at: Callable[[Answer], Stub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "TIMEOUT_SECONDS", 20.0)
    released = threading.Event()

    def hold(handler: BaseHTTPRequestHandler) -> None:
        released.wait(20)
        reply(result())(handler)

    stub = at(hold)
    with ThreadPoolExecutor(prometheus.SLOTS) as pool:
        waiting = [pool.submit(prometheus.fetch, [(f"q{n}", GRID)]) for n in range(prometheus.SLOTS)]
        wait_until(lambda: len(stub.asked) == prometheus.SLOTS, seconds=10)
        with within(2):
            assert trouble("one more").kind == Kind.BUSY
        released.set()
        for one in waiting:
            one.result()
    assert prometheus.fetch([("one more", GRID)])


def test_a_prometheus_that_hangs_and_comes_back(
    prometheus: PrometheusServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monitoring import prometheus as door

    settings.PROMETHEUS_IS_EXTERNAL, settings.PROMETHEUS_URL = True, prometheus.url
    monkeypatch.setattr(door, "TIMEOUT_SECONDS", 0.5)
    prometheus.pause()
    try:
        with within(2):
            assert trouble("vector(1)").kind == Kind.SLOW
    finally:
        prometheus.resume()
    door.forget()
    monkeypatch.setattr(door, "TIMEOUT_SECONDS", 15.0)
    assert door.fetch([("vector(1)", GRID)])["vector(1)", GRID][0].values == [1.0] * 5
    assert door.last_answer_at()


def test_an_instant_query_answers_with_labels_and_value(prometheus: PrometheusServer, settings: Settings) -> None:
    from monitoring import prometheus as door

    settings.PROMETHEUS_IS_EXTERNAL, settings.PROMETHEUS_URL = True, prometheus.url
    (sample,) = door.instant('label_replace(vector(7), "a", "b", "", "")')
    assert (sample.labels, sample.value) == ({"a": "b"}, 7.0)
    with pytest.raises(Trouble) as caught:
        door.instant("(")
    assert caught.value.kind == Kind.ERROR
