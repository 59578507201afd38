"""Any sequence of what people, servers and ticks do: the promises of the status hold after every step."""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from catalog.models import ModelServer, ModelVersion
from common.errors import DomainError
from common.models import RouteChange
from endpoints import convergence, services
from endpoints.lifecycle import ALLOWED, Reason
from endpoints.models import Endpoint, EndpointEvent, Status
from tests import builders
from tests.builders import NOW

PERSON = st.integers(min_value=0, max_value=7)


class Day(RuleBasedStateMachine):
    """Two versions on three servers; people, servers and ticks do things in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.transaction = transaction.atomic()
        self.transaction.__enter__()
        self.now = NOW
        self.by = builders.actor()
        self.project = builders.project("default")
        self.servers = [builders.model_server(state="up") for _ in range(3)]
        self.versions = [
            builders.model_version(servers=self.servers[:2]),
            builders.model_version(servers=self.servers[1:]),
        ]
        self.written: dict[str, int] = {}

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.transaction.__exit__(None, None, None)

    def pick(self, number: int) -> Endpoint | None:
        alive = list(Endpoint.objects.alive().order_by("pk"))
        return alive[number % len(alive)] if alive else None

    def act(self, verb: Any, endpoint: Endpoint | None, **values: Any) -> None:
        self.now += timedelta(seconds=1)
        if endpoint is None:
            return
        try:
            verb(endpoint=endpoint, by=self.by, now=self.now, **values)
        except DomainError:
            return
        if verb in (services.edit, services.delete):
            self.written[endpoint.pk] = self.written.get(endpoint.pk, 0) + 1

    @rule(which=st.integers(0, 1))
    def a_person_creates_one(self, which: int) -> None:
        self.now += timedelta(seconds=1)
        try:
            services.create(
                project=self.project, version=self.versions[which], name="n", description="", rpm=1, tpm=1, tags={},
                by=self.by, now=self.now,
            )  # fmt: skip
        except DomainError as refusal:
            assert refusal.field == "version"  # noqa: PT017 - the only refusal there may be

    @rule(which=st.integers(0, 1))
    def somebody_calls_by_model_id(self, which: int) -> None:
        self.now += timedelta(seconds=1)
        try:
            services.ensure_preset(project_id="default", version_id=self.versions[which].pk, now=self.now)
        except DomainError:
            assert ModelVersion.objects.get(pk=self.versions[which].pk).is_retired(self.now)

    @rule(number=PERSON)
    def a_person_stops_one(self, number: int) -> None:
        self.act(services.stop, self.pick(number))

    @rule(number=PERSON)
    def a_person_starts_one(self, number: int) -> None:
        self.act(services.start, self.pick(number))

    @rule(number=PERSON, rpm=st.integers(2, 5_000_000))
    def a_person_edits_one(self, number: int, rpm: int) -> None:
        if (endpoint := self.pick(number)) and endpoint.rpm != rpm:
            self.act(services.edit, endpoint, revision=endpoint.revision, name="n", description="", rpm=rpm, tpm=1,
                     tags={})  # fmt: skip

    @rule(number=PERSON)
    def a_person_deletes_one(self, number: int) -> None:
        if endpoint := self.pick(number):
            self.act(services.delete, endpoint, confirm_name=endpoint.name)

    @rule(which=st.integers(0, 2), state=st.sampled_from(ModelServer.State))
    def a_server_changes(self, which: int, state: str) -> None:
        ModelServer.objects.filter(pk=self.servers[which].pk).update(state=state, state_reason="")

    @rule(which=st.integers(0, 2), is_enabled=st.booleans())
    def an_admin_enables_or_disables_a_server(self, which: int, is_enabled: bool) -> None:
        ModelServer.objects.filter(pk=self.servers[which].pk).update(is_enabled=is_enabled)

    @rule(which=st.integers(0, 1), is_retired=st.booleans())
    def an_admin_retires_a_version_or_offers_it_again(self, which: int, is_retired: bool) -> None:
        ModelVersion.objects.filter(pk=self.versions[which].pk).update(retires_at=self.now if is_retired else None)

    @rule()
    @precondition(lambda self: Endpoint.objects.alive().exists())
    def the_tick_runs(self) -> None:
        before = dict(Endpoint.objects.values_list("pk", "status"))
        convergence.converge(now=self.now)
        after = list(Endpoint.objects.order_by("pk").values())
        for endpoint in Endpoint.objects.alive():
            assert endpoint.status in self.expected(endpoint, before[endpoint.pk]), endpoint
        events = EndpointEvent.objects.count()
        assert convergence.converge(now=self.now) == 0
        assert list(Endpoint.objects.order_by("pk").values()) == after
        assert EndpointEvent.objects.count() == events

    def expected(self, endpoint: Endpoint, before: str) -> set[str]:
        """The status by the issue's own words; what is not known keeps what was."""
        version = ModelVersion.objects.get(pk=endpoint.version_id)
        if endpoint.desired == "stopped" or version.is_retired(self.now):
            return {Status.STOPPED}
        deployed = version.deployments.filter(server__is_enabled=True)
        states = set(deployed.values_list("server__state", flat=True))
        if "up" in states:
            return {Status.RUNNING}
        if "unknown" in states:
            return {Status.SCHEDULING} if before == Status.STOPPED else {before}
        return {Status.ABNORMAL}

    @invariant()
    def every_move_is_an_arrow_with_an_event_and_a_route_change(self) -> None:
        written = Counter(RouteChange.objects.filter(kind="endpoint").values_list("object_id", flat=True))
        events: dict[str, list[EndpointEvent]] = {}
        for event in EndpointEvent.objects.order_by("pk"):
            events.setdefault(event.endpoint_id, []).append(event)
        for endpoint in Endpoint.objects.all():
            own = events[endpoint.pk]
            assert own[0].from_status == ""
            assert all(event.to_status in ALLOWED[Status(event.from_status)] for event in own[1:])
            assert all(earlier.to_status == later.from_status for earlier, later in pairwise(own))
            assert own[-1].to_status == endpoint.status
            assert endpoint.status_version == len(own) - 1
            assert written[endpoint.pk] == len(own) + self.written.get(endpoint.pk, 0)
            assert endpoint.status_reason in Reason.values

    @invariant()
    def a_project_has_one_preset_endpoint_per_version(self) -> None:
        presets = list(Endpoint.objects.alive().filter(kind="preset").values_list("version_id", flat=True))
        assert len(presets) == len(set(presets))


@pytest.mark.django_db
def test_the_promises_of_the_status_hold_whatever_happens() -> None:
    run_state_machine_as_test(
        Day,
        settings=settings(
            # As the week of a switch: another ten each time, and as many as one asks for.
            max_examples=int(os.environ.get("ARK_TEST_EXAMPLES", "10")),
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
