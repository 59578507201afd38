"""The pure judge of statements, the built-in policies, and what a custom one may hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iam.policies import BUILT_IN, allows, problems

ENDPOINT = "trn:ark:local:arkconsole:endpoint/ep-1"
OTHER = "trn:ark:local:arkconsole:endpoint/ep-2"


def statement(*actions: str, effect: str = "Allow", resources: tuple[str, ...] = ("*",)) -> dict[str, Any]:
    return {"effect": effect, "actions": list(actions), "resources": list(resources)}


@pytest.mark.parametrize(
    ("statements", "action", "resource", "expected"),
    [
        ([], "ark:GetEndpoint", ENDPOINT, False),
        ([statement("ark:GetEndpoint")], "ark:GetEndpoint", ENDPOINT, True),
        ([statement("ark:GetEndpoint")], "ark:StopEndpoint", ENDPOINT, False),
        ([statement("ark:Get*")], "ark:GetEndpoint", ENDPOINT, True),
        ([statement("ark:*")], "vmp:QueryRange", ENDPOINT, False),
        ([statement("*")], "vmp:QueryRange", ENDPOINT, True),
        ([statement("ark:get*")], "ark:GetEndpoint", ENDPOINT, False),
        ([statement("ark:*", resources=(ENDPOINT,))], "ark:StopEndpoint", ENDPOINT, True),
        ([statement("ark:*", resources=(ENDPOINT,))], "ark:StopEndpoint", OTHER, False),
        ([statement("ark:*", resources=("trn:ark:*:endpoint/*",))], "ark:StopEndpoint", OTHER, True),
        ([statement("ark:*"), statement("ark:Stop*", effect="Deny")], "ark:StopEndpoint", ENDPOINT, False),
        ([statement("ark:Stop*", effect="Deny"), statement("ark:*")], "ark:StopEndpoint", ENDPOINT, False),
        ([statement("ark:*"), statement("ark:Stop*", effect="Deny", resources=(OTHER,))], "ark:StopEndpoint", ENDPOINT, True),
        ([statement("ark:Stop*", effect="Deny")], "ark:GetEndpoint", ENDPOINT, False),
    ],
)  # fmt: skip
def test_a_request_is_judged_by_its_statements(
    statements: list[dict[str, Any]], action: str, resource: str, *, expected: bool
) -> None:
    assert allows(statements, action=action, resource=resource) is expected


@pytest.mark.parametrize(
    ("policy", "allowed", "refused"),
    [
        ("ArkFullAccess", ["ark:StopEndpoint", "ark:CreateModelServer", "ark:OpenModelVersion"], ["vmp:ListAlerts", "iam:AttachPolicy"]),
        ("ArkStandardGlobalAccess", ["ark:StopEndpoint", "ark:CreateApiKey", "ark:UpdateEndpoint", "ark:ListModelServers1"],
         ["ark:OpenModelVersion", "ark:CreateModelServer", "ark:DeleteModelServer", "ark:UpdateModelVersion", "vmp:ListAlerts"]),
        ("ArkReadOnlyAccess", ["ark:GetEndpoint", "ark:ListApiKeys", "ark:ListEndpoints"],
         ["ark:StopEndpoint", "ark:CreateApiKey", "ark:GetApiKey", "ark:UpdateApiKey", "vmp:GetAlert"]),
        ("VMPFullAccess", ["vmp:CreateAlertingRuleGroup", "vmp:QueryRange"], ["ark:GetEndpoint"]),
        ("VMPReadOnlyAccess", ["vmp:QueryRange", "vmp:ListAlerts", "vmp:GetAlert"], ["vmp:CreateAlertingRuleGroup", "ark:GetEndpoint"]),
    ],
)  # fmt: skip
def test_the_built_in_policies_mean_what_the_spec_says(policy: str, allowed: list[str], refused: list[str]) -> None:
    statements = BUILT_IN[policy][1]

    assert [action for action in allowed if not allows(statements, action=action, resource=ENDPOINT)] == []
    assert [action for action in refused if allows(statements, action=action, resource=ENDPOINT)] == []


def test_the_built_in_policies_pass_the_check_for_custom_ones() -> None:
    assert {name: problems(statements) for name, (_text, statements) in BUILT_IN.items()} == dict.fromkeys(BUILT_IN, [])


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        ("ark:*", "list of statements"),
        ([], "list of statements"),
        (["ark:*"], "Statement 1: it must be an object"),
        ([statement("ark:*"), {**statement("ark:*"), "effect": "allow"}], "Statement 2: effect must be Allow or Deny"),
        ([{"effect": "Allow", "actions": ["ark:*"]}], "Statement 1: resources must be a list"),
        ([{**statement("ark:*"), "actions": []}], "Statement 1: actions must be a list"),
        ([{**statement("ark:*"), "actions": "ark:*"}], "Statement 1: actions must be a list"),
        ([{**statement("ark:*"), "actions": [7]}], "Statement 1: actions must be a list"),
        ([statement("StopEndpoint")], "“StopEndpoint” is no action"),
        ([statement("s3:GetObject")], "“s3:GetObject” is no action"),
        ([{**statement("ark:*"), "Condition": {}}], "unknown: Condition"),
    ],
)
def test_a_custom_policy_that_says_nothing_clear_is_refused_with_the_reason(statements: Any, says: str) -> None:
    assert any(says in problem for problem in problems(statements)), problems(statements)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))  # fmt: skip
def test_whatever_is_typed_is_judged_without_an_error(statements: Any) -> None:
    if not problems(statements):
        allows(statements, action="ark:GetEndpoint", resource=ENDPOINT)


@given(st.lists(st.sampled_from(["ark:Get*", "ark:*", "ark:StopEndpoint", "*", "vmp:*"]), max_size=5))
def test_a_deny_of_everything_wins_over_any_allow(actions: list[str]) -> None:
    statements = [*(statement(action) for action in actions), statement("*", effect="Deny")]

    assert not allows(statements, action="ark:StopEndpoint", resource=ENDPOINT)


def test_every_action_that_the_code_asks_for_is_in_the_docs() -> None:
    root = Path(__file__).resolve().parents[2]
    rooms = ("monitoring", "endpoints", "metering", "catalog", "iam")
    sources = [path.read_text(encoding="utf-8") for room in rooms for path in (root / room).rglob("*.py")]
    asked = {action for text in sources for action in re.findall(r'"((?:ark|iam):[A-Z][A-Za-z]+)"', text)}
    documented = set(re.findall(r"`((?:ark|iam):[A-Z][A-Za-z]+)`", (root / "docs/permissions.md").read_text("utf-8")))

    assert asked - documented == set()
    assert documented - asked == set()
