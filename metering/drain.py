"""From the usage stream into the ledger, each call exactly once.

A batch is read, priced, written in one transaction and only then deleted from the stream. Reading always begins at the
start of the stream, so a death at any step means that the same entries are read again, and a call id that is in
`CallRecord` already is not counted again. Entries are deleted by id, never by range: whatever a failover did to the
stream meanwhile, nothing goes that was not counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import redis as redis_client
from django.conf import settings
from django.db import DataError, IntegrityError, connection, models, transaction

import catalog.services
import iam.services
from catalog.models import PriceTier, price_at
from common import redis
from common.rows import update_rows
from metering import events, health
from metering.events import Outcome, UsageEvent
from metering.models import (
    USAGE_KEY,
    CallRecord,
    DeadEvent,
    DrainPosition,
    HealthSlice,
    HealthSum,
    ParameterHour,
    Usage,
    UsageHour,
    UsageMinute,
)

log = logging.getLogger(__name__)

BATCH = 2_000
PRUNE_MARGIN = timedelta(hours=1)
"""Call records are kept so much longer than replays are accepted: a prune never overtakes a drain that runs beside it."""
MAX_AHEAD = timedelta(days=1)
MAX_DEAD_BYTES = 64 * 1024
MAX_PARAMETERS = 64
_UPSERT_ROWS = 500
_MAX_TOKENS = 10**12
_MAX_ID = 2**63 - 1
_MAX_INT = 2**31 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_SUMS = ("calls", "succeeded", "limited", "rejected", "failed", "cancelled",
         "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")  # fmt: skip
_Key = tuple[str, datetime, int, str, int, int]
_SliceKey = tuple[int, datetime, int, int]

Checkpoint = Callable[[str], None]
"""Called with the name of each step that was just done: where a test lets the drain die."""


@dataclass(frozen=True, slots=True)
class Drained:
    """What one batch held: `read` = `counted` + `duplicates` + `dead`. `is_busy`: another worker drains, nothing done."""

    read: int = 0
    counted: int = 0
    duplicates: int = 0
    dead: int = 0
    is_busy: bool = False

    def __add__(self, other: Drained) -> Drained:
        return Drained(
            read=self.read + other.read,
            counted=self.counted + other.counted,
            duplicates=self.duplicates + other.duplicates,
            dead=self.dead + other.dead,
            is_busy=self.is_busy or other.is_busy,
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str
    event: UsageEvent


@dataclass(frozen=True, slots=True)
class _Dead:
    id: str
    reason: DeadEvent.Reason
    detail: str
    data: bytes


@dataclass(frozen=True, slots=True)
class _Batch:
    """Where a batch comes from."""

    generation: str
    last_id: str
    now: datetime
    checkpoint: Checkpoint


@dataclass(slots=True)
class _Total:
    """What a batch adds to a row of `HealthSum`."""

    at: datetime
    counts: list[int] = field(default_factory=lambda: [0, 0, 0])
    first_token: dict[int, int] = field(default_factory=dict)
    duration: dict[int, int] = field(default_factory=dict)

    def count(self, event: UsageEvent, kind: int, at: datetime) -> None:
        self.at = max(self.at, at)
        self.counts[0] += 1
        if kind:
            self.counts[kind] += 1
            return
        # How fast a server fails says nothing of how fast it answers.
        for buckets, milliseconds in ((self.first_token, event.first_token_ms), (self.duration, event.duration_ms)):
            if milliseconds is not None:
                index = health.bucket(milliseconds)
                buckets[index] = buckets.get(index, 0) + 1

    def add_to(self, row: HealthSum) -> None:
        row.at = max(row.at, self.at)
        row.calls += self.counts[0]
        row.errors += self.counts[1]
        row.rejections += self.counts[2]
        for column, buckets in ((row.first_token, self.first_token), (row.duration, self.duration)):
            for index, count in buckets.items():
                column[str(index)] = column.get(str(index), 0) + count


@dataclass(frozen=True, slots=True)
class _Counted:
    """What a batch added to the ledger, and how many of its entries were kept as dead."""

    events: list[UsageEvent]
    dead: int


class _Invalid(Exception):
    """A readable event with a value that the ledger cannot hold."""


def drain(
    *,
    now: datetime,
    client: redis_client.Redis | None = None,
    limit: int = BATCH,
    checkpoint: Checkpoint = lambda _step: None,
) -> Drained:
    """Write up to `limit` entries of every generation's stream into the ledger, and delete them from it.

    May run twice at once and die anywhere. Raises `common.redis.Error` or `django.db.DatabaseError` when either is
    away; then nothing is lost and the next run goes on.
    """
    client = client or redis.client()
    drained = Drained()
    for generation in _generations(client):
        drained += _drain_generation(client, generation, limit=limit, now=now, checkpoint=checkpoint)
    return drained


def discover(*, client: redis_client.Redis | None = None) -> int:
    """Note every usage stream that Redis holds, also of generations that nobody remembers; return how many are new."""
    client = client or redis.client()
    found = 0
    for key in client.scan_iter(match=events.STREAM_PREFIX + "*", count=1_000, _type="stream"):
        generation = key.decode(errors="replace").removeprefix(events.STREAM_PREFIX)
        if len(generation) <= 64:
            found += DrainPosition.objects.get_or_create(generation=generation)[1]
    return found


def forget_finished(*, now: datetime, client: redis_client.Redis | None = None) -> int:
    """Drop the positions of past generations whose streams are gone for a day; return how many."""
    client = client or redis.client()
    present = _current(client)
    forgotten = 0
    for position in DrainPosition.objects.exclude(generation=present):
        is_old = position.drained_at is None or position.drained_at < now - timedelta(days=1)
        if is_old and not client.exists(events.stream_key(position.generation)):
            forgotten += position.delete()[0]
    return forgotten


def _current(client: redis_client.Redis) -> str:
    value: Any = client.get(events.GENERATION_KEY)
    return value.decode(errors="replace")[:64] if value else ""


def _generations(client: redis_client.Redis) -> list[str]:
    """The generations to drain, older ones first."""
    present = _current(client)
    known = set(DrainPosition.objects.values_list("generation", flat=True))
    if present and present not in known:
        # A new generation: what was there before it may never have been drained.
        DrainPosition.objects.get_or_create(generation=present)
        discover(client=client)
        known = set(DrainPosition.objects.values_list("generation", flat=True))
    return [*sorted(known - {present}), *([present] if present else [])]


def _drain_generation(
    client: redis_client.Redis, generation: str, *, limit: int, now: datetime, checkpoint: Checkpoint
) -> Drained:
    stream = events.stream_key(generation)
    raw: Any = client.xrange(stream, count=limit)
    if not raw:
        return Drained()
    checkpoint("read")
    entries, dead = _sort(raw, now=now)
    batch = _Batch(generation=generation, last_id=raw[-1][0].decode(), now=now, checkpoint=checkpoint)
    counted = _count(batch, entries, dead)
    if counted is None:
        return Drained(is_busy=True)
    checkpoint("committed")
    ids = [entry_id for entry_id, _fields in raw]
    for start in range(0, len(ids), 1_000):
        client.xdel(stream, *ids[start : start + 1_000])
    checkpoint("trimmed")
    _note(counted.events, now=now)
    return Drained(
        read=len(raw),
        counted=len(counted.events),
        duplicates=len(raw) - len(counted.events) - counted.dead,
        dead=counted.dead,
    )


def _sort(raw: Iterable[tuple[bytes, dict[bytes, bytes]]], *, now: datetime) -> tuple[list[_Entry], list[_Dead]]:
    """What can be counted, with values that fit the ledger, and what cannot."""
    entries: list[_Entry] = []
    dead: list[_Dead] = []
    for raw_id, fields in raw:
        entry_id = raw_id.decode()
        data = fields.get(events.FIELD, b"")
        try:
            entries.append(_Entry(entry_id, _checked(events.decode(data), now=now)))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            shown = data or repr(fields).encode()
            dead.append(_Dead(entry_id, DeadEvent.Reason.UNREADABLE, str(error), shown))
        except _Invalid as error:
            dead.append(_Dead(entry_id, DeadEvent.Reason.INVALID, str(error), data))
    return entries, dead


def _checked(event: UsageEvent, *, now: datetime) -> UsageEvent:
    """The event with texts cut to their columns; raises `_Invalid` where a value has no place in the ledger."""
    for name in ("call_id", "endpoint_id", "project_id", "api"):
        value: str = getattr(event, name)
        if not 0 < len(value) <= (16 if name == "api" else 64) or "\0" in value:
            raise _Invalid(f"{name} is {value[:80]!r}")
    for name in ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "overrun_tokens"):
        if not 0 <= getattr(event, name) <= _MAX_TOKENS:
            raise _Invalid(f"{name} is {getattr(event, name)}")
    for name in ("version_id", "key_id", "server_id", "deployment_id", "switch_id"):
        if not 0 <= (getattr(event, name) or 0) <= _MAX_ID:
            raise _Invalid(f"{name} is {getattr(event, name)}")
    if not 0 <= (event.rung or 0) <= _MAX_INT or not 0 <= event.status <= 999:
        raise _Invalid(f"rung is {event.rung}, status is {event.status}")
    if not 0 <= event.at <= (now + MAX_AHEAD - _EPOCH) // _MILLISECOND:
        raise _Invalid(f"at is {event.at}, which has not come yet")
    return msgspec.structs.replace(
        event,
        request_id=_text(event.request_id, 128),
        model_id=_text(event.model_id, 128),
        code=_text(event.code, 64),
        source_ip=_text(event.source_ip, 45),
        duration_ms=min(max(event.duration_ms, 0), _MAX_INT),
        first_token_ms=None if event.first_token_ms is None else min(max(event.first_token_ms, 0), _MAX_INT),
        cached_tokens=min(event.cached_tokens, event.input_tokens),
        reasoning_tokens=min(event.reasoning_tokens, event.output_tokens),
    )


def _text(value: str, length: int) -> str:
    # PostgreSQL has no NUL in text; one in a caller's own request id must not stop the drain.
    return value.replace("\0", "")[:length]


def _count(batch: _Batch, entries: Sequence[_Entry], dead: Sequence[_Dead]) -> _Counted | None:
    """Write everything in one transaction; None when another worker drains.

    What the database refuses although it looked right is found by halves and kept as dead: one event must not hold up
    all that come after it.
    """
    try:
        return _write(batch, entries, dead)
    except (DataError, IntegrityError, ValueError) as error:
        if not entries:
            raise
        log.warning("a batch of %d usage events was refused, trying halves: %s", len(entries), error)
        detail = str(error)
    if len(entries) == 1:
        culprit = _Dead(entries[0].id, DeadEvent.Reason.INVALID, detail, events.encode(entries[0].event))
        return _write(batch, [], [*dead, culprit])
    middle = len(entries) // 2
    first = _count(batch, entries[:middle], dead)
    second = _count(batch, entries[middle:], [])
    if first is None or second is None:
        return None
    return _Counted(events=[*first.events, *second.events], dead=first.dead + second.dead)


def _write(batch: _Batch, entries: Sequence[_Entry], dead: Sequence[_Dead]) -> _Counted | None:
    tiers = _tiers({entry.event.version_id or 0 for entry in entries})
    oldest = batch.now - timedelta(days=settings.CALL_RECORD_DAYS)
    with transaction.atomic():
        position = DrainPosition.objects.select_for_update(skip_locked=True).filter(generation=batch.generation).first()
        if position is None:
            return None
        batch.checkpoint("locked")
        fresh: dict[str, _Entry] = {}
        for entry in entries:
            fresh.setdefault(entry.event.call_id, entry)
        for call_id in CallRecord.objects.filter(call_id__in=list(fresh)).values_list("call_id", flat=True):
            del fresh[call_id]
        late = [entry for entry in fresh.values() if _at(entry.event) < oldest]
        for entry in late:
            del fresh[entry.event.call_id]
        refused = [
            *dead,
            *(_Dead(e.id, DeadEvent.Reason.TOO_OLD, e.event.call_id, events.encode(e.event)) for e in late),
        ]
        counted = [entry.event for entry in fresh.values()]
        prices = [_price_id(tiers, event) for event in counted]
        CallRecord.objects.bulk_create(map(_record, counted, prices), batch_size=1_000)
        batch.checkpoint("records")
        for model, floor in ((UsageMinute, _minute), (UsageHour, _hour)):
            _add(model, _sums(counted, prices, floor))
        batch.checkpoint("sums")
        _add_health(counted)
        _add_parameters(counted)
        batch.checkpoint("health")
        _bury(batch, refused)
        position.last_id = batch.last_id
        position.drained_at = batch.now
        position.save(update_fields=["last_id", "drained_at"])
        batch.checkpoint("position")
    for each in refused:
        log.warning("usage event %s of %s is kept as dead: %s, %s", each.id, batch.generation, each.reason, each.detail)
    return _Counted(events=counted, dead=len(refused))


def _bury(batch: _Batch, dead: Sequence[_Dead]) -> None:
    rows = [
        DeadEvent(
            generation=batch.generation,
            entry_id=each.id[:48],
            at=batch.now,
            reason=each.reason,
            detail=_text(each.detail, 255),
            data=each.data[:MAX_DEAD_BYTES],
        )
        for each in dead
    ]
    DeadEvent.objects.bulk_create(rows, batch_size=200, ignore_conflicts=True)


def _tiers(version_ids: set[int]) -> dict[int, list[PriceTier]]:
    tiers: dict[int, list[PriceTier]] = {}
    for tier in PriceTier.objects.filter(version_id__in=version_ids):
        tiers.setdefault(tier.version_id, []).append(tier)
    return tiers


def _price_id(tiers: dict[int, list[PriceTier]], event: UsageEvent) -> int:
    tier = price_at(tiers.get(event.version_id or 0, ()), input_tokens=event.input_tokens, at=_at(event))
    return tier.pk if tier else 0


def _at(event: UsageEvent) -> datetime:
    return _EPOCH + event.at * _MILLISECOND


def _minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _record(event: UsageEvent, price_id: int) -> CallRecord:
    return CallRecord(
        call_id=event.call_id,
        client_request_id=event.request_id,
        at=_at(event),
        project_id=event.project_id,
        endpoint_id=event.endpoint_id,
        version_id=event.version_id or 0,
        model_id=event.model_id,
        server_id=event.server_id,
        deployment_id=event.deployment_id,
        api=event.api,
        key_id=event.key_id or 0,
        is_stream=event.is_stream,
        outcome=event.outcome.value,
        status=event.status,
        code=event.code,
        duration_ms=event.duration_ms,
        first_token_ms=event.first_token_ms,
        input_tokens=event.input_tokens,
        cached_tokens=event.cached_tokens,
        output_tokens=event.output_tokens,
        reasoning_tokens=event.reasoning_tokens,
        is_estimated=event.is_estimated,
        overrun_tokens=event.overrun_tokens,
        price_id=price_id,
        switch_id=event.switch_id,
        rung=event.rung,
        source_ip=event.source_ip,
    )


def _class_of(event: UsageEvent) -> str:
    """Which of the five sums of `Usage` a call belongs to."""
    match event.outcome:
        case Outcome.SUCCESS:
            return "succeeded"
        case Outcome.REJECTED:
            return "limited"
        case Outcome.CLIENT_CLOSED:
            return "cancelled"
        case Outcome.REFUSED | Outcome.UPSTREAM_ERROR if event.status < 500:
            return "rejected"
        case _:
            return "failed"


def _sums(
    counted: Sequence[UsageEvent], prices: Sequence[int], floor: Callable[[datetime], datetime]
) -> dict[_Key, tuple[str, list[int]]]:
    """Per row of `Usage`: its project, and what to add, in the order of `_SUMS`."""
    sums: dict[_Key, tuple[str, list[int]]] = {}
    for event, price_id in zip(counted, prices, strict=True):
        key = (event.endpoint_id, floor(_at(event)), event.version_id or 0, event.api, event.key_id or 0, price_id)
        _project, row = sums.setdefault(key, (event.project_id, [0] * len(_SUMS)))
        row[0] += 1
        row[_SUMS.index(_class_of(event))] += 1
        row[6] += event.input_tokens
        row[7] += event.cached_tokens
        row[8] += event.output_tokens
        row[9] += event.reasoning_tokens
    return sums


def _add(model: type[Usage], sums: dict[_Key, tuple[str, list[int]]]) -> None:
    """Add to the rows of `Usage`, or make them."""
    types = ["varchar", "timestamptz", "bigint", "varchar", "bigint", "bigint", "varchar"]
    rows = [[*key, project_id, *values] for key, (project_id, values) in sorted(sums.items())]
    _upsert(model, key=USAGE_KEY, carried=["project_id"], types=types, added=_SUMS, rows=rows)


def _add_health(counted: Sequence[UsageEvent]) -> None:
    """Add the calls that belong to a version switch to its slices and sums."""
    slices: dict[_SliceKey, tuple[str, list[int]]] = {}
    totals: dict[tuple[int, int, int], _Total] = {}
    for event in counted:
        kind = _health_of(event)
        if kind is None or not event.switch_id or event.rung is None or not event.version_id:
            continue
        at = _at(event)
        ten = at.replace(second=at.second - at.second % health.SLICE_SECONDS, microsecond=0)
        _endpoint, row = slices.setdefault(
            (event.switch_id, ten, event.version_id, event.rung), (event.endpoint_id, [0, 0, 0])
        )
        row[0] += 1
        if kind:
            row[kind] += 1
        for rung in (event.rung, health.WHOLE):
            totals.setdefault((event.switch_id, rung, event.version_id), _Total(at)).count(event, kind, at)
    if slices:
        rows = [[*key, endpoint_id, *values] for key, (endpoint_id, values) in sorted(slices.items())]
        _upsert(
            HealthSlice, key=["switch_id", "at", "version_id", "rung"], carried=["endpoint_id"],
            types=["bigint", "timestamptz", "bigint", "integer", "varchar"], added=("calls", "errors", "rejections"),
            rows=rows,
        )  # fmt: skip
        _add_totals(totals)


def _health_of(event: UsageEvent) -> int | None:
    """What a call says of the side that answered it: 0 well, 1 error, 2 rejection; None: nothing."""
    match event.outcome:
        case Outcome.SUCCESS:
            return 0
        case Outcome.CUT:
            return 1
        case Outcome.UPSTREAM_ERROR:
            return 1 if event.status >= 500 else 2
        case _:
            return None


def _add_totals(totals: dict[tuple[int, int, int], _Total]) -> None:
    """Merge into `HealthSum`: the rows are made empty first and then locked in one order, so that no drain is lost."""
    keys = sorted(totals)
    HealthSum.objects.bulk_create(
        [
            HealthSum(switch_id=switch_id, rung=rung, version_id=version_id, at=totals[switch_id, rung, version_id].at)
            for switch_id, rung, version_id in keys
        ],
        ignore_conflicts=True,
        batch_size=_UPSERT_ROWS,
    )
    locked = (
        HealthSum.objects.select_for_update()
        .filter(switch_id__in={key[0] for key in keys}, rung__in={key[1] for key in keys})
        .order_by("switch_id", "rung", "version_id")
    )
    rows = []
    for row in locked:
        total = totals.get((row.switch_id, row.rung, row.version_id))
        if total is not None:
            total.add_to(row)
            rows.append(row)
    update_rows(rows, ["at", "calls", "errors", "rejections", "first_token", "duration"])


def _add_parameters(counted: Sequence[UsageEvent]) -> None:
    """Count which parameters callers name, per endpoint and hour."""
    used: dict[tuple[str, datetime, str], int] = {}
    for event in counted:
        hour = _hour(_at(event))
        for name in dict.fromkeys(event.parameters[:MAX_PARAMETERS]):
            parameter = _text(name, 64)
            if parameter:
                key = (event.endpoint_id, hour, parameter)
                used[key] = used.get(key, 0) + 1
    _upsert(
        ParameterHour, key=["endpoint_id", "at", "parameter"], carried=[], types=["varchar", "timestamptz", "varchar"],
        added=("calls",), rows=[[*key, calls] for key, calls in sorted(used.items())],
    )  # fmt: skip


def _upsert(
    model: type[models.Model],
    *,
    key: Sequence[str],
    carried: Sequence[str],
    types: Sequence[str],
    added: Sequence[str],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Add `added` to the rows of a table, or make them. `rows` hold key, carried and added values, sorted by key, so that
    two drains never wait for each other crosswise; `types` are PostgreSQL's for key and carried."""
    table = model._meta.db_table
    columns = [*key, *carried, *added]
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in added)
    all_types = [*types, *["bigint"] * len(added)]
    adapted = [
        [connection.ops.adapt_datetimefield_value(v) if isinstance(v, datetime) else v for v in row] for row in rows
    ]
    with connection.cursor() as cursor:
        for start in range(0, len(adapted), _UPSERT_ROWS):
            source, parameters = _source(adapted[start : start + _UPSERT_ROWS], all_types)
            cursor.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) {source} "
                f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sums}",
                parameters,
            )


