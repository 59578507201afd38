"""The status tick: what people want and what the model servers do, made into the status of endpoints.

`judge` is pure and says what status an endpoint should have and why. `converge` asks it once for each group of
endpoints that are alike (version, desired, status, reason), so its cost follows versions and changes, not endpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.db.models import Count, F, Q, Window
from django.db.models.functions import RowNumber

from catalog.models import Deployment, ModelServer, ModelVersion
from endpoints import lifecycle
from endpoints.lifecycle import Reason
from endpoints.models import Desired, Endpoint, Status
from metering.models import CallRecord

CALLS_SPAN = timedelta(seconds=60)
CALLS_SEEN = 20
CALLS_NEEDED = 5
_FAILED = (CallRecord.Outcome.UPSTREAM_ERROR, CallRecord.Outcome.CUT)


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs a version: enabled, on an enabled deployment."""

    name: str
    state: str
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Calls:
    """The latest calls of a version that reached a model server, newest first: True where the server failed."""

    failures: tuple[bool, ...] = ()
    server: str = ""
    error: str = ""

    @property
    def are_failing(self) -> bool:
        """At least five, and nine in ten of them failed: not one caller's odd request, the model itself."""
        return len(self.failures) >= CALLS_NEEDED and sum(self.failures) >= 0.9 * len(self.failures)

    @property
    def are_well(self) -> bool:
        """Nothing speaks against the version: no fresh calls, three good ones in a row, or fewer than half failing."""
        return not any(self.failures[:3]) or sum(self.failures) < 0.5 * len(self.failures)


@dataclass(frozen=True, slots=True)
class Version:
    """What is known of a model version at one moment."""

    public_id: str
    retires_at: datetime | None = None
    servers: tuple[Server, ...] = ()
    calls: Calls = Calls()


