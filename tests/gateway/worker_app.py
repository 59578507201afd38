"""The gateway as uvicorn runs it, on routes from a JSON file instead of the database (`ARK_TEST_SITE`)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from gateway.auth import networks
from gateway.config import Config
from gateway.routes import (
    Change,
    DeploymentRoute,
    EndpointRoute,
    KeyRoute,
    NotServed,
    ServerRoute,
    SourceAway,
    SwitchRoute,
    VersionRoute,
)
from gateway.service import Application
from gateway.upstream import Origin


class FileSource:
    """`gateway.routes.Source` over a JSON file that a test may rewrite at any time; `is_away` plays the lost database."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _site(self) -> dict[str, Any]:
        site: dict[str, Any] = json.loads(self._path.read_text())
        if site.get("is_away"):
            raise SourceAway("the file says so")
        return site

    def versions(self) -> list[VersionRoute]:
        site = self._site()
        servers = {row["id"]: _server(row) for row in site["servers"]}
        return [
            VersionRoute(
                id=row["id"],
                model_id=row["model_id"],
                model_json=msgspec.json.encode(row["model_id"]),
                base_model=row["model_id"].rpartition("-")[0],
                domain=row.get("domain", "chat"),
                default_output_tokens=row.get("default_output_tokens", 100),
                released=1_700_000_000,
                deployments=tuple(
                    DeploymentRoute(number, servers[server], msgspec.Raw(msgspec.json.encode(upstream_model)), weight)
                    for number, (server, upstream_model, weight) in enumerate(row["deployments"], start=1)
                ),
            )
            for row in site["versions"]
        ]

    def endpoints(self, ids: Iterable[str] | None) -> list[EndpointRoute]:
        wanted = None if ids is None else set(ids)
        return [_endpoint(row) for row in self._site()["endpoints"] if wanted is None or row["id"] in wanted]

    def preset(self, project_id: str, version_id: int) -> EndpointRoute:
        site = self._site()
        if version_id in site.get("retired", []):
            raise NotServed("retired")
        for row in site["endpoints"]:
            if row.get("is_preset") and (row["project"], row["version"]) == (project_id, version_id):
                return _endpoint(row)
        made = {
            "id": f"ep-m-{project_id}-{version_id}",
            "project": project_id,
            "version": version_id,
            "is_preset": True,
        }
        site["endpoints"].append(made)
        write(self._path, site)
        return _endpoint(made)

    def key(self, digest: bytes) -> KeyRoute | None:
        for row in self._site()["keys"]:
            if row["digest"] == digest.hex():
                time.sleep(row.get("lookup_seconds", 0))  # a busy database
                return KeyRoute(
                    id=row["id"],
                    digest=digest,
                    project_id=row.get("project", "default"),
                    is_enabled=row.get("is_enabled", True),
                    expires_at=row.get("expires_at"),
                    networks=networks(row.get("allowed_ips", [])),
                    scopes=frozenset((kind, name) for kind, name in row["scopes"]) if row.get("scopes") else None,
                )
        return None

    def last_change(self) -> int:
        return max((row["id"] for row in self._site()["changes"]), default=0)

    def changes(self, after: int) -> list[Change]:
        return [
            Change(row["id"], row["kind"], row["object_id"]) for row in self._site()["changes"] if row["id"] > after
        ]


def write(path: Path, site: dict[str, Any]) -> None:
    """Replace the file as a whole: workers read it at any time."""
    fresh = path.with_suffix(f".{os.getpid()}.new")
    fresh.write_text(json.dumps(site))
    fresh.replace(path)


def _server(row: dict[str, Any]) -> ServerRoute:
    return ServerRoute(
        id=row["id"],
        origin=Origin.of(row["url"]),
        base_path="/v1",
        api_key=row.get("api_key", ""),
        accepts_stream_options=row.get("accepts_stream_options", True),
        is_up=row.get("is_up", True),
        connect_seconds=row.get("connect_seconds", 2.0),
        read_seconds=row.get("read_seconds", 20.0),
    )


def _endpoint(row: dict[str, Any]) -> EndpointRoute:
    return EndpointRoute(
        row["id"],
        row.get("project", "default"),
        row["version"],
        row.get("rpm", 0),
        row.get("tpm", 0),
        row.get("status", "Running"),
        row.get("is_preset", False),
        SwitchRoute(**row["switch"]) if row.get("switch") else None,
    )


if "ARK_TEST_SITE" in os.environ:
    _options = json.loads(os.environ.get("ARK_TEST_OPTIONS", "{}"))
    app = Application(
        Config(
            redis_url=os.environ["REDIS_URL"],
            data_dir=Path(os.environ["DATA_DIR"]),
            trusted_proxies=networks(_options.pop("trusted_proxies", [])),
            **_options,
        ),
        FileSource(Path(os.environ["ARK_TEST_SITE"])),
    )
