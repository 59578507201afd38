"""What a person sees before a version switch: which versions it can go to, and what would change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.utils.translation import gettext as _

import catalog.services
from catalog.models import FoundationModel, ModelVersion, PriceTier, price_at
from endpoints.models import Endpoint
from iam.models import ApiKey
from metering import ledger

SPAN = timedelta(days=7)
MILLION = Decimal(1_000_000)
ALWAYS_KNOWN = frozenset({"model", "messages", "input", "stream"})


@dataclass(frozen=True, slots=True)
class TargetOption:
    """A version that the endpoint could be switched to; `why_not` is the sentence where it cannot."""

    version: ModelVersion
    is_eligible: bool
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Side:
    """One column of the preview. `amounts`: the last seven days' volume at this version's prices of today, per currency."""

    version: ModelVersion
    tiers: tuple[PriceTier, ...]
    amounts: Mapping[str, Decimal]
    unpriced_tokens: int

    @property
    def rpm(self) -> int:
        return self.version.default_rpm

    @property
    def tpm(self) -> int:
        return self.version.default_tpm

    @property
    def context_tokens(self) -> int:
        return self.version.context_tokens

    @property
    def max_output_tokens(self) -> int:
        return self.version.max_output_tokens

    @property
    def default_output_tokens(self) -> int:
        return self.version.default_output_tokens

    @property
    def supports_caching(self) -> bool:
        return self.version.supports_caching

    @property
    def known_parameters(self) -> tuple[str, ...]:
        return tuple(self.version.known_parameters)


@dataclass(frozen=True, slots=True)
class CallerKey:
    """A key that called in the last seven days; `name` is "" where the key is gone."""

    name: str
    prefix: str
    calls: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Preview:
    """Everything that differs. `unknown_parameters`: what this endpoint's calls named in the last seven days and the
    target does not know, with calls; it says nothing where the target lists no parameters (`lists_parameters`).
    `is_estimate`: prices depend on the length of each input, of which the ledger keeps the mean."""

    source: Side
    target: Side
    is_cut_over: bool
    unknown_parameters: tuple[tuple[str, int], ...]
    lists_parameters: bool
    calls: int
    tokens: int
    cost_change: Mapping[str, Decimal]
    is_estimate: bool
    callers: tuple[CallerKey, ...]


def targets(*, endpoint: Endpoint, now: datetime) -> list[TargetOption]:
    """Every other version: those that the endpoint can be switched to, then those of its kind that it cannot, then the
    rest. Three queries."""
    domain = endpoint.version.model.domain
    versions = (
        ModelVersion.objects.for_list()
        .exclude(pk=endpoint.version_id)
        .order_by("model__display_name", "model__name", "-version")
    )
    options = [_option(endpoint, version, now) for version in versions]
    return sorted(options, key=lambda option: (not option.is_eligible, option.version.model.domain != domain))


def refusal(*, endpoint: Endpoint, target: ModelVersion, now: datetime) -> str:
    """Why the endpoint cannot be switched to `target` (fetched by `for_list()`); "" where it can."""
    if target.pk == endpoint.version_id:
        return _("The endpoint serves this version already.")
    if target.model.domain != endpoint.version.model.domain:
        return _("For another kind of task: %(domain)s.") % {"domain": target.model.get_domain_display()}
    if target.is_retired(now):
        return _("Retired: it no longer answers.")
    if not target.is_switchable:
        return _("The catalogue does not offer it for version switches.")
    available = catalog.services.availability(target, now)
    return "" if available.is_working else available.sentence


def _option(endpoint: Endpoint, version: ModelVersion, now: datetime) -> TargetOption:
    why_not = refusal(endpoint=endpoint, target=version, now=now)
    return TargetOption(version, is_eligible=not why_not, why_not=why_not)


def preview(*, endpoint: Endpoint, target: ModelVersion, now: datetime) -> Preview:
    """What switching `endpoint` to `target` would change. Seven queries."""
    since = now - SPAN
    volume = ledger.volume(endpoint.pk, since=since, now=now)
    tiers = _tiers([endpoint.version_id, target.pk])
    used = ledger.parameters_used(endpoint.pk, since=since, now=now)
    source_side = _side(endpoint.version, tiers.get(endpoint.version_id, []), volume, now)
    target_side = _side(target, tiers.get(target.pk, []), volume, now)
    known = set(target.known_parameters) | ALWAYS_KNOWN
    currencies = {*source_side.amounts, *target_side.amounts}
    zero = Decimal(0)
    return Preview(
        source=source_side,
        target=target_side,
        is_cut_over=endpoint.version.model.domain == FoundationModel.Domain.EMBEDDING,
        unknown_parameters=tuple(
            (name, calls) for name, calls in used.items() if target.known_parameters and name not in known
        ),
        lists_parameters=bool(target.known_parameters),
        calls=sum(part.calls for part in volume),
        tokens=sum(part.input_tokens + part.output_tokens for part in volume),
        cost_change={
            currency: target_side.amounts.get(currency, zero) - source_side.amounts.get(currency, zero)
            for currency in sorted(currencies)
        },
        is_estimate=any(len(side.tiers) > 1 for side in (source_side, target_side)),
        callers=_callers(endpoint, since=since, now=now),
    )


def _side(version: ModelVersion, tiers: Sequence[PriceTier], volume: Iterable[ledger.Volume], now: datetime) -> Side:
    amounts: dict[str, Decimal] = {}
    unpriced = 0
    for part in volume:
        price = price_at(tiers, input_tokens=part.mean_input_tokens, at=now)
        if price is None:
            unpriced += part.input_tokens + part.output_tokens
            continue
        # What the other version had in its cache is input at full price for one without a cache.
        cached = part.cached_tokens if version.supports_caching else 0
        amount = (
            (part.input_tokens - cached) * price.input_price
            + cached * price.cached_price
            + part.output_tokens * price.output_price
        ) / MILLION
        amounts[price.currency] = amounts.get(price.currency, Decimal(0)) + amount
    return Side(
        version=version,
        tiers=tuple(catalog.services.tiers_in_force(tiers, at=now)),
        amounts=amounts,
        unpriced_tokens=unpriced,
    )


def _tiers(version_ids: Sequence[int]) -> dict[int, list[PriceTier]]:
    tiers: dict[int, list[PriceTier]] = {}
    for tier in PriceTier.objects.filter(version__in=version_ids):
        tiers.setdefault(tier.version_id, []).append(tier)
    return tiers


def _callers(endpoint: Endpoint, *, since: datetime, now: datetime) -> tuple[CallerKey, ...]:
    callers = ledger.callers(endpoint.pk, since=since, now=now)
    keys = ApiKey.objects.in_bulk([caller.key_id for caller in callers])
    return tuple(
        CallerKey(
            name=keys[caller.key_id].name if caller.key_id in keys else "",
            prefix=keys[caller.key_id].prefix if caller.key_id in keys else "",
            calls=caller.calls,
            last_at=caller.last_at,
        )
        for caller in callers
    )
