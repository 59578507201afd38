"""The ASGI entry of the data plane: `uvicorn gateway.asgi:app`."""

from __future__ import annotations

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "arkconsole.settings")
django.setup()

from django.conf import settings  # noqa: E402 - Django must be set up first

from gateway.auth import networks  # noqa: E402
from gateway.config import Config  # noqa: E402
from gateway.service import Application  # noqa: E402
from gateway.source import DjangoSource  # noqa: E402

app = Application(
    Config(
        redis_url=settings.REDIS_URL,
        data_dir=settings.DATA_DIR,
        max_body_bytes=settings.GATEWAY_MAX_BODY_BYTES,
        trusted_proxies=networks(settings.TRUSTED_PROXIES),
        workers=settings.GATEWAY_WORKERS,
        metrics_host=settings.GATEWAY_METRICS_HOST,
        metrics_advertise=settings.GATEWAY_METRICS_ADVERTISE,
        metrics_token=settings.METRICS_TOKEN,
    ),
    DjangoSource(),
)
