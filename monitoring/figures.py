"""What the page of an endpoint's monitoring shows, one group at a time: aligned series, tiles, and why there is nothing.

Curves come from Prometheus, totals from the ledger: curves are for looking, the ledger is the bill. Trouble with
Prometheus is a state of the answer and a sentence in it; tiles of the ledger are there all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from typing import Any

from django.conf import settings
from django.db.models import Value
from django.db.models.functions import Concat
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from catalog.models import ModelVersion
from endpoints.models import Endpoint
from gateway.metrics import SETS_MAX
from metering import ledger
from metering.ledger import Cost, Slice, Summary
from monitoring import installation, numbers, prometheus, quantiles, queries, services
from monitoring.filters import Grid, MonitoringFilters, step_for
from monitoring.panels import Group, Line, Measure, Panel, Tile
from monitoring.panels import Kind as PanelKind
from monitoring.prometheus import Kind, Series, Trouble
from monitoring.queries import Matchers, Spans

MAX_LINES = 12
"""What of one query is drawn: the largest; the rest is named in a note."""

SPARKS = 24
PATIENCE_SECONDS = 120
"""What was called so long ago stands in Prometheus, if it ever will."""
FRESH_SECONDS = 300
"""A newest value that is older says of when it is."""
DECIMALS = 6
Values = Sequence[float | None]


def group(
    endpoint: Endpoint, wanted: Group, filters: MonitoringFilters, *, is_coarse: bool | None = None
) -> dict[str, Any]:
    """The answer for one group, ready to be written as JSON; its shape is in docs/monitoring.md.

    Never raises for what Prometheus does. At most five queries on the database.
    `is_coarse`: whether steps are as of a group with bars, also where `wanted` is a part of one.
    """
    return _Answer(endpoint, wanted, filters, wanted.is_coarse if is_coarse is None else is_coarse).as_json()


@dataclass(frozen=True)
class _Asked:
    """One line of a panel, its PromQL, and what is sent for it: the same, or the buckets that quantiles share."""

    panel: Panel
    line: Line
    promql: str
    sent: str
    share: float | None = None


@dataclass(frozen=True)
class _LedgerSpans:
    """Where the ledger is cut for the tiles: the first minute of the period before, the rest of it, then the range in the
    steps of the sparklines (`whole`: which of them are). The last minute of the range may be running, so of the first
    minute before only the `share` counts that is over of it."""

    bounds: Sequence[datetime]
    whole: Sequence[bool]
    share: float

    @classmethod
    def of(cls, since: datetime, until: datetime, *, now: datetime) -> _LedgerSpans:
        """Of a range in whole minutes; steps are whole minutes, whole hours where they are long."""
        share = min(max((now - until) / ledger.MINUTE + 1, 0.0), 1.0)
        over = until if share == 1 else until - ledger.MINUTE
        unit = ledger.HOUR if until - since >= SPARKS * ledger.HOUR else ledger.MINUTE
        step = max(-(-(until - since) // (SPARKS * unit)), 1) * unit
        last = ledger.floor_hour(over) if unit == ledger.HOUR else over
        inner = [last - position * step for position in range(SPARKS, -1, -1)]
        steps = [since, *(at for at in inner if since < at < until), until]
        begin = since - (until - since)
        whole = [end - start == step and end <= over for start, end in pairwise(steps)]
        return cls([begin, begin + ledger.MINUTE, *steps], whole, share)


class _Answer:
    """Puts one answer together. The ledger is asked only where a tile or an empty panel needs it."""

    def __init__(self, endpoint: Endpoint, wanted: Group, filters: MonitoringFilters, is_coarse: bool) -> None:
        self.endpoint, self.group, self.filters = endpoint, wanted, filters
        scrape = settings.SCRAPE_SECONDS
        # Bars hold whole calls: their step is at least the window of a rate.
        coarsest = step_for(4 * scrape, scrape_seconds=scrape) if is_coarse else 0
        self.grid = filters.grid(scrape_seconds=scrape, coarsest_of=coarsest)
        self.matchers = Matchers.of(
            project=endpoint.project_id, endpoint=endpoint.pk,
            api=filters.api, model=filters.model, version=filters.version,
        )  # fmt: skip
        self.spans = Spans.of(step=self.grid.step, range_seconds=self.grid.span, scrape_seconds=scrape)
        self.state, self.message, self.compared = "ok", "", ""
        self.last_at: float | None = None
        self.until = 0.0
        self.found: dict[prometheus.Ask, list[Series]] = {}

    def as_json(self) -> dict[str, Any]:
        asked = list(self._asked())
        self._look(asked)
        by_panel: dict[str, list[_Asked]] = {}
        for each in asked:
            by_panel.setdefault(each.panel.id, []).append(each)
        return {
            "state": self.state,
            "message": " ".join(filter(None, (self.message, self.compared))),
            "last_at": self.last_at,
            "from": self.grid.start - self.grid.step,
            "to": self.grid.end,
            "until": max(self.grid.end, self.filters.bounds[1]),
            "step": self.grid.step,
            "time": list(self.grid.times),
            "shift": self.grid.span if self.filters.compare else 0,
            "panels": {panel.id: self._panel(panel, by_panel.get(panel.id, [])) for panel in self.group.panels},
            "tiles": {tile.id: self._tile(tile) for tile in self.group.tiles},
        }

    # --- asking Prometheus -------------------------------------------------------------------------------------------

    def _asked(self) -> Iterator[_Asked]:
        for panel in self.group.panels:
            for line in panel.lines:
                if line.query in queries.FOR_LONG_STEPS and self.grid.step <= 60:
                    continue
                promql = self._promql(line.query)
                if line.query in queries.FROM_BUCKETS:
                    buckets, share = queries.FROM_BUCKETS[line.query]
                    yield _Asked(panel, line, promql, self._promql(buckets), share)
                else:
                    yield _Asked(panel, line, promql, promql)

    def _promql(self, name: str) -> str:
        return queries.promql(name, self.matchers, self.spans)

    def _look(self, asked: Sequence[_Asked]) -> None:
        """Ask everything side by side, or note why not."""
        why = self._why_off()
        if why:
            self.state, self.message = "off", why
            return
        grids = [self.grid, self.grid.before()] if self.filters.compare else [self.grid]
        asks = [(each.sent, grid) for each in asked for grid in grids]
        if self.group.panels:
            asks.append((self._calls_promql, self.grid))
            if self.filters.is_live:
                asks.append(self._workers)
            if self.filters.compare:
                asks += self._asked_of_before
        asks += [ask for tile in self.group.tiles if tile.query for ask in self._tile_asks(tile)]
        self.until = prometheus.deadline()
        gaps: set[str] = set()
        try:
            self.found = prometheus.fetch(asks, until=self.until, gaps=gaps) if asks else {}
        except Trouble as trouble:
            self.state = "error" if trouble.kind in (Kind.GARBAGE, Kind.UNAUTHORIZED) else trouble.kind.value
            self.last_at = prometheus.last_answer_at()
            self.message = sentence(trouble, last_at=self.last_at)
        else:
            if gaps:
                self.message = _("Prometheus answers only in part, figures may be too low: %(detail)s") % {
                    "detail": "; ".join(sorted(gaps))[:300]
                }
            else:
                self._look_for_silence()
            if self.filters.compare and self.group.panels:
                self.compared = self._why_less_before()

    def _why_off(self) -> str:
        found = installation.look()
        if not found.is_on:
            return found.reason
        state = services.state_of(self.endpoint.project)
        if state.is_open:
            return ""
        if state.is_opening:
            return _("Monitoring is being opened for this project.")
        return _("Monitoring is not opened for this project.")

    def _look_for_silence(self) -> None:
        """Prometheus answers, but reads no gateway worker any more: say since when."""
        if not self.group.panels or not self.filters.is_live:
            return
        tail = self._calls_seen[-3:]
        if not self._calls_seen or any(value is not None for value in tail):
            return
        workers = _values(self.found.get(self._workers, []), self.grid)
        seen = [at for at, value in zip(self.grid.times, workers, strict=True) if value]
        if seen and seen[-1] < self.grid.end - 2 * self.grid.step:
            self.last_at = float(seen[-1])
            self.message = _("No data since %(time)s: Prometheus reads none of the gateway's workers.") % {
                "time": clock(self.last_at, self.filters.now)
            }

    def _why_less_before(self) -> str:
        """Why the period before has less than there was: nobody read it, or it is forgotten. "" when it is all there."""
        grid = self.grid.before()
        found = [_values(self.found.get(ask, []), grid) for ask in self._asked_of_before]
        known = [at for at, values in zip(grid.times, zip(*found, strict=True), strict=True) if _any_known(values)]
        if not known:
            return _("There is nothing to compare with: Prometheus has nothing of the period before.")
        if known[0] <= grid.start + grid.step:
            return ""
        return _("Of the period before Prometheus has only what is later than %(time)s.") % {
            "time": clock(known[0] - grid.step, self.filters.now)
        }

    @cached_property
    def _asked_of_before(self) -> list[prometheus.Ask]:
        """What is there whenever the gateway is read: its workers, and the calls of an endpoint that had some."""
        grid = self.grid.before()
        return [(self._promql("workers"), grid), (self._calls_promql, grid)]

    @cached_property
    def _workers(self) -> prometheus.Ask:
        return self._promql("workers"), self.grid

    @cached_property
    def _calls_promql(self) -> str:
        return self._promql("calls")

    @cached_property
    def _calls_seen(self) -> Values:
        """Calls per minute as Prometheus knows them: whether it knows of any."""
        return _values(self.found.get((self._calls_promql, self.grid), []), self.grid)

    # --- panels ------------------------------------------------------------------------------------------------------

    def _panel(self, panel: Panel, asked: Sequence[_Asked]) -> dict[str, Any]:
        series: list[dict[str, Any]] = []
        notes: list[str] = []
        for each in asked:
            found = self._series(each, notes)
            if each.line.is_optional and not any(any(one["values"]) or any(_before(one)) for one in found):
                continue
            series += found
        empty = self._why_empty(panel, series)
        if empty and any(any(_before(one)) for one in series):
            # Nothing now, and something before: that is what a comparison is for.
            notes.append(empty)
            empty = ""
        drawn = [one for one in series if _any_known(one["values"]) or _any_known(_before(one))]
        lines = [one for one in drawn if not one["dash"]]
        # Bars lie on one another: what counts is their sum. Of several lines the first stands for the panel, by its name.
        spoken = [one for one in lines if _any_known(one["values"])]
        is_named = len(lines) > 1 and panel.kind is not PanelKind.BARS
        if panel.kind is not PanelKind.BARS:
            spoken = spoken[:1]
        current, back = _newest([one["values"] for one in spoken])
        at = self.grid.end - back * self.grid.step
        named = [spoken[0]["label"]] if spoken and is_named else []
        if current is not None and self.filters.is_live and self.filters.now.timestamp() - at > FRESH_SECONDS:
            named.append(timezone.localtime(datetime.fromtimestamp(at, UTC)).strftime("%H:%M"))
        return {
            "series": drawn,
            "current": current,
            "current_at": None if current is None else at,
            "current_label": " · ".join(named),
            "empty": empty,
            "note": " ".join(notes),
        }

    def _series(self, each: _Asked, notes: list[str]) -> list[dict[str, Any]]:
        line, found = each.line, self.found.get((each.sent, self.grid), [])
        before = self.found.get((each.sent, self.grid.before()), []) if self.filters.compare else []
        if not line.by:
            series = self._one(each, found)
            previous = self._one(each, before) if self.filters.compare else None
            return [self._line(each, line.key, str(line.label), series, previous)]
        nothing: Values = [None] * len(self.grid.times)
        now_by, before_by = ({one.labels.get(line.by, ""): one.values for one in some} for some in (found, before))
        # What is gone is compared as well; of a dashed line only now is drawn.
        keys = {*now_by} if line.is_dashed else {*now_by, *before_by}
        if each.panel.is_zero_nothing:
            keys = {key for key in keys if any(now_by.get(key, ())) or any(before_by.get(key, ()))}

        def size(key: str) -> float:
            return sum(value or 0 for values in (now_by, before_by) for value in values.get(key, ()))

        ranked = sorted(keys, key=lambda key: (-size(key), key))
        if len(ranked) > MAX_LINES:
            notes.append(_("The %(drawn)d largest of %(all)d are drawn.") % {"drawn": MAX_LINES, "all": len(ranked)})
        lines = []
        # By name, so that a line keeps its colour while sizes change.
        for key in sorted(ranked[:MAX_LINES]):
            name = key or _("none")
            label = f"{name} ({line.label})" if line.label else name
            previous = before_by.get(key, nothing) if self.filters.compare else None
            lines.append(self._line(each, f"{line.key}:{key}", label, now_by.get(key, nothing), previous))
        return lines

    def _one(self, each: _Asked, found: Sequence[Series]) -> Values:
        if each.share is None:
            return _values(found, self.grid)
        return quantiles.over_time(each.share, found, len(self.grid.times))

    def _line(self, each: _Asked, key: str, label: str, values: Values, previous: Values | None) -> dict[str, Any]:
        line = each.line
        # A bar holds whole calls; what makes it uneven is that Prometheus guesses at the edges of a new series.
        decimals = 0 if each.panel.kind is PanelKind.BARS else DECIMALS
        made = {
            "key": key, "label": label, "unit": str(each.panel.unit), "values": _rounded(values, decimals),
            "previous": None if previous is None else _rounded(previous, decimals),
            "dash": line.is_dashed, "query": each.promql,
        }  # fmt: skip
        if line.total:
            total = getattr(self._now.summary, line.total)
            made |= {"total": total, "total_text": numbers.text(total, each.panel.measure)}
        return made

    def _why_empty(self, panel: Panel, series: Sequence[Mapping[str, Any]]) -> str:
        """Why there is nothing to see in `panel`; "" when there is."""
        if self.state != "ok":
            return self.message
        values = [value for one in series if not one["dash"] for value in one["values"]]
        if any(values):
            return ""
        if not self._now.summary.calls:
            if self.filters.is_narrowed:
                return _("No call in this range matches the filters.")
            return _("No calls in this range.")
        if not any(self._calls_seen):
            return self.message or self._why_unseen()
        is_flat = any(value is not None for value in values)
        if is_flat and not panel.is_zero_nothing:
            return ""
        if panel.none and self._is_short:
            reach = _("The curves of this range reach to %(time)s.") % {"time": clock(self.grid.end, self.filters.now)}
            return f"{panel.none} {reach}"
        return str(panel.none)

    def _why_unseen(self) -> str:
        """The ledger has calls that Prometheus knows nothing of."""
        calls = self._now.summary.calls
        said = {"calls": f"{calls:,}", "most": f"{SETS_MAX:,}"}
        opened_at = self._opened_at
        before, missed = self._unseen
        if before and not missed and opened_at:
            return ngettext(
                "Prometheus knows nothing of the %(calls)s call of this range: monitoring was opened at %(time)s.",
                "Prometheus knows nothing of the %(calls)s calls of this range: monitoring was opened at %(time)s.",
                calls,
            ) % {**said, "time": clock(opened_at.timestamp(), self.filters.now)}
        if not missed and self._is_short:
            return ngettext(
                "The curves of this range reach to %(time)s, its %(calls)s call came later. A shorter range shows it.",
                "The curves of this range reach to %(time)s, its %(calls)s calls came later. A shorter range shows them.",
                calls,
            ) % {**said, "time": clock(self.grid.end, self.filters.now)}
        if not missed:
            return (
                ngettext(
                    "Prometheus knows nothing yet of the %(calls)s call of this range. Curves follow within a minute.",
                    "Prometheus knows nothing yet of the %(calls)s calls of this range. Curves follow within a minute.",
                    calls,
                )
                % said
            )
        if self._is_over_the_cap:
            return (
                ngettext(
                    "Prometheus knows nothing of the %(calls)s call of this range by endpoint: a gateway worker counts %(most)s "
                    "endpoints and models apart, and there were more.",
                    "Prometheus knows nothing of the %(calls)s calls of this range by endpoint: a gateway worker counts %(most)s "
                    "endpoints and models apart, and there were more.",
                    calls,
                )
                % said
            )
        return (
            ngettext(
                "Prometheus has nothing of the %(calls)s call of this range: it did not read the gateway at that time.",
                "Prometheus has nothing of the %(calls)s calls of this range: it did not read the gateway at that time.",
                calls,
            )
            % said
        )

    @cached_property
    def _unseen(self) -> tuple[int, int]:
        """Calls of before monitoring was opened, and of later that should be on the curves by now."""
        since, until = self._range
        patience = self._patience
        opened = since
        if self._opened_at:
            # Of the minute in which it was opened: nobody knows which side a call was on, but just now it may follow.
            is_just_now = self.filters.now - self._opened_at < patience
            minute = ledger.floor_minute(self._opened_at) + (timedelta(0) if is_just_now else ledger.MINUTE)
            opened = min(max(minute, since), until)
        read = ledger.floor_minute(self.filters.now - patience)
        if self.grid.end < self.filters.bounds[1]:
            # Steps are long: the newest one is not over.
            read = min(read, ledger.floor_minute(datetime.fromtimestamp(self.grid.end, UTC)))
        read_until = min(max(read, opened), until)
        # Spans may be empty: the bounds are in order, whatever the times are.
        spans = ledger.slices(
            self.endpoint.pk, [since, opened, read_until], api=self.filters.api, version_ids=self._version_ids
        )
        before, missed = (each.summary.calls for each in spans)
        return before, missed

    @property
    def _is_short(self) -> bool:
        """Whether the curves end well before the range does: steps are long, and the newest one is not over."""
        return self.grid.end < min(self.filters.bounds[1], self.filters.now.timestamp() - self._patience.seconds)

    @property
    def _patience(self) -> timedelta:
        return timedelta(seconds=max(PATIENCE_SECONDS, 4 * settings.SCRAPE_SECONDS))

    @cached_property
    def _is_over_the_cap(self) -> bool:
        """Whether calls of the range were counted under "other"."""
        ask = self._promql("overflowed"), Grid(self.grid.end, self.grid.end, self.grid.step)
        try:
            return any(_values(prometheus.fetch([ask], until=self.until)[ask], ask[1]))
        except Trouble:
            return False

    @cached_property
    def _opened_at(self) -> datetime | None:
        subscription = services.state_of(self.endpoint.project).subscription
        return subscription.opened_at if subscription else None

    # --- tiles, from the ledger --------------------------------------------------------------------------------------

    @cached_property
    def _range(self) -> tuple[datetime, datetime]:
        """Beginning and end of the range in whole minutes, of which the last may be the running one."""
        since, until = ledger.floor_minute(self.filters.since), self.filters.until
        until = ledger.floor_minute(until) + (ledger.MINUTE if self.filters.is_live or until.second else timedelta(0))
        return since, until

    @cached_property
    def _ledger_spans(self) -> _LedgerSpans:
        return _LedgerSpans.of(*self._range, now=self.filters.now)

    @cached_property
    def _slices(self) -> list[Slice]:
        bounds = self._ledger_spans.bounds if self.group.tiles else self._range
        return ledger.slices(self.endpoint.pk, bounds, api=self.filters.api, version_ids=self._version_ids)

    @cached_property
    def _version_ids(self) -> list[int] | None:
        if not self.filters.model and not self.filters.version:
            return None
        found = ModelVersion.objects.annotate(known_as=Concat("model__name", Value("-"), "version"))
        if self.filters.model:
            found = found.filter(model__name=self.filters.model)
        if self.filters.version:
            found = found.filter(known_as=self.filters.version)
        return list(found.order_by("pk").values_list("pk", flat=True))

    @cached_property
    def _now(self) -> Slice:
        return ledger.joined(self._slices[2:] if self.group.tiles else self._slices)

    @cached_property
    def _before(self) -> Slice:
        return ledger.joined([_share_of(self._slices[0], self._ledger_spans.share), self._slices[1]])

    def _tile(self, tile: Tile) -> dict[str, Any]:
        if tile.query:
            return self._asked_tile(tile)
        before = self._before
        steps = [each for each, is_whole in zip(self._slices[2:], self._ledger_spans.whole, strict=True) if is_whole]
        if tile.measure is Measure.MONEY:
            spent = [_money(tile.id, each) for each in (self._now, before)]
            # Amounts of several currencies have no sum.
            is_one = len(_money(tile.id, self._now)) <= 1
            amounts = [float(sum(_money(tile.id, each).values())) for each in steps] if is_one else []
            value, previous = (_one_currency(each) for each in spent)
            text, exact = numbers.amounts(spent[0]), numbers.exact_amounts(spent[0])
            note = ""
            if unpriced := self._now.cost.unpriced_tokens:
                note = _("%(tokens)s tokens had no price.") % {"tokens": f"{unpriced:,}"}
            return _tile_json(tile, value, previous, amounts, text=text, exact=exact, note=note)
        value, previous, *sparks = (_figure(tile.id, each) for each in (self._now, before, *steps))
        return _tile_json(tile, value, previous, sparks)

    def _tile_asks(self, tile: Tile) -> list[prometheus.Ask]:
        """The whole range, the one before, and a coarse curve."""
        grid = self.grid
        total = self._promql(tile.query)
        coarse = self._coarse
        spans = Spans.of(step=coarse.step, range_seconds=coarse.span, scrape_seconds=settings.SCRAPE_SECONDS)
        curve = queries.promql(tile.query.removesuffix("_total"), self.matchers, spans)
        return [
            (total, Grid(grid.end, grid.end, grid.step)),
            (total, Grid(grid.end - grid.span, grid.end - grid.span, grid.step)),
            (curve, coarse),
        ]

    @cached_property
    def _coarse(self) -> Grid:
        scrape = settings.SCRAPE_SECONDS
        step = step_for(self.grid.span / SPARKS, scrape_seconds=scrape)
        end = self.grid.end // step * step
        return Grid(end - (self.grid.span // step - 1) * step, end, step)

    def _asked_tile(self, tile: Tile) -> dict[str, Any]:
        now, before, curve = self._tile_asks(tile)
        values = [_last(_values(self.found.get(ask, []), ask[1])) for ask in (now, before)]
        made = _tile_json(tile, values[0], values[1], _values(self.found.get(curve, []), curve[1]))
        made["query"] = now[0]
        if values[0] is None:
            made["note"] = self.message or _("No calls of which this is known.")
        return made


# --- small parts -----------------------------------------------------------------------------------------------------


def sentence(trouble: Trouble, *, last_at: float | None = None, now: datetime | None = None) -> str:
    """What is wrong with Prometheus, in the reader's language."""
    since = clock(last_at, now or datetime.now(UTC)) if last_at else ""
    detail = {"detail": trouble.detail, "time": since}
    match trouble.kind:
        case Kind.UNREACHABLE:
            if since:
                return _("No data since %(time)s: Prometheus cannot be reached.") % detail
            return _("Prometheus cannot be reached.")
        case Kind.SLOW:
            return _("Prometheus did not answer in time. A shorter range asks less of it.")
        case Kind.BUSY:
            return _("Too many pages are waiting for Prometheus at the moment.")
        case Kind.UNAUTHORIZED:
            return _("Prometheus does not accept the console's name and password or token (%(detail)s).") % detail
        case Kind.GARBAGE:
            return _("What answers at the address of Prometheus does not speak as Prometheus does.")
        case Kind.TOO_MUCH:
            return _("Prometheus has more series than can be drawn (%(detail)s).") % detail
        case Kind.ERROR:
            return _("Prometheus refused the question: %(detail)s") % detail


