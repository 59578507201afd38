"""The door to what Prometheus does with rules: have it read them again, and see what it has loaded.

Trouble                it did not do what it was asked; `str()` is what it said, untranslated
├── Away               it does not answer
├── Refused            it does not take the rules; it goes on with those that it had
└── CannotReload       it may not be told to read again (external, without --web.enable-lifecycle)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
from django.conf import settings

from monitoring import installation
from monitoring.installation import Installation

CONNECT_SECONDS = 2.0
RELOAD_SECONDS = 60.0
"""Thousands of new files take seconds."""
READ_SECONDS = 20.0
MAX_BYTES = 256 * 1024 * 1024
MAX_SAID = 1_000


class Trouble(Exception):
    """Prometheus did not do what it was asked."""


class Away(Trouble): ...


class Refused(Trouble): ...


class CannotReload(Trouble): ...


@dataclass(frozen=True, slots=True)
class LoadedRule:
    """One alert of a rule, as Prometheus has it: `health` is ok, err or unknown (not evaluated yet)."""

    rule_id: str
    digest: str
    health: str
    last_error: str


class Ruler(Protocol):
    """What evaluates rules."""

    def reload(self) -> None:
        """Have it read all rule files. Returns when it has; raises `Trouble`, with the old rules in force."""

    def loaded(self) -> Mapping[str, Sequence[LoadedRule]]:
        """Its alerts by the name of their group. Raises `Trouble`."""


class Prometheus:
    """The one that this console knows; `transport` is for tests."""

    def __init__(self, *, transport: httpx.BaseTransport | None = None) -> None:
        self._transport = transport

    def reload(self) -> None:
        found = installation.look()
        # An external one may be behind something that passes queries alone.
        url = settings.PROMETHEUS_RELOAD_URL if found.is_external else _url(found, "/-/reload")
        if not url:
            raise CannotReload("PROMETHEUS_RELOAD_URL is empty")
        answer = self._ask("POST", url, seconds=RELOAD_SECONDS)
        if answer.is_success:
            return
        said = " ".join(answer.text.split())[:MAX_SAID] or f"HTTP {answer.status_code}"
        if answer.status_code in (401, 403, 404, 405):
            raise CannotReload(said)
        if answer.status_code in (502, 503, 504):
            raise Away(said)
        raise Refused(said)

    def loaded(self) -> Mapping[str, Sequence[LoadedRule]]:
        url = _url(installation.look(), "/api/v1/rules")
        answer = self._ask("GET", url, params={"type": "alert"}, seconds=READ_SECONDS)
        if not answer.is_success or len(answer.content) > MAX_BYTES:
            raise Away(f"HTTP {answer.status_code}")
        try:
            return _groups(answer.json())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Away("not an answer of Prometheus") from None

    def _ask(self, method: str, url: str, *, seconds: float, params: Mapping[str, str] | None = None) -> httpx.Response:
        headers = dict(settings.PROMETHEUS_HEADERS)
        auth = None
        if settings.PROMETHEUS_TOKEN:
            headers["Authorization"] = f"Bearer {settings.PROMETHEUS_TOKEN}"
        elif settings.PROMETHEUS_USERNAME:
            auth = (settings.PROMETHEUS_USERNAME, settings.PROMETHEUS_PASSWORD)
        try:
            with httpx.Client(
                timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS), headers=headers, auth=auth,
                follow_redirects=False, trust_env=settings.PROMETHEUS_IS_EXTERNAL, transport=self._transport,
            ) as client:  # fmt: skip
                return client.request(method, url, params=params)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Away(type(error).__name__) from None


def _url(found: Installation, path: str) -> str:
    if not found.url:
        raise Away("no address")
    return f"{found.url.rstrip('/')}{path}"


def _groups(said: Any) -> dict[str, list[LoadedRule]]:
    found: dict[str, list[LoadedRule]] = {}
    for group in said["data"]["groups"]:
        found.setdefault(str(group["name"]), []).extend(
            LoadedRule(
                rule_id=str(rule.get("labels", {}).get("rule_id", "")),
                digest=str(rule.get("annotations", {}).get("digest", "")),
                health=str(rule.get("health", "")),
                last_error=str(rule.get("lastError", "")),
            )
            for rule in group["rules"]
        )
    return found
