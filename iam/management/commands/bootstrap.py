"""`manage.py bootstrap`: what every console needs before its first request. Safe to repeat at each start."""

from __future__ import annotations

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.utils import timezone

from iam import services
from iam.actors import SYSTEM
from iam.models import Project


class Command(BaseCommand):
    help = (
        "Make the cache table, the built-in policies, and project `default` when there is no project. Prints nothing."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("createcachetable", verbosity=0)
        services.sync_builtin_policies()
        if not Project.objects.exists():
            services.create_project(project_id="default", name="default", by=SYSTEM, now=timezone.now())
