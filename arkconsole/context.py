"""What every page's frame needs. Nothing is asked before a template uses it: plain pages must need no database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy

from alerts import firing
from arkconsole import health
from common import preferences
from iam import projects

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One line of the left column; `prefix` is the path under which it is the current one, `key` follows `g`."""

    name: str
    label: Any
    icon: str
    prefix: str
    key: str


NAV = (
    Entry("endpoints:list", gettext_lazy("Online inference"), "radio-tower", "/endpoints/", "e"),
    Entry("catalog:models", gettext_lazy("Models"), "boxes", "/models/", "m"),
    Entry("iam:keys", gettext_lazy("API Key"), "key-round", "/keys/", "k"),
    Entry("monitoring:overview", gettext_lazy("Monitoring"), "chart-line", "/monitoring/", "o"),
    Entry("alerts:events", gettext_lazy("Alerts"), "bell", "/alerts/", "a"),
)


def frame(request: HttpRequest) -> dict[str, Any]:
    """Context of `base.html` and `plain.html`."""
    return {
        "nav": [
            {
                "url": reverse(entry.name),
                "label": entry.label,
                "icon": entry.icon,
                "key": entry.key,
                "is_current": request.path.startswith(entry.prefix),
            }
            for entry in NAV
        ],
        "search_url": reverse("endpoints:list"),
        "project": getattr(request, "project", None),
        "projects": _once(lambda: projects.choices(request)),
        "firing": _once(lambda: firing.of(request)),
        "behind": _once(lambda: health.watch.look(now=timezone.now()).sentence()),
        "unheard": _once(lambda: health.watch.look(now=timezone.now()).alerts.sentence()),
        "theme": preferences.theme_of(request),
        "theme_cookie": preferences.cookie_name("theme"),
        "zone_cookie": preferences.cookie_name("zone"),
    }


def _once(ask: Callable[[], T]) -> Callable[[], T]:
    """A callable for templates that asks at most once a page."""
    answer: list[T] = []

    def asked() -> T:
        if not answer:
            answer.append(ask())
        return answer[0]

    return asked
