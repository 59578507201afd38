"""Uncounted events in the administration."""

from __future__ import annotations

import pytest
from django.test import Client

from metering.models import DeadEvent
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db
LIST = "/admin/metering/deadevent/"


def dead_event() -> DeadEvent:
    return DeadEvent.objects.create(
        generation="g1",
        entry_id="5-1",
        at=NOW,
        reason="unreadable",
        detail="no JSON",
        data=b"\xff<script>" + b"x" * 9_000,
    )


def test_a_superuser_reads_what_was_not_counted_and_changes_nothing(client: Client) -> None:
    event = dead_event()
    client.force_login(builders.user(is_superuser=True, is_staff=True))

    page = client.get(f"{LIST}{event.pk}/change/").content.decode()

    assert "\\xff&lt;script&gt;x" in page
    assert len(page) < 60_000
    assert 'name="_save"' not in page
    assert client.post(f"{LIST}{event.pk}/delete/", {"post": "yes"}).status_code == 403


def test_it_is_listed_only_when_there_is_something(client: Client) -> None:
    client.force_login(builders.user(is_superuser=True, is_staff=True))

    assert LIST not in client.get("/admin/").content.decode()
    dead_event()
    assert LIST in client.get("/admin/").content.decode()


def test_staff_without_all_projects_see_none(client: Client) -> None:
    dead_event()
    client.force_login(builders.member(is_staff=True))

    assert LIST not in client.get("/admin/").content.decode()
    assert client.get(LIST).status_code == 403
