"""The default rules in one press, rules of one's own, and what an upgrade keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.utils import translation

from alerts import actions, previews, promql, rule_services, rules, templates
from alerts.metrics import Both
from alerts.models import Rule, RuleGroup
from alerts.previews import Fired, Preview
from alerts.promql import Invalid, MetricForm
from alerts.rule_services import AlreadyThere, OwnRule, RuleChange
from alerts.templates import CURRENT, LevelRule
from audit.models import Event
from common.errors import Conflict, DomainError, NotAllowed
from endpoints.models import Endpoint
from monitoring import prometheus
from monitoring.prometheus import Kind, Sample, Series, Trouble
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db
R = "ark_api_proxy_request_total"
P1 = LevelRule("P1", 5, 60)


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture(autouse=True)
def _without_promtool(settings: Any) -> None:
    settings.PROMTOOL_BIN = "/nowhere/promtool"


@pytest.fixture
def endpoint() -> Endpoint:
    version = builders.model_version(model=builders.foundation_model(domain="chat"), supports_caching=True)
    return builders.endpoint(version=version, rpm=600, tpm=1_000_000)


def made(endpoint: Endpoint, **values: Any) -> RuleGroup:
    return rule_services.create_group_from_template(
        **{"endpoint": endpoint, "by": builders.actor(), "now": NOW, **values}
    )


def own(name: str = "Many calls", expression: str = f"sum({R})", **values: Any) -> OwnRule:
    return OwnRule(**{"name": name, "promql": expression, "levels": [P1], **values})


def group_of(*wanted: OwnRule, **values: Any) -> RuleGroup:
    values.setdefault("project", builders.project("default"))
    return rule_services.create_own_group(
        **{"name": "Mine", "rules": wanted or [own()], "by": builders.actor(), "now": NOW, **values}
    )


def stored(group: RuleGroup) -> RuleGroup:
    return RuleGroup.objects.get(pk=group.pk)


# --- from the template ---------------------------------------------------------------------------------------------------


def test_one_press_makes_every_rule_that_fits_the_model(endpoint: Endpoint) -> None:
    group = made(endpoint)
    assert [rule.key for rule in group.rules.all()] == [item.id for item in CURRENT.items]
    assert (group.endpoint_id, group.template_id, group.template_version) == (endpoint.pk, CURRENT.id, CURRENT.version)
    assert group.sync_state == "pending"
    assert endpoint.name in group.name
    assert not any(rule.changed for rule in group.rules.all())
    content = rules.render(rules.spec_of(group))
    assert content is not None
    assert len(content["groups"][0]["rules"]) == sum(len(item.levels) for item in CURRENT.items)


def test_the_drawer_shows_what_a_share_of_the_endpoints_own_limit_comes_to(endpoint: Endpoint) -> None:
    filled = {each.item.id: each for each in rule_services.prefilled(endpoint)}
    tpm = filled["tpm_usage"]
    assert [tpm.absolute(level) for level in tpm.item.levels] == [1_000_000, 900_000, 800_000]
    assert filled["error_rate"].absolute(P1) is None


def test_what_people_change_in_the_drawer_is_theirs(endpoint: Endpoint) -> None:
    policy = builders.notification_policy()
    changes = {
        "error_rate": RuleChange(levels=[LevelRule("P2", 2, 120), LevelRule("P0", 50, 0)]),
        "no_traffic": RuleChange(is_enabled=False),
        "abnormal": RuleChange(texts={"en": "Down!", "zh": "挂了"}, labels={"team": "search"}),
        "rpm_usage": RuleChange(levels=list((CURRENT.item("rpm_usage") or CURRENT.items[0]).levels)),
    }
    group = made(endpoint, changes=changes, policy=policy, name=" Search ")
    by_key = {rule.key: rule for rule in group.rules.all()}
    assert (group.name, group.policy) == ("Search", policy)
    assert by_key["error_rate"].levels == [
        {"level": "P0", "threshold": 50.0, "for_seconds": 0},
        {"level": "P2", "threshold": 2.0, "for_seconds": 120},
    ]
    assert {key: rule.changed for key, rule in by_key.items() if rule.changed} == {
        "error_rate": ["levels"],
        "no_traffic": ["is_enabled"],
        "abnormal": ["texts", "labels"],
    }
    content = rules.render(rules.spec_of(group))
    assert content is not None
    alerts = content["groups"][0]["rules"]
    assert {alert["labels"]["notify_policy"] for alert in alerts} == {str(policy.pk)}
    assert "no_traffic" not in {alert["alert"] for alert in alerts}


def test_a_second_group_of_the_same_template_is_refused_with_the_first(endpoint: Endpoint) -> None:
    first = made(endpoint)
    with pytest.raises(AlreadyThere) as caught:
        made(endpoint)
    assert caught.value.group == first
    assert caught.value.address == f"/alerts/rules/{first.pk}"
    assert first.name in caught.value.message
    rule_services.delete_group(group=first, by=builders.actor(), now=NOW)
    assert made(endpoint).pk != first.pk


def test_what_watches_an_endpoint_already_is_shown_first(endpoint: Endpoint) -> None:
    mine, whole = made(endpoint), group_of()
    group_of(endpoint=builders.endpoint())
    group_of(project=builders.project("other"))
    assert set(rule_services.covering(endpoint)) == {mine, whole}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (RuleChange(levels=[]), "error_rate-levels"),
        (RuleChange(levels=[LevelRule("P0", 1, 45)]), "error_rate-levels"),
        (RuleChange(levels=[LevelRule("P3", 1, 0)]), "error_rate-levels"),
        (RuleChange(levels=[P1, P1]), "error_rate-levels"),
        (RuleChange(levels=[LevelRule("P0", float("nan"), 0)]), "error_rate-levels"),
        (RuleChange(levels=[LevelRule("P0", 1, 0), LevelRule("P1", 5, 0)]), "error_rate-levels"),
        (RuleChange(labels={"project": "q"}), "error_rate-labels"),
        (RuleChange(labels={"9": "q"}), "error_rate-labels"),
        (RuleChange(labels={"__x": "q"}), "error_rate-labels"),
        (RuleChange(labels={"instance": "q"}), "error_rate-labels"),
        (RuleChange(texts={"fr": "non"}), "error_rate-texts"),
        (RuleChange(texts={"en": "x" * 501}), "error_rate-texts"),
    ],
)
def test_a_value_that_will_not_do_is_refused_at_its_field(endpoint: Endpoint, change: RuleChange, field: str) -> None:
    with pytest.raises(DomainError) as caught:
        made(endpoint, changes={"error_rate": change})
    assert caught.value.field == field
    assert not RuleGroup.objects.exists()


def test_the_policy_of_another_project_is_no_choice(endpoint: Endpoint) -> None:
    policy = builders.notification_policy(project=builders.project("other"))
    with pytest.raises(DomainError) as caught:
        made(endpoint, policy=policy)
    assert caught.value.field == "policy"


def test_a_saved_change_is_on_its_way_and_a_late_one_is_a_conflict(endpoint: Endpoint) -> None:
    group = made(endpoint)
    RuleGroup.objects.update(sync_state="active")
    change = {"ttft_p95": RuleChange(levels=[LevelRule("P1", 8, 300)])}
    updated = rule_services.update_template_group(
        group=group, revision=0, changes=change, policy=None, name="New", by=builders.actor(), now=NOW
    )
    assert (updated.revision, updated.sync_state, stored(group).name) == (1, "pending", "New")
    rule = group.rules.get(key="ttft_p95")
    assert rule.changed == ["levels"]
    assert Event.objects.latest("sequence").changes["ttft_p95"][0]["levels"] != rule.levels
    with pytest.raises(Conflict):
        rule_services.update_template_group(
            group=group, revision=0, changes={}, policy=None, name="Late", by=builders.actor(), now=NOW
        )
    # Back as shipped: nothing of it is a change any more.
    item = CURRENT.item("ttft_p95")
    assert item is not None
    rule_services.update_template_group(
        group=group, revision=1, changes={"ttft_p95": RuleChange(levels=item.levels)}, policy=None, name="New",
        by=builders.actor(), now=NOW,
    )  # fmt: skip
    rule.refresh_from_db()
    assert rule.changed == []


def test_an_upgrade_brings_what_is_new_and_keeps_what_people_changed(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = [LevelRule("P1", 9, 60)]
    group = made(endpoint, changes={"error_rate": RuleChange(levels=theirs)})
    assert not rule_services.is_upgradable(group)
    ids = {rule.key: rule.pk for rule in group.rules.all()}

    def newer(item: templates.Item) -> templates.Item:
        if item.id == "error_rate":
            return replace(item, levels=(LevelRule("P0", 3, 60),), text=Both("New", "新"), expression=f"sum({R})")
        return replace(item, levels=(LevelRule("P0", 30, 60),)) if item.id == "ttft_p95" else item

    items = [newer(item) for item in CURRENT.items if item.id != "no_traffic"]
    second = replace(CURRENT, version=2, items=(*items, replace(items[0], id="extra")))
    monkeypatch.setattr(templates, "VERSIONS", (CURRENT, second))
    assert rule_services.is_upgradable(group)

    def shown() -> set[tuple[str, str, str, bool]]:
        found = rule_services.upgrade_preview(group)
        return {(each.item_id, each.kind, each.field, each.is_kept) for each in found}

    differences = {
        ("no_traffic", "removed", "", False),
        ("extra", "added", "", False),
        ("error_rate", "changed", "expression", False),
        ("error_rate", "changed", "text", False),
        ("error_rate", "changed", "levels", True),
        ("ttft_p95", "changed", "levels", False),
    }
    assert shown() == differences
    monkeypatch.setattr(templates, "VERSIONS", (second,))
    assert shown() == differences, "from what the group is, where the old version is no longer known"
    [upgraded] = rule_services.upgrade_groups(groups=[group], by=builders.actor(), now=NOW)
    after = {rule.key: rule for rule in Rule.objects.filter(group=group)}
    assert (upgraded.template_version, upgraded.sync_state) == (2, "pending")
    assert set(after) == {item.id for item in second.items}
    assert after["error_rate"].levels == [level.to_json() for level in theirs]
    assert after["error_rate"].promql == f"sum({R})"
    assert after["error_rate"].texts == {"en": "New", "zh": "新"}
    assert after["ttft_p95"].levels == [{"level": "P0", "threshold": 30, "for_seconds": 60}]
    assert after["error_rate"].pk == ids["error_rate"], "its events stay its own"
    assert not rule_services.is_upgradable(stored(group))


def test_an_upgrade_keeps_a_rule_that_people_changed_and_the_newer_version_dropped(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = [LevelRule("P1", 9, 60)]
    group = made(endpoint, changes={"error_rate": RuleChange(levels=theirs), "abnormal": RuleChange(is_enabled=False)})
    before = Rule.objects.get(group=group, key="error_rate")
    items = [item for item in CURRENT.items if item.id not in {"error_rate", "abnormal", "no_traffic"}]
    second = replace(CURRENT, version=2, items=tuple(items))
    monkeypatch.setattr(templates, "VERSIONS", (CURRENT, second))

    def shown() -> set[tuple[str, str, bool]]:
        found = rule_services.upgrade_preview(stored(group))
        return {(each.item_id, each.kind, each.is_kept) for each in found}

    kept = {("error_rate", "kept", True), ("abnormal", "kept", True)}
    assert shown() == {*kept, ("no_traffic", "removed", False)}
    rule_services.upgrade_groups(groups=[group], by=builders.actor(), now=NOW)
    keys = list(group.rules.values_list("key", flat=True))
    assert keys == [*[item.id for item in items], "abnormal", "error_rate"]
    after = group.rules.get(key="error_rate")
    assert (after.pk, after.levels, after.promql) == (before.pk, [theirs[0].to_json()], before.promql)
    assert not group.rules.get(key="abnormal").is_enabled
    assert Event.objects.latest("sequence").changes.keys() == {"no_traffic", "template_version"}
    assert templates.name_of(template_id=CURRENT.id, key="error_rate", default="") == "Server error rate (5xx)"

    louder = replace(CURRENT.items[0], levels=(LevelRule("P0", 1, 60),))
    monkeypatch.setattr(templates, "VERSIONS", (CURRENT, second, replace(second, version=3, items=(*items, louder))))
    assert shown() == {("error_rate", "changed", True), ("abnormal", "kept", True)}, "of a version that has it again"
    rule_services.upgrade_groups(groups=[stored(group)], by=builders.actor(), now=NOW)
    assert group.rules.get(key="error_rate").levels == [theirs[0].to_json()]
    assert group.rules.filter(key="abnormal").exists()


def test_what_is_edited_on_a_version_that_is_not_known_any_more_survives_an_upgrade(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = made(endpoint, changes={"error_rate": RuleChange(texts={"en": "Mine"})})
    monkeypatch.setattr(templates, "VERSIONS", (replace(CURRENT, version=2),))
    theirs = [LevelRule("P1", 9, 60)]
    rule_services.update_template_group(
        group=group, revision=0, changes={"error_rate": RuleChange(levels=theirs)}, policy=None, name="New",
        by=builders.actor(), now=NOW,
    )  # fmt: skip
    rule_services.upgrade_groups(groups=[group], by=builders.actor(), now=NOW)
    rule = group.rules.get(key="error_rate")
    assert sorted(rule.changed) == ["levels", "texts"]
    assert (rule.levels, rule.texts) == ([level.to_json() for level in theirs], {"en": "Mine"})


# --- own rules -----------------------------------------------------------------------------------------------------------


def test_own_rules_are_kept_as_typed_and_confined_when_rendered() -> None:
    form = MetricForm(R, "per_minute", 300, (("code", "!=", "Success"),))
    group = group_of(own(labels={"team": "a"}, texts={"en": "Hey"}), own("Form", "", form=form))
    first, second = group.rules.all()
    assert (first.key, first.kind, first.promql) == ("r1", "promql", f"sum({R})")
    assert (second.kind, second.form) == ("metric", form.to_json())
    content = rules.render(rules.spec_of(group))
    assert content is not None
    alerts = content["groups"][0]["rules"]
    assert [alert["alert"] for alert in alerts] == [f"own_{first.pk}", f"own_{second.pk}"]
    assert all('project="default"' in alert["expr"] for alert in alerts)
    assert alerts[0]["labels"]["team"] == "a"
    assert "ark_endpoint" not in alerts[0]["labels"]


def test_rules_that_stay_keep_their_history_and_keys_are_never_used_again() -> None:
    group = group_of(own("One"), own("Two"))
    one, two = group.rules.all()
    wanted = [own("Three"), own("Two, better", key="r2", levels=[LevelRule("P0", 1, 0)])]
    rule_services.update_own_group(
        group=group, revision=0, name="Mine", rules=wanted, policy=None, by=builders.actor(), now=NOW
    )
    assert [(rule.key, rule.name) for rule in group.rules.all()] == [("r3", "Three"), ("r2", "Two, better")]
    assert group.rules.get(key="r2").pk == two.pk
    assert not Rule.objects.filter(pk=one.pk).exists()
    changes = Event.objects.latest("sequence").changes
    assert changes["r1"][1] is None
    assert changes["r3"][0] is None


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (own(name=" "), "1-name"),
        (own(comparator="=>"), "1-comparator"),
        (own(levels=[]), "1-levels"),
        (own(comparator="<", levels=[LevelRule("P0", 5, 0), LevelRule("P1", 1, 0)]), "1-levels"),
        (own(expression="sum(up)"), "1-promql"),
        (own(expression=f'sum({R}{{project="q"}})'), "1-promql"),
        (own(form=MetricForm(R, "p95")), "1-aggregation"),
        (own(unit="x" * 17), "1-unit"),
        (own(labels={"a": "b\x00c"}), "1-labels"),
    ],
)
def test_a_fault_names_the_rule_that_it_is_in(rule: OwnRule, field: str) -> None:
    with pytest.raises(DomainError) as caught:
        group_of(own(), rule)
    assert caught.value.field == field
    assert not RuleGroup.objects.exists()


def test_the_expressions_of_a_template_are_not_for_editing(endpoint: Endpoint) -> None:
    with pytest.raises(DomainError):
        rule_services.update_own_group(
            group=made(endpoint), revision=0, name="x", rules=[own()], policy=None, by=builders.actor(), now=NOW
        )


# --- any group -----------------------------------------------------------------------------------------------------------


def test_a_group_and_a_rule_can_be_switched_off_and_on(endpoint: Endpoint) -> None:
    group, actor = made(endpoint), builders.actor()
    assert not rule_services.set_enabled(group=group, is_enabled=False, by=actor, now=NOW).is_enabled
    assert rules.render(rules.spec_of(stored(group))) is None
    rule_services.set_enabled(group=group, is_enabled=True, by=actor, now=NOW)
    rule = group.rules.get(key="abnormal")
    changed = rule_services.set_rule_enabled(rule=rule, is_enabled=False, by=actor, now=NOW)
    assert (changed.is_enabled, changed.changed) == (False, ["is_enabled"])
    assert stored(group).revision == 3
    # Again changes nothing, and sends nothing on its way.
    rule_services.set_rule_enabled(rule=rule, is_enabled=False, by=actor, now=NOW)
    assert stored(group).revision == 3


def test_a_deleted_group_is_on_its_way_out_and_stays_readable(endpoint: Endpoint) -> None:
    group = made(endpoint)
    rule_services.delete_group(group=group, by=builders.actor(), now=NOW)
    assert (stored(group).deleted_at, stored(group).sync_state) == (NOW, "pending")
    assert group.rules.exists()
    with pytest.raises(DomainError):
        rule_services.delete_group(group=group, by=builders.actor(), now=NOW)


ALL = (
    actions.CREATE_RULE_GROUP, actions.UPDATE_RULE_GROUP, actions.UPGRADE_RULE_GROUPS, actions.DELETE_RULE_GROUP,
)  # fmt: skip


@pytest.mark.parametrize("left_out", [None, *ALL])
def test_reading_and_the_single_actions_are_enough_and_each_is_needed(endpoint: Endpoint, left_out: str | None) -> None:
    """As the specification says: VMPReadOnlyAccess and these four, one by one."""
    project = endpoint.project
    someone = builders.member(project, *[action for action in ALL if action != left_out])
    builders.Attachment.objects.create(policy=builders.policy(name="VMPReadOnlyAccess"), user=someone, project=project)
    actor, group = builders.actor(someone), group_of()
    doing: dict[str, Any] = {
        actions.CREATE_RULE_GROUP: lambda: made(endpoint, by=actor),
        actions.UPDATE_RULE_GROUP: lambda: rule_services.set_enabled(group=group, is_enabled=False, by=actor, now=NOW),
        actions.UPGRADE_RULE_GROUPS: lambda: rule_services.upgrade_groups(groups=[builders.rule_group(template_id="endpoint", template_version=1, endpoint_id="x")], by=actor, now=NOW),
        actions.DELETE_RULE_GROUP: lambda: rule_services.delete_group(group=group, by=actor, now=NOW),
    }  # fmt: skip
    for action, act in doing.items():
        if action != left_out:
            act()
            continue
        with pytest.raises(NotAllowed) as caught:
            act()
        assert caught.value.action == action
        assert Event.objects.latest("pk").outcome == "denied"


def test_who_may_read_only_changes_nothing(endpoint: Endpoint) -> None:
    reader = builders.actor(builders.member(endpoint.project, policy_name="VMPReadOnlyAccess"))
    with pytest.raises(NotAllowed):
        made(endpoint, by=reader)
    full = builders.actor(builders.member(endpoint.project, policy_name="VMPFullAccess"))
    assert made(endpoint, by=full)


def test_of_another_project_one_may_do_nothing(endpoint: Endpoint) -> None:
    stranger = builders.actor(builders.member(builders.project("other"), policy_name="VMPFullAccess"))
    with pytest.raises(NotAllowed):
        made(endpoint, by=stranger)
    with pytest.raises(NotAllowed):
        preview(by=stranger)
    with pytest.raises(DomainError):
        group_of(endpoint=endpoint, project=builders.project("third"))


# --- beforehand ----------------------------------------------------------------------------------------------------------


def preview(**values: Any) -> Preview:
    return rule_services.preview(
        **{"expression": f"sum({R})", "comparator": ">", "levels": [P1, LevelRule("P2", 2, 0)],
           "project": builders.project("default"), "by": builders.actor(), "now": NOW, **values}
    )  # fmt: skip


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What Prometheus says of now; the last day is four minutes over the threshold of P1 at its end."""
    now: list[float] = [3.1]
    asked: list[str] = []

    def fetch(asks: Any) -> dict[Any, list[Series]]:
        [(query, grid)] = asks
        asked.append(query)
        values = [0.0] * (len(grid.times) - 4) + [7.0] * 4
        return {asks[0]: [Series({}, values)]}

    monkeypatch.setattr(prometheus, "instant", lambda query: [Sample({}, 0.0, value) for value in now])
    monkeypatch.setattr(prometheus, "fetch", fetch)
    return now


