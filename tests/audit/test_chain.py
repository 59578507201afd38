"""The audit record: chained, append-only, and true also of what failed."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction

from audit import services
from audit.models import AppendOnly, Event, Head
from common.errors import DomainError, NotAllowed
from iam.actors import SYSTEM, Actor
from iam.models import Project
from tests import builders
from tests.builders import NOW
from tests.servers import PostgresServer

SOMEBODY = Actor(id="7", name="li.wei", source_ip="192.0.2.7", request_id="r1")


def append(project_id: str = "default", action: str = "ark:StopEndpoint", **values: Any) -> Event:
    with services.attempt(
        by=SOMEBODY, action=action, project_id=project_id, project_name="Default", now=NOW,
        resource="trn:ark:local:arkconsole:endpoint/ep-1", resource_name="客服助手", **values,
    ) as noted:  # fmt: skip
        noted.changed(status=("Running", "Stopped"), rpm=(600, 600))
    return Event.objects.filter(project_id=project_id).latest("sequence")


@pytest.mark.django_db
def test_an_act_is_recorded_with_who_what_and_the_fields_that_changed() -> None:
    event = append()

    assert (event.actor_id, event.actor_name, event.source_ip, event.request_id) == ("7", "li.wei", "192.0.2.7", "r1")
    assert (event.action, event.outcome, event.sequence) == ("ark:StopEndpoint", "allowed", 1)
    assert event.changes == {"status": ["Running", "Stopped"]}


@pytest.mark.django_db
def test_each_project_has_a_chain_of_its_own() -> None:
    for project_id in ("a", "b", "a", "a"):
        append(project_id)

    assert [event.sequence for event in Event.objects.filter(project_id="a").order_by("sequence")] == [1, 2, 3]
    assert {project: services.verify(project_id=project) for project in services.chains()} == {"a": None, "b": None}


@pytest.mark.django_db
def test_each_event_carries_the_hash_of_the_one_before() -> None:
    first, second = append(), append()

    assert first.previous_hash == "0" * 64
    assert second.previous_hash == first.hash


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (NotAllowed("You may not.", action="ark:StopEndpoint"), "denied", "You may not."),
        (DomainError("It is stopped already."), "failed", "It is stopped already."),
        (ZeroDivisionError("a secret in a traceback"), "failed", "ZeroDivisionError"),
    ],
)
def test_what_was_refused_or_failed_is_recorded_after_its_work_was_rolled_back(
    error: Exception, outcome: str, reason: str
) -> None:
    with (
        pytest.raises(type(error)),
        services.attempt(by=SOMEBODY, action="ark:StopEndpoint", project_id="default", now=NOW) as noted,
    ):
        builders.project("made-on-the-way")
        noted.changed(status=("Running", "Stopped"))
        raise error

    event = Event.objects.get()
    assert (event.outcome, event.reason, event.changes) == (outcome, reason, {})
    assert not Project.objects.filter(pk="made-on-the-way").exists()
    assert services.verify(project_id="default") is None


@pytest.mark.django_db(transaction=True)
def test_threads_that_append_at_once_leave_one_unbroken_chain(postgres: PostgresServer) -> None:
    append()
    errors: list[Exception] = []

    def work() -> None:
        try:
            for _turn in range(10):
                append()
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert errors == []
    assert Event.objects.filter(project_id="default").count() == 61
    assert services.verify(project_id="default") is None


TAMPERED = {
    "project_name": "Another", "at": NOW + timedelta(microseconds=1), "actor_id": "8", "actor_name": "wang",
    "action": "ark:StartEndpoint", "resource": "trn:other", "resource_name": "other", "outcome": "denied",
    "reason": "because", "source_ip": "192.0.2.8", "request_id": "r2", "changes": {"status": ["Running", "Running"]},
}  # fmt: skip


def tamper(sequence: int, **columns: Any) -> None:
    """Change a row as somebody with the database's password would."""
    with connection.cursor() as cursor:
        for name, value in columns.items():
            field: Any = Event._meta.get_field(name)
            plain = field.get_db_prep_save(value, connection)
            cursor.execute(f"UPDATE audit_event SET {name} = %s WHERE sequence = %s", [plain, sequence])


