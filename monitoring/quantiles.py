"""PromQL's `histogram_quantile`, over buckets that were fetched once for several quantiles of one chart.

Prometheus would add up the same buckets anew for each of P50, P95 and P99; over 15 days that is most of a page's time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from monitoring.prometheus import Series

Values = Sequence[float | None]


def quantile(share: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """The value that `share` of all observations are not above, interpolated within its bucket; None without any.

    `bounds` ascend and end with infinity; `counts` are cumulative. Past the last finite bound it is that bound.
    """
    if len(bounds) < 2 or bounds[-1] != math.inf or counts[-1] <= 0:
        return None
    rank = share * counts[-1]
    before, start = 0.0, 0.0
    for bound, count in zip(bounds[:-1], counts[:-1], strict=True):
        # Scrapes of several workers are not of one moment: a bucket may seem to hold less than a smaller one.
        count = max(count, before)
        if count >= rank:
            return start + (bound - start) * ((rank - before) / (count - before)) if count > before else bound
        before, start = count, bound
    return bounds[-2]


def over_time(share: float, buckets: Sequence[Series], length: int) -> Values:
    """`quantile` at each of `length` times, of series with a label `le`."""
    try:
        ordered = sorted((float(one.labels["le"]), one.values) for one in buckets)
    except (KeyError, ValueError):
        return [None] * length
    bounds = [bound for bound, _values in ordered]
    columns = [values for _bound, values in ordered]
    return [quantile(share, bounds, [value or 0.0 for value in counts]) for counts in zip(*columns, strict=True)] or [
        None
    ] * length
