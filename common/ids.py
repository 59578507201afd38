"""Identifiers in Ark's formats (`ark.md` §2.8)."""

from __future__ import annotations

import secrets
import string
from datetime import datetime, timedelta, timezone

_ALPHABET = string.ascii_lowercase + string.digits
# Ark stamps ids with China Standard Time, whatever the reader's zone.
_CST = timezone(timedelta(hours=8))


def tail(length: int = 5) -> str:
    """`length` random lowercase letters and digits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def endpoint_id(*, now: datetime) -> str:
    """A custom endpoint's id: `ep-YYYYMMDDhhmmss-xxxxx`."""
    return f"ep-{now.astimezone(_CST):%Y%m%d%H%M%S}-{tail()}"


def preset_endpoint_id(*, now: datetime) -> str:
    """A preset endpoint's id: `ep-m-YYYYMMDDhhmmss-xxxxx`."""
    return f"ep-m-{now.astimezone(_CST):%Y%m%d%H%M%S}-{tail()}"


def request_id(*, now: datetime) -> str:
    """A request id: `YYYYMMDDhhmmss` and 20 hexadecimal digits."""
    return f"{now.astimezone(_CST):%Y%m%d%H%M%S}{secrets.token_hex(10).upper()}"
