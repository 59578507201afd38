"""What the monitoring page may be asked: a range of time, API, model and version. All of it is in the address.

A link shows the same picture to whoever follows it: `querystring` writes back exactly what was understood.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.http import QueryDict
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from catalog.models import ModelVersion
from endpoints.models import Endpoint
from metering import ledger

KEPT = timedelta(days=15)
"""How far back Prometheus, as we start it, remembers."""

AGE = timedelta(hours=1)
"""By so much, or by a step, a range may begin earlier and nothing is said: the longest one's link was copied a while ago."""
SHORTEST_SECONDS = 60
DEFAULT_RANGE = "1h"
DEFAULT_WIDTH = 800
MAX_POINTS = 1_000
MAX_TEXT = 128

SECONDS = {
    "15m": 900, "1h": 3_600, "3h": 10_800, "6h": 21_600, "12h": 43_200, "24h": 86_400, "3d": 259_200, "7d": 604_800,
    "15d": 1_296_000,
}  # fmt: skip

Label = str | Promise
RANGES: Sequence[tuple[str, Label]] = (
    ("15m", gettext_lazy("Last 15 minutes")),
    ("1h", gettext_lazy("Last hour")),
    ("3h", gettext_lazy("Last 3 hours")),
    ("6h", gettext_lazy("Last 6 hours")),
    ("12h", gettext_lazy("Last 12 hours")),
    ("24h", gettext_lazy("Last 24 hours")),
    ("3d", gettext_lazy("Last 3 days")),
    ("7d", gettext_lazy("Last 7 days")),
    ("15d", gettext_lazy("Last 15 days")),
)
AUTOS: Sequence[tuple[int, Label]] = (
    (0, gettext_lazy("Off")),
    (15, gettext_lazy("15 s")),
    (30, gettext_lazy("30 s")),
    (60, gettext_lazy("1 min")),
    (300, gettext_lazy("5 min")),
)

