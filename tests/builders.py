"""One builder per model: a valid row with what the test names, and dull values elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from alerts.models import (
    AlertEvent,
    Contact,
    ContactGroup,
    ContactMethod,
    NotificationPolicy,
    PolicyLevel,
    Rule,
    RuleGroup,
    Silence,
)
from catalog.models import Deployment, FoundationModel, ModelServer, ModelVersion, PriceTier
from endpoints.lifecycle import Reason
from endpoints.models import Desired, Endpoint, Kind, Status, VersionSwitch
from iam.actors import Actor
from iam.models import ApiKey, Attachment, Policy, Project, User
from iam.policies import BUILT_IN
from metering.events import Outcome, UsageEvent
from metering.models import CallRecord, HealthSum
from monitoring.models import Subscription

NOW = datetime(2026, 4, 21, 10, 0, 49, tzinfo=UTC)
_numbers = itertools.count(1)


# --- iam
def user(**values: Any) -> User:
    """A user who cannot sign in with a password unless one is given: hashing it is most of a test's time."""
    number = next(_numbers)
    return User.objects.create_user(**{"username": f"user{number}", **values})


def project(slug: str = "", **values: Any) -> Project:
    """A project; the same one again for a slug that is there."""
    pk = slug or f"project-{next(_numbers)}"
    return Project.objects.get_or_create(pk=pk, defaults={"name": pk.title(), **values})[0]


def policy(*actions: str, name: str = "", effect: str = "Allow") -> Policy:
    """A custom policy of these actions, or the built-in one of that name."""
    if name in BUILT_IN:
        statements = BUILT_IN[name][1]
        return Policy.objects.get_or_create(name=name, defaults={"is_builtin": True, "statements": statements})[0]
    statement = {"effect": effect, "actions": list(actions), "resources": ["*"]}
    return Policy.objects.create(name=name or f"policy{next(_numbers)}", statements=[statement])


def member(of: Project | None = None, *actions: str, policy_name: str = "", **values: Any) -> User:
    """A user with a policy in a project: of `actions`, else the built-in `policy_name` (ArkFullAccess)."""
    given = policy(*actions) if actions else policy(name=policy_name or "ArkFullAccess")
    someone = user(**values)
    Attachment.objects.create(policy=given, user=someone, project=of)
    return someone


def actor(someone: User | None = None, **values: Any) -> Actor:
    """That user as services take it; a superuser when none is given."""
    someone = someone or user(is_superuser=True)
    return Actor(**{"id": str(someone.pk), "name": someone.username, "user": someone, "source_ip": "192.0.2.7",
                    "request_id": "test", **values})  # fmt: skip


def api_key(**values: Any) -> ApiKey:
    """An enabled key of project "default" for all its endpoints; nobody knows the key itself."""
    number = next(_numbers)
    values["project"] = values.get("project") or project("default")
    values = {"name": f"key{number}", "prefix": "ark-test", "digest": f"{number:064x}", "created_at": NOW, **values}
    return ApiKey.objects.create(**values)


# --- catalog
def model_server(**values: Any) -> ModelServer:
    number = next(_numbers)
    values = {"name": f"server{number}", "base_url": f"http://127.0.0.1:{number}/v1", "state": "up", **values}
    return ModelServer.objects.create(**values)


def foundation_model(**values: Any) -> FoundationModel:
    name = str(values.pop("name", f"model{next(_numbers)}"))
    return FoundationModel.objects.create(**{"name": name, "display_name": name.title(), **values})


def model_version(*, servers: Sequence[ModelServer] = (), **values: Any) -> ModelVersion:
    """A version, deployed on each of `servers`."""
    values = {"model": values.get("model") or foundation_model(), "version": "260415", **values}
    made = ModelVersion.objects.create(**values)
    for server in servers:
        deployment(version=made, server=server)
    return made


def price_tier(**values: Any) -> PriceTier:
    values = {
        "version": values.get("version") or model_version(),
        "input_price": Decimal("0.8"), "cached_price": Decimal("0.16"), "output_price": Decimal(2),
        "valid_from": NOW - timedelta(days=365), **values,
    }  # fmt: skip
    return PriceTier.objects.create(**values)


def deployment(**values: Any) -> Deployment:
    values = {
        "version": values.get("version") or model_version(),
        "server": values.get("server") or model_server(),
        "upstream_model": "upstream-model",
        **values,
    }
    return Deployment.objects.create(**values)


