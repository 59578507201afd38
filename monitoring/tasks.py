"""Celery's entry points of monitoring: a tick claims the openings that are due, each is looked at where waiting hurts nobody."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from monitoring import installation, opening, prometheus, services


@shared_task(name="monitoring.openings")
def openings() -> None:
    """Fan out the openings that are to be looked at (every 2 s)."""
    for project_id in services.claim_due(now=timezone.now()):
        advance_opening.delay(project_id)


@shared_task(name="monitoring.advance_opening", expires=30)
def advance_opening(project_id: str) -> None:
    """Look at one project's opening."""
    here = installation.look()
    services.advance(
        project_id=project_id,
        look=lambda asked_at: opening.look(ask=prometheus.instant, installation=here, asked_at=asked_at),
        installation=here,
        now=timezone.now,
    )
