"""A rule group reaches Prometheus, and a bad one stops nobody else's."""

from __future__ import annotations

import fcntl
import json
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import translation

from alerts import promtool, rules, sync
from alerts import ruler as ruler_module
from alerts.models import RuleGroup
from alerts.ruler import Away, CannotReload, LoadedRule, Prometheus, Refused
from alerts.sync import BEFORE, LOCK, RELOADED, Outcome, Waits
from monitoring import installation
from monitoring.installation import Installation, Presence
from tests import builders
from tests.builders import NOW
from tests.servers import prometheus_binary

pytestmark = pytest.mark.django_db
LATER = NOW + timedelta(seconds=1)


class Ruler:
    """Reads the folder as Prometheus does: all of it or nothing. It does not take `bad` in any file."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.groups: dict[str, list[LoadedRule]] = {}
        self.bad = "no rule says this"
        self.trouble: Exception | None = None
        self.health: dict[str, str] = {}
        self.reloads = 0

    def reload(self) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.reloads += 1
        found: dict[str, list[LoadedRule]] = {}
        for file in sorted(self._place.glob("ark-*.rules.json")):
            text = file.read_text(encoding="utf-8")
            if self.bad in text:
                raise Refused("error loading rules")
            for group in json.loads(text)["groups"]:
                found[group["name"]] = [self._loaded(rule) for rule in group["rules"]]
        self.groups = found

    def _loaded(self, rule: Mapping[str, Any]) -> LoadedRule:
        return LoadedRule(rule["labels"].get("rule_id", ""), rule["annotations"].get("digest", ""), "ok", "")

    def loaded(self) -> Mapping[str, Sequence[LoadedRule]]:
        if isinstance(self.trouble, Away):
            raise self.trouble
        return {
            name: [
                LoadedRule(each.rule_id, each.digest, "err", self.health[each.rule_id])
                if each.rule_id in self.health
                else each
                for each in group
            ]
            for name, group in self.groups.items()
        }


@pytest.fixture(autouse=True)
def place(tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings.PROMETHEUS_RULES_DIR = str(tmp_path / "rules")
    here = Installation(Presence.ON, url="http://127.0.0.1:1")
    monkeypatch.setattr(installation, "look", lambda: here)
    return tmp_path / "rules"


@pytest.fixture(autouse=True)
def _without_promtool(settings: Any) -> None:
    """Most of these are about files; starting a program for each would be most of their time."""
    settings.PROMTOOL_BIN = "/nowhere/promtool"


@pytest.fixture
def ruler(place: Path) -> Ruler:
    return Ruler(place)


def group_of(expression: str = "sum(ark_api_proxy_request_total)", **values: Any) -> RuleGroup:
    group = builders.rule_group(**{"sync_state": "pending", **values})
    builders.rule(group=group, key="r1", kind="promql", promql=expression)
    return group


def soon(place: Path) -> None:
    """As if the last reload had been long ago."""
    os.utime(place / RELOADED, (time.time() - 60, time.time() - 60))


def state(group: RuleGroup) -> tuple[str, str]:
    group.refresh_from_db()
    return group.sync_state, group.sync_message


def files(place: Path) -> set[str]:
    return {file.name for file in place.glob("*.json")} - {rules.OPERATORS_FILE}


def test_a_group_gets_a_file_of_its_own_and_is_in_force(place: Path, ruler: Ruler) -> None:
    group = group_of()
    outcome = sync.sync(now=NOW, ruler=ruler)
    assert outcome == Outcome(active=1, is_unchecked=True)
    assert files(place) == {f"ark-{group.pk}.rules.json"}
    assert state(group) == ("active", "")
    assert group.rules.get().health == "ok"
    assert (place / rules.OPERATORS_FILE).exists()
    assert (place / rules.file_name(group.pk)).stat().st_mode & 0o777 == 0o644
    assert not sync.is_owed(now=NOW)


def test_nothing_new_costs_no_reload(place: Path, ruler: Ruler) -> None:
    group_of()
    sync.sync(now=NOW, ruler=ruler)
    soon(place)
    sync.sync(now=LATER, ruler=ruler)
    assert ruler.reloads == 1


def test_changes_within_five_seconds_are_gathered(place: Path, ruler: Ruler) -> None:
    sync.sync(now=NOW, ruler=ruler)
    first, second = group_of(), group_of()
    outcome = sync.sync(now=NOW, ruler=ruler)
    assert 0 < outcome.retry_seconds <= sync.BETWEEN_SECONDS
    assert files(place) == set()
    soon(place)
    assert sync.sync(now=LATER, ruler=ruler).active == 2
    assert ruler.reloads == 2
    assert state(first) == state(second) == ("active", "")


def test_two_workers_are_never_at_it_together(place: Path, ruler: Ruler) -> None:
    place.mkdir()
    group = group_of()
    with (place / LOCK).open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        outcome = sync.sync(now=NOW, ruler=ruler)
    assert outcome.is_busy
    assert state(group) == ("pending", "")
    assert sync.is_owed(now=NOW)


@pytest.mark.parametrize("change", [{"is_enabled": False}, {"deleted_at": NOW}])
def test_a_group_that_is_off_or_deleted_has_no_file(place: Path, ruler: Ruler, change: dict[str, Any]) -> None:
    group = group_of()
    sync.sync(now=NOW, ruler=ruler)
    RuleGroup.objects.update(sync_state="pending", revision=1, **change)
    soon(place)
    sync.sync(now=LATER, ruler=ruler)
    assert files(place) == set()
    assert f"ark-{group.pk}" not in ruler.groups
    assert state(group) == ("active", "")


def test_the_rules_of_a_deleted_endpoint_go_with_it(place: Path, ruler: Ruler) -> None:
    endpoint = builders.endpoint()
    kept, gone = group_of(endpoint_id=endpoint.pk), group_of(endpoint_id="ep-deleted")
    sync.sync(now=NOW, ruler=ruler)
    assert files(place) == {rules.file_name(kept.pk)}
    gone.refresh_from_db()
    assert gone.deleted_at == NOW


def test_what_our_parser_refuses_fails_alone_and_keeps_what_it_had(place: Path, ruler: Ruler) -> None:
    good, bad = group_of(), group_of()
    sync.sync(now=NOW, ruler=ruler)
    before = (place / rules.file_name(bad.pk)).read_bytes()
    bad.rules.update(promql="sum(up)")
    RuleGroup.objects.update(sync_state="pending", revision=1)
    soon(place)
    outcome = sync.sync(now=LATER, ruler=ruler)
    assert (outcome.active, outcome.failed) == (1, 1)
    assert state(good) == ("active", "")
    assert state(bad)[0] == "failed"
    assert "up" in state(bad)[1]
    with translation.override("en"):
        assert "stay in force" in sync.sentence(bad)
    assert (place / rules.file_name(bad.pk)).read_bytes() == before


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_prometheus_refuses_is_found_among_the_others_and_put_back(place: Path, ruler: Ruler, count: int) -> None:
    groups = [group_of() for _number in range(5)]
    sync.sync(now=NOW, ruler=ruler)
    ruler.bad = 'code=\\"bad\\"'
    for group in groups[:count]:
        group.rules.update(promql='sum(ark_api_proxy_request_total{code="bad"})')
    for group in groups[count:]:
        group.rules.update(promql='sum(ark_api_proxy_request_total{code="good"})')
    RuleGroup.objects.update(sync_state="pending", revision=1)
    soon(place)
    outcome = sync.sync(now=LATER, ruler=ruler)
    assert outcome.failed == count
    assert [state(group)[0] for group in groups] == ["failed"] * count + ["active"] * (5 - count)
    assert state(groups[0])[1] == "error loading rules"
    texts = [(place / rules.file_name(group.pk)).read_text() for group in groups]
    assert [("good" in text, "bad" in text) for text in texts[count:]] == [(True, False)] * (5 - count)
    assert not any("bad" in text for text in texts)
    ruler.reload()


def test_a_new_group_that_prometheus_refuses_leaves_no_file(place: Path, ruler: Ruler) -> None:
    ruler.bad = 'code=\\"bad\\"'
    bad = group_of('sum(ark_api_proxy_request_total{code="bad"})')
    assert sync.sync(now=NOW, ruler=ruler).failed == 1
    assert files(place) == set()
    assert state(bad)[0] == "failed"


def test_a_fault_of_prometheus_own_configuration_is_nobodys_rule(place: Path, ruler: Ruler) -> None:
    group = group_of()
    ruler.trouble = Refused("parsing YAML file prometheus.yml")
    sync.sync(now=NOW, ruler=ruler)
    assert state(group) == ("pending", f"{Waits.OTHER_CONFIG}: parsing YAML file prometheus.yml")
    assert "prometheus.yml" in sync.sentence(group)
    ruler.trouble = None
    soon(place)
    sync.sync(now=LATER, ruler=ruler)
    assert state(group) == ("active", "")


def test_with_prometheus_away_a_group_waits_and_is_tried_again(place: Path, ruler: Ruler) -> None:
    group = group_of()
    ruler.trouble = Away("ConnectError")
    assert sync.sync(now=NOW, ruler=ruler).waits == Waits.UNREACHABLE
    assert state(group) == ("pending", Waits.UNREACHABLE)
    assert sync.is_owed(now=NOW)
    ruler.trouble = None
    assert sync.sync(now=LATER, ruler=ruler).active == 1
    assert state(group) == ("active", "")


def test_who_died_between_the_file_and_the_reload_is_followed_by_another(place: Path, ruler: Ruler) -> None:
    group = group_of()
    ruler.trouble = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        sync.sync(now=NOW, ruler=ruler)
    RuleGroup.objects.update(sync_state="active")
    assert (place / BEFORE / rules.file_name(group.pk)).exists()
    assert sync.is_owed(now=NOW)
    ruler.trouble = None
    sync.sync(now=LATER, ruler=ruler)
    assert f"ark-{group.pk}" in ruler.groups
    assert not (place / BEFORE).exists()


def test_one_that_may_not_be_told_to_reload_is_in_force_once_somebody_has(ruler: Ruler) -> None:
    group = group_of()
    ruler.trouble = CannotReload("403")
    sync.sync(now=NOW, ruler=ruler)
    assert state(group) == ("pending", Waits.NO_RELOAD)
    assert sync.sentence(group)
    ruler.trouble = None
    ruler.reload()
    sync.read_back(now=LATER, ruler=ruler)
    assert state(group) == ("active", "")


def test_without_a_folder_rules_are_offered_and_found_once_they_are_loaded(
    settings: Any, ruler: Ruler, place: Path
) -> None:
    settings.PROMETHEUS_RULES_DIR = ""
    group = group_of()
    assert sync.sync(now=NOW, ruler=ruler).waits == Waits.NO_FOLDER
    assert sync.is_to_be_downloaded()
    assert "PROMETHEUS_RULES_DIR" in sync.sentence(group)
    name, content = sync.download(group)
    place.mkdir()
    (place / name).write_bytes(content)
    ruler.reload()
    sync.sync(now=LATER, ruler=ruler)
    assert state(group) == ("active", "")
    with zipfile.ZipFile(BytesIO(sync.bundle([group], with_operators=True))) as archive:
        assert set(archive.namelist()) == {name, rules.OPERATORS_FILE}


def test_what_was_carried_by_hand_is_to_be_removed_until_it_is_gone(settings: Any, ruler: Ruler, place: Path) -> None:
    settings.PROMETHEUS_RULES_DIR = ""
    deleted, off, kept = group_of(), group_of(), group_of()
    place.mkdir()
    for group in (deleted, off, kept):
        name, content = sync.download(group)
        (place / name).write_bytes(content)
    ruler.reload()
    sync.sync(now=NOW, ruler=ruler)
    assert sync.to_remove(project_id=kept.project_id) == []
    RuleGroup.objects.filter(pk=deleted.pk).update(deleted_at=NOW, sync_state="pending")
    RuleGroup.objects.filter(pk=off.pk).update(is_enabled=False, sync_state="pending")
    names = [rules.file_name(deleted.pk), rules.file_name(off.pk)]
    assert sync.to_remove(project_id=kept.project_id) == names
    assert sync.to_remove(project_id="elsewhere") == []
    assert state(off)[0] == "pending"
    assert sync.sentence(off) == sync.removal(names[1:])
    with zipfile.ZipFile(BytesIO(sync.bundle(RuleGroup.objects.filter(deleted_at=None, is_enabled=True)))) as archive:
        assert archive.namelist() == [rules.file_name(kept.pk)]

    def reload() -> list[str]:
        ruler.reload()
        sync.sync(now=LATER, ruler=ruler)
        return sync.to_remove(project_id=kept.project_id)

    # Prometheus still has them.
    assert reload() == names
    (place / names[0]).rename(place / "old")
    assert reload() == names[1:]
    # A file that comes back, from a backup, is told of again.
    (place / "old").rename(place / names[0])
    assert reload() == names
    for name in names:
        (place / name).unlink()
    assert reload() == []
    assert state(kept) == ("active", "")


def test_one_that_was_edited_meanwhile_stays_on_its_way(ruler: Ruler) -> None:
    group = group_of()
    reload = ruler.reload

    def edited() -> None:
        reload()
        RuleGroup.objects.update(revision=7)
        group.rules.update(promql="max(ark_endpoint_tpm_limit)")

    ruler.reload = edited  # type: ignore[method-assign]
    sync.sync(now=NOW, ruler=ruler)
    assert state(group)[0] == "pending"


def test_a_rule_that_cannot_be_evaluated_says_why_until_it_can(ruler: Ruler) -> None:
    group = group_of()
    rule = group.rules.get()
    ruler.health = {str(rule.pk): "many-to-many matching not allowed"}
    sync.sync(now=NOW, ruler=ruler)
    rule.refresh_from_db()
    assert (rule.health, rule.last_error) == ("err", "many-to-many matching not allowed")
    assert state(group)[0] == "failed"
    assert "many-to-many" in sync.sentence(group)
    ruler.health = {}
    sync.read_back(now=LATER, ruler=ruler)
    assert state(group) == ("active", "")


def test_a_prometheus_that_came_back_empty_gets_everything_again(place: Path, ruler: Ruler) -> None:
    group = group_of()
    sync.sync(now=NOW, ruler=ruler)
    ruler.groups = {}
    sync.read_back(now=LATER, ruler=ruler)
    assert state(group) == ("pending", Waits.NOT_LOADED)
    soon(place)
    sync.sync(now=LATER, ruler=ruler)
    assert state(group) == ("active", "")


def test_comparing_everything_sets_right_what_somebody_did_to_the_folder(place: Path, ruler: Ruler) -> None:
    group = group_of()
    sync.sync(now=NOW, ruler=ruler)
    (place / rules.file_name(group.pk)).unlink()
    (place / rules.file_name(999_999)).write_text("{}")
    (place / "mine.yml").write_text("groups: []")
    sync.sync(now=LATER, everything=True, ruler=ruler)
    assert files(place) == {rules.file_name(group.pk)}
    assert (place / "mine.yml").exists()


def test_a_start_and_other_settings_owe_a_comparison_of_everything(place: Path, ruler: Ruler, settings: Any) -> None:
    group = group_of()
    sync.sync(now=NOW, ruler=ruler)
    # A database from before the group of this file, or a folder from a backup.
    (place / rules.file_name(group.pk)).unlink()
    (place / rules.file_name(999_999)).write_text("{}")
    assert not sync.is_owed(now=NOW)
    sync.owe_everything()
    assert sync.is_owed(now=NOW)
    soon(place)
    sync.sync(now=NOW, ruler=ruler)
    assert files(place) == {rules.file_name(group.pk)}
    assert not sync.is_owed(now=NOW)

    settings.ALERT_KEEP_FIRING_SECONDS += 60
    assert sync.is_owed(now=NOW)
    soon(place)
    sync.sync(now=NOW, ruler=ruler)
    assert f'"{settings.ALERT_KEEP_FIRING_SECONDS}s"' in (place / rules.file_name(group.pk)).read_text()
    assert not sync.is_owed(now=NOW)


def test_what_is_loaded_is_looked_at_every_half_minute(ruler: Ruler) -> None:
    assert sync.is_owed(now=NOW), "the installation's own rules are not there yet"
    sync.sync(now=NOW, ruler=ruler)
    assert not sync.is_owed(now=NOW + timedelta(seconds=29))
    group_of(sync_state="active")
    assert sync.is_owed(now=NOW + timedelta(seconds=31))
    assert sync.is_owed(now=NOW - timedelta(seconds=31)), "the clock was set back"


def test_who_does_not_answer_is_asked_again_in_its_time(ruler: Ruler, settings: Any) -> None:
    settings.PROMETHEUS_RULES_DIR = ""
    group_of()
    ruler.trouble = Away("ReadTimeout")
    sync.sync(now=NOW, ruler=ruler)
    assert not sync.is_owed(now=NOW + timedelta(seconds=29))
    assert sync.is_owed(now=NOW + timedelta(seconds=31))


def test_thousands_of_groups_are_looked_at_less_often(
    place: Path, ruler: Ruler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "GROUPS_A_SECOND", 0.02)
    group = group_of()
    sync.sync(now=NOW, ruler=ruler)
    assert not sync.is_owed(now=NOW + timedelta(seconds=45))
    # Nor after each change that somebody makes.
    ruler.groups = {}
    soon(place)
    sync.sync(now=NOW + timedelta(seconds=45), ruler=ruler)
    assert state(group) == ("active", "")
    assert sync.is_owed(now=NOW + timedelta(seconds=51))
    sync.sync(now=NOW + timedelta(seconds=51), ruler=ruler)
    assert state(group) == ("pending", Waits.NOT_LOADED)


def test_a_look_renders_nothing_of_what_is_in_force_and_costs_no_more_for_more(
    place: Path, ruler: Ruler, monkeypatch: pytest.MonkeyPatch
) -> None:
    group_of()
    sync.sync(now=NOW, ruler=ruler)
    render = rules.render
    monkeypatch.setattr(rules, "render", None)
    with CaptureQueriesContext(connection) as few:
        sync.read_back(now=LATER, ruler=ruler)
    monkeypatch.setattr(rules, "render", render)
    for _number in range(3):
        group_of()
    soon(place)
    sync.sync(now=LATER, ruler=ruler)
    monkeypatch.setattr(rules, "render", None)
    with CaptureQueriesContext(connection) as many:
        sync.read_back(now=LATER, ruler=ruler)
    assert len(many) == len(few)


def test_only_names_of_ours_are_groups_of_ours(ruler: Ruler, settings: Any) -> None:
    settings.PROMETHEUS_RULES_DIR = ""
    off = group_of(is_enabled=False, sync_state="active")
    ruler.groups = {f"{off.pk}": [], f"my-{off.pk}": [], "ark-operators": [], f"ark-{9 * 10**30}": []}
    sync.sync(now=NOW, ruler=ruler)
    assert sync.to_remove(project_id=off.project_id) == []


def test_promtool_names_what_it_refuses_without_our_folders(settings: Any, place: Path, ruler: Ruler) -> None:
    settings.PROMTOOL_BIN = _promtool()
    groups = [group_of() for _number in range(3)]
    # The parser takes it, Prometheus 2.42 does not.
    groups[1].rules.update(labels={"9wrong": "x"})
    outcome = sync.sync(now=NOW, ruler=ruler)
    assert (outcome.active, outcome.failed, outcome.is_unchecked) == (2, 1, False)
    assert "9wrong" in state(groups[1])[1]
    assert str(place) not in state(groups[1])[1]
    assert files(place) == {rules.file_name(groups[0].pk), rules.file_name(groups[2].pk)}


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("sum(ark_api_proxy_request_total)", None),
        ("sum(\n  rate(ark_api_proxy_request_total)\n)", (2, 8)),
        ("sum(a) sum", (1, 8)),
    ],
)
def test_promtool_says_where_an_expression_goes_wrong(
    settings: Any, expression: str, found: tuple[int, int] | None
) -> None:
    settings.PROMTOOL_BIN = _promtool()
    place = promtool.position(expression)
    assert (place and (place.line, place.column)) == found


def _promtool() -> str:
    binary = prometheus_binary()
    if binary is None or not binary.with_name("promtool").exists():
        pytest.skip("needs promtool")
    return str(binary.with_name("promtool"))


# --- the door to Prometheus ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"), [(200, None), (500, Refused), (403, CannotReload), (405, CannotReload), (503, Away)]
)
def test_an_answer_to_a_reload_is_one_of_four(status: int, error: type[Exception] | None) -> None:
    door = Prometheus(transport=httpx.MockTransport(lambda request: httpx.Response(status, text="said")))
    if error is None:
        door.reload()
        return
    with pytest.raises(error, match="said"):
        door.reload()


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data": {"groups": [{"rules": 5}]}}'])
def test_garbage_is_no_list_of_rules(body: bytes) -> None:
    door = Prometheus(transport=httpx.MockTransport(lambda request: httpx.Response(200, content=body)))
    with pytest.raises(Away):
        door.loaded()


def test_a_long_list_of_rules_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"labels": {"rule_id": "7"}, "annotations": {"digest": "a1"}, "health": "err", "lastError": "错 ]},{ \\"}
    said = {"status": "success", "data": {"groups": [{"name": f"ark-{pk}", "rules": [rule] * pk} for pk in range(3)]}}
    whole = json.dumps(said, ensure_ascii=False).encode()

    def loaded(body: bytes) -> Mapping[str, Sequence[LoadedRule]]:
        return Prometheus(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=body))).loaded()

    each = LoadedRule("7", "a1", "err", str(rule["lastError"]))
    for part in (7, ruler_module.PART):
        monkeypatch.setattr(ruler_module, "PART", part)
        assert loaded(whole) == {"ark-0": [], "ark-1": [each], "ark-2": [each, each]}
    with pytest.raises(Away):
        loaded(whole[:-5])
    monkeypatch.setattr(ruler_module, "MAX_ANSWER", len(whole) // 2)
    with pytest.raises(Away):
        loaded(whole)


def test_the_command_compares_everything(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group_of()
    call_command("sync_alert_rules")
    said = capsys.readouterr()
    assert "1 refused" not in said.out
    assert "unreachable" in said.err
    assert len(files(place)) == 1
