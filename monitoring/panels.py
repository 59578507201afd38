"""What the monitoring page of an endpoint shows: its groups, tiles and panels, and which of them a model domain has.

Page, data, CSV and the Grafana dashboard are all made from here. What a line asks is a name in `monitoring.queries`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from catalog.models import FoundationModel

Domain = FoundationModel.Domain
Text = str | Promise


class Measure(StrEnum):
    """What the numbers of a panel are, for whoever writes them out. Seconds and percent are as they say."""

    COUNT = "count"
    TOKENS = "tokens"
    SECONDS = "seconds"
    PERCENT = "percent"
    SPEED = "speed"
    MONEY = "money"


class Kind(StrEnum):
    """How a panel is drawn: lines, filled lines that are not stacked, or bars that are."""

    LINE = "line"
    AREA = "area"
    BARS = "bars"


@dataclass(frozen=True)
class Line:
    """One query of a panel. With `by` each value of that label is a line of its own, whose key is the value.

    `is_optional`: left out where it is nothing but zeros. `total`: the sum of the ledger that belongs to it.
    """

    key: str
    label: Text
    query: str
    by: str = ""
    is_dashed: bool = False
    is_optional: bool = False
    total: str = ""


@dataclass(frozen=True)
class Panel:
    """One chart. `none` says what it means that its calls exist and it has nothing (else) to show."""

    id: str
    title: Text
    unit: Text
    measure: Measure
    kind: Kind
    help: Text
    lines: Sequence[Line]
    none: Text = ""
    is_zero_nothing: bool = False


@dataclass(frozen=True)
class Tile:
    """One figure of the ledger (of Prometheus where `query` names one); `better` is the direction of good news."""

    id: str
    title: Text
    measure: Measure
    help: Text
    better: str = ""
    query: str = ""


@dataclass(frozen=True)
class Group:
    """Panels and tiles that one request answers. Bars hold whole calls, for which a step must see several scrapes."""

    id: str
    title: Text
    panels: Sequence[Panel] = ()
    tiles: Sequence[Tile] = ()

    @property
    def is_coarse(self) -> bool:
        """Whether the step may not be finer than the window of a rate."""
        return any(panel.kind is Kind.BARS for panel in self.panels)


TOKENS_PER_MINUTE = _("tokens/min")
CALLS_PER_MINUTE = _("calls/min")
SECONDS = _("s")
PERCENT = "%"


def groups_for(domain: str, has_switch: bool = False) -> list[Group]:
    """The groups of an endpoint whose model is of `domain`, in the order of the page.

    `has_switch`: whether a version switch touches the range that is looked at.
    """
    is_chat = domain != Domain.EMBEDDING
    groups = [
        Group("summary", _("Summary"), tiles=tiles_for(domain)),
        _tokens(domain) if is_chat else _embedding_tokens(),
        _performance() if is_chat else _embedding_performance(),
        _errors(),
    ]
    if is_chat:
        groups.append(_cache())
    if has_switch:
        groups.append(_switch(is_chat=is_chat))
    return groups


def tiles_for(domain: str) -> list[Tile]:
    """The tiles of the summary."""
    is_chat = domain != Domain.EMBEDDING
    return [
        Tile("calls", _("Calls"), Measure.COUNT, _("All calls of the range, also those that were refused or failed.")),
        Tile("tokens", _("Tokens"), Measure.TOKENS, _("Input and output tokens together.")),
        Tile(
            "error_rate", _("Error rate"), Measure.PERCENT, better="down",
            help=_("Calls that were limited, rejected or failed, of all calls. Calls that the caller cancelled are none."),
        ),
        Tile(
            "ttft_p95", _("First token P95"), Measure.SECONDS, better="down", query="ttft_p95_total",
            help=_("95 of 100 streamed calls of the range had their first token by then."),
        )
        if is_chat
        else Tile(
            "duration_p95", _("Duration P95"), Measure.SECONDS, better="down", query="duration_p95_total",
            help=_("95 of 100 calls of the range were answered by then."),
        ),
        Tile("cost", _("Cost"), Measure.MONEY, _("Tokens times the prices that were in force at each call.")),
    ]  # fmt: skip


def project_group() -> Group:
    """All endpoints of a project side by side, for the Grafana dashboard; the console's own page of it is the ledger's."""

    def by_endpoint(query: str) -> list[Line]:
        return [Line("endpoint", "", query, by="ark_endpoint")]

    return Group(
        "project",
        _("All endpoints of the project"),
        panels=[
            Panel(
                "project_calls", _("Calls per minute by endpoint"), CALLS_PER_MINUTE, Measure.COUNT, Kind.LINE,
                _("All calls, also those that were refused or failed."), by_endpoint("project_calls"),
            ),
            Panel(
                "project_tokens", _("Tokens per minute by endpoint"), TOKENS_PER_MINUTE, Measure.TOKENS, Kind.LINE,
                _("Input and output tokens together."), by_endpoint("project_tokens"),
            ),
            Panel(
                "project_errors", _("Errors per minute by endpoint"), CALLS_PER_MINUTE, Measure.COUNT, Kind.LINE,
                _("Calls that were limited, rejected or failed."), by_endpoint("project_errors"),
            ),
        ],
    )  # fmt: skip


def panels(groups: Sequence[Group]) -> Iterator[Panel]:
    """The panels of `groups`, in order."""
    for group in groups:
        yield from group.panels


def _limits() -> list[Panel]:
    return [
        Panel(
            "tpm", _("Tokens per minute against the limit"), TOKENS_PER_MINUTE, Measure.TOKENS, Kind.AREA,
            _("Input and output tokens together, of all models and APIs of the endpoint: the limit is for them all."),
            [
                Line("used", _("Used"), "tpm"),
                Line("peak", _("Busiest minute"), "tpm_peak", is_optional=True),
                Line("limit", _("TPM limit"), "tpm_limit", is_dashed=True),
            ],
        ),
        Panel(
            "rpm", _("Calls per minute against the limit"), CALLS_PER_MINUTE, Measure.COUNT, Kind.AREA,
            _("Of all models and APIs of the endpoint. Calls that were limited are in it, so the line may pass the limit."),
            [
                Line("used", _("Calls"), "rpm"),
                Line("peak", _("Busiest minute"), "rpm_peak", is_optional=True),
                Line("limit", _("RPM limit"), "rpm_limit", is_dashed=True),
            ],
        ),
    ]  # fmt: skip


def _tokens(domain: str) -> Group:
    input_, output, cached, reasoning = _("Input"), _("Output"), _("Cached"), _("Reasoning")
    return Group(
        "tokens",
        _("Token usage"),
        tiles=[
            Tile("input_tokens", _("Input tokens"), Measure.TOKENS, _("The cached ones included.")),
            Tile("output_tokens", _("Output tokens"), Measure.TOKENS, _("The reasoning ones included.")),
            Tile("cached_tokens", _("Cached tokens"), Measure.TOKENS, _("Input tokens that came from the prefix cache.")),
            Tile("reasoning_tokens", _("Reasoning tokens"), Measure.TOKENS, _("Output tokens that were thinking.")),
        ],
        panels=[
            Panel(
                "tokens", _("Tokens per minute"), TOKENS_PER_MINUTE, Measure.TOKENS, Kind.AREA,
                _("Cached tokens are part of the input, reasoning tokens part of the output."),
                [
                    Line("input", input_, "input_tokens", total="input_tokens"),
                    Line("output", output, "output_tokens", total="output_tokens"),
                    Line("cached", cached, "cached_tokens", total="cached_tokens", is_optional=True),
                    Line(
                        "reasoning", reasoning, "reasoning_tokens", total="reasoning_tokens",
                        is_optional=domain != Domain.THINKING,
                    ),
                ],
                none=_("No call of this range used a token."), is_zero_nothing=True,
            ),
            Panel(
                "tokens_per_call", _("Tokens per call"), _("tokens"), Measure.TOKENS, Kind.LINE,
                _("The mean of the calls that were answered."),
                [Line("input", input_, "input_per_call"), Line("output", output, "output_per_call")],
                none=_("No call of this range used a token."),
            ),
            *_limits(),
        ],
    )  # fmt: skip


def _embedding_tokens() -> Group:
    return Group(
        "tokens",
        _("Token usage"),
        panels=[
            Panel(
                "tokens", _("Tokens per minute"), TOKENS_PER_MINUTE, Measure.TOKENS, Kind.AREA,
                _("Input tokens: embeddings have no output tokens."),
                [Line("input", _("Input"), "input_tokens", total="input_tokens")],
                none=_("No call of this range used a token."), is_zero_nothing=True,
            ),
            Panel(
                "tokens_per_call", _("Tokens per call"), _("tokens"), Measure.TOKENS, Kind.LINE,
                _("The mean of the calls that were answered."),
                [Line("input", _("Input"), "input_per_call")],
                none=_("No call of this range used a token."),
            ),
            *_limits(),
        ],
    )  # fmt: skip


def _quantiles(name: str) -> list[Line]:
    return [Line(f"p{share}", f"P{share}", f"{name}_p{share}") for share in (50, 95, 99)]


_IN_FLIGHT = Panel(
    "in_flight", _("Calls under way"), _("calls"), Measure.COUNT, Kind.AREA,
    _("The most that were being answered at a time."),
    [Line("in_flight", _("Under way"), "in_flight")],
)  # fmt: skip


def _performance() -> Group:
    no_stream = _("No streamed call of this range succeeded.")
    return Group(
        "performance",
        _("Performance"),
        panels=[
            Panel(
                "ttft", _("Time to the first token"), SECONDS, Measure.SECONDS, Kind.LINE,
                _("Of streamed calls: from the request to the first token, thinking included."),
                _quantiles("ttft"), none=no_stream,
            ),
            Panel(
                "tpot", _("Time per output token"), SECONDS, Measure.SECONDS, Kind.LINE,
                _("Of streamed calls: the mean time of each token after the first, per call."),
                _quantiles("tpot"), none=_("No streamed call of this range had more than one token."),
            ),
            Panel(
                "duration_stream", _("Duration, streamed"), SECONDS, Measure.SECONDS, Kind.LINE,
                _("Of streamed calls that succeeded: from the request to the last byte."),
                _quantiles("duration_stream"), none=no_stream,
            ),
            Panel(
                "duration", _("Duration, not streamed"), SECONDS, Measure.SECONDS, Kind.LINE,
                _("Of calls that succeeded: from the request to the last byte."),
                _quantiles("duration"), none=_("No call of this range succeeded without streaming."),
            ),
            Panel(
                "output_speed", _("Output speed"), _("tokens/s"), Measure.SPEED, Kind.LINE,
                _("Of streamed calls, after the first token: one second divided by the mean time per token."),
                [Line("speed", _("Output speed"), "output_speed")],
                none=_("No streamed call of this range had more than one token."),
            ),
            _IN_FLIGHT,
        ],
    )  # fmt: skip


def _embedding_performance() -> Group:
    return Group(
        "performance",
        _("Performance"),
        panels=[
            Panel(
                "duration", _("Duration"), SECONDS, Measure.SECONDS, Kind.LINE,
                _("Of calls that succeeded: from the request to the last byte."),
                _quantiles("duration"), none=_("No call of this range succeeded."),
            ),
            _IN_FLIGHT,
        ],
    )  # fmt: skip


def _errors() -> Group:
    fine = _("No call of this range went wrong.")
    per_bar = _("Each bar counts the calls of one step.")
    return Group(
        "errors",
        _("Errors"),
        panels=[
            Panel(
                "error_rate", _("Error rate"), PERCENT, Measure.PERCENT, Kind.AREA,
                _("Calls that were limited, rejected or failed, of all calls. Calls that the caller cancelled are none."),
                [Line("errors", _("Error rate"), "error_rate")],
            ),
            Panel(
                "errors_by_code", _("Errors by HTTP status"), _("calls"), Measure.COUNT, Kind.BARS, per_bar,
                [Line("status", "", "errors_by_status", by="http_status_code")], none=fine, is_zero_nothing=True,
            ),
            Panel(
                "errors_by_cause", _("Errors by cause"), _("calls"), Measure.COUNT, Kind.BARS, per_bar,
                [Line("code", "", "errors_by_code", by="code")], none=fine, is_zero_nothing=True,
            ),
            Panel(
                "limited", _("Rate-limited calls by cause"), _("calls"), Measure.COUNT, Kind.BARS, per_bar,
                [Line("code", "", "limited", by="code")],
                none=_("No call of this range was limited."), is_zero_nothing=True,
            ),
        ],
    )  # fmt: skip


def _cache() -> Group:
    none = _("No call of this range could have used the prefix cache.")
    return Group(
        "cache",
        _("Inference cache"),
        tiles=[
            Tile(
                "cache_hit", _("Token hit rate"), Measure.PERCENT, better="up",
                help=_("Cached input tokens of all input tokens."),
            ),
            Tile(
                "cached_tokens", _("Tokens saved"), Measure.TOKENS, better="up",
                help=_("Input tokens that came from the prefix cache."),
            ),
            Tile(
                "saved", _("Money saved"), Measure.MONEY, better="up",
                help=_("What the cached tokens would have cost at the full input price, less what they did cost."),
            ),
        ],
        panels=[
            Panel(
                "cache_tokens", _("Token hit rate"), PERCENT, Measure.PERCENT, Kind.AREA,
                _("Cached input tokens of all input tokens."),
                [Line("tokens", _("Of input tokens"), "cache_token_percent")], none=none,
            ),
            Panel(
                "cache_calls", _("Call hit rate"), PERCENT, Measure.PERCENT, Kind.AREA,
                _("Calls that found something in the cache, of all calls that succeeded."),
                [Line("calls", _("Of calls"), "cache_call_percent")], none=none,
            ),
            Panel(
                "cache_saved", _("Tokens saved per minute"), TOKENS_PER_MINUTE, Measure.TOKENS, Kind.AREA,
                _("Input tokens that came from the prefix cache instead of being computed."),
                [Line("saved", _("Tokens saved"), "cached_tokens", total="cached_tokens")],
                none=_("No call of this range found anything in the prefix cache."), is_zero_nothing=True,
            ),
        ],
    )  # fmt: skip


def _switch(*, is_chat: bool) -> Group:
    slow = (
        Panel(
            "switch_ttft", _("Time to the first token P95 by version"), SECONDS, Measure.SECONDS, Kind.LINE,
            _("Of streamed calls that each version answered."),
            [Line("version", "", "switch_ttft", by="ark_model")],
            none=_("No streamed call of this range succeeded."),
        )
        if is_chat
        else Panel(
            "switch_duration", _("Duration P95 by version"), SECONDS, Measure.SECONDS, Kind.LINE,
            _("Of calls that each version answered."),
            [Line("version", "", "switch_duration", by="ark_model")], none=_("No call of this range succeeded."),
        )
    )  # fmt: skip
    return Group(
        "switch",
        _("Version switch"),
        panels=[
            Panel(
                "switch_share", _("Share of each version"), PERCENT, Measure.PERCENT, Kind.LINE,
                _("Of all calls; dashed: what the switch wants. A conversation stays on its version, so the share follows."),
                [
                    Line("seen", "", "switch_share", by="ark_model"),
                    Line("wanted", _("wanted"), "switch_wanted", by="ark_model", is_dashed=True),
                ],
            ),
            Panel(
                "switch_errors", _("Error rate by version"), PERCENT, Measure.PERCENT, Kind.LINE,
                _("Calls that were limited, rejected or failed, of the calls of each version."),
                [Line("version", "", "switch_errors", by="ark_model")],
            ),
            slow,
            Panel(
                "switch_calls", _("Calls per minute by version"), CALLS_PER_MINUTE, Measure.COUNT, Kind.LINE,
                _("All calls that each version was chosen for."),
                [Line("version", "", "switch_calls", by="ark_model")],
            ),
        ],
    )  # fmt: skip
