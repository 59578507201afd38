"""Housekeeping removes what nobody reads any more, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone

from arkconsole import tasks
from common.models import RouteChange
from iam.models import ApiKey
from tests import builders

pytestmark = pytest.mark.django_db


def test_old_route_changes_spent_keys_and_expired_sessions_go() -> None:
    now = timezone.now()
    for days in (1, 6, 8, 400):
        RouteChange.objects.create(kind=RouteChange.Kind.KEY, object_id=str(days), at=now - timedelta(days=days))
    builders.api_key(name="spent", is_internal=True, expires_at=now - timedelta(days=9))
    builders.api_key(name="a person's own, expired", expires_at=now - timedelta(days=9))
    for name, days in (("over", -1), ("lives", 1)):
        Session.objects.create(session_key=name, session_data="", expire_date=now + timedelta(days=days))

    tasks.tidy()

    assert set(RouteChange.objects.values_list("object_id", flat=True)) == {"1", "6"}
    assert [key.name for key in ApiKey.objects.all()] == ["a person's own, expired"]
    assert [session.session_key for session in Session.objects.all()] == ["lives"]
