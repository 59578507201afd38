"""What the pages of events and silences show, gathered from several rooms in a fixed number of queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

from django.db.models import Prefetch
from django.urls import reverse
from django.utils import timezone
from django.utils.dates import WEEKDAYS_ABBR
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from alerts import actions, chain, channels, event_queries, messages, notifications, silences, templates
from alerts.models import AlertEvent, Delivery, EventNote, Notification, Phase, Rule, Silence, SyncState
from catalog.models import ModelServer
from common.templatetags import ark
from endpoints import services as endpoint_services
from endpoints import switch_presentation, switch_services, switching
from endpoints.models import Endpoint, VersionSwitch
from endpoints.switching import Verb
from iam.actors import Actor, Resource
from metering import ledger
from monitoring import marks
from monitoring.filters import MonitoringFilters

BEFORE = timedelta(hours=2)
"""How far before an event its cause is looked for."""
MOST_CHANGES = 40
MOST_NOTIFICATIONS = 30
SIMILAR_SHOWN = 8
SIMILAR_COUNTED = 200
NAMES_SHOWN = 2
LIMIT_RULES = frozenset({"throttle_rate", "tpm_usage", "rpm_usage"})
"""Template rules that a higher limit of the endpoint answers."""

_LEVELS = {"P0": "al-p0", "P1": "al-p1", "P2": "al-p2"}
_DOTS = {Phase.PENDING: "ark-dot-warn", Phase.FIRING: "ark-dot-bad", Phase.RESOLVED: "ark-dot-good"}


# --- one event in words ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sentence:
    """An event in one line: `name` and `comparison` (7.3% > 5%), and how it stands (`state`, with `dot`)."""

    name: str
    comparison: str
    value: str
    limit: str
    state: str
    dot: str
    level_css: str


def sentence(event: AlertEvent, *, now: datetime) -> Sentence:
    """Reads `event.rule` and its group."""
    rule = event.rule
    unit = rule.unit if rule else ""
    value = "" if event.value is None else messages.figure(event.value, unit)
    limit = "" if event.threshold is None else messages.figure(event.threshold, unit)
    if event.threshold is not None:
        comparison = f"{value or '–'} {event.comparator} {limit}"
    else:
        comparison = value
    return Sentence(
        name=rule_name(event), comparison=comparison, value=value, limit=limit, state=_state(event, now=now),
        dot=_DOTS[Phase(event.phase)], level_css=_LEVELS.get(event.level, ""),
    )  # fmt: skip


def rule_name(event: AlertEvent) -> str:
    """The rule's name, in the reader's language where it is one of the default rules."""
    default = event.rule_name or str(event.labels.get("alertname", ""))
    if event.rule is None or event.rule.kind != Rule.Kind.TEMPLATE:
        return default
    return templates.name_of(template_id=event.rule.group.template_id, key=event.rule.key, default=default)


def _state(event: AlertEvent, *, now: datetime) -> str:
    """How it stands and for how long."""
    if event.phase == Phase.PENDING:
        return _("Pending for %(time)s") % {"time": messages.duration(now - event.starts_at)}
    if event.phase == Phase.FIRING:
        return _("Firing for %(time)s") % {"time": messages.duration(now - event.starts_at)}
    return _("Resolved, lasted %(time)s") % {"time": messages.duration((event.ends_at or now) - event.starts_at)}


# --- the list ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of the list; `told` are the first names, `more` how many others there are."""

    event: AlertEvent
    says: Sentence
    endpoint: str
    told: Sequence[str]
    more: int


def rows(events: Sequence[AlertEvent], *, now: datetime) -> list[Row]:
    """The lines for `events`: two queries, however many there are."""
    if not events:
        return []
    told = event_queries.told_names(events)
    names = event_queries.endpoint_names([event.endpoint_id for event in events])
    return [
        Row(
            event=event,
            says=sentence(event, now=now),
            endpoint=names.get(event.endpoint_id, event.endpoint_id),
            told=told.get(event.pk, [])[:NAMES_SHOWN],
            more=max(len(told.get(event.pk, [])) - NAMES_SHOWN, 0),
        )
        for event in events
    ]


