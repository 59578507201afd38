"""The pages of rules: the default ones in one press, the list, one group, own rules; who may, and what it costs."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone, translation

from alerts import actions, previews, rule_forms, rule_services, sync, templates
from alerts.models import Rule, RuleGroup, SyncState
from alerts.previews import Preview
from alerts.rule_services import OwnRule, RuleChange
from alerts.templates import LevelRule
from endpoints import services as endpoint_services
from endpoints.models import Endpoint
from iam.models import User
from monitoring import installation, prometheus
from monitoring.installation import Installation, Presence
from tests import builders
from tests.builders import NOW
from tests.endpoints.pages.clients import events, htmx, signed_in

pytestmark = pytest.mark.django_db
SEES = (endpoint_services.GET, endpoint_services.LIST, actions.LIST_RULE_GROUPS)
EDITS = (
    *SEES, actions.CREATE_RULE_GROUP, actions.UPDATE_RULE_GROUP, actions.DELETE_RULE_GROUP, actions.UPGRADE_RULE_GROUPS,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture(autouse=True)
def _there_is_a_prometheus(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Installation(Presence.ON, url="http://127.0.0.1:9")
    monkeypatch.setattr(installation, "look", lambda: here)


@pytest.fixture
def endpoint() -> Endpoint:
    return builders.endpoint(name="support-bot", rpm=600, tpm=100_000)


@pytest.fixture
def editor(endpoint: Endpoint) -> User:
    return builders.member(endpoint.project, *EDITS)


@pytest.fixture
def reader(endpoint: Endpoint) -> User:
    return builders.member(endpoint.project, *SEES)


def drawer(endpoint: Endpoint) -> str:
    return reverse("alerts:endpoint_rules", args=[endpoint.pk])


def page(group: RuleGroup, name: str = "rule_group") -> str:
    return reverse(f"alerts:{name}", args=[group.pk])


def posted(html: str) -> dict[str, Any]:
    """What a browser would post of a page's last form: names and values as they stand there."""
    found: dict[str, Any] = {}
    for tag in re.findall(r"<input[^>]*>", html):
        name, value = re.search(r'name="([^"]+)"', tag), re.search(r'value="([^"]*)"', tag)
        if not name or ('type="checkbox"' in tag and "checked" not in tag):
            continue
        found[name[1]] = value[1] if value else ("on" if 'type="checkbox"' in tag else "")
    for name, body in re.findall(r'<select name="([^"]+)"[^>]*>(.*?)</select>', html, re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected', body)
        found[name] = chosen[1] if chosen else ""
    return found


def made(endpoint: Endpoint, **values: Any) -> RuleGroup:
    return rule_services.create_group_from_template(endpoint=endpoint, by=builders.actor(), now=NOW, **values)


def own(endpoint: Endpoint, *names: str) -> RuleGroup:
    rules = [
        OwnRule(name=name, levels=[LevelRule("P1", 5, 60)], promql="sum(rate(ark_api_proxy_request_total[5m]))")
        for name in names or ("Busy",)
    ]
    return rule_services.create_own_group(
        project=endpoint.project, endpoint=endpoint, name="Mine", rules=rules, by=builders.actor(), now=NOW
    )


# --- one press -----------------------------------------------------------------------------------------------------------


def test_one_press_creates_the_default_rules_as_they_stand_there(endpoint: Endpoint, editor: User) -> None:
    browser = signed_in(editor)
    html = browser.get(drawer(endpoint)).content.decode()
    assert "Server error rate (5xx)" in html
    assert "No rule watches this endpoint yet." in html
    assert "The limit is 100,000: P0 100% = 100,000" in html  # the endpoint's own limit
    assert "nobody is called" in html

    answer = browser.post(drawer(endpoint), posted(html), headers=htmx("dialog"))
    group = RuleGroup.objects.get()
    assert answer.headers["HX-Redirect"] == page(group)
    assert (group.endpoint_id, group.policy, group.template_version) == (endpoint.pk, None, templates.CURRENT.version)
    rules = list(group.rules.all())
    assert len(rules) == len(rule_services.prefilled(endpoint))
    assert all(rule.is_enabled and not rule.changed for rule in rules)


def test_what_is_changed_in_the_drawer_is_what_is_made(endpoint: Endpoint, editor: User) -> None:
    policy = builders.notification_policy(project=endpoint.project)
    browser = signed_in(editor)
    data = posted(browser.get(drawer(endpoint)).content.decode()) | {
        "policy": str(policy.pk), "error_rate-P1_threshold": "7.5", "error_rate-P2_threshold": "",
    }  # fmt: skip
    del data["throttle_rate-is_enabled"]
    assert browser.post(drawer(endpoint), data).status_code == 302
    group = RuleGroup.objects.get()
    assert group.policy == policy
    errors = group.rules.get(key="error_rate")
    assert [(level["level"], level["threshold"]) for level in errors.levels] == [("P0", 20), ("P1", 7.5)]
    assert errors.changed == ["levels"]
    assert not group.rules.get(key="throttle_rate").is_enabled


def test_a_threshold_that_makes_no_sense_is_told_at_its_rule(endpoint: Endpoint, editor: User) -> None:
    browser = signed_in(editor)
    data = posted(browser.get(drawer(endpoint)).content.decode())
    answer = browser.post(drawer(endpoint), data | {"error_rate-P0_threshold": "3"}, headers=htmx("dialog"))
    assert answer.status_code == 422
    assert "P0 is worse than P1, but its threshold is reached sooner." in answer.content.decode()
    assert '<details class="ar-more" open>' in answer.content.decode()
    answer = browser.post(drawer(endpoint), data | {"error_rate-P0_threshold": "many"}, headers=htmx("dialog"))
    assert "Enter a number." in answer.content.decode()
    assert not RuleGroup.objects.exists()


def test_a_second_press_is_refused_with_the_way_to_the_first(endpoint: Endpoint, editor: User) -> None:
    browser = signed_in(editor)
    data = posted(browser.get(drawer(endpoint)).content.decode())
    group = made(endpoint)
    answer = browser.post(drawer(endpoint), data, headers=htmx("dialog"))
    assert answer.status_code == 422
    assert page(group) in answer.content.decode()
    assert "have been created already" in answer.content.decode()
    assert RuleGroup.objects.count() == 1
    html = browser.get(drawer(endpoint)).content.decode()
    assert page(group) in html
    assert "error_rate-P0_threshold" not in html


def test_without_the_permission_the_drawer_says_who_has_it(endpoint: Endpoint, editor: User, reader: User) -> None:
    browser = signed_in(reader)
    html = browser.get(drawer(endpoint)).content.decode()
    assert actions.CREATE_RULE_GROUP in html
    assert editor.username in html
    assert "<form" not in html.partition("<main")[2].partition("</main>")[0]
    assert browser.post(drawer(endpoint), {}).status_code == 403
    assert signed_in(builders.member(builders.project("elsewhere"), *EDITS)).get(drawer(endpoint)).status_code == 404


def test_the_button_stands_on_the_monitoring_tab(endpoint: Endpoint) -> None:
    builders.subscription(project=endpoint.project)
    html = signed_in(builders.user(is_superuser=True)).get(f"/endpoints/{endpoint.pk}/monitoring").content.decode()
    assert f'hx-get="{drawer(endpoint)}"' in html


# --- the list ------------------------------------------------------------------------------------------------------------


def test_the_list_shows_and_filters(endpoint: Endpoint, reader: User) -> None:
    browser = signed_in(reader)
    assert "No alert rules yet" in browser.get(reverse("alerts:rules")).content.decode()
    first, second = made(endpoint, name="Defaults"), own(endpoint)
    RuleGroup.objects.filter(pk=first.pk).update(sync_state=SyncState.ACTIVE)
    builders.alert_event(rule=first.rules.get(key="error_rate"), endpoint_id=endpoint.pk, project=endpoint.project)
    Rule.objects.filter(group=second).update(health="err")

    def shown(**query: str) -> list[str]:
        html = browser.get(reverse("alerts:rules"), query).content.decode()
        return [name for name in ("Defaults", "Mine") if f">{name}</a>" in html]

    html = browser.get(reverse("alerts:rules")).content.decode()
    assert "1 firing" in html
    assert "1 cannot be evaluated" in html
    assert shown() == ["Defaults", "Mine"]
    assert shown(kind="own") == ["Mine"]
    assert shown(kind="template") == ["Defaults"]
    assert shown(state="active") == ["Defaults"]
    assert shown(state="off") == []
    assert shown(endpoint=endpoint.pk) == ["Defaults", "Mine"]
    assert shown(endpoint="-") == []
    assert shown(endpoint="\x00", state="\x00") == ["Defaults", "Mine"]
    part = browser.get(reverse("alerts:rules"), {"state": "off"}, headers=htmx("rule-list")).content.decode()
    assert "No rules match" in part
    assert "<html" not in part


def test_the_list_needs_a_permission(endpoint: Endpoint) -> None:
    other = signed_in(builders.member(endpoint.project, endpoint_services.LIST))
    answer = other.get(reverse("alerts:rules"))
    assert answer.status_code == 403
    assert actions.LIST_RULE_GROUPS in answer.content.decode()


def test_the_list_costs_the_same_for_one_and_for_twenty(endpoint: Endpoint, reader: User) -> None:
    browser = signed_in(reader)

    def cost() -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            browser.get(reverse("alerts:rules"))
        return len(queries)

    made(endpoint)
    cost()
    one = cost()
    for _each in range(19):
        made(builders.endpoint(project=endpoint.project))
    assert cost() == one
    assert one <= 20


# --- one group -------------------------------------------------------------------------------------------------------------


def test_the_page_turns_active_by_itself(endpoint: Endpoint, editor: User) -> None:
    browser, group = signed_in(editor), made(endpoint)
    html = browser.get(page(group)).content.decode()
    assert "On its way" in html
    assert "every 2s" in html
    now = re.search(r'hx-get="([^"]+/now\?seen=[^"]+)"', html)
    assert now
    assert browser.get(now[1], headers=htmx("rule-group")).status_code == 204
    RuleGroup.objects.update(sync_state=SyncState.ACTIVE)
    Rule.objects.update(health="ok")
    part = browser.get(now[1], headers=htmx("rule-group")).content.decode()
    assert "In force" in part
    assert "every 15s" in part
    assert "Quiet" in part
    RuleGroup.objects.update(sync_state=SyncState.FAILED, sync_message="rules.json: oh no")
    assert "rules.json: oh no" in browser.get(now[1], headers=htmx("rule-group")).content.decode()
    assert browser.get(now[1]).headers["Location"] == page(group)


def test_a_firing_rule_leads_to_its_event(endpoint: Endpoint, reader: User) -> None:
    group = made(endpoint)
    event = builders.alert_event(
        rule=group.rules.get(key="error_rate"), endpoint_id=endpoint.pk, project=endpoint.project, level="P0"
    )
    html = signed_in(reader).get(page(group)).content.decode()
    assert "1 firing, P0" in html
    assert event.get_absolute_url() in html
    assert page(group, "rule_group_edit") not in html


def test_thresholds_are_edited_and_a_second_editor_is_told(endpoint: Endpoint, editor: User) -> None:
    browser, group = signed_in(editor), made(endpoint)
    html = browser.get(page(group, "rule_group_edit")).content.decode()
    data = posted(html) | {"name": "Ours", "error_rate-P1_threshold": "8"}
    answer = browser.post(page(group, "rule_group_edit"), data, headers=htmx("dialog"))
    assert answer.headers["HX-Redirect"] == page(group)
    group.refresh_from_db()
    assert group.name == "Ours"
    assert group.rules.get(key="error_rate").levels[1]["threshold"] == 8
    late = browser.post(page(group, "rule_group_edit"), data | {"name": "Theirs"}, headers=htmx("dialog"))
    assert late.status_code == 422
    assert "Somebody else has changed this rule group." in late.content.decode()
    assert 'value="Theirs"' in late.content.decode()
    group.refresh_from_db()
    assert group.name == "Ours"


def test_a_group_and_a_rule_are_switched_off_and_on(endpoint: Endpoint, editor: User) -> None:
    browser, group = signed_in(editor), made(endpoint)
    assert browser.post(page(group, "rule_group_switch"), {"is_enabled": "0"}).status_code == 302
    group.refresh_from_db()
    assert not group.is_enabled
    rule = group.rules.get(key="error_rate")
    address = reverse("alerts:rule_switch", args=[group.pk, rule.pk])
    answer = browser.post(address, {"is_enabled": "0"}, headers=htmx("rule-group"))
    assert events(answer)["toast"]["message"] == "Server error rate (5xx) is off."
    assert 'id="rule-group"' in answer.content.decode()
    rule.refresh_from_db()
    assert not rule.is_enabled
    assert browser.post(address, {"is_enabled": "1"}).headers["Location"] == page(group)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("", "this takes seconds"),
        (sync.Waits.NOT_LOADED, "this takes seconds"),
        (sync.Waits.UNREACHABLE, "Prometheus does not answer"),
        (sync.Waits.NO_RELOAD, "Reload your Prometheus"),
        (f"{sync.Waits.OTHER_CONFIG}: line 3", "its own configuration, apart from our rules: line 3"),
        ("/srv/rules: Permission denied", "It cannot be written: /srv/rules: Permission denied"),
    ],
)
def test_a_group_on_its_way_says_what_it_waits_for(
    endpoint: Endpoint, reader: User, settings: Any, message: str, sentence: str
) -> None:
    settings.PROMETHEUS_RULES_DIR = "/srv/rules"
    group = made(endpoint)
    RuleGroup.objects.update(sync_message=message)
    assert sentence in signed_in(reader).get(page(group)).content.decode()


