"""What is looked after every ten seconds: each thing by itself, so that one that fails does not keep the others.

Everything here may run twice, late or side by side with itself, and asks the outside for what it says now.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import DatabaseError

from alerts import alertmanager, events, installation, notifications, reports
from alerts.models import RuleGroup
from alerts.reports import Report
from monitoring import installation as prometheus_here
from monitoring import prometheus

log = logging.getLogger(__name__)

PENDING_QUERY = 'ALERTS_FOR_STATE{rule_id!=""} and ignoring(alertstate) ALERTS{alertstate="pending",rule_id!=""}'
"""What is pending, and since when: both series are Prometheus' own, whatever else is in front of it."""

ASK_SECONDS = 3.0
EVERY_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to look after; what goes wrong in it outside is said once, until it works again."""

    name: str
    do: Callable[[datetime], object]


def tend(*, now: datetime) -> list[str]:
    """Look after everything; the names of what did not work."""
    failed = []
    for step in STEPS:
        try:
            step.do(now)
        except (alertmanager.Trouble, prometheus.Trouble) as error:
            failed.append(step.name)
            _say(step.name, str(error))
        except DatabaseError:
            raise
        except Exception:
            failed.append(step.name)
            log.exception("%s failed", step.name)
        else:
            _say(step.name, "")
    return failed


_said: dict[str, str] = {}


def _say(name: str, trouble: str) -> None:
    before = _said.get(name, "")
    if trouble and not before:
        log.warning("%s: %s", name, trouble)
    elif before and not trouble:
        log.warning("%s works again", name)
    _said[name] = trouble


def _pending(now: datetime) -> None:
    if not prometheus_here.look().url or not _has_rules():
        return
    samples = prometheus.instant(PENDING_QUERY, timeout_seconds=ASK_SECONDS)
    seen = []
    for sample in samples:
        labels = {
            name: value
            for name, value in sample.labels.items()
            if value and name not in ("__name__", "alertstate") and name not in reports.EXTERNAL_LABELS
        }
        at = datetime.fromtimestamp(sample.value, UTC)
        seen.append(Report(reports.fingerprint(labels), at, None, labels))
    events.note_pending(seen, now=now)


def _has_rules() -> bool:
    return RuleGroup.objects.filter(deleted_at__isnull=True).exists()


def _marks(now: datetime) -> None:
    if installation.url():
        events.mark(alertmanager.held_back(), now=now)


def _silences(now: datetime) -> None:
    if installation.url():
        alertmanager.silence(now=now)


def _forgotten(now: datetime) -> None:
    # In one tick of each minute: it looks at hours, and is in no hurry.
    if now.second < EVERY_SECONDS:
        notifications.tell_forgotten(now=now)


STEPS = (
    Step("expiry of events", lambda now: events.expire(now=now)),
    Step("pending alerts", _pending),
    Step("Alertmanager's configuration", lambda now: alertmanager.configure(now=now)),
    Step("silences", _silences),
    Step("what is silenced or inhibited", _marks),
    Step("recoveries that nobody told", _forgotten),
)
