"""`manage.py seed_demo`: with DEMO=1, a catalogue, an endpoint and a key on the demo model server, to try things with.

Safe to repeat: adds what is missing, follows the demo server to its new port, changes nothing that people changed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from catalog import services as catalog
from catalog.models import FoundationModel, ModelServer, ModelVersion
from catalog.publishing import EMBEDDING_PARAMETERS, PARAMETERS
from catalog.services import Price, Publication, ServerSettings
from common.errors import DomainError
from endpoints import convergence
from endpoints import services as endpoints
from endpoints.models import Endpoint
from iam import keys
from iam import services as iam
from iam.actors import SYSTEM
from iam.models import ApiKey, Project

SERVER_NAME = "demo"
KEY_NAME = "demo"
PROJECT = "default"
KEY_FILE = "demo-key"
ENDPOINT_FILE = "demo-endpoint"

Domain = FoundationModel.Domain


def _price(input_price: str, cached: str, output: str, over: int = 0) -> Price:
    return Price(Decimal(input_price), Decimal(cached), Decimal(output), over)


def _day(year: int, month: int, day: int) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)


_CHAT = Publication(
    upstream_model="demo-fast",
    model_name="demo-fast",
    version="251001",
    display_name="Demo Fast",
    vendor="ArkConsole",
    domain=Domain.CHAT,
    context_tokens=32_768,
    max_output_tokens=8_192,
    default_output_tokens=1_024,
    supports_caching=True,
    known_parameters=PARAMETERS,
    default_rpm=6_000,
    default_tpm=5_000_000,
    released_at=_day(2025, 10, 1),
    prices=(_price("0.8", "0.16", "2"), _price("1.2", "0.16", "16", over=16_000)),
)
PUBLICATIONS: tuple[Publication, ...] = (
    _CHAT,
    replace(
        _CHAT,
        upstream_model="demo-fast-2",
        model_name="demo-fast-2",
        version="260115",
        display_name="Demo Fast 2",
        context_tokens=65_536,
        known_parameters=tuple(name for name in PARAMETERS if name not in ("logit_bias", "logprobs", "top_logprobs")),
        released_at=_day(2026, 1, 15),
        prices=(_price("0.6", "0.12", "1.8"), _price("0.9", "0.18", "6", over=32_000)),
    ),
    replace(
        _CHAT,
        upstream_model="demo-thinking",
        model_name="demo-thinking",
        version="251115",
        display_name="Demo Thinking",
        domain=Domain.THINKING,
        context_tokens=65_536,
        max_output_tokens=16_384,
        default_output_tokens=4_096,
        known_parameters=(*PARAMETERS, "reasoning_effort", "thinking"),
        released_at=_day(2025, 11, 15),
        prices=(_price("2", "0.4", "8"), _price("3", "0.6", "24", over=32_000)),
    ),
    replace(
        _CHAT,
        upstream_model="demo-vision",
        model_name="demo-vision",
        version="251201",
        display_name="Demo Vision",
        domain=Domain.VISION,
        released_at=_day(2025, 12, 1),
        prices=(_price("1.5", "0.3", "4.5"),),
    ),
    replace(
        _CHAT,
        upstream_model="demo-embedding",
        model_name="demo-embedding",
        version="250901",
        display_name="Demo Embedding",
        domain=Domain.EMBEDDING,
        context_tokens=8_192,
        max_output_tokens=1,
        default_output_tokens=1,
        supports_caching=False,
        known_parameters=EMBEDDING_PARAMETERS,
        released_at=_day(2025, 9, 1),
        prices=(_price("0.5", "0", "0"),),
    ),
    replace(
        _CHAT,
        upstream_model="demo-slow",
        model_name="demo-slow",
        version="250601",
        display_name="Demo Slow",
        released_at=_day(2025, 6, 1),
        prices=(_price("0.3", "0.06", "0.6"),),
    ),
    replace(
        _CHAT,
        upstream_model="demo-flaky",
        model_name="demo-flaky",
        version="250801",
        display_name="Demo Flaky",
        released_at=_day(2025, 8, 1),
        prices=(_price("0.1", "0.02", "0.2"),),
    ),
)


@dataclass(frozen=True)
class Names:
    """What the demo's endpoint is called, in the language of this installation."""

    endpoint: str
    description: str


