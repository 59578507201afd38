"""What one run keeps in `DATA_DIR`: secrets, inner ports, the embedded Valkey's configuration. Made when missing."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from arkconsole.supervisor import UpError, free_ports
from monitoring import config, installation
from monitoring.installation import Installation


class DataDir:
    """The folder of one run; everything in it is for its owner's eyes only.

    Raises `UpError`, one sentence, when the folder cannot be made, read or written.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.run, self.log = root, root / "run", root / "log"
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.run.mkdir(mode=0o700, exist_ok=True)
            self.log.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UpError(f"Cannot use {root} as data directory: {error.strerror}. Set DATA_DIR to another.") from None
        if not all(os.access(folder, os.R_OK | os.W_OK | os.X_OK) for folder in (root, self.run, self.log)):
            raise UpError(
                f"Cannot read and write {root}: it belongs to another user. Set DATA_DIR to a folder of yours."
            )

    def read(self, name: str) -> str:
        """The text of a file, without its last line break; empty when there is none."""
        try:
            return (self.root / name).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            raise UpError(f"Cannot read {self.root / name}: {error}.") from None

    def write_private(self, path: Path, text: str) -> None:
        """Write a file that only its owner can read; a reader sees the old text or the new, never half."""
        half = path.with_name(f"{path.name}.new")
        try:
            half.unlink(missing_ok=True)
            with open(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
            half.replace(path)
        except OSError as error:
            raise UpError(f"Cannot write {path}: {error.strerror}.") from None

    def ensure_secrets(self) -> None:
        """Make what the settings read from here when the environment has none."""
        for variable, name, made in (
            ("SECRET_KEY", "secret-key", secrets.token_urlsafe(64)),
            ("FIELD_ENCRYPTION_KEY", "field-encryption-key", Fernet.generate_key().decode()),
            ("METRICS_TOKEN", "metrics-token", secrets.token_urlsafe(32)),
            ("ALERT_HOOK_TOKEN", "alert-hook-token", secrets.token_urlsafe(32)),
        ):
            if not os.environ.get(variable) and not self.read(name):
                self.write_private(self.root / name, f"{made}\n")

    def ports(self) -> dict[str, int]:
        """Loopback ports of inner processes: those of the last run where they are still free."""
        try:
            kept: dict[str, Any] = json.loads(self.read("run/ports.json") or "{}")
            kept = {name: port for name, port in kept.items() if isinstance(port, int)}
        except (ValueError, AttributeError):
            kept = {}
        return free_ports(("valkey", "demo", "prometheus", "alertmanager"), kept)

    def note_ports(self, ports: dict[str, int], **urls: str) -> None:
        """Keep the ports for the next run; `redis_url` and `prometheus_url` let other commands find what `up` runs."""
        note = {**ports, **{name: url for name, url in urls.items() if url}}
        self.write_private(self.run / "ports.json", json.dumps(note, indent=2))

    def note(self, name: Path, found: Installation) -> None:
        """Say whether there is a Prometheus (an Alertmanager), for `look()` in every process; `name` is the module's `NOTE`."""
        self.write_private(self.root / name, installation.note(found))

    def note_prometheus(self, found: Installation) -> None:
        self.note(installation.NOTE, found)

    def configure_prometheus(
        self, *, console_url: str, scrape_seconds: int, alerts: config.Alerting | None = None, is_idle: bool = False
    ) -> Path:
        """Write the configuration of Prometheus; return its path. The tokens are in files of their own.

        `is_idle`: another one does the work; ours, where it runs as a container, is to do nothing.
        """
        text = config.prometheus_yml(
            console_url=console_url,
            scrape_seconds=scrape_seconds,
            token_file=str(self._token_file("METRICS_TOKEN", "metrics-token")),
            alerts=alerts,
        )
        self._token_file("ALERT_HOOK_TOKEN", "alert-hook-token")
        path = self.run / "prometheus.yml"
        self.write_private(path, config.IDLE_YML if is_idle else text)
        # Those in containers make a folder, but not its parent.
        for folder in (self.root / "prometheus", self.root / "prometheus" / "rules", self.root / "alertmanager"):
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise UpError(f"Cannot make {folder}: {error.strerror}.") from None
        return path

    def _token_file(self, variable: str, name: str) -> Path:
        """The file from which others read a token: written here where it comes from the environment."""
        if token := os.environ.get(variable):
            self.write_private(self.run / name, token)
            return self.run / name
        return self.root / name

    def configure_valkey(self, port: int) -> tuple[Path, str]:
        """Write the embedded server's configuration; return its path and the server's URL.

        Loopback is shared with every user of the machine, hence the password. Appending every second: a crash of the
        machine costs a second of usage events at most, a crash of the process none.
        """
        password = self.read("redis-password")
        if not password:
            password = secrets.token_urlsafe(32)
            self.write_private(self.root / "redis-password", f"{password}\n")
        folder = self.root / "valkey"
        folder.mkdir(mode=0o700, exist_ok=True)
        lines = (
            "bind 127.0.0.1",
            f"port {port}",
            f"requirepass {password}",
            f'dir "{folder}"',
            "daemonize no",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
        )
        path = self.run / "valkey.conf"
        self.write_private(path, "\n".join(lines) + "\n")
        return path, f"redis://:{password}@127.0.0.1:{port}/0"
