from __future__ import annotations

import json

import httpx
import redis
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import IDLE_SECONDS, Metrics
from tests.gateway.harness import GatewayProcess
from tests.servers import wait_until

LABELS = ("default", "ep-1", "chat", "demo-fast", "demo-fast-251001")


def samples(text: str, **labels: str) -> dict[str, float]:
    return {
        sample.name + "".join(f" {k}={v}" for k, v in sorted(sample.labels.items()) if k in ("code", "le", "is_first")):
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if labels.items() <= sample.labels.items()
    }  # fmt: skip


def test_a_worker_exposes_arks_names_on_a_port_of_its_own(
    gateway: GatewayProcess, gateway_redis_client: redis.Redis, new_endpoint: object
) -> None:
    endpoint = new_endpoint(rpm=3)  # type: ignore[operator]
    usage = {
        "prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }  # fmt: skip
    gateway.chat(endpoint, x_script={"usage": usage})
    gateway.chat(endpoint, stream=True, x_script={"usage": usage})
    gateway.chat(endpoint, x_script={"status": 400, "answer": {}})
    gateway.chat(endpoint)

    def worker() -> dict[str, object] | None:
        for name in gateway_redis_client.smembers("ark:workers"):
            found = gateway_redis_client.get("ark:worker:" + name.decode())
            if found and json.loads(found)["pid"] == gateway.pid:
                return dict(json.loads(found))
        return None

    info = wait_until(worker)
    assert isinstance(info, dict)
    text = httpx.get(f"http://{info['metrics']}/metrics", trust_env=False).text
    found = samples(text, ark_endpoint=endpoint)
    assert found["ark_api_proxy_request_total code=Success"] == 2
    assert found["ark_api_proxy_request_total code=InvalidParameter"] == 1
    assert found["ark_api_proxy_request_total code=RateLimitExceeded.EndpointRPMExceeded"] == 1
    assert found["ark_api_proxy_request_token_count_sum"] == 20
    assert found["ark_api_proxy_request_token_count_count"] == 2
    assert found["ark_api_proxy_response_token_count_sum"] == 10
    assert found["ark_api_proxy_cached_token_count_sum"] == 8
    assert found["ark_api_proxy_reasoning_token_count_sum"] == 4
    assert found["ark_api_proxy_stream_per_token_duration_seconds_count is_first=true"] == 1
    assert found["ark_api_proxy_stream_per_token_duration_seconds_count is_first=false"] == 1
    assert found["ark_gateway_requests_in_flight"] == 0
    whole = samples(text, ark_endpoint=endpoint, stream="false")
    assert whole["ark_api_proxy_request_duration_seconds_bucket le=+Inf"] == 1
    assert samples(text)["ark_gateway_redis_connected"] == 1
    assert httpx.get(f"http://{info['metrics']}/other", trust_env=False).status_code == 404


def test_label_sets_that_are_idle_for_long_are_forgotten() -> None:
    now = [0.0]
    metrics = Metrics(lambda: now[0])
    metrics.series(LABELS).count("Success", 200)
    now[0] = IDLE_SECONDS + 1
    metrics.series((*LABELS[:1], "ep-2", *LABELS[2:]))
    metrics.evict()
    endpoints = {
        sample.labels["ark_endpoint"] for family in metrics.collect() for sample in family.samples
        if "ark_endpoint" in sample.labels
    }  # fmt: skip
    assert endpoints == {"ep-2"}
