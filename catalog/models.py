"""Model servers, foundation models, their versions and prices, and which server runs which version."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Exists, OuterRef, Prefetch, Q
from django.utils.translation import gettext_lazy as _

from audit.services import GLOBAL
from common.fields import EncryptedTextField


class Trouble(models.TextChoices):
    """What is wrong with a model server. The value is stored, the label is the sentence that people read."""

    NAME_NOT_FOUND = (
        "name_not_found",
        _("The host name does not resolve. Check its spelling, and the DNS of this machine."),
    )
    FORBIDDEN_ADDRESS = (
        "forbidden_address",
        _("The name leads to a link-local, metadata or reserved address; we never call those."),
    )
    REFUSED = "refused", _("Nothing listens there: the connection was refused. Is the server running, on this port?")
    UNREACHABLE = "unreachable", _("The host cannot be reached. Check the network and the firewall.")
    TLS = (
        "tls",
        _("No trusted TLS connection: the certificate is not valid for this host, or the server speaks plain HTTP."),
    )
    TIMEOUT = "timeout", _("The server did not answer in time.")
    BROKEN = "broken", _("The connection broke, or what came back is not HTTP. Perhaps the server wants https://.")
    UNAUTHORIZED = "unauthorized", _("401: the server does not accept this key.")
    FORBIDDEN = "forbidden", _("403: the server refuses this key, or this machine.")
    NOT_FOUND = "not_found", _("404: the server has no such page; the path is probably missing /v1.")
    REDIRECTED = "redirected", _("The server points elsewhere; redirects are never followed. Enter the final address.")
    RATE_LIMITED = "rate_limited", _("429: the server is refusing requests because of too many.")
    SERVER_ERROR = "server_error", _("The server answered with an error of its own (5xx).")
    UNEXPECTED_STATUS = "unexpected_status", _("The server answered with an unexpected status.")
    NOT_JSON = "not_json", _("The answer is not JSON. Is this the address of an OpenAI-compatible server?")
    NOT_A_MODEL_LIST = (
        "not_a_model_list",
        _("The answer is JSON, but not a list of models. Is this an OpenAI-compatible server?"),
    )
    TOO_LARGE = "too_large", _("The answer is far larger than a list of models can be.")


class ModelServerQuerySet(models.QuerySet["ModelServer"]):
    def due(self, now: datetime) -> ModelServerQuerySet:
        """What the probe tick must look at."""
        return self.filter(is_enabled=True).filter(Q(next_probe_at__isnull=True) | Q(next_probe_at__lte=now))


class ModelServer(models.Model):
    """An OpenAI-compatible server. `state` is what probes and real traffic saw last."""

    class State(models.TextChoices):
        UNKNOWN = "unknown", _("not probed yet")
        UP = "up", _("up")
        DOWN = "down", _("down")

    class ProbeKind(models.TextChoices):
        MODELS = "models", _("GET /models (free)")
        TCP = "tcp", _("TCP connection (free)")

    name = models.CharField(_("name"), max_length=64, unique=True)
    base_url = models.CharField(
        _("address"), max_length=512, help_text=_("With its path, such as http://10.0.0.5:8000/v1")
    )
    api_key = EncryptedTextField(_("key"), blank=True, default="", help_text=_("Encrypted; never shown again."))
    probe_kind = models.CharField(_("probe"), max_length=8, choices=ProbeKind, default=ProbeKind.MODELS)
    accepts_stream_options = models.BooleanField(_("accepts stream_options"), default=True)
    connect_timeout_seconds = models.PositiveIntegerField(
        _("connect timeout (s)"), default=5, validators=[MinValueValidator(1), MaxValueValidator(60)]
    )
    read_timeout_seconds = models.PositiveIntegerField(
        _("read timeout (s)"), default=600, validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text=_("Longest silence before the first byte and between two."),
    )  # fmt: skip
    is_enabled = models.BooleanField(_("enabled"), default=True)
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.UNKNOWN, editable=False)
    state_reason = models.CharField(_("reason"), max_length=32, choices=Trouble, blank=True, editable=False)
    state_detail = models.CharField(
        max_length=255, blank=True, editable=False, help_text="what the server or the system said, untranslated"
    )
    failed_probes = models.PositiveIntegerField(default=0, editable=False)
    probed_at = models.DateTimeField(_("last probe"), null=True, blank=True, editable=False)
    next_probe_at = models.DateTimeField(null=True, blank=True, editable=False, db_index=True)
    reported_models = models.JSONField(default=list, blank=True, editable=False, help_text="ids of its own GET /models")

    objects = ModelServerQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["name"]
        verbose_name = _("model server")
        verbose_name_plural = _("model servers")

    def __str__(self) -> str:
        return self.name

    @property
    def trn(self) -> str:
        return f"trn:ark:local:arkconsole:modelserver/{self.pk}"

    @property
    def project_id(self) -> str:
        """The catalogue belongs to no project; its record is kept in the chain of acts that concern none."""
        return GLOBAL

    @property
    def is_live(self) -> bool:
        """Whether calls are sent to it."""
        return self.is_enabled and self.state == self.State.UP

    @property
    def state_sentence(self) -> str:
        """What is wrong with it, for people; "" when nothing is known to be."""
        return str(self.get_state_reason_display()) if self.state_reason else ""


class ServerEvent(models.Model):
    """One change of a model server's state. Written where the state changes, never changed."""

    server = models.ForeignKey(ModelServer, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    from_state = models.CharField(max_length=8, choices=ModelServer.State)
    to_state = models.CharField(max_length=8, choices=ModelServer.State)
    reason = models.CharField(max_length=32, choices=Trouble, blank=True)
    detail = models.CharField(max_length=255, blank=True, help_text="what the server or the system said, untranslated")

    class Meta:
        ordering: ClassVar[list[str]] = ["at", "id"]
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["server", "-at"], name="catalog_server_event_at")]

    def __str__(self) -> str:
        return f"{self.server_id}: {self.from_state} → {self.to_state}"


