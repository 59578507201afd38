"""What every room may write: route changes for the gateway's workers, and the heartbeats of ticks."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from django.db import models


class RouteChange(models.Model):
    """One thing that the gateway's workers must read again; written in the transaction of the change itself.

    Ids grow, but PostgreSQL commits them out of order: a reader keeps a trailing window (see `gateway/routes.py`).
    """

    class Kind(models.TextChoices):
        ENDPOINT = "endpoint"
        KEY = "key"
        SERVER = "server"
        VERSION = "version"
        PROJECT = "project"

    id: models.BigAutoField[int, int] = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=16, choices=Kind)
    object_id = models.CharField(max_length=64)
    at = models.DateTimeField(db_index=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["id"]

    def __str__(self) -> str:
        return f"{self.id} {self.kind} {self.object_id}"


class TickHeartbeat(models.Model):
    """When a tick last finished; the console says "ticks late" from it, the supervisor restarts from it.

    One row is of none: `START` says when the product was last prepared for a start, from which on ticks may be expected.
    """

    START: ClassVar[str] = "start"

    name = models.CharField(max_length=64, primary_key=True)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.name} {self.at:%H:%M:%S}"

    @classmethod
    def beat(cls, *, name: str, now: datetime) -> None:
        """Note that tick `name` finished at `now`."""
        cls.objects.update_or_create(name=name, defaults={"at": now})
