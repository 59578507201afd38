"""More than one model server behind an endpoint: which one is tried, and when no other one may be."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis

from metering.events import Outcome
from tests.gateway.harness import GatewayProcess, Ledger, Site
from tests.gateway.scripted import ScriptedUpstream
from tests.servers import HeldPort, RedisServer

Servers = tuple[ScriptedUpstream, ScriptedUpstream]


@pytest.fixture(scope="module")
def both() -> Iterator[Servers]:
    pair = (ScriptedUpstream().start(), ScriptedUpstream().start())
    yield pair
    for server in pair:
        server.stop()


@pytest.fixture
def servers(both: Servers) -> Servers:
    for server in both:
        server.reset()
    return both


@pytest.fixture(scope="module")
def two(
    both: Servers, gateway_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """`ordered-1` goes to the first server and then, since it is reported down, to the second.

    `hasty-1` and `given-up-1` as well, but wait not long for the first, and for neither.
    """
    folder = tmp_path_factory.mktemp("failover")
    held = HeldPort()
    dead = f"http://127.0.0.1:{held.number}/v1"
    site = Site(folder / "site.json", both[0].url, both[1].url, both[1].url, dead, both[0].url, both[1].url)
    for number in (5, 6):
        site.data["servers"][number - 1]["read_seconds"] = 0.6
    for number in (3, 6):
        site.data["servers"][number - 1]["is_up"] = False
    site.data["versions"] = [
        {"id": 1, "model_id": "ordered-1", "deployments": [[3, "m-two", 1000], [1, "m-one", 1]]},
        {"id": 2, "model_id": "weighted-1", "deployments": [[1, "m-one", 1], [2, "m-two", 3]]},
        {"id": 3, "model_id": "dead-1", "deployments": [[4, "m", 1], [3, "m-two", 1]]},
        {"id": 4, "model_id": "only-dead-1", "deployments": [[4, "m", 1]]},
        {"id": 5, "model_id": "hasty-1", "deployments": [[3, "m-two", 1000], [5, "m-one", 1]]},
        {"id": 6, "model_id": "given-up-1", "deployments": [[6, "m-two", 1000], [5, "m-one", 1]]},
    ]
    site.data["endpoints"] = [{"id": f"ep-{row['model_id']}", "version": row["id"]} for row in site.data["versions"]]
    site.data["endpoints"] += [{"id": f"ep-stream-{number}", "version": 1} for number in range(3)]
    site.save()
    process = GatewayProcess(site, gateway_redis.url, folder / "data").start()
    yield process
    process.stop()
    held.release()


@pytest.mark.parametrize(
    "failure",
    [
        {"status": 502, "answer": {}},
        {"status": 503, "answer": {}},
        {"status": 504, "answer": {}},
        {"status": 401, "answer": {}},
        {"close_at_once": True},
        {"never": True},
    ],
)
def test_before_the_first_byte_another_server_is_tried(
    two: GatewayProcess, servers: Servers, failure: dict[str, object]
) -> None:
    servers[0].force = failure
    model = "hasty-1" if "never" in failure else "ordered-1"
    answer = two.chat(f"ep-{model}")
    assert answer.status_code == 200
    assert answer.json()["model"] == model
    assert servers[1].seen[-1].body["model"] == "m-two"
    assert servers[1].seen[-1].headers["authorization"] == "Bearer sk-3"
    assert servers[1].seen[-1].headers["x-request-id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("failure", "status"),
    [({"status": 500, "answer": {}}, 500), ({"status": 400, "answer": {}}, 400), ({"status": 429, "answer": {}}, 429)],
)
def test_an_answer_that_another_server_would_give_as_well_is_the_answer(
    two: GatewayProcess, servers: Servers, failure: dict[str, object], status: int
) -> None:
    servers[0].force = failure
    assert two.chat("ep-ordered-1").status_code == status
    assert not servers[1].seen


def test_after_the_first_byte_no_other_server_is_tried(
    two: GatewayProcess, servers: Servers, gateway_redis_client: redis.Redis
) -> None:
    servers[0].force = {"cut_after": 2}
    answer = two.chat("ep-stream-0", stream=True)
    assert json.loads(answer.text.split("data: ")[-1])["error"]["code"] == "InternalServiceError"
    assert not servers[1].seen
    [event] = Ledger(gateway_redis_client).wait_for("ep-stream-0")
    assert (event.outcome, event.server_id) == (Outcome.CUT, 1)


def test_a_stream_too_fails_over_before_its_first_byte(
    two: GatewayProcess, servers: Servers, gateway_redis_client: redis.Redis
) -> None:
    servers[0].force = {"close_at_once": True}
    assert two.chat("ep-stream-1", stream=True).text.endswith("data: [DONE]\n\n")
    [event] = Ledger(gateway_redis_client).wait_for("ep-stream-1")
    assert (event.outcome, event.server_id) == (Outcome.SUCCESS, 3)


def test_calls_are_shared_by_weight(two: GatewayProcess, servers: Servers) -> None:
    for _ in range(200):
        assert two.chat("ep-weighted-1").status_code == 200
    assert 25 <= len(servers[0].seen) <= 80
    assert len(servers[0].seen) + len(servers[1].seen) == 200


def test_a_server_that_nobody_reaches_is_tried_last_for_a_while(two: GatewayProcess, servers: Servers) -> None:
    for _ in range(4):
        assert two.chat("ep-dead-1").status_code == 200
    # The first two calls found out; the others did not even try.
    assert two.log.count("model server 4: no connection") == 2


def test_without_any_server_that_answers_the_caller_gets_503(
    two: GatewayProcess, gateway_redis_client: redis.Redis
) -> None:
    answer = two.chat("ep-only-dead-1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ServiceUnavailable")
    assert answer.headers["retry-after"]
    [event] = Ledger(gateway_redis_client).wait_for("ep-only-dead-1")
    assert (event.outcome, event.status, event.server_id) == (Outcome.UPSTREAM_ERROR, 503, 4)


def test_a_server_that_never_answers_is_a_timeout(two: GatewayProcess, servers: Servers) -> None:
    for server in servers:
        server.force = {"never": True}
    assert two.chat("ep-given-up-1").status_code == 504
