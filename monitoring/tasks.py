"""Celery's entry points of monitoring: a tick claims the openings that are due, each is looked at where waiting hurts nobody."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from monitoring import installation, opening, prometheus, services
from monitoring.models import Subscription


@shared_task(name="monitoring.openings")
def openings() -> None:
    """Have the openings looked at that are due (every 2 s)."""
    if project_ids := services.claim_due(now=timezone.now()):
        advance_openings.delay(project_ids)


@shared_task(name="monitoring.advance_openings", expires=30)
def advance_openings(project_ids: list[str]) -> None:
    """Look at projects' openings. Prometheus is asked once for all of them: a slow one costs one wait."""
    here = installation.look()
    ask = opening.once(prometheus.instant)
    for project_id in project_ids:
        services.advance(
            project_id=project_id,
            look=lambda asked_at: opening.look(ask=ask, installation=here, asked_at=asked_at),
            installation=here,
            now=timezone.now,
        )


@shared_task(name="monitoring.watch")
def watch() -> None:
    """Note that Prometheus answers, while anybody has charts of it (every 15 s)."""
    if installation.look().is_on and Subscription.objects.filter(state=Subscription.State.OPEN).exists():
        prometheus.watch()
