"""The chain that watches itself: what is said of a break, to whom, and how often."""

from __future__ import annotations

import os
import smtplib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone, translation

from alerts import chain, event_presentation, events, installation
from alerts.chain import Break, Heard
from alerts.models import Pulse
from arkconsole import health
from monitoring import installation as monitoring
from monitoring.installation import Installation, Presence, WhyOff
from tests import builders
from tests.builders import NOW

MINUTE = timedelta(minutes=1)
ALL = (events.POSTED, events.WATCHED, events.TOLD)


def judged(
    *,
    has_alertmanager: bool = True,
    has_policy: bool = True,
    coming: float | None = None,
    wanted: float | None = -600,
    config: str = "",
    **ages: float | None,
) -> Break:
    """`ages` in minutes: posted, watched, told; all fresh when not named, never heard when None."""
    named = {"posted": events.POSTED, "watched": events.WATCHED, "told": events.TOLD}
    heard = {}
    for name, pulse in named.items():
        age = ages.get(name, 0.5)
        if age is not None:
            heard[pulse] = Heard(NOW - age * MINUTE, NOW - 600 * MINUTE)
    if config:
        heard["alertmanager.config"] = Heard(NOW, NOW - 5 * MINUTE, config)
    since = None if wanted is None else NOW + wanted * MINUTE
    return chain.judge(
        heard,
        is_wanted_since=since,
        has_policy=has_policy,
        has_alertmanager=has_alertmanager,
        coming_since=None if coming is None else NOW + coming * MINUTE,
        now=NOW,
    ).where


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({}, Break.NONE),
        ({"posted": 5}, Break.PROMETHEUS),
        ({"posted": None, "watched": None, "told": None}, Break.PROMETHEUS),
        ({"watched": 5}, Break.WATCHDOG),
        ({"told": 5}, Break.ALERTMANAGER),
        ({"told": None}, Break.ALERTMANAGER),
        # None at all: wrong where somebody expects to be told.
        ({"told": None, "has_alertmanager": False}, Break.NO_ALERTMANAGER),
        ({"told": None, "has_alertmanager": False, "has_policy": False}, Break.NONE),
        ({"told": None, "has_alertmanager": False, "posted": None}, Break.PROMETHEUS),
        ({"told": None, "has_alertmanager": False, "wanted": -3}, Break.NONE),
        # It was there a moment ago, or somebody's own tells us without being named here.
        ({"told": 3, "has_alertmanager": False}, Break.NONE),
        ({"told": None, "has_alertmanager": False, "coming": -3}, Break.NONE),
        ({"told": None, "has_alertmanager": False, "coming": -5}, Break.NO_ALERTMANAGER),
        ({"told": 60, "coming": -3}, Break.ALERTMANAGER),
        # Rules without a policy do not hide that the one that is there is silent.
        ({"told": 5, "has_policy": False}, Break.ALERTMANAGER),
        ({"config": "bad matcher"}, Break.CONFIG),
        ({"posted": 3.9, "watched": 3.9, "told": 3.9}, Break.NONE),
        # The clock was set back, or is about to be.
        ({"posted": -60}, Break.PROMETHEUS),
        # Before anybody wanted to be told, and right after.
        ({"wanted": None, "posted": None}, Break.NONE),
        ({"wanted": -1, "posted": None}, Break.NONE),
    ],
)
def test_where_the_chain_is_broken(values: dict[str, Any], where: Break) -> None:
    assert judged(**values) == where


def test_every_break_has_a_sentence() -> None:
    with translation.override("en"):
        for where in Break:
            assert bool(chain.Chain(where, NOW, "bad matcher").sentence()) is (where != Break.NONE)


def hear(at: datetime, *names: str) -> None:
    for name in names:
        events.beat(name, now=at)


@pytest.mark.django_db
def test_the_admins_are_mailed_once_when_it_breaks_and_once_when_it_is_whole(settings: Any) -> None:
    settings.EMAIL_URL, settings.LANGUAGE_CODE, settings.ALERTMANAGER_URL = (
        "smtp://localhost",
        "en",
        "http://127.0.0.1:1",
    )
    builders.user(is_superuser=True, email="admin@example.com")
    builders.user(is_superuser=True)
    builders.rule_group()
    at = NOW + 60 * MINUTE
    hear(at, *ALL)
    assert not chain.tell_admins(now=at)

    for minute in (5, 6, 7):
        hear(at + minute * MINUTE, events.POSTED, events.WATCHED)
        chain.tell_admins(now=at + minute * MINUTE)
    assert [message.subject for message in mail.outbox] == ["[ArkConsole] The alert chain is broken"]
    assert mail.outbox[0].to == ["admin@example.com"]
    assert "Alertmanager" in mail.outbox[0].body

    hear(at + 8 * MINUTE, *ALL)
    chain.tell_admins(now=at + 8 * MINUTE)
    chain.tell_admins(now=at + 8 * MINUTE)
    assert len(mail.outbox) == 2
    assert "whole again" in mail.outbox[1].subject


def note(folder: Path, found: Installation, *, at: datetime) -> None:
    """As `up` does."""
    path = folder / installation.NOTE
    path.parent.mkdir(exist_ok=True)
    path.write_text(monitoring.note(found), encoding="utf-8")
    os.utime(path, (at.timestamp(), at.timestamp()))


