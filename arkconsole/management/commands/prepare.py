"""`manage.py prepare`: everything the database needs before the first process serves from it."""

from __future__ import annotations

from io import StringIO
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError


class Command(BaseCommand):
    help = "Migrate; make the cache table, the built-in policies, the first administrator. Safe to repeat."

    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            call_command("migrate", interactive=False)
        except OperationalError as error:
            raise CommandError(f"The database of DATABASE_URL does not answer: {str(error).splitlines()[0]}") from None
        call_command("bootstrap")
        password = StringIO()
        call_command("ensure_admin", stdout=password)
        if (made := password.getvalue().strip()) and made != "created":
            self.stdout.write(f"Administrator: admin, password: {made} (shown this once)")