def clock(at: float, now: datetime) -> str:
    """The time of day in the reader's zone, with the day where it is another one."""
    local, today = (timezone.localtime(each) for each in (datetime.fromtimestamp(at, UTC), now))
    return local.strftime("%H:%M" if local.date() == today.date() else "%Y-%m-%d %H:%M")


def _values(found: Sequence[Series], grid: Grid) -> Values:
    """The values of a query that answers with one series; nothing but gaps when it answered with none."""
    return found[0].values if found else [None] * len(grid.times)


def _rounded(values: Values, decimals: int) -> Values:
    return [None if value is None else round(value, decimals) for value in values]


def _last(values: Values) -> float | None:
    return next((value for value in reversed(values) if value is not None), None)


def _newest(lines: Sequence[Values]) -> tuple[float | None, int]:
    """The sum of the newest values, and how many steps before the end they are.

    None when the last two points have none, since that is not now.
    """
    for back in (0, 1):
        values = [line[-1 - back] for line in lines if len(line) > back]
        known = [value for value in values if value is not None]
        if known:
            return round(sum(known), DECIMALS), back
    return None, 0


def _any_known(values: Sequence[float | None]) -> bool:
    """Whether there is a value at all."""
    return any(value is not None for value in values)


def _before(line: Mapping[str, Any]) -> Values:
    """The values of the period before that are drawn for a line; a limit's are not."""
    previous: Values | None = None if line["dash"] else line["previous"]
    return previous or ()


