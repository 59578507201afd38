"""`manage.py check_ticks`: exit code 1 while background work is late; a health check for containers."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from arkconsole import ticks


class Command(BaseCommand):
    help = "Fail when a tick has not run for its interval and half a minute."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        if ticks.are_late(timezone.now()):
            raise CommandError("ticks are late")
