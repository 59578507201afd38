"""Where Alertmanager is, and its tool, in this installation."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from django.conf import settings


def url() -> str:
    """Its address without a slash at the end; "" where there is none."""
    return str(getattr(settings, "ALERTMANAGER_URL", "")).rstrip("/")


def config_path() -> Path | None:
    """The file that it reads, where it is ours to write."""
    path = getattr(settings, "ALERTMANAGER_CONFIG", "")
    return Path(path) if path else None


def token_file() -> str:
    """The file that holds the bearer of its posts, by its path as Alertmanager sees it."""
    return str(getattr(settings, "ALERT_HOOK_TOKEN_FILE", "") or Path(settings.DATA_DIR, "alert-hook-token"))


def token() -> str:
    """The bearer that posts to our hooks must have; "" refuses all of them."""
    return str(getattr(settings, "ALERT_HOOK_TOKEN", ""))


def amtool() -> Path | None:
    """The program that judges a configuration; None where there is none."""
    named = str(getattr(settings, "AMTOOL_BIN", ""))
    if named:
        return Path(named)
    if found := shutil.which("amtool"):
        return Path(found)
    kept = Path(settings.DATA_DIR, "alertmanager", "bin", "amtool")
    return kept if os.access(kept, os.X_OK) else None