@pytest.mark.django_db
def test_where_there_is_no_alertmanager_everybody_who_expects_to_be_told_learns_why(
    settings: Any, tmp_path: Path
) -> None:
    settings.EMAIL_URL, settings.LANGUAGE_CODE = "smtp://localhost", "en"
    settings.DATA_DIR, settings.ALERTMANAGER_URL = tmp_path, ""
    builders.user(is_superuser=True, email="admin@example.com")
    group = builders.rule_group()
    at = NOW + 60 * MINUTE
    failed = Installation(Presence.OFF, why=WhyOff.DOWNLOAD, detail="no network")
    note(tmp_path, failed, at=at)
    hear(at, events.POSTED, events.WATCHED)
    assert not chain.tell_admins(now=at)

    group.policy = builders.notification_policy()
    group.save()
    at += MINUTE
    assert chain.tell_admins(now=at)
    with translation.override("en"):
        degraded = health.Watch(remember_seconds=0).look(now=at)
        assert "alerts" in degraded.names()
        said = degraded.alerts.sentence()
    assert "Nobody is told of alerts" in said
    assert "no network" in said
    assert said in mail.outbox[0].body

    # The next start tries again: that is no news, until it tells or has failed again.
    at += 10 * MINUTE
    hear(at, events.POSTED, events.WATCHED)
    note(tmp_path, Installation(Presence.GETTING, url="http://127.0.0.1:1"), at=at)
    assert not chain.look(now=at).is_broken
    assert not chain.tell_admins(now=at)
    note(tmp_path, Installation(Presence.ON, url="http://127.0.0.1:1"), at=at + MINUTE)
    assert not chain.tell_admins(now=at + MINUTE)
    hear(at + MINUTE, events.TOLD)
    assert chain.tell_admins(now=at + MINUTE)
    assert "whole again" in mail.outbox[1].subject


@pytest.mark.django_db
def test_an_event_says_that_nobody_is_told_without_an_alertmanager(settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR, settings.ALERTMANAGER_URL = tmp_path, ""
    builders.rule_group(policy=builders.notification_policy())
    hear(timezone.now(), events.POSTED, events.WATCHED)
    with translation.override("en"):
        told = event_presentation.told(builders.alert_event(has_policy=True))
    assert "no Alertmanager is known here" in told.nobody


class Deaf:
    """A mail server that takes nothing until `is_well`."""

    is_well = False

    def __call__(self, *_args: Any, **_values: Any) -> int:
        if not self.is_well:
            raise smtplib.SMTPRecipientsRefused({})
        return 1


@pytest.mark.django_db
def test_what_the_mail_server_did_not_take_is_tried_again_after_a_minute(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.EMAIL_URL = "smtp://localhost"
    builders.user(is_superuser=True, email="admin@example.com")
    builders.rule_group()
    server = Deaf()
    monkeypatch.setattr(chain, "send_mail", server)
    at = NOW + 10 * MINUTE

    assert not chain.tell_admins(now=at)
    pulse = Pulse.objects.get(name=chain.TOLD_ADMINS)
    assert (pulse.text, pulse.told_at) == ("", None)
    server.is_well = True
    assert not chain.tell_admins(now=at + MINUTE / 2)
    assert chain.tell_admins(now=at + MINUTE)
    assert not chain.tell_admins(now=at + 3 * MINUTE)

    # The end too: who was told of the break is told again only of what is new.
    server.is_well = False
    hear(at + 4 * MINUTE, *ALL)
    assert not chain.tell_admins(now=at + 4 * MINUTE)
    assert Pulse.objects.get(name=chain.TOLD_ADMINS).told_at == at + MINUTE
    server.is_well = True
    assert chain.tell_admins(now=at + 5 * MINUTE)


@pytest.mark.django_db
@pytest.mark.parametrize(("url", "address"), [("", "admin@example.com"), ("smtp://localhost", "")])
def test_without_a_mail_server_or_an_address_nobody_was_told(settings: Any, url: str, address: str) -> None:
    settings.EMAIL_URL = url
    admin = builders.user(is_superuser=True, email=address)
    builders.rule_group()
    assert not chain.tell_admins(now=NOW + 10 * MINUTE)

    settings.EMAIL_URL = "smtp://localhost"
    type(admin).objects.update(email="admin@example.com")
    assert chain.tell_admins(now=NOW + 10 * MINUTE + timedelta(seconds=10))
    assert len(mail.outbox) == 1


@pytest.mark.django_db
def test_it_is_said_again_after_a_day(settings: Any) -> None:
    settings.EMAIL_URL = "smtp://localhost"
    builders.user(is_superuser=True, email="admin@example.com")
    builders.rule_group()
    assert chain.tell_admins(now=NOW + 10 * MINUTE)
    assert not chain.tell_admins(now=NOW + timedelta(hours=24))
    assert chain.tell_admins(now=NOW + timedelta(hours=25))
    assert Pulse.objects.get(name=chain.TOLD_ADMINS).text == Break.PROMETHEUS


@pytest.mark.django_db
def test_what_is_away_names_the_chain() -> None:
    builders.rule_group()
    watch = health.Watch(remember_seconds=0)
    degraded = watch.look(now=NOW + 10 * MINUTE)

    assert "alerts" in degraded.names()
    assert degraded.alerts.where == Break.PROMETHEUS
    assert "alerts" not in watch.look(now=NOW).names()