@pytest.mark.parametrize(
    ("values", "level", "english"),
    [
        ([3.1], "P2", "Now: 3.1, would fire as P2."),
        ([6.0, 1.0], "P1", "Now: 6, would fire as P1."),
        ([1.0], "", "Now: 1, would not fire."),
        ([], "", "Now: no data, would not fire."),
        ([float("nan")], "", "Now: no data, would not fire."),
    ],
)
def test_the_preview_says_what_is_now(said: list[float], values: list[float], level: str, english: str) -> None:
    said[:] = values
    found = preview()
    assert found.level == level
    assert found.sentence == english


def test_the_preview_marks_when_it_would_have_fired(said: list[float]) -> None:
    found = preview()
    end = found.times[-1]
    assert len(found.times) == 1441
    assert found.fired == [Fired("P1", end - 120, end), Fired("P2", end - 180, end)]
    assert 'project="default"' in found.expression


def test_the_preview_is_refused_before_prometheus_is_asked() -> None:
    with pytest.raises(Invalid):
        preview(expression="sum(up)")
    with pytest.raises(DomainError):
        preview(levels=[])


def test_without_prometheus_the_preview_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(query: str) -> list[Sample]:
        raise Trouble(Kind.UNREACHABLE)

    monkeypatch.setattr(prometheus, "instant", away)
    found = preview()
    assert found.trouble is not None
    assert found.sentence == "Prometheus does not answer, so there is no preview."


