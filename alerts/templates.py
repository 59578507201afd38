"""The default rules for an endpoint, with what they say in both languages. Pure.

A template is never edited: a change is a new version at the end of `VERSIONS`, so that groups can say what an upgrade
would change. Expressions name no project and no endpoint: `alerts.promql.confine` puts them in, as for everybody's.
TPM and RPM are judged against the endpoint's own limits, so that raising a limit needs no new rule.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alerts.metrics import Both
from alerts.models import Level
from catalog.models import FoundationModel
from monitoring.queries import CACHED, DURATION, INPUT, OUTPUT, REQUESTS, RPM_LIMIT, STREAMED, TPM_LIMIT, WEIGHT

Domain = FoundationModel.Domain
CHAT_LIKE = frozenset({Domain.CHAT, Domain.THINKING, Domain.VISION})

FOR_SECONDS = (0, 60, 120, 300, 600)
"""How long a condition must hold, as VMP offers it."""
COMPARATORS = (">", ">=", "<", "<=", "==", "!=")
MIN_CALLS = 20
"""Ratios and quantiles of fewer calls than this in the window say nothing."""


@dataclass(frozen=True, slots=True)
class LevelRule:
    """From which threshold, held for how long, a rule is of this level."""

    level: str
    threshold: float
    for_seconds: int

    def to_json(self) -> dict[str, Any]:
        """As `Rule.levels` keeps it."""
        return {"level": self.level, "threshold": self.threshold, "for_seconds": self.for_seconds}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LevelRule:
        return cls(str(data["level"]), float(data["threshold"]), int(data["for_seconds"]))


@dataclass(frozen=True, slots=True)
class Item:
    """One rule of a template. `text` may hold {endpoint}, {name}, {id}, {rule}, {level}, {value} and {threshold}."""

    id: str
    name: Both
    help: Both
    text: Both
    expression: str
    comparator: str
    levels: tuple[LevelRule, ...]
    unit: str = ""
    domains: Collection[str] = field(default_factory=lambda: frozenset(Domain))
    needs_cache: bool = False
    limit: str = ""
    """The endpoint's own limit that it is about: "rpm" or "tpm"."""

    def applies(self, *, domain: str, has_cache: bool) -> bool:
        """Whether a model of `domain` has what this rule looks at."""
        return domain in self.domains and (has_cache or not self.needs_cache)


@dataclass(frozen=True, slots=True)
class Template:
    """Rules that are made together by one press."""

    id: str
    version: int
    items: tuple[Item, ...]

    def item(self, item_id: str) -> Item | None:
        """That rule of it, if there is one."""
        return next((item for item in self.items if item.id == item_id), None)

    def items_for(self, *, domain: str, has_cache: bool) -> list[Item]:
        """The rules that make sense for a model."""
        return [item for item in self.items if item.applies(domain=domain, has_cache=has_cache)]


BY = "by (project, ark_endpoint)"
ON = "on (project, ark_endpoint)"
OF_VERSION = "by (project, ark_endpoint, base_model, ark_model)"
_BROKEN = 'http_status_code=~"5.."'


def _levels(**levels: tuple[float, int]) -> tuple[LevelRule, ...]:
    return tuple(LevelRule(level, threshold, seconds) for level, (threshold, seconds) in sorted(levels.items()))


def _enough(metric: str = REQUESTS, window: str = "5m", by: str = BY) -> str:
    return f"and (sum {by} (increase({metric}[{window}])) >= {MIN_CALLS})"


def _share(matchers: str) -> str:
    part = f"sum {BY} (rate({REQUESTS}{{{matchers}}}[5m]))"
    return f"(100 * {part} / sum {BY} (rate({REQUESTS}[5m]))) {_enough()}"


def _quantile(share: str, metric: str, matchers: str, window: str) -> str:
    buckets = f"sum by (project, ark_endpoint, le) (rate({metric}_bucket{{{matchers}}}[{window}]))"
    return f"histogram_quantile({share}, {buckets}) {_enough(f'{metric}_count{{{matchers}}}', window)}"


def _hit(window: str, offset: str = "") -> str:
    parts = [f"sum {BY} (rate({metric}_sum[{window}]{offset}))" for metric in (CACHED, INPUT)]
    return f"({parts[0]} / {parts[1]})"


def _of_limit(rate: str, limit: str) -> str:
    return f"100 * 60 * ({rate}) / {ON} (max {BY} ({limit}) > 0)"


