"""What the list of events may be asked for, and the rows that answer. All of it is in the address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, Q
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from alerts.models import AlertEvent, AlertEventQuerySet, Delivery, Level, Notification, Phase
from endpoints.models import Endpoint
from iam.models import Project

ORDER = ("-starts_at", "-id")
INSTALLATION = "-"
"""Stands for an endpoint where events of the installation itself are meant."""
SIMILAR_SPAN = timedelta(days=30)

REACHED = Q(notification__deliveries__state=Delivery.State.SENT) | Q(
    notification__deliveries__state=Delivery.State.DIGESTED,
    notification__deliveries__digested_into__state=Delivery.State.SENT,
)
"""Deliveries that somebody has got: sent, or within a summary that was."""

Told = Notification.events.through

SPANS: Mapping[str, timedelta] = {
    "1h": timedelta(hours=1),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
Label = str | Promise
TIMES: Sequence[tuple[str, Label]] = (
    ("1h", gettext_lazy("Last hour")),
    ("24h", gettext_lazy("Last 24 hours")),
    ("7d", gettext_lazy("Last 7 days")),
    ("30d", gettext_lazy("Last 30 days")),
)
MARKS: Sequence[tuple[str, Label]] = (
    ("told", gettext_lazy("Somebody was told")),
    ("untold", gettext_lazy("Nobody was told")),
    ("silenced", gettext_lazy("Silenced")),
    ("inhibited", gettext_lazy("Inhibited")),
    ("unseen", gettext_lazy("Not acknowledged")),
)


@dataclass(frozen=True, slots=True)
class Filters:
    """What was understood; "" narrows nothing."""

    endpoint: str = ""
    level: str = ""
    phase: str = ""
    mark: str = ""
    time: str = ""

    @classmethod
    def of(cls, data: Mapping[str, str]) -> Filters:
        """What `data` asks for; what makes no sense narrows nothing."""

        def one(name: str, known: Sequence[str]) -> str:
            value = data.get(name, "")
            return value if value in known else ""

        return cls(
            endpoint=data.get("endpoint", "").replace("\0", "")[:64],
            level=one("level", Level.values),
            phase=one("phase", Phase.values),
            mark=one("mark", list(dict(MARKS))),
            time=one("time", list(SPANS)),
        )

    @property
    def is_filtered(self) -> bool:
        return any((self.endpoint, self.level, self.phase, self.mark, self.time))


def events(filters: Filters, *, project: Project, now: datetime) -> AlertEventQuerySet:
    """The events of a project that `filters` let through; of the installation itself where those are asked for."""
    rows = AlertEvent.objects.for_list()
    if filters.endpoint == INSTALLATION:
        rows = rows.filter(project__isnull=True)
    else:
        rows = rows.filter(project=project)
        if filters.endpoint:
            rows = rows.filter(endpoint_id=filters.endpoint)
    if filters.level:
        rows = rows.filter(level=filters.level)
    if filters.phase:
        rows = rows.filter(phase=filters.phase)
    if filters.time:
        rows = rows.filter(starts_at__gte=now - SPANS[filters.time])
    return _marked(rows, filters.mark)


def _marked(rows: AlertEventQuerySet, mark: str) -> AlertEventQuerySet:
    match mark:
        case "silenced":
            return rows.filter(is_silenced=True)
        case "inhibited":
            return rows.filter(is_inhibited=True)
        case "unseen":
            return rows.filter(acknowledged_at__isnull=True)
        case "told":
            return rows.filter(_was_told())
        case "untold":
            return rows.filter(~_was_told())
    return rows


def _was_told() -> Exists:
    return Exists(Told._default_manager.filter(REACHED, alertevent_id=OuterRef("pk")))


def told_names(events: Sequence[AlertEvent]) -> dict[int, list[str]]:
    """Whom each of `events` has reached, by name, alphabetically; one query."""
    found = (
        Told._default_manager.filter(REACHED, alertevent_id__in=[event.pk for event in events])
        .values_list("alertevent_id", "notification__deliveries__contact_name")
        .distinct()
        .order_by("notification__deliveries__contact_name")
    )
    names: dict[int, list[str]] = {}
    for event_id, name in found:
        names.setdefault(event_id, []).append(name)
    return names


def endpoint_names(ids: Sequence[str]) -> dict[str, str]:
    """What people call the endpoints, also those that are gone; one query."""
    wanted = {each for each in ids if each}
    return dict(Endpoint.objects.filter(pk__in=wanted).values_list("pk", "name")) if wanted else {}


@dataclass(frozen=True, slots=True)
class Select:
    """One choice in the bar above the list."""

    name: str
    label: str
    all: str
    options: Sequence[tuple[str, Label]]
    chosen: str


def selects(filters: Filters, *, project: Project, is_staff: bool) -> list[Select]:
    """The choices above the list; two queries."""
    used = AlertEvent.objects.filter(project=project).exclude(endpoint_id="").order_by()
    ids = sorted({*used.values_list("endpoint_id", flat=True).distinct(), filters.endpoint} - {"", INSTALLATION})
    names = endpoint_names(ids)
    endpoints: list[tuple[str, Label]] = sorted(((each, names.get(each, each)) for each in ids), key=lambda one: one[1])
    if is_staff:
        endpoints.append((INSTALLATION, _("The installation itself")))
    return [
        Select("phase", _("State"), _("All states"), Phase.choices, filters.phase),
        Select("level", _("Level"), _("All levels"), Level.choices, filters.level),
        Select("endpoint", _("Endpoint"), _("All endpoints"), endpoints, filters.endpoint),
        Select("time", _("Since"), _("Last 90 days"), TIMES, filters.time),
        Select("mark", _("Told"), _("Told or not"), MARKS, filters.mark),
    ]


def similar(event: AlertEvent) -> AlertEventQuerySet:
    """The same rule on the same endpoint in the 30 days before the event, newest first."""
    return AlertEvent.objects.filter(
        project_id=event.project_id, endpoint_id=event.endpoint_id, rule_key=event.rule_key,
        starts_at__gte=event.starts_at - SIMILAR_SPAN, starts_at__lte=event.starts_at,
    ).exclude(pk=event.pk)  # fmt: skip
