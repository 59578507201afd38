"""Keys as text, and what services do with their rows."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from audit.models import Event
from common.errors import DomainError, NotAllowed
from common.models import RouteChange
from iam import keys, services
from iam.models import ApiKey, Project
from tests import builders
from tests.builders import NOW


def test_keys_are_long_random_and_say_what_they_are() -> None:
    made = {keys.generate() for _number in range(200)}

    assert len(made) == 200
    assert all(re.fullmatch(r"sk-ark-[A-Za-z0-9]{40}", key) for key in made)


def test_only_the_beginning_of_a_key_is_ever_shown() -> None:
    key = keys.generate()

    assert key.startswith(keys.shown(key))
    assert len(keys.shown(key)) == 11
    assert key not in keys.digest(key)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("203.0.113.7", ["203.0.113.7"]),
        ("203.0.113.7\n10.0.0.0/8, 10.0.0.0/8;2001:DB8::1", ["203.0.113.7", "10.0.0.0/8", "2001:db8::1"]),
        ("::ffff:10.0.0.5", ["10.0.0.5"]),
        ("::ffff:10.0.0.0/104", ["10.0.0.0/8"]),
        ("10.0.0.5/32", ["10.0.0.5"]),
        ("2001:db8::/32", ["2001:db8::/32"]),
    ],
)
def test_networks_are_read_into_their_usual_form(text: str, expected: list[str]) -> None:
    assert keys.parse_networks(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10.0.0", "“10.0.0” is neither"),
        ("example.com", "“example.com” is neither"),
        ("10.0.0.0/33", "is neither"),
        ("0x7f000001", "is neither"),
        ("fe80::1%eth0", "is neither"),
        ("203.0.113.0/24 10.0.0.5/24", "Write 10.0.0.0/24 for the network"),
        ("2001:db8::1/64", "Write 2001:db8::/64"),
        (" ".join(f"10.0.{n}.1" for n in range(51)), "At most 50"),
    ],
)
def test_what_is_no_network_is_named(text: str, says: str) -> None:
    with pytest.raises(DomainError, match=re.escape(says)) as caught:
        keys.parse_networks(text)

    assert caught.value.field == "allowed_ips"


@given(st.text(max_size=40))
def test_reading_networks_fails_only_with_a_sentence(text: str) -> None:
    try:
        found = keys.parse_networks(text)
    except DomainError:
        return
    assert keys.parse_networks(found) == found


# --- services ----------------------------------------------------------------------------------------------------------


def create(project: Project | None = None, **values: Any) -> tuple[ApiKey, str]:
    return services.create_api_key(
        **{"project": project or builders.project(), "name": "worker", "by": builders.actor(), "now": NOW, **values}
    )


def changes() -> list[tuple[str, str]]:
    return list(RouteChange.objects.order_by("id").values_list("kind", "object_id"))


@pytest.mark.django_db
def test_a_new_key_is_kept_as_its_digest_and_announced_to_the_gateway() -> None:
    key, secret = create(allowed_ips="10.0.0.0/8", expires_at=NOW + timedelta(days=1))

    stored = ApiKey.objects.get()
    assert (stored.digest, stored.prefix) == (keys.digest(secret), secret[:11])
    assert (stored.allowed_ips, stored.expires_at) == (["10.0.0.0/8"], NOW + timedelta(days=1))
    assert changes() == [("key", str(key.pk))]
    event = Event.objects.get()
    assert (event.action, event.resource, event.changes["name"]) == ("ark:CreateApiKey", key.trn, [None, "worker"])
    assert secret not in str(event.changes)


@pytest.mark.django_db
def test_a_key_may_be_limited_to_endpoints_and_models_of_its_project() -> None:
    endpoint = builders.endpoint()
    model_id = endpoint.version.public_id
    pairs = [("endpoint", endpoint.pk), ("model", model_id), ("endpoint", endpoint.pk)]

    key, _secret = create(endpoint.project, scopes=pairs)

    assert set(key.scopes.values_list("resource_type", "resource_id")) == set(pairs)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": "  "}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"expires_at": NOW}, "expires_at"),
        ({"allowed_ips": "nonsense"}, "allowed_ips"),
        ({"scopes": []}, "scopes"),
        ({"scopes": [("endpoint", "ep-unknown")]}, "scopes"),
        ({"scopes": [("model", f"m{n}") for n in range(201)]}, "scopes"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused_at_its_field(values: dict[str, Any], field: str) -> None:
    with pytest.raises(DomainError) as caught:
        create(**values)

    assert caught.value.field == field
    assert not ApiKey.objects.exists()
    assert Event.objects.get().outcome == "failed"


@pytest.mark.django_db
def test_an_endpoint_of_another_project_is_unknown_here() -> None:
    elsewhere = builders.endpoint(project=builders.project("elsewhere"))

    with pytest.raises(DomainError, match="no endpoint or model"):
        create(builders.project("here"), scopes=[("endpoint", elsewhere.pk)])


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("act", "action"),
    [
        (lambda key, by: create(key.project, by=by), "ark:CreateApiKey"),
        (lambda key, by: services.enable_api_key(key=key, by=by, now=NOW), "ark:UpdateApiKey"),
        (lambda key, by: services.disable_api_key(key=key, by=by, now=NOW), "ark:UpdateApiKey"),
        (lambda key, by: services.delete_api_key(key=key, by=by, now=NOW), "ark:DeleteApiKey"),
        (lambda key, by: services.update_api_key(key=key, name="n", scopes=None, allowed_ips="", expires_at=None, by=by, now=NOW), "ark:UpdateApiKey"),
    ],
)  # fmt: skip
def test_each_act_needs_its_permission_and_says_which(act: Any, action: str) -> None:
    key = builders.api_key()
    stranger = builders.actor(builders.member(key.project, policy_name="ArkReadOnlyAccess"))
    elsewhere = builders.actor(builders.member(builders.project("elsewhere")))

    for by in (stranger, elsewhere):
        with pytest.raises(NotAllowed) as caught:
            act(key, by)
        assert caught.value.action == action
    assert list(Event.objects.values_list("outcome", "action")) == [("denied", action)] * 2
    assert changes() == []

    act(key, builders.actor(builders.member(key.project, action)))


@pytest.mark.django_db
def test_a_change_is_recorded_field_by_field() -> None:
    endpoint = builders.endpoint()
    key = builders.api_key(project=endpoint.project, name="before", allowed_ips=["10.0.0.1"])

    services.update_api_key(
        key=key, name="after", scopes=[("endpoint", endpoint.pk)], allowed_ips="", expires_at=None,
        by=builders.actor(), now=NOW,
    )  # fmt: skip

    assert Event.objects.get().changes == {
        "name": ["before", "after"],
        "scopes": [None, [f"endpoint:{endpoint.pk}"]],
        "allowed_ips": [["10.0.0.1"], []],
    }
    assert changes() == [("key", str(key.pk))]


@pytest.mark.django_db
def test_a_scope_whose_endpoint_is_gone_may_stay_on_the_key_that_has_it() -> None:
    key = builders.api_key()
    key.scopes.create(resource_type="endpoint", resource_id="ep-gone")

    services.update_api_key(
        key=key, name="renamed", scopes=[("endpoint", "ep-gone")], allowed_ips="", expires_at=None,
        by=builders.actor(), now=NOW,
    )  # fmt: skip

    assert list(Event.objects.get().changes) == ["name"]


@pytest.mark.django_db
def test_a_past_expiry_that_is_not_touched_may_stay() -> None:
    key = builders.api_key(expires_at=NOW - timedelta(days=1))

    services.update_api_key(
        key=key, name="renamed", scopes=None, allowed_ips="", expires_at=key.expires_at, by=builders.actor(), now=NOW
    )

    assert ApiKey.objects.get().name == "renamed"


@pytest.mark.django_db
def test_a_key_is_disabled_and_enabled_again() -> None:
    key = builders.api_key()

    assert not services.disable_api_key(key=key, by=builders.actor(), now=NOW).is_enabled
    assert services.enable_api_key(key=key, by=builders.actor(), now=NOW).is_enabled
    assert changes() == [("key", str(key.pk))] * 2


@pytest.mark.django_db
def test_a_deleted_key_keeps_its_row_and_is_never_changed_again() -> None:
    key = builders.api_key()

    services.delete_api_key(key=key, by=builders.actor(), now=NOW)

    stored = ApiKey.objects.get()
    assert (stored.deleted_at, stored.is_enabled) == (NOW, False)
    assert not ApiKey.objects.for_list().exists()
    with pytest.raises(DomainError, match="deleted"):
        services.enable_api_key(key=key, by=builders.actor(), now=NOW)


@pytest.mark.django_db
def test_the_last_use_of_many_keys_is_noted_at_once_and_never_moves_back(django_assert_num_queries: Any) -> None:
    fresh, late, early = (builders.api_key(last_used_at=at) for at in (None, NOW, NOW))
    used = {fresh.pk: NOW, late.pk: NOW - timedelta(hours=1), early.pk: NOW + timedelta(hours=1), 999_999: NOW}

    with django_assert_num_queries(1):
        services.note_keys_used(used=used)

    assert list(ApiKey.objects.order_by("pk").values_list("last_used_at", flat=True)) == [
        NOW, NOW, NOW + timedelta(hours=1),
    ]  # fmt: skip


@pytest.mark.django_db
def test_the_consoles_own_keys_are_not_listed_and_are_forgotten_a_day_after_their_end() -> None:
    project = builders.project()
    person = builders.member(project, "ark:GetApiKey")
    made = [
        create(project, by=builders.actor(person), is_internal=True, expires_at=NOW + timedelta(minutes=10))[0]
        for _number in range(2)
    ]
    ApiKey.objects.filter(pk=made[0].pk).update(expires_at=NOW - timedelta(days=2))
    kept = builders.api_key(project=project, expires_at=NOW - timedelta(days=2))

    assert list(ApiKey.objects.for_list()) == [kept]
    assert services.forget_internal_keys(now=NOW) == 1
    assert set(ApiKey.objects.all()) == {made[1], kept}


@pytest.mark.django_db
def test_the_command_prints_the_key_alone(capsys: pytest.CaptureFixture[str]) -> None:
    project = builders.project("default")

    call_command("create_api_key", project="default", name="ci")

    printed = capsys.readouterr().out
    assert ApiKey.objects.get(digest=keys.digest(printed.strip())).project == project
    assert printed.count("\n") == 1


@pytest.mark.django_db
def test_the_command_names_the_projects_there_are() -> None:
    builders.project("default")

    with pytest.raises(CommandError, match="Projects: default"):
        call_command("create_api_key", project="defualt", name="ci")
