"""What people do with monitoring, open and close it for a project; and what the worker finds on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings

from audit.services import Attempt, attempt
from iam.actors import Actor
from iam.models import Project
from monitoring import opening
from monitoring.installation import Installation
from monitoring.models import LOOK_EVERY, LOOK_LASTS, Subscription
from monitoring.opening import Found

GET = "ark:GetMonitoring"
OPEN = "ark:OpenMonitoring"
CLOSE = "ark:CloseMonitoring"

CLAIMED_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class State:
    """Where a project's monitoring stands: off (no subscription), opening, failed or open."""

    subscription: Subscription | None

    @property
    def is_open(self) -> bool:
        """Whether charts may be asked for."""
        return self.subscription is not None and self.subscription.is_open

    @property
    def is_opening(self) -> bool:
        return self.subscription is not None and self.subscription.is_opening

    @property
    def has_failed(self) -> bool:
        return self.subscription is not None and self.subscription.has_failed

    @property
    def is_off(self) -> bool:
        """Whether nobody asked for it."""
        return self.subscription is None


def state_of(project: Project) -> State:
    """One query."""
    return State(Subscription.objects.filter(project=project).first())


def open_monitoring(*, project: Project, by: Actor, now: datetime) -> Subscription:
    """Ask for monitoring of the project; a worker does the rest within seconds.

    Where it is open or opening already nothing changes, so two presses at once make one opening. After a failure it
    begins anew. Raises `NotAllowed`.
    """
    with _attempt(OPEN, project=project, by=by, now=now) as noted:
        fresh = {
            "state": Subscription.State.OPENING, "step": Subscription.Step.PROMETHEUS, "trouble": "", "detail": "",
            "opened_by_id": by.id, "opened_by_name": by.name, "asked_at": now, "step_at": now, "look_at": now,
            "opened_at": None,
        }  # fmt: skip
        subscription, is_new = Subscription.objects.get_or_create(project=project, defaults=fresh)
        before: str | None = None
        if not is_new:
            subscription = Subscription.objects.select_for_update().get(pk=subscription.pk)
            before = subscription.state
            if subscription.has_failed:
                for name, value in fresh.items():
                    setattr(subscription, name, value)
                subscription.save(update_fields=list(fresh))
        noted.changed(monitoring=(before, subscription.state))
    return subscription


def close_monitoring(*, project: Project, by: Actor, now: datetime) -> None:
    """Close monitoring of the project, or give up opening it; closing what is closed changes nothing.

    What Prometheus has is kept for as long as it keeps anything, and is there again after the next opening. With the
    last project's closing Prometheus has nothing left to read. Raises `NotAllowed`.
    """
    with _attempt(CLOSE, project=project, by=by, now=now) as noted:
        subscription = Subscription.objects.select_for_update().filter(project=project).first()
        if subscription is not None:
            noted.changed(monitoring=(subscription.state, None), opened_at=(subscription.opened_at, None))
            subscription.delete()


@contextmanager
def _attempt(action: str, *, project: Project, by: Actor, now: datetime) -> Iterator[Attempt]:
    with attempt(
        by=by, action=action, project_id=project.pk, project_name=project.name, resource=project.trn,
        resource_name=project.name, now=now,
    ) as noted:  # fmt: skip
        by.require(action, project)
        yield noted


# --- what the worker does ------------------------------------------------------------------------------------------------


def claim_due(*, now: datetime) -> list[str]:
    """The projects whose opening is to be looked at now; nobody else gets them for `LOOK_LASTS`."""
    due = Subscription.objects.due(now).order_by("look_at").values_list("pk", "look_at")[:CLAIMED_AT_ONCE]
    return [
        pk
        for pk, look_at in list(due)
        if Subscription.objects.due(now).filter(pk=pk, look_at=look_at).update(look_at=now + LOOK_LASTS)
    ]


def advance(
    *,
    project_id: str,
    look: Callable[[datetime], Found],
    installation: Installation,
    now: Callable[[], datetime],
) -> None:
    """Look once at a project's opening (`look` is given the time of the press) and write down what was found.

    May run twice, late, or not to its end. A press or a closing meanwhile wins.
    """
    subscription = Subscription.objects.filter(pk=project_id, state=Subscription.State.OPENING).first()
    if subscription is None:
        return
    found = look(subscription.asked_at)
    at = now()
    verdict = opening.judge(
        asked_at=subscription.asked_at, step=subscription.step, step_at=subscription.step_at, found=found, now=at,
        scrape_seconds=settings.SCRAPE_SECONDS, is_external=installation.is_external,
    )  # fmt: skip
    values: dict[str, Any] = {
        "state": verdict.state, "step": verdict.step, "trouble": verdict.trouble, "detail": verdict.detail,
        "step_at": verdict.step_at, "look_at": at + LOOK_EVERY,
    }  # fmt: skip
    if verdict.state == Subscription.State.OPEN:
        values["opened_at"] = at
    Subscription.objects.filter(pk=project_id, state=Subscription.State.OPENING, asked_at=subscription.asked_at).update(
        **values
    )
