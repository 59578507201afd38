"""Celery's entry points of the data plane."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from gateway import reaper


@shared_task(name="gateway.reap")
def reap() -> None:
    """Give back what the calls of dead gateway workers had reserved, and tell the ledger of them."""
    reaper.reap(timezone.now())
