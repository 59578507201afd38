"""The door to what Prometheus does with rules: have it read them again, and see what it has loaded.

Trouble                it did not do what it was asked; `str()` is what it said, untranslated
├── Away               it does not answer
├── Refused            it does not take the rules; it goes on with those that it had
└── CannotReload       it may not be told to read again (external, without --web.enable-lifecycle)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
from django.conf import settings

from common import tls
from monitoring import installation
from monitoring.installation import Installation

CONNECT_SECONDS = 2.0
RELOAD_SECONDS = 60.0
"""Thousands of new files take seconds."""
READ_SECONDS = 20.0
PART = 1024 * 1024
"""Characters of an answer that are looked at together."""
MAX_ANSWER = 1024 * PART
"""Four times what it says of 10,000 groups of default rules; read as it comes, so this is no memory."""
MAX_GROUP = 16 * PART
"""Of one group: what is longer is no answer of Prometheus."""
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
        with self._asked("POST", url, seconds=RELOAD_SECONDS) as answer:
            if answer.is_success:
                return
            said = " ".join(next(answer.iter_text(PART), "").split())[:MAX_SAID] or f"HTTP {answer.status_code}"
        if answer.status_code in (401, 403, 404, 405):
            raise CannotReload(said)
        if answer.status_code in (502, 503, 504):
            raise Away(said)
        raise Refused(said)

    def loaded(self) -> Mapping[str, Sequence[LoadedRule]]:
        url = _url(installation.look(), "/api/v1/rules")
        with self._asked("GET", url, params={"type": "alert"}, seconds=READ_SECONDS) as answer:
            if not answer.is_success:
                raise Away(f"HTTP {answer.status_code}")
            try:
                return _loaded(_groups(answer.iter_text(PART)))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise Away("not an answer of Prometheus") from None

    @contextmanager
    def _asked(
        self, method: str, url: str, *, seconds: float, params: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """The answer, not read yet."""
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
                verify=tls.client_context(),
            ) as client, client.stream(method, url, params=params) as answer:  # fmt: skip
                yield answer
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Away(type(error).__name__) from None


def _url(found: Installation, path: str) -> str:
    if not found.url:
        raise Away("no address")
    return f"{found.url.rstrip('/')}{path}"


_BEGIN = re.compile(r'^\s*\{.{0,1000}?"groups"\s*:\s*\[', re.DOTALL)
_BETWEEN = re.compile(r"[\s,]*")


def _groups(parts: Iterable[str]) -> Iterator[Any]:
    """The groups of an answer one by one, as it comes: of 10,000 it is 230 MB. Raises `ValueError` for what is none."""
    decode = json.JSONDecoder().raw_decode
    text, at, length, has_begun = "", 0, 0, False
    for part in parts:
        text, at, length = text[at:] + part, 0, length + len(part)
        if length > MAX_ANSWER or len(text) > MAX_GROUP:
            raise ValueError("too long")
        if not has_begun:
            begin = _BEGIN.match(text)
            if begin is None:
                continue
            at, has_begun = begin.end(), True
        while True:
            between = _BETWEEN.match(text, at)
            at = between.end() if between else at
            if text.startswith("]", at):
                return
            try:
                group, at = decode(text, at)
            except ValueError:
                # Its end is still to come, or never does.
                break
            yield group
    raise ValueError("cut short")


def _loaded(groups: Iterable[Any]) -> dict[str, list[LoadedRule]]:
    found: dict[str, list[LoadedRule]] = {}
    for group in groups:
        # The rules of a group have nearly all of it in common.
        found.setdefault(str(group["name"]), []).extend(
            LoadedRule(
                rule_id=sys.intern(str(rule.get("labels", {}).get("rule_id", ""))),
                digest=sys.intern(str(rule.get("annotations", {}).get("digest", ""))),
                health=sys.intern(str(rule.get("health", ""))),
                last_error=str(rule.get("lastError", "")),
            )
            for rule in group["rules"]
        )
    return found