class FoundationModel(models.Model):
    """A model card: a name under which versions are published."""

    class Domain(models.TextChoices):
        CHAT = "chat", _("text generation")
        THINKING = "thinking", _("deep thinking")
        VISION = "vision", _("visual understanding")
        EMBEDDING = "embedding", _("embeddings")

    name = models.CharField(
        _("name"), max_length=64, unique=True,
        validators=[RegexValidator(r"^[a-z0-9][a-z0-9.-]*$", _("Lower-case letters, digits, dots and -."))],
    )  # fmt: skip
    display_name = models.CharField(_("display name"), max_length=64)
    vendor = models.CharField(_("vendor"), max_length=64, blank=True)
    domain = models.CharField(_("domain"), max_length=16, choices=Domain, default=Domain.CHAT)
    introduction = models.TextField(_("introduction"), blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["display_name"]
        verbose_name = _("foundation model")
        verbose_name_plural = _("foundation models")

    def __str__(self) -> str:
        return self.display_name


class ModelVersionQuerySet(models.QuerySet["ModelVersion"]):
    def working(self, now: datetime) -> ModelVersionQuerySet:
        """Versions that can be served now: not retired, with a deployment on an enabled server that is up."""
        live = Deployment.objects.filter(
            version=OuterRef("pk"), is_enabled=True, server__is_enabled=True, server__state=ModelServer.State.UP
        )
        return self.filter(Q(retires_at__isnull=True) | Q(retires_at__gt=now)).filter(Exists(live))

    def for_list(self) -> ModelVersionQuerySet:
        """Rows with all that a page shows of them, in three queries. Keys of servers stay where they are."""
        running = Deployment.objects.select_related("server").defer("server__api_key")
        return self.select_related("model", "replacement__model").prefetch_related(
            "prices", Prefetch("deployments", queryset=running)
        )


class ModelVersion(models.Model):
    """One version of a model: what endpoints serve. Its model id for callers is `<model name>-<version>`."""

    model = models.ForeignKey(
        FoundationModel, on_delete=models.PROTECT, related_name="versions", verbose_name=_("model")
    )
    version = models.CharField(
        _("version"), max_length=32,
        validators=[RegexValidator(r"^[a-z0-9][a-z0-9.-]*$", _("Lower-case letters, digits, dots and -."))],
    )  # fmt: skip
    context_tokens = models.PositiveIntegerField(_("context (tokens)"), default=32_768)
    max_output_tokens = models.PositiveIntegerField(_("output cap (tokens)"), default=4_096)
    default_output_tokens = models.PositiveIntegerField(
        _("default output (tokens)"), default=1_024, help_text=_("Reserved for a call that names no max_tokens.")
    )
    supports_caching = models.BooleanField(_("prefix cache"), default=False)
    known_parameters = models.JSONField(_("known parameters"), default=list, blank=True)
    default_rpm = models.PositiveIntegerField(_("default RPM"), default=600, validators=[MinValueValidator(1)])
    default_tpm = models.PositiveIntegerField(_("default TPM"), default=1_000_000, validators=[MinValueValidator(1)])
    released_at = models.DateTimeField(_("released"), null=True, blank=True)
    retires_at = models.DateTimeField(_("retires"), null=True, blank=True)
    replacement = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, blank=True, related_name="+", verbose_name=_("replacement")
    )
    is_switchable = models.BooleanField(_("version switch allowed"), default=True)

    objects = ModelVersionQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["model__display_name", "-version"]
        verbose_name = _("model version")
        verbose_name_plural = _("model versions")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["model", "version"], name="catalog_version_once"),
        ]

    def __str__(self) -> str:
        return f"{self.model.display_name} / {self.version}"

    @property
    def public_id(self) -> str:
        """What callers may write as `model`, and what answers carry."""
        return f"{self.model.name}-{self.version}"

    @property
    def trn(self) -> str:
        return f"trn:ark:local:arkconsole:foundationmodel/{self.public_id}"

    def is_retired(self, now: datetime) -> bool:
        return self.retires_at is not None and self.retires_at <= now


