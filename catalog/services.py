"""What people and ticks do to the catalogue, audited in the chain of acts that concern no single project."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import ProtectedError, Q
from django.utils.translation import gettext as _

from audit import services as audit
from catalog import probing
from catalog.models import Deployment, FoundationModel, ModelServer, ModelVersion, PriceTier, ServerEvent, Trouble
from common import addresses, routing
from common.errors import DomainError
from common.models import RouteChange
from iam.actors import Actor

PROJECT = audit.GLOBAL
"""The catalogue belongs to no project, and no project can have this id."""

FAILED_PROBES_TO_DOWN = 3
PROBE_SECONDS = 10
"""Between two probes of a server that is well, and the longest between two of one that is not."""
RECHECK_SECONDS = 2
"""After a first failure, so that three of them take seconds and not half a minute."""
EVENTS_KEPT = timedelta(days=90)
"""As long as alerts, which ask what changed before them."""


@dataclass(frozen=True)
class _Catalogue:
    """What permissions on the catalogue are asked for; only a policy attached for all projects reaches it."""

    project_id: str = PROJECT
    trn: str = "trn:ark:local:arkconsole:catalogue"

    def __str__(self) -> str:
        return PROJECT


CATALOGUE = _Catalogue()


# --- model servers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ServerSettings:
    """What a person sets of a model server. `api_key` "" keeps the stored key; `forgets_key` empties it."""

    name: str
    base_url: str
    api_key: str = ""
    forgets_key: bool = False
    probe_kind: str = ModelServer.ProbeKind.MODELS
    accepts_stream_options: bool = True
    connect_timeout_seconds: int = 5
    read_timeout_seconds: int = 600
    is_enabled: bool = True


_PLAIN_SERVER_FIELDS = (
    "name", "base_url", "probe_kind", "accepts_stream_options", "connect_timeout_seconds", "read_timeout_seconds",
    "is_enabled",
)  # fmt: skip


def add_server(*, settings: ServerSettings, by: Actor, now: datetime) -> ModelServer:
    """Register a model server; it is probed within seconds. Raises `DomainError` (`UnsafeAddress` for its address)."""
    with audit.attempt(
        by=by, action="ark:CreateModelServer", project_id=PROJECT, now=now, resource_name=settings.name
    ) as noted:
        by.require("ark:CreateModelServer", CATALOGUE)
        server = ModelServer(next_probe_at=now)
        changes = _apply_settings(server, settings)
        _validate(server)
        server.save()
        noted.resource = server.trn
        noted.changed(**changes)
        routing.announce(kind=RouteChange.Kind.SERVER, object_ids=[str(server.pk)], now=now)
    return server


def update_server(*, server: ModelServer, settings: ServerSettings, by: Actor, now: datetime) -> ModelServer:
    """Change a model server. A new address or key makes its state unknown until the next probe, due at once."""
    with audit.attempt(
        by=by, action="ark:UpdateModelServer", project_id=PROJECT, now=now, resource=server.trn,
        resource_name=server.name,
    ) as noted:  # fmt: skip
        by.require("ark:UpdateModelServer", CATALOGUE)
        server = ModelServer.objects.select_for_update().get(pk=server.pk)
        changes = _apply_settings(server, settings)
        _validate(server)
        if {"base_url", "api_key", "probe_kind", "is_enabled"} & changes.keys():
            server.next_probe_at = now
            server.failed_probes = 0
        before = server.state
        if "base_url" in changes:
            server.state, server.state_reason, server.state_detail = ModelServer.State.UNKNOWN, "", ""
            server.reported_models = []
        server.save()
        _note_state(server, before, now=now)
        noted.changed(**changes)
        if changes:
            routing.announce(kind=RouteChange.Kind.SERVER, object_ids=[str(server.pk)], now=now)
    return server


def delete_server(*, server: ModelServer, by: Actor, now: datetime) -> None:
    """Remove a model server that no version is deployed on; raises `DomainError` otherwise."""
    with audit.attempt(
        by=by, action="ark:DeleteModelServer", project_id=PROJECT, now=now, resource=server.trn,
        resource_name=server.name,
    ) as noted:  # fmt: skip
        by.require("ark:DeleteModelServer", CATALOGUE)
        used = server.deployments.count()
        if used:
            raise DomainError(
                _("%(count)d deployments are on this server. Remove them first, or disable the server.")
                % {"count": used}
            )
        noted.changed(base_url=(server.base_url, None))
        routing.announce(kind=RouteChange.Kind.SERVER, object_ids=[str(server.pk)], now=now)
        server.delete()


def test_connection(
    *, settings: ServerSettings, server: ModelServer | None, paid_model: str, by: Actor, now: datetime
) -> probing.Inspection:
    """Ask a server, saved or not, what it is; changes nothing. An empty key means the stored one of `server`.

    The stored key goes to the stored host only: else who may test could send it to a host of their own.
    """
    with audit.attempt(
        by=by, action="ark:TestModelServer", project_id=PROJECT, now=now, resource=server.trn if server else "",
        resource_name=settings.name,
    ) as noted:  # fmt: skip
        by.require("ark:TestModelServer", CATALOGUE)
        base_url = addresses.check_url(settings.base_url)
        api_key = _key_for(server, settings=settings, base_url=base_url)
        noted.changed(base_url=(None, base_url))
    # Outside the transaction: it takes seconds, and on SQLite everybody else would wait for it.
    with probing.ModelServerClient(
        base_url=base_url, api_key=api_key, connect_seconds=settings.connect_timeout_seconds
    ) as client:
        return client.inspect(kind=settings.probe_kind, paid_model=paid_model)


def _key_for(server: ModelServer | None, *, settings: ServerSettings, base_url: str) -> str:
    """The key to use with `base_url`: the one typed, else the stored one if it stays with its own host."""
    if not probing.is_sendable(settings.api_key):
        raise DomainError(_("The key holds characters that no key has. Copy it again."), field="api_key")
    if settings.api_key:
        return settings.api_key
    if server is None or settings.forgets_key or not server.api_key:
        return ""
    if _origin(base_url) != _origin(server.base_url):
        raise DomainError(
            _("The address is another one now. Enter its key too: the stored key is sent to its own host only."),
            field="api_key",
        )
    return server.api_key


def _origin(url: str) -> tuple[str, str]:
    scheme, _separator, rest = url.partition("://")
    return scheme.lower(), rest.partition("/")[0].lower()


def _apply_settings(server: ModelServer, settings: ServerSettings) -> dict[str, tuple[Any, Any]]:
    """Set the fields; what changed as (before, after), of the key only whether there is one."""
    is_new = server.pk is None
    wanted = {name: getattr(settings, name) for name in _PLAIN_SERVER_FIELDS}
    wanted["base_url"] = addresses.check_url(settings.base_url)
    new_key = _key_for(None if is_new else server, settings=settings, base_url=wanted["base_url"])
    changes: dict[str, tuple[Any, Any]] = {}
    if new_key != server.api_key:
        changes["api_key"] = ("set" if server.api_key else "empty", "replaced" if new_key else "removed")
        server.api_key = new_key
    for name, value in wanted.items():
        before = None if is_new else getattr(server, name)
        if before != value:
            changes[name] = (before, value)
        setattr(server, name, value)
    return changes


def _validate(row: models.Model) -> None:
    """The model's own checks, as the `DomainError` that forms and services speak."""
    try:
        row.full_clean()
    except ValidationError as error:
        for field, troubles in error.error_dict.items():
            name = None if field == "__all__" else field
            # Django's own sentence of it reads badly in Chinese, and does not say what to do.
            is_twice = troubles[0].code in {"unique", "unique_together"}
            sentence = _("There is another one like it: choose another value.") if is_twice else troubles[0].messages[0]
            raise DomainError(sentence, field=name) from None