# --- what a person may press ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Buttons:
    """What fits the event and the person; a button that cannot work is not shown."""

    acknowledge: bool
    take_back: bool
    note: bool
    silence: bool
    end_silence: bool
    switch: VersionSwitch | None
    raise_limit: bool

    @property
    def any(self) -> bool:
        return self.acknowledge or self.silence or self.raise_limit or self.switch is not None


def buttons(event: AlertEvent, endpoint: Endpoint | None, *, by: Actor) -> Buttons:
    """At most one query, for the endpoint's open switch."""
    project = event.project
    may_update = by.can(actions.UPDATE_ALERT, cast(Resource, event))
    return Buttons(
        acknowledge=may_update and event.is_open and event.acknowledged_at is None,
        take_back=may_update and event.is_open and event.acknowledged_at is not None,
        note=may_update,
        silence=project is not None and event.is_open and by.can(actions.CREATE_SILENCE, project),
        end_silence=project is not None and by.can(actions.DELETE_SILENCE, project),
        switch=_switch_to_roll_back(endpoint, by=by),
        raise_limit=endpoint is not None
        and event.rule_key in LIMIT_RULES
        and by.can(endpoint_services.UPDATE, endpoint),
    )


def _switch_to_roll_back(endpoint: Endpoint | None, *, by: Actor) -> VersionSwitch | None:
    if endpoint is None or endpoint.is_preset or not by.can(switch_services.ROLL_BACK, endpoint):
        return None
    found = switch_services.open_switch(endpoint.pk)
    return found if found is not None and Verb.ROLL_BACK in switching.verbs(found) else None


# --- the endpoint --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EndpointNow:
    """The endpoint as it is now. `servers` are those behind its version; their names are for staff."""

    endpoint: Endpoint
    pressure: ledger.Pressure | None
    servers: Sequence[ModelServer]
    switch: VersionSwitch | None
    monitoring_url: str

    @property
    def servers_up(self) -> int:
        return sum(1 for server in self.servers if server.is_live)


def endpoint_of(event: AlertEvent) -> Endpoint | None:
    """The endpoint that the event is about, unless it is gone, or of another project; one query."""
    if not event.endpoint_id or event.project_id is None:
        return None
    return Endpoint.objects.alive().for_list().filter(pk=event.endpoint_id, project_id=event.project_id).first()


def endpoint_now(event: AlertEvent, endpoint: Endpoint, *, now: datetime) -> EndpointNow:
    """Three queries."""
    limits = {endpoint.pk: (endpoint.rpm, endpoint.tpm)}
    since, until = span(event, now=now)
    query = urlencode({"from": int(since.timestamp()), "to": int(until.timestamp())})
    servers = ModelServer.objects.filter(deployments__version=endpoint.version, deployments__is_enabled=True)
    return EndpointNow(
        endpoint=endpoint,
        pressure=ledger.pressure(limits, now=now).get(endpoint.pk),
        servers=list(servers.defer("api_key").distinct()),
        switch=switch_presentation.open_switches([endpoint]).get(endpoint.pk),
        monitoring_url=f"{reverse('monitoring:endpoint', args=[endpoint.pk])}?{query}",
    )


def servers_of(endpoint: Endpoint) -> dict[str, str]:
    """The names of the model servers behind the endpoint's version, by id as a label; one query."""
    found = ModelServer.objects.filter(deployments__version=endpoint.version).distinct().values_list("pk", "name")
    return {str(pk): name for pk, name in found}


def span(event: AlertEvent, *, now: datetime) -> tuple[datetime, datetime]:
    """From two hours before the event until a while after its end, or now."""
    since = (event.pending_at or event.starts_at) - BEFORE
    until = now if event.ends_at is None else min(event.ends_at + timedelta(minutes=30), now)
    return since, max(until, since + timedelta(minutes=5))


# --- what changed --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One thing that changed around the event; `when` is its distance from the event's beginning."""

    at: datetime
    when: str
    is_before: bool
    kind: str
    title: str
    by: str
    detail: str
    url: str


@dataclass(frozen=True)
class Changes:
    """The changes nearest to the event's beginning; `has_more`: there were others."""

    nearest: list[Change]
    has_more: bool


