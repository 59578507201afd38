"""The status tick: its judgement by cases, its effect by rows, and its cost with 10,000 endpoints."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from common.models import RouteChange
from endpoints import convergence
from endpoints.convergence import Calls, Group, Server, Verdict, Version, judge
from endpoints.lifecycle import ALLOWED, Reason
from endpoints.models import Desired, Endpoint, EndpointEvent, Status
from metering.models import UsageMinute
from tests import builders
from tests.builders import NOW

UP = Server("a", "up")
DOWN = Server("b", "down", "refused")
UNKNOWN = Server("c", "unknown")
BAD = Calls((True,) * 5, ("a",), "InternalServiceError (HTTP 500)")
GOOD = Calls((False,) * 5)
PAST, FUTURE = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)


def group(status: Status, *, desired: str = "running", reason: str = "", subject: str = "") -> Group:
    return Group(1, desired, status, reason, subject)


def version(*servers: Server, **values: Any) -> Version:
    return Version("m-1", servers=servers, **values)


SCHEDULING, RUNNING, ABNORMAL, STOPPED = (
    group(Status.SCHEDULING), group(Status.RUNNING), group(Status.ABNORMAL), group(Status.STOPPED),
)  # fmt: skip
SERVED = Verdict(Status.RUNNING, Reason.SERVED)
RETIRED = Verdict(Status.STOPPED, Reason.MODEL_RETIRED, "m-1")
IS_DOWN = Verdict(Status.ABNORMAL, Reason.SERVERS_DOWN, "b", "refused")
FAILING = Verdict(Status.ABNORMAL, Reason.CALLS_FAIL, "a", "InternalServiceError (HTTP 500)")
WAS_FAILING = group(Status.ABNORMAL, reason=Reason.CALLS_FAIL)


@pytest.mark.parametrize(
    ("case", "here", "what", "expected"),
    [
        ("a server answers", SCHEDULING, version(UP), SERVED),
        ("one of two is enough", SCHEDULING, version(DOWN, UP), SERVED),
        ("it came back", ABNORMAL, version(UP), SERVED),
        ("nothing to do", RUNNING, version(UP), SERVED),
        ("all down, new", SCHEDULING, version(DOWN), IS_DOWN),
        ("all down, healthy", RUNNING, version(DOWN), IS_DOWN),
        ("two down", RUNNING, version(DOWN, replace(DOWN, name="d")), replace(IS_DOWN, subject="b, d")),
        ("five down", RUNNING, version(*[DOWN] * 5), replace(IS_DOWN, subject="b, b, b +2")),
        ("no server at all", RUNNING, version(), Verdict(Status.ABNORMAL, Reason.NO_SERVER, "m-1")),
        ("never probed", SCHEDULING, version(UNKNOWN), Verdict(Status.SCHEDULING, Reason.WAITING_FOR_PROBE, "c")),
        ("down or unknown", SCHEDULING, version(DOWN, UNKNOWN),
         Verdict(Status.SCHEDULING, Reason.WAITING_FOR_PROBE, "c")),
        ("became unknown while healthy", RUNNING, version(UNKNOWN), None),
        ("became unknown while abnormal", ABNORMAL, version(UNKNOWN, DOWN), None),
        ("retired, healthy", RUNNING, version(UP, retires_at=NOW), RETIRED),
        ("retired, new", SCHEDULING, version(UP, retires_at=PAST), RETIRED),
        ("retired, down", ABNORMAL, version(DOWN, retires_at=PAST), RETIRED),
        ("retires later", RUNNING, version(UP, retires_at=FUTURE), SERVED),
        ("offered again", STOPPED, version(UP, retires_at=FUTURE), Verdict(Status.SCHEDULING, Reason.RESUMED)),
        ("wanted stopped", group(Status.RUNNING, desired="stopped"), version(UP),
         Verdict(Status.STOPPED, Reason.STOPPED_BY, "system")),
        ("is stopped", group(Status.STOPPED, desired="stopped"), version(UP), None),
        ("is stopped, retired", group(Status.STOPPED, desired="stopped"), version(UP, retires_at=PAST), None),
        ("calls fail", RUNNING, version(UP, calls=BAD), FAILING),
        ("four failures are too few", RUNNING, version(UP, calls=Calls((True,) * 4, ("a",), "x")), SERVED),
        ("half fail", RUNNING, version(UP, calls=Calls((True, False) * 10, ("a",), "x")), SERVED),
        ("nine of ten fail", RUNNING, version(UP, calls=replace(BAD, failures=(True,) * 9 + (False,))), FAILING),
        ("still failing a little", WAS_FAILING, version(UP, calls=replace(BAD, failures=(True, False, True, True))),
         FAILING),
        ("three good calls", WAS_FAILING, version(UP, calls=Calls((False,) * 3 + (True,) * 17, ("a",), "x")), SERVED),
        ("back after an outage in which calls failed", group(Status.ABNORMAL, reason=Reason.SERVERS_DOWN),
         version(UP, calls=BAD), SERVED),
        ("no more calls", WAS_FAILING, version(UP), SERVED),
        ("calls fail and servers are down", RUNNING, version(DOWN, calls=BAD), IS_DOWN),
    ],
)  # fmt: skip
def test_the_judgement_by_cases(case: str, here: Group, what: Version, expected: Verdict | None) -> None:
    assert judge(group=here, version=what, now=NOW) == expected, case


@given(
    status=st.sampled_from(Status), desired=st.sampled_from(Desired), reason=st.sampled_from(["", *Reason.values]),
    states=st.lists(st.sampled_from(["up", "down", "unknown"]), max_size=4),
    retires=st.sampled_from([None, PAST, NOW, FUTURE]), failures=st.lists(st.booleans(), max_size=20),
)  # fmt: skip
def test_whatever_is_known_the_judgement_is_an_arrow_of_the_diagram_or_none_at_all(
    status: Status, desired: Desired, reason: str, states: list[str], retires: Any, failures: list[bool]
) -> None:
    what = Version(
        "m", retires, tuple(Server(f"s{n}", state) for n, state in enumerate(states)), Calls(tuple(failures))
    )
    verdict = judge(group=group(status, desired=desired, reason=reason), version=what, now=NOW)
    assert verdict is None or verdict.status == status or verdict.status in ALLOWED[status]


def tick() -> int:
    """One tick, and a second one which must find nothing to do."""
    moved = convergence.converge(now=NOW)
    assert convergence.converge(now=NOW) == 0
    return moved


def state_of(endpoint: Endpoint) -> tuple[str, str, str, str]:
    endpoint.refresh_from_db()
    return endpoint.status, endpoint.status_reason, endpoint.status_subject, endpoint.status_detail


@pytest.mark.django_db
def test_an_endpoint_follows_its_server_through_a_day() -> None:
    server = builders.model_server(name="vllm-1", state="unknown")
    endpoint = builders.endpoint(
        version=builders.model_version(servers=[server]), status=Status.SCHEDULING, status_reason=Reason.CREATED
    )
    assert tick() == 0
    assert state_of(endpoint) == ("Scheduling", "waiting_for_probe", "vllm-1", "")
    for state, trouble, expected in [
        ("up", "", ("Running", "served", "", "")),
        ("down", "refused", ("Abnormal", "servers_down", "vllm-1", "refused")),
        ("unknown", "", ("Abnormal", "servers_down", "vllm-1", "refused")),
        ("up", "", ("Running", "served", "", "")),
    ]:
        type(server).objects.update(state=state, state_reason=trouble)
        tick()
        assert state_of(endpoint) == expected
    type(server).objects.update(is_enabled=False)
    assert tick() == 1
    assert state_of(endpoint)[:2] == ("Abnormal", "no_server")
    arrows = list(EndpointEvent.objects.order_by("pk").values_list("from_status", "to_status"))
    assert arrows == [
        ("Scheduling", "Running"),
        ("Running", "Abnormal"),
        ("Abnormal", "Running"),
        ("Running", "Abnormal"),
    ]
    assert RouteChange.objects.count() == 4


@pytest.mark.django_db
def test_a_retired_version_stops_custom_and_preset_endpoints_and_one_offered_again_starts_them() -> None:
    version = builders.model_version(servers=[builders.model_server()], retires_at=NOW)
    custom = builders.endpoint(version=version)
    preset = builders.endpoint(version=version, kind="preset")
    by_hand = builders.endpoint(version=version, desired="stopped", status="Stopped", status_reason="stopped_by")
    assert tick() == 2
    assert state_of(custom)[:3] == state_of(preset)[:3] == ("Stopped", "model_retired", version.public_id)
    type(version).objects.update(retires_at=None)
    assert tick() == 4
    assert (state_of(custom)[0], state_of(preset)[0], state_of(by_hand)[0]) == ("Running", "Running", "Stopped")


@pytest.mark.django_db
def test_failing_calls_make_it_abnormal_and_good_ones_healthy_again() -> None:
    server = builders.model_server(name="vllm-1")
    endpoint = builders.endpoint(version=builders.model_version(servers=[server]))
    other = builders.endpoint(version=builders.model_version(servers=[server]))
    Endpoint.objects.update(status_at=NOW - timedelta(hours=1))
    known = {"version_id": endpoint.version_id, "server_id": server.pk, "at": NOW - timedelta(seconds=9)}
    for _ in range(5):
        builders.call_record(**known, outcome="upstream_error", status=502, code="InternalServiceError")
    builders.call_record(**known, outcome="client_closed", status=499)
    minute = NOW.replace(second=0, microsecond=0)
    UsageMinute.objects.create(
        at=minute, project_id="default", endpoint_id=endpoint.pk, version_id=endpoint.version_id, api="chat", key_id=1,
        calls=6, failed=5, cancelled=1,
    )  # fmt: skip
    assert tick() == 1
    assert state_of(endpoint) == ("Abnormal", "calls_fail", "vllm-1", "InternalServiceError (HTTP 502)")
    assert state_of(other)[0] == "Running"
    for _ in range(3):
        builders.call_record(**{**known, "at": NOW - timedelta(seconds=1)})
    assert tick() == 1
    assert state_of(endpoint)[0] == "Running"


@pytest.mark.django_db
def test_calls_that_failed_during_an_outage_do_not_make_it_abnormal_again() -> None:
    server = builders.model_server(name="vllm-1")
    endpoint = builders.endpoint(
        version=builders.model_version(servers=[server]), status="Abnormal", status_reason="servers_down"
    )
    for _ in range(9):
        builders.call_record(version_id=endpoint.version_id, server_id=server.pk, outcome="cut")
    UsageMinute.objects.create(
        at=NOW.replace(second=0, microsecond=0), project_id="default", endpoint_id=endpoint.pk, api="chat", key_id=1,
        version_id=endpoint.version_id, calls=9, failed=9,
    )  # fmt: skip
    assert tick() == 1
    assert state_of(endpoint)[0] == "Running"
    later = NOW + timedelta(seconds=9)
    for _ in range(5):
        builders.call_record(version_id=endpoint.version_id, server_id=server.pk, outcome="cut", at=later)
    assert convergence.converge(now=later) == 1


@pytest.mark.django_db
def test_what_callers_did_wrong_says_nothing_of_the_model() -> None:
    endpoint = builders.endpoint(created_at=NOW - timedelta(hours=1))
    for status in (400, 404, 429, 413, 422):
        builders.call_record(version_id=endpoint.version_id, outcome="upstream_error", status=status)
    UsageMinute.objects.create(
        at=NOW.replace(second=0, microsecond=0), project_id="default", endpoint_id=endpoint.pk, api="chat", key_id=1,
        version_id=endpoint.version_id, calls=5, failed=5,
    )  # fmt: skip
    assert tick() == 0


@pytest.mark.django_db
def test_a_row_with_a_reason_we_do_not_know_is_judged_like_any_other() -> None:
    endpoint = builders.endpoint(status_reason="from_the_future", status=Status.ABNORMAL)
    assert tick() == 1
    assert state_of(endpoint)[0] == "Running"


@pytest.mark.django_db
def test_one_dead_server_under_ten_thousand_endpoints_is_one_set_based_move() -> None:
    server = builders.model_server(name="vllm-1")
    version = builders.model_version(servers=[server])
    project = builders.project("default")
    Endpoint.objects.bulk_create(
        [builders.endpoint_row(project=project, version=version) for _ in range(10_000)], batch_size=500
    )
    type(server).objects.update(state="down", state_reason="refused")
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert convergence.converge(now=NOW) == 10_000
    # Four statements a batch of 500, its savepoint and release (a test runs in a transaction), and four to look.
    most = 4 + 20 * 6 + 3 + 1
    # SQLite takes fewer values in a statement, so that a batch needs more of them.
    assert len(queries) <= most * (6 if connection.vendor == "sqlite" else 1)
    with CaptureQueriesContext(connection) as queries:
        assert convergence.converge(now=NOW) == 0
    assert len(queries) == 4
    assert EndpointEvent.objects.count() == RouteChange.objects.count() == 10_000
    assert set(Endpoint.objects.values_list("status", "status_version")) == {("Abnormal", 1)}
