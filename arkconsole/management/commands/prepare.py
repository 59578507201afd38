"""`manage.py prepare`: everything the database and Prometheus need before the first process serves."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError

from arkconsole.data_dir import DataDir
from arkconsole.supervisor import UpError


class Command(BaseCommand):
    help = (
        "Migrate; make the cache table, the built-in policies, the first administrator; "
        "write the configuration of Prometheus. Safe to repeat."
    )

    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            call_command("migrate", interactive=False)
        except OperationalError as error:
            raise CommandError(f"The database of DATABASE_URL does not answer: {str(error).splitlines()[0]}") from None
        call_command("bootstrap")
        try:
            data = DataDir(Path(settings.DATA_DIR))
            data.ensure_secrets()
            data.configure_prometheus(console_url=settings.CONSOLE_INTERNAL_URL, scrape_seconds=settings.SCRAPE_SECONDS)
        except UpError as error:
            self.stderr.write(f"Prometheus is not configured: {error}")
        password = StringIO()
        call_command("ensure_admin", stdout=password)
        if (made := password.getvalue().strip()) and made != "created":
            self.stdout.write(f"Administrator: admin, password: {made} (shown this once)")
