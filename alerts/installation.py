"""Whether there is an Alertmanager here, and why not, where not.

`manage.py up` notes the Alertmanager that it runs as it notes its Prometheus (`monitoring.installation`). Reads no
tables: the process table and `prepare` ask here too.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.utils.translation import gettext as _

from monitoring import installation as monitoring
from monitoring.installation import Installation, Presence, WhyOff

NOTE = Path("run", "alertmanager.json")
"""Inside `DATA_DIR`."""


@dataclass(frozen=True, slots=True)
class Alertmanager(Installation):
    """As `Installation`, with the sentences of this one."""

    @property
    def reason(self) -> str:
        """Why nobody is told of alerts and what to do about it, in the reader's language; "" while it is on."""
        match self.state:
            case Presence.ON:
                return ""
            case Presence.STARTING:
                return _("Nobody is told of alerts yet: Alertmanager is starting; this takes seconds.")
            case Presence.GETTING:
                return _("Nobody is told of alerts yet: Alertmanager is being downloaded.")
        detail = {"detail": self.detail}
        match self.why:
            case WhyOff.MACOS:
                return _(
                    "Nobody is told of alerts: Alertmanager is not installed on this machine. Name one in ALERTMANAGER_BIN "
                    "or ALERTMANAGER_URL, then start again."
                )
            case WhyOff.DOWNLOAD:
                return (
                    _(
                        "Nobody is told of alerts: Alertmanager could not be downloaded (%(detail)s). Start again with a "
                        "network, install it yourself, or name another one in ALERTMANAGER_BIN or ALERTMANAGER_URL."
                    )
                    % detail
                )
            case WhyOff.TOO_OLD:
                return (
                    _(
                        "Nobody is told of alerts: the Alertmanager of this machine is too old (%(detail)s). Name one of "
                        "version 0.22 or newer in ALERTMANAGER_BIN or ALERTMANAGER_URL, then start again."
                    )
                    % detail
                )
            case WhyOff.KEEPS_ENDING:
                return (
                    _(
                        "Nobody is told of alerts: Alertmanager does not stay up (%(detail)s). Its log is "
                        "log/alertmanager.log in DATA_DIR."
                    )
                    % detail
                )
            case WhyOff.NO_PACKAGE:
                return (
                    _(
                        "Nobody is told of alerts: Alertmanager is not installed on this machine, and its package could not "
                        "be used (%(detail)s). Install it so that it is on PATH, or name one in ALERTMANAGER_BIN or "
                        "ALERTMANAGER_URL, then start again."
                    )
                    % detail
                )
        return _(
            "Nobody is told of alerts: no Alertmanager is known here. Run the product with “manage.py up”, or name one "
            "in ALERTMANAGER_URL."
        )


def look() -> Alertmanager:
    """What is here now. Costs a stat of one file, so that pages may ask as they like; asks Alertmanager nothing."""
    if settings.ALERTMANAGER_URL:
        return Alertmanager(Presence.ON, url=settings.ALERTMANAGER_URL, is_external=True)
    noted = monitoring.read(NOTE)
    return Alertmanager(noted.state, url=noted.url, why=noted.why, detail=noted.detail)


def url() -> str:
    """Its address without a slash at the end; "" where there is none, or not yet."""
    found = look()
    return found.url.rstrip("/") if found.state in {Presence.ON, Presence.STARTING} else ""


def config_path() -> Path | None:
    """The file that it reads, where it is ours to write."""
    return Path(settings.ALERTMANAGER_CONFIG) if settings.ALERTMANAGER_CONFIG else None


def token_file() -> str:
    """The file that holds the bearer of its posts, by its path as Alertmanager sees it."""
    return str(settings.ALERT_HOOK_TOKEN_FILE)


def token() -> str:
    """The bearer that posts to our hooks must have; "" refuses all of them."""
    return str(settings.ALERT_HOOK_TOKEN)


def amtool() -> Path | None:
    """The program that judges a configuration of Alertmanager; None where there is none."""
    return _tool(settings.AMTOOL_BIN, "amtool", "alertmanager")


def promtool() -> Path | None:
    """The program that judges rules; None where there is none."""
    return _tool(settings.PROMTOOL_BIN, "promtool", "prometheus")


def _tool(named: str, name: str, folder: str) -> Path | None:
    """As named, else the machine's own, else the one that came with what `up` got."""
    if named:
        return Path(named)
    if found := shutil.which(name):
        return Path(found)
    kept = Path(settings.DATA_DIR, folder, "bin", name)
    return kept if os.access(kept, os.X_OK) else None


def server_flags(*, config_file: str, data_dir: str, listen: str, console_url: str) -> tuple[str, ...]:
    """The command line of our own, without the program's name. `listen` is `host:port`."""
    return (
        f"--config.file={config_file}",
        f"--storage.path={data_dir}",
        f"--web.listen-address={listen}",
        # Empty, or it opens a port for its peers on every address of the machine.
        "--cluster.listen-address=",
        f"--web.external-url={console_url}/alerts/alertmanager",
        "--web.route-prefix=/",
    )
