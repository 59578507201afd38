"""Celery's entry points for probes: a tick claims what is due, and each probe runs where waiting hurts nobody."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from catalog import services
from catalog.models import ModelServer


@shared_task(name="catalog.probe_due", expires=2)
def probe_due() -> None:
    """Fan out the probes that are due (every 2 s)."""
    for server_id in services.claim_due(now=timezone.now()):
        probe_server.delay(server_id)


@shared_task(name="catalog.probe_server", expires=30)
def probe_server(server_id: int) -> None:
    """Probe one server and write down what it said."""
    server = ModelServer.objects.filter(pk=server_id, is_enabled=True).first()
    if server is not None:
        outcome = services.probe_outcome(server)
        services.record_probe(server_id=server_id, outcome=outcome, now=timezone.now())
