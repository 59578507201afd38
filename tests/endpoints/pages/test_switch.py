"""The version switch's pages: who sees what, the plan, every verb, the part that refreshes itself, the figures."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from catalog.models import FoundationModel, ModelVersion
from endpoints import switch_services
from endpoints.models import Endpoint, SwitchEvent, VersionSwitch
from endpoints.switch_forms import DEFAULT_GATES, parse, typed
from endpoints.switch_presentation import watch
from endpoints.switching import LADDERS, Rung, Verb
from iam.actors import SYSTEM
from metering.models import HealthSlice
from tests import builders
from tests.endpoints.pages.clients import events, htmx, signed_in

pytestmark = pytest.mark.django_db
State = VersionSwitch.State
PLAN = {
    "ladder": "fast", "judged": "gates", "error_rate_percent": "5", "error_points_over_source": "2",
    "rejection_points_over_source": "2", "first_token_ratio": "2", "duration_ratio": "2", "min_samples": "50",
    "on_breach": "hold", "reason": "cheaper", "confirmed": "on",
}  # fmt: skip


@pytest.fixture
def target() -> ModelVersion:
    """Another version of the same domain, on a server that is up."""
    model = builders.foundation_model(name="deepseek", display_name="DeepSeek")
    server = builders.model_server(probed_at=timezone.now())
    return builders.model_version(model=model, version="251201", servers=[server], default_rpm=300, default_tpm=500_000)


@pytest.fixture
def switch(endpoint: Endpoint, target: ModelVersion) -> VersionSwitch:
    """On the second of four steps, 40 %."""
    made = builders.version_switch(
        endpoint=endpoint, target=target, created_at=timezone.now(), started_by_name="li.wei", reason="cheaper"
    )
    SwitchEvent.objects.create(
        switch=made, at=made.created_at, kind="started", soak=0, rung=-1, weight=0, from_weight=0
    )
    SwitchEvent.objects.create(
        switch=made, at=made.created_at, kind="advanced", soak=2, rung=1, weight=40, from_weight=10, code="time_over"
    )
    return made


def address(switch: VersionSwitch, page: str = "") -> str:
    return f"/endpoints/{switch.endpoint_id}/switch/{switch.pk}{page}"


def text(client: Client, url: str) -> str:
    response = client.get(url)
    assert response.status_code == 200, response.content.decode()
    return response.content.decode()


# --- who sees what


@pytest.mark.parametrize("page", ["", "/watch", "/chart", "/shares"])
def test_owner_and_reader_see_it_others_do_not(
    client_of_owner: Client, reader: Client, stranger: Client, switch: VersionSwitch, page: str
) -> None:
    url = address(switch, page)
    assert client_of_owner.get(url).status_code == 200
    assert reader.get(url).status_code == 200
    assert stranger.get(url).status_code == 404
    assert Client().get(url).headers["Location"].startswith("/accounts/login/")


def test_a_preset_endpoint_has_no_switch(client_of_owner: Client, version: ModelVersion, endpoint: Endpoint) -> None:
    preset = builders.endpoint(project=endpoint.project, version=version, kind="preset")
    assert client_of_owner.get(f"/endpoints/{preset.pk}/switch").status_code == 404
    assert "Version switch" not in text(client_of_owner, f"/endpoints/{preset.pk}")


def test_a_switch_is_found_under_its_own_endpoint_only(
    client_of_owner: Client, switch: VersionSwitch, version: ModelVersion
) -> None:
    other = builders.endpoint(project=switch.endpoint.project, version=version, name="other")
    assert client_of_owner.get(f"/endpoints/{other.pk}/switch/{switch.pk}").status_code == 404
    assert client_of_owner.get(f"/endpoints/{other.pk}/switch/{'9' * 18}/watch").status_code == 404


def test_a_reader_sees_no_button_and_may_not_press_one(reader: Client, switch: VersionSwitch) -> None:
    page = text(reader, f"/endpoints/{switch.endpoint_id}/switch")
    assert "switch-pause" not in page
    assert "Roll back now" not in page
    refused = reader.post(address(switch, "/pause"), {"seen_moves": switch.moves})
    assert refused.status_code == 403
    assert "ark:PauseVersionSwitch" in refused.content.decode()
    assert reader.get(f"/endpoints/{switch.endpoint_id}/switch/plan?target={switch.target_id}").status_code == 403


def test_without_the_permission_to_see_it_the_tab_names_it(endpoint: Endpoint, switch: VersionSwitch) -> None:
    client = signed_in(builders.member(endpoint.project, "ark:GetEndpoint"))
    refused = client.get(f"/endpoints/{endpoint.pk}/switch")
    assert refused.status_code == 403
    assert switch_services.GET in refused.content.decode()
    assert "switch-banner" not in text(client, f"/endpoints/{endpoint.pk}")


# --- choosing and planning


def test_versions_that_cannot_be_chosen_say_why(
    client_of_owner: Client, endpoint: Endpoint, target: ModelVersion
) -> None:
    model = builders.foundation_model(name="vectors", domain=FoundationModel.Domain.EMBEDDING)
    builders.model_version(model=model, servers=[builders.model_server()])
    page = text(client_of_owner, f"/endpoints/{endpoint.pk}/switch")
    assert f"switch/plan?target={target.pk}" in page
    assert page.count("Compare and plan") == 1
    assert "For another kind of task" in page


def test_a_reader_is_told_which_permission_starting_needs(
    reader: Client, endpoint: Endpoint, target: ModelVersion
) -> None:
    page = text(reader, f"/endpoints/{endpoint.pk}/switch")
    assert switch_services.START in page
    assert "Compare and plan" not in page


def test_the_plan_shows_both_sides_and_the_defaults(
    client_of_owner: Client, endpoint: Endpoint, target: ModelVersion
) -> None:
    page = text(client_of_owner, f"/endpoints/{endpoint.pk}/switch/plan?target={target.pk}")
    assert "doubao-seed-251015" in page
    assert "deepseek-251201" in page
    assert "Default: 12 steps, 1 h" in page
    assert 'name="min_samples" value="50"' in page


@pytest.mark.parametrize("named", ["", "x", "9" * 30, "999999999"])
def test_a_target_that_is_no_version_is_not_found(client_of_owner: Client, endpoint: Endpoint, named: str) -> None:
    assert client_of_owner.get(f"/endpoints/{endpoint.pk}/switch/plan?target={named}").status_code == 404


def test_a_target_that_will_not_do_shows_why_and_no_form(
    client_of_owner: Client, endpoint: Endpoint, target: ModelVersion
) -> None:
    ModelVersion.objects.filter(pk=target.pk).update(is_switchable=False)
    page = text(client_of_owner, f"/endpoints/{endpoint.pk}/switch/plan?target={target.pk}")
    assert "The catalogue does not offer it" in page
    assert "sw-plan" not in page


def test_a_plan_starts_a_switch(client_of_owner: Client, endpoint: Endpoint, target: ModelVersion) -> None:
    response = client_of_owner.post(f"/endpoints/{endpoint.pk}/switch/plan", {**PLAN, "target": target.pk})
    assert response.status_code == 302
    assert response.headers["Location"] == f"/endpoints/{endpoint.pk}/switch"
    made = VersionSwitch.objects.get()
    assert (made.state, made.target_id, made.reason, len(made.ladder)) == (State.PREPARING, target.pk, "cheaper", 4)
    assert made.gates["min_samples"] == 50
    page = text(client_of_owner, response.headers["Location"])
    assert "Waiting for a fresh probe" in page
    assert "switch-cancel" in page
    assert "switch-roll_back" not in page
    assert "started a version switch" in text(client_of_owner, f"/endpoints/{endpoint.pk}")


@pytest.mark.parametrize(
    ("changed", "field", "sentence"),
    [
        ({"confirmed": ""}, "confirmed", "Confirm that you have read what changes."),
        ({"ladder": "own", "own_ladder": "10 1\n5 1"}, "own_ladder", "Step 2: its share must be larger"),
        ({"ladder": "own", "own_ladder": "10 1\nten"}, "own_ladder", "Line 2: write the share"),
        ({"ladder": "own", "own_ladder": "10 1"}, "own_ladder", "the last step must be 100 percent"),
        ({"ladder": "own", "own_ladder": ""}, "own_ladder", "A plan needs at least one step."),
        ({"error_rate_percent": "200"}, "error_rate_percent", "less than or equal to 100"),
        (
            {name: "" for name in PLAN if name.endswith(("_percent", "_source", "_ratio"))},
            "judged",
            "Choose at least one gate",
        ),
    ],
)
def test_what_is_wrong_with_a_plan_stands_beside_its_field(
    client_of_owner: Client,
    endpoint: Endpoint,
    target: ModelVersion,
    changed: dict[str, str],
    field: str,
    sentence: str,
) -> None:
    response = client_of_owner.post(f"/endpoints/{endpoint.pk}/switch/plan", {**PLAN, "target": target.pk, **changed})
    assert response.status_code == 422
    assert any(sentence in error for error in response.context["form"].errors[field])
    assert sentence in response.content.decode()
    assert not VersionSwitch.objects.exists()


def test_a_second_switch_is_refused_with_a_sentence(client_of_owner: Client, switch: VersionSwitch) -> None:
    data = {**PLAN, "target": switch.target_id}
    response = client_of_owner.post(f"/endpoints/{switch.endpoint_id}/switch/plan", data)
    assert response.status_code in (409, 422)
    assert "under way already" in response.content.decode()


def test_an_embedding_endpoint_is_offered_one_cut(
    client_of_owner: Client, endpoint: Endpoint, target: ModelVersion
) -> None:
    FoundationModel.objects.update(domain=FoundationModel.Domain.EMBEDDING)
    url = f"/endpoints/{endpoint.pk}/switch/plan"
    page = text(client_of_owner, f"{url}?target={target.pk}")
    assert "vectors of two models do not mix" in page
    assert 'name="ladder"' not in page
    data = {"target": target.pk, "confirmed": "on"}
    assert client_of_owner.post(url, data).status_code == 302
    assert [rung["weight"] for rung in VersionSwitch.objects.get().ladder] == [100]


def test_switching_back_is_prefilled_in_the_other_direction(client_of_owner: Client, switch: VersionSwitch) -> None:
    now = timezone.now()
    Endpoint.objects.update(version=switch.target)
    VersionSwitch.objects.update(state=State.COMPLETED, weight=100, rung=3, ended_at=now, gates=None)
    page = text(client_of_owner, f"/endpoints/{switch.endpoint_id}/switch")
    link = f"/endpoints/{switch.endpoint_id}/switch/plan?target={switch.source_id}&amp;like={switch.pk}"
    assert link in page
    form = client_of_owner.get(link.replace("&amp;", "&")).context["form"]
    assert form.initial["ladder"] == "own"
    assert parse(form.initial["own_ladder"]) == [Rung(weight, 60) for weight in (10, 40, 70, 100)]
    assert form.initial["judged"] == "time"
    assert link in text(client_of_owner, address(switch))


def test_a_typed_plan_comes_back_as_it_was() -> None:
    for rungs in LADDERS.values():
        assert tuple(parse(typed(rungs))) == rungs
    assert parse("5% , 0.5\n\n100: 1") == [Rung(5, 30), Rung(100, 60)]
    assert DEFAULT_GATES.compares


# --- watching


def test_the_page_shows_where_the_switch_stands(client_of_owner: Client, switch: VersionSwitch) -> None:
    builders.health_sum(switch, calls=40, errors=2)
    builders.health_sum(switch, side="source", calls=60)
    page = text(client_of_owner, f"/endpoints/{switch.endpoint_id}/switch")
    assert '<li class="sw-step sw-here" aria-current="step"' in page
    assert "2 / 4" in page
    assert "5 %" in page
    assert "The time of the step was over." in page
    assert 'hx-trigger="every 2s' in page


def test_each_gate_says_what_it_sees(client_of_owner: Client, switch: VersionSwitch) -> None:
    gates = {"error_rate_percent": 5, "rejection_points_over_source": 2, "duration_ratio": 2, "min_samples": 50}
    VersionSwitch.objects.update(gates=gates)

    def states() -> list[str]:
        return [line.state for line in watch(VersionSwitch.objects.get(), by=SYSTEM).gates]

    assert states() == ["open", "open", "open"]
    builders.health_sum(switch, calls=100, errors=10, rejections=1)
    assert states() == ["broken", "open", "open"]
    builders.health_sum(switch, side="source", rung=-1, calls=100)
    assert states() == ["broken", "kept", "kept"]
    page = text(client_of_owner, f"/endpoints/{switch.endpoint_id}/switch")
    assert "<strong>10 %</strong>" in page
    assert "≤ 5 %" in page


def test_what_refreshes_answers_nothing_while_nothing_changed(client_of_owner: Client, switch: VersionSwitch) -> None:
    seen = client_of_owner.get(f"/endpoints/{switch.endpoint_id}/switch").context["seen"]
    url = address(switch, f"/watch?seen={seen}")
    assert client_of_owner.get(url).status_code == 204
    builders.health_sum(switch, calls=40)
    fresh = client_of_owner.get(url)
    assert fresh.status_code == 200
    assert 'hx-swap-oob="true"' in fresh.content.decode()


def test_at_the_end_it_stops_refreshing_and_tells_the_rest_of_the_page(
    client_of_owner: Client, switch: VersionSwitch
) -> None:
    VersionSwitch.objects.update(state=State.ROLLED_BACK, weight=0, rung=-1, ended_at=timezone.now())
    response = client_of_owner.get(address(switch, "/watch"))
    assert "every 2s" not in response.content.decode()
    assert f"changed-{switch.endpoint_id}" in events(response)


def test_the_chart_and_its_table_have_the_same_figures(client_of_owner: Client, switch: VersionSwitch) -> None:
    began_at = timezone.now().replace(second=0, microsecond=0) - timedelta(minutes=2)
    VersionSwitch.objects.update(created_at=began_at)
    SwitchEvent.objects.update(at=began_at)
    for version_id, calls in ((switch.source_id, 6), (switch.target_id, 2)):
        HealthSlice.objects.create(
            switch_id=switch.pk, version_id=version_id, endpoint_id=switch.endpoint_id, rung=2, calls=calls,
            at=began_at + timedelta(seconds=30),
        )  # fmt: skip
    figures = client_of_owner.get(address(switch, "/chart")).json()
    assert figures["seen"] == [None, 25, None]
    assert figures["wanted"] == [40, 40, 40]
    assert figures["time"] == sorted(figures["time"])
    assert "25 %" in text(client_of_owner, address(switch, "/shares"))


def test_the_other_tabs_have_a_banner_and_the_list_a_badge(client_of_owner: Client, switch: VersionSwitch) -> None:
    for page in ("", "/api", "/calls"):
        assert 'id="switch-banner"' in text(client_of_owner, f"/endpoints/{switch.endpoint_id}{page}")
    assert "40 %" in text(client_of_owner, f"/endpoints/{switch.endpoint_id}/switch/banner")
    assert "Switching 40 %" in text(client_of_owner, "/endpoints/")
    VersionSwitch.objects.update(state=State.COMPLETED, weight=100, ended_at=timezone.now())
    assert "switch-banner" not in text(client_of_owner, f"/endpoints/{switch.endpoint_id}/switch/banner")
    assert "Switching" not in text(client_of_owner, "/endpoints/")


def test_a_row_asks_again_only_when_its_switch_has_moved(client_of_owner: Client, switch: VersionSwitch) -> None:
    endpoint = switch.endpoint
    url = f"/endpoints/{endpoint.pk}/row?seen={endpoint.status_version}.{endpoint.revision}"
    assert client_of_owner.get(f"{url}&switch={switch.pk}.{switch.moves}").status_code == 204
    assert "Switching 40 %" in text(client_of_owner, f"{url}&switch={switch.pk}.1")
    assert "Switching 40 %" in text(client_of_owner, url)
    VersionSwitch.objects.update(state=State.ROLLED_BACK, weight=0, ended_at=timezone.now())
    assert "Switching" not in text(client_of_owner, f"{url}&switch={switch.pk}.{switch.moves}")


# --- what people do


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [
        ("pause", {}, {"state": State.PAUSED, "weight": 40}),
        ("resume", {"state": State.PAUSED}, {"state": State.CLIMBING, "weight": 40}),
        ("step_back", {}, {"state": State.CLIMBING, "weight": 10}),
        ("advance", {}, {"state": State.CLIMBING, "weight": 70}),
        ("return", {}, {"state": State.RETURNING, "return_hold_seconds": 90}),
        ("roll_back", {}, {"state": State.ROLLED_BACK, "weight": 0}),
        ("finish", {}, {"state": State.COMPLETED, "weight": 100}),
        ("cancel", {"state": State.PREPARING, "rung": -1, "weight": 0}, {"state": State.CANCELLED, "weight": 0}),
    ],
)
@pytest.mark.parametrize("is_htmx", [True, False])
def test_each_verb_asks_and_does(
    client_of_owner: Client,
    switch: VersionSwitch,
    verb: str,
    before: dict[str, object],
    after: dict[str, object],
    is_htmx: bool,
) -> None:
    VersionSwitch.objects.update(**before)
    headers = htmx("dialog") if is_htmx else {}
    asked = client_of_owner.get(address(switch, f"/{verb}"), headers=headers)
    assert asked.status_code == 200
    assert str(Verb(verb).label) in asked.content.decode()
    data = {"reason": "so it shall be", "seen_moves": switch.moves, "hold_minutes": "1.5"}
    done = client_of_owner.post(address(switch, f"/{verb}"), data, headers=headers)
    if is_htmx:
        assert done.status_code == 204
        assert {"closeDialog", "toast", f"moved-{switch.endpoint_id}"} <= events(done).keys()
    else:
        assert done.headers["Location"] == f"/endpoints/{switch.endpoint_id}/switch"
    switch.refresh_from_db()
    assert {name: getattr(switch, name) for name in after} == after
    last = switch.events.last()
    assert last is not None
    assert (last.reason, last.actor_name) == ("so it shall be", "li.wei")


def test_who_comes_second_is_told_and_sees_it_as_it_is(client_of_owner: Client, switch: VersionSwitch) -> None:
    data = {"reason": "mine", "seen_moves": switch.moves - 1}
    response = client_of_owner.post(address(switch, "/pause"), data, headers=htmx("dialog"))
    assert response.status_code == 422
    page = response.content.decode()
    assert "This switch has moved meanwhile." in page
    assert f'name="seen_moves" value="{switch.moves}"' in page
    assert 'value="mine"' in page
    switch.refresh_from_db()
    assert switch.state == State.CLIMBING


def test_rolling_back_now_works_whatever_was_seen(client_of_owner: Client, switch: VersionSwitch) -> None:
    response = client_of_owner.post(address(switch, "/roll_back"), {"seen_moves": 0}, headers=htmx("dialog"))
    assert response.status_code == 204
    switch.refresh_from_db()
    assert switch.state == State.ROLLED_BACK


def test_a_verb_that_does_not_fit_is_refused_with_a_sentence(client_of_owner: Client, switch: VersionSwitch) -> None:
    asked = text(client_of_owner, address(switch, "/cancel"))
    assert "does not fit" in asked
    refused = client_of_owner.post(address(switch, "/cancel"), {"seen_moves": switch.moves})
    assert refused.status_code == 422
    assert "The first step has been taken. Roll back instead." in refused.content.decode()
    assert client_of_owner.get(address(switch, "/explode")).status_code == 404


def test_the_hold_of_a_gradual_return_has_its_bounds(client_of_owner: Client, switch: VersionSwitch) -> None:
    for minutes in ("0.1", "2000", "x", ""):
        data = {"seen_moves": switch.moves, "hold_minutes": minutes}
        response = client_of_owner.post(address(switch, "/return"), data)
        assert response.status_code == 422
        assert response.context["form"].errors["hold_minutes"]


# --- how much it asks the database


def test_the_page_asks_a_fixed_number_of_questions(client_of_owner: Client, switch: VersionSwitch) -> None:
    def queries(url: str) -> int:
        client_of_owner.get(url)
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert client_of_owner.get(url).status_code == 200
        # Whether ticks are late is asked every few seconds, whatever the page.
        return sum("tickheartbeat" not in query["sql"] for query in captured)

    urls = [f"/endpoints/{switch.endpoint_id}/switch", address(switch, "/watch"), "/endpoints/"]
    before = [queries(url) for url in urls]
    for soak in range(3, 30):
        SwitchEvent.objects.create(
            switch=switch, at=timezone.now(), kind="advanced", soak=soak, rung=1, weight=40, from_weight=40
        )
        builders.health_sum(switch, rung=soak)
    for number in range(5):
        other = builders.endpoint(project=switch.endpoint.project, version=switch.source, name=f"other {number}")
        builders.version_switch(endpoint=other, target=switch.target, created_at=timezone.now())
    assert [queries(url) for url in urls] == before
