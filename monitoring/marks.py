"""What changed while the charts ran: status, version switch, edits, model servers, and what rooms above tell; with who and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, cast

from django.conf import settings
from django.db.models import Q
from django.urls import reverse
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from audit.models import Event
from audit.services import GLOBAL
from catalog.models import Deployment, ModelServer, ModelVersion, ServerEvent
from endpoints import forms, lifecycle, services, switching
from endpoints.models import Endpoint, EndpointEvent, Status, SwitchEvent, VersionSwitch
from iam.actors import SYSTEM, Actor
from monitoring.filters import MonitoringFilters

MOST = 100
"""Marks on a chart; the latest. More of them would hide the curve that they are to explain."""

MOST_MOVES = 1_000
"""Moves of the status that the band is made of."""

TONES = {Status.RUNNING: "good", Status.SCHEDULING: "warn", Status.ABNORMAL: "bad", Status.STOPPED: "off"}
_QUIET = (SwitchEvent.Kind.HELD, SwitchEvent.Kind.NOTE)


@dataclass(frozen=True, slots=True)
class Mark:
    """One change. `by` is "" where nobody did it; `detail` says what exactly, or why."""

    at: datetime
    kind: str
    title: str
    by: str
    detail: str
    url: str

    def as_json(self) -> dict[str, Any]:
        return {
            "at": round(self.at.timestamp(), 3),
            "kind": self.kind,
            "title": self.title,
            "by": self.by,
            "detail": self.detail,
            "url": self.url,
        }


class Source(Protocol):
    """Marks that a room above knows of; `settings.MONITORING_MARKS` names those that are asked."""

    def __call__(self, endpoint: Endpoint, *, since: datetime, until: datetime, by: Actor) -> Iterable[Mark]:
        """What happened to `endpoint` in that time and `by` may see: the latest, `MOST` of them or a few more."""


def marks(
    endpoint: Endpoint, filters: MonitoringFilters, *, shows_servers: bool = False, by: Actor | None = None
) -> dict[str, Any]:
    """Marks, oldest first, and the band of the status over the range of `filters`, as JSON.

    Nine queries at most, and those of the rooms above, which are asked when it is known for whom (`by`).
    `shows_servers`: the names of model servers and what was set of them are for who looks after them.
    """
    since, until = filters.since, filters.until
    moves = list(endpoint.events.filter(at__gte=since, at__lte=until).order_by("-at", "-id")[:MOST_MOVES])
    found = [
        *(_moved(endpoint, event) for event in moves),
        *_switched(endpoint, since, until),
        *_edited(endpoint, since, until),
        *_served(endpoint, since, until, shows_servers=shows_servers),
        *_told(endpoint, since, until, by),
    ]
    found.sort(key=lambda mark: mark.at)
    note = ""
    if len(found) > MOST:
        note = _("The latest %(shown)d of %(all)d changes are marked.") % {"shown": MOST, "all": len(found)}
    return {
        "from": since.timestamp(),
        "to": until.timestamp(),
        "marks": [mark.as_json() for mark in found[-MOST:]],
        "band": _band(endpoint, list(reversed(moves)), since, until),
        "note": note,
    }


def _told(endpoint: Endpoint, since: datetime, until: datetime, by: Actor | None) -> Iterable[Mark]:
    if by is None:
        return
    for name in settings.MONITORING_MARKS:
        yield from cast(Source, import_string(name))(endpoint, since=since, until=until, by=by)


def _name(actor_id: str, actor_name: str) -> str:
    return "" if actor_id in ("", SYSTEM.id) else actor_name


def _moved(endpoint: Endpoint, event: EndpointEvent) -> Mark:
    here = _label(event.to_status)
    title = f"{_label(event.from_status)} → {here}" if event.from_status else here
    return Mark(
        at=event.at, kind="status", title=title, by=_name(event.actor_id, event.actor_name),
        detail=lifecycle.event_sentence(event), url=endpoint.get_absolute_url(),
    )  # fmt: skip


def _label(status: str) -> str:
    return str(Status(status).label) if status in Status.values else status


def _switched(endpoint: Endpoint, since: datetime, until: datetime) -> Iterable[Mark]:
    if endpoint.is_preset:
        return
    events = SwitchEvent.objects.filter(switch__endpoint=endpoint, at__gte=since, at__lte=until).exclude(
        kind__in=_QUIET
    )
    for event in events.order_by("-at", "-id")[: MOST + 1]:
        what = str(event.get_kind_display())
        if event.weight != event.from_weight:
            what = _("%(what)s: %(before)d %% → %(after)d %%") % {
                "what": what, "before": event.from_weight, "after": event.weight,
            }  # fmt: skip
        yield Mark(
            at=event.at, kind="switch", title=_("Version switch. %(what)s") % {"what": what},
            by=_name(event.actor_id, event.actor_name),
            detail=" ".join(part for part in (switching.event_sentence(event), event.reason) if part),
            url=reverse("endpoints:switch_past", args=[endpoint.pk, event.switch_id]),
        )  # fmt: skip


def _edited(endpoint: Endpoint, since: datetime, until: datetime) -> Iterable[Mark]:
    events = Event.objects.filter(
        resource=endpoint.trn, action=services.UPDATE, outcome=Event.Outcome.ALLOWED, at__gte=since, at__lte=until
    )
    words = forms.labels()
    for event in events.order_by("-at")[: MOST + 1]:
        yield Mark(
            at=event.at, kind="edit", title=_title(event.changes), by=_name(event.actor_id, event.actor_name),
            detail="; ".join(
                f"{words.get(name, name)}: {forms.as_text(before) or '–'} → {forms.as_text(after) or '–'}"
                for name, (before, after) in event.changes.items()
            ),
            url=endpoint.get_absolute_url(),
        )  # fmt: skip


def _title(changes: Mapping[str, Any]) -> str:
    return _("Limits changed") if {"rpm", "tpm"} & set(changes) else _("Edited")


def _served(endpoint: Endpoint, since: datetime, until: datetime, *, shows_servers: bool) -> Iterable[Mark]:
    """When a model server behind the endpoint went or came back, and what people did to it or to its deployments."""
    versions = {version.trn: version.pk for version in _versions(endpoint, since, until)}
    servers = ModelServer.objects.filter(deployments__version__in=versions.values()).defer("api_key").distinct()
    behind = {server.trn: server for server in servers}
    titles = {trn: _server(server.name if shows_servers else "") for trn, server in behind.items()}
    moved = ServerEvent.objects.filter(server__in=[server.pk for server in behind.values()])
    for move in moved.filter(at__gte=since, at__lte=until).select_related("server").order_by("-at", "-id")[: MOST + 1]:
        why = move.get_reason_display() if move.reason else ""
        yield Mark(
            at=move.at, kind="server", title=_server_title(titles[move.server.trn], move), by="",
            detail=" ".join(part for part in (str(why), move.detail if shows_servers else "") if part), url="",
        )  # fmt: skip
    # What else is recorded of a server (it was tested, or made before anything ran there) changed nothing.
    done = Event.objects.filter(
        Q(resource__in=behind, action="ark:UpdateModelServer") | Q(resource__in=versions, action__in=_DEPLOYMENTS),
        project_id=GLOBAL, outcome=Event.Outcome.ALLOWED, at__gte=since, at__lte=until,
    )  # fmt: skip
    for event in done.exclude(changes={}).order_by("-at")[: MOST + 1]:
        yield Mark(
            at=event.at, kind="server", title=_done_title(titles.get(event.resource) or _server(""), event),
            by=_name(event.actor_id, event.actor_name), detail=_done_detail(event, shows_servers=shows_servers), url="",
        )  # fmt: skip


def _versions(endpoint: Endpoint, since: datetime, until: datetime) -> list[ModelVersion]:
    """What served the endpoint in that time: its version, and both sides of its switches."""
    switches = VersionSwitch.objects.filter(endpoint=endpoint, created_at__lte=until)
    sides = switches.filter(Q(ended_at__isnull=True) | Q(ended_at__gte=since)).values_list("source_id", "target_id")
    known = {pk for pair in sides for pk in pair} | {endpoint.version_id}
    return list(ModelVersion.objects.filter(pk__in=known).select_related("model"))


def _server(name: str) -> str:
    return _("Model server %(name)s") % {"name": name} if name else _("A model server")


def _server_title(what: str, move: ServerEvent) -> str:
    states = ModelServer.State
    match (move.from_state, move.to_state):
        case (_before, states.DOWN):
            return _("%(what)s stopped answering") % {"what": what}
        case (states.DOWN, states.UP):
            return _("%(what)s answers again") % {"what": what}
    return f"{what}: {move.get_to_state_display()}"


_DEPLOYMENTS = ("ark:CreateModelDeployment", "ark:UpdateModelDeployment", "ark:DeleteModelDeployment")


def _done_title(what: str, event: Event) -> str:
    before, after = event.changes.get("is_enabled", (None, None))
    match event.action:
        case "ark:CreateModelDeployment":
            return _("A model server was added to the version")
        case "ark:DeleteModelDeployment":
            return _("A model server was taken from the version")
    if before is True and after is False:
        # Calls that run there end where they began.
        return _("%(what)s was switched off: no new calls go to it") % {"what": what}
    if before is False and after is True:
        return _("%(what)s was switched on") % {"what": what}
    return _("Model server changed")


def _done_detail(event: Event, *, shows_servers: bool) -> str:
    model = Deployment if event.action in _DEPLOYMENTS else ModelServer
    words = {field.name: str(field.verbose_name) for field in model._meta.concrete_fields}
    # The title says whether it was switched on or off.
    changed = {words.get(name, name): pair for name, pair in sorted(event.changes.items()) if name != "is_enabled"}
    if not shows_servers:
        return ", ".join(changed)
    return "; ".join(
        f"{name}: {forms.as_text(before) or '–'} → {forms.as_text(after) or '–'}"
        for name, (before, after) in changed.items()
    )


def _band(endpoint: Endpoint, moves: Sequence[EndpointEvent], since: datetime, until: datetime) -> list[dict[str, Any]]:
    """The status over the range; moves oldest first. Where nothing is known of it (before it was made) there is a gap."""
    segments: list[dict[str, Any]] = []
    status, begun = _before(endpoint, moves, since)
    for event in moves:
        _lay(segments, status, begun, event.at)
        status, begun = event.to_status, event.at
    _lay(segments, status, begun, until)
    return segments


def _before(endpoint: Endpoint, moves: Sequence[EndpointEvent], since: datetime) -> tuple[str, datetime]:
    """The status at the beginning, and the moment from which it is known."""
    begun = max(since, endpoint.created_at)
    if moves:
        # More than there is room for: what is known begins with the oldest that was read.
        return moves[0].from_status, begun if len(moves) < MOST_MOVES else moves[0].at
    last = endpoint.events.filter(at__lt=since).order_by("-at", "-id").values_list("to_status", flat=True).first()
    return last or endpoint.status, begun


def _lay(segments: list[dict[str, Any]], status: str, begun: datetime, ended: datetime) -> None:
    if status not in Status.values or ended <= begun:
        return
    if segments and segments[-1]["status"] == status and segments[-1]["to"] == begun.timestamp():
        segments[-1]["to"] = ended.timestamp()
        return
    segments.append(
        {
            "from": begun.timestamp(),
            "to": ended.timestamp(),
            "status": status,
            "label": _label(status),
            "tone": TONES[Status(status)],
        }
    )
