"""What the endpoint pages show, gathered from several rooms in a fixed number of queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils.translation import gettext as _

from audit.models import Event
from catalog.models import ModelVersion
from common.errors import DomainError, NotAllowed, Unavailable
from endpoints import forms, services, switch_presentation, switch_services, tryit
from endpoints.models import Endpoint, Status, VersionSwitch
from iam.actors import Actor
from iam.models import ApiKey
from metering import ledger
from metering.models import CallRecord

CHANGES_SHOWN = 5
CALLERS_SHOWN = 5
CALLERS_SPAN = timedelta(days=7)


@dataclass(frozen=True)
class May:
    """What the person may do with an endpoint as it is now; a button that cannot work is not shown."""

    update: bool
    start: bool
    stop: bool
    delete: bool

    @classmethod
    def of(cls, by: Actor, endpoint: Endpoint) -> May:
        is_stopped = endpoint.status == Status.STOPPED
        return cls(
            update=by.can(services.UPDATE, endpoint),
            start=not endpoint.is_preset and is_stopped and by.can(services.START, endpoint),
            stop=not endpoint.is_preset and not is_stopped and by.can(services.STOP, endpoint),
            delete=by.can(services.DELETE, endpoint),
        )


@dataclass(frozen=True)
class Row:
    """One line of the list. `is_fresh`: its status moved since the page last saw it."""

    endpoint: Endpoint
    usage: ledger.Usage24
    pressure: ledger.Pressure | None
    may: May
    switch: VersionSwitch | None = None
    is_fresh: bool = False

    @property
    def seen_switch(self) -> str:
        return seen_switch(self.switch)


def seen_switch(switch: VersionSwitch | None) -> str:
    """What a line shows of an open switch, for the question whether it is still so; "" without one."""
    return "" if switch is None else f"{switch.pk}.{switch.moves}"


def rows(endpoints: Sequence[Endpoint], *, by: Actor, now: datetime, is_fresh: bool = False) -> list[Row]:
    """The lines for `endpoints`: three queries, however many there are."""
    usage = ledger.usage_24h([endpoint.pk for endpoint in endpoints], now=now)
    pressure = ledger.pressure({endpoint.pk: (endpoint.rpm, endpoint.tpm) for endpoint in endpoints}, now=now)
    switches = switch_presentation.open_switches(endpoints)
    return [
        Row(
            endpoint,
            usage[endpoint.pk],
            pressure.get(endpoint.pk),
            May.of(by, endpoint),
            switches.get(endpoint.pk),
            is_fresh,
        )
        for endpoint in endpoints
    ]


@dataclass(frozen=True)
class Caller:
    """A key that called, by the name that people know it by."""

    name: str
    calls: int
    last_at: datetime


@dataclass(frozen=True)
class Impact:
    """Who called an endpoint in the last seven days: what breaks when it is stopped or deleted."""

    callers: Sequence[Caller]

    @property
    def calls(self) -> int:
        return sum(caller.calls for caller in self.callers)

    @property
    def shown(self) -> Sequence[Caller]:
        return self.callers[:CALLERS_SHOWN]

    @property
    def more(self) -> int:
        return max(len(self.callers) - CALLERS_SHOWN, 0)


def impact(endpoint: Endpoint, *, now: datetime) -> Impact:
    """Who called `endpoint` in the last seven days, most calls first; two queries."""
    found = ledger.callers(endpoint.pk, since=now - CALLERS_SPAN, now=now)
    names = key_names(caller.key_id for caller in found)
    return Impact([Caller(names[caller.key_id], caller.calls, caller.last_at) for caller in found])


def calling_keys(endpoint: Endpoint, *, now: datetime) -> dict[int, str]:
    """The keys that called in the last seven days, by id; two queries."""
    return key_names(caller.key_id for caller in ledger.callers(endpoint.pk, since=now - CALLERS_SPAN, now=now))


def answering_versions(endpoint: Endpoint, *, now: datetime) -> dict[int, str]:
    """The versions that answered in the last seven days, and the present one, by id; two queries."""
    found = {endpoint.version_id, *ledger.versions(endpoint.pk, since=now - CALLERS_SPAN, now=now)}
    rows = ModelVersion.objects.select_related("model").filter(pk__in=found)
    return {version.pk: version.public_id for version in rows}


def key_names(key_ids: Iterable[int]) -> dict[int, str]:
    """What people call the keys, also the console's own and those that are gone; one query."""
    wanted = set(key_ids)
    known = {key.pk: key for key in ApiKey.objects.filter(pk__in=wanted).only("name", "is_internal")} if wanted else {}
    return {
        key_id: (_("try-it in the console") if known[key_id].is_internal else known[key_id].name)
        if key_id in known
        else _("unknown key")
        for key_id in wanted
    }


