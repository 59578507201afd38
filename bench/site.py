"""The product's own database for a measurement: one model server, one endpoint without practical limits, one key.

`python -m bench.site MOCK_URL KEY` migrates and fills the database of the environment; `python -m bench.site --drain` then
empties the usage stream into it for ever, as the tick does.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time

import django

ENDPOINT = "ep-bench"


def seed(mock_url: str, key: str) -> None:
    from django.core.management import call_command
    from django.utils import timezone

    from catalog.models import Deployment, FoundationModel, ModelServer, ModelVersion
    from endpoints.models import Endpoint, Status
    from iam.models import ApiKey, Project

    call_command("migrate", verbosity=0, interactive=False)
    now = timezone.now()
    project, _made = Project.objects.get_or_create(pk="default", defaults={"name": "Default"})
    server = ModelServer.objects.create(name="mock", base_url=mock_url, state="up", api_key="sk-bench")
    model = FoundationModel.objects.create(name="bench", display_name="Bench")
    version = ModelVersion.objects.create(model=model, version="1")
    Deployment.objects.create(version=version, server=server, upstream_model="bench-up")
    Endpoint.objects.create(
        id=ENDPOINT, project=project, version=version, name="bench", rpm=10_000_000, tpm=2_000_000_000,
        status=Status.RUNNING, status_at=now, created_at=now, updated_at=now,
    )  # fmt: skip
    digest = hashlib.sha256(key.encode()).hexdigest()
    ApiKey.objects.create(project=project, name="bench", prefix=key[:8], digest=digest, created_at=now)


def drain_for_ever() -> None:
    from metering.tasks import drain

    while True:
        drain()
        time.sleep(1)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "arkconsole.settings")
    django.setup()
    if sys.argv[1] == "--drain":
        drain_for_ever()
    else:
        seed(sys.argv[1], sys.argv[2])
