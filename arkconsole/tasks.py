"""Housekeeping that belongs to no single room."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module

from celery import shared_task
from django.conf import settings
from django.utils import timezone

import catalog.services
import iam.services
from common.models import RouteChange
from endpoints import lifecycle

ROUTE_CHANGE_DAYS = 7
"""Far longer than any gateway worker is behind: one that starts reads all routes anew, whatever changed."""


@shared_task(name="arkconsole.tidy")
def tidy() -> None:
    """Remove what nobody reads any more: old route changes, moves of endpoints and servers, spent keys of the console, sessions."""
    now = timezone.now()
    RouteChange.objects.filter(at__lt=now - timedelta(days=ROUTE_CHANGE_DAYS)).delete()
    lifecycle.forget_events(now=now)
    catalog.services.forget_events(now=now)
    iam.services.forget_internal_keys(now=now)
    import_module(settings.SESSION_ENGINE).SessionStore.clear_expired()
