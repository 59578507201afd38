"""Routes as they are in the database: what the gateway reads of the rooms' own models."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone
from pytest_django.fixtures import DjangoAssertNumQueries

from catalog.models import ModelServer
from common import routing
from common.models import RouteChange
from endpoints.models import Endpoint, Status, VersionSwitch
from gateway.routes import NotServed, SwitchRoute
from gateway.source import DjangoSource
from gateway.upstream import Origin
from iam.models import KeyScope
from tests import builders

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def test_versions_come_with_their_enabled_deployments_on_enabled_servers(
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    model = builders.foundation_model(name="demo-fast", domain="chat")
    up = builders.model_server(
        base_url="https://models.example:8443/openai/v1/", api_key="sk-very-secret", accepts_stream_options=False,
        connect_timeout_seconds=3, read_timeout_seconds=90,
    )  # fmt: skip
    down = builders.model_server(state="down", base_url="http://10.0.0.5/v1")
    off = builders.model_server(is_enabled=False)
    version = builders.model_version(model=model, version="251001", default_output_tokens=512)
    builders.deployment(version=version, server=up, upstream_model='org/"model"', weight=5)
    builders.deployment(version=version, server=down)
    builders.deployment(version=version, server=off)
    builders.deployment(version=version, server=up, upstream_model="other", is_enabled=False)

    with django_assert_max_num_queries(5):
        [found] = [row for row in DjangoSource().versions() if row.id == version.pk]
    assert (found.model_id, found.model_json) == ("demo-fast-251001", b'"demo-fast-251001"')
    assert (found.base_model, found.domain, found.default_output_tokens) == ("demo-fast", "chat", 512)
    first, second = found.deployments
    assert first.server.origin == Origin("models.example", 8443, is_tls=True)
    assert (first.server.base_path, first.server.api_key) == ("/openai/v1", "sk-very-secret")
    assert (first.server.connect_seconds, first.server.read_seconds) == (3.0, 90.0)
    assert not first.server.accepts_stream_options
    assert (bytes(first.upstream_json), first.weight) == (b'"org/\\"model\\""', 5)
    assert not second.server.is_up
    assert "sk-very-secret" not in repr(found)
    head = first.server.head("/chat/completions", "application/json")
    assert head.startswith(b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: models.example:8443\r\n")


def test_a_server_whose_key_cannot_be_read_is_left_out_and_the_others_stay() -> None:
    broken, sneaky, good = builders.model_server(api_key="sk-1"), builders.model_server(), builders.model_server()
    version = builders.model_version(servers=[broken, sneaky, good])
    ModelServer.objects.filter(pk=sneaky.pk).update(api_key="sk\r\nX-Evil: 1")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE catalog_modelserver SET api_key = 'not a token' WHERE id = %s", [broken.pk])
    [found] = [row for row in DjangoSource().versions() if row.id == version.pk]
    assert [deployment.server.id for deployment in found.deployments] == [good.pk]


def test_endpoints_are_read_all_or_by_id_and_never_deleted_ones() -> None:
    one = builders.endpoint(rpm=5, tpm=700, status=Status.ABNORMAL)
    gone = builders.endpoint(deleted_at=NOW)
    [found] = DjangoSource().endpoints([one.pk, gone.pk, "ep-none"])
    assert (found.id, found.project_id, found.version_id) == (one.pk, "default", one.version_id)
    assert (found.rpm, found.tpm, found.status, found.is_preset, found.is_open) == (5, 700, "Abnormal", False, True)
    assert {row.id for row in DjangoSource().endpoints(None)} == {one.pk}


def test_a_key_is_found_by_its_digest_with_scope_networks_and_expiry() -> None:
    digest = hashlib.sha256(b"the key").digest()
    row = builders.api_key(
        digest=digest.hex(), allowed_ips=["10.0.0.0/8", "192.0.2.7"], expires_at=NOW + timedelta(days=1)
    )
    KeyScope.objects.create(key=row, resource_type="endpoint", resource_id="ep-1")
    found = DjangoSource().key(digest)
    assert found is not None
    assert (found.id, found.project_id, found.scopes) == (row.pk, "default", frozenset({("endpoint", "ep-1")}))
    assert found.networks is not None
    assert len(found.networks) == 2
    assert found.expires_at == pytest.approx((NOW + timedelta(days=1)).timestamp())
    assert DjangoSource().key(hashlib.sha256(b"another").digest()) is None


def test_a_key_without_scope_is_for_the_whole_project_and_a_deleted_one_is_none() -> None:
    plain = builders.api_key(digest=hashlib.sha256(b"plain").hexdigest())
    builders.api_key(digest=hashlib.sha256(b"gone").hexdigest(), deleted_at=NOW)
    found = DjangoSource().key(hashlib.sha256(b"plain").digest())
    assert found is not None
    assert (found.id, found.scopes, found.networks, found.expires_at) == (plain.pk, None, None, None)
    assert DjangoSource().key(hashlib.sha256(b"gone").digest()) is None


def test_the_preset_endpoint_is_made_once() -> None:
    builders.project("default")
    version = builders.model_version(servers=[builders.model_server()])
    first = DjangoSource().preset("default", version.pk)
    assert first.is_preset
    assert first.id.startswith("ep-m-")
    assert DjangoSource().preset("default", version.pk) == first
    assert Endpoint.objects.filter(version=version).count() == 1


def test_a_retired_version_gets_no_preset_endpoint() -> None:
    builders.project("default")
    version = builders.model_version(servers=[builders.model_server()], retires_at=NOW - timedelta(days=1))
    with pytest.raises(NotServed):
        DjangoSource().preset("default", version.pk)


def test_changes_are_read_in_order_after_a_position() -> None:
    routing.announce(kind=RouteChange.Kind.ENDPOINT, object_ids=["ep-1", "ep-2"], now=NOW)
    routing.announce(kind=RouteChange.Kind.KEY, object_ids=["7"], now=NOW)
    last = DjangoSource().last_change()
    found = DjangoSource().changes(last - 2)
    assert [(change.kind, change.object_id) for change in found] == [("endpoint", "ep-2"), ("key", "7")]
    assert DjangoSource().changes(last) == []


@pytest.mark.parametrize("state", list(VersionSwitch.State))
def test_an_endpoint_comes_with_its_open_switch_in_the_same_query(
    state: VersionSwitch.State, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    one, other = builders.endpoint(), builders.endpoint()
    target = builders.model_version(servers=[builders.model_server()])
    weight = {"completed": 100, "rolled_back": 0, "cancelled": 0}.get(state, 30)

    def switch(state: VersionSwitch.State, weight: int) -> VersionSwitch:
        return VersionSwitch.objects.create(
            endpoint=one, source=one.version, target=target, state=state, weight=weight, soak=4,
            ladder=[{"weight": 100, "hold_seconds": 60}], ticked_at=NOW, check_at=NOW, created_at=NOW,
        )  # fmt: skip

    switch(VersionSwitch.State.ROLLED_BACK, 0)
    row = switch(state, weight)
    with django_assert_num_queries(1):
        found = {route.id: route for route in DjangoSource().endpoints(None)}
    assert found[other.pk].switch is None
    wanted = SwitchRoute(row.pk, 4, weight, target.pk) if row.is_open else None
    assert found[one.pk].switch == wanted
    assert DjangoSource().endpoints([one.pk]) == [found[one.pk]]
    assert found[one.pk].version_id == one.version_id
