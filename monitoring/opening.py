"""How a project's monitoring opens: what is seen, and the pure function that judges what it means.

    Prometheus answers  →  it has the list of targets  →  the first figures of gateway and console are there: open

A worker looks every second or two (`monitoring.tasks`), so an opening survives the death of any process. Only queries
are asked of Prometheus, so Thanos, Mimir and VictoriaMetrics do as well. With samples there, however they came, it is
open: another project's opening, or a scrape configuration of the operator's own, has done the work already.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.utils.translation import gettext as _

from common import redis
from monitoring import prometheus, targets
from monitoring.installation import Installation, Presence
from monitoring.models import Subscription
from monitoring.prometheus import Kind, Sample

MAX_DETAIL = 255
PATIENCE_SCRAPES = 4
PATIENCE_SECONDS = 30
GETTING_PATIENCE = timedelta(minutes=10)
"""Prometheus is being downloaded beside the start."""
EXTERNAL_PATIENCE = timedelta(minutes=30)
"""Somebody has to paste the scrape configuration into another server first."""


class Trouble(enum.StrEnum):
    """What a step waits for. `sentence` says it to people; "" where nothing keeps it but time."""

    NONE = ""
    OFF = "off"
    STARTING = "starting"
    GETTING = "getting"
    UNREACHABLE = "unreachable"
    SLOW = "slow"
    UNAUTHORIZED = "unauthorized"
    ANSWER = "answer"
    REDIS_AWAY = "redis_away"
    NO_WORKERS = "no_workers"
    REFUSED = "refused"
    NOT_ASKED = "not_asked"
    GATEWAY_DOWN = "gateway_down"
    CONSOLE_DOWN = "console_down"
    NO_SAMPLE = "no_sample"


_STEP_OF = {
    **dict.fromkeys(
        (Trouble.OFF, Trouble.STARTING, Trouble.GETTING, Trouble.UNREACHABLE, Trouble.SLOW, Trouble.UNAUTHORIZED,
         Trouble.ANSWER), Subscription.Step.PROMETHEUS,
    ),
    **dict.fromkeys((Trouble.REDIS_AWAY, Trouble.NO_WORKERS, Trouble.REFUSED, Trouble.NOT_ASKED), Subscription.Step.TARGETS),
    **dict.fromkeys((Trouble.GATEWAY_DOWN, Trouble.CONSOLE_DOWN, Trouble.NO_SAMPLE), Subscription.Step.SAMPLES),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """What one look saw: nothing that it waits for (`Trouble.NONE`: the samples are there), or the first such thing."""

    trouble: Trouble
    detail: str = ""

    @property
    def step(self) -> Subscription.Step:
        """The step that is not done yet."""
        return _STEP_OF.get(self.trouble, Subscription.Step.SAMPLES)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a subscription should say after a look."""

    state: Subscription.State
    step: Subscription.Step
    trouble: Trouble
    detail: str
    step_at: datetime


def judge(
    *, step: str, step_at: datetime, found: Found, now: datetime, scrape_seconds: int, is_external: bool
) -> Verdict:
    """Pure: where an opening stands, given the step it was at since `step_at` and what a look found."""
    if found.trouble == Trouble.NONE:
        return Verdict(Subscription.State.OPEN, Subscription.Step.SAMPLES, Trouble.NONE, "", now)
    # A clock that was set back must not make the wait longer.
    since = now if found.step != step else min(step_at, now)
    gives_up = found.trouble == Trouble.OFF or now - since > patience(found, scrape_seconds, is_external=is_external)
    return Verdict(
        Subscription.State.FAILED if gives_up else Subscription.State.OPENING,
        found.step,
        found.trouble,
        found.detail,
        since,
    )


def patience(found: Found, scrape_seconds: int, *, is_external: bool) -> timedelta:
    """How long a step may wait for what was found."""
    if found.trouble == Trouble.GETTING:
        return GETTING_PATIENCE
    if is_external and found.step != Subscription.Step.PROMETHEUS:
        return EXTERNAL_PATIENCE
    return timedelta(seconds=PATIENCE_SCRAPES * scrape_seconds + PATIENCE_SECONDS)


# --- looking -------------------------------------------------------------------------------------------------------------


Ask = Callable[[str], list[Sample]]
"""An instant query. Raises `prometheus.Trouble`."""

_TROUBLES = {
    Kind.UNREACHABLE: Trouble.UNREACHABLE,
    Kind.SLOW: Trouble.SLOW,
    Kind.UNAUTHORIZED: Trouble.UNAUTHORIZED,
}


