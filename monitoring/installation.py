"""Whether there is a Prometheus here at all, as `manage.py up` noted it or settings say; why not, where there is none.

Not a setting: the one that is being downloaded beside the start may be there a minute later. Whether it answers at this
moment is another question, and `monitoring.prometheus` asks it.
"""

from __future__ import annotations

import enum
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

NOTE = Path("run", "prometheus.json")
"""Inside `DATA_DIR`."""


class Presence(enum.StrEnum):
    ON = "on"
    STARTING = "starting"
    GETTING = "getting"
    OFF = "off"


class WhyOff(enum.StrEnum):
    """Why there is none; the sentence is `Installation.reason`."""

    NO_PACKAGE = "no_package"
    MACOS = "macos"
    DOWNLOAD = "download"
    TOO_OLD = "too_old"
    KEEPS_ENDING = "keeps_ending"
    NOT_RUN = "not_run"


@dataclass(frozen=True, slots=True)
class Installation:
    """`url` is "" where there is none. `detail` is what a program said, untranslated."""

    state: Presence
    url: str = ""
    why: WhyOff | None = None
    detail: str = ""
    is_external: bool = False

    @property
    def is_on(self) -> bool:
        return self.state == Presence.ON

    @property
    def reason(self) -> str:
        """Why monitoring is not on and what to do about it, a sentence or two in the reader's language; "" when it is."""
        match self.state:
            case Presence.ON:
                return ""
            case Presence.STARTING:
                return _("Prometheus is starting; this takes seconds.")
            case Presence.GETTING:
                return _("Prometheus is being downloaded; monitoring can be opened as soon as it is there.")
        detail = {"detail": self.detail}
        match self.why:
            case WhyOff.MACOS:
                return _(
                    "Prometheus is not installed on this machine. Run “brew install prometheus”, then start again."
                )
            case WhyOff.DOWNLOAD:
                return (
                    _(
                        "Prometheus could not be downloaded (%(detail)s). Start again with a network, install it yourself, "
                        "or name another one in PROMETHEUS_BIN or PROMETHEUS_URL."
                    )
                    % detail
                )
            case WhyOff.TOO_OLD:
                return (
                    _(
                        "The Prometheus of this machine is too old (%(detail)s). Name one of version 2.28 or newer in "
                        "PROMETHEUS_BIN or PROMETHEUS_URL, then start again."
                    )
                    % detail
                )
            case WhyOff.KEEPS_ENDING:
                return (
                    _("Prometheus does not stay up (%(detail)s). Its log is log/prometheus.log in DATA_DIR.") % detail
                )
            case WhyOff.NO_PACKAGE:
                return (
                    _(
                        "Prometheus is not installed on this machine, and its packages could not be used (%(detail)s). "
                        "Install it so that it is on PATH, or name one in PROMETHEUS_BIN or PROMETHEUS_URL, then start again."
                    )
                    % detail
                )
        return _("No Prometheus is known here: run the product with “manage.py up”, or name one in PROMETHEUS_URL.")


def note(installation: Installation) -> str:
    """The text of the note that `look()` reads."""
    return json.dumps(
        {
            "state": installation.state,
            "url": installation.url,
            "why": installation.why or "",
            "detail": installation.detail,
        }
    )


def parse(text: str) -> Installation:
    """The other way; whatever cannot be read is "not run"."""
    try:
        noted: dict[str, Any] = json.loads(text)
        why = WhyOff(noted["why"]) if noted["why"] else None
        return Installation(Presence(noted["state"]), url=str(noted["url"]), why=why, detail=str(noted["detail"]))
    except (ValueError, KeyError, TypeError):
        return Installation(Presence.OFF, why=WhyOff.NOT_RUN)


_lock = threading.Lock()
_seen: dict[Path, tuple[object, Installation]] = {}


def look() -> Installation:
    """What is here now. Costs a stat of one file, so that pages may ask as they like; asks Prometheus nothing."""
    if settings.PROMETHEUS_IS_EXTERNAL:
        return Installation(Presence.ON, url=settings.PROMETHEUS_URL, is_external=True)
    if settings.PROMETHEUS_INTERNAL_URL:
        return Installation(Presence.ON, url=settings.PROMETHEUS_INTERNAL_URL)
    return read(NOTE)


def read(note: Path) -> Installation:
    """What a note inside `DATA_DIR` says; read again only when it has changed."""
    path = Path(settings.DATA_DIR) / note
    try:
        facts = path.stat()
        version = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
        with _lock:
            if path not in _seen or _seen[path][0] != version:
                _seen[path] = (version, parse(path.read_text(encoding="utf-8")))
            return _seen[path][1]
    except (OSError, ValueError):
        return Installation(Presence.OFF, why=WhyOff.NOT_RUN)