def test_of_too_many_series_the_worst_are_looked_at(said: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    said[:] = [6.0]
    asked: list[str] = []

    def fetch(asks: Any) -> dict[Any, list[Series]]:
        [(query, grid)] = asks
        asked.append(query)
        if not query.startswith("topk(20, "):
            raise Trouble(Kind.TOO_MUCH, "120 series")
        return {asks[0]: [Series({}, [7.0] * len(grid.times))]}

    monkeypatch.setattr(prometheus, "fetch", fetch)
    found = preview()
    assert found.sentence == "Now: 6, would fire as P1."
    assert len(found.series) == 1
    assert asked[1] == f"topk(20, {asked[0]})"


def test_what_is_wrong_with_prometheus_is_said_of_the_preview(
    said: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(asks: Any) -> None:
        raise Trouble(Kind.TOO_MUCH, "120 series")

    monkeypatch.setattr(prometheus, "fetch", fetch)
    assert preview().sentence == "Prometheus has more series than can be drawn (120 series)."


def test_groups_of_templates_leave_room_for_own_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_services, "MAX_GROUPS", 1)
    project = builders.project("default")
    builders.rule_group(project=project, template_id="llm", endpoint_id="ep-1")
    assert group_of()
    with pytest.raises(DomainError, match="at most 1 rule groups"):
        group_of()


@pytest.mark.parametrize(
    ("values", "seconds", "keep", "spans"),
    [
        ([0, 9, 9, 0], 0, 0, [(60, 180)]),
        ([0, 9, 9, 0], 60, 0, [(120, 180)]),
        ([0, 9, 0, 9], 60, 0, []),
        ([9, None, 9, 9], 60, 0, [(180, 180)]),
        ([9, 0, 9, 0, 0, 0], 0, 120, [(0, 240)]),
        ([9, 9], 0, 0, [(0, 60)]),
        ([], 0, 0, []),
    ],
)
def test_firing_begins_after_the_wait_and_ends_after_the_keeping(
    settings: Any, values: list[float | None], seconds: int, keep: int, spans: list[tuple[int, int]]
) -> None:
    settings.ALERT_KEEP_FIRING_SECONDS = keep
    times = [60 * number for number in range(len(values))]
    found = previews.fired(values, times, ">", [LevelRule("P1", 5, seconds)])
    assert [(span.start, span.end) for span in found] == spans


def test_the_place_of_a_fault_comes_with_it() -> None:
    with pytest.raises(Invalid) as caught:
        rule_services.check(f"sum({R})\n+ sum(up)", project=builders.project("default"))
    assert (caught.value.line, caught.value.column) == (2, 7)
    assert promql.confine(f"sum({R})", project="default") == rule_services.check(
        f"sum({R})", project=builders.project("default")
    )