def changes(event: AlertEvent, endpoint: Endpoint, *, is_staff: bool, now: datetime) -> Changes:
    """What changed from two hours before the event on: what came before it, the nearest first, then the rest.

    Nine queries; nine more where so much changed that the latest alone would be from after its beginning.
    """
    since, until = span(event, now=now)
    begun = event.pending_at or event.starts_at
    found, are_all = _marked(endpoint, since, until, is_staff=is_staff, now=now)
    if not are_all:
        before, _are_all = _marked(endpoint, since, begun, is_staff=is_staff, now=now)
        found = [each for each in before if each[0] <= begun] + [each for each in found if each[0] > begun]
    # What came last before it is the likeliest cause, so it is read first.
    found.sort(key=lambda each: (each[0] > begun, abs(each[0] - begun)))
    nearest = [
        Change(at, _distance(at, begun), at <= begun, kind, title, by, detail, url)
        for at, kind, title, by, detail, url in found[:MOST_CHANGES]
    ]
    return Changes(nearest, not are_all or len(found) > MOST_CHANGES)


def _marked(
    endpoint: Endpoint, since: datetime, until: datetime, *, is_staff: bool, now: datetime
) -> tuple[list[tuple[datetime, str, str, str, str, str]], bool]:
    """The latest marks of a time, and whether these are all."""
    asked = MonitoringFilters(now=now, from_=int(since.timestamp()), to=int(until.timestamp()) + 1)
    answer = marks.marks(endpoint, asked, shows_servers=is_staff)
    found = [
        (datetime.fromtimestamp(mark["at"], UTC), mark["kind"], mark["title"], mark["by"], mark["detail"], mark["url"])
        for mark in answer["marks"]
    ]
    return found, not answer["note"]


def _distance(at: datetime, begun: datetime) -> str:
    words = {"time": messages.duration(abs(at - begun))}
    return _("%(time)s before") % words if at <= begun else _("%(time)s after") % words


# --- who was told --------------------------------------------------------------------------------------------------------

_DELIVERY_DOTS = {
    Delivery.State.QUEUED: "ark-dot-busy",
    Delivery.State.SENDING: "ark-dot-busy",
    Delivery.State.SENT: "ark-dot-good",
    # Within a summary that is gone: nobody knows any more.
    Delivery.State.DIGESTED: "ark-dot-idle",
    Delivery.State.FAILED: "ark-dot-bad",
    Delivery.State.SKIPPED: "ark-dot-idle",
}


@dataclass(frozen=True)
class DeliveryLine:
    """One message to one address: how it went (`facts`, with the answer as it was given), and what to do (`advice`).

    Of one that became part of a summary, it is the summary that went so.
    """

    delivery: Delivery
    state: str
    dot: str
    facts: Sequence[str]
    advice: str
    is_waiting: bool


@dataclass(frozen=True)
class Message:
    """One notification that spoke of the event."""

    notification: Notification
    title: str
    others: int
    lines: Sequence[DeliveryLine]


@dataclass(frozen=True)
class Told:
    """Who was told; `nobody` says why not where there is no message."""

    messages: Sequence[Message]
    nobody: str
    is_moving: bool


def told(event: AlertEvent) -> Told:
    """Newest first; two queries."""
    deliveries = Prefetch("deliveries", Delivery.objects.select_related("digested_into"))
    found = list(event.notifications.select_related("policy").prefetch_related(deliveries)[: MOST_NOTIFICATIONS + 1])
    said = [(notification.told, _has_reached(notification)) for notification in found]
    has_more, shown = len(found) > MOST_NOTIFICATIONS, []
    for place, notification in enumerate(found[:MOST_NOTIFICATIONS]):
        repeat = notifications.times_told(str(event.pk), said[place + 1 :])
        if repeat and has_more:
            # Of more than are looked at the slot has counted on.
            repeat = max(repeat, notification.slot)
        shown.append(_message(event, notification, repeat=repeat))
    is_waiting = any(line.is_waiting for message in shown for line in message.lines)
    return Told(shown, "" if shown else _why_nobody(event), is_waiting or event.is_open)


def _has_reached(notification: Notification) -> bool:
    """Whether anybody has got it, by itself or within a summary."""
    return any(_as_sent(row).state == Delivery.State.SENT for row in notification.deliveries.all())


def _as_sent(row: Delivery) -> Delivery:
    """The delivery that it went as."""
    return row.digested_into if row.state == Delivery.State.DIGESTED and row.digested_into else row