# --- probes and real traffic -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProbeOutcome:
    """What a probe found: `trouble` is None when the server is well, `models` None when no list was asked for."""

    trouble: Trouble | None = None
    detail: str = ""
    models: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Judgement:
    """What follows from a probe for a server."""

    state: str
    failed_probes: int
    next_probe_seconds: int


def judge(*, state: str, failed_probes: int, is_good: bool) -> Judgement:
    """One good probe makes a server up; the third failure in a row makes it down. Pure."""
    if is_good:
        return Judgement(ModelServer.State.UP, 0, PROBE_SECONDS)
    failed = failed_probes + 1
    if failed < FAILED_PROBES_TO_DOWN and state != ModelServer.State.DOWN:
        return Judgement(state, failed, RECHECK_SECONDS)
    # Down: look again after 2, 4, 8, 10, 10 … seconds, so that it comes back by itself quickly.
    rounds = max(failed - FAILED_PROBES_TO_DOWN, 0)
    return Judgement(ModelServer.State.DOWN, failed, min(RECHECK_SECONDS * 2 ** min(rounds, 8), PROBE_SECONDS))


def probe_outcome(server: ModelServer) -> ProbeOutcome:
    """Probe a stored server, over the network; never raises for what the server does."""
    with probing.client_for(server) as client:
        try:
            probe = client.probe(server.probe_kind)
        except probing.ProbeFailed as failure:
            return ProbeOutcome(trouble=failure.trouble, detail=failure.detail)
    return ProbeOutcome(models=None if probe.models is None else tuple(model.id for model in probe.models))