def _version_errors() -> str:
    """Percent of each version's calls; 0 where it had calls and no error."""
    calls = f"sum {OF_VERSION} (rate({REQUESTS}[5m]))"
    errors = f"sum {OF_VERSION} (rate({REQUESTS}{{{_BROKEN}}}[5m]))"
    return f"(100 * ({errors} or 0 * {calls}) / ({calls} > 0))"


_TOKENS = f"sum {BY} (rate({INPUT}_sum[2m])) + sum {BY} (rate({OUTPUT}_sum[2m]))"

DEFAULT_1 = Template(
    id="endpoint",
    version=1,
    items=(
        Item(
            "error_rate",
            Both("Server error rate (5xx)", "错误率（5xx）"),
            Both("Share of calls that the service failed to answer.", "服务端出错的调用占比。"),
            Both("{value} of the calls to {endpoint} failed (5xx).", "接入点 {endpoint} 的 5xx 错误率为 {value}。"),
            _share(_BROKEN),
            ">",
            _levels(P0=(20, 60), P1=(5, 120), P2=(1, 300)),
            "%",
        ),
        Item(
            "throttle_rate",
            Both("Rate of limited calls (429)", "限流率（429）"),
            Both("Share of calls refused because a limit was reached.", "因触发限流被拒绝的调用占比。"),
            Both(
                "{value} of the calls to {endpoint} were refused by a rate limit.",
                "接入点 {endpoint} 有 {value} 的调用被限流。",
            ),
            _share('http_status_code="429"'),
            ">",
            _levels(P0=(30, 300), P1=(10, 300), P2=(1, 300)),
            "%",
        ),
        Item(
            "ttft_p95",
            Both("Time to first token P95", "首 Token 时延 P95"),
            Both("How long streams wait for their first token.", "流式调用等待首个 Token 的时间。"),
            Both(
                "Streams of {endpoint} wait {value} for their first token.", "接入点 {endpoint} 首 Token 需要 {value}。"
            ),
            _quantile("0.95", STREAMED, 'is_first="true"', "5m"),
            ">",
            _levels(P0=(10, 300), P1=(5, 300), P2=(3, 600)),
            "s",
            CHAT_LIKE,
        ),
        Item(
            "tpot_p95",
            Both("Time per output token P95", "吐字间隔 P95"),
            Both("How long streams take for each further token.", "流式调用每个后续 Token 的耗时。"),
            Both("{endpoint} takes {value} for each further token.", "接入点 {endpoint} 的吐字间隔为 {value}。"),
            _quantile("0.95", STREAMED, 'is_first="false"', "5m"),
            ">",
            _levels(P1=(0.2, 300), P2=(0.1, 600)),
            "s",
            CHAT_LIKE,
        ),
        Item(
            "e2e_p99",
            Both("Duration of calls P99", "端到端时延 P99"),
            Both("How long successful calls take as a whole.", "成功调用的总耗时。"),
            Both("Calls to {endpoint} take up to {value}.", "接入点 {endpoint} 的端到端时延为 {value}。"),
            _quantile("0.99", DURATION, "", "10m"),
            ">",
            _levels(P1=(120, 600), P2=(60, 600)),
            "s",
        ),
        Item(
            "tpm_usage",
            Both("TPM usage", "TPM 使用率"),
            Both("Tokens per minute, of the endpoint's own limit.", "每分钟 Token 数占接入点限流的比例。"),
            Both("{endpoint} uses {value} of its TPM limit.", "接入点 {endpoint} 已用 TPM 限流的 {value}。"),
            _of_limit(_TOKENS, TPM_LIMIT),
            ">=",
            _levels(P0=(100, 120), P1=(90, 300), P2=(80, 300)),
            "%",
            limit="tpm",
        ),
        Item(
            "rpm_usage",
            Both("RPM usage", "RPM 使用率"),
            Both("Calls per minute, of the endpoint's own limit.", "每分钟调用数占接入点限流的比例。"),
            Both("{endpoint} uses {value} of its RPM limit.", "接入点 {endpoint} 已用 RPM 限流的 {value}。"),
            _of_limit(f"sum {BY} (rate({REQUESTS}[2m]))", RPM_LIMIT),
            ">=",
            _levels(P1=(90, 300), P2=(80, 300)),
            "%",
            limit="rpm",
        ),
        Item(
            "abnormal",
            Both("Endpoint abnormal", "接入点异常"),
            Both("No model server answers for the endpoint.", "没有可用的模型服务为该接入点提供推理。"),
            Both("{endpoint} is abnormal: no model server answers.", "接入点 {endpoint} 异常：没有可用的模型服务。"),
            f'max {BY} (ark_endpoint_status{{status="Abnormal"}})',
            ">=",
            _levels(P0=(1, 60)),
        ),
        Item(
            "no_traffic",
            Both("Calls stopped coming", "流量中断"),
            Both(
                "A healthy endpoint that was called all the hour before has had no call for ten minutes.",
                "健康的接入点此前一小时一直有调用，近十分钟却没有任何调用。",
            ),
            Both(
                "Nobody has called {endpoint} for ten minutes; there were {value} calls in the hour before.",
                "接入点 {endpoint} 近十分钟没有调用，此前一小时有 {value} 次。",
            ),
            f"(sum {BY} (increase({REQUESTS}[1h] offset 10m)) > 60)"
            f" and {ON} (sum {BY} (increase({REQUESTS}[10m])) == 0)"
            f' and {ON} (min {BY} (min_over_time(ark_endpoint_status{{status="Running"}}[10m])) == 1)',
            ">",
            _levels(P1=(0, 60)),
        ),
        Item(
            "cache_drop",
            Both("Fewer cache hits", "缓存命中骤降"),
            Both(
                "How far the token hit rate of the prefix cache is below that of the day before.",
                "前缀缓存的 Token 命中率比前一天下降的比例。",
            ),
            Both(
                "The cache of {endpoint} hits {value} less than the day before.",
                "接入点 {endpoint} 的缓存命中率比前一天下降 {value}。",
            ),
            f"(100 * (1 - {_hit('15m')} / ({_hit('1d', ' offset 15m')} > 0.2))) {_enough(window='15m')}",
            ">",
            _levels(P2=(50, 600)),
            "%",
            CHAT_LIKE,
            needs_cache=True,
        ),
        Item(
            "switch_regress",
            Both("Errors of a version during a switch", "切换中版本错误率劣化"),
            Both(
                "While a version switch is open: how many percentage points more 5xx a version has than the other.",
                "版本切换期间，某一版本的 5xx 错误率比另一版本高出的百分点。",
            ),
            Both(
                "During the version switch of {endpoint} one version fails {value} more often than the other.",
                "接入点 {endpoint} 版本切换中，某一版本的错误率高出另一版本 {value}。",
            ),
            f"({_version_errors()} - {ON} group_left () min {BY} ({_version_errors()}))"
            f" and {ON} (count {BY} (max {OF_VERSION} ({WEIGHT})) > 1) {_enough(by=OF_VERSION)}",
            ">",
            _levels(P1=(5, 120)),
            "%",
        ),
    ),
)