# --- endpoints
def endpoint_row(**values: Any) -> Endpoint:
    """An endpoint that is not saved, for `bulk_create`; needs `project` and `version`."""
    number = next(_numbers)
    at = values.get("created_at", NOW)
    return Endpoint(**{
        "id": f"ep-20260421180049-{number:05d}", "name": f"endpoint {number}", "rpm": 600, "tpm": 1_000_000,
        "kind": Kind.CUSTOM, "desired": Desired.RUNNING, "status": Status.RUNNING, "status_reason": Reason.SERVED,
        "status_at": at, "created_at": at, "updated_at": at, **values,
    })  # fmt: skip


def endpoint(**values: Any) -> Endpoint:
    """A healthy custom endpoint of project "default"; its version runs on a server that is up."""
    values["project"] = values.get("project") or project("default")
    values["version"] = values.get("version") or model_version(servers=[model_server()])
    row = endpoint_row(**values)
    row.save(force_insert=True)
    return row


def version_switch(**values: Any) -> VersionSwitch:
    """A switch on the second of four rungs (10, 40, 70, 100 %, 60 s each), without gates; both sides run and are probed.

    Its endpoint serves the source; `endpoint`, `target` and any column may be given.
    """
    now = values.get("created_at", NOW)
    served = values.pop("endpoint", None) or endpoint()
    target = values.pop("target", None) or model_version(servers=[model_server(probed_at=now)])
    ladder = [{"weight": weight, "hold_seconds": 60} for weight in (10, 40, 70, 100)]
    values = {
        "endpoint": served, "source": served.version, "target": target, "state": "climbing", "ladder": ladder,
        "rung": 1, "soak": 2, "moves": 2, "ticked_at": now, "check_at": now, "created_at": now, **values,
    }  # fmt: skip
    rung = values["rung"]
    values.setdefault("weight", values["ladder"][rung]["weight"] if rung >= 0 else 0)
    return VersionSwitch.objects.create(**values)


# --- metering
def call_record(**values: Any) -> CallRecord:
    number = next(_numbers)
    values = {
        "call_id": f"call-{number}", "at": NOW, "project_id": "default", "endpoint_id": "ep-1", "version_id": 1,
        "model_id": "model-1", "server_id": None, "api": "chat", "key_id": 1, "outcome": "success", "status": 200,
        "code": "Success", "duration_ms": 100, **values,
    }  # fmt: skip
    return CallRecord.objects.create(**values)


def usage_event(**values: Any) -> UsageEvent:
    """What the gateway says of a call that went well at NOW."""
    values = {
        "call_id": f"call-{next(_numbers)}", "at": int(NOW.timestamp() * 1000), "endpoint_id": "ep-1",
        "project_id": "default", "api": "chat", "outcome": Outcome.SUCCESS, "status": 200, "code": "Success",
        "duration_ms": 100, "version_id": 1, "model_id": "model-1", "key_id": 1, "input_tokens": 10,
        "output_tokens": 5, **values,
    }  # fmt: skip
    return UsageEvent(**values)


def health_sum(switch: VersionSwitch, *, side: str = "target", rung: int | None = None, **values: Any) -> HealthSum:
    """What the drain summed up of one side of a switch: in its present soak, or in `rung` (-1: the whole switch)."""
    version = switch.target_id if side == "target" else switch.source_id
    return HealthSum.objects.create(**{
        "switch_id": switch.pk, "version_id": version, "rung": switch.soak if rung is None else rung, "at": NOW,
        "calls": 100, **values,
    })  # fmt: skip


# --- monitoring
def subscription(**values: Any) -> Subscription:
    """Monitoring of project "default", open; or as `state` says."""
    values["project"] = values.get("project") or project("default")
    at = values.get("asked_at", NOW)
    values = {
        "state": "open", "step": "samples", "opened_by_name": "li.wei", "asked_at": at, "step_at": at, "look_at": at,
        **values,
    }  # fmt: skip
    if values["state"] == "open":
        values.setdefault("opened_at", at)
    return Subscription.objects.create(**values)


