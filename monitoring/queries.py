"""The PromQL behind every figure, by name. Each selects one project and one endpoint (or one project), by exact match.

Names are Ark's where Ark's are known (`gateway.metrics` and `monitoring.exposition` export them). Every gateway worker is
an instance of its own, so every query adds them up; ratios leave a gap where there was nothing to divide by.

A rate looks back over `window` seconds: a step and one scrape more. With one scrape more the samples of neighbouring
windows touch, so that the area under a curve is the growth of the counter, nothing lost or counted twice between steps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from string import Template

REQUESTS = "ark_api_proxy_request_total"
INPUT = "ark_api_proxy_request_token_count"
OUTPUT = "ark_api_proxy_response_token_count"
CACHED = "ark_api_proxy_cached_token_count"
REASONING = "ark_api_proxy_reasoning_token_count"
DURATION = "ark_api_proxy_request_duration_seconds"
STREAMED = "ark_api_proxy_stream_per_token_duration_seconds"
CACHE = "ark_gateway_cache_requests_total"
IN_FLIGHT = "ark_gateway_requests_in_flight"
TPM_LIMIT = "ark_endpoint_tpm_limit"
RPM_LIMIT = "ark_endpoint_rpm_limit"
WORKER = "ark_gateway_worker_info"
WEIGHT = "ark_endpoint_version_weight"

HIT = 'result="hit"'
ERROR = 'code!~"Success|ClientClosed"'
LIMITED = 'code=~"RateLimitExceeded.*|ServerOverloaded"'


def quoted(value: str) -> str:
    """A PromQL string. Its escapes are Go's, and so are JSON's, as long as nothing becomes a surrogate."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@dataclass(frozen=True, slots=True)
class Matchers:
    """What stands between the braces: of the endpoint (or project) as a whole, with the API alone, with all filters."""

    whole: str
    by_api: str
    filtered: str

    @classmethod
    def of(cls, *, project: str, endpoint: str = "", api: str = "", model: str = "", version: str = "") -> Matchers:
        """Of one project, an endpoint of it unless that is "", and what the filters leave; "" leaves all."""
        whole = f"project={quoted(project)}"
        if endpoint:
            whole += f",ark_endpoint={quoted(endpoint)}"
        by_api = f"{whole},api={quoted(api)}" if api else whole
        filtered = by_api
        for label, value in (("base_model", model), ("ark_model", version)):
            if value:
                filtered += f",{label}={quoted(value)}"
        return cls(whole, by_api, filtered)


@dataclass(frozen=True, slots=True)
class Spans:
    """Durations as PromQL wants them: the window of a rate, the step between two points (also as a number of seconds),
    the whole range, the window of a rate that sees a minute, and how often gauges are looked at."""

    window: str
    step: str
    step_seconds: str
    range: str
    minute: str
    look: str

    @classmethod
    def of(cls, *, step: int, range_seconds: int, scrape_seconds: int) -> Spans:
        """For points every `step` seconds. A window holds four scrapes at least."""
        return cls(
            window=f"{max(step + scrape_seconds, 4 * scrape_seconds)}s",
            step=f"{step}s",
            step_seconds=str(step),
            range=f"{range_seconds}s",
            minute=f"{max(60 + scrape_seconds, 4 * scrape_seconds)}s",
            look=f"{max(scrape_seconds, step // 60)}s",
        )


def promql(name: str, matchers: Matchers, spans: Spans) -> str:
    """The query `name`, to send as it is."""
    return Template(TEMPLATES[name]).substitute(
        S=matchers.filtered, A=matchers.by_api, E=matchers.whole, W=spans.window, I=spans.step, N=spans.step_seconds,
        R=spans.range, M=spans.minute, L=spans.look,
    )  # fmt: skip


SHARES = (50, 95, 99)
FROM_BUCKETS = {
    f"{name}_p{share}": (f"{name}_buckets", share / 100)
    for name in ("ttft", "tpot", "duration_stream", "duration")
    for share in SHARES
}
"""Quantiles that `monitoring.quantiles` works out of a query for buckets, as Prometheus would."""

FOR_LONG_STEPS = frozenset({"tpm_peak", "rpm_peak"})
"""Asked only where a step is longer than a minute: below that they say what the plain line says."""


def _rate(metric: str, matchers: str = "", *, where: str = "$S", window: str = "$W") -> str:
    inner = f"{where},{matchers}" if matchers else where
    return f"rate({metric}{{{inner}}}[{window}])"


def _percent(part: str, whole: str) -> str:
    """`part` of `whole`, a gap where `whole` is 0."""
    return f"100 * {part} / ({whole} > 0)"


def _error_percent(matchers: str, *, by: str = "") -> str:
    """Errors of all calls; 0 where there were calls and no series of an error yet."""
    errors = f"sum{by}({_rate(REQUESTS, ERROR, where=matchers)})"
    everything = f"sum{by}({_rate(REQUESTS, where=matchers)})"
    return _percent(f"({errors} or 0 * {everything})", everything)


def _per_minute(metric: str, **kwargs: str) -> str:
    return f"60 * sum({_rate(metric, **kwargs)})"


