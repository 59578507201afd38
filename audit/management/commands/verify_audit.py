"""`manage.py verify_audit`: walk every chain; name the first broken link of each and exit with 1 when there is one."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit import services


class Command(BaseCommand):
    help = "Check the audit record's hash chains, of all projects or of one."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", help="only this project's chain")

    def handle(self, *args: Any, **options: Any) -> None:
        projects = [options["project"]] if options["project"] else services.chains()
        broken = 0
        for project_id in projects:
            link = services.verify(project_id=project_id)
            if link is None:
                self.stdout.write(f"{project_id}: holds")
            else:
                broken += 1
                self.stdout.write(f"{project_id}: event {link.sequence} {link.why}")
        if broken:
            raise CommandError(f"{broken} of {len(projects)} chains are broken.", returncode=1)