@pytest.mark.django_db
@pytest.mark.parametrize("column", sorted(TAMPERED))
def test_a_change_of_any_column_is_found(column: str) -> None:
    for _turn in range(3):
        append()
    tamper(2, **{column: TAMPERED[column]})

    link = services.verify(project_id="default")

    assert link is not None
    assert (link.sequence, link.why) == (2, "was changed after it was written")


@pytest.mark.django_db
def test_every_column_of_an_event_is_covered_by_the_case_above() -> None:
    columns = {field.name for field in Event._meta.concrete_fields}

    assert columns - set(TAMPERED) == {"id", "project_id", "sequence", "previous_hash", "hash"}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("statement", "sequence", "why"),
    [
        ("DELETE FROM audit_event WHERE sequence = 2", 2, "is missing"),
        ("DELETE FROM audit_event WHERE sequence = 1", 1, "is missing"),
        ("DELETE FROM audit_event WHERE sequence = 3", 3, "is missing at the end of the chain"),
        ("UPDATE audit_event SET previous_hash = 'x' WHERE sequence = 2", 2, "does not follow the event before it"),
        ("UPDATE audit_event SET hash = 'x' WHERE sequence = 2", 2, "was changed after it was written"),
        ("DELETE FROM audit_head", 4, "has no head"),
    ],
)
def test_what_is_missing_or_out_of_place_is_found(statement: str, sequence: int, why: str) -> None:
    for _turn in range(3):
        append()
    with connection.cursor() as cursor:
        cursor.execute(statement)

    link = services.verify(project_id="default")

    assert link is not None
    assert (link.sequence, link.why) == (sequence, why)


@pytest.mark.django_db
def test_events_refuse_to_be_changed_or_removed() -> None:
    event = append()

    for attempt in (
        event.save,
        event.delete,
        Event.objects.all().delete,
        lambda: Event.objects.update(reason="x"),
        lambda: Event.objects.bulk_update([event], ["reason"]),
    ):
        with pytest.raises(AppendOnly), transaction.atomic():
            attempt()
    assert Event.objects.get().reason == ""


@pytest.mark.django_db
def test_an_event_that_is_part_of_an_outer_transaction_goes_with_it() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        append()
        raise ZeroDivisionError

    assert not Event.objects.exists()
    assert not Head.objects.filter(sequence__gt=0).exists()


@pytest.mark.django_db
def test_verify_audit_says_that_every_chain_holds(capsys: pytest.CaptureFixture[str]) -> None:
    append("a")
    append("b")

    call_command("verify_audit")

    assert capsys.readouterr().out.splitlines() == ["a: holds", "b: holds"]


@pytest.mark.django_db
def test_verify_audit_names_the_first_broken_link_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    for project_id in ("a", "b", "b", "b"):
        append(project_id)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE audit_event SET actor_name = 'nobody' WHERE project_id = 'b' AND sequence >= 2")

    with pytest.raises(CommandError) as caught:
        call_command("verify_audit")

    assert caught.value.returncode == 1
    assert capsys.readouterr().out.splitlines() == ["a: holds", "b: event 2 was changed after it was written"]


@pytest.mark.django_db
def test_a_value_that_json_does_not_know_is_kept_as_text() -> None:
    with services.attempt(by=SYSTEM, action="ark:UpdateEndpoint", project_id="default", now=NOW) as noted:
        noted.changed(expires_at=(None, NOW), tags=({"a": 1}, {"a": {2}}))

    event = Event.objects.get()
    assert event.changes == {"expires_at": [None, NOW.isoformat()], "tags": [{"a": 1}, {"a": [2]}]}
    assert services.verify(project_id="default") is None


@pytest.mark.django_db
def test_text_that_no_database_takes_is_recorded_without_it() -> None:
    with services.attempt(by=SYSTEM, action="ark:X", project_id="default", now=NOW, resource_name="a\x00b") as noted:
        noted.changed(name=("a\x00", "b"))

    assert Event.objects.get().resource_name == "ab"