def record_probe(*, server_id: int, outcome: ProbeOutcome, now: datetime) -> bool:
    """Write down what a probe found; whether the server's state changed. A server that is gone is no error.

    Endpoints are not told: their own tick looks at the state of servers, and the gateway reads the route change.
    """
    with transaction.atomic():
        server = ModelServer.objects.select_for_update().filter(pk=server_id).first()
        if server is None:
            return False
        judgement = judge(state=server.state, failed_probes=server.failed_probes, is_good=outcome.trouble is None)
        before = server.state
        server.state = judgement.state
        # Two billion probes of a dead server take 600 years, but the column is no larger.
        server.failed_probes = min(judgement.failed_probes, 1_000_000)
        server.state_reason = outcome.trouble or ""
        server.state_detail = outcome.detail[:255]
        server.probed_at = now
        server.next_probe_at = now + timedelta(seconds=judgement.next_probe_seconds)
        if outcome.models is not None:
            server.reported_models = list(outcome.models[:2_000])
        server.save(
            update_fields=[
                "state", "failed_probes", "state_reason", "state_detail", "probed_at", "next_probe_at",
                "reported_models",
            ]
        )  # fmt: skip
        has_changed = _note_state(server, before, now=now)
        if has_changed:
            routing.announce(kind=RouteChange.Kind.SERVER, object_ids=[str(server.pk)], now=now)
    return has_changed


def _note_state(server: ModelServer, before: str, *, now: datetime) -> bool:
    """Keep that its state is another one than `before`, in the caller's transaction; whether it is."""
    if server.state == before:
        return False
    ServerEvent.objects.create(
        server=server, at=now, from_state=before, to_state=server.state, reason=server.state_reason,
        detail=server.state_detail,
    )  # fmt: skip
    return True


def forget_events(*, now: datetime) -> int:
    """Remove changes of state older than `EVENTS_KEPT`; how many."""
    removed, _by_model = ServerEvent.objects.filter(at__lt=now - EVENTS_KEPT).delete()
    return removed


def claim_due(*, now: datetime, lease_seconds: int = 30, limit: int = 500) -> list[int]:
    """Take servers whose probe is due, each by compare-and-set, so that two ticks never take the same one.

    A probe whose worker dies is due again when its lease ends.
    """
    claimed: list[int] = []
    until = now + timedelta(seconds=lease_seconds)
    for server_id, due_at in ModelServer.objects.due(now).values_list("pk", "next_probe_at")[:limit]:
        if ModelServer.objects.filter(pk=server_id, next_probe_at=due_at).update(next_probe_at=until):
            claimed.append(server_id)
    return claimed


def note_traffic(*, server_id: int, failures: int, successes: int, now: datetime) -> None:
    """What real calls saw of a server since the last time. Nothing but failures makes a probe due at once.

    Successes put the next probe off, since they are a better one; never on a server that is not known to be well, and
    never one that is due already: somebody waits for it (a version switch, before its first step).
    """
    servers = ModelServer.objects.filter(pk=server_id, is_enabled=True)
    if failures and not successes:
        # Not a server that is down already: its back-off stands, and the calls are those that began before.
        servers.exclude(state=ModelServer.State.DOWN).filter(
            Q(next_probe_at__isnull=True) | Q(next_probe_at__gt=now + timedelta(seconds=RECHECK_SECONDS))
        ).filter(Q(probed_at__isnull=True) | Q(probed_at__lt=now - timedelta(seconds=RECHECK_SECONDS))).update(
            next_probe_at=now
        )
    elif successes and not failures:
        servers.filter(
            state=ModelServer.State.UP,
            failed_probes=0,
            probed_at__gt=now - timedelta(seconds=6 * PROBE_SECONDS),
            next_probe_at__gt=now,
        ).update(next_probe_at=now + timedelta(seconds=PROBE_SECONDS))


