"""Asking a worker to do now what a tick does some seconds later. Nothing depends on it."""

from __future__ import annotations

import logging

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

log = logging.getLogger(__name__)


def nudge(task: str) -> None:
    """Put the task of this name into its queue once this transaction is through, or say quietly that there is none."""
    transaction.on_commit(lambda: _send(task))


def _send(task: str) -> None:
    try:
        current_app.send_task(task, expires=30)
    except OperationalError as error:
        log.debug("no nudge of %s: %s", task, error)