NAMES = {
    "zh-hans": Names("客服助手", "演示用：由内置的演示模型服务提供。"),
    "en": Names("Support assistant", "For trying things: served by the built-in demo model server."),
}


class Command(BaseCommand):
    help = "With DEMO=1: register the demo model server, publish its models, make an endpoint and a key for them."
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEMO:
            return
        if not settings.DEMO_URL:
            raise CommandError("DEMO_URL is not set: where does the demo model server run?")
        try:
            seed(url=settings.DEMO_URL, data_dir=settings.DATA_DIR, now=timezone.now())
        except DomainError as error:
            raise CommandError(error.message) from None


def seed(*, url: str, data_dir: Path, now: datetime) -> None:
    """Everything of the demo that is missing; `data_dir` gets the files `demo-key` (mode 0600) and `demo-endpoint`."""
    server = _server(url if url.rstrip("/").endswith("/v1") else f"{url.rstrip('/')}/v1", now)
    project = Project.objects.filter(pk=PROJECT).first() or iam.create_project(
        project_id=PROJECT, name=PROJECT, by=SYSTEM, now=now
    )
    published = set(ModelVersion.objects.values_list("model__name", "version"))
    for publication in PUBLICATIONS:
        if (publication.model_name, publication.version) not in published:
            catalog.publish(server=server, publication=publication, by=SYSTEM, now=now)
    _endpoint(project, data_dir / ENDPOINT_FILE, now)
    _key(project, data_dir / KEY_FILE, now)


def _server(base_url: str, now: datetime) -> ModelServer:
    server = ModelServer.objects.filter(name=SERVER_NAME).first()
    if server is None:
        wanted = ServerSettings(name=SERVER_NAME, base_url=base_url)
        server = catalog.add_server(settings=wanted, by=SYSTEM, now=now)
    elif server.base_url != base_url:
        wanted = ServerSettings(
            name=SERVER_NAME,
            base_url=base_url,
            probe_kind=server.probe_kind,
            accepts_stream_options=server.accepts_stream_options,
            connect_timeout_seconds=server.connect_timeout_seconds,
            read_timeout_seconds=server.read_timeout_seconds,
            is_enabled=server.is_enabled,
        )
        server = catalog.update_server(server=server, settings=wanted, by=SYSTEM, now=now)
    if server.state != ModelServer.State.UP:
        # So that what is printed at the end of the start answers at once.
        catalog.probe_now(server=server, now=timezone.now())
    return server


def _endpoint(project: Project, file: Path, now: datetime) -> None:
    """One endpoint on the fast model; a new one only when the one that the file names was deleted."""
    endpoint_id = _read(file)
    if endpoint_id and Endpoint.objects.alive().filter(pk=endpoint_id).exists():
        return
    version = ModelVersion.objects.get(model__name=_CHAT.model_name, version=_CHAT.version)
    if not ModelVersion.objects.working(now).filter(pk=version.pk).exists():
        return
    names = NAMES[settings.LANGUAGE_CODE]
    endpoint = endpoints.create(
        project=project, name=names.endpoint, description=names.description, version=version, rpm=version.default_rpm,
        tpm=version.default_tpm, tags={"env": "demo"}, by=SYSTEM, now=now,
    )  # fmt: skip
    # The tick does the same, but the worker is not there yet.
    convergence.converge(now=now)
    _write(file, endpoint.pk)


def _key(project: Project, file: Path, now: datetime) -> None:
    """The key in the file, when the database knows it; else a new one, and the lost one is gone."""
    secret = _read(file)
    alive = ApiKey.objects.filter(deleted_at__isnull=True)
    if secret and alive.filter(digest=keys.digest(secret)).exists():
        return
    for lost in alive.filter(project=project, name=KEY_NAME, created_by__isnull=True):
        iam.delete_api_key(key=lost, by=SYSTEM, now=now)
    _row, secret = iam.create_api_key(project=project, name=KEY_NAME, by=SYSTEM, now=now)
    _write(file, secret)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _write(file: Path, text: str) -> None:
    """Whole or not at all, and never readable by others, not for a moment."""
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text + "\n")
    part.replace(file)
