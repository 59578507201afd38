"""What people do with version switches: as owner, read-only, from another project; what fits, and two at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, connections, transaction
from django.utils.translation import override
from pytest_django import DjangoAssertNumQueries

from audit.models import Event
from audit.services import verify
from catalog.models import ModelServer, ModelVersion
from common.errors import Conflict, DomainError, NotAllowed
from common.models import RouteChange
from endpoints import services, switch_preview, switch_services, switch_tick, switching
from endpoints.models import Endpoint, SwitchEvent, VersionSwitch
from endpoints.switching import CUT_OVER, DEFAULT_GATES, LADDERS, Gates, Rung, Verb
from iam.actors import Actor
from metering import drain
from tests import builders
from tests.builders import NOW, usage_event
from tests.metering.conftest import Send, send, stream  # noqa: F401 - fixtures
from tests.servers import ON_SQLITE

pytestmark = pytest.mark.django_db
LATER = NOW + timedelta(seconds=7)


@pytest.fixture(autouse=True)
def _in_english() -> Iterator[None]:
    with override("en", deactivate=True):
        yield


@pytest.fixture
def owner() -> Actor:
    return builders.actor(builders.member(builders.project("default"), username="li.wei"))


def target_version(**values: Any) -> ModelVersion:
    return builders.model_version(servers=[builders.model_server(probed_at=NOW)], **values)


def start(endpoint: Endpoint, target: ModelVersion, by: Actor, **values: Any) -> VersionSwitch:
    values = {
        "ladder": LADDERS["default"], "gates": DEFAULT_GATES, "on_breach": "hold", "warm": False, "confirmed": True,
        "reason": " cheaper ", **values,
    }  # fmt: skip
    return switch_services.start(endpoint=endpoint, target=target, **values, by=by, now=NOW)


def do(verb: Verb, switch: VersionSwitch, by: Actor, **values: Any) -> VersionSwitch:
    """The service of a verb, as the page calls it."""
    service: Callable[..., VersionSwitch] = {
        Verb.PAUSE: switch_services.pause,
        Verb.RESUME: switch_services.resume,
        Verb.STEP_BACK: switch_services.step_back,
        Verb.ADVANCE: switch_services.advance,
        Verb.RETURN: switch_services.return_gradually,
        Verb.ROLL_BACK: switch_services.roll_back_now,
        Verb.FINISH: switch_services.finish_now,
        Verb.CANCEL: switch_services.cancel,
    }[verb]
    if verb != Verb.ROLL_BACK:
        values.setdefault("seen_moves", switch.moves)
    if verb == Verb.RETURN:
        values.setdefault("hold_seconds", 60)
    return service(switch=switch, **{"reason": "why not", "now": LATER, **values}, by=by)


def log(switch: VersionSwitch) -> list[tuple[str, int, int, int]]:
    return list(switch.events.values_list("kind", "rung", "weight", "soak"))


def routes(endpoint: Endpoint) -> int:
    return RouteChange.objects.filter(kind="endpoint", object_id=endpoint.pk).count()


# --- starting


def test_a_switch_begins_with_nothing_moved_and_asks_for_a_probe(owner: Actor) -> None:
    endpoint, target = builders.endpoint(), target_version()

    switch = start(endpoint, target, owner)

    stored = switch_services.open_switch(endpoint.pk)
    assert stored == switch
    assert stored is not None
    assert (stored.state, stored.rung, stored.weight, stored.soak, stored.moves) == ("preparing", -1, 0, 0, 0)
    assert (stored.source, stored.target, stored.reason) == (endpoint.version, target, "cheaper")
    assert (stored.started_by_id, stored.started_by_name) == (owner.id, "li.wei")
    assert switching.ladder_of(stored) == LADDERS["default"]
    assert log(stored) == [("started", -1, 0, 0)]
    assert routes(endpoint) == 1
    assert target.deployments.get().server.next_probe_at == NOW
    event = Event.objects.get()
    assert (event.action, event.outcome, event.resource) == (switch_services.START, "allowed", endpoint.trn)
    assert event.changes["version"] == [endpoint.version.public_id, target.public_id]
    assert verify(project_id="default") is None


@pytest.mark.parametrize(
    ("values", "field", "says"),
    [
        ({"ladder": [Rung(50, 60)]}, "ladder", "100 percent"),
        ({"gates": Gates()}, "gates", "at least one gate"),
        ({"on_breach": "shrug"}, "on_breach", "breach"),
        ({"confirmed": False}, "confirmed", "Confirm"),
        ({"reason": "x" * 501}, "reason", "500"),
    ],
)
def test_a_plan_that_will_not_do_starts_nothing(owner: Actor, values: dict[str, Any], field: str, says: str) -> None:
    endpoint, target = builders.endpoint(), target_version()
    with pytest.raises(DomainError, match=says) as refusal:
        start(endpoint, target, owner, **values)
    assert refusal.value.field == field
    assert not VersionSwitch.objects.exists()
    assert Event.objects.get().outcome == "failed"


def retired() -> ModelVersion:
    return target_version(retires_at=NOW)


def of_another_kind() -> ModelVersion:
    return target_version(model=builders.foundation_model(domain="embedding"))


def unswitchable() -> ModelVersion:
    return target_version(is_switchable=False)


def down() -> ModelVersion:
    return builders.model_version(servers=[builders.model_server(state="down")])


def homeless() -> ModelVersion:
    return builders.model_version()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (retired, "Retired"),
        (of_another_kind, "another kind of task"),
        (unswitchable, "does not offer it"),
        (down, "is down"),
        (homeless, "No model server runs it"),
    ],
)
def test_a_target_that_will_not_do_is_greyed_with_the_sentence_that_refuses_it(
    owner: Actor, make: Callable[[], ModelVersion], says: str
) -> None:
    endpoint, target, good = builders.endpoint(), make(), target_version()

    options = switch_preview.targets(endpoint=endpoint, now=NOW)
    with pytest.raises(DomainError, match=says) as refusal:
        start(endpoint, target, owner)

    assert refusal.value.field == "target"
    assert [(option.version, option.is_eligible) for option in options] == [(good, True), (target, False)]
    assert options[1].why_not == refusal.value.message


def test_an_endpoint_is_not_switched_to_what_it_serves(owner: Actor) -> None:
    endpoint = builders.endpoint()
    with pytest.raises(DomainError, match="serves this version already"):
        start(endpoint, endpoint.version, owner)


def test_a_preset_a_stopped_and_a_deleted_endpoint_are_not_switched(owner: Actor) -> None:
    target = target_version()
    with pytest.raises(DomainError, match="preset"):
        start(builders.endpoint(kind="preset"), target, owner)
    with pytest.raises(DomainError, match="stopped"):
        start(builders.endpoint(desired="stopped", status="Stopped"), target, owner)
    with pytest.raises(DomainError, match="deleted"):
        start(builders.endpoint(deleted_at=NOW), target, owner)


def test_an_endpoint_has_one_open_switch_by_service_and_by_constraint(owner: Actor) -> None:
    endpoint, target = builders.endpoint(), target_version()
    switch = start(endpoint, target, owner)
    with pytest.raises(DomainError, match="under way already"):
        start(endpoint, target_version(), owner)
    with pytest.raises(IntegrityError), transaction.atomic():
        builders.version_switch(endpoint=endpoint)
    do(Verb.ROLL_BACK, switch, owner)
    assert start(endpoint, target_version(), owner).is_open


@pytest.mark.parametrize("values", [{"weight": 101}, {"state": "rolled_back"}, {"state": "completed"}])
def test_a_weight_that_does_not_fit_is_refused_by_the_database(values: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        builders.version_switch(**values)


def test_a_switch_to_where_it_comes_from_is_refused_by_the_database() -> None:
    endpoint = builders.endpoint()
    with pytest.raises(IntegrityError), transaction.atomic():
        builders.version_switch(endpoint=endpoint, target=endpoint.version)


def test_embeddings_are_cut_over_in_one_step(owner: Actor) -> None:
    def embedding() -> ModelVersion:
        return target_version(model=builders.foundation_model(domain="embedding"))

    endpoint, target = builders.endpoint(version=embedding()), embedding()
    with pytest.raises(DomainError, match="do not mix"):
        start(endpoint, target, owner, gates=None)
    with pytest.raises(DomainError, match="nothing to compare"):
        start(endpoint, target, owner, ladder=CUT_OVER)
    assert start(endpoint, target, owner, ladder=CUT_OVER, gates=Gates(error_rate_percent=5)).is_open


# --- moving

MOVES: list[tuple[str, int, str, Verb, tuple[str, int, int], str]] = [
    ("climbing", 1, "up", Verb.PAUSE, ("paused", 1, 40), "paused"),
    ("preparing", -1, "up", Verb.PAUSE, ("paused", -1, 0), "paused"),
    ("returning", 1, "down", Verb.PAUSE, ("paused", 1, 40), "paused"),
    ("paused", 1, "up", Verb.RESUME, ("climbing", 1, 40), "resumed"),
    ("paused", -1, "up", Verb.RESUME, ("preparing", -1, 0), "resumed"),
    ("paused", 1, "down", Verb.RESUME, ("returning", 1, 40), "resumed"),
    ("climbing", 1, "up", Verb.STEP_BACK, ("climbing", 0, 10), "stepped_back"),
    ("paused", 3, "up", Verb.STEP_BACK, ("paused", 2, 70), "stepped_back"),
    ("returning", 1, "down", Verb.STEP_BACK, ("returning", 0, 10), "stepped_back"),
    ("climbing", 1, "up", Verb.ADVANCE, ("climbing", 2, 70), "advanced_by_hand"),
    ("paused", 1, "up", Verb.ADVANCE, ("paused", 2, 70), "advanced_by_hand"),
    ("preparing", -1, "up", Verb.ADVANCE, ("climbing", 0, 10), "advanced_by_hand"),
    ("climbing", 1, "up", Verb.RETURN, ("returning", 0, 10), "returning"),
    ("climbing", 0, "up", Verb.RETURN, ("rolled_back", -1, 0), "rolled_back"),
    ("paused", 2, "down", Verb.RETURN, ("returning", 1, 40), "returning"),
    ("climbing", 3, "up", Verb.ROLL_BACK, ("rolled_back", -1, 0), "rolled_back"),
    ("paused", 3, "down", Verb.ROLL_BACK, ("rolled_back", -1, 0), "rolled_back"),
    ("returning", 0, "down", Verb.ROLL_BACK, ("rolled_back", -1, 0), "rolled_back"),
    ("preparing", -1, "up", Verb.ROLL_BACK, ("rolled_back", -1, 0), "rolled_back"),
    ("climbing", 0, "up", Verb.FINISH, ("completed", 3, 100), "finished"),
    ("paused", 1, "up", Verb.FINISH, ("completed", 3, 100), "finished"),
    ("preparing", -1, "up", Verb.CANCEL, ("cancelled", -1, 0), "cancelled"),
    ("paused", -1, "up", Verb.CANCEL, ("cancelled", -1, 0), "cancelled"),
]


@pytest.mark.parametrize(("state", "rung", "direction", "verb", "after", "kind"), MOVES)
def test_each_verb_moves_the_switch_and_says_so_everywhere(
    owner: Actor, state: str, rung: int, direction: str, verb: Verb, after: tuple[str, int, int], kind: str
) -> None:
    switch = builders.version_switch(state=state, rung=rung, direction=direction, return_hold_seconds=60)
    weight = switch.weight

    moved = do(verb, switch, owner)

    stored = VersionSwitch.objects.get(pk=switch.pk)
    assert (stored.state, stored.rung, stored.weight) == after == (moved.state, moved.rung, moved.weight)
    assert stored.moves == 3
    assert stored.soak == (2 if verb in (Verb.PAUSE, Verb.RESUME, Verb.CANCEL) or (rung == -1 == after[1]) else 3)
    line = stored.events.get()
    assert (line.kind, line.from_weight, line.weight, line.reason) == (kind, weight, after[2], "why not")
    assert (line.actor_id, line.actor_name) == (owner.id, "li.wei")
    assert routes(switch.endpoint) == 1
    event = Event.objects.get()
    assert (event.action, event.outcome) == (switch_services.PERMISSION[verb], "allowed")
    assert event.changes.get("weight", [weight, weight]) == [weight, after[2]]
    endpoint = Endpoint.objects.get(pk=switch.endpoint_id)
    assert endpoint.version_id == (switch.target_id if after[0] == "completed" else switch.source_id)
    assert (stored.ended_at == LATER) == (not stored.is_open)


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize(
    ("state", "rung", "direction"),
    [
        ("preparing", -1, "up"), ("climbing", 0, "up"), ("climbing", 3, "up"), ("paused", -1, "up"),
        ("paused", 1, "down"), ("returning", 0, "down"), ("completed", 3, "up"), ("rolled_back", -1, "up"),
        ("cancelled", -1, "up"),
    ],
)  # fmt: skip
def test_a_verb_that_does_not_fit_is_refused_with_a_sentence(
    owner: Actor, state: str, rung: int, direction: str, verb: Verb
) -> None:
    switch = builders.version_switch(state=state, rung=rung, direction=direction)
    if verb in switching.verbs(switch):
        return
    with pytest.raises(DomainError) as refusal:
        do(verb, switch, owner)
    assert refusal.value.message.endswith(".")
    assert VersionSwitch.objects.get(pk=switch.pk) == switch
    assert not switch.events.exists()
    assert Event.objects.get().outcome == "failed"


def test_a_pause_keeps_the_time_of_the_step(owner: Actor) -> None:
    switch = builders.version_switch(soaked_seconds=20)
    paused = do(Verb.PAUSE, switch, owner)
    resumed = do(Verb.RESUME, paused, owner, now=NOW + timedelta(days=1))
    assert paused.soaked_seconds == resumed.soaked_seconds == 27


def test_who_saw_an_older_state_is_told_and_changes_nothing(owner: Actor) -> None:
    switch = builders.version_switch()
    do(Verb.PAUSE, switch, owner)
    for verb in (Verb.RESUME, Verb.STEP_BACK, Verb.ADVANCE, Verb.RETURN, Verb.FINISH):
        with pytest.raises(Conflict, match="moved meanwhile"):
            do(verb, switch, owner)
    assert VersionSwitch.objects.get(pk=switch.pk).moves == 3


def test_back_now_works_whatever_moved_meanwhile(owner: Actor) -> None:
    switch = builders.version_switch()
    do(Verb.ADVANCE, switch, owner)
    assert do(Verb.ROLL_BACK, switch, owner).weight == 0


@pytest.mark.parametrize("hold", [29, 86_401])
def test_a_way_back_in_steps_that_are_too_short_or_long_is_refused(owner: Actor, hold: int) -> None:
    with pytest.raises(DomainError) as refusal:
        do(Verb.RETURN, builders.version_switch(), owner, hold_seconds=hold)
    assert refusal.value.field == "hold_seconds"


@pytest.mark.parametrize("verb", [Verb.ADVANCE, Verb.FINISH])
def test_no_hand_sends_traffic_to_a_target_that_cannot_serve(owner: Actor, verb: Verb) -> None:
    switch = builders.version_switch()
    server = ModelServer.objects.get(deployments__version=switch.target)
    ModelServer.objects.filter(pk=server.pk).update(state="down")
    with pytest.raises(DomainError, match="No model server"):
        do(verb, switch, owner)
    ModelServer.objects.filter(pk=server.pk).update(state="up")
    ModelVersion.objects.filter(pk=switch.target_id).update(retires_at=NOW)
    with pytest.raises(DomainError, match="has been retired"):
        do(verb, switch, owner)


def test_the_first_step_by_hand_needs_the_probe_and_not_the_paid_call(owner: Actor) -> None:
    switch = builders.version_switch(state="preparing", rung=-1, warm="failed")
    ModelServer.objects.filter(deployments__version=switch.target).update(probed_at=NOW - timedelta(seconds=1))
    with pytest.raises(DomainError, match="fresh probe"):
        do(Verb.ADVANCE, switch, owner)
    ModelServer.objects.filter(deployments__version=switch.target).update(probed_at=NOW + timedelta(seconds=1))
    assert do(Verb.ADVANCE, switch, owner).weight == 10


# --- permissions


@pytest.mark.parametrize("verb", Verb)
def test_who_may_only_read_moves_nothing(verb: Verb) -> None:
    reader = builders.actor(builders.member(builders.project("default"), policy_name="ArkReadOnlyAccess"))
    state, rung = {Verb.RESUME: ("paused", 1), Verb.CANCEL: ("preparing", -1)}.get(verb, ("climbing", 1))
    switch = builders.version_switch(state=state, rung=rung)
    assert reader.can(switch_services.GET, switch.endpoint)
    with pytest.raises(NotAllowed) as refusal:
        do(verb, switch, reader)
    assert refusal.value.action == switch_services.PERMISSION[verb]
    assert VersionSwitch.objects.get(pk=switch.pk).moves == 2
    assert Event.objects.get().outcome == "denied"


def test_who_may_only_read_or_belongs_to_another_project_starts_nothing() -> None:
    endpoint, target = builders.endpoint(), target_version()
    for by in (
        builders.member(builders.project("default"), policy_name="ArkReadOnlyAccess"),
        builders.member(builders.project("elsewhere")),
    ):
        with pytest.raises(NotAllowed):
            start(endpoint, target, builders.actor(by))
    assert not VersionSwitch.objects.exists()


def test_a_permission_for_one_verb_is_none_for_another() -> None:
    default = builders.project("default")
    by = builders.actor(builders.member(default, switch_services.PAUSE))
    switch = do(Verb.PAUSE, builders.version_switch(), by)
    with pytest.raises(NotAllowed):
        do(Verb.RESUME, switch, by)


# --- the endpoint during a switch


def test_deleting_the_endpoint_ends_its_switch(owner: Actor) -> None:
    switch = builders.version_switch()
    endpoint = services.stop(endpoint=switch.endpoint, by=owner, now=LATER)
    services.delete(endpoint=endpoint, confirm_name=endpoint.name, by=owner, now=LATER)
    stored = VersionSwitch.objects.get(pk=switch.pk)
    assert (stored.state, stored.weight, stored.ended_reason) == ("rolled_back", 0, "endpoint_deleted")
    assert "deleted" in switching.verdict_sentence(stored)
    with pytest.raises(DomainError, match="has been deleted"):
        do(Verb.ROLL_BACK, switch, owner)


def test_new_limits_are_noted_in_the_log_and_move_nothing(owner: Actor) -> None:
    switch = builders.version_switch()
    endpoint = switch.endpoint
    common: dict[str, Any] = {"description": "", "tags": {}, "by": owner, "now": LATER}
    named = services.edit(endpoint=endpoint, revision=0, name="other", rpm=endpoint.rpm, tpm=endpoint.tpm, **common)
    assert not switch.events.exists()
    services.edit(endpoint=named, revision=named.revision, name="other", rpm=7, tpm=endpoint.tpm, **common)
    line = switch.events.get()
    assert (line.kind, line.weight, line.from_weight) == ("note", 40, 40)
    assert "RPM 600 → 7" in switching.event_sentence(line)
    assert VersionSwitch.objects.get(pk=switch.pk).moves == 2


# --- the preview


def test_the_preview_prices_the_last_week_on_both_sides_and_names_unknown_parameters(owner: Actor, send: Send) -> None:  # noqa: F811
    source = target_version(known_parameters=["temperature", "thinking"], supports_caching=True)
    target = target_version(known_parameters=["temperature"], context_tokens=1000)
    builders.price_tier(version=source, input_price=Decimal(1), cached_price=Decimal("0.5"), output_price=Decimal(2))
    builders.price_tier(version=target, input_price=Decimal(2), cached_price=Decimal(1), output_price=Decimal(1))
    key = builders.api_key(name="checkout")
    endpoint = builders.endpoint(version=source)
    mine: dict[str, Any] = {
        "endpoint_id": endpoint.pk, "version_id": source.pk, "key_id": key.pk, "input_tokens": 1_000_000,
        "cached_tokens": 500_000, "output_tokens": 1_000_000,
    }  # fmt: skip
    send(
        usage_event(**mine, parameters=["messages", "temperature", "thinking"]),
        usage_event(**mine, parameters=["messages", "thinking", "seed"]),
        usage_event(endpoint_id="ep-other", parameters=["logprobs"]),
    )
    drain.drain(now=NOW)

    seen = switch_preview.preview(endpoint=endpoint, target=target, now=NOW)

    assert seen.unknown_parameters == (("thinking", 2), ("seed", 1))
    assert (seen.calls, seen.tokens) == (2, 4_000_000)
    assert seen.source.amounts == {"CNY": Decimal("5.5")}
    # Nothing is cached there: all of the input at the full price.
    assert seen.target.amounts == {"CNY": Decimal(6)}
    assert seen.cost_change == {"CNY": Decimal("0.5")}
    assert not seen.is_estimate
    assert [(caller.name, caller.calls) for caller in seen.callers] == [("checkout", 2)]
    assert (seen.target.context_tokens, len(seen.target.tiers), seen.is_cut_over) == (1000, 1, False)


def test_a_target_that_lists_no_parameters_is_not_said_to_know_none(send: Send) -> None:  # noqa: F811
    endpoint, target = builders.endpoint(), target_version()
    send(usage_event(endpoint_id=endpoint.pk, version_id=endpoint.version_id, parameters=["seed"]))
    drain.drain(now=NOW)
    seen = switch_preview.preview(endpoint=endpoint, target=target, now=NOW)
    assert (seen.unknown_parameters, seen.lists_parameters) == ((), False)
    assert seen.target.unpriced_tokens == 15


def test_the_preview_and_the_targets_ask_the_same_few_questions_for_any_catalogue(
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    endpoint, target = builders.endpoint(), target_version()
    for _ in range(12):
        target_version()
    with django_assert_max_num_queries(3):
        assert len(switch_preview.targets(endpoint=endpoint, now=NOW)) == 13
    with django_assert_max_num_queries(7):
        switch_preview.preview(endpoint=endpoint, target=target, now=NOW)


# --- two at once


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """Run the acts in threads that begin together; what each returned or raised, in their order."""
    barrier = threading.Barrier(len(acts))
    results: list[Any] = [None] * len(acts)

    def run(place: int, act: Callable[[], Any]) -> None:
        try:
            barrier.wait(20)
            results[place] = act()
        except Exception as error:  # noqa: BLE001 - the result is what the test looks at
            results[place] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(place, act)) for place, act in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def errors(results: Sequence[Any]) -> list[str]:
    return [type(each).__name__ for each in results if isinstance(each, Exception)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(ON_SQLITE, reason="SQLite has one writer at a time")
def test_of_two_people_at_once_one_wins_and_the_other_is_told() -> None:
    by = builders.actor()
    switch = builders.version_switch()
    results = at_once(
        lambda: do(Verb.PAUSE, switch, by), lambda: do(Verb.STEP_BACK, switch, by), lambda: do(Verb.ADVANCE, switch, by)
    )
    assert errors(results) == ["Conflict", "Conflict"]
    assert VersionSwitch.objects.get(pk=switch.pk).moves == 3
    assert switch.events.count() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(ON_SQLITE, reason="SQLite has one writer at a time")
def test_of_two_who_start_a_switch_at_once_one_does() -> None:
    by, endpoint, target = builders.actor(), builders.endpoint(), target_version()
    results = at_once(*[lambda: start(endpoint, target, by)] * 3)
    assert errors(results) == ["DomainError", "DomainError"]
    assert VersionSwitch.objects.get().events.count() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(ON_SQLITE, reason="SQLite has one writer at a time")
@pytest.mark.usefixtures("fresh_redis")
def test_ticks_and_a_person_at_once_end_where_the_person_wants() -> None:
    by = builders.actor()
    switches = [builders.version_switch(soaked_seconds=60, rung=3) for _ in range(6)]
    results = at_once(
        lambda: [do(Verb.ROLL_BACK, switch, by) for switch in switches[:3]],
        lambda: switch_tick.tick(now=NOW),
        lambda: switch_tick.tick(now=NOW),
    )
    refused = [each for each in results if isinstance(each, Exception)]
    # The tick completed one before the person came: they are told that it has ended.
    assert all(isinstance(each, DomainError) for each in refused)
    switch_tick.tick(now=NOW)
    for switch in switches:
        stored = VersionSwitch.objects.get(pk=switch.pk)
        ends = list(stored.events.exclude(kind="held").values_list("kind", flat=True))
        assert ends in (["completed"], ["rolled_back"]) or (stored.is_open and not ends)
        served = Endpoint.objects.get(pk=switch.endpoint_id).version_id
        assert served == (switch.target_id if stored.state == "completed" else switch.source_id)
    assert SwitchEvent.objects.count() <= 6


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(ON_SQLITE, reason="SQLite has one writer at a time")
@pytest.mark.usefixtures("fresh_redis")
def test_deleting_endpoints_while_the_tick_completes_their_switches_blocks_nobody() -> None:
    by = builders.actor()
    switches = [builders.version_switch(soaked_seconds=60, rung=3) for _ in range(6)]
    for switch in switches:
        Endpoint.objects.filter(pk=switch.endpoint_id).update(status="Stopped", desired="stopped")
        ModelVersion.objects.filter(pk=switch.source_id).update(retires_at=NOW)

    def delete_all() -> None:
        for switch in switches:
            endpoint = Endpoint.objects.select_related("project", "version__model").get(pk=switch.endpoint_id)
            services.delete(endpoint=endpoint, confirm_name=endpoint.name, by=by, now=NOW)

    results = at_once(delete_all, lambda: switch_tick.tick(now=NOW), lambda: switch_tick.tick(now=NOW))
    assert errors(results) == [], results
    assert not VersionSwitch.objects.open().exists()
    assert not Endpoint.objects.alive().exists()
