"""The status tick: what people want and what the model servers do, made into the status of endpoints.

`judge` is pure and says what status an endpoint should have and why. `converge` asks it once for each group of
endpoints that are alike (version, desired, status, reason), so its cost follows versions and changes, not endpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.db.models import F, Max, Q, Sum, Window
from django.db.models.functions import RowNumber

from catalog.models import Deployment, ModelServer, ModelVersion
from endpoints import lifecycle
from endpoints.lifecycle import Reason
from endpoints.models import Desired, Endpoint, Status
from iam.actors import SYSTEM
from metering import ledger
from metering.models import CallRecord, UsageMinute

CALLS_SPAN = timedelta(seconds=60)
CALLS_SEEN = 20
CALLS_NEEDED = 5


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
    servers: tuple[str, ...] = ()
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


def judge(*, group: Group, version: Version, now: datetime) -> Verdict | None:
    """The next status of `group` and why, one arrow of the diagram at most; None leaves it as it is. Doubt does too."""
    here = Status(group.status)
    if group.desired == Desired.STOPPED:
        return None if here == Status.STOPPED else Verdict(Status.STOPPED, Reason.STOPPED_BY, SYSTEM.name)
    if version.retires_at is not None and version.retires_at <= now:
        return Verdict(Status.STOPPED, Reason.MODEL_RETIRED, version.public_id)
    if here == Status.STOPPED:
        return Verdict(Status.SCHEDULING, Reason.RESUMED)
    if not version.servers:
        return Verdict(Status.ABNORMAL, Reason.NO_SERVER, version.public_id)
    if not any(server.state == ModelServer.State.UP for server in version.servers):
        unknown = [server.name for server in version.servers if server.state == ModelServer.State.UNKNOWN]
        if not unknown:
            names = [server.name for server in version.servers]
            return Verdict(Status.ABNORMAL, Reason.SERVERS_DOWN, _listed(names), version.servers[0].trouble)
        if here == Status.SCHEDULING:
            return Verdict(here, Reason.WAITING_FOR_PROBE, _listed(unknown))
        return None
    if here == Status.ABNORMAL and group.reason in (Reason.SERVERS_DOWN, Reason.NO_SERVER):
        # A probe has just succeeded; the latest calls are those that failed while the servers were down.
        return Verdict(Status.RUNNING, Reason.SERVED)
    calls = version.calls
    was_failing = here == Status.ABNORMAL and group.reason == Reason.CALLS_FAIL
    if calls.are_failing or (was_failing and not calls.are_well):
        return Verdict(Status.ABNORMAL, Reason.CALLS_FAIL, _listed(calls.servers), calls.error)
    return Verdict(Status.RUNNING, Reason.SERVED)


def converge(*, now: datetime) -> int:
    """One tick; how many endpoints moved. Running it again at once, or twice at a time, changes nothing more."""
    groups = _groups()
    failing_now = {group.version_id for group in groups if group.reason == Reason.CALLS_FAIL}
    versions = versions_at(now, {group.version_id for group in groups}, failing_now)
    return sum(_settle(group, versions[group.version_id], now) for group in groups if group.version_id in versions)


def versions_at(now: datetime, version_ids: Iterable[int], failing: Iterable[int] = ()) -> dict[int, Version]:
    """What is known of the versions at `now`; `failing` are those that are abnormal because calls failed.

    Three queries, and three more where the calls of a version are to be looked at.
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
        UsageMinute.objects.filter(at__gte=ledger.floor_minute(now - CALLS_SPAN))
        .order_by()
        .values("version_id")
        .annotate(count=Sum("failed"))
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
        .values_list("version_id", "outcome", "server_id", "code", "status", "at")
    )
    # What failed before endpoints of the version became healthy has been judged already.
    judged_until = dict(
        Endpoint.objects.alive()
        .filter(version__in=suspects, status=Status.RUNNING)
        .order_by()
        .values_list("version_id")
        .annotate(at=Max("status_at"))
    )
    names = dict(ModelServer.objects.values_list("pk", "name"))
    seen: dict[int, list[tuple[bool, str, str]]] = {}
    for version_id, outcome, server_id, code, status, at in ranked:
        if version_id in judged_until and at <= judged_until[version_id]:
            continue
        has_failed = outcome != CallRecord.Outcome.SUCCESS
        seen.setdefault(version_id, []).append((has_failed, names.get(server_id or 0, "?"), f"{code} (HTTP {status})"))
    return {version_id: _calls(rows) for version_id, rows in seen.items()}


def _calls(rows: Sequence[tuple[bool, str, str]]) -> Calls:
    """The calls of one version from (failed, server, error), newest first."""
    failed = [(server, error) for has_failed, server, error in rows if has_failed]
    return Calls(
        failures=tuple(has_failed for has_failed, _server, _error in rows),
        servers=tuple(sorted({server for server, _error in failed})),
        error=failed[0][1] if failed else "",
    )


def _settle(group: Group, version: Version, now: datetime) -> int:
    """Move the endpoints of `group` to where they belong; how many moves that took."""
    verdict = judge(group=group, version=version, now=now)
    if verdict is None or (verdict.status, verdict.reason, verdict.subject) == (
        group.status,
        group.reason,
        group.subject,
    ):
        return 0
    here = Endpoint.objects.filter(
        version=group.version_id, desired=group.desired, status=group.status, status_reason=group.reason,
        status_subject=group.subject,
    )  # fmt: skip
    if verdict.status == group.status:
        lifecycle.explain_many(endpoints=here, reason=verdict.reason, subject=verdict.subject, detail=verdict.detail)
        return 0
    moved = lifecycle.move_many(
        endpoints=here, to=verdict.status, reason=verdict.reason, subject=verdict.subject, detail=verdict.detail,
        now=now,
    )  # fmt: skip
    if verdict.status != Status.SCHEDULING:
        return moved
    # Scheduling is a beginning: what comes after it is known already.
    onward = replace(group, status=verdict.status, reason=verdict.reason, subject=verdict.subject)
    return moved + _settle(onward, version, now)


def _listed(names: Sequence[str]) -> str:
    """At most three names, and no longer than the column: a sentence, not a list of the whole rack."""
    listed = ", ".join(names[:3]) if len(names) <= 3 else f"{', '.join(names[:3])} +{len(names) - 3}"
    return listed[: lifecycle.SUBJECT_LENGTH]
