"""`manage.py create_api_key --project P --name N`: a key for scripts; prints the key alone."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from common.errors import DomainError
from iam import services
from iam.actors import SYSTEM
from iam.models import Project


class Command(BaseCommand):
    help = "Make an API key for a whole project and print it, alone and once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", required=True, help="id of the project, such as default")
        parser.add_argument("--name", required=True, help="what people will know the key by")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(pk=options["project"]).first()
        if project is None:
            known = ", ".join(Project.objects.order_by("pk").values_list("pk", flat=True)[:10]) or "none yet"
            raise CommandError(f"There is no project {options['project']!r}. Projects: {known}.")
        try:
            _key, secret = services.create_api_key(project=project, name=options["name"], by=SYSTEM, now=timezone.now())
        except DomainError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(secret)
