"""`manage.py prepare`: everything the database needs before the first process serves from it."""

from __future__ import annotations

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Migrate, make the cache table, the built-in policies and the first administrator. Safe to repeat."

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", interactive=False)
        call_command("createcachetable")
        call_command("bootstrap")
        call_command("ensure_admin", stdout=self.stdout)