def test_without_a_prometheus_or_a_folder_of_it_the_page_says_what_to_do(
    endpoint: Endpoint, reader: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.PROMETHEUS_RULES_DIR = ""
    browser, group = signed_in(reader), made(endpoint)
    assert "name the folder in PROMETHEUS_RULES_DIR" in browser.get(page(group)).content.decode()
    monkeypatch.setattr(installation, "look", lambda: Installation(Presence.OFF))
    assert "There is no Prometheus here" in browser.get(page(group)).content.decode()


def test_deleting_says_what_it_means_first(endpoint: Endpoint, editor: User) -> None:
    browser, group = signed_in(editor), made(endpoint)
    builders.alert_event(rule=group.rules.get(key="error_rate"), endpoint_id=endpoint.pk, project=endpoint.project)
    html = browser.get(page(group, "rule_group_delete"), headers=htmx("dialog")).content.decode()
    assert "1 event is open now; it ends with the rules." in html
    answer = browser.post(page(group, "rule_group_delete"), headers=htmx("dialog"))
    assert answer.headers["HX-Redirect"] == reverse("alerts:rules")
    group.refresh_from_db()
    assert group.deleted_at
    assert browser.get(page(group)).status_code == 404


def test_an_upgrade_shows_what_changes(endpoint: Endpoint, editor: User, monkeypatch: pytest.MonkeyPatch) -> None:
    group = made(endpoint)
    item = templates.CURRENT.items[0]
    newer = replace(
        templates.CURRENT, version=templates.CURRENT.version + 1,
        items=(replace(item, levels=(LevelRule("P1", 4, 60),)), *templates.CURRENT.items[1:]),
    )  # fmt: skip
    browser = signed_in(editor)
    assert "newest version already" in browser.get(page(group, "rule_group_upgrade")).content.decode()
    monkeypatch.setattr(templates, "VERSIONS", (*templates.VERSIONS, newer))
    assert "newer version of these default rules" in browser.get(page(group)).content.decode()
    assert "Upgrade available" in browser.get(reverse("alerts:rules")).content.decode()
    html = browser.get(page(group, "rule_group_upgrade")).content.decode()
    assert "Thresholds" in html
    assert "P1 4 for 1 min" in html
    assert browser.post(page(group, "rule_group_upgrade")).headers["Location"] == page(group)
    group.refresh_from_db()
    assert group.template_version == newer.version


def test_an_upgrade_says_which_dropped_rules_stay(
    endpoint: Endpoint, editor: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, other, *rest = templates.CURRENT.items
    group = made(endpoint, changes={theirs.id: RuleChange(levels=[LevelRule("P1", 9, 60)])})
    newer = replace(templates.CURRENT, version=templates.CURRENT.version + 1, items=tuple(rest))
    monkeypatch.setattr(templates, "VERSIONS", (*templates.VERSIONS, newer))
    browser = signed_in(editor)
    html = browser.get(page(group, "rule_group_upgrade")).content.decode()
    lines = {line.partition("</strong>")[0]: line for line in html.split("<li><strong>")[1:]}
    assert "stays as you changed it" in lines[str(theirs.name)]
    assert "No longer a default rule" in lines[str(theirs.name)]
    assert "Removed" not in lines[str(theirs.name)]
    assert "Removed" in lines[str(other.name)]
    browser.post(page(group, "rule_group_upgrade"))
    assert str(theirs.name) in browser.get(page(group)).content.decode()
    assert browser.get(page(group, "rule_group_edit")).status_code == 200


def test_the_file_can_be_downloaded(endpoint: Endpoint, reader: User) -> None:
    group = made(endpoint)
    answer = signed_in(reader).get(page(group, "rule_group_file"))
    assert answer.headers["Content-Disposition"] == f'attachment; filename="ark-{group.pk}.rules.json"'
    assert json.loads(answer.content)["groups"]


def test_all_files_come_as_one_archive(endpoint: Endpoint, reader: User, monkeypatch: pytest.MonkeyPatch) -> None:
    group = made(endpoint)
    browser = signed_in(reader)
    assert "Download all of them" not in browser.get(reverse("alerts:rules")).content.decode()
    monkeypatch.setattr(sync, "is_to_be_downloaded", lambda: True)
    assert "Download all of them" in browser.get(reverse("alerts:rules")).content.decode()
    assert "Download the rule file" in browser.get(page(group)).content.decode()
    answer = browser.get(reverse("alerts:rule_files"))
    assert zipfile.ZipFile(io.BytesIO(answer.content)).namelist() == [f"ark-{group.pk}.rules.json"]
    assert "Remove these files" not in browser.get(reverse("alerts:rules")).content.decode()
    RuleGroup.objects.update(deleted_at=timezone.now(), sync_state="pending")
    listed = browser.get(reverse("alerts:rules")).content.decode()
    assert f"switched off: ark-{group.pk}.rules.json" in listed
    assert "Download all of them" not in listed


def test_the_only_policy_is_proposed(endpoint: Endpoint, editor: User) -> None:
    policy = builders.notification_policy(project=endpoint.project)
    browser = signed_in(editor)
    assert posted(browser.get(drawer(endpoint)).content.decode())["policy"] == str(policy.pk)
    builders.notification_policy(project=endpoint.project)
    assert posted(browser.get(drawer(endpoint)).content.decode())["policy"] == ""


@pytest.mark.parametrize("name", ["rule_group_edit", "rule_group_delete", "rule_group_upgrade", "rule_add"])
def test_what_changes_a_group_needs_its_permission(endpoint: Endpoint, reader: User, name: str) -> None:
    group = own(endpoint)
    assert signed_in(reader).get(page(group, name)).status_code == 403
    assert signed_in(builders.member(builders.project("elsewhere"), *EDITS)).get(page(group, name)).status_code == 404


# --- own rules -----------------------------------------------------------------------------------------------------------

FILLED = {
    "name": "Slow", "kind": "metric", "metric": "ark_api_proxy_request_total", "aggregation": "per_minute", "window": "300",
    "filter_label": ["code"], "filter_op": ["!="], "filter_value": ["Success"], "comparator": ">", "P1_threshold": "5",
    "P0_for": "0", "P1_for": "60", "P2_for": "300", "labels": "team=search", "text_zh": "太慢", "unit": "次",
}  # fmt: skip
CREATE = "/alerts/rules/create"
CHECK = "/alerts/rules/check"


def looked(monkeypatch: pytest.MonkeyPatch, **values: Any) -> list[str]:
    """Have previews answer so; returns the expressions that were asked for."""
    asked: list[str] = []

    def look(expression: str, *, comparator: str, levels: Any, unit: str, now: Any) -> Preview:
        asked.append(expression)
        return Preview(expression, comparator, levels, unit, **values)

    monkeypatch.setattr(previews, "look", look)
    return asked


def test_a_rule_of_a_metric(endpoint: Endpoint, editor: User) -> None:
    browser = signed_in(editor)
    html = browser.get(CREATE, {"endpoint": endpoint.pk}).content.decode()
    assert f'<option value="{endpoint.pk}" selected' in html
    answer = browser.post(CREATE, FILLED | {"endpoint": endpoint.pk})
    group = RuleGroup.objects.get()
    assert answer.headers["Location"] == page(group)
    rule = group.rules.get()
    assert (group.endpoint_id, group.name, rule.kind, rule.labels, rule.texts, rule.unit) == (
        endpoint.pk, "Slow", "metric", {"team": "search"}, {"zh": "太慢"}, "次",
    )  # fmt: skip
    assert rule.form["filters"] == [{"label": "code", "op": "!=", "value": "Success"}]

    edit = reverse("alerts:rule_edit", args=[group.pk, rule.pk])
    html = browser.get(edit).content.decode()
    assert 'value="Success"' in html
    assert browser.post(edit, FILLED | {"revision": "0", "P1_threshold": "6"}).headers["Location"] == page(group)
    rule.refresh_from_db()
    assert rule.levels == [{"level": "P1", "threshold": 6, "for_seconds": 60}]
    late = browser.post(edit, FILLED | {"revision": "0"})
    assert late.status_code == 422
    assert "Somebody else has changed this rule group." in late.content.decode()


def test_the_endpoint_that_was_asked_for_is_chosen_wherever_it_stands_in_the_list(
    endpoint: Endpoint, editor: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule_forms, "MAX_CHOICES", 1)
    builders.endpoint(project=endpoint.project, name="aaa")
    browser = signed_in(editor)
    html = browser.get(CREATE, {"endpoint": endpoint.pk}).content.decode()
    assert f'<option value="{endpoint.pk}" selected' in html
    browser.post(CREATE, FILLED | {"endpoint": endpoint.pk})
    assert RuleGroup.objects.get().endpoint_id == endpoint.pk

    elsewhere = builders.endpoint(project=builders.project("elsewhere"))
    for pk in (elsewhere.pk, "ep-none", "\x00"):
        assert browser.get(CREATE, {"endpoint": pk}).status_code == 404
        assert browser.post(CREATE, FILLED | {"endpoint": pk}).status_code == 422
    assert RuleGroup.objects.count() == 1


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"metric": ""}, "Choose a metric."),
        ({"aggregation": "p95"}, "Choose how the metric is summed up."),
        ({"filter_label": ["tier"]}, "This metric has no label tier."),
        ({"P1_threshold": ""}, "Give at least one level a threshold."),
        ({"name": ""}, "This field is required."),
        ({"filter_value": ["Suc\x00cess"]}, "A filter has a character that cannot be used."),
        ({"labels": "team"}, "“team” is not a label"),
        ({"labels": "level=P0"}, "The label level is set by the system."),
        ({"kind": "promql", "promql": ""}, "Write an expression."),
        ({"kind": "promql", "promql": "up"}, "Line 1, column 1:"),
        ({"kind": "promql", "promql": "sum(\n  node_load1)"}, "Line 2, column 3:"),
    ],
)
def test_what_is_wrong_with_an_own_rule_is_told(
    endpoint: Endpoint, editor: User, wrong: dict[str, Any], sentence: str
) -> None:
    answer = signed_in(editor).post(CREATE, FILLED | wrong)
    assert answer.status_code == 422
    assert sentence in answer.content.decode()
    assert not RuleGroup.objects.exists()


