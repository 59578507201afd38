"""How a saved change reaches the gateway's workers: a row in the same transaction, and a message that only wakes them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db import transaction

from common import redis
from common.models import RouteChange

WAKE_CHANNEL = "ark:routes"


def announce(*, kind: RouteChange.Kind, object_ids: Iterable[str], now: datetime) -> None:
    """Write one `RouteChange` per object and wake the workers after commit. Redis being away changes nothing."""
    rows = [RouteChange(kind=kind, object_id=object_id, at=now) for object_id in object_ids]
    if not rows:
        return
    RouteChange.objects.bulk_create(rows, batch_size=500)
    transaction.on_commit(lambda: redis.publish_quietly(WAKE_CHANNEL, "1"))
