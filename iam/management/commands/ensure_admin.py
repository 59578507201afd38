"""`manage.py ensure_admin`: the first administrator, so that a fresh console can be entered."""

from __future__ import annotations

import secrets
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

import audit.services
from iam import services
from iam.actors import SYSTEM
from iam.models import User


class Command(BaseCommand):
    help = (
        "Make superuser `admin` when there is no superuser yet. Prints `created` when the password is ADMIN_PASSWORD, else "
        "the password it made, alone; prints nothing when somebody can sign in already. --reset sets a new password."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reset", action="store_true", help="give `admin` a new password (and make it if missing)")

    def handle(self, *args: Any, **options: Any) -> None:
        services.sync_builtin_policies()
        if User.objects.filter(is_superuser=True, is_active=True).exists() and not options["reset"]:
            return
        now = timezone.now()
        password = settings.ADMIN_PASSWORD or secrets.token_urlsafe(12)
        with audit.services.attempt(
            by=SYSTEM,
            action="iam:EnsureAdministrator",
            project_id=audit.services.GLOBAL,
            resource_name="admin",
            now=now,
        ) as noted:
            admin, is_new = User.objects.get_or_create(username="admin")
            admin.is_staff = admin.is_superuser = admin.is_active = True
            admin.set_password(password)
            admin.save()
            noted.resource = f"trn:iam::arkconsole:user/{admin.pk}"
            noted.changed(password=("" if is_new else "set", "set anew"))
        self.stdout.write("created" if settings.ADMIN_PASSWORD and not options["reset"] else password)
