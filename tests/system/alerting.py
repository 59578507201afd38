"""Alerts made inside the running product: people with verified addresses, policies, and rules on endpoints.

As `person`, this runs as a process with the stack's environment; run as a script it reads orders as JSON on stdin and
prints what it made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
INTERVAL_SECONDS = 5
"""How often a group of P0 is told of again at most."""


@dataclass(frozen=True)
class Address:
    """Where somebody is told, verified."""

    kind: str
    address: str
    secret: str = ""


@dataclass(frozen=True)
class AlertOrder:
    """A rule of these levels on the endpoint that fires at once, P0 told to `addresses` at once, the others soon.

    Without addresses the rule has no policy; hushed, the endpoint is silenced.
    """

    name: str
    endpoint_id: str
    promql: str
    addresses: Sequence[Address] = ()
    levels: Sequence[str] = ("P0",)
    is_hushed: bool = False


@dataclass(frozen=True)
class MadeAlert:
    """The keys of what was made; `policy` is 0 where there is none."""

    policy: int
    group: int
    rule: int


def arrange_alerts(stack: Stack, *orders: AlertOrder) -> list[MadeAlert]:
    """What was made of each order."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.alerting"], cwd=ROOT, input=json.dumps([asdict(order) for order in orders]),
        capture_output=True, text=True, env={**stack.env, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [MadeAlert(**made) for made in json.loads(done.stdout)]


def _make(order: AlertOrder) -> MadeAlert:
    from datetime import timedelta

    from django.utils import timezone

    from alerts import contacts, policies, rule_services, silences
    from alerts.models import ContactMethod
    from alerts.templates import LevelRule
    from endpoints.models import Endpoint
    from iam.actors import SYSTEM
    from monitoring import services as monitoring

    now = timezone.now()
    endpoint = Endpoint.objects.select_related("project").get(pk=order.endpoint_id)
    project, name = endpoint.project, order.name
    who: dict[str, Any] = {"by": SYSTEM, "now": now}
    monitoring.open_monitoring(project=project, **who)
    policy = None
    if order.addresses:
        contact = contacts.create_contact(
            project=project, name=name, language="zh-hans", time_zone="Asia/Shanghai", note="", **who
        )
        for each in order.addresses:
            contacts.add_method(contact=contact, kind=each.kind, address=each.address, secret=each.secret, **who)
        # Verified by another test; here they only have to be.
        ContactMethod.objects.filter(contact=contact).update(state="verified", verified_at=now)
        people = contacts.create_group(project=project, name=name, contacts=[contact], **who)
        kinds = sorted({each.kind for each in order.addresses})
        plans = [
            policies.LevelPlan(
                level, groups=[people], kinds=kinds if level == "P0" else [kind for kind in kinds if kind != "phone"],
                resolved_kinds=[kind for kind in kinds if kind != "phone"],
                wait_seconds=0 if level == "P0" else 5, interval_seconds=INTERVAL_SECONDS if level == "P0" else 300,
                repeat_seconds=600,
            )
            for level in order.levels
        ]  # fmt: skip
        policy = policies.create_policy(project=project, name=name, levels=plans, **who)
    if order.is_hushed:
        silences.create(
            project=project, matchers={"ark_endpoint": endpoint.pk}, reason="being repaired", starts_at=now,
            ends_at=now + timedelta(hours=1), **who,
        )  # fmt: skip
    levels = [LevelRule(level, 0.0, 0) for level in order.levels]
    rule = rule_services.OwnRule(name=name, levels=levels, promql=order.promql)
    group = rule_services.create_own_group(
        project=project, endpoint=endpoint, name=name, rules=[rule], policy=policy, **who
    )
    return MadeAlert(policy.pk if policy else 0, group.pk, group.rules.get().pk)


if __name__ == "__main__":
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "arkconsole.settings"
    django.setup()
    wanted = [
        AlertOrder(**{**order, "addresses": [Address(**each) for each in order["addresses"]]})
        for order in json.load(sys.stdin)
    ]
    json.dump([asdict(_make(order)) for order in wanted], sys.stdout)
