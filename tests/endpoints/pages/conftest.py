"""Pages are compared in English."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import Client
from django.utils import timezone, translation

from arkconsole import health
from catalog.models import ModelVersion
from endpoints.models import Endpoint
from iam.models import Project, User
from tests import builders
from tests.endpoints.pages.clients import signed_in


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture
def project() -> Project:
    return builders.project("default")


@pytest.fixture
def owner(project: Project) -> User:
    return builders.member(project, username="li.wei")


@pytest.fixture
def client_of_owner(owner: User) -> Client:
    return signed_in(owner)


@pytest.fixture
def reader(project: Project) -> Client:
    return signed_in(builders.member(project, policy_name="ArkReadOnlyAccess", username="chen.fang"))


@pytest.fixture
def stranger() -> Client:
    """A member of another project."""
    return signed_in(builders.member(builders.project("elsewhere"), username="zhou.min"))


@pytest.fixture
def version() -> ModelVersion:
    """A version that a server answers for."""
    made = builders.model_version(
        model=builders.foundation_model(name="doubao-seed", display_name="Doubao Seed"),
        version="251015",
        servers=[builders.model_server()],
        default_rpm=300,
        default_tpm=500_000,
    )
    builders.price_tier(version=made)
    return made


@pytest.fixture
def endpoint(project: Project, owner: User, version: ModelVersion) -> Endpoint:
    """A healthy custom endpoint of the owner."""
    now = timezone.now()
    return builders.endpoint(
        project=project, version=version, name="客服助手", creator=owner, creator_name=owner.username, created_at=now
    )


@pytest.fixture(autouse=True)
def _calm_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is away is asked every few seconds, not for each page; here it is asked once, so that queries can be counted."""
    monkeypatch.setattr(health, "watch", health.Watch(remember_seconds=1e9))