@dataclass(frozen=True)
class FieldChange:
    """One field, before and after, as text."""

    label: str
    before: str
    after: str


@dataclass(frozen=True)
class Change:
    """One thing that somebody did to an endpoint."""

    at: datetime
    actor: str
    what: str
    fields: Sequence[FieldChange]


def recent_changes(endpoint: Endpoint) -> list[Change]:
    """The last changes from the audit record, newest first; one query. What was refused changed nothing."""
    done = {
        services.CREATE: _("created it"),
        services.UPDATE: _("edited it"),
        services.START: _("started it"),
        services.STOP: _("stopped it"),
        switch_services.START: _("started a version switch"),
        switch_services.ROLL_BACK: _("rolled a version switch back"),
        switch_services.FINISH: _("finished a version switch at once"),
    }
    events = Event.objects.filter(resource=endpoint.trn, action__in=done, outcome=Event.Outcome.ALLOWED)
    return [
        Change(
            at=event.at,
            actor=event.actor_name,
            what=done[event.action],
            fields=_field_changes(event) if event.action == services.UPDATE else [],
        )
        for event in events.order_by("-at", "-id")[:CHANGES_SHOWN]
    ]


def _field_changes(event: Event) -> list[FieldChange]:
    words = forms.labels()
    return [
        FieldChange(words.get(name, name), forms.as_text(before), forms.as_text(after))
        for name, (before, after) in event.changes.items()
    ]


def last_editor(endpoint: Endpoint) -> Event | None:
    """Who saved an edit last, for the person whose edit comes second."""
    saved = Event.objects.filter(resource=endpoint.trn, action=services.UPDATE, outcome=Event.Outcome.ALLOWED)
    return saved.order_by("-at", "-id").first()


@dataclass(frozen=True)
class Call:
    """One line of the calls: the record, and the names of what it speaks of."""

    record: CallRecord
    outcome: str
    dot: str
    key: str
    version: str


_CALL_DOTS = {"2": "ark-dot-good", "4": "ark-dot-warn", "5": "ark-dot-bad"}


def call_rows(records: Sequence[CallRecord]) -> list[Call]:
    """The lines for `records`: two queries, however many there are."""
    keys = key_names(record.key_id for record in records)
    versions = dict(
        ModelVersion.objects.filter(pk__in={record.version_id for record in records}).values_list("pk", "version")
    )
    return [
        Call(
            record=record,
            outcome=record.get_outcome_display(),
            dot=_CALL_DOTS.get(str(record.status)[0], "ark-dot-idle"),
            key=keys[record.key_id],
            version=versions.get(record.version_id, record.model_id),
        )
        for record in records
    ]


@dataclass(frozen=True)
class Attempt:
    """What came of trying an endpoint in a browser without JavaScript; `error` is "" when it was answered."""

    status: int
    code: str = ""
    error: str = ""
    answer: str = ""
    reasoning: str = ""
    duration_ms: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None

    @classmethod
    def of(cls, answer: tryit.Answer) -> Attempt:
        text = answer.text
        if answer.dimensions:
            beginning = ", ".join(f"{number:.5f}" for number in answer.vector)
            text = _("A vector of %(count)s numbers") % {"count": answer.dimensions} + f"\n[{beginning}, …]"
        return cls(
            status=answer.status, answer=text, reasoning=answer.reasoning, duration_ms=answer.duration_ms,
            input_tokens=answer.input_tokens, output_tokens=answer.output_tokens,
        )  # fmt: skip

    @classmethod
    def failed(cls, error: DomainError) -> Attempt:
        """A refusal by the gateway with its own status and code, or by the console before it."""
        if isinstance(error, tryit.Refused):
            return cls(status=error.status, code=error.code, error=error.message)
        kinds: tuple[tuple[type[DomainError], int, str], ...] = (
            (NotAllowed, 403, "NotAllowed"),
            (Unavailable, 503, "Unavailable"),
            (DomainError, 400, "InvalidParameter"),
        )
        status, code = next((status, code) for kind, status, code in kinds if isinstance(error, kind))
        return cls(status=status, code=code, error=error.message)

    @property
    def status_text(self) -> str:
        return f"{self.status} {self.code or 'OK'}"

    @property
    def page_status(self) -> int:
        """The status of the page that shows it: the console did its part, unless it is the console that refused."""
        return self.status if self.code in ("NotAllowed", "InvalidParameter") else 200
