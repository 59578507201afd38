"""Whether the chain from a rule to a person is whole: Prometheus speaks, Alertmanager tells, both without a gap.

A rule that always fires goes all the way; what is heard of it is kept as pulses. `judge` is pure.
"""

from __future__ import annotations

import logging
import smtplib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from django.conf import settings
from django.core.mail import send_mail
from django.db.models import Count, Min, Q
from django.utils.translation import gettext as _
from django.utils.translation import override

from alerts import alertmanager, events, installation
from alerts.models import Pulse, RuleGroup
from iam.models import User
from monitoring.installation import Presence

log = logging.getLogger(__name__)

PATIENCE = timedelta(minutes=4)
"""Prometheus speaks every minute, Alertmanager every thirty seconds: four silent minutes are no accident."""
CONFIG_PATIENCE = timedelta(minutes=2)
TELL_AGAIN = timedelta(hours=24)
TRY_AGAIN = timedelta(minutes=1)


class Break(StrEnum):
    """Where the chain is broken, the nearest to the rules first."""

    NONE = ""
    PROMETHEUS = "prometheus"
    WATCHDOG = "watchdog"
    ALERTMANAGER = "alertmanager"
    NO_ALERTMANAGER = "no_alertmanager"
    CONFIG = "config"


@dataclass(frozen=True, slots=True)
class Chain:
    """What is wrong, and since when; `detail` is what a program said.

    `is_too_early`: nothing is known to be wrong, but Alertmanager is still on its way.
    """

    where: Break = Break.NONE
    since: datetime | None = None
    detail: str = ""
    is_too_early: bool = False

    @property
    def is_broken(self) -> bool:
        return self.where != Break.NONE

    def sentence(self) -> str:
        """For the top of every page; "" while all is well."""
        match self.where:
            case Break.PROMETHEUS:
                return _(
                    "The alert chain is broken: Prometheus no longer reports alerts. Nobody is told of anything new."
                )
            case Break.WATCHDOG:
                return _(
                    "The alert chain is broken: Prometheus reports, but the rule that always fires does not. "
                    "Rules may not be evaluated."
                )
            case Break.ALERTMANAGER:
                return _(
                    "The alert chain is broken: Alertmanager no longer tells this console of alerts. "
                    "Events are recorded, but nobody is told."
                )
            case Break.NO_ALERTMANAGER:
                # Asked now, in this reader's language: the chain is remembered for all readers.
                reason = installation.look().reason
                return (_("The alert chain is broken. %(reason)s") % {"reason": reason}).strip()
            case Break.CONFIG:
                return _(
                    "Alertmanager refuses its configuration (%(detail)s). Changes of policies are not in force."
                ) % {"detail": self.detail}
        return ""


@dataclass(frozen=True, slots=True)
class Heard:
    """One pulse as it is judged."""

    at: datetime
    since: datetime
    text: str = ""


def judge(
    pulses: Mapping[str, Heard],
    *,
    is_wanted_since: datetime | None,
    has_policy: bool,
    has_alertmanager: bool,
    coming_since: datetime | None = None,
    now: datetime,
) -> Chain:
    """What is wrong. Nothing is before anybody has made a rule (`is_wanted_since`), nor right after.

    Without an Alertmanager something is wrong only where somebody expects to be told (`has_policy`). `coming_since` is
    when it was last noted to be got, started, or up.
    """
    if is_wanted_since is None or now - is_wanted_since < PATIENCE:
        return Chain()

    def silent_since(name: str) -> datetime | None:
        pulse = pulses.get(name)
        if pulse is None:
            return is_wanted_since
        # A pulse that lies ahead was before the clock was set back: nothing is known of now.
        return pulse.at if abs(now - pulse.at) > PATIENCE else None

    for name, where in ((events.POSTED, Break.PROMETHEUS), (events.WATCHED, Break.WATCHDOG)):
        if since := silent_since(name):
            return Chain(where, since)
    since = silent_since(events.TOLD)
    if has_alertmanager and since:
        return Chain(Break.ALERTMANAGER, since)
    if has_policy and since:
        is_coming = coming_since is not None and abs(now - coming_since) < PATIENCE
        return Chain(is_too_early=True) if is_coming else Chain(Break.NO_ALERTMANAGER, since)
    config = pulses.get(alertmanager.CONFIGURED)
    if has_alertmanager and config is not None and config.text and now - config.since > CONFIG_PATIENCE:
        return Chain(Break.CONFIG, config.since, config.text)
    return Chain()


