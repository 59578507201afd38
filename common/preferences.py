"""What a browser remembers about its reader: theme, time zone and language, in cookies that name our port."""

from __future__ import annotations

import zoneinfo
from functools import cache
from urllib.parse import unquote

from django.conf import settings
from django.http import HttpRequest

THEMES = ("auto", "light", "dark")
COOKIE_AGE_SECONDS = 365 * 24 * 3600


def cookie_name(what: str) -> str:
    """The cookie for `what` ("theme", "zone"); ports share cookies, so the name tells two consoles apart."""
    return settings.LANGUAGE_COOKIE_NAME.replace("language", what, 1)


def theme_of(request: HttpRequest) -> str:
    """`light` or `dark` where the reader chose one in this browser, else `auto`: as the system says."""
    theme = request.COOKIES.get(cookie_name("theme"), "auto")
    return theme if theme in THEMES else "auto"


@cache
def known_zones() -> frozenset[str]:
    """Every time zone this machine knows."""
    return frozenset(zoneinfo.available_timezones())


def zone_of(request: HttpRequest) -> str:
    """The browser's own time zone as its script told us, or ""."""
    zone = unquote(request.COOKIES.get(cookie_name("zone"), ""))
    return zone if zone in known_zones() else ""


@cache
def zone(name: str) -> zoneinfo.ZoneInfo:
    """The zone of a name that `known_zones` has."""
    return zoneinfo.ZoneInfo(name)