def _message(event: AlertEvent, notification: Notification, *, repeat: int) -> Message:
    is_over = notification.told.get(str(event.pk), notification.status) == Notification.Status.RESOLVED
    if is_over:
        title = _("It is over")
    elif repeat:
        title = _("It still fires (repeat %(number)d)") % {"number": repeat}
    else:
        title = _("It fires")
    return Message(
        notification=notification,
        title=title,
        others=max(len(notification.told) - 1, 0),
        lines=[_line(delivery) for delivery in sorted(notification.deliveries.all(), key=lambda one: one.pk)],
    )


def _line(row: Delivery) -> DeliveryLine:
    delivery = _as_sent(row)
    is_sent = delivery.state == Delivery.State.SENT
    is_waiting = delivery.state in (Delivery.State.QUEUED, Delivery.State.SENDING)
    parts = [
        timezone.localtime(delivery.sent_at).strftime("%Y-%m-%d %H:%M:%S") if delivery.sent_at else "",
        f"HTTP {delivery.answer_status}" if delivery.answer_status else "",
        delivery.answer_code if delivery.state != Delivery.State.SKIPPED else "",
        delivery.answer_text,
        "" if delivery.latency_ms is None else f"{delivery.latency_ms} ms",
        _("%(count)d attempts") % {"count": delivery.attempts} if delivery.attempts > 1 else "",
        _("next try %(when)s") % {"when": ark.relative(delivery.next_at, now=timezone.now())}
        if is_waiting and delivery.attempts and delivery.next_at
        else "",
        _("an answer was lost: it may have arrived twice") if delivery.may_repeat else "",
    ]
    return DeliveryLine(
        delivery=row,
        state=row.get_state_display() if is_sent else delivery.get_state_display(),
        dot=_DELIVERY_DOTS[Delivery.State(delivery.state)],
        facts=[part for part in parts if part],
        advice="" if is_sent else channels.explain(delivery.kind, delivery.answer_code),
        is_waiting=is_waiting,
    )


def _why_nobody(event: AlertEvent) -> str:
    if event.phase == Phase.PENDING:
        return _("Nobody yet: it is told when the condition has held for long enough.")
    if not event.has_policy:
        return _("Nobody: no notification policy is chosen for this rule.")
    if event.is_silenced:
        return _("Nobody: it is silenced.")
    if event.is_inhibited:
        return _("Nobody: a worse alert of the same cause speaks for it.")
    if event.is_open:
        whole = chain.look(now=timezone.now())
        if whole.where == chain.Break.NO_ALERTMANAGER:
            return whole.sentence()
        return _("Nobody yet: the policy's first wait has not passed.")
    return _("Nobody: it was over before the policy's first wait had passed, or the policy tells nobody of this level.")


# --- its log -------------------------------------------------------------------------------------------------------------

_NOTE_DOTS: dict[str, str] = {
    EventNote.Kind.FIRING: "ark-dot-bad",
    EventNote.Kind.PENDING: "ark-dot-warn",
    EventNote.Kind.RESOLVED: "ark-dot-good",
    EventNote.Kind.EXPIRED: "ark-dot-good",
}


@dataclass(frozen=True)
class LogLine:
    note: EventNote
    dot: str


def log(event: AlertEvent) -> list[LogLine]:
    """What happened with it, newest first; one query."""
    return [
        LogLine(note, _NOTE_DOTS.get(note.kind, "ark-dot-idle")) for note in event.notes.order_by("-at", "-id")[:100]
    ]


@dataclass(frozen=True)
class Similar:
    """The same rule on the same endpoint before; `usual` is how long half of those that are over took at most."""

    events: Sequence[AlertEvent]
    count: int
    is_more: bool
    usual: str
    lines: Sequence[Row]