# Steps that people can read off an axis; few of them, so that pages of other widths share what was fetched.
_STEPS = (
    1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 450, 600, 900, 1_200, 1_800, 2_400, 3_600, 5_400, 7_200,
    10_800, 14_400, 21_600, 43_200,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grid:
    """The times of a chart: `start`, `start + step`, …, `end`, epoch seconds; all are multiples of `step`."""

    start: int
    end: int
    step: int

    @property
    def times(self) -> range:
        return range(self.start, self.end + 1, self.step)

    @property
    def span(self) -> int:
        """The seconds that the points together speak of: each is about the step before it."""
        return self.end - self.start + self.step

    def before(self) -> Grid:
        """The period of the same length that ends where this one begins."""
        return Grid(self.start - self.span, self.end - self.span, self.step)


@dataclass(frozen=True, slots=True)
class MonitoringFilters:
    """What was understood. `from_` and `to` are an own range and win over `range`; `errors` are sentences.

    `step` goes with an own range alone: the points that somebody saw, whatever the width of the next one's screen.
    """

    now: datetime
    range: str = DEFAULT_RANGE
    from_: int | None = None
    to: int | None = None
    api: str = ""
    model: str = ""
    version: str = ""
    compare: bool = False
    auto: int = 0
    width: int = DEFAULT_WIDTH
    step: int = 0
    errors: Sequence[str] = ()

    @classmethod
    def of(cls, data: QueryDict, *, now: datetime) -> MonitoringFilters:
        """What `data` asks for. Nothing in it is refused: what makes no sense becomes a sentence and the default."""
        errors: list[str] = []
        chosen = data.get("range", "") or DEFAULT_RANGE
        if chosen not in SECONDS:
            errors.append(_("There is no range “%(range)s”; this is the last hour.") % {"range": chosen[:16]})
            chosen = DEFAULT_RANGE
        from_, to = _own_range(data, now, errors)
        auto = _whole(data.get("auto", ""))
        return cls(
            now=now, range=chosen, from_=from_, to=to,
            api=_text(data, "api"), model=_text(data, "model"), version=_text(data, "version"),
            compare=data.get("compare", "") in ("1", "on", "true"),
            auto=auto if auto in dict(AUTOS) else 0,
            width=min(max(_whole(data.get("width", "")) or DEFAULT_WIDTH, 100), 10_000),
            step=_whole(data.get("step", "")) if from_ is not None else 0,
            errors=tuple(errors),
        )  # fmt: skip

    @property
    def since(self) -> datetime:
        """The beginning of the range."""
        return datetime.fromtimestamp(self.bounds[0], UTC)

    @property
    def until(self) -> datetime:
        """The end of the range; now, unless an own range ends earlier."""
        return datetime.fromtimestamp(self.bounds[1], UTC)

    @property
    def bounds(self) -> tuple[int, int]:
        """Beginning and end in epoch seconds."""
        if self.from_ is not None and self.to is not None:
            return self.from_, self.to
        end = int(self.now.timestamp())
        return end - SECONDS[self.range], end

    @property
    def is_narrowed(self) -> bool:
        """Whether only some of the calls are asked for."""
        return bool(self.api or self.model or self.version)

    @property
    def is_live(self) -> bool:
        """Whether the range ends now."""
        return self.to is None or self.to >= int(self.now.timestamp())

    def querystring(self) -> str:
        """The filters as they stand in an address; what is as it is anyway is left out."""
        pairs: dict[str, str | int] = {}
        if self.from_ is not None and self.to is not None:
            pairs |= {"from": self.from_, "to": self.to}
            if self.step:
                pairs["step"] = self.step
        if self.range != DEFAULT_RANGE:
            pairs["range"] = self.range
        pairs |= {name: value for name in ("api", "model", "version") if (value := getattr(self, name))}
        if self.compare:
            pairs["compare"] = 1
        if self.auto:
            pairs["auto"] = self.auto
        return urlencode(pairs)

    def grid(self, *, scrape_seconds: int, coarsest_of: int = 0) -> Grid:
        """The times to ask for: about one for two pixels, in steps that scrapes fit into, ends aligned to the step.

        `coarsest_of`: the step is at least this long. A `step` that makes sense is taken as it is.
        """
        start, end = self.bounds
        points = min(max(self.width // 2, 50), MAX_POINTS)
        step = step_for(max((end - start) / points, coarsest_of), scrape_seconds=scrape_seconds)
        if self._has_step(scrape_seconds):
            step = max(self.step, coarsest_of)
        # An own range may end between two steps: up to the next one, unless that is still to come.
        last = end // step * step
        if last < end and last + step <= self.now.timestamp():
            last += step
        first = min(start // step * step + step, last)
        return Grid(first, last, step)

    def _has_step(self, scrape_seconds: int) -> bool:
        start, end = self.bounds
        return 0 < self.step <= end - start <= self.step * MAX_POINTS and self.step % scrape_seconds == 0


def step_for(seconds: float, *, scrape_seconds: int) -> int:
    """The smallest readable step of at least `seconds` that is a multiple of the scrape interval."""
    for step in _STEPS:
        if step >= seconds and step % scrape_seconds == 0:
            return step
    return max(math.ceil(seconds / scrape_seconds), 1) * scrape_seconds


def _text(data: QueryDict, name: str) -> str:
    return data.get(name, "").strip().replace("\0", "")[:MAX_TEXT]


def _whole(text: str) -> int:
    """The whole number that `text` begins with, of few digits; 0 when there is none."""
    digits = text.partition(".")[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 12 else 0


def _moment(text: str) -> int | None:
    """Epoch seconds, or a date and time as browsers send it (in the reader's zone); None when it is neither."""
    if seconds := _whole(text):
        return seconds
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = timezone.make_aware(at)
    return int(at.timestamp())


def _own_range(data: QueryDict, now: datetime, errors: list[str]) -> tuple[int, int] | tuple[None, None]:
    """`from` and `to` where both make sense, kept within what Prometheus remembers."""
    written = data.get("from", "").strip(), data.get("to", "").strip()
    if not any(written):
        return None, None
    latest = int(now.timestamp())
    from_, to = _moment(written[0]), _moment(written[1]) if written[1] else latest
    if from_ is None or to is None:
        errors.append(_("The own range is not a beginning and an end that can be read."))
        return None, None
    to = min(to, latest)
    earliest = latest - int(KEPT.total_seconds())
    if from_ < earliest - max(AGE.total_seconds(), min(_whole(data.get("step", "")), _STEPS[-1])):
        errors.append(_("Figures are kept for 15 days; the range begins with what there is."))
        from_ = earliest
    if to - from_ < SHORTEST_SECONDS:
        errors.append(_("The own range is shorter than a minute, or ends before it begins."))
        return None, None
    return from_, to


# --- what there is to choose from ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choices:
    """(value, label) pairs: what the endpoint had calls of in the last 15 days, and its present version."""

    apis: Sequence[tuple[str, str]]
    models: Sequence[tuple[str, str]]
    versions: Sequence[tuple[str, str]]


def choices(endpoint: Endpoint, *, now: datetime) -> Choices:
    """What the filters of `endpoint` offer; two queries."""
    used = ledger.used(endpoint.pk, since=now - KEPT, now=now)
    wanted = {version_id for _api, version_id in used} | {endpoint.version_id}
    versions = list(ModelVersion.objects.select_related("model").filter(pk__in=wanted))
    apis = {api for api, _version in used}
    return Choices(
        apis=[(api, API_NAMES.get(api, api)) for api in sorted(apis)],
        models=sorted({(version.model.name, version.model.display_name) for version in versions}),
        versions=sorted((version.public_id, version.public_id) for version in versions),
    )


API_NAMES = {"chat": "Chat Completions", "embeddings": "Embeddings"}