def probe_now(*, server: ModelServer, now: datetime) -> bool:
    """Probe a server at once, in this process, and write it down; whether it is up."""
    outcome = probe_outcome(server)
    record_probe(server_id=server.pk, outcome=outcome, now=now)
    return outcome.trouble is None


# --- models, versions, prices, deployments ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Price:
    """Per million tokens, for calls with more than `input_over_tokens` of input."""

    input_price: Decimal
    cached_price: Decimal
    output_price: Decimal
    input_over_tokens: int = 0
    currency: str = "CNY"


@dataclass(frozen=True)
class Publication:
    """A server's model as it shall appear in the catalogue. The card is made when no model has that name yet."""

    upstream_model: str
    model_name: str
    version: str
    display_name: str = ""
    vendor: str = ""
    domain: str = FoundationModel.Domain.CHAT
    introduction: str = ""
    context_tokens: int = 32_768
    max_output_tokens: int = 4_096
    default_output_tokens: int = 1_024
    supports_caching: bool = False
    known_parameters: tuple[str, ...] = ()
    default_rpm: int = 600
    default_tpm: int = 1_000_000
    released_at: datetime | None = None
    retires_at: datetime | None = None
    prices: tuple[Price, ...] = ()


VERSION_FIELDS = (
    "context_tokens", "max_output_tokens", "default_output_tokens", "supports_caching", "known_parameters",
    "default_rpm", "default_tpm", "released_at", "retires_at", "replacement", "is_switchable",
)  # fmt: skip
CARD_FIELDS = ("name", "display_name", "vendor", "domain", "introduction")
DEPLOYMENT_FIELDS = ("server", "upstream_model", "weight", "is_enabled")


def publish(*, server: ModelServer, publication: Publication, by: Actor, now: datetime) -> ModelVersion:
    """A server's model becomes a version with prices and a deployment, in one go. Raises `DomainError`."""
    model_id = f"{publication.model_name}-{publication.version}"
    with audit.attempt(
        by=by, action="ark:OpenModelVersion", project_id=PROJECT, now=now, resource_name=model_id
    ) as noted:
        by.require("ark:OpenModelVersion", CATALOGUE)
        card = FoundationModel.objects.filter(name=publication.model_name).first()
        if card is None:
            card = FoundationModel(
                name=publication.model_name,
                display_name=publication.display_name or publication.model_name,
                vendor=publication.vendor,
                domain=publication.domain,
                introduction=publication.introduction,
            )
            _validate(card)
            card.save()
        elif card.versions.filter(version=publication.version).exists():
            raise DomainError(
                _("%(model)s is published already. To run it on this server too, choose it as an existing version.")
                % {"model": model_id},
                field="version",
            )
        version = ModelVersion(model=card, version=publication.version)
        for name in VERSION_FIELDS:
            if hasattr(publication, name):
                value = getattr(publication, name)
                setattr(version, name, list(value) if isinstance(value, tuple) else value)
        check_version(version)
        version.save()
        noted.resource = version.trn
        _write_prices(version, publication.prices, valid_from=now)
        deployment = Deployment(version=version, server=server, upstream_model=publication.upstream_model)
        _validate(deployment)
        deployment.save()
        noted.changed(
            version=(None, model_id),
            server=(None, server.name),
            upstream_model=(None, publication.upstream_model),
            prices=(None, [_price_text(price) for price in publication.prices]),
            **{name: (None, getattr(version, name)) for name in VERSION_FIELDS},
        )
        _announce_version(version, now=now)
    return version


def save_card(*, card: FoundationModel, by: Actor, now: datetime) -> FoundationModel:
    """Store a model card, new or changed. Its name is part of model ids that callers use, so it stays for good."""
    is_new = card.pk is None
    action = "ark:CreateModel" if is_new else "ark:UpdateModel"
    with audit.attempt(by=by, action=action, project_id=PROJECT, now=now, resource_name=card.name) as noted:
        by.require(action, CATALOGUE)
        before = None if is_new else FoundationModel.objects.get(pk=card.pk)
        if before is not None and before.name != card.name:
            raise DomainError(_("The name is part of the model ids that callers use; it cannot change."), field="name")
        _validate(card)
        card.save()
        noted.changed(**_differences(before, card, CARD_FIELDS))
        for version in card.versions.all():
            _announce_version(version, now=now)
    return card


