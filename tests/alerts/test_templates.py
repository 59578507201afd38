"""Every default rule, at each level: figures on which it fires, figures on which it does not, judged by promtool itself."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from alerts import promql, rules, templates
from alerts.metrics import Both
from alerts.routing import CAUSE, CONSEQUENCES
from alerts.rules import GroupSpec, RuleSpec
from alerts.templates import CURRENT, FOR_SECONDS, Difference, Item, LevelRule
from gateway.metrics import DURATION_BUCKETS, FIRST_TOKEN_BUCKETS, PER_TOKEN_BUCKETS
from monitoring.queries import CACHED, DURATION, INPUT, OUTPUT, REQUESTS, RPM_LIMIT, STREAMED, TPM_LIMIT, WEIGHT
from tests.servers import prometheus_binary

WHO = 'project="p",ark_endpoint="ep-1"'
CALL = f'{WHO},api="chat",base_model="m",ark_model="m-1",instance="10.0.0.1:9100",job="ark-gateway"'
OTHER_VERSION = CALL.replace("m-1", "m-2")
Series = dict[str, str]

CASES = [(item.id, level.level) for item in CURRENT.items for level in item.levels]


# --- the figures of one case: promtool's notation, a sample a minute ------------------------------------------------------


def grows(per_minute: float, *, minutes: int = 60) -> str:
    return f"0+{per_minute:g}x{minutes}"


def calls(broken: float, *, code: str = "500", total: float = 100, who: str = CALL) -> Series:
    """`broken` percent of `total` calls a minute."""
    errors = total * broken / 100
    return {
        f'{REQUESTS}{{{who},code="Success",http_status_code="200"}}': grows(total - errors),
        f'{REQUESTS}{{{who},code="X",http_status_code="{code}"}}': grows(errors),
    }


def took(
    metric: str, matchers: str, bounds: tuple[float, ...], threshold: float, *, slow: bool, total: int = 10
) -> Series:
    """All in the bucket just above the threshold, or just below it."""
    limit = min(bound for bound in bounds if bound > threshold) if slow else max(b for b in bounds if b <= threshold)
    name, labels = f"{metric}_bucket", f"{CALL},{matchers}"
    found = {f'{name}{{{labels},le="{bound}"}}': grows(total if bound >= limit else 0) for bound in bounds}
    return found | {
        f'{name}{{{labels},le="+Inf"}}': grows(total),
        f"{metric}_count{{{labels}}}": grows(total),
    }


def figures(item: str, threshold: float, *, fires: bool, few: bool = False) -> Series:
    """What Prometheus sees when the rule is to fire at `threshold`, or not; `few`: it would, but on too few calls."""
    share = threshold * (1.2 if fires else 0.8)
    match item:
        case "error_rate":
            return calls(share, total=2 if few else 100)
        case "throttle_rate":
            return calls(share, code="429", total=2 if few else 100)
        case "ttft_p95" | "tpot_p95":
            is_first = item == "ttft_p95"
            bounds = FIRST_TOKEN_BUCKETS if is_first else PER_TOKEN_BUCKETS
            matchers = f'is_first="{str(is_first).lower()}"'
            return took(STREAMED, matchers, bounds, threshold, slow=fires, total=2 if few else 10)
        case "e2e_p99":
            return took(DURATION, 'stream="false"', DURATION_BUCKETS, threshold, slow=fires, total=1 if few else 10)
        case "tpm_usage":
            per_minute = threshold * (10.5 if fires else 9.5)
            return {
                f"{INPUT}_sum{{{CALL}}}": grows(per_minute * 0.75),
                f"{OUTPUT}_sum{{{CALL}}}": grows(per_minute * 0.25),
                f'{TPM_LIMIT}{{{WHO},instance="console"}}': "1000x60",
            }
        case "rpm_usage":
            return calls(0, total=threshold * (10.5 if fires else 9.5)) | {
                f'{RPM_LIMIT}{{{WHO},instance="console"}}': "1000x60"
            }
        case "abnormal":
            return {f'ark_endpoint_status{{{WHO},status="Abnormal",instance="console"}}': f"{int(fires)}x60"}
        case "no_traffic":
            return {
                f'{REQUESTS}{{{CALL},code="Success",http_status_code="200"}}': "0+2x45 90x15" if fires else "0+2x60",
                f'ark_endpoint_status{{{WHO},status="Running",instance="console"}}': "1x60",
            }
        case "cache_drop":
            return {
                f"{INPUT}_sum{{{CALL}}}": "0+1000x1560",
                f"{CACHED}_sum{{{CALL}}}": f"0+800x1530 1224000+{300 if fires else 500}x30",
                f'{REQUESTS}{{{CALL},code="Success",http_status_code="200"}}': f"0+{1 if few else 10}x1560",
            }
        case "switch_regress":
            total = 2 if few else 50
            return calls(2, total=total) | calls(2 + share, total=total, who=OTHER_VERSION) | {
                f'{WEIGHT}{{{WHO},base_model="m",ark_model="m-{version}",instance="console"}}': "0.5x60" for version in (1, 2)
            }  # fmt: skip
    raise AssertionError(f"no figures for {item}: add them")


FEW = {"error_rate", "throttle_rate", "ttft_p95", "tpot_p95", "e2e_p99", "cache_drop", "switch_regress"}
"""Rules that say nothing of fewer calls than twenty."""


def scenario(item: Item, level: LevelRule, *, fires: bool, few: bool = False) -> dict[str, object]:
    end = 1560 if item.id == "cache_drop" else 60
    labels = {
        "__name__": "ALERTS", "alertname": item.id, "alertstate": "firing", "project": "p", "ark_endpoint": "ep-1",
        "rule_id": "5", "group_id": "7", "level": level.level, "notify_policy": "3",
    }  # fmt: skip
    if item.id == "switch_regress":
        labels |= {"base_model": "m", "ark_model": "m-2"}
    inside = ",".join(f'{name}="{value}"' for name, value in labels.items() if name != "__name__")
    series = figures(item.id, level.threshold, fires=fires or few, few=few)
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'ALERTS{alertstate="firing"}',
                "eval_time": f"{end}m",
                "exp_samples": [{"labels": f"ALERTS{{{inside}}}", "value": 1}] if fires else [],
            }
        ],
    }


def group_of(item: Item, level: LevelRule) -> GroupSpec:
    rule = RuleSpec("5", item.id, str(item.name), item.expression, item.comparator, [level], {}, item.unit)
    return GroupSpec("7", "p", "ep-1", "3", [rule])


@pytest.fixture(scope="module")
def promtool() -> Path:
    binary = prometheus_binary()
    if binary is None or not binary.with_name("promtool").exists():
        pytest.skip("needs promtool")
    return binary.with_name("promtool")


@pytest.fixture(scope="module")
def verdicts(promtool: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What promtool says of each case; all of them in one run, since starting it costs more than judging."""
    folder = tmp_path_factory.mktemp("rules")
    files = []
    for item_id, level_name in CASES:
        item = CURRENT.item(item_id)
        assert item is not None
        level = next(each for each in item.levels if each.level == level_name)
        name = f"{item_id}-{level_name}"
        (folder / f"{name}.rules.json").write_text(rules.text(rules.render(group_of(item, level)) or {}))
        tests = [scenario(item, level, fires=True), scenario(item, level, fires=False)]
        if item_id in FEW:
            tests.append(scenario(item, level, fires=False, few=True))
        is_long = item_id == "cache_drop"
        test = {"rule_files": [f"{name}.rules.json"], "evaluation_interval": "5m" if is_long else "1m", "tests": tests}
        (folder / f"{name}.test.json").write_text(json.dumps(test))
        files.append(f"{name}.test.json")
    ran = subprocess.run(
        [promtool, "test", "rules", *files], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )
    parts = re.split(r"Unit Testing: +(\S+)\.test\.json", ran.stdout + ran.stderr)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(("item", "level"), CASES)
