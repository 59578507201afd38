"""Compare all alert rules with Prometheus' folder and set it right."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from alerts import sync


class Command(BaseCommand):
    help = "Write the rule files of all groups, remove those of deleted ones, and have Prometheus read them."

    def handle(self, *args: Any, **options: Any) -> None:
        if sync.folder() is None:
            raise CommandError("PROMETHEUS_RULES_DIR names no folder: there is nowhere to write rules to.")
        outcome = sync.sync(now=timezone.now(), everything=True)
        while outcome.is_busy:
            # A worker is at it; what it does is not everything.
            time.sleep(outcome.retry_seconds)
            outcome = sync.sync(now=timezone.now(), everything=True)
        self.stdout.write(f"{outcome.active} in force, {outcome.failed} refused")
        if outcome.is_unchecked:
            self.stderr.write("promtool is missing: rules were checked by our own parser alone.")
        if outcome.waits:
            self.stderr.write(f"Waiting: {outcome.waits}")
