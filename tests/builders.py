"""One builder per model: a valid row in one line, each value that matters to the test named there.

Builders write rows directly; what a service promises is tested through the service.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from catalog.models import Deployment, FoundationModel, ModelServer, ModelVersion, PriceTier
from iam.actors import Actor
from iam.models import Attachment, Policy, Project, User

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
_numbers = itertools.count(1)


# --- iam -------------------------------------------------------------------------------------------------------------


def user(**values: Any) -> User:
    """A person without any permission; password "password"."""
    values.setdefault("username", f"user{next(_numbers)}")
    return User.objects.create_user(password=values.pop("password", "password"), **values)


def superuser(**values: Any) -> User:
    return user(is_superuser=True, is_staff=True, **values)


def actor(person: User) -> Actor:
    return Actor(id=str(person.pk), name=person.username, user=person, source_ip="10.9.8.7", request_id="r-1")


def project(slug: str = "default", **values: Any) -> Project:
    """The project with this id, made when it is not there."""
    return Project.objects.get_or_create(pk=slug, defaults={"name": slug, **values})[0]


def allow(person: User, *actions: str, on: Project | None = None, effect: str = "Allow") -> Policy:
    """Give `person` a custom policy of `actions`, in one project or (on=None) in all."""
    policy = Policy.objects.create(
        name=f"policy{next(_numbers)}",
        statements=[{"effect": effect, "actions": list(actions), "resources": ["*"]}],
    )
    Attachment.objects.create(policy=policy, user=person, project=on)
    # The backend keeps what it read on the user object for the length of a request.
    vars(person).pop("_held_policies", None)
    return policy


# --- catalog ---------------------------------------------------------------------------------------------------------


def model_server(**values: Any) -> ModelServer:
    """A server that is up; its address leads nowhere (port 9, discard)."""
    number = next(_numbers)
    defaults = {
        "name": f"server{number}",
        "base_url": "http://127.0.0.1:9/v1",
        "state": ModelServer.State.UP,
        "next_probe_at": NOW,
    }
    return ModelServer.objects.create(**defaults | values)


def foundation_model(**values: Any) -> FoundationModel:
    number = next(_numbers)
    return FoundationModel.objects.create(**{"name": f"model-{number}", "display_name": f"Model {number}"} | values)


def model_version(**values: Any) -> ModelVersion:
    """A version, without price or deployment."""
    if "model" not in values:
        values["model"] = foundation_model()
    return ModelVersion.objects.create(**{"version": "251001"} | values)


def price_tier(version: ModelVersion, **values: Any) -> PriceTier:
    """0.8 / 0.16 / 2 CNY per million tokens from the first token on, valid long since."""
    defaults = {
        "input_price": Decimal("0.8"),
        "cached_price": Decimal("0.16"),
        "output_price": Decimal(2),
        "valid_from": datetime(2026, 1, 1, tzinfo=UTC),
    }
    return PriceTier.objects.create(version=version, **defaults | values)


def deployment(version: ModelVersion, server: ModelServer | None = None, **values: Any) -> Deployment:
    """`version` on `server`, or on a server of its own that is up."""
    values.setdefault("upstream_model", version.model.name)
    return Deployment.objects.create(version=version, server=server or model_server(), **values)


def working_version(**values: Any) -> ModelVersion:
    """A version with a price, on a server that is up."""
    version = model_version(**values)
    price_tier(version)
    deployment(version)
    return version
