from __future__ import annotations

import msgspec

from gateway.record import CallFacts, EventWriter
from gateway.routes import EndpointRoute, VersionRoute
from metering import events
from metering.events import Outcome, UsageEvent

ROUTE = EndpointRoute("ep-1", "default", 7, 0, 0, "Running", is_preset=False)
VERSION = VersionRoute(7, "demo-fast-251001", b'"demo-fast-251001"', "demo-fast", "chat", 100, 0, ())
SHARED = {"endpoint_id", "project_id", "version_id", "model_id", "key_id", "api", "worker"}
LATER = {"switch_id", "rung"}


def test_both_parts_together_are_the_whole_event() -> None:
    own = CallFacts.__struct_fields__
    assert {*own, *SHARED, *LATER} == set(UsageEvent.__struct_fields__)
    assert not SHARED & set(own)


def test_what_is_written_is_what_the_ledger_reads() -> None:
    writer = EventWriter("worker-1")
    facts = CallFacts(
        "call-1", 1_700_000_000_000, "success", 200, "Success", 12, 3, True, 10, 4, 5, 2, False, 1, None, 3, 9,
        'my "id"\\', "192.0.2.7", ["messages", "temperature"],
    )  # fmt: skip
    for _again in range(2):
        event = events.decode(writer.encode(facts, route=ROUTE, version=VERSION, key_id=5, api="chat"))
        assert event == UsageEvent(
            call_id="call-1", at=1_700_000_000_000, endpoint_id="ep-1", project_id="default", api="chat",
            outcome=Outcome.SUCCESS, status=200, code="Success", duration_ms=12, first_token_ms=3, request_id='my "id"\\',
            version_id=7, model_id="demo-fast-251001", server_id=3, deployment_id=9, key_id=5, is_stream=True,
            input_tokens=10, cached_tokens=4, output_tokens=5, reasoning_tokens=2, is_estimated=False, overrun_tokens=1,
            limit=None, parameters=["messages", "temperature"], source_ip="192.0.2.7", worker="worker-1",
        )  # fmt: skip


def test_every_outcome_is_one_that_the_ledger_knows() -> None:
    writer = EventWriter("worker-1")
    for outcome in Outcome:
        facts = CallFacts("call-1", 1, outcome.value, 200, "Success")
        assert events.decode(writer.encode(facts, route=ROUTE, version=None, key_id=5, api="chat")).outcome is outcome


def test_a_version_that_was_not_known_yet_is_written_when_it_is() -> None:
    writer = EventWriter("worker-1")
    facts = CallFacts("call-1", 1, "refused", 503, "ServiceUnavailable")
    assert msgspec.json.decode(writer.encode(facts, route=ROUTE, version=None, key_id=5, api="chat"))["model_id"] == ""
    event = events.decode(writer.encode(facts, route=ROUTE, version=VERSION, key_id=5, api="chat"))
    assert event.model_id == "demo-fast-251001"
