"""What the data plane needs to know to run, apart from Django."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from gateway.auth import Network


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of one gateway worker.

    `body_seconds` is how long a caller may take to send a body, `stall_seconds` how long to take nothing of a stream,
    `drain_seconds` how long `/readyz` says 503 before the listener closes. Metrics are bound to `metrics_host` and said to
    be at `metrics_advertise`; with a `metrics_token` only its bearer may read them, with an empty one nobody.
    """

    redis_url: str
    data_dir: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    max_body_bytes: int = 32 * 1024 * 1024
    body_seconds: float = 60.0
    stall_seconds: float = 120.0
    max_answer_bytes: int = 128 * 1024 * 1024
    trusted_proxies: tuple[Network, ...] | None = None
    workers: int = 1
    metrics_host: str = "127.0.0.1"
    metrics_advertise: str = ""
    metrics_token: str | None = field(default=None, repr=False)
    drain_seconds: float = 0.5
