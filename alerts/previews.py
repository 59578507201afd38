"""What a rule would do: its value now, and the times of the last day at which it would have fired."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.utils.translation import gettext as _

from alerts.messages import figure
from alerts.templates import LevelRule
from monitoring import figures, prometheus
from monitoring.filters import Grid
from monitoring.prometheus import Kind, Series, Trouble

STEP = 60
DAY = 86_400
MOST_SERIES = 20
"""Of an expression that has more series than can be drawn."""

HOLDS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fired:
    """One time at which a series would have fired, from and to in epoch seconds."""

    level: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Preview:
    """`values` are those of now, by series; `level` the worst that holds now ("" none), before any waiting.

    `times` and `series` are the last day, a point a minute; `fired` the times at which it would have fired. `trouble` is
    why there is nothing.
    """

    expression: str
    comparator: str
    levels: Sequence[LevelRule]
    unit: str = ""
    values: Sequence[float] = ()
    level: str = ""
    times: Sequence[int] = ()
    series: Sequence[Series] = ()
    fired: Sequence[Fired] = ()
    trouble: Trouble | None = None

    @property
    def worst(self) -> float | None:
        """The value that is nearest to firing, or furthest over."""
        if not self.values:
            return None
        return min(self.values) if self.comparator in ("<", "<=") else max(self.values)

    @property
    def sentence(self) -> str:
        """Now, in the reader's language: "Now: 3.1, would not fire"."""
        if self.trouble is not None:
            if self.trouble.kind == Kind.UNREACHABLE:
                return _("Prometheus does not answer, so there is no preview.")
            return figures.sentence(self.trouble)
        if self.worst is None:
            return _("Now: no data, would not fire.")
        value = figure(self.worst, self.unit)
        if self.level:
            return _("Now: %(value)s, would fire as %(level)s.") % {"value": value, "level": self.level}
        return _("Now: %(value)s, would not fire.") % {"value": value}


def look(expression: str, *, comparator: str, levels: Sequence[LevelRule], unit: str, now: datetime) -> Preview:
    """Ask Prometheus about a confined expression; what goes wrong there is in the preview."""
    end = int(now.timestamp()) // STEP * STEP
    grid = Grid(end - DAY, end, STEP)
    try:
        samples = prometheus.instant(expression)
        series = _last_day(expression, grid, comparator)
    except Trouble as error:
        return Preview(expression, comparator, levels, unit, trouble=error)
    values = [sample.value for sample in samples if sample.value == sample.value]
    holds = HOLDS[comparator]
    level = next((each.level for each in levels if any(holds(value, each.threshold) for value in values)), "")
    return Preview(
        expression, comparator, levels, unit, values=values, level=level, times=grid.times, series=series,
        fired=[span for each in series for span in fired(each.values, grid.times, comparator, levels)],
    )  # fmt: skip


def _last_day(expression: str, grid: Grid, comparator: str) -> Sequence[Series]:
    """All series; of more than can be had, those that are nearest to firing or furthest over at each moment."""
    try:
        return prometheus.fetch([(expression, grid)])[expression, grid]
    except Trouble as error:
        if error.kind != Kind.TOO_MUCH:
            raise
    worst = "bottomk" if comparator in ("<", "<=") else "topk"
    few = f"{worst}({MOST_SERIES}, {expression})"
    return prometheus.fetch([(few, grid)])[few, grid]


def fired(
    values: Sequence[float | None], times: Sequence[int], comparator: str, levels: Sequence[LevelRule]
) -> list[Fired]:
    """When a series would have fired: held for as long as the level asks, and kept a while after, as Prometheus does."""
    found = []
    holds = HOLDS[comparator]
    for level in levels:
        since: int | None = None
        start: int | None = None
        last = 0
        for at, value in zip(times, values, strict=True):
            if value is not None and holds(value, level.threshold):
                since = at if since is None else since
                last = at
                if start is None and at - since >= level.for_seconds:
                    start = at
            elif start is None:
                since = None
            elif at - last >= settings.ALERT_KEEP_FIRING_SECONDS:
                found.append(Fired(level.level, start, at))
                since = start = None
        if start is not None:
            found.append(Fired(level.level, start, times[-1]))
    return found