class PriceTier(models.Model):
    """A price for calls whose input has more than `input_over_tokens` tokens; rows never change, a new price is a new row.

    Prices are per million tokens in `currency`. The tier in force for a call is the newest `valid_from` ≤ its time among
    the rows with the largest `input_over_tokens` below its input.
    """

    version = models.ForeignKey(
        ModelVersion, on_delete=models.PROTECT, related_name="prices", verbose_name=_("version")
    )
    input_over_tokens = models.PositiveIntegerField(
        _("input over (tokens)"), default=0, help_text=_("0: from the first token.")
    )
    input_price = models.DecimalField(
        _("input price"), max_digits=12, decimal_places=6, validators=[MinValueValidator(Decimal(0))]
    )
    cached_price = models.DecimalField(
        _("cached input price"), max_digits=12, decimal_places=6, validators=[MinValueValidator(Decimal(0))]
    )
    output_price = models.DecimalField(
        _("output price"), max_digits=12, decimal_places=6, validators=[MinValueValidator(Decimal(0))]
    )
    currency = models.CharField(_("currency"), max_length=3, default="CNY")
    valid_from = models.DateTimeField(_("valid from"))

    class Meta:
        ordering: ClassVar[list[str]] = ["input_over_tokens", "-valid_from"]
        verbose_name = _("price tier")
        verbose_name_plural = _("price tiers")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["version", "input_over_tokens", "valid_from"], name="catalog_price_once"),
        ]

    def __str__(self) -> str:
        return f"> {self.input_over_tokens}: {self.input_price}/{self.cached_price}/{self.output_price} {self.currency}"


def price_at(tiers: Sequence[PriceTier], *, input_tokens: int, at: datetime) -> PriceTier | None:
    """The tier that prices a call, by the rule in `PriceTier`; None when nothing was priced at that time."""
    valid = [tier for tier in tiers if tier.valid_from <= at and tier.input_over_tokens < max(input_tokens, 1)]
    return max(valid, key=lambda tier: (tier.input_over_tokens, tier.valid_from), default=None)


class Deployment(models.Model):
    """A version on a server, under the server's own model name."""

    version = models.ForeignKey(
        ModelVersion, on_delete=models.CASCADE, related_name="deployments", verbose_name=_("version")
    )
    server = models.ForeignKey(
        ModelServer, on_delete=models.PROTECT, related_name="deployments", verbose_name=_("server")
    )
    upstream_model = models.CharField(_("model name on the server"), max_length=255)
    weight = models.PositiveIntegerField(
        _("weight"), default=1, validators=[MinValueValidator(1), MaxValueValidator(1000)]
    )
    is_enabled = models.BooleanField(_("enabled"), default=True)

    class Meta:
        verbose_name = _("deployment")
        verbose_name_plural = _("deployments")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["version", "server", "upstream_model"], name="catalog_deployment_once"),
        ]

    def __str__(self) -> str:
        return f"{self.version} @ {self.server}"

    @property
    def is_listed(self) -> bool:
        """Whether the server's own list names the model; True where there is no list to look at."""
        listed = self.server.reported_models
        # Ollama lists "llama3:latest" and answers to "llama3" as well.
        return not listed or self.upstream_model in listed or f"{self.upstream_model}:latest" in listed
