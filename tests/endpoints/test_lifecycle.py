"""The diagram and its two doors."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import translation

from catalog.models import Trouble
from common.models import RouteChange
from endpoints import lifecycle
from endpoints.lifecycle import Reason
from endpoints.models import Endpoint, EndpointEvent, Status
from tests import builders
from tests.builders import NOW

ARROWS = {
    (Status.SCHEDULING, Status.RUNNING),
    (Status.SCHEDULING, Status.ABNORMAL),
    (Status.SCHEDULING, Status.STOPPED),
    (Status.RUNNING, Status.ABNORMAL),
    (Status.RUNNING, Status.STOPPED),
    (Status.ABNORMAL, Status.RUNNING),
    (Status.ABNORMAL, Status.STOPPED),
    (Status.STOPPED, Status.SCHEDULING),
}
PAIRS = [(here, there) for here in Status for there in Status]
pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_one_endpoint_moves_along_the_arrows_and_nowhere_else(here: Status, there: Status) -> None:
    endpoint = builders.endpoint(status=here)
    if (here, there) not in ARROWS:
        with pytest.raises(lifecycle.TransitionNotAllowed):
            lifecycle.move(endpoint=endpoint, to=there, reason=Reason.SERVED, now=NOW)
        assert not EndpointEvent.objects.exists()
        assert not RouteChange.objects.exists()
        return
    lifecycle.move(endpoint=endpoint, to=there, reason=Reason.SERVED, subject="s", detail="d", now=NOW)
    stored = Endpoint.objects.get()
    assert (stored.status, stored.status_version, stored.status_at) == (there, 1, NOW)
    assert (stored.status, stored.status_version) == (endpoint.status, endpoint.status_version)
    event = EndpointEvent.objects.get()
    assert (event.from_status, event.to_status, event.reason, event.subject, event.detail) == (
        here, there, "served", "s", "d",
    )  # fmt: skip
    assert event.actor_name == "system"
    assert [(row.kind, row.object_id) for row in RouteChange.objects.all()] == [("endpoint", endpoint.pk)]


@pytest.mark.parametrize("there", list(Status))
def test_of_many_only_those_move_that_may(there: Status) -> None:
    version = builders.model_version()
    mixed = {status: builders.endpoint(status=status, version=version).pk for status in Status}
    builders.endpoint(status=Status.RUNNING, version=version, deleted_at=NOW)
    moved = lifecycle.move_many(endpoints=Endpoint.objects.all(), to=there, reason=Reason.NO_SERVER, now=NOW)
    expected = {mixed[here] for here in Status if (here, there) in ARROWS}
    assert moved == len(expected)
    assert set(EndpointEvent.objects.values_list("endpoint_id", flat=True)) == expected
    assert set(RouteChange.objects.values_list("object_id", flat=True)) == expected
    assert set(Endpoint.objects.filter(status_version=1).values_list("pk", flat=True)) == expected


def test_a_move_from_a_status_that_is_no_longer_stored_changes_nothing() -> None:
    endpoint = builders.endpoint(status=Status.RUNNING)
    stale = Endpoint.objects.get()
    lifecycle.move(endpoint=endpoint, to=Status.ABNORMAL, reason=Reason.NO_SERVER, now=NOW)
    lifecycle.move(endpoint=endpoint, to=Status.RUNNING, reason=Reason.SERVED, now=NOW)
    with pytest.raises(lifecycle.TransitionNotAllowed):
        lifecycle.move(endpoint=stale, to=Status.STOPPED, reason=Reason.STOPPED_BY, now=NOW)
    assert Endpoint.objects.get().status == Status.RUNNING
    assert EndpointEvent.objects.count() == 2


def test_a_correction_of_the_reason_is_no_move() -> None:
    endpoint = builders.endpoint(status=Status.SCHEDULING, status_reason=Reason.CREATED)
    said = {"reason": Reason.WAITING_FOR_PROBE, "subject": "vllm-1"}
    assert lifecycle.explain_many(endpoints=Endpoint.objects.all(), **said) == 1
    assert lifecycle.explain_many(endpoints=Endpoint.objects.all(), **said) == 0
    endpoint.refresh_from_db()
    assert (endpoint.status_subject, endpoint.status_version) == ("vllm-1", 0)
    assert not EndpointEvent.objects.exists()


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason != Reason.SERVED])
def test_every_reason_is_a_whole_sentence_that_names_what_it_speaks_of(reason: Reason) -> None:
    with translation.override("en"):
        text = lifecycle.sentence(reason=reason, subject="vllm-1", detail=Trouble.TIMEOUT)
    assert text
    assert "%" not in text
    assert ("vllm-1" in text) == ("%(subject)s" in str(reason.label))


def test_the_sentence_says_what_the_server_said_in_our_words_where_we_have_them() -> None:
    with translation.override("en"):
        known = lifecycle.sentence(reason=Reason.SERVERS_DOWN, subject="a", detail=Trouble.TIMEOUT)
        foreign = lifecycle.sentence(reason=Reason.SERVERS_DOWN, subject="a", detail="100 % full")
    assert known == "Model server a is down. The server did not answer in time."
    assert foreign == "Model server a is down. 100 % full"


def test_a_healthy_endpoint_needs_no_reason() -> None:
    assert lifecycle.reason_sentence(builders.endpoint(status_reason=Reason.SERVED)) == ""


def test_old_events_are_forgotten_and_the_rest_stay() -> None:
    endpoint = builders.endpoint()
    for age in (lifecycle.EVENTS_KEPT, lifecycle.EVENTS_KEPT + timedelta(seconds=1)):
        EndpointEvent.objects.create(endpoint=endpoint, at=NOW - age, to_status=Status.RUNNING)
    assert lifecycle.forget_events(now=NOW) == 1
    assert EndpointEvent.objects.get().at == NOW - lifecycle.EVENTS_KEPT
