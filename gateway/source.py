"""Routes and keys from the database, for `gateway.routes`. Every method blocks; called in the reader's threads."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
from django.db import DatabaseError, InterfaceError, connections, models
from django.db.models import FilteredRelation, Q
from django.utils import timezone

from catalog.models import Deployment, ModelServer, ModelVersion
from common.errors import DomainError
from common.fields import DecryptionError
from common.models import RouteChange
from endpoints import services
from endpoints.models import OPEN_STATES, Endpoint, Kind
from gateway.auth import networks
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
from gateway.upstream import Origin
from iam.models import ApiKey

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


def _read(function: Callable[P, R]) -> Callable[P, R]:
    """Each read begins with a connection that works, and says `SourceAway` for whatever the database says."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        _drop_dead_connections()
        try:
            return function(*args, **kwargs)
        except (DatabaseError, InterfaceError) as error:
            _drop_dead_connections()
            raise SourceAway(type(error).__name__) from error

    return wrapped


def _drop_dead_connections() -> None:
    """Outside a request nobody else does; inside a transaction (a test's) the connection is not ours to close."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


class DjangoSource:
    """`gateway.routes.Source` over the models."""

    @_read
    def versions(self) -> list[VersionRoute]:
        servers = _servers()
        deployments: dict[int, list[DeploymentRoute]] = {}
        for row in Deployment.objects.filter(is_enabled=True, server__in=servers).order_by("pk"):
            server = servers[row.server_id]
            name = msgspec.Raw(msgspec.json.encode(row.upstream_model))
            deployments.setdefault(row.version_id, []).append(DeploymentRoute(row.pk, server, name, row.weight))
        return [
            VersionRoute(
                id=row.pk,
                model_id=row.public_id,
                model_json=msgspec.json.encode(row.public_id),
                base_model=row.model.name,
                domain=row.model.domain,
                default_output_tokens=row.default_output_tokens,
                released=int(row.released_at.timestamp()) if row.released_at else 0,
                deployments=tuple(deployments.get(row.pk, ())),
            )
            for row in ModelVersion.objects.select_related("model")
        ]

    @_read
    def endpoints(self, ids: Iterable[str] | None) -> list[EndpointRoute]:
        # One statement: read apart, an endpoint could seem back on its source in the moment in which its switch ends.
        rows = Endpoint.objects.alive().annotate(
            switching=FilteredRelation("switches", condition=Q(switches__state__in=OPEN_STATES))
        )
        if ids is not None:
            rows = rows.filter(pk__in=list(ids))
        fields = rows.values_list(
            "pk", "project_id", "version_id", "rpm", "tpm", "status", "kind",
            "switching__id", "switching__soak", "switching__weight", "switching__target_id",
        )  # fmt: skip
        return [
            EndpointRoute(
                pk, project_id, version_id, rpm or 0, tpm or 0, str(status), kind == Kind.PRESET,
                None if switch[0] is None else SwitchRoute(*switch),
            )
            for pk, project_id, version_id, rpm, tpm, status, kind, *switch in fields.iterator(chunk_size=2000)
        ]  # fmt: skip

    @_read
    def preset(self, project_id: str, version_id: int) -> EndpointRoute:
        try:
            made = services.ensure_preset(project_id=project_id, version_id=version_id, now=timezone.now())
        except DomainError as error:
            raise NotServed(f"project {project_id}, version {version_id}") from error
        return EndpointRoute(
            made.pk, made.project_id, made.version_id, made.rpm or 0, made.tpm or 0, str(made.status), True
        )

    @_read
    def key(self, digest: bytes) -> KeyRoute | None:
        row = ApiKey.objects.filter(digest=digest.hex(), deleted_at__isnull=True).prefetch_related("scopes").first()
        if row is None:
            return None
        scopes = frozenset((scope.resource_type, scope.resource_id) for scope in row.scopes.all())
        return KeyRoute(
            id=row.pk,
            digest=digest,
            project_id=row.project_id,
            is_enabled=row.is_enabled,
            expires_at=row.expires_at.timestamp() if row.expires_at else None,
            networks=networks(row.allowed_ips),
            scopes=scopes or None,
        )

    @_read
    def last_change(self) -> int:
        found: int | None = RouteChange.objects.aggregate(last=models.Max("id"))["last"]
        return found or 0

    @_read
    def changes(self, after: int) -> list[Change]:
        rows = RouteChange.objects.filter(id__gt=after).order_by("id").values_list("id", "kind", "object_id")
        return [Change(change_id, str(kind), object_id) for change_id, kind, object_id in rows]


def _servers() -> dict[int, ServerRoute]:
    """Enabled servers by id. One whose key cannot be read or whose address is no address is left out, not all."""
    found: dict[int, ServerRoute] = {}
    for row in ModelServer.objects.filter(is_enabled=True).defer("api_key"):
        try:
            origin, path = Origin.of(row.base_url), urlsplit(row.base_url).path
            key = row.api_key
        except (ValueError, DecryptionError) as error:
            log.error("model server %s cannot be used: %s", row.pk, type(error).__name__)
            continue
        if any(ord(character) < 0x21 or ord(character) > 0x7E for character in key):
            log.error("model server %s cannot be used: its key has characters that no header may have", row.pk)
            continue
        found[row.pk] = ServerRoute(
            id=row.pk,
            origin=origin,
            base_path=quote(path.rstrip("/"), safe="/%:@!$&'()*+,;=~-._"),
            api_key=key,
            accepts_stream_options=row.accepts_stream_options,
            is_up=row.state != ModelServer.State.DOWN,
            connect_seconds=float(row.connect_timeout_seconds),
            read_seconds=float(row.read_timeout_seconds),
        )
    return found
