"""`manage.py prepare`: everything the database, Prometheus and Alertmanager need before the first process serves."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError
from django.utils import timezone

from alerts import alertmanager, installation, sync
from arkconsole.data_dir import DataDir
from arkconsole.supervisor import UpError
from common.models import TickHeartbeat
from monitoring import config


class Command(BaseCommand):
    help = (
        "Migrate; make the cache table, the built-in policies, the first administrator; "
        "write the configuration of Prometheus and the first one of Alertmanager. Safe to repeat."
    )

    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            call_command("migrate", interactive=False)
        except OperationalError as error:
            raise CommandError(f"The database of DATABASE_URL does not answer: {str(error).splitlines()[0]}") from None
        call_command("bootstrap")
        sync.owe_everything()
        try:
            data = DataDir(Path(settings.DATA_DIR))
            data.ensure_secrets()
            data.configure_prometheus(
                console_url=settings.CONSOLE_INTERNAL_URL, scrape_seconds=settings.SCRAPE_SECONDS, alerts=_alerts(),
                is_idle=settings.PROMETHEUS_IS_EXTERNAL,
            )  # fmt: skip
            alertmanager.write_first()
        except (UpError, OSError) as error:
            self.stderr.write(f"Prometheus and Alertmanager are not configured: {error}")
        password = StringIO()
        call_command("ensure_admin", stdout=password)
        # Nobody is told that ticks are late before they could run.
        TickHeartbeat.beat(name=TickHeartbeat.START, now=timezone.now())
        if (made := password.getvalue().strip()) and made != "created":
            self.stdout.write(f"Administrator: admin, password: {made} (shown this once)")


def _alerts() -> config.Alerting | None:
    """What Prometheus is told of alerts; an Alertmanager that is still being fetched counts."""
    if not settings.PROMETHEUS_RULES_DIR:
        return None
    return config.Alerting(
        rules_dir=settings.PROMETHEUS_RULES_DIR,
        token_file=settings.ALERT_HOOK_TOKEN_FILE,
        alertmanager_url=installation.look().url,
        evaluation_seconds=settings.EVALUATION_SECONDS,
    )