def _source(rows: Sequence[Sequence[Any]], types: Sequence[str]) -> tuple[str, list[Any]]:
    """The rows as the source of an INSERT. Arrays where there are any: a placeholder per value takes three times as long."""
    if connection.vendor == "postgresql":
        arrays = ", ".join(f"%s::{name}[]" for name in types)
        return (
            f"SELECT * FROM unnest({arrays})",  # noqa: S608 - our own names of types
            [list(column) for column in zip(*rows, strict=True)],
        )
    one = f"({', '.join(['%s'] * len(rows[0]))})"
    return f"VALUES {', '.join([one] * len(rows))}", [value for row in rows for value in row]


def _note(counted: Sequence[UsageEvent], *, now: datetime) -> None:
    """Tell the rooms below what the traffic showed. Hints: a death before this loses them and nothing else."""
    used: dict[int, datetime] = {}
    servers: dict[int, list[int]] = {}
    for event in counted:
        if event.key_id:
            used[event.key_id] = max(used.get(event.key_id, _EPOCH), _at(event))
        if event.server_id:
            seen = servers.setdefault(event.server_id, [0, 0])
            if event.outcome is Outcome.SUCCESS:
                seen[0] += 1
            elif event.outcome is Outcome.CUT or (event.outcome is Outcome.UPSTREAM_ERROR and event.status >= 500):
                seen[1] += 1
    if used:
        iam.services.note_keys_used(used=used)
    for server_id, (successes, failures) in sorted(servers.items()):
        if successes or failures:
            catalog.services.note_traffic(server_id=server_id, failures=failures, successes=successes, now=now)
