"""The chain that watches itself: what is said of a break, to whom, and how often."""

from __future__ import annotations

import smtplib
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.utils import translation

from alerts import chain, events
from alerts.chain import Break, Heard
from alerts.models import Pulse
from arkconsole import health
from tests import builders
from tests.builders import NOW

MINUTE = timedelta(minutes=1)
ALL = (events.POSTED, events.WATCHED, events.TOLD)


def judged(
    *, has_alertmanager: bool = True, wanted: float | None = -600, config: str = "", **ages: float | None
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
    return chain.judge(heard, is_wanted_since=since, has_alertmanager=has_alertmanager, now=NOW).where


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({}, Break.NONE),
        ({"posted": 5}, Break.PROMETHEUS),
        ({"posted": None, "watched": None, "told": None}, Break.PROMETHEUS),
        ({"watched": 5}, Break.WATCHDOG),
        ({"told": 5}, Break.ALERTMANAGER),
        ({"told": None}, Break.ALERTMANAGER),
        ({"told": None, "has_alertmanager": False}, Break.NONE),
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