def look(*, ask: Ask, installation: Installation, asked_at: datetime) -> Found:
    """What keeps a project that asked at `asked_at` from being open. Waits at most for three queries."""
    if installation.state != Presence.ON:
        return Found(Trouble(installation.state.value))
    try:
        has_gateway, has_console = (bool(ask(query)) for query in (GATEWAY_SAMPLE, console_sample()))
        if has_gateway and has_console:
            return Found(Trouble.NONE)
        up = {sample.labels.get("job", ""): sample.value for sample in ask(UP)}
    except prometheus.Trouble as error:
        return Found(_TROUBLES.get(error.kind, Trouble.ANSWER), error.detail[:MAX_DETAIL])
    if not up and (unlisted := _unlisted(asked_at)):
        return unlisted
    if not has_gateway:
        return Found(Trouble.GATEWAY_DOWN if up.get("ark-gateway") == 0 else Trouble.NO_SAMPLE)
    return Found(Trouble.CONSOLE_DOWN if up.get("ark-console") == 0 else Trouble.NO_SAMPLE)


GATEWAY_SAMPLE = "count(ark_gateway_worker_info)"
UP = 'max by (job) (up{job=~"ark-gateway|ark-console"})'


def console_sample() -> str:
    """The query that has an answer once this console, rather than another one, has been read."""
    url = settings.CONSOLE_URL.replace("\\", r"\\").replace('"', r"\"")
    return f'count(ark_console_info{{console_url="{url}"}})'


def _unlisted(asked_at: datetime) -> Found | None:
    """Why Prometheus cannot have the list of targets yet; None when it was given the list."""
    try:
        seen, has_workers = targets.sightings(), bool(targets.live_workers())
    except redis.Error as error:
        return Found(Trouble.REDIS_AWAY, str(error)[:MAX_DETAIL])
    if seen.served_at is not None and seen.served_at >= asked_at:
        return None
    if not has_workers:
        return Found(Trouble.NO_WORKERS)
    if seen.refused_at is not None and seen.refused_at >= asked_at:
        return Found(Trouble.REFUSED)
    return Found(Trouble.NOT_ASKED)


# --- what people read ----------------------------------------------------------------------------------------------------


def sentence(trouble: str, *, installation: Installation, has_failed: bool = False) -> str:
    """What an opening waits for, or in the end waited for in vain, and what can be done; "" when nothing is wrong.

    In the reader's language.
    """
    if trouble in (Trouble.OFF, Trouble.STARTING, Trouble.GETTING):
        return installation.reason or (_("Prometheus is there now. Try again.") if has_failed else "")
    say = _IN_VAIN.get(trouble) if has_failed else None
    say = say or _SENTENCES.get(trouble)
    return say() if say else ""


_SENTENCES: dict[str, Callable[[], str]] = {
    Trouble.UNREACHABLE: lambda: _("Prometheus cannot be reached. Is it running, and may this machine connect to it?"),
    Trouble.SLOW: lambda: _("Prometheus does not answer in time."),
    Trouble.UNAUTHORIZED: lambda: _(
        "Prometheus refuses the console. Check PROMETHEUS_USERNAME and PROMETHEUS_PASSWORD, or PROMETHEUS_TOKEN."
    ),
    Trouble.ANSWER: lambda: _(
        "What answers at the address of Prometheus does not answer as Prometheus does. Check PROMETHEUS_URL and its path."
    ),
    Trouble.REDIS_AWAY: lambda: _("Redis does not answer, so it is not known which gateway workers there are."),
    Trouble.NO_WORKERS: lambda: _("No gateway worker says that it lives. Start the gateway."),
    Trouble.REFUSED: lambda: _(
        "Somebody asked for the list with a wrong token. Prometheus needs the METRICS_TOKEN of this console."
    ),
    Trouble.NOT_ASKED: lambda: _("Prometheus has not asked the console for the list yet."),
    Trouble.GATEWAY_DOWN: lambda: _(
        "Prometheus has the list but cannot read the gateway. Can it reach the metrics ports of the workers "
        "(GATEWAY_METRICS_HOST), and does it show METRICS_TOKEN?"
    ),
    Trouble.CONSOLE_DOWN: lambda: _(
        "Prometheus has the list but cannot read the console's /metrics. Does it show METRICS_TOKEN?"
    ),
    Trouble.NO_SAMPLE: lambda: _("Prometheus has the list; the first figures come with its next rounds."),
}

_IN_VAIN: dict[str, Callable[[], str]] = {
    Trouble.NOT_ASKED: lambda: _(
        "Prometheus has not asked the console for the list in time. Does it have the scrape configuration, and can it "
        "reach the console (CONSOLE_INTERNAL_URL, CONSOLE_URL)?"
    ),
    Trouble.NO_SAMPLE: lambda: _(
        "Prometheus has the list, but no figures came in time. Can it reach the metrics ports of the gateway's workers, "
        "does its log name an error, and are its clock and the console's the same?"
    ),
}