def test_a_default_rule_fires_where_it_should_and_nowhere_else(
    verdicts: Mapping[str, str], item: str, level: str
) -> None:
    assert verdicts[f"{item}-{level}"].strip() == "SUCCESS"


@pytest.mark.parametrize("item", CURRENT.items, ids=lambda item: item.id)
def test_a_default_rule_can_be_shown_edited_and_confined(item: Item) -> None:
    promql.confine(item.expression, project="p", endpoint="ep-1")
    assert "$" not in item.expression
    assert item.comparator in templates.COMPARATORS
    assert item.levels
    assert len({level.level for level in item.levels}) == len(item.levels)
    assert all(level.for_seconds in FOR_SECONDS for level in item.levels)
    thresholds = [level.threshold for level in item.levels]
    assert thresholds == sorted(thresholds, reverse=True), "P0 is the worst"
    for both in (item.name, item.help, item.text):
        assert both.en
        assert re.search(r"[一-鿿]", both.zh)
    assert set(re.findall(r"\{(\w+)\}", item.text.en)) == set(re.findall(r"\{(\w+)\}", item.text.zh))


def test_what_follows_from_an_abnormal_endpoint_is_named_by_items_that_exist() -> None:
    assert {CAUSE, *CONSEQUENCES} <= {item.id for item in CURRENT.items}


