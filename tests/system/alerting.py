"""Alerts made inside the running product: people with verified addresses, a policy, and a rule on an endpoint.

As `person`, this runs as a process with the stack's environment; run as a script it reads an order as JSON on stdin and
prints what it made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.stack import Stack

ROOT = Path(__file__).resolve().parents[2]


def arrange_alerts(
    stack: Stack,
    *,
    name: str,
    endpoint_id: str,
    promql: str,
    addresses: Mapping[str, tuple[str, str]],
    is_hushed: bool = False,
) -> dict[str, int]:
    """A P0 rule on the endpoint that fires at once, told to `addresses` ({kind: (address, secret)}) at once.

    Returns `policy` and `group`, `rule`. Without addresses the rule has no policy; hushed, the endpoint is silenced.
    """
    order = {"name": name, "endpoint_id": endpoint_id, "promql": promql, "addresses": addresses, "is_hushed": is_hushed}
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.alerting"], cwd=ROOT, input=json.dumps(order), capture_output=True, text=True,
        env={**stack.env, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}, check=False, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made: dict[str, int] = json.loads(done.stdout)
    return made


def _make(
    name: str, endpoint_id: str, promql: str, addresses: dict[str, tuple[str, str]], is_hushed: bool
) -> dict[str, int]:
    from datetime import timedelta

    from django.utils import timezone

    from alerts import contacts, policies, rule_services, silences
    from alerts.models import ContactMethod
    from alerts.templates import LevelRule
    from endpoints.models import Endpoint
    from iam.actors import SYSTEM
    from monitoring import services as monitoring

    now = timezone.now()
    endpoint = Endpoint.objects.select_related("project").get(pk=endpoint_id)
    project = endpoint.project
    who: dict[str, Any] = {"by": SYSTEM, "now": now}
    monitoring.open_monitoring(project=project, **who)
    policy = None
    if addresses:
        contact = contacts.create_contact(
            project=project, name=name, language="zh-hans", time_zone="Asia/Shanghai", note="", **who
        )
        for kind, (address, secret) in addresses.items():
            contacts.add_method(contact=contact, kind=kind, address=address, secret=secret, **who)
        # Verified by another test; here they only have to be.
        ContactMethod.objects.filter(contact=contact).update(state="verified", verified_at=now)
        people = contacts.create_group(project=project, name=name, contacts=[contact], **who)
        resolved = [kind for kind in addresses if kind != "phone"]
        plan = policies.LevelPlan(
            "P0", groups=[people], kinds=[*addresses], resolved_kinds=resolved, wait_seconds=0, interval_seconds=5,
            repeat_seconds=600,
        )  # fmt: skip
        policy = policies.create_policy(project=project, name=name, levels=[plan], **who)
    if is_hushed:
        silences.create(
            project=project, matchers={"ark_endpoint": endpoint_id}, reason="being repaired", starts_at=now,
            ends_at=now + timedelta(hours=1), **who,
        )  # fmt: skip
    rule = rule_services.OwnRule(name=name, levels=[LevelRule("P0", 0.0, 0)], promql=promql)
    group = rule_services.create_own_group(
        project=project, endpoint=endpoint, name=name, rules=[rule], policy=policy, **who
    )
    return {"policy": policy.pk if policy else 0, "group": group.pk, "rule": group.rules.get().pk}


if __name__ == "__main__":
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "arkconsole.settings"
    django.setup()
    json.dump(_make(**json.load(sys.stdin)), sys.stdout)