def similar(event: AlertEvent, *, now: datetime) -> Similar:
    """Three queries."""
    found = list(event_queries.similar(event).for_list().order_by("-starts_at", "-id")[: SIMILAR_COUNTED + 1])
    lasted = sorted(each.ends_at - each.starts_at for each in found if each.ends_at is not None)
    return Similar(
        events=found[:SIMILAR_SHOWN],
        count=min(len(found), SIMILAR_COUNTED),
        is_more=len(found) > SIMILAR_COUNTED,
        usual=messages.duration(lasted[len(lasted) // 2]) if lasted else "",
        lines=rows(found[:SIMILAR_SHOWN], now=now),
    )


# --- silences ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SilenceRow:
    """A silence in words: what it covers, when, and how it stands."""

    silence: Silence
    what: Sequence[str]
    when: str
    state: str
    dot: str
    may_end: bool
    is_over: bool


def silence_rows(found: Sequence[Silence], *, by: Actor, now: datetime) -> list[SilenceRow]:
    """Two queries, however many there are."""
    endpoints = event_queries.endpoint_names([each.matchers.get("ark_endpoint", "") for each in found])
    rules = rule_names({each.matchers.get("alertname", "") for each in found})
    return [_silence_row(each, endpoints, rules, by=by, now=now) for each in found]


def _silence_row(
    silence: Silence, endpoints: Mapping[str, str], rules: Mapping[str, str], *, by: Actor, now: datetime
) -> SilenceRow:
    held = silences.window(silence, now=now)
    is_over = held is None
    state, dot = pgettext("silence", "Ended"), "ark-dot-idle"
    if held is not None:
        is_now = held.holds(now)
        state = _("Silent now") if is_now else _("Silent %(when)s") % {"when": moment(held.starts_at)}
        dot = "ark-dot-warn" if is_now else "ark-dot-idle"
        if is_now and silence.sync_state == SyncState.FAILED:
            state, dot = _("Not in force"), "ark-dot-bad"
    return SilenceRow(
        silence=silence,
        what=[
            _matcher(name, silence.matchers[name], endpoints, rules) for name in sorted(silence.matchers, key=_place)
        ],
        when=_when(silence),
        state=state,
        dot=dot,
        may_end=not is_over and by.can(actions.DELETE_SILENCE, silence),
        is_over=is_over,
    )


_MATCHERS = ("ark_endpoint", "alertname", "level")


def _place(name: str) -> tuple[int, str]:
    """Where a label is read: databases keep no order of their own."""
    return (_MATCHERS.index(name) if name in _MATCHERS else len(_MATCHERS), name)


def _matcher(name: str, value: str, endpoints: Mapping[str, str], rules: Mapping[str, str]) -> str:
    match name:
        case "ark_endpoint":
            return _("endpoint %(name)s") % {"name": endpoints.get(value, value)}
        case "alertname":
            return _("rule %(name)s") % {"name": rules.get(value, value)}
        case "level":
            return _("level %(name)s") % {"name": value}
    return f"{name} = {value}"


def rule_names(alertnames: Iterable[str]) -> dict[str, str]:
    """What people call the rules behind the label `alertname`; one query where there are rules of their own."""
    wanted = {each for each in alertnames if each}
    named = {}
    own = {name: int(name[4:]) for name in wanted if name.startswith("own_") and name[4:].isdecimal()}
    if own:
        found = dict(Rule.objects.filter(pk__in=own.values()).values_list("pk", "name"))
        named = {name: found[pk] for name, pk in own.items() if pk in found}
    for name in wanted - named.keys():
        named[name] = templates.name_of(template_id=templates.CURRENT.id, key=name, default=name)
    return named


def _when(silence: Silence) -> str:
    ends = silence.ended_at or silence.ends_at
    whole = _("%(from)s until %(to)s") % {"from": moment(silence.starts_at), "to": moment(ends)}
    if not silence.weekly:
        return whole
    plan = silence.weekly
    days = _("every day") if len(plan["days"]) == 7 else _(", ").join(str(WEEKDAYS_ABBR[day]) for day in plan["days"])
    hours = _("%(days)s %(from)s to %(to)s (%(zone)s)") % {
        "days": days, "from": plan["from"], "to": plan["to"], "zone": plan["zone"],
    }  # fmt: skip
    return _("%(hours)s, until %(to)s") % {"hours": hours, "to": moment(ends)}


def moment(at: datetime) -> str:
    """Time of day in the reader's zone, with the day where it is not today."""
    local, today = timezone.localtime(at), timezone.localtime()
    if local.date() == today.date():
        return f"{local:%H:%M}"
    return f"{local:%m-%d %H:%M}" if local.year == today.year else f"{local:%Y-%m-%d %H:%M}"


def covering(event: AlertEvent, *, by: Actor, now: datetime) -> list[SilenceRow]:
    """The silences that cover the event now or later."""
    return silence_rows(silences.of_event(event, now=now), by=by, now=now) if event.project_id else []
