"""What people and ticks do to the catalogue."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from audit.models import Event
from catalog import services
from catalog.models import Deployment, FoundationModel, ModelServer, ModelVersion, PriceTier, Trouble, price_at
from catalog.services import Price, ProbeOutcome, Publication, ServerSettings, judge
from common.addresses import UnsafeAddress
from common.errors import DomainError, NotAllowed
from common.models import RouteChange
from iam.actors import SYSTEM
from tests import builders
from tests.builders import NOW

State = ModelServer.State
SETTINGS = ServerSettings(name="my vLLM", base_url="http://10.0.0.5:8000/v1/", api_key="sk-very-secret")
PRICE = Price(Decimal("0.8"), Decimal("0.16"), Decimal(2))


def changes(kind: str) -> list[str]:
    return list(RouteChange.objects.filter(kind=kind).values_list("object_id", flat=True))


# --- probes: the rule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "failed_before", "is_good", "expected", "failed", "next_seconds"),
    [
        (State.UNKNOWN, 0, True, State.UP, 0, 10),
        (State.UNKNOWN, 0, False, State.UNKNOWN, 1, 2),
        (State.UNKNOWN, 2, False, State.DOWN, 3, 2),
        (State.UP, 0, True, State.UP, 0, 10),
        (State.UP, 2, True, State.UP, 0, 10),
        (State.UP, 0, False, State.UP, 1, 2),
        (State.UP, 1, False, State.UP, 2, 2),
        (State.UP, 2, False, State.DOWN, 3, 2),
        (State.DOWN, 3, False, State.DOWN, 4, 4),
        (State.DOWN, 4, False, State.DOWN, 5, 8),
        (State.DOWN, 5, False, State.DOWN, 6, 10),
        (State.DOWN, 900_000, False, State.DOWN, 900_001, 10),
        (State.DOWN, 0, False, State.DOWN, 1, 2),
        (State.DOWN, 900_000, True, State.UP, 0, 10),
    ],
)
def test_three_failed_probes_make_a_server_down_and_one_good_one_up(
    state: str, failed_before: int, is_good: bool, expected: str, failed: int, next_seconds: int
) -> None:
    judgement = judge(state=state, failed_probes=failed_before, is_good=is_good)
    assert (judgement.state, judgement.failed_probes, judgement.next_probe_seconds) == (expected, failed, next_seconds)


@pytest.mark.django_db
def test_a_change_of_state_is_announced_and_its_reason_kept() -> None:
    server = builders.model_server()
    bad = ProbeOutcome(trouble=Trouble.REFUSED, detail="Connection refused")
    results = [services.record_probe(server_id=server.pk, outcome=bad, now=NOW) for _round in range(4)]
    assert results == [False, False, True, False]
    assert changes("server") == [str(server.pk)]
    server.refresh_from_db()
    assert (server.state, server.state_reason, server.state_detail) == (State.DOWN, "refused", "Connection refused")
    assert "refused" in server.state_sentence
    assert services.record_probe(server_id=server.pk, outcome=ProbeOutcome(models=("a",)), now=NOW)
    server.refresh_from_db()
    assert (server.state, server.state_sentence, server.reported_models) == (State.UP, "", ["a"])
    assert len(changes("server")) == 2
    kept = [(event.from_state, event.to_state, event.reason, event.detail) for event in server.events.all()]
    assert kept == [(State.UP, State.DOWN, "refused", "Connection refused"), (State.DOWN, State.UP, "", "")]
    services.forget_events(now=NOW + timedelta(days=90, seconds=1))
    assert not server.events.exists()


@pytest.mark.django_db
def test_a_probe_of_a_server_that_is_gone_is_no_error() -> None:
    assert services.record_probe(server_id=0, outcome=ProbeOutcome(), now=NOW) is False


@pytest.mark.django_db
def test_a_due_server_is_taken_once_and_again_when_its_probe_got_lost() -> None:
    server = builders.model_server(next_probe_at=None)
    builders.model_server(next_probe_at=NOW + timedelta(seconds=1))
    builders.model_server(next_probe_at=NOW, is_enabled=False)
    assert services.claim_due(now=NOW) == [server.pk]
    assert services.claim_due(now=NOW) == []
    assert server.pk in services.claim_due(now=NOW + timedelta(seconds=30))


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("values", "failures", "successes", "due_in_seconds"),
    [
        ({}, 3, 0, 0),
        ({}, 3, 1, 9),
        ({}, 0, 5, 10),
        ({"probed_at": NOW - timedelta(seconds=1)}, 3, 0, 9),  # just probed: once is enough
        ({"state": State.DOWN}, 3, 0, 9),  # its back-off stands
        ({"state": State.DOWN}, 0, 5, 9),  # late news is no probe
        ({"failed_probes": 1}, 0, 5, 9),
        ({"probed_at": NOW - timedelta(seconds=61)}, 0, 5, 9),  # a probe a minute at least
        ({"next_probe_at": NOW}, 0, 5, 0),  # somebody waits for this one
    ],
)
def test_real_traffic_hastens_or_spares_the_next_probe(
    values: dict[str, Any], failures: int, successes: int, due_in_seconds: int
) -> None:
    probed = {"probed_at": NOW - timedelta(seconds=5), "next_probe_at": NOW + timedelta(seconds=9)}
    server = builders.model_server(**probed | values)
    services.note_traffic(server_id=server.pk, failures=failures, successes=successes, now=NOW)
    server.refresh_from_db()
    assert server.next_probe_at == NOW + timedelta(seconds=due_in_seconds)


# --- model servers ---------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_key_is_encrypted_at_rest_and_absent_from_the_record() -> None:
    server = services.add_server(settings=SETTINGS, by=SYSTEM, now=NOW)
    services.update_server(
        server=server, settings=ServerSettings(name="my vLLM", base_url=SETTINGS.base_url, api_key="sk-second-secret"),
        by=SYSTEM, now=NOW,
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("SELECT api_key FROM catalog_modelserver")
        (stored,) = cursor.fetchone()
    assert "secret" not in stored
    assert ModelServer.objects.get().api_key == "sk-second-secret"
    for event in Event.objects.all():
        assert "secret" not in str(event.__dict__)
        assert event.changes["api_key"][1] == "replaced"


@pytest.mark.django_db
def test_an_empty_key_keeps_the_stored_one_and_a_tick_removes_it() -> None:
    server = services.add_server(settings=SETTINGS, by=SYSTEM, now=NOW)
    kept = ServerSettings(name="renamed", base_url="http://10.0.0.5:8000/v2")
    server = services.update_server(server=server, settings=kept, by=SYSTEM, now=NOW)
    assert (server.name, server.base_url, server.api_key) == ("renamed", "http://10.0.0.5:8000/v2", "sk-very-secret")
    forgotten = ServerSettings(name="renamed", base_url="http://10.0.0.5:8000/v2", forgets_key=True)
    assert services.update_server(server=server, settings=forgotten, by=SYSTEM, now=NOW).api_key == ""
    assert Event.objects.first().changes["api_key"] == ["set", "removed"]  # type: ignore[union-attr]


@pytest.mark.django_db
def test_the_stored_key_never_goes_to_another_host() -> None:
    server = services.add_server(settings=SETTINGS, by=SYSTEM, now=NOW)
    elsewhere = ServerSettings(name="my vLLM", base_url="http://10.6.6.6:8000/v1")
    with pytest.raises(DomainError) as caught:
        services.update_server(server=server, settings=elsewhere, by=SYSTEM, now=NOW)
    assert caught.value.field == "api_key"
    with pytest.raises(DomainError):
        services.test_connection(settings=elsewhere, server=server, paid_model="", by=SYSTEM, now=NOW)
    server.refresh_from_db()
    assert server.base_url == "http://10.0.0.5:8000/v1"


@pytest.mark.django_db
@pytest.mark.parametrize("base_url", ["http://169.254.169.254/v1", "ftp://x/", "http://u:p@x/v1", "nonsense"])
def test_an_address_that_we_never_call_is_not_stored(base_url: str) -> None:
    with pytest.raises(UnsafeAddress) as caught:
        services.add_server(settings=ServerSettings(name="x", base_url=base_url), by=SYSTEM, now=NOW)
    assert caught.value.field == "base_url"
    assert not ModelServer.objects.exists()
    assert Event.objects.get().outcome == Event.Outcome.FAILED


@pytest.mark.django_db
def test_a_new_address_makes_the_state_unknown_and_a_probe_due() -> None:
    server = builders.model_server(state=State.UP, reported_models=["a"], next_probe_at=NOW + timedelta(seconds=9))
    moved = ServerSettings(name=server.name, base_url="http://10.0.0.9/v1")
    server = services.update_server(server=server, settings=moved, by=SYSTEM, now=NOW)
    assert (server.state, server.reported_models, server.next_probe_at) == (State.UNKNOWN, [], NOW)
    assert changes("server") == [str(server.pk)]
    assert [(event.from_state, event.to_state) for event in server.events.all()] == [(State.UP, State.UNKNOWN)]


@pytest.mark.django_db
def test_saving_a_server_unchanged_tells_nobody() -> None:
    server = builders.model_server()
    same = ServerSettings(name=server.name, base_url=server.base_url)
    services.update_server(server=server, settings=same, by=SYSTEM, now=NOW)
    assert changes("server") == []


@pytest.mark.django_db
def test_two_servers_cannot_have_one_name() -> None:
    services.add_server(settings=SETTINGS, by=SYSTEM, now=NOW)
    with pytest.raises(DomainError) as caught:
        services.add_server(settings=SETTINGS, by=SYSTEM, now=NOW)
    assert caught.value.field == "name"
    assert "choose another" in str(caught.value)


@pytest.mark.django_db
def test_a_server_with_deployments_is_not_deleted() -> None:
    server = builders.model_server()
    builders.model_version(servers=[server])
    with pytest.raises(DomainError):
        services.delete_server(server=server, by=SYSTEM, now=NOW)
    Deployment.objects.all().delete()
    services.delete_server(server=server, by=SYSTEM, now=NOW)
    assert not ModelServer.objects.exists()


@pytest.mark.django_db
def test_without_the_permission_nothing_happens_and_the_refusal_is_recorded() -> None:
    by = builders.actor(builders.member(None, policy_name="ArkStandardGlobalAccess"))
    server = builders.model_server()
    version = builders.model_version()
    publication = Publication(upstream_model="a", model_name="a", version="1")
    attempts = [
        lambda: services.add_server(settings=SETTINGS, by=by, now=NOW),
        lambda: services.update_server(server=server, settings=SETTINGS, by=by, now=NOW),
        lambda: services.delete_server(server=server, by=by, now=NOW),
        lambda: services.test_connection(settings=SETTINGS, server=None, paid_model="", by=by, now=NOW),
        lambda: services.publish(server=server, publication=publication, by=by, now=NOW),
        lambda: services.set_prices(version=version, prices=[PRICE], valid_from=NOW, by=by, now=NOW),
        lambda: services.save_version(version=version, by=by, now=NOW),
        lambda: services.save_card(card=version.model, by=by, now=NOW),
        lambda: services.delete_version(version=version, by=by, now=NOW),
    ]
    for attempt in attempts:
        with pytest.raises(NotAllowed):
            attempt()
    assert set(Event.objects.values_list("outcome", flat=True)) == {Event.Outcome.DENIED}
    assert Event.objects.count() == len(attempts)


@pytest.mark.django_db
def test_a_policy_of_one_project_does_not_reach_the_catalogue() -> None:
    by = builders.actor(builders.member(builders.project("default"), policy_name="ArkFullAccess"))
    with pytest.raises(NotAllowed):
        services.add_server(settings=SETTINGS, by=by, now=NOW)
    everywhere = builders.actor(builders.member(None, policy_name="ArkFullAccess"))
    assert services.add_server(settings=SETTINGS, by=everywhere, now=NOW).pk


# --- versions and prices ---------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_publishing_makes_card_version_prices_and_deployment_in_one_go() -> None:
    server = builders.model_server()
    publication = Publication(
        upstream_model="Qwen/Qwen3-8B", model_name="qwen3-8b", version="260415", domain="thinking",
        known_parameters=("temperature",), prices=(PRICE, Price(Decimal(1), Decimal(0), Decimal(4), 32_000)),
    )  # fmt: skip
    version = services.publish(server=server, publication=publication, by=SYSTEM, now=NOW)
    assert version.public_id == "qwen3-8b-260415"
    assert version.known_parameters == ["temperature"]
    assert list(version.prices.values_list("input_over_tokens", flat=True)) == [0, 32_000]
    assert version.deployments.get().upstream_model == "Qwen/Qwen3-8B"
    assert list(ModelVersion.objects.working(NOW)) == [version]
    assert changes("version") == [str(version.pk)]
    again = Publication(upstream_model="x", model_name="qwen3-8b", version="260501")
    assert services.publish(server=server, publication=again, by=SYSTEM, now=NOW).model == version.model
    with pytest.raises(DomainError) as caught:
        services.publish(server=server, publication=again, by=SYSTEM, now=NOW)
    assert caught.value.field == "version"


@pytest.mark.django_db
def test_a_publication_that_fails_half_way_leaves_nothing() -> None:
    wrong = Publication(upstream_model="a", model_name="a", version="1", max_output_tokens=99_999_999)
    with pytest.raises(DomainError) as caught:
        services.publish(server=builders.model_server(), publication=wrong, by=SYSTEM, now=NOW)
    assert caught.value.field == "max_output_tokens"
    assert not FoundationModel.objects.exists()


def tier(over: int, days: int, price: str) -> PriceTier:
    amounts = {"input_price": Decimal(price), "cached_price": Decimal(0), "output_price": Decimal(0)}
    return PriceTier(pk=over + days, input_over_tokens=over, valid_from=NOW + timedelta(days=days), **amounts)


@pytest.mark.parametrize(
    ("input_tokens", "days", "price"),
    [
        (0, 0, "1"),
        (1, 0, "1"),
        (32_000, 0, "1"),
        (32_001, 0, "2"),
        (1_000_000, 0, "2"),
        (10, 3, "1"),
        (10, 5, "0.5"),
        (40_000, 5, "2"),
        (40_000, 9, "3"),
        (10, -2, None),
    ],
)
def test_the_price_of_a_call_is_the_newest_of_its_tier(input_tokens: int, days: int, price: str | None) -> None:
    tiers = [tier(0, -1, "1"), tier(32_000, -1, "2"), tier(0, 5, "0.5"), tier(32_000, 9, "3")]
    found = price_at(tiers, input_tokens=input_tokens, at=NOW + timedelta(days=days))
    assert (found.input_price if found else None) == (Decimal(price) if price else None)


@pytest.mark.django_db
def test_a_new_price_list_adds_rows_and_covers_the_thresholds_it_drops() -> None:
    version = builders.model_version()
    for over, price in ((0, 1), (32_000, 2), (128_000, 3)):
        builders.price_tier(version=version, input_over_tokens=over, input_price=Decimal(price))
    later = NOW + timedelta(days=1)
    new = [Price(Decimal(5), Decimal(1), Decimal(9)), Price(Decimal(7), Decimal(1), Decimal(9), 32_000)]
    services.set_prices(version=version, prices=new, valid_from=later, by=SYSTEM, now=NOW)
    tiers = list(version.prices.all())
    assert len(tiers) == 6
    prices = [price_at(tiers, input_tokens=n, at=later).input_price for n in (1, 40_000, 200_000)]  # type: ignore[union-attr]
    assert prices == [5, 7, 7]
    assert price_at(tiers, input_tokens=200_000, at=NOW).input_price == 3  # type: ignore[union-attr]
    assert [tier.input_over_tokens for tier in services.tiers_in_force(tiers, at=NOW)] == [0, 32_000, 128_000]
    assert [tier.input_over_tokens for tier in services.tiers_in_force(tiers, at=later)] == [0, 32_000]


@pytest.mark.django_db
@pytest.mark.parametrize(("over", "days", "field"), [(1_000, 0, "input_over_tokens"), (0, -1, "valid_from")])
def test_a_price_list_begins_at_zero_and_never_in_the_past(over: int, days: int, field: str) -> None:
    price = Price(Decimal(1), Decimal(1), Decimal(1), over)
    with pytest.raises(DomainError) as caught:
        services.set_prices(
            version=builders.model_version(), prices=[price], valid_from=NOW + timedelta(days=days), by=SYSTEM, now=NOW
        )
    assert caught.value.field == field


@pytest.mark.django_db
def test_a_retired_version_is_no_longer_working() -> None:
    version = builders.model_version(servers=[builders.model_server()])
    other = builders.model_version()
    services.retire(version=version, at=NOW + timedelta(days=30), replacement=other, by=SYSTEM, now=NOW)
    assert version in ModelVersion.objects.working(NOW)
    assert version not in ModelVersion.objects.working(NOW + timedelta(days=30))
    assert changes("version") == [str(version.pk)]


@pytest.mark.django_db
def test_names_that_callers_use_stay() -> None:
    version = builders.model_version()
    version.version = "999"
    with pytest.raises(DomainError):
        services.save_version(version=version, by=SYSTEM, now=NOW)
    version.model.name = "other"
    with pytest.raises(DomainError):
        services.save_card(card=version.model, by=SYSTEM, now=NOW)


@pytest.mark.django_db
def test_a_version_in_use_is_not_deleted_and_a_mistaken_one_is() -> None:
    endpoint = builders.endpoint()
    with pytest.raises(DomainError):
        services.delete_version(version=endpoint.version, by=SYSTEM, now=NOW)
    mistaken = builders.model_version()
    builders.price_tier(version=mistaken)
    services.delete_version(version=mistaken, by=SYSTEM, now=NOW)
    assert list(ModelVersion.objects.all()) == [endpoint.version]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("server_values", "is_working", "word"),
    [
        ({"state": State.UP}, True, ""),
        ({"state": State.UNKNOWN}, False, "not probed"),
        ({"state": State.DOWN, "state_reason": "refused"}, False, "refused"),
        ({"state": State.UP, "is_enabled": False}, False, "disabled"),
    ],
)
def test_a_version_works_or_says_why_not(server_values: dict[str, Any], is_working: bool, word: str) -> None:
    version = builders.model_version(servers=[builders.model_server(**server_values)])
    found = services.availability(version, NOW)
    assert found.is_working == is_working == ModelVersion.objects.working(NOW).exists()
    assert word in found.sentence


@pytest.mark.django_db
def test_a_version_without_server_says_so() -> None:
    assert "server" in services.availability(builders.model_version(), NOW).sentence


@pytest.mark.parametrize(
    ("listed", "name", "expected"),
    [([], "a", True), (["a"], "a", True), (["b"], "a", False), (["a:latest"], "a", True), (["a:8b"], "a", False)],
)
def test_a_model_that_left_the_servers_list_is_noticed(listed: list[str], name: str, expected: bool) -> None:
    assert Deployment(server=ModelServer(reported_models=listed), upstream_model=name).is_listed == expected
