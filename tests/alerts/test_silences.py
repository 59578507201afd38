"""Silences: when they hold, what they cover, and who may make them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.utils import translation

from alerts import actions, silences
from alerts.models import Silence
from alerts.silences import Window
from audit.models import Event
from common.errors import DomainError, NotAllowed
from tests import builders
from tests.builders import NOW

HOUR = timedelta(hours=1)
# NOW is a Tuesday, 18:00:49 in Shanghai.
NIGHTS = {"days": [0, 1, 2, 3, 4], "from": "22:00", "to": "06:00", "zone": "Asia/Shanghai"}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def silence(starts: str = "2026-04-20 00:00", ends: str = "2026-05-20 00:00", **values: Any) -> Silence:
    return Silence(**{
        "project_id": "default", "matchers": {"ark_endpoint": "ep-1"}, "starts_at": utc(starts), "ends_at": utc(ends),
        **values,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("values", "now", "window"),
    [
        ({}, "2026-04-21 10:00", ("2026-04-20 00:00", "2026-05-20 00:00")),
        ({}, "2026-05-20 00:00", None),
        ({"ended_at": NOW}, "2026-04-21 10:00", None),
        # The night begins on its own day, and goes into the next one.
        ({"weekly": NIGHTS}, "2026-04-21 10:00", ("2026-04-21 14:00", "2026-04-21 22:00")),
        ({"weekly": NIGHTS}, "2026-04-21 14:00", ("2026-04-21 14:00", "2026-04-21 22:00")),
        ({"weekly": NIGHTS}, "2026-04-21 21:59", ("2026-04-21 14:00", "2026-04-21 22:00")),
        ({"weekly": NIGHTS}, "2026-04-21 22:00", ("2026-04-22 14:00", "2026-04-22 22:00")),
        # Friday's night ends on Saturday; the next one is Monday's.
        ({"weekly": NIGHTS}, "2026-04-24 21:00", ("2026-04-24 14:00", "2026-04-24 22:00")),
        ({"weekly": NIGHTS}, "2026-04-24 22:00", ("2026-04-27 14:00", "2026-04-27 22:00")),
        # Cut at both ends.
        ({"weekly": NIGHTS, "ends": "2026-04-21 16:00"}, "2026-04-21 15:00", ("2026-04-21 14:00", "2026-04-21 16:00")),
        ({"weekly": NIGHTS, "ends": "2026-04-21 13:00"}, "2026-04-21 10:00", None),
        # From an hour to the same hour is a whole day.
        ({"weekly": {**NIGHTS, "days": [6], "from": "00:00", "to": "00:00"}}, "2026-04-21 10:00",
         ("2026-04-25 16:00", "2026-04-26 16:00")),
        # The hours of people: on the last Sunday of March clocks go forward in Berlin.
        ({"weekly": {"days": [5, 6], "from": "22:00", "to": "06:00", "zone": "Europe/Berlin"}, "starts": "2026-03-01 00:00"},
         "2026-03-28 12:00", ("2026-03-28 21:00", "2026-03-29 04:00")),
    ],
)  # fmt: skip
def test_when_it_holds(values: dict[str, Any], now: str, window: tuple[str, str] | None) -> None:
    expected = Window(utc(window[0]), utc(window[1])) if window else None

    assert silences.window(silence(**values), now=utc(now)) == expected


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("matchers", "covers"),
    [
        ({"ark_endpoint": "ep-1"}, True),
        ({"ark_endpoint": "ep-1", "level": "P1"}, True),
        ({"ark_endpoint": "ep-1", "level": "P0"}, False),
        ({"ark_model": "demo"}, False),
    ],
)
def test_what_it_covers(matchers: dict[str, str], covers: bool) -> None:
    event = builders.alert_event()
    others = builders.alert_event(project=builders.project("others"))

    assert silences.covers(silence(matchers=matchers), event) is covers
    assert not silences.covers(silence(matchers=matchers), others)


def create(**values: Any) -> Silence:
    values = {
        "project": builders.project("default"), "matchers": {"ark_endpoint": "ep-1"}, "reason": " new disks ",
        "starts_at": NOW, "ends_at": NOW + HOUR, "by": builders.actor(), "now": NOW, **values,
    }  # fmt: skip
    return silences.create(**values)


@pytest.mark.django_db
def test_a_silence_is_made_and_ended_and_both_are_in_the_record() -> None:
    made = create(weekly={"days": ["4", 1, 1], "from": "22:00", "to": "06:00:00", "zone": "Asia/Shanghai"},
                  ends_at=NOW + 48 * HOUR)  # fmt: skip
    assert (made.reason, made.weekly["days"], made.weekly["to"]) == ("new disks", [1, 4], "06:00")
    assert silences.active(now=NOW + 5 * HOUR) == [made]
    assert silences.active(now=NOW + HOUR) == []

    silences.end(silence=made, by=builders.actor(), now=NOW + 5 * HOUR)
    silences.end(silence=made, by=builders.actor(), now=NOW + 6 * HOUR)

    assert made.ended_at == NOW + 5 * HOUR
    assert silences.active(now=NOW + 5 * HOUR) == []
    assert list(Event.objects.order_by("sequence").values_list("action", flat=True)) == [
        actions.CREATE_SILENCE, actions.DELETE_SILENCE, actions.DELETE_SILENCE,
    ]  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize("weekly", [None, {**NIGHTS, "zone": "Pacific/Honolulu"}])
def test_it_begins_now_at_the_earliest(weekly: dict[str, Any] | None) -> None:
    made = create(starts_at=datetime(1, 1, 1, tzinfo=ZoneInfo("Asia/Shanghai")), ends_at=NOW + 48 * HOUR, weekly=weekly)

    made.refresh_from_db()
    assert made.starts_at == NOW


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"matchers": {}}, "matchers"),
        ({"matchers": {"level": ""}}, "matchers"),
        ({"matchers": {"project": "others"}}, "matchers"),
        ({"matchers": {"a-b": "c"}}, "matchers"),
        ({"matchers": {"level": "x" * 300}}, "matchers"),
        ({"reason": " "}, "reason"),
        ({"reason": "x" * 256}, "reason"),
        ({"ends_at": NOW}, "ends_at"),
        ({"starts_at": NOW - 3 * HOUR, "ends_at": NOW - HOUR}, "ends_at"),
        ({"ends_at": NOW + 9000 * HOUR}, "ends_at"),
        ({"starts_at": NOW + 9000 * HOUR, "ends_at": NOW + 9001 * HOUR}, "starts_at"),
        ({"weekly": {"days": [7], "from": "1:00", "to": "02:00", "zone": "UTC"}}, "weekly"),
        ({"weekly": {"days": [], "from": "01:00", "to": "02:00", "zone": "UTC"}}, "weekly"),
        ({"weekly": {"days": [1], "from": "01:00", "to": "02:00", "zone": "../etc/passwd"}}, "weekly"),
        ({"weekly": {"days": [1]}}, "weekly"),
        ({"weekly": {"days": [5], "from": "01:00", "to": "02:00", "zone": "UTC"}}, "weekly"),
    ],
)
def test_what_cannot_be_a_silence(values: dict[str, Any], field: str) -> None:
    with translation.override("en"), pytest.raises(DomainError) as refused:
        create(**values)

    assert refused.value.field == field
    assert not Silence.objects.exists()


@pytest.mark.django_db
def test_who_may_not_make_one_is_refused() -> None:
    reader = builders.member(None, policy_name="VMPReadOnlyAccess")

    with pytest.raises(NotAllowed):
        create(by=builders.actor(reader))
    with pytest.raises(NotAllowed):
        silences.end(silence=builders.silence(), by=builders.actor(reader), now=NOW)
