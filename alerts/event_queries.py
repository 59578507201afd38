"""What the list of events may be asked for, and the rows that answer. All of it is in the address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import Exists, OuterRef, Q
from django.utils import timezone
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
OFFERED = 200
"""Endpoints that a select offers; where there are more, a part of the name or the id is typed."""
ID_PREFIX = "ep-"
YEARS = (2000, 2200)
"""At the ends of time there is no other zone to go to."""

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
    since: datetime | None = None
    until: datetime | None = None
    """An own range, to the minute; it wins over `time`."""

    @classmethod
    def of(cls, data: Mapping[str, str]) -> Filters:
        """What `data` asks for; what makes no sense narrows nothing."""

        def one(name: str, known: Sequence[str]) -> str:
            value = data.get(name, "")
            return value if value in known else ""

        since, until = _moment(data.get("from", "")), _moment(data.get("to", ""))
        return cls(
            endpoint=" ".join(data.get("endpoint", "").replace("\0", "").split())[:64],
            level=one("level", Level.values),
            phase=one("phase", Phase.values),
            mark=one("mark", list(dict(MARKS))),
            time="" if since or until else one("time", list(SPANS)),
            since=since,
            until=until,
        )

    @property
    def is_filtered(self) -> bool:
        return any((self.endpoint, self.level, self.phase, self.mark, self.time, self.since, self.until))

    @property
    def own_range(self) -> tuple[str, str]:
        """`since` and `until` as the browser's fields take them, in the reader's zone."""
        return _field(self.since), _field(self.until)


def _moment(text: str) -> datetime | None:
    """Epoch seconds, or a date and time as browsers send it (in the reader's zone); None when it is neither."""
    try:
        at = datetime.fromtimestamp(int(text), UTC) if text.isdecimal() else datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        return None
    if not YEARS[0] <= at.year <= YEARS[1]:
        return None
    return timezone.make_aware(at) if at.tzinfo is None else at


def _field(at: datetime | None) -> str:
    return f"{timezone.localtime(at):%Y-%m-%dT%H:%M}" if at else ""


def events(filters: Filters, *, project: Project, now: datetime) -> AlertEventQuerySet:
    """The events of a project that `filters` let through; of the installation itself where those are asked for."""
    rows = AlertEvent.objects.for_list()
    if filters.endpoint == INSTALLATION:
        rows = rows.filter(project__isnull=True)
    else:
        rows = rows.filter(project=project)
        if filters.endpoint:
            rows = rows.filter(_of_endpoint(filters.endpoint, project))
    if filters.level:
        rows = rows.filter(level=filters.level)
    if filters.phase:
        rows = rows.filter(phase=filters.phase)
    if filters.time:
        rows = rows.filter(starts_at__gte=now - SPANS[filters.time])
    if filters.since:
        rows = rows.filter(starts_at__gte=filters.since)
    if filters.until:
        # The field says minutes: the whole of the last one is meant.
        rows = rows.filter(starts_at__lt=filters.until + timedelta(minutes=1))
    return _marked(rows, filters.mark)


def _of_endpoint(text: str, project: Project) -> Q:
    """Events of the endpoints that are meant: with the text in their name or id, or of that id where it is gone."""
    meant = Endpoint.objects.filter(Q(name__icontains=text) | Q(pk__icontains=text), project=project).order_by()
    if text.startswith(ID_PREFIX) and not meant.exclude(pk=text).exists():
        # The whole id, as pages link to it: the index of endpoints answers that.
        return Q(endpoint_id=text)
    return Q(endpoint_id__in=meant.values("pk"))


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
    """One choice in the bar above the list; `is_typed`: there are too many, so `options` are but proposals."""

    name: str
    label: str
    all: str
    options: Sequence[tuple[str, Label]]
    chosen: str
    is_typed: bool = False


def selects(filters: Filters, *, project: Project, is_staff: bool) -> list[Select]:
    """The choices above the list; two queries, neither of which looks at events that are over."""
    return [
        Select("phase", _("State"), _("All states"), Phase.choices, filters.phase),
        Select("level", _("Level"), _("All levels"), Level.choices, filters.level),
        _of_endpoints(filters.endpoint, project=project, is_staff=is_staff),
        Select("time", _("Since"), _("Last 90 days"), TIMES, filters.time),
        Select("mark", _("Told"), _("Told or not"), MARKS, filters.mark),
    ]


def _of_endpoints(chosen: str, *, project: Project, is_staff: bool) -> Select:
    rows = Endpoint.objects.alive().filter(project=project).order_by("name", "pk").values_list("pk", "name")
    found: list[tuple[str, Label]] = list(rows[: OFFERED + 1])
    is_typed = len(found) > OFFERED
    if is_typed:
        # What fires now is what is mostly looked for.
        firing = AlertEvent.objects.open().filter(project=project).exclude(endpoint_id="").order_by()
        ids = firing.values_list("endpoint_id", flat=True).distinct()[:OFFERED]
        found = sorted(endpoint_names(list(ids)).items(), key=lambda one: one[1])
    elif chosen not in ("", INSTALLATION, *dict(found)):
        name = Endpoint.objects.filter(pk=chosen, project=project).values_list("name", flat=True).first()
        found.append((chosen, name or chosen))
    if is_staff:
        found.append((INSTALLATION, _("The installation itself")))
    return Select("endpoint", _("Endpoint"), _("All endpoints"), found, chosen, is_typed=is_typed)


def similar(event: AlertEvent) -> AlertEventQuerySet:
    """The same rule on the same endpoint in the 30 days before the event, newest first."""
    return AlertEvent.objects.filter(
        project_id=event.project_id, endpoint_id=event.endpoint_id, rule_key=event.rule_key,
        starts_at__gte=event.starts_at - SIMILAR_SPAN, starts_at__lte=event.starts_at,
    ).exclude(pk=event.pk)  # fmt: skip