def save_version(*, version: ModelVersion, by: Actor, now: datetime) -> ModelVersion:
    """Store a version, new or changed. Raises `DomainError` where its limits contradict each other."""
    is_new = version.pk is None
    action = "ark:CreateModelVersion" if is_new else "ark:UpdateModelVersion"
    with audit.attempt(by=by, action=action, project_id=PROJECT, now=now, resource_name=version.public_id) as noted:
        by.require(action, CATALOGUE)
        before = None if is_new else ModelVersion.objects.get(pk=version.pk)
        if before is not None and (before.public_id != version.public_id):
            raise DomainError(_("Callers use this model id; it cannot change. Publish a new version instead."))
        check_version(version)
        version.save()
        noted.resource = version.trn
        noted.changed(**_differences(before, version, VERSION_FIELDS))
        _announce_version(version, now=now)
    return version


def retire(
    *, version: ModelVersion, at: datetime, replacement: ModelVersion | None, by: Actor, now: datetime
) -> ModelVersion:
    """Say when a version goes offline, and what to use instead. From then on its endpoints are stopped."""
    version.retires_at, version.replacement = at, replacement
    return save_version(version=version, by=by, now=now)


def set_prices(
    *, version: ModelVersion, prices: Sequence[Price], valid_from: datetime, by: Actor, now: datetime
) -> list[PriceTier]:
    """A new price list for `version`. Rows are only ever added; calls before `valid_from` keep the price they had.

    A threshold that the new list no longer has gets the price of the next lower one: the old row would rule otherwise.
    """
    with audit.attempt(
        by=by, action="ark:CreateModelPrice", project_id=PROJECT, now=now, resource=version.trn,
        resource_name=version.public_id,
    ) as noted:  # fmt: skip
        by.require("ark:CreateModelPrice", CATALOGUE)
        if valid_from < now - timedelta(minutes=1):
            raise DomainError(_("A price cannot begin in the past: those calls are billed."), field="valid_from")
        before = tiers_in_force(version.prices.all(), at=valid_from)
        known = set(version.prices.values_list("input_over_tokens", flat=True))
        wanted = {price.input_over_tokens: price for price in prices}
        if 0 not in wanted:
            raise DomainError(_("A price list begins with the tier over 0 tokens."), field="input_over_tokens")
        for threshold in known - wanted.keys():
            below = wanted[max(over for over in wanted if over < threshold)]
            wanted[threshold] = Price(
                below.input_price, below.cached_price, below.output_price, threshold, below.currency
            )
        tiers = _write_prices(version, wanted.values(), valid_from=valid_from)
        noted.changed(
            prices=([_price_text(tier) for tier in before], [_price_text(price) for price in prices]),
            valid_from=(None, valid_from),
        )
        _announce_version(version, now=now)
    return tiers


def tiers_in_force(tiers: Iterable[PriceTier], *, at: datetime) -> list[PriceTier]:
    """The price list at a time, by ascending `input_over_tokens`; neighbours of equal price appear as one."""
    newest: dict[int, PriceTier] = {}
    for tier in tiers:
        held = newest.get(tier.input_over_tokens)
        if tier.valid_from <= at and (held is None or tier.valid_from > held.valid_from):
            newest[tier.input_over_tokens] = tier
    found: list[PriceTier] = []
    for over in sorted(newest):
        if not found or _amounts(found[-1]) != _amounts(newest[over]):
            found.append(newest[over])
    return found


def save_deployment(*, deployment: Deployment, by: Actor, now: datetime) -> Deployment:
    """Put a version on a server, or change how it runs there."""
    is_new = deployment.pk is None
    action = "ark:CreateModelDeployment" if is_new else "ark:UpdateModelDeployment"
    with audit.attempt(
        by=by, action=action, project_id=PROJECT, now=now, resource=deployment.version.trn,
        resource_name=deployment.version.public_id,
    ) as noted:  # fmt: skip
        by.require(action, CATALOGUE)
        before = None if is_new else Deployment.objects.select_related("server").get(pk=deployment.pk)
        _validate(deployment)
        deployment.save()
        noted.changed(**_differences(before, deployment, DEPLOYMENT_FIELDS))
        _announce_version(deployment.version, now=now)
    return deployment