def look(*, now: datetime) -> Chain:
    """What is wrong now; one small query, or two."""
    wanted = RuleGroup.objects.filter(deleted_at__isnull=True).aggregate(
        since=Min("created_at"), with_policy=Count("pk", filter=Q(policy__isnull=False))
    )
    if wanted["since"] is None:
        return Chain()
    pulses = {pulse.name: Heard(pulse.at, pulse.since, pulse.text) for pulse in Pulse.objects.all()}
    return judge(
        pulses,
        is_wanted_since=wanted["since"],
        has_policy=wanted["with_policy"] > 0,
        has_alertmanager=bool(installation.url()),
        coming_since=_coming_since(),
        now=now,
    )


def _coming_since() -> datetime | None:
    """When `up` last noted that Alertmanager is on its way or there; None where it is not, or not ours."""
    found = installation.look()
    if found.is_external or found.state == Presence.OFF:
        return None
    try:
        noted = Path(settings.DATA_DIR, installation.NOTE).stat().st_mtime
    except OSError:
        return None
    return datetime.fromtimestamp(noted, tz=UTC)


_UNTOLD = {Break.ALERTMANAGER, Break.NO_ALERTMANAGER}
"""To those who wait for it the same: one that was not there and has just been started has not told of anything yet."""
TOLD_ADMINS = "chain.admins"
"""A pulse: `text` is the break that the admins were told of; `told_at` when; `at` when that was last tried."""


def tell_admins(*, now: datetime) -> bool:
    """Mail the administrators once when the chain breaks, once a day while it stays so, and when it is whole again.

    Whoever is first to write it down sends it, so that two workers send one mail; what the mail server did not take is
    written back, and tried again a minute later. True when they were told.
    """
    to = list(User.objects.filter(is_superuser=True, is_active=True).exclude(email="").values_list("email", flat=True))
    if not to or not settings.EMAIL_URL:
        return False
    chain = look(now=now)
    pulse, is_new = Pulse.objects.get_or_create(name=TOLD_ADMINS, defaults={"at": now, "since": now})
    # What was broken is not whole again because a new start tries again to get Alertmanager.
    is_news = pulse.text != chain.where and not chain.is_too_early and not {pulse.text, chain.where} <= _UNTOLD
    is_again = chain.is_broken and pulse.told_at is not None and now - pulse.told_at > TELL_AGAIN
    has_just_failed = not is_new and pulse.at != pulse.told_at and abs(now - pulse.at) < TRY_AGAIN
    if has_just_failed or not (is_news or is_again):
        return False
    claimed = Pulse.objects.filter(pk=TOLD_ADMINS, text=pulse.text, told_at=pulse.told_at).update(
        text=chain.where, told_at=now, at=now
    )
    if not claimed:
        return False
    try:
        _mail(chain, to)
    except (OSError, smtplib.SMTPException) as error:
        log.warning("the administrators could not be mailed of the alert chain: %s", error)
        Pulse.objects.filter(pk=TOLD_ADMINS, text=chain.where, told_at=now).update(
            text=pulse.text, told_at=pulse.told_at
        )
        return False
    return True


def _mail(chain: Chain, to: list[str]) -> None:
    with override(settings.LANGUAGE_CODE):
        subject = _("The alert chain is broken") if chain.is_broken else _("The alert chain is whole again")
        text = chain.sentence() or _("Alerts are recorded and told again.")
        send_mail(f"[ArkConsole] {subject}", f"{text}\n\n{settings.CONSOLE_URL}/alerts/\n", None, to)
