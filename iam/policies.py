"""The built-in policies as action lists, and the pure function that judges a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

READ_ARK = ["ark:Get*", "ark:List*"]
READ_VMP = ["vmp:Get*", "vmp:List*", "vmp:Query*"]

# Sources: spec.zh.md and ark.md §4.12. "Everything except 模型开通": opening models is a catalogue matter.
BUILT_IN: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "ArkFullAccess": ("All of Ark", [{"effect": "Allow", "actions": ["ark:*"], "resources": ["*"]}]),
    "ArkStandardGlobalAccess": (
        "View and configure everything except the model catalogue",
        [
            {"effect": "Allow", "actions": ["ark:*"], "resources": ["*"]},
            {"effect": "Deny", "actions": ["ark:OpenModel*", "ark:*ModelServer", "ark:*ModelServers", "ark:UpdateModel*",
                                           "ark:CreateModel*", "ark:DeleteModel*"], "resources": ["*"]},
        ],
    ),
    "ArkReadOnlyAccess": ("View everything, change nothing", [{"effect": "Allow", "actions": READ_ARK, "resources": ["*"]}]),
    "VMPFullAccess": ("All of monitoring and alerting", [{"effect": "Allow", "actions": ["vmp:*"], "resources": ["*"]}]),
    "VMPReadOnlyAccess": ("View monitoring and alerts", [{"effect": "Allow", "actions": READ_VMP, "resources": ["*"]}]),
}  # fmt: skip


def allows(statements: Iterable[Mapping[str, Any]], *, action: str, resource: str) -> bool:
    """Whether the statements allow `action` on `resource` (a TRN). A matching Deny wins over every Allow."""
    is_allowed = False
    for statement in statements:
        if not any(fnmatchcase(action, pattern) for pattern in statement["actions"]):
            continue
        if not any(fnmatchcase(resource, pattern) for pattern in statement["resources"]):
            continue
        if statement["effect"] == "Deny":
            return False
        is_allowed = True
    return is_allowed