def delete_deployment(*, deployment: Deployment, by: Actor, now: datetime) -> None:
    """Take a version off a server. Calls that run there end where they began."""
    with audit.attempt(
        by=by, action="ark:DeleteModelDeployment", project_id=PROJECT, now=now, resource=deployment.version.trn,
        resource_name=deployment.version.public_id,
    ) as noted:  # fmt: skip
        by.require("ark:DeleteModelDeployment", CATALOGUE)
        noted.changed(server=(deployment.server.name, None), upstream_model=(deployment.upstream_model, None))
        _announce_version(deployment.version, now=now)
        deployment.delete()


def delete_version(*, version: ModelVersion, by: Actor, now: datetime) -> None:
    """Remove a version that was published by mistake; raises `DomainError` once an endpoint or a price list holds it."""
    with audit.attempt(
        by=by, action="ark:DeleteModelVersion", project_id=PROJECT, now=now, resource=version.trn,
        resource_name=version.public_id,
    ) as noted:  # fmt: skip
        by.require("ark:DeleteModelVersion", CATALOGUE)
        noted.changed(version=(version.public_id, None))
        _announce_version(version, now=now)
        try:
            # Its prices go with it: no endpoint ever used them, else the next line refuses and all is rolled back.
            version.prices.all().delete()
            version.delete()
        except ProtectedError:
            raise DomainError(
                _("Endpoints use this version, or did. Set the day it retires instead of removing it.")
            ) from None


# --- what pages ask --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Availability:
    """Whether a version answers calls now, and if not, why, for people."""

    is_working: bool
    sentence: str = ""


def availability(version: ModelVersion, now: datetime) -> Availability:
    """By the version's own deployments and their servers; asks nothing when `for_list()` fetched them."""
    if version.is_retired(now):
        return Availability(False, _("Retired: it no longer answers."))
    deployments = [deployment for deployment in version.deployments.all() if deployment.is_enabled]
    if not deployments:
        return Availability(False, _("No model server runs it."))
    if any(deployment.server.is_live for deployment in deployments):
        return Availability(True)
    server = min((deployment.server for deployment in deployments), key=lambda server: not server.is_enabled)
    if not server.is_enabled:
        return Availability(False, _("The model server %(name)s is disabled.") % {"name": server.name})
    if server.state == ModelServer.State.UNKNOWN and not server.state_reason:
        return Availability(False, _("The model server %(name)s was not probed yet.") % {"name": server.name})
    return Availability(
        False, _("The model server %(name)s is down. %(why)s") % {"name": server.name, "why": server.state_sentence}
    )


# --- helpers ---------------------------------------------------------------------------------------------------------


def check_version(version: ModelVersion) -> None:
    """Raise `DomainError` where a version's values contradict each other."""
    _validate(version)
    if version.default_output_tokens > version.max_output_tokens:
        raise DomainError(_("The default output cannot exceed the output cap."), field="default_output_tokens")
    if version.max_output_tokens > version.context_tokens:
        raise DomainError(_("The output cap cannot exceed the context."), field="max_output_tokens")
    if version.replacement_id is not None and version.replacement_id == version.pk:
        raise DomainError(_("A version cannot replace itself."), field="replacement")


def _write_prices(version: ModelVersion, prices: Iterable[Price], *, valid_from: datetime) -> list[PriceTier]:
    tiers = []
    for price in prices:
        tier = PriceTier(
            version=version,
            valid_from=valid_from,
            input_over_tokens=price.input_over_tokens,
            input_price=price.input_price,
            cached_price=price.cached_price,
            output_price=price.output_price,
            currency=price.currency,
        )
        _validate(tier)
        tier.save()
        tiers.append(tier)
    return tiers


def _amounts(price: Price | PriceTier) -> tuple[Decimal, Decimal, Decimal, str]:
    return price.input_price, price.cached_price, price.output_price, price.currency


def _price_text(price: Price | PriceTier) -> str:
    amounts = "/".join(f"{amount.normalize():f}" for amount in _amounts(price)[:3])
    return f">{price.input_over_tokens}: {amounts} {price.currency}"


def _differences(
    before: models.Model | None, after: models.Model, fields: Iterable[str]
) -> Mapping[str, tuple[Any, Any]]:
    return {name: (getattr(before, name) if before else None, getattr(after, name)) for name in fields}


def _announce_version(version: ModelVersion, *, now: datetime) -> None:
    routing.announce(kind=RouteChange.Kind.VERSION, object_ids=[str(version.pk)], now=now)
