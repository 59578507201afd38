"""The built-in policies as action lists, and the pure function that judges a request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from django.utils.translation import gettext as _

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
    "ArkReadOnlyAccess": (
        "View everything, change nothing",
        [
            {"effect": "Allow", "actions": READ_ARK, "resources": ["*"]},
            # A Get by its name only: it makes a key that calls, and spends.
            {"effect": "Deny", "actions": ["ark:GetApiKey"], "resources": ["*"]},
        ],
    ),
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


_ACTION = re.compile(r"^(\*|(ark|vmp|iam|tag):[A-Za-z*?]+)$")


def problems(statements: Any) -> list[str]:
    """What keeps `statements` from being a policy, one sentence for each fault; [] when nothing does."""
    if not isinstance(statements, list) or not statements:
        return [_('Write a list of statements: [{"effect": …, "actions": […], "resources": […]}].')]
    found: list[str] = []
    for number, statement in enumerate(statements, start=1):
        found += [
            _("Statement %(number)d: %(problem)s") % {"number": number, "problem": text} for text in _faults(statement)
        ]
    return found


def _faults(statement: Any) -> list[str]:
    if not isinstance(statement, dict):
        return [_("it must be an object with effect, actions and resources.")]
    found = []
    unknown = sorted(set(statement) - {"effect", "actions", "resources"})
    if unknown:
        found.append(
            _("unknown: %(names)s. It may hold effect, actions and resources.") % {"names": ", ".join(unknown)}
        )
    if statement.get("effect") not in ("Allow", "Deny"):
        found.append(_("effect must be Allow or Deny."))
    for name in ("actions", "resources"):
        values = statement.get(name)
        if not isinstance(values, list) or not values or not all(isinstance(value, str) and value for value in values):
            found.append(_("%(name)s must be a list with at least one text.") % {"name": name})
        elif name == "actions":
            wrong = [value for value in values if not _ACTION.match(value)]
            if wrong:
                found.append(
                    _("“%(action)s” is no action; write it like ark:StopEndpoint or ark:Get*.") % {"action": wrong[0]}
                )
    return found
