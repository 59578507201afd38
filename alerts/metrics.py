"""The metrics that a rule of people may read, what each means, and how the form sums one up.

What `gateway.exposition` and `monitoring.exposition` export with a project on it; nothing else can be named in a rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.utils import translation

from monitoring import queries


@dataclass(frozen=True, slots=True)
class Both:
    """A text in both languages; messages are written for people who are not the one that looks."""

    en: str
    zh: str

    def of(self, language: str) -> str:
        """The text for a reader of `language` ("zh-hans", "en", …)."""
        return self.zh if language.startswith("zh") else self.en

    def __str__(self) -> str:
        return self.of(translation.get_language() or "en")

    def to_json(self) -> dict[str, str]:
        """As `Rule.texts` keeps it."""
        return {"en": self.en, "zh": self.zh}


class Kind(StrEnum):
    COUNTER = "counter"
    SUMMARY = "summary"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


class Aggregation(StrEnum):
    """How the form makes one figure of a metric's samples."""

    PER_MINUTE = "per_minute"
    INCREASE = "increase"
    MEAN = "mean"
    P50 = "p50"
    P90 = "p90"
    P95 = "p95"
    P99 = "p99"
    MAX = "max"
    MIN = "min"
    SUM = "sum"


AGGREGATIONS: Mapping[Aggregation, Both] = {
    Aggregation.PER_MINUTE: Both("per minute", "每分钟"),
    Aggregation.INCREASE: Both("in the window", "窗口内总数"),
    Aggregation.MEAN: Both("mean", "平均值"),
    Aggregation.P50: Both("median", "P50"),
    Aggregation.P90: Both("P90", "P90"),
    Aggregation.P95: Both("P95", "P95"),
    Aggregation.P99: Both("P99", "P99"),
    Aggregation.MAX: Both("largest", "最大值"),
    Aggregation.MIN: Both("smallest", "最小值"),
    Aggregation.SUM: Both("sum", "合计"),
}

OF_KIND: Mapping[Kind, Sequence[Aggregation]] = {
    Kind.COUNTER: (Aggregation.PER_MINUTE, Aggregation.INCREASE),
    Kind.SUMMARY: (Aggregation.PER_MINUTE, Aggregation.INCREASE, Aggregation.MEAN),
    Kind.HISTOGRAM: (Aggregation.P95, Aggregation.P99, Aggregation.P90, Aggregation.P50, Aggregation.MEAN),
    Kind.GAUGE: (Aggregation.MAX, Aggregation.MIN, Aggregation.SUM),
}

_SUFFIXES: Mapping[Kind, Sequence[str]] = {
    Kind.COUNTER: ("",),
    Kind.SUMMARY: ("_sum", "_count"),
    Kind.HISTOGRAM: ("_bucket", "_sum", "_count"),
    Kind.GAUGE: ("",),
}

FORCED_LABELS = ("project", "ark_endpoint")
"""Set by us on every selector."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `labels` beyond project and endpoint; `unit` of the figure that people read ("" for a plain number)."""

    name: str
    kind: Kind
    help: Both
    labels: Sequence[str]
    unit: str = ""

    @property
    def aggregations(self) -> Sequence[Aggregation]:
        return OF_KIND[self.kind]

    @property
    def series(self) -> list[str]:
        """The names under which Prometheus has it."""
        return [self.name + suffix for suffix in _SUFFIXES[self.kind]]


_CALL = ("api", "base_model", "ark_model")
_OF_MODEL = ("base_model", "ark_model")

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            queries.REQUESTS,
            Kind.COUNTER,
            Both("Calls, by error code (Success when answered)", "调用次数，按错误码（成功为 Success）"),
            (*_CALL, "code", "http_status_code"),
        ),
        Metric(queries.INPUT, Kind.SUMMARY, Both("Input tokens", "输入 Token"), (*_CALL, "tier")),
        Metric(queries.OUTPUT, Kind.SUMMARY, Both("Output tokens", "输出 Token"), (*_CALL, "tier")),
        Metric(
            queries.CACHED,
            Kind.SUMMARY,
            Both("Input tokens from the prefix cache", "命中前缀缓存的输入 Token"),
            (*_CALL, "tier"),
        ),
        Metric(
            queries.REASONING,
            Kind.SUMMARY,
            Both("Output tokens of reasoning", "深度思考的输出 Token"),
            (*_CALL, "tier"),
        ),
        Metric(
            queries.DURATION,
            Kind.HISTOGRAM,
            Both("Duration of successful calls", "成功调用的耗时"),
            (*_CALL, "stream"),
            "s",
        ),
        Metric(
            queries.STREAMED,
            Kind.HISTOGRAM,
            Both(
                'Time to the first token (is_first="true"), time per further token ("false")',
                '首 Token 时延（is_first="true"）、之后每个 Token 的时延（"false"）',
            ),
            (*_CALL, "is_first"),
            "s",
        ),
        Metric(queries.IN_FLIGHT, Kind.GAUGE, Both("Calls being served", "处理中的调用"), _CALL),
        Metric(
            queries.CACHE,
            Kind.COUNTER,
            Both("Successful calls by prefix-cache result", "成功调用的前缀缓存结果"),
            (*_CALL, "result"),
        ),
        Metric(
            "ark_gateway_limit_overrun_tokens_total",
            Kind.COUNTER,
            Both("Tokens used beyond their reservation", "超出预留的 Token"),
            _CALL,
        ),
        Metric(
            "ark_endpoint_status",
            Kind.GAUGE,
            Both("1 for the endpoint's status, 0 for the others", "接入点当前状态为 1，其余为 0"),
            ("status",),
        ),
        Metric(queries.RPM_LIMIT, Kind.GAUGE, Both("RPM limit of the endpoint", "接入点的 RPM 限流"), ()),
        Metric(queries.TPM_LIMIT, Kind.GAUGE, Both("TPM limit of the endpoint", "接入点的 TPM 限流"), ()),
        Metric(
            queries.WEIGHT,
            Kind.GAUGE,
            Both("Share of traffic a version should get, 0 to 1", "版本应得的流量占比，0 到 1"),
            _OF_MODEL,
        ),
    )
}

SERIES: Mapping[str, Metric] = {name: metric for metric in METRICS.values() for name in metric.series}
"""What may stand in a rule's PromQL."""

FUNCTIONS = (
    "abs", "absent", "absent_over_time", "avg_over_time", "ceil", "changes", "clamp", "clamp_max", "clamp_min",
    "count_over_time", "delta", "deriv", "floor", "histogram_quantile", "idelta", "increase", "irate", "label_replace",
    "last_over_time", "max_over_time", "min_over_time", "predict_linear", "quantile_over_time", "rate", "resets",
    "round", "scalar", "sgn", "sqrt", "stddev_over_time", "sum_over_time", "time", "vector",
)  # fmt: skip
OPERATORS = ("sum", "avg", "min", "max", "count", "stddev", "topk", "bottomk", "quantile", "count_values", "group")
KEYWORDS = ("by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset")


def completion() -> dict[str, Any]:
    """What the editor offers: metrics with their labels and meaning in the reader's language, functions, keywords."""
    return {
        "metrics": [
            {
                "name": name,
                "help": str(metric.help),
                "kind": metric.kind.value,
                "labels": [*metric.labels, *(("le",) if name.endswith("_bucket") else ())],
            }
            for name, metric in SERIES.items()
        ],
        "labels": sorted({label for metric in METRICS.values() for label in metric.labels} | {"le", *FORCED_LABELS}),
        "functions": list(FUNCTIONS),
        "aggregations": list(OPERATORS),
        "keywords": list(KEYWORDS),
    }
