"""Celery's entry point of the data plane."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from gateway import reaper


@shared_task(name="gateway.reap")
def reap() -> None:
    """Settle the calls of gateway workers that died."""
    reaper.reap(timezone.now())
