from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable

import httpx
import pytest
import redis
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from gateway import errors
from gateway.exposition import Exposition, address, is_near, render
from gateway.forward import count_call
from gateway.metrics import (
    EXPECTED_MAX,
    HOLD_SECONDS,
    IDLE_SECONDS,
    OTHERS_MAX,
    PER_TOKEN_BUCKETS,
    SETS_MAX,
    Labels,
    Metrics,
    expected,
    labels_of,
    status_name,
)
from gateway.record import CallFacts
from gateway.routes import Reader, RouteTable, SwitchRoute
from tests.gateway.harness import GatewayProcess, Site
from tests.gateway.scripted import ScriptedUpstream
from tests.gateway.test_routes import FakeSource, endpoint, server, version
from tests.servers import RedisServer, wait_until

LABELS = ("default", "ep-1", "chat", "demo-fast", "demo-fast-251001")
REQUESTS = "ark_api_proxy_request_total"
IN_FLIGHT = "ark_gateway_requests_in_flight"
EMBEDDINGS = ("default", "ep-2", "embeddings", "demo-embed", "demo-embed-1")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def pieces_of(metrics: Metrics) -> list[bytes]:
    return [piece async for piece in render(metrics)]


def exposed(metrics: Metrics, *, only: str = "") -> str:
    """The text; of one metric alone where there is too much for the parser."""
    text = b"".join(asyncio.run(pieces_of(metrics))).decode()
    return "".join(line for line in text.splitlines(keepends=True) if not only or only in line)


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(text: str, **labels: str) -> dict[str, float]:
    """Values by name and the labels that tell an endpoint's series apart."""
    names = ("code", "http_status_code", "le", "is_first", "stream", "result")
    return {
        sample.name + "".join(f" {name}={sample.labels[name]}" for name in names if name in sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if labels.items() <= sample.labels.items()
    }


def endpoints(text: str) -> set[str]:
    return {
        sample.labels["ark_endpoint"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "ark_endpoint" in sample.labels
    }


def number(count: int) -> Labels:
    return ("default", f"ep-{count}", "chat", "m", "m-1")


# --- through a real worker --------------------------------------------------------------------------------------------


def worker_info(client: redis.Redis, gateway: GatewayProcess) -> dict[str, object]:
    def find() -> dict[str, object] | None:
        for name in client.smembers("ark:workers"):
            found = client.get("ark:worker:" + name.decode())
            if found and json.loads(found)["pid"] == gateway.pid:
                return dict(json.loads(found))
        return None

    info = wait_until(find)
    assert isinstance(info, dict)
    return info


def scrape(info: dict[str, object], **headers: str) -> httpx.Response:
    return httpx.get(f"http://{info['metrics']}/metrics", trust_env=False, headers=headers)


def test_a_worker_exposes_arks_names_on_a_port_of_its_own(
    gateway: GatewayProcess, gateway_redis_client: redis.Redis, new_endpoint: object
) -> None:
    endpoint_id = new_endpoint(rpm=3)  # type: ignore[operator]
    info = worker_info(gateway_redis_client, gateway)
    usage = {
        "prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }  # fmt: skip
    gateway.chat(endpoint_id, x_script={"usage": usage})
    gateway.chat(endpoint_id, stream=True, x_script={"usage": usage})
    gateway.chat(endpoint_id, x_script={"status": 400, "answer": {}})
    gateway.chat(endpoint_id)

    first = samples(scrape(info).text, ark_endpoint=endpoint_id)
    assert set(first.values()) == {0}, "the first scrape shows where it starts from"
    assert "ark_api_proxy_request_total code=RateLimitExceeded.EndpointRPMExceeded http_status_code=429" in first

    text = scrape(info).text
    found = samples(text, ark_endpoint=endpoint_id)
    assert found["ark_api_proxy_request_total code=Success http_status_code=200"] == 2
    assert found["ark_api_proxy_request_total code=InvalidParameter http_status_code=400"] == 1
    assert found["ark_api_proxy_request_total code=RateLimitExceeded.EndpointRPMExceeded http_status_code=429"] == 1
    assert found["ark_api_proxy_request_token_count_sum"] == 20
    assert found["ark_api_proxy_request_token_count_count"] == 2
    assert found["ark_api_proxy_response_token_count_sum"] == 10
    assert found["ark_api_proxy_cached_token_count_sum"] == 8
    assert found["ark_api_proxy_reasoning_token_count_sum"] == 4
    assert found["ark_api_proxy_stream_per_token_duration_seconds_count is_first=true"] == 1
    assert found["ark_api_proxy_stream_per_token_duration_seconds_count is_first=false"] == 1
    assert found["ark_api_proxy_request_duration_seconds_bucket le=+Inf stream=false"] == 1
    assert found["ark_api_proxy_request_duration_seconds_bucket le=+Inf stream=true"] == 1
    assert found["ark_gateway_cache_requests_total result=hit"] == 2
    assert found["ark_gateway_cache_requests_total result=miss"] == 0
    assert found["ark_gateway_requests_in_flight"] == 0
    own = samples(text)
    assert own["ark_gateway_redis_connected"] == 1
    assert own["ark_gateway_label_sets"] >= 1
    assert own["process_resident_memory_bytes"] > 0
    assert samples(text, worker=str(info["id"])) == {"ark_gateway_worker_info": 1}
    assert httpx.get(f"http://{info['metrics']}/other", trust_env=False).status_code == 404


def test_only_the_bearer_of_the_token_reads_metrics_and_others_are_told_where_they_are(
    site: Site, upstream: ScriptedUpstream, gateway_redis: RedisServer, gateway_redis_client: redis.Redis, tmp_path: object
) -> None:  # fmt: skip
    token = "a-token-for-the-metrics"
    process = GatewayProcess(
        site, gateway_redis.url, tmp_path, metrics_advertise="fd00::5", metrics_token=token,  # type: ignore[arg-type]
    )  # fmt: skip
    try:
        info = worker_info(gateway_redis_client, process.start())
        told, _, port = str(info["metrics"]).rpartition(":")
        assert told == "[fd00::5]"
        info["metrics"] = f"127.0.0.1:{port}"
        refused = [scrape(info), scrape(info, Authorization="Bearer no"), scrape(info, Authorization=f"Basic {token}")]
        assert [(answer.status_code, answer.headers["www-authenticate"]) for answer in refused] == [(401, "Bearer")] * 3
        assert "default" not in "".join(answer.text for answer in refused)
        answer = scrape(info, Authorization=f"Bearer {token}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        # The site's endpoints are there before any call.
        assert "ep-1" in endpoints(answer.text)
    finally:
        process.stop()


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_series_of_healthy_endpoints_start_at_zero_both_versions_of_a_switch_included() -> None:
    source = FakeSource()
    source.known_versions = [version(1, server(1)), version(2, server(1))]
    source.rows = {
        "ep-1": endpoint("ep-1"),
        "ep-2": endpoint("ep-2", switch=SwitchRoute(id=7, soak=0, weight=10, target_version_id=2)),
        "ep-3": endpoint("ep-3", status="Stopped"),
        "ep-4": endpoint("ep-4", version_id=9),
    }

    async def load() -> str:
        routes = RouteTable(source, Reader())
        task = asyncio.ensure_future(routes.run())
        while not routes.is_ready:
            await asyncio.sleep(0)
        task.cancel()
        return b"".join(await pieces_of(Metrics(expected=lambda: expected(routes)))).decode()

    text = asyncio.run(load())
    found = {
        (sample.labels["ark_endpoint"], sample.labels["ark_model"], sample.value)
        for sample in families(text)["ark_api_proxy_request"].samples
    }
    assert found == {("ep-1", "m-1", 0), ("ep-2", "m-1", 0), ("ep-2", "m-2", 0)}
    codes = {sample.labels["code"] for sample in families(text)["ark_api_proxy_request"].samples}
    assert {"Success", "RateLimitExceeded.EndpointRPMExceeded", "ServiceUnavailable"} <= codes
    assert samples(text, ark_endpoint="ep-1")["ark_api_proxy_request_duration_seconds_bucket le=0.1 stream=true"] == 0


@pytest.mark.parametrize("bucket", range(len(PER_TOKEN_BUCKETS)))
def test_a_token_of_just_a_bucket_s_bound_is_in_that_bucket(bucket: int) -> None:
    """Whenever the first one came, and however many did: 0.320 - 0.030 is a little more than 0.29."""
    series = Metrics(Clock()).series(LABELS)
    milliseconds = round(PER_TOKEN_BUCKETS[bucket] * 1000)
    for first, further in itertools.product(range(1, 60), range(1, 40)):
        facts = CallFacts(
            "1", 0, "success", 200, "Success", first + further * milliseconds, first, True, 1, 0, further + 1
        )  # fmt: skip
        count_call(facts, series)
    assert series.per_token.counts[bucket] == 59 * 39


def test_the_first_scrape_of_what_is_new_says_zero_and_the_second_all_of_it() -> None:
    clock = Clock()
    metrics = Metrics(clock)
    series = metrics.series(LABELS)
    series.count("Success", 200)
    series.answered, series.input_tokens = 1, 12
    series.duration[True].observe(0.3)
    series.stream_times(0.2, 0.01)
    assert set(samples(exposed(metrics)).values()) == {0}
    found = samples(exposed(metrics))
    assert found["ark_api_proxy_request_total code=Success http_status_code=200"] == 1
    assert found["ark_api_proxy_request_token_count_sum"] == 12
    assert found["ark_api_proxy_request_duration_seconds_bucket le=0.25 stream=true"] == 0
    assert found["ark_api_proxy_request_duration_seconds_bucket le=0.5 stream=true"] == 1
    assert found["ark_api_proxy_request_duration_seconds_sum stream=true"] == 0.3

    # A code that was never seen begins at 0 too, beside others that go on.
    series.count("Success", 200)
    series.count("AccessDenied", 403)
    found = samples(exposed(metrics))
    assert found["ark_api_proxy_request_total code=Success http_status_code=200"] == 2
    assert found["ark_api_proxy_request_total code=AccessDenied http_status_code=403"] == 0
    assert samples(exposed(metrics))["ark_api_proxy_request_total code=AccessDenied http_status_code=403"] == 1


def test_what_nobody_looked_at_for_long_is_no_sudden_increase() -> None:
    clock = Clock()
    metrics = Metrics(clock)
    metrics.series(LABELS).count("ServerOverloaded", 429)
    clock.now += HOLD_SECONDS
    assert samples(exposed(metrics))["ark_api_proxy_request_total code=ServerOverloaded http_status_code=429"] == 1


def test_calls_in_flight_are_shown_at_once() -> None:
    metrics = Metrics(Clock())
    metrics.series(LABELS).in_flight += 1
    assert samples(exposed(metrics))["ark_gateway_requests_in_flight"] == 1


def test_an_api_without_streams_and_cache_has_no_series_of_them() -> None:
    metrics = Metrics(Clock())
    metrics.series(EMBEDDINGS)
    found = samples(exposed(metrics))
    assert "ark_api_proxy_request_duration_seconds_count stream=false" in found
    assert not [name for name in found if "stream=true" in name or "is_first" in name or "result" in name]


def test_the_text_is_what_prometheus_reads_whatever_a_model_is_called() -> None:
    metrics = Metrics(Clock())
    model = 'a "quoted"\\slashed\n100% @ 模型'
    metrics.series(("default", "ep-1", "chat", model, f"{model}-1")).count("Success", 200)
    metrics.series(EMBEDDINGS)
    text = exposed(metrics)
    found = families(text)
    assert {sample.labels["base_model"] for sample in found["ark_api_proxy_request"].samples} == {model, "demo-embed"}
    kinds = {name: family.type for name, family in found.items()}
    assert kinds["ark_api_proxy_request"] == "counter"
    assert kinds["ark_api_proxy_request_token_count"] == "summary"
    assert kinds["ark_api_proxy_request_duration_seconds"] == "histogram"
    assert kinds["ark_gateway_requests_in_flight"] == "gauge"
    # The lines of a metric stand together and no series is there twice, or a strict reader refuses the whole text.
    names = [line.split("{")[0] for line in text.splitlines() if not line.startswith("#")]
    heads = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
    order = [next(head for head in heads if name.startswith(head)) for name in names]
    assert order == sorted(order, key=heads.index)
    series = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))


@pytest.mark.parametrize(("status", "name"), [(200, "200"), (429, "429"), (418, "4xx"), (599, "5xx")])
def test_statuses_that_only_a_model_server_can_invent_are_told_by_their_class(status: int, name: str) -> None:
    assert status_name(status) == name
    refusal = errors.from_upstream(status, b"") if status >= 400 else None
    metrics = Metrics(Clock())
    metrics.series(LABELS).count(refusal.code if refusal else "Success", status)
    assert f'http_status_code="{name}"' in exposed(metrics)


# --- how much of it ---------------------------------------------------------------------------------------------------


def test_label_sets_that_are_idle_for_long_are_forgotten_but_not_while_a_call_is_open() -> None:
    clock = Clock()
    metrics = Metrics(clock)
    metrics.series(number(1)).count("Success", 200)
    metrics.series(number(2)).in_flight += 1
    clock.now += IDLE_SECONDS + 1
    metrics.series(number(3))
    metrics.evict()
    assert endpoints(exposed(metrics)) == {"ep-2", "ep-3"}


def test_what_is_expected_stays_and_only_so_many_are_expected() -> None:
    clock = Clock()
    wanted: Iterable[Labels] = [number(count) for count in range(EXPECTED_MAX + 10)]
    metrics = Metrics(clock, expected=lambda: wanted)
    assert len(endpoints(exposed(metrics, only=IN_FLIGHT))) == EXPECTED_MAX
    clock.now += IDLE_SECONDS + 1
    exposed(metrics)
    metrics.evict()
    assert len(endpoints(exposed(metrics, only=IN_FLIGHT))) == EXPECTED_MAX


def test_beyond_the_cap_calls_are_counted_under_other_of_their_project() -> None:
    metrics = Metrics(Clock(), expected=lambda: [number(0)])
    exposed(metrics)
    for count in range(1, SETS_MAX):
        metrics.series(number(count)).count("Success", 200)
    metrics.series(number(SETS_MAX)).count("Success", 200)
    assert metrics.overflowed == 0, "a set that nobody called makes room"
    metrics.series(("default", "ep-x", "chat", "m", "m-1")).count("Success", 200)
    metrics.series(("default", "ep-y", "chat", "n", "n-1")).count("Success", 200)
    metrics.series(("team", "ep-z", "chat", "m", "m-1")).count("Success", 200)
    metrics.series(number(1)).count("Success", 200)
    assert metrics.overflowed == 3

    exposed(metrics)
    text = exposed(metrics, only=REQUESTS)
    requests = [
        sample for sample in families(text)["ark_api_proxy_request"].samples if sample.labels["code"] == "Success"
    ]
    others = {
        (s.labels["project"], s.labels["ark_model"]): s.value for s in requests if s.labels["ark_endpoint"] == "other"
    }
    assert others == {("default", "other"): 2, ("team", "other"): 1}
    assert sum(sample.value for sample in requests) == SETS_MAX + 4
    assert len(requests) == SETS_MAX + 2

    # However many projects there are, the number of label sets ends.
    for count in range(OTHERS_MAX * 2):
        metrics.series((f"project-{count}", "ep-z", "chat", "m", "m-1"))
    assert len(metrics.snapshot()) <= SETS_MAX + OTHERS_MAX + 1


def test_other_tasks_have_their_turn_while_many_label_sets_are_rendered() -> None:
    metrics = Metrics(Clock())
    for count in range(1_000):
        metrics.series(number(count)).count("Success", 200)

    async def turns() -> int:
        task = asyncio.ensure_future(pieces_of(metrics))
        count = 0
        while not task.done():
            count += 1
            await asyncio.sleep(0)
        assert len(await task) > 10
        return count

    # In one go it would be one or two.
    assert asyncio.run(turns()) > 8


def test_who_is_near_and_how_an_address_is_written() -> None:
    near = ("127.0.0.1", "::1", "::ffff:127.0.0.1", "127.3.0.9")
    assert [is_near(peer) for peer in near] == [True] * 4
    assert [is_near(peer) for peer in ("10.0.0.5", "fe80::1%eth0", "", "unknown")] == [False] * 4
    assert [address("10.0.0.5", 1), address("::1", 1), address("[::1]", 1), address("gw", 1)] == [
        "10.0.0.5:1", "[::1]:1", "[::1]:1", "gw:1",
    ]  # fmt: skip


def test_a_reader_who_asks_for_gzip_and_is_far_gets_it() -> None:
    metrics = Metrics(Clock())
    for count in range(100):
        metrics.series(number(count))

    async def read(encoding: str, *, near: bool) -> httpx.Response:
        exposition = Exposition(metrics, is_near=lambda _peer: near)
        url = f"http://{await exposition.start()}/metrics"
        async with httpx.AsyncClient(trust_env=False, headers={"Accept-Encoding": encoding}) as client:
            answer = await client.get(url)
        await exposition.stop()
        return answer

    far, plain, near = (
        asyncio.run(read(encoding, near=near))
        for encoding, near in (("gzip", False), ("identity", False), ("gzip", True))
    )
    assert far.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in {*plain.headers, *near.headers}
    assert endpoints(far.text) == endpoints(plain.text) == endpoints(near.text)
    assert far.num_bytes_downloaded < plain.num_bytes_downloaded / 5
    assert far.text.endswith("\n")


@pytest.mark.parametrize("given", ["", "Authorization: Bearer \r\n", "Authorization: Bearer x\r\n"])
def test_with_an_empty_token_nobody_reads_metrics(given: str) -> None:
    async def read() -> bytes:
        exposition = Exposition(Metrics(Clock()), token="")
        host, _, port = (await exposition.start()).rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: x\r\n{given}\r\n".encode())
        data = await reader.read()
        writer.close()
        await exposition.stop()
        return data

    assert asyncio.run(read()).startswith(b"HTTP/1.1 401 ")


def test_labels_come_from_routes() -> None:
    assert labels_of(endpoint("ep-1"), version(1), "chat") == ("default", "ep-1", "chat", "m", "m-1")
    assert labels_of(endpoint("ep-1"), None, "chat") == ("default", "ep-1", "chat", "", "")
