"""Events inside the running product, as Prometheus and the deliveries would have left them; run as a script there.

What really fires is tested end to end elsewhere: here pages are looked at, so an incident of each kind stands still.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60


def stage(stack: Stack, endpoint_id: str, *names: str) -> dict[str, int]:
    """One firing P0 event on the endpoint for each of `names`, each of a rule of its own; their ids by name."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.alerts.staged", endpoint_id, *names],
        cwd=ROOT, env={**stack.env, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}, capture_output=True,
        text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made: dict[str, int] = json.loads(done.stdout)
    return made


def _make(endpoint_id: str, names: list[str]) -> dict[str, int]:
    from django.utils import timezone

    from alerts.models import (
        AlertEvent,
        Delivery,
        EventNote,
        Notification,
        NotificationPolicy,
        PolicyLevel,
        Rule,
        RuleGroup,
    )  # fmt: skip
    from endpoints.models import Endpoint, EndpointEvent, Status

    now = timezone.now()
    endpoint = Endpoint.objects.get(pk=endpoint_id)
    project = endpoint.project
    begun = now - timedelta(minutes=12)
    policy = NotificationPolicy.objects.create(
        project=project, name=f"on call {endpoint_id}", created_at=now, updated_at=now
    )
    PolicyLevel.objects.create(policy=policy, level="P0", wait_seconds=0, interval_seconds=30, repeat_seconds=600)
    group = RuleGroup.objects.create(
        project=project, endpoint_id=endpoint_id, template_id="staged", name="Staged", policy=policy,
        is_enabled=False, created_at=now, updated_at=now,
    )  # fmt: skip
    EndpointEvent.objects.create(
        endpoint=endpoint, at=begun - timedelta(minutes=9), from_status=Status.RUNNING, to_status=Status.ABNORMAL
    )
    EndpointEvent.objects.create(
        endpoint=endpoint, at=begun - timedelta(minutes=4), from_status=Status.ABNORMAL, to_status=Status.RUNNING
    )
    made = {}
    for number, name in enumerate(names):
        rule = Rule.objects.create(
            group=group, key=f"staged_{number}", name=f"Error rate {name}", kind="promql", unit="%",
            levels=[{"level": "P0", "threshold": 5, "for_seconds": 60}],
        )  # fmt: skip
        common = {
            "rule": rule, "rule_key": rule.key, "rule_name": rule.name, "group_name": group.name, "project": project,
            "endpoint_id": endpoint_id, "level": "P0", "threshold": 5.0, "comparator": ">", "has_policy": True,
            "labels": {"alertname": f"own_{rule.pk}", "ark_endpoint": endpoint_id, "level": "P0",
                       "project": project.pk, "rule_id": str(rule.pk)},
            "expression": '(100 * sum by (project, ark_endpoint) (rate(ark_api_proxy_request_total{code!="OK"}[5m]))) > 5',
        }  # fmt: skip
        for days in (1, 3, 3.5):
            AlertEvent.objects.create(
                **common, fingerprint=f"{endpoint_id}-{number}", starts_at=now - timedelta(days=days),
                phase="resolved", ends_at=now - timedelta(days=days) + timedelta(minutes=6), last_at=now, value=9.1,
            )  # fmt: skip
        event = AlertEvent.objects.create(
            **common, fingerprint=f"{endpoint_id}-{number}", starts_at=begun, phase="firing", last_at=now, value=7.34,
            # Nobody speaks of it again, and it is still to be there at the end of the tests.
            expires_at=now + timedelta(days=1),
        )  # fmt: skip
        EventNote.objects.create(event=event, at=begun, kind="firing")
        told = Notification.objects.create(
            policy=policy, level="P0", group_key=f"{endpoint_id}-{number}", digest="d", status="firing", at=begun,
            told={str(event.pk): "firing"},
        )  # fmt: skip
        told.events.add(event)
        for kind, hint, values in (
            ("feishu", "open.feishu.cn/…3f2a", {"state": "sent", "answer_status": 200, "answer_code": "0", "latency_ms": 212, "attempts": 1, "sent_at": begun}),
            ("email", "l***@example.com", {"state": "failed", "answer_code": "550", "answer_text": "no such user", "attempts": 1}),
            ("phone", "+86 138****5678", {"state": "skipped", "answer_code": "unverified"}),
        ):  # fmt: skip
            Delivery.objects.create(notification=told, contact_name="李伟", kind=kind, hint=hint, at=begun, **values)
        made[name] = event.pk
    return made


if __name__ == "__main__":
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "arkconsole.settings"
    django.setup()
    json.dump(_make(sys.argv[1], sys.argv[2:]), sys.stdout)
