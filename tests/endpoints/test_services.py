"""What people do with endpoints: as owner, from another project, without the permission, two at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections

from audit.models import Event
from audit.services import verify
from catalog.models import ModelVersion
from common import redis
from common.errors import Conflict, DomainError, NotAllowed
from common.models import RouteChange
from endpoints import services, tasks
from endpoints.models import Endpoint, EndpointEvent
from iam.actors import Actor
from iam.models import Project
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture
def owner() -> Actor:
    return builders.actor(builders.member(builders.project("default"), username="li.wei"))


def create(by: Actor, **values: Any) -> Endpoint:
    values = {
        "project": values.get("project") or builders.project("default"),
        "version": values.get("version") or builders.model_version(servers=[builders.model_server()]),
        "name": " 客服助手 ", "description": "", "rpm": 600, "tpm": 1_000_000, "tags": {"env": "prod"}, **values,
    }  # fmt: skip
    return services.create(**values, by=by, now=NOW)


def edit(endpoint: Endpoint, by: Actor, **values: Any) -> Endpoint:
    values = {
        "revision": endpoint.revision, "name": endpoint.name, "description": endpoint.description,
        "rpm": endpoint.rpm, "tpm": endpoint.tpm, "tags": endpoint.tags, **values,
    }  # fmt: skip
    return services.edit(endpoint=endpoint, **values, by=by, now=NOW + timedelta(minutes=1))


def last_event() -> Event:
    event = Event.objects.order_by("-pk").first()
    assert event is not None
    return event


def routes() -> list[str]:
    return list(RouteChange.objects.order_by("pk").values_list("object_id", flat=True))


def test_a_new_endpoint_is_scheduling_recorded_and_on_its_way_to_the_gateway(owner: Actor) -> None:
    endpoint = create(owner)
    assert endpoint.pk.startswith("ep-20260421180049-")
    stored = Endpoint.objects.get()
    assert (stored.name, stored.status, stored.desired, stored.kind) == ("客服助手", "Scheduling", "running", "custom")
    assert (stored.creator, stored.creator_name, stored.tags) == (owner.user, "li.wei", {"env": "prod"})
    assert EndpointEvent.objects.get().to_status == "Scheduling"
    assert routes() == [endpoint.pk]
    event = last_event()
    assert (event.action, event.outcome, event.resource) == ("ark:CreateEndpoint", "allowed", endpoint.trn)
    assert event.changes["rpm"] == [None, 600]
    assert event.changes["tags"] == [None, {"env": "prod"}]
    assert event.changes["version"] == [None, stored.version.public_id]
    assert (event.actor_name, event.source_ip) == ("li.wei", "192.0.2.7")
    assert verify(project_id="default") is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "  "), ("name", "x" * 65), ("name", "two\nlines"), ("description", "x" * 501), ("description", "\0"),
        ("rpm", 0), ("rpm", 10_000_001), ("tpm", 0), ("tpm", 2_000_000_001),
        ("tags", {"": "x"}), ("tags", {"k" * 65: ""}), ("tags", {"k": "v" * 129}), ("tags", {"a;b": ""}), ("tags", {"a=b": ""}),
        ("tags", {"k": "line\nbreak"}), ("tags", [("k", "1"), (" k ", "2")]), ("tags", {str(n): "" for n in range(21)}),
    ],
)  # fmt: skip
def test_a_value_that_will_not_do_is_refused_by_name_in_create_and_edit(owner: Actor, field: str, value: Any) -> None:
    endpoint = builders.endpoint()
    for attempt in (lambda: create(owner, **{field: value}), lambda: edit(endpoint, owner, **{field: value})):
        with pytest.raises(DomainError) as refusal:
            attempt()
        assert refusal.value.field == field
        assert last_event().outcome == "failed"
    assert Endpoint.objects.count() == 1
    assert routes() == []


def test_the_largest_values_that_will_do_do(owner: Actor) -> None:
    tags = {f"{n:02d}" + "键" * 62: "值" * 128 for n in range(20)}
    values = {"name": "名" * 64, "description": "述" * 500, "rpm": 10_000_000, "tpm": 2_000_000_000, "tags": tags}
    endpoint = create(owner, **values)
    stored = Endpoint.objects.get(pk=endpoint.pk)
    assert {name: getattr(stored, name) for name in values} == values


@pytest.mark.parametrize("state", ["down", "unknown"])
def test_only_a_version_that_is_served_now_can_be_chosen(owner: Actor, state: str) -> None:
    for version in (
        builders.model_version(),
        builders.model_version(servers=[builders.model_server(state=state)]),
        builders.model_version(servers=[builders.model_server()], retires_at=NOW),
    ):
        with pytest.raises(DomainError) as refusal:
            create(owner, version=version)
        assert refusal.value.field == "version"
    assert not Endpoint.objects.exists()


VERBS: dict[str, Callable[[Endpoint, Actor], Any]] = {
    "ark:CreateEndpoint": lambda endpoint, by: create(by, project=endpoint.project),
    "ark:UpdateEndpoint": lambda endpoint, by: edit(endpoint, by, name="new"),
    "ark:StartEndpoint": lambda endpoint, by: services.start(endpoint=endpoint, by=by, now=NOW),
    "ark:StopEndpoint": lambda endpoint, by: services.stop(endpoint=endpoint, by=by, now=NOW),
    "ark:DeleteEndpoint": lambda endpoint, by: services.delete(
        endpoint=endpoint, confirm_name=endpoint.name, by=by, now=NOW
    ),
}


@pytest.mark.parametrize("action", list(VERBS))
@pytest.mark.parametrize("who", ["reads only", "other project", "all but this", "nobody"])
def test_who_lacks_the_permission_is_refused_and_recorded(action: str, who: str) -> None:
    status = "Stopped" if action in ("ark:StartEndpoint", "ark:DeleteEndpoint") else "Running"
    endpoint = builders.endpoint(status=status)
    someone = {
        "reads only": lambda: builders.member(endpoint.project, policy_name="ArkReadOnlyAccess"),
        "other project": lambda: builders.member(builders.project("other")),
        "all but this": lambda: builders.member(endpoint.project, *(set(VERBS) - {action})),
        "nobody": builders.user,
    }[who]()
    before = Endpoint.objects.values().get()
    with pytest.raises(NotAllowed) as refusal:
        VERBS[action](endpoint, builders.actor(someone))
    assert refusal.value.action == action
    assert Endpoint.objects.values().get() == before
    event = last_event()
    assert (event.action, event.outcome, event.project_id) == (action, "denied", "default")
    assert routes() == []


@pytest.mark.parametrize("action", list(VERBS))
def test_the_single_permission_is_enough(action: str) -> None:
    status = "Stopped" if action in ("ark:StartEndpoint", "ark:DeleteEndpoint") else "Running"
    endpoint = builders.endpoint(status=status)
    VERBS[action](endpoint, builders.actor(builders.member(endpoint.project, action)))
    assert last_event().outcome == "allowed"
    assert len(routes()) == 1


def test_stop_and_start_take_effect_at_once_and_say_who(owner: Actor) -> None:
    endpoint = builders.endpoint()
    stopped = services.stop(endpoint=endpoint, by=owner, now=NOW)
    assert (stopped.status, stopped.desired, stopped.status_reason, stopped.status_subject) == (
        "Stopped", "stopped", "stopped_by", "li.wei",
    )  # fmt: skip
    assert last_event().changes == {"status": ["Running", "Stopped"]}
    with pytest.raises(DomainError):
        services.stop(endpoint=stopped, by=owner, now=NOW)
    started = services.start(endpoint=endpoint, by=owner, now=NOW)
    assert (started.status, started.desired, started.status_reason) == ("Scheduling", "running", "started")
    with pytest.raises(DomainError):
        services.start(endpoint=started, by=owner, now=NOW)
    assert list(EndpointEvent.objects.order_by("pk").values_list("to_status", "actor_name")) == [
        ("Stopped", "li.wei"), ("Scheduling", "li.wei"),
    ]  # fmt: skip
    assert routes() == [endpoint.pk] * 2
    assert verify(project_id="default") is None


def test_an_endpoint_of_a_retired_model_is_not_started(owner: Actor) -> None:
    endpoint = builders.endpoint(status="Stopped", desired="stopped")
    ModelVersion.objects.update(retires_at=NOW)
    endpoint.refresh_from_db()
    with pytest.raises(DomainError):
        services.start(endpoint=endpoint, by=owner, now=NOW)


def test_a_preset_endpoint_is_edited_and_deleted_but_never_stopped_or_started(owner: Actor) -> None:
    preset = builders.endpoint(kind="preset")
    with pytest.raises(DomainError):
        services.stop(endpoint=preset, by=owner, now=NOW)
    with pytest.raises(DomainError):
        services.start(endpoint=preset, by=owner, now=NOW)
    assert edit(preset, owner, rpm=5).rpm == 5
    services.delete(endpoint=preset, confirm_name=preset.name, by=owner, now=NOW)
    assert not Endpoint.objects.alive().exists()


def test_deleting_needs_a_stopped_endpoint_and_its_name_and_keeps_the_row(owner: Actor) -> None:
    endpoint = builders.endpoint(name="客服助手")
    with pytest.raises(DomainError) as refusal:
        services.delete(endpoint=endpoint, confirm_name="客服助手", by=owner, now=NOW)
    assert refusal.value.field is None
    services.stop(endpoint=endpoint, by=owner, now=NOW)
    with pytest.raises(DomainError) as refusal:
        services.delete(endpoint=endpoint, confirm_name="客服", by=owner, now=NOW)
    assert refusal.value.field == "confirm_name"
    services.delete(endpoint=endpoint, confirm_name=" 客服助手 ", by=owner, now=NOW)
    assert Endpoint.objects.get().deleted_at == NOW
    assert (last_event().action, last_event().changes) == ("ark:DeleteEndpoint", {"deleted": [False, True]})
    for verb in VERBS.values():
        if verb is not VERBS["ark:CreateEndpoint"]:
            with pytest.raises(DomainError):
                verb(endpoint, owner)


def test_an_edit_records_only_what_changed_and_one_that_changes_nothing_keeps_the_revision(owner: Actor) -> None:
    endpoint = builders.endpoint(tags={"env": "test"})
    edited = edit(endpoint, owner, rpm=10, tags={"env": "prod"})
    assert (edited.revision, edited.rpm, edited.tags) == (1, 10, {"env": "prod"})
    assert last_event().changes == {"rpm": [600, 10], "tags": [{"env": "test"}, {"env": "prod"}]}
    again = edit(edited, owner)
    assert again.revision == 1
    assert last_event().changes == {}
    assert routes() == [endpoint.pk]


def test_who_saves_second_is_told_what_others_changed_and_nothing_of_theirs_is_lost(owner: Actor) -> None:
    endpoint = builders.endpoint(name="old")
    first = builders.actor(builders.member(endpoint.project))
    edit(endpoint, first, name="theirs")
    edit(Endpoint.objects.get(), first, rpm=1_200)
    with pytest.raises(Conflict) as conflict:
        edit(endpoint, owner, description="mine", tpm=5)
    assert conflict.value.current == {"name": ["old", "theirs"], "rpm": ["600", "1200"], "tpm": ["5", "1000000"]}
    stored = Endpoint.objects.get()
    assert (stored.name, stored.rpm, stored.description, stored.revision) == ("theirs", 1_200, "", 2)
    assert last_event().outcome == "failed"
    saved = edit(stored, owner, description="mine", tpm=5)
    assert (saved.name, saved.rpm, saved.tpm, saved.description) == ("theirs", 1_200, 5, "mine")


def test_two_people_who_save_the_same_values_do_not_quarrel(owner: Actor) -> None:
    endpoint = builders.endpoint()
    edit(endpoint, builders.actor(builders.member(endpoint.project)), name="same")
    saved = edit(endpoint, owner, name="same", description="more")
    assert (saved.name, saved.description, saved.revision) == ("same", "more", 2)


def test_tags_in_a_conflict_read_like_tags(owner: Actor) -> None:
    endpoint = builders.endpoint(tags={"b": "2"})
    edit(endpoint, builders.actor(builders.member(endpoint.project)), tags={"c": "", "a": "1"})
    with pytest.raises(Conflict) as conflict:
        edit(endpoint, owner)
    assert conflict.value.current == {"tags": ["b=2", "a=1, c"]}


@pytest.mark.parametrize(("state", "status"), [("up", "Running"), ("down", "Abnormal"), ("unknown", "Scheduling")])
def test_a_preset_endpoint_appears_in_the_status_of_its_servers(state: str, status: str) -> None:
    version = builders.model_version(servers=[builders.model_server(state=state)], default_rpm=7, default_tpm=70)
    builders.project("default")
    made = services.ensure_preset(project_id="default", version_id=version.pk, now=NOW)
    assert made.pk.startswith("ep-m-20260421180049-")
    assert (made.status, made.kind, made.name, made.rpm, made.tpm) == (status, "preset", version.public_id, 7, 70)
    assert services.ensure_preset(project_id="default", version_id=version.pk, now=NOW).pk == made.pk
    event = last_event()
    assert (event.actor_name, event.action, event.sequence) == ("system", "ark:CreateEndpoint", 1)
    assert routes() == [made.pk]
    assert EndpointEvent.objects.get().to_status == status


def test_a_deleted_preset_endpoint_comes_back_with_a_new_id(owner: Actor) -> None:
    version = builders.model_version(servers=[builders.model_server()])
    builders.project("default")
    first = services.ensure_preset(project_id="default", version_id=version.pk, now=NOW)
    services.delete(endpoint=first, confirm_name=first.name, by=owner, now=NOW)
    assert services.ensure_preset(project_id="default", version_id=version.pk, now=NOW).pk != first.pk


def test_there_is_no_preset_endpoint_of_what_is_not_there() -> None:
    version = builders.model_version(retires_at=NOW)
    builders.project("default")
    for project_id, version_id in (("default", version.pk), ("default", 0), ("none", version.pk)):
        with pytest.raises(DomainError):
            services.ensure_preset(project_id=project_id, version_id=version_id, now=NOW)
    assert not Endpoint.objects.exists()


def at_once(count: int, act: Callable[[], Any]) -> list[Any]:
    """Run `act` in `count` threads that begin together; what each returned or raised."""
    barrier, results = threading.Barrier(count), []

    def run() -> None:
        try:
            barrier.wait(timeout=10)
            results.append(act())
        except Exception as error:  # noqa: BLE001 - handed to the test
            results.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return results


@pytest.mark.django_db(transaction=True)
def test_eight_first_calls_at_once_make_one_preset_endpoint() -> None:
    if connection.vendor == "sqlite":
        pytest.skip("tests have SQLite in memory, where a locked table is an error at once")
    version = builders.model_version(servers=[builders.model_server()])
    builders.project("default")
    made = at_once(8, lambda: services.ensure_preset(project_id="default", version_id=version.pk, now=NOW).pk)
    assert len(made) == 8
    assert set(made) == {Endpoint.objects.get().pk}
    assert [event.outcome for event in Event.objects.all()] == ["allowed"]


@pytest.mark.django_db(transaction=True)
def test_of_eight_edits_at_once_one_is_saved_and_seven_are_told() -> None:
    if connection.vendor == "sqlite":
        pytest.skip("tests have SQLite in memory, where a locked table is an error at once")
    endpoint = builders.endpoint()
    by = builders.actor(builders.member(endpoint.project))
    names = iter(f"name {n}" for n in range(8))
    results = at_once(8, lambda: edit(Endpoint.objects.get(), by, revision=0, name=next(names)))
    assert sorted(type(result).__name__ for result in results) == ["Conflict"] * 7 + ["Endpoint"]
    stored = Endpoint.objects.get()
    assert stored.revision == 1
    assert all(result.current["name"][1] == stored.name for result in results if isinstance(result, Conflict))
    assert verify(project_id="default") is None


@pytest.mark.django_db(transaction=True)
def test_with_redis_away_a_saved_change_is_no_error_and_the_page_does_not_wait_twice(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    redis.client.cache_clear()
    tasks.circuit.close()
    try:
        endpoint = create(builders.actor())
        assert Endpoint.objects.get().pk == endpoint.pk
        assert tasks.circuit.is_open
    finally:
        redis.client.cache_clear()
        tasks.circuit.close()


def test_the_project_of_an_actor_is_not_needed_to_see_it_named_in_the_record(owner: Actor) -> None:
    Project.objects.filter(pk="default").update(name="默认项目")
    services.stop(endpoint=builders.endpoint(), by=owner, now=NOW)
    assert (last_event().project_id, last_event().project_name) == ("default", "默认项目")