def _quantile(share: int, metric: str, matchers: str, *, by: str = "le", span: str = "$W", where: str = "$S") -> str:
    buckets = _rate(f"{metric}_bucket", matchers, where=where, window=span)
    return f"histogram_quantile(0.{share}, sum by ({by}) ({buckets}))"


def _histogram(name: str, metric: str, matchers: str) -> dict[str, str]:
    """The quantiles of a histogram, and the buckets that they all need."""
    quantiles = {f"{name}_p{share}": _quantile(share, metric, matchers) for share in SHARES}
    return {**quantiles, f"{name}_buckets": f"sum by (le) ({_rate(f'{metric}_bucket', matchers)})"}


_FIRST, _FURTHER = 'is_first="true"', 'is_first="false"'
_STREAM, _WHOLE = 'stream="true"', 'stream="false"'
_ALL_TOKENS = f"sum(rate({INPUT}_sum{{$E}}[$W])) + sum(rate({OUTPUT}_sum{{$E}}[$W]))"
_TOKENS_OF_A_MINUTE = f"sum(rate({INPUT}_sum{{$E}}[$M])) + sum(rate({OUTPUT}_sum{{$E}}[$M]))"

TEMPLATES: dict[str, str] = {
    # --- token usage
    "input_tokens": _per_minute(f"{INPUT}_sum"),
    "output_tokens": _per_minute(f"{OUTPUT}_sum"),
    "cached_tokens": _per_minute(f"{CACHED}_sum"),
    "reasoning_tokens": _per_minute(f"{REASONING}_sum"),
    "input_per_call": f"sum({_rate(f'{INPUT}_sum')}) / (sum({_rate(f'{INPUT}_count')}) > 0)",
    "output_per_call": f"sum({_rate(f'{OUTPUT}_sum')}) / (sum({_rate(f'{OUTPUT}_count')}) > 0)",
    "tpm": f"60 * ({_ALL_TOKENS})",
    "tpm_peak": f"max_over_time((60 * ({_TOKENS_OF_A_MINUTE}))[$I:1m])",
    "tpm_limit": f"max({TPM_LIMIT}{{$E}})",
    "rpm": _per_minute(REQUESTS, where="$E"),
    "rpm_peak": f"max_over_time((60 * sum(rate({REQUESTS}{{$E}}[$M])))[$I:1m])",
    "rpm_limit": f"max({RPM_LIMIT}{{$E}})",
    # --- performance
    **_histogram("ttft", STREAMED, _FIRST),
    **_histogram("tpot", STREAMED, _FURTHER),
    **_histogram("duration_stream", DURATION, _STREAM),
    **_histogram("duration", DURATION, _WHOLE),
    "output_speed": f"sum({_rate(f'{STREAMED}_count', _FURTHER)}) / (sum({_rate(f'{STREAMED}_sum', _FURTHER)}) > 0)",
    "in_flight": f"max_over_time(sum({IN_FLIGHT}{{$S}})[$I:$L])",
    # --- errors
    "error_rate": _error_percent("$S"),
    "errors_by_status": f"$N * sum by (http_status_code) ({_rate(REQUESTS, ERROR)})",
    "errors_by_code": f"$N * sum by (code) ({_rate(REQUESTS, ERROR)})",
    "limited": f"$N * sum by (code) ({_rate(REQUESTS, LIMITED)})",
    # --- cache
    "cache_token_percent": _percent(f"sum({_rate(f'{CACHED}_sum')})", f"sum({_rate(f'{INPUT}_sum')})"),
    "cache_call_percent": _percent(f"sum({_rate(CACHE, HIT)})", f"sum({_rate(CACHE)})"),
    # --- version switch: both versions, whatever the filters say of model and version
    "switch_share": f"100 * sum by (ark_model) ({_rate(REQUESTS, where='$A')})"
    f" / on () group_left () (sum({_rate(REQUESTS, where='$A')}) > 0)",
    "switch_wanted": f"100 * max by (ark_model) ({WEIGHT}{{$E}})",
    "switch_errors": _error_percent("$A", by=" by (ark_model) "),
    "switch_ttft": _quantile(95, STREAMED, _FIRST, by="le, ark_model", where="$A"),
    "switch_duration": _quantile(95, DURATION, _WHOLE, by="le, ark_model", where="$A"),
    "switch_calls": f"60 * sum by (ark_model) ({_rate(REQUESTS, where='$A')})",
    # --- tiles: one value for the whole range, at its end
    "ttft_p95_total": _quantile(95, STREAMED, _FIRST, span="$R"),
    "duration_p95_total": _quantile(95, DURATION, _WHOLE, span="$R"),
    # --- whether Prometheus knows of calls, and reads anything at all
    "calls": _per_minute(REQUESTS),
    "workers": f"count({WORKER})",
    # --- a whole project
    "project_calls": f"60 * sum by (ark_endpoint) ({_rate(REQUESTS, where='$E')})",
    "project_errors": f"60 * sum by (ark_endpoint) ({_rate(REQUESTS, ERROR, where='$E')})",
    "project_tokens": f"60 * sum by (ark_endpoint) ({_rate(f'{INPUT}_sum', where='$E')} + {_rate(f'{OUTPUT}_sum', where='$E')})",
}