def test_a_check_tells_what_it_would_do_and_saves_nothing(
    endpoint: Endpoint, editor: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = int(NOW.timestamp()) // 60 * 60
    asked = looked(
        monkeypatch, values=[3.1], times=[start, start + 60],
        series=[prometheus.Series({"ark_endpoint": endpoint.pk}, [3.1, 9.0])],
        fired=[previews.Fired("P1", start, start + 60)],
    )  # fmt: skip
    browser = signed_in(editor)
    data = FILLED | {"name": "", "endpoint": endpoint.pk}
    part = browser.post(CHECK, data, headers=htmx("rule-preview")).content.decode()
    assert "Now: 3.1 次, would not fire." in part
    assert "In the last day it would have fired once." in part
    assert "<html" not in part
    chart = re.search(r'<script id="rule-chart-data"[^>]*>(.*?)</script>', part)
    assert chart
    assert json.loads(chart[1])["thresholds"] == [{"level": "P1", "value": 5}]
    assert f'ark_endpoint="{endpoint.pk}"' in asked[0]
    # Without a script the same stands on the page itself.
    html = browser.post(CREATE, data | {"check": "1"}).content.decode()
    assert "Now: 3.1 次, would not fire." in html
    assert 'value="Success"' in html
    assert not RuleGroup.objects.exists()


def test_a_check_of_bad_promql_names_the_place(endpoint: Endpoint, editor: User) -> None:
    data = FILLED | {"kind": "promql", "promql": "sum(\n  node_load1)"}
    part = signed_in(editor).post(CHECK, data, headers=htmx("rule-preview")).content.decode()
    assert 'data-line="2" data-column="3"' in part
    assert "Line 2, column 3:" in part


def test_a_check_never_leaves_the_project(endpoint: Endpoint, editor: User, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = looked(monkeypatch)
    other = builders.endpoint(project=builders.project("elsewhere"))
    browser = signed_in(editor)
    part = browser.post(CHECK, FILLED | {"endpoint": other.pk}, headers=htmx("rule-preview")).content.decode()
    assert "not one of the available choices" in part
    assert browser.post(CHECK, FILLED | {"project": "elsewhere"}).status_code == 404
    assert browser.post(CHECK, FILLED | {"project": "\x00"}).status_code == 404
    group = own(other)
    assert browser.post(CHECK, FILLED | {"group": str(group.pk)}).status_code == 404
    assert asked == []


def test_rules_join_and_leave_a_group(endpoint: Endpoint, editor: User) -> None:
    browser, group = signed_in(editor), own(endpoint, "Busy")
    add = page(group, "rule_add")
    assert "Add a rule to Mine" in browser.get(add).content.decode()
    assert browser.post(add, FILLED | {"revision": "0"}).headers["Location"] == page(group)
    assert [rule.name for rule in group.rules.all()] == ["Busy", "Slow"]
    group.refresh_from_db()
    remove = reverse("alerts:rule_remove", args=[group.pk, group.rules.first().pk])  # type: ignore[union-attr]
    assert "Remove Busy?" in browser.get(remove).content.decode()
    assert browser.post(remove, {"revision": "0"}).status_code == 422
    assert browser.post(remove, {"revision": str(group.revision)}).headers["Location"] == page(group)
    assert [rule.name for rule in group.rules.all()] == ["Slow"]


def test_default_rules_have_no_expression_to_edit(endpoint: Endpoint, editor: User) -> None:
    group = made(endpoint)
    browser: Client = signed_in(editor)
    assert browser.get(page(group, "rule_add")).status_code == 404
    rule = group.rules.get(key="error_rate")
    assert browser.get(reverse("alerts:rule_edit", args=[group.pk, rule.pk])).status_code == 404
