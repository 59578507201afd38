"""What Prometheus and Alertmanager post about alerts, read into one shape. Pure.

Both say the same of an alert: its labels, its annotations, when it began, and when it ended or will have ended unless
it is spoken of again. Neither names it in a way that the other would know, so the name is ours: a hash of its labels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.utils.translation import gettext as _

from alerts.models import Level
from common.errors import DomainError

WATCHDOG = "ArkWatchdog"
"""The alert that always fires: while it arrives, the chain from Prometheus to here is whole."""

OPERATORS = "operators"
"""The group id of rules about the installation itself, which belong to no project."""

EXTERNAL_LABELS = frozenset({"cluster", "monitor", "prometheus", "prometheus_replica", "replica", "__replica__"})
"""What a Prometheus adds to tell itself from its twin: two that watch the same thing tell of one alert, not of two."""

MAX_ALERTS = 5_000
EXPRESSION_LENGTH = 10_000


class BadPost(DomainError):
    """A post that cannot be read; the message says where."""


@dataclass(frozen=True, slots=True)
class Report:
    """One alert as somebody tells of it. `ends_at` lies ahead while it fires; None: it fires, no promise for how long."""

    fingerprint: str
    starts_at: datetime
    ends_at: datetime | None
    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)
    expression: str = ""
    has_ended: bool | None = None
    """Where it is said in so many words, as Alertmanager does; the clocks need not agree then."""

    def is_firing(self, now: datetime) -> bool:
        if self.has_ended is not None:
            return not self.has_ended
        return self.ends_at is None or self.ends_at > now

    @property
    def is_watchdog(self) -> bool:
        return self.labels.get("alertname") == WATCHDOG

    @property
    def is_ours(self) -> bool:
        """Whether one of our rules made it: a Prometheus that others use too posts theirs as well."""
        return bool(self.labels.get("rule_id"))

    @property
    def level(self) -> str:
        level = self.labels.get("level", "")
        return level if level in Level.values else Level.P2

    @property
    def value(self) -> float | None:
        return number(self.annotations.get("value"))

    @property
    def threshold(self) -> float | None:
        return number(self.annotations.get("threshold"))


def fingerprint(labels: Mapping[str, str]) -> str:
    """The name of whatever has these labels; empty ones, and what a Prometheus adds of itself, do not count."""
    pairs = sorted((name, value) for name, value in labels.items() if value and name not in EXTERNAL_LABELS)
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def number(text: Any) -> float | None:
    """The number that `text` is; None for what is none, NaN and infinite ones, which no column and no chart can hold."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def instant(text: Any) -> datetime | None:
    """A moment in RFC 3339, cut to milliseconds: not everybody tells nanoseconds.

    None for Go's "never", the year 1. Raises ValueError.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("without a zone")
    if at.year <= 1:
        return None
    at = at.astimezone(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def of_prometheus(body: bytes) -> list[Report]:
    """What Prometheus posts to `/api/v2/alerts`. Raises `BadPost`."""
    entries = _json(body)
    if not isinstance(entries, list):
        raise BadPost(_("The body must be a list of alerts."))
    return _reports(entries)


@dataclass(frozen=True, slots=True)
class GroupPost:
    """What Alertmanager posts of one group."""

    labels: Mapping[str, str]
    reports: Sequence[Report]
    left_out: int = 0

    @property
    def policy_id(self) -> str:
        return self.labels.get("notify_policy", "")


def of_alertmanager(body: bytes) -> GroupPost:
    """What Alertmanager posts to a webhook, version 4. Raises `BadPost`."""
    said = _json(body)
    if not isinstance(said, dict) or not isinstance(said.get("alerts"), list):
        raise BadPost(_("The body must be an object with a list of alerts."))
    if said.get("version") != "4":
        raise BadPost(_("The version must be 4."))
    left_out = said.get("truncatedAlerts", 0)
    return GroupPost(
        labels=_texts(said.get("groupLabels", {}), "groupLabels"),
        reports=_reports(said["alerts"]),
        left_out=left_out if isinstance(left_out, int) else 0,
    )


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BadPost(_("The body is not JSON.")) from None


def _reports(entries: Sequence[Any]) -> list[Report]:
    if len(entries) > MAX_ALERTS:
        raise BadPost(_("More than %(count)d alerts in one post.") % {"count": MAX_ALERTS})
    return [_report(entry, number) for number, entry in enumerate(entries, start=1)]


def _report(entry: Any, place: int) -> Report:
    if not isinstance(entry, dict):
        raise BadPost(_("Alert %(number)d is not an object.") % {"number": place})
    all_labels = _texts(entry.get("labels"), f"labels ({place})")
    # A label that is empty is one that is not there, for Prometheus as well.
    labels = {name: value for name, value in all_labels.items() if value and name not in EXTERNAL_LABELS}
    if not labels.get("alertname"):
        raise BadPost(_("Alert %(number)d has no alertname.") % {"number": place})
    try:
        starts_at = instant(entry.get("startsAt"))
        ends_at = instant(entry["endsAt"]) if entry.get("endsAt") else None
    except (TypeError, ValueError, OverflowError):
        starts_at = ends_at = None
    if starts_at is None:
        raise BadPost(_("Alert %(number)d does not say when it began.") % {"number": place})
    return Report(
        fingerprint=fingerprint(labels),
        starts_at=starts_at,
        ends_at=ends_at if ends_at is None else max(ends_at, starts_at),
        labels=labels,
        annotations=_texts(entry.get("annotations") or {}, f"annotations ({place})"),
        expression=_expression(entry.get("generatorURL")),
        has_ended={"firing": False, "resolved": True}.get(str(entry.get("status"))),
    )


def _texts(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise BadPost(_("%(where)s must be texts by name.") % {"where": where})
    try:
        for name, text in value.items():
            (name + text).encode()
    except UnicodeEncodeError:
        # Half a character, which JSON can write and nothing can keep: it will never be right.
        raise BadPost(_("%(where)s must be texts by name.") % {"where": where}) from None
    # PostgreSQL takes no NUL.
    return {name.replace("\0", ""): text.replace("\0", "") for name, text in value.items()}


def _expression(url: Any) -> str:
    """What was evaluated: Prometheus puts it into the address of its own graph page."""
    try:
        found = parse_qs(urlsplit(str(url or "")).query).get("g0.expr", [""])
    except ValueError:
        return ""
    return found[0].encode(errors="replace").decode().replace("\0", "")[:EXPRESSION_LENGTH]