def test_embeddings_have_no_rules_about_tokens_that_they_never_stream() -> None:
    chosen = {item.id for item in CURRENT.items_for(domain="embedding", has_cache=True)}
    assert chosen == {
        "error_rate",
        "throttle_rate",
        "e2e_p99",
        "tpm_usage",
        "rpm_usage",
        "abnormal",
        "no_traffic",
        "switch_regress",
    }
    assert "cache_drop" not in {item.id for item in CURRENT.items_for(domain="chat", has_cache=False)}
    assert "cache_drop" in {item.id for item in CURRENT.items_for(domain="chat", has_cache=True)}


def test_each_version_of_a_template_is_there_once_and_the_last_is_current() -> None:
    assert len({(each.id, each.version) for each in templates.VERSIONS}) == len(templates.VERSIONS)
    assert templates.newest(CURRENT.id) is CURRENT
    assert templates.get(CURRENT.id, CURRENT.version) is CURRENT
    assert templates.get("none", 1) is None


def test_a_newer_version_says_what_it_changes_and_what_stays_as_people_had_it() -> None:
    first, second, *rest = CURRENT.items
    stricter = replace(first, levels=(LevelRule("P0", 10, 60),), text=Both("a", "甲"))
    extra = replace(first, id="extra")
    found = templates.diff([first, second, *rest], [stricter, *rest, extra], kept={first.id: ["levels"]})
    assert found == [
        Difference(second.id, second.name, "removed"),
        Difference(first.id, first.name, "changed", "levels", first.levels, stricter.levels, is_kept=True),
        Difference(first.id, first.name, "changed", "text", first.text, stricter.text),
        Difference("extra", first.name, "added"),
    ]


# --- the rule file -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile() -> GroupSpec:
    rule = RuleSpec(
        "5", "own_5", 'a {{ query "up" }} }} {{', f"sum({REQUESTS})", ">", [LevelRule("P1", 5, 0)],
        {"team": "{{ $labels.x }}", "project": "q", "level": "P0", "notify_policy": "9", "quote": '"\n'},
    )  # fmt: skip
    return GroupSpec("7", "p", "ep-1", "3", [rule])


def test_braces_of_people_are_text_and_their_labels_replace_none_of_ours(
    hostile: GroupSpec, promtool: Path, tmp_path: Path
) -> None:
    (tmp_path / "g.rules.json").write_text(rules.text(rules.render(hostile) or {}))
    expected = {
        "project": "p", "ark_endpoint": "ep-1", "level": "P1", "notify_policy": "3", "rule_id": "5", "group_id": "7",
        "team": "{{ $labels.x }}", "quote": '"\n',
    }  # fmt: skip
    content = rules.render(hostile)
    assert content is not None
    annotations = content["groups"][0]["rules"][0]["annotations"]
    test = {
        "rule_files": ["g.rules.json"],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": f"{REQUESTS}{{{CALL}}}", "values": "7x5"}],
                "alert_rule_test": [
                    {
                        "eval_time": "2m",
                        "alertname": "own_5",
                        "exp_alerts": [
                            {
                                "exp_labels": expected,
                                "exp_annotations": {
                                    "value": "7", "threshold": "5", "comparator": ">", "digest": annotations["digest"],
                                    "summary": '[P1] ep-1: a {{ query "up" }} }} {{ 7 > 5',
                                },
                            }
                        ],
                    }
                ],
            }
        ],
    }  # fmt: skip
    (tmp_path / "t.json").write_text(json.dumps(test))
    ran = subprocess.run(
        [promtool, "test", "rules", "t.json"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_group_without_anything_to_evaluate_has_no_file(hostile: GroupSpec) -> None:
    assert rules.render(replace(hostile, rules=[])) is None


def test_the_digest_changes_with_whatever_prometheus_must_load_again(hostile: GroupSpec) -> None:
    def digest(group: GroupSpec) -> str:
        content = rules.render(group)
        assert content is not None
        return str(content["groups"][0]["rules"][0]["annotations"]["digest"])

    assert digest(hostile) == digest(hostile)
    assert len({digest(hostile), digest(replace(hostile, policy="")), digest(replace(hostile, project="q"))}) == 3


def test_the_rules_about_the_installation_itself_are_accepted(promtool: Path, tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text(rules.text(rules.operators()))
    ran = subprocess.run(
        [promtool, "check", "rules", "o.json"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("name", "group"), [("ark-7.rules.json", "7"), ("ark-operators.rules.json", None), ("mine.yml", None)]
)
def test_only_files_of_our_groups_are_ours(name: str, group: str | None) -> None:
    assert rules.group_of_file(name) == group
    assert group is None or rules.file_name(group) == name