VERSIONS: tuple[Template, ...] = (DEFAULT_1,)
CURRENT = VERSIONS[-1]


def get(template_id: str, version: int) -> Template | None:
    """That version of that template; None for what was never shipped."""
    return next((each for each in VERSIONS if (each.id, each.version) == (template_id, version)), None)


def newest(template_id: str) -> Template | None:
    """The version that groups of this template may be upgraded to."""
    return max((each for each in VERSIONS if each.id == template_id), key=lambda each: each.version, default=None)


def name_of(*, template_id: str, key: str, default: str) -> str:
    """A rule's name in the reader's language, where it came from a template."""
    # The latest that has it: an upgrade keeps a rule that people changed, also where the newest version dropped it.
    items = (each.item(key) for each in reversed(VERSIONS) if each.id == template_id)
    return next((str(item.name) for item in items if item), default)


# --- what an upgrade changes -------------------------------------------------------------------------------------------

FIELDS = ("name", "expression", "comparator", "levels", "text", "unit")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs. `kind` is added, removed, kept (instead of removed) or changed.

    `is_kept`: a person changed it, so it stays.
    """

    item_id: str
    name: Both
    kind: str
    field: str = ""
    before: Any = None
    after: Any = None
    is_kept: bool = False


def diff(
    old: Sequence[Item], new: Sequence[Item], *, kept: Mapping[str, Collection[str]] | None = None
) -> list[Difference]:
    """What going from `old` to `new` changes, rule by rule; `kept` names the fields of a rule that people changed."""
    before, after = {item.id: item for item in old}, {item.id: item for item in new}
    found = []
    for item in old:
        if item.id not in after:
            is_kept = bool((kept or {}).get(item.id))
            found.append(Difference(item.id, item.name, "kept" if is_kept else "removed", is_kept=is_kept))
    for item in new:
        was = before.get(item.id)
        if was is None:
            found.append(Difference(item.id, item.name, "added"))
            continue
        found += [
            Difference(
                item.id, item.name, "changed", name, getattr(was, name), getattr(item, name),
                is_kept=name in (kept or {}).get(item.id, ()),
            )
            for name in FIELDS
            if getattr(was, name) != getattr(item, name)
        ]  # fmt: skip
    return found


LEVELS = tuple(Level.values)