@dataclass(frozen=True, slots=True)
class Group:
    """Endpoints that are alike in all that matters for their next status."""

    version_id: int
    desired: str
    status: str
    reason: str
    subject: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The status that a group of endpoints should have, and why."""

    status: Status
    reason: Reason
    subject: str = ""
    detail: str = ""


def judge(*, group: Group, version: Version, now: datetime) -> Verdict:
    """The next status of `group`, one arrow of the diagram at most. Doubt keeps what is."""
    here = Status(group.status)
    keep = Verdict(here, Reason(group.reason), group.subject)
    if group.desired == Desired.STOPPED:
        return keep if here == Status.STOPPED else Verdict(Status.STOPPED, Reason.STOPPED_BY, "system")
    if version.retires_at is not None and version.retires_at <= now:
        return Verdict(Status.STOPPED, Reason.MODEL_RETIRED, version.public_id)
    if here == Status.STOPPED:
        return Verdict(Status.SCHEDULING, Reason.RESUMED)
    if not version.servers:
        return Verdict(Status.ABNORMAL, Reason.NO_SERVER, version.public_id)
    if not any(server.state == ModelServer.State.UP for server in version.servers):
        unknown = [server for server in version.servers if server.state == ModelServer.State.UNKNOWN]
        if not unknown:
            first = version.servers[0]
            return Verdict(Status.ABNORMAL, Reason.SERVERS_DOWN, _names(version.servers), first.trouble)
        waiting = Verdict(Status.SCHEDULING, Reason.WAITING_FOR_PROBE, _names(unknown))
        return waiting if here == Status.SCHEDULING else keep
    calls = version.calls
    was_failing = here == Status.ABNORMAL and group.reason == Reason.CALLS_FAIL
    if calls.are_failing or (was_failing and not calls.are_well):
        return Verdict(Status.ABNORMAL, Reason.CALLS_FAIL, calls.server, calls.error)
    return Verdict(Status.RUNNING, Reason.SERVED)


def converge(*, now: datetime) -> int:
    """One tick; how many endpoints moved. Running it again at once, or twice at a time, changes nothing more."""
    groups = _groups()
    failing_now = {group.version_id for group in groups if group.reason == Reason.CALLS_FAIL}
    versions = versions_at(now, {group.version_id for group in groups}, failing_now)
    return sum(_settle(group, versions[group.version_id], now) for group in groups if group.version_id in versions)


def versions_at(now: datetime, version_ids: Iterable[int], failing: Iterable[int] = ()) -> dict[int, Version]:
    """What is known of the versions at `now`; `failing` are those that are abnormal because calls failed.

    Three queries, and one more where the calls of a version are to be looked at.
    """
    ids = list(version_ids)
    servers: dict[int, list[Server]] = {}
    for version_id, name, state, trouble in (
        Deployment.objects.filter(version__in=ids, is_enabled=True, server__is_enabled=True)
        .order_by("version_id", "server__name")
        .values_list("version_id", "server__name", "server__state", "server__state_reason")
    ):
        server = Server(name, state, trouble)
        if server not in servers.setdefault(version_id, []):
            servers[version_id].append(server)
    calls = _latest_calls(set(failing), now)
    return {
        pk: Version(f"{model}-{version}", retires_at, tuple(servers.get(pk, ())), calls.get(pk, Calls()))
        for pk, model, version, retires_at in ModelVersion.objects.filter(pk__in=ids).values_list(
            "pk", "model__name", "version", "retires_at"
        )
    }


def _groups() -> list[Group]:
    rows = (
        Endpoint.objects.alive()
        .order_by()
        .values_list("version_id", "desired", "status", "status_reason", "status_subject")
        .distinct()
    )
    return [Group(*row) for row in rows]


def _latest_calls(failing: set[int], now: datetime) -> dict[int, Calls]:
    """The latest calls of the versions that need a look: enough calls failed lately, or they are in `failing`."""
    recent = CallRecord.objects.filter(at__gte=now - CALLS_SPAN, at__lte=now)
    # Only failures of the model server; what a caller did wrong (4xx) or our own limits refused says nothing of it.
    failed = Q(outcome=CallRecord.Outcome.UPSTREAM_ERROR, status__gte=500) | Q(outcome=CallRecord.Outcome.CUT)
    suspects = failing.union(
        recent.filter(outcome__in=_FAILED)
        .filter(failed)
        .order_by()
        .values("version_id")
        .annotate(count=Count("pk"))
        .filter(count__gte=CALLS_NEEDED)
        .values_list("version_id", flat=True)
    )
    if not suspects:
        return {}
    ranked = (
        recent.filter(Q(outcome=CallRecord.Outcome.SUCCESS) | failed, version_id__in=suspects)
        .annotate(rank=Window(RowNumber(), partition_by="version_id", order_by=[F("at").desc(), F("pk").desc()]))
        .filter(rank__lte=CALLS_SEEN)
        .order_by("version_id", "rank")
        .values_list("version_id", "outcome", "server_id", "code", "status")
    )
    seen: dict[int, list[tuple[bool, int | None, str]]] = {}
    for version_id, outcome, server_id, code, status in ranked:
        has_failed = outcome != CallRecord.Outcome.SUCCESS
        seen.setdefault(version_id, []).append((has_failed, server_id, f"{code} (HTTP {status})"))
    names = dict(ModelServer.objects.values_list("pk", "name"))
    calls: dict[int, Calls] = {}
    for version_id, rows in seen.items():
        _bad, server_id, error = next((row for row in rows if row[0]), (False, None, ""))
        calls[version_id] = Calls(tuple(row[0] for row in rows), names.get(server_id or 0, "?"), error)
    return calls


def _settle(group: Group, version: Version, now: datetime) -> int:
    """Move the endpoints of `group` to where they belong, arrow by arrow; how many moved."""
    alike = Endpoint.objects.filter(version=group.version_id, desired=group.desired)
    moved = 0
    while True:
        here = alike.filter(status=group.status, status_reason=group.reason, status_subject=group.subject)
        verdict = judge(group=group, version=version, now=now)
        if verdict.status == group.status:
            if (verdict.reason, verdict.subject) != (group.reason, group.subject):
                lifecycle.explain_many(
                    endpoints=here, reason=verdict.reason, subject=verdict.subject, detail=verdict.detail
                )
            return moved
        moved += lifecycle.move_many(
            endpoints=here, to=verdict.status, reason=verdict.reason, subject=verdict.subject,
            detail=verdict.detail, now=now,
        )  # fmt: skip
        group = replace(group, status=verdict.status, reason=verdict.reason, subject=verdict.subject)


def _names(servers: Sequence[Server]) -> str:
    """At most three names; a sentence, not a list of the whole rack."""
    names = ", ".join(server.name for server in servers[:3])
    return names if len(servers) <= 3 else f"{names} +{len(servers) - 3}"