# --- alerts
def contact(*kinds: str, **values: Any) -> Contact:
    """A contact of project "default" with a verified method of each kind."""
    number = next(_numbers)
    values["project"] = values.get("project") or project("default")
    made = Contact.objects.create(**{"name": f"contact{number}", "created_at": NOW, **values})
    for kind in kinds:
        contact_method(contact=made, kind=kind)
    return made


def contact_method(**values: Any) -> ContactMethod:
    """A verified e-mail address, or what `kind` says."""
    number = next(_numbers)
    values["contact"] = values.get("contact") or contact()
    values = {
        "kind": "email", "address": f"someone{number}@example.com", "hint": f"s***{number}@example.com",
        "address_digest": f"{number:064x}", "state": "verified", "verified_at": NOW, "created_at": NOW, **values,
    }  # fmt: skip
    return ContactMethod.objects.create(**values)


def contact_group(*contacts: Contact, **values: Any) -> ContactGroup:
    values["project"] = values.get("project") or project("default")
    made = ContactGroup.objects.create(**{"name": f"group{next(_numbers)}", "created_at": NOW, **values})
    made.contacts.set(contacts)
    return made


LEVEL = {
    "kinds": ["email", "webhook"], "resolved_kinds": ["email", "webhook"], "group_by": "rule", "wait_seconds": 30,
    "interval_seconds": 60, "repeat_seconds": 3600,
}  # fmt: skip


def notification_policy(*groups: ContactGroup, level: str = "P1", **values: Any) -> NotificationPolicy:
    """A policy that tells `groups` of one level; columns of the level (`LEVEL`) may be given."""
    values["project"] = values.get("project") or project("default")
    plan = {name: values.pop(name) for name in LEVEL if name in values}
    made = NotificationPolicy.objects.create(
        **{"name": f"policy{next(_numbers)}", "created_at": NOW, "updated_at": NOW, **values}
    )
    policy_level(made, *groups, level=level, **plan)
    return made


def policy_level(policy: NotificationPolicy, *groups: ContactGroup, level: str, **values: Any) -> PolicyLevel:
    """The policy tells `groups` of `level` by e-mail and webhook, firing and resolved; repeats each hour."""
    made = PolicyLevel.objects.create(policy=policy, level=level, **{**LEVEL, **values})
    made.groups.set(groups)
    return made


def rule_group(**values: Any) -> RuleGroup:
    values["project"] = values.get("project") or project("default")
    return RuleGroup.objects.create(
        **{"name": f"rules{next(_numbers)}", "created_at": NOW, "updated_at": NOW, "sync_state": "active", **values}
    )


def rule(**values: Any) -> Rule:
    """Errors above 5 % are P1, in a group of its own."""
    values["group"] = values.get("group") or rule_group()
    values = {"key": "error_rate", "name": "Error rate", "kind": "template", "comparator": ">", "unit": "%",
              "levels": [{"level": "P1", "threshold": 5, "for_seconds": 120}], **values}  # fmt: skip
    return Rule.objects.create(**values)


def alert_event(**values: Any) -> AlertEvent:
    """An event of project "default" that fires since NOW; or as `phase` says."""
    number = next(_numbers)
    if "project" not in values:
        values["project"] = project("default")
    at = values.get("starts_at", NOW)
    values = {
        "fingerprint": f"{number:064x}", "starts_at": at, "rule_key": "error_rate", "rule_name": "Error rate",
        "endpoint_id": "ep-1", "level": "P1", "value": 7.5, "threshold": 5.0, "comparator": ">", "phase": "firing",
        "last_at": at, "expires_at": at + timedelta(minutes=4), **values,
    }  # fmt: skip
    if values["phase"] == "resolved":
        values.setdefault("ends_at", at + timedelta(minutes=5))
    values.setdefault("labels", {"alertname": "error_rate", "ark_endpoint": values["endpoint_id"],
                                 "level": values["level"], "rule_id": "1"})  # fmt: skip
    return AlertEvent.objects.create(**values)


def silence(**values: Any) -> Silence:
    """A silence of project "default" over endpoint ep-1, for an hour from NOW."""
    values["project"] = values.get("project") or project("default")
    return Silence.objects.create(**{
        "matchers": {"ark_endpoint": "ep-1"}, "reason": "maintenance", "starts_at": NOW,
        "ends_at": NOW + timedelta(hours=1), "created_by_name": "li.wei", "created_at": NOW, **values,
    })  # fmt: skip