def _share_of(one: Slice, share: float) -> Slice:
    """So much of a span, as if its calls were spread evenly."""
    if not share:
        return Slice()
    part = Decimal(share)
    cost = one.cost
    return Slice(
        Summary(**{name: round(getattr(one.summary, name) * share) for name in Summary.__dataclass_fields__}),
        Cost(
            {currency: amount * part for currency, amount in cost.amounts.items()},
            *(round(count * share) for count in (cost.calls, cost.tokens, cost.unpriced_tokens)),
        ),
        {currency: amount * part for currency, amount in one.saved.items()},
    )


def _figure(name: str, one: Slice) -> int | float | None:
    """What a tile of the ledger shows of a span."""
    summary = one.summary
    match name:
        case "error_rate":
            return round(100 * summary.errors / summary.calls, 4) if summary.calls else None
        case "cache_hit":
            return round(100 * summary.cached_tokens / summary.input_tokens, 4) if summary.input_tokens else None
    figure: int = getattr(summary, name)
    return figure


def _money(name: str, one: Slice) -> Mapping[str, Decimal]:
    return one.saved if name == "saved" else one.cost.amounts


def _one_currency(spent: Mapping[str, Decimal]) -> float | None:
    """The amount as a number, where there is but one currency."""
    if not spent:
        return 0.0
    return float(next(iter(spent.values()))) if len(spent) == 1 else None


def _tile_json(
    tile: Tile,
    value: int | float | None,
    previous: int | float | None,
    spark: Sequence[int | float | None],
    *,
    text: str | None = None,
    exact: str | None = None,
    note: str = "",
) -> dict[str, Any]:
    return {
        "label": str(tile.title),
        "value": value,
        "text": numbers.text(value, tile.measure) if text is None else text,
        "exact": numbers.exact(value, tile.measure) if exact is None else exact,
        "previous": previous,
        "change_percent": numbers.change_percent(value, previous),
        "spark": list(spark) if any(spark) else None,
        "note": note,
    }
