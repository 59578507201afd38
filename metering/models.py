"""The ledger. Only the draining task writes these tables; `metering/ledger.py` reads them for everybody.

Every reference upward or sideways (endpoint, key, version) is an id as a string: rows outlive what they speak of.
"""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class Usage(models.Model):
    """Sums of one (time, endpoint, version, api, key, price). Tokens are integers; cost is tokens × price, in Python.

    `calls` = succeeded + limited + rejected + failed + cancelled. A version or key that is not known is 0.
    """

    at = models.DateTimeField(help_text="start of the minute or hour, UTC")
    project_id = models.CharField(max_length=64)
    endpoint_id = models.CharField(max_length=64)
    version_id = models.BigIntegerField()
    api = models.CharField(max_length=16)
    key_id = models.BigIntegerField()
    price_id = models.BigIntegerField(default=0, help_text="catalog.PriceTier; 0: nothing was priced")
    calls = models.BigIntegerField(default=0)
    succeeded = models.BigIntegerField(default=0)
    limited = models.BigIntegerField(default=0, help_text="refused by RPM or TPM")
    rejected = models.BigIntegerField(default=0, help_text="4xx, ours or the model server's")
    failed = models.BigIntegerField(default=0, help_text="5xx, cut, lost, no server")
    cancelled = models.BigIntegerField(default=0, help_text="the client left")
    input_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.at:%Y-%m-%d %H:%M}"


USAGE_KEY = ["endpoint_id", "at", "version_id", "api", "key_id", "price_id"]


class UsageMinute(Usage):
    """Per minute; for charts of the last days and cost today."""

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=USAGE_KEY, name="metering_minute_once")
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["project_id", "at"], name="metering_minute_project"),
            models.Index(fields=["at"], name="metering_minute_at"),
        ]


class UsageHour(Usage):
    """Per hour; kept long."""

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=USAGE_KEY, name="metering_hour_once")
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["project_id", "at"], name="metering_hour_project")
        ]


class CallRecord(models.Model):
    """One call, without its content; kept for CALL_RECORD_DAYS. `call_id` makes counting exactly-once."""

    class Outcome(models.TextChoices):
        """How a call ended; the values are those of `metering.events.Outcome`, which says what each means."""

        SUCCESS = "success", _("Succeeded")
        REJECTED = "rejected", _("Rate limited")
        REFUSED = "refused", _("Refused")
        UPSTREAM_ERROR = "upstream_error", _("Model server error")
        CLIENT_CLOSED = "client_closed", _("Cancelled by the caller")
        CUT = "cut", _("Cut off by the model server")
        LOST = "lost", _("Lost with its gateway process")

    call_id = models.CharField(max_length=64, unique=True)
    client_request_id = models.CharField(max_length=128, blank=True)
    at = models.DateTimeField()
    project_id = models.CharField(max_length=64)
    endpoint_id = models.CharField(max_length=64)
    version_id = models.BigIntegerField()
    model_id = models.CharField(max_length=128)
    server_id = models.BigIntegerField(null=True)
    deployment_id = models.BigIntegerField(null=True)
    api = models.CharField(max_length=16)
    key_id = models.BigIntegerField()
    is_stream = models.BooleanField(default=False)
    outcome = models.CharField(max_length=16, choices=Outcome)
    status = models.PositiveIntegerField()
    code = models.CharField(max_length=64)
    duration_ms = models.PositiveIntegerField()
    first_token_ms = models.PositiveIntegerField(null=True)
    input_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    is_estimated = models.BooleanField(default=False, help_text="tokens are an estimate: the server sent no usage")
    overrun_tokens = models.BigIntegerField(default=0, help_text="used beyond what was reserved")
    price_id = models.BigIntegerField(default=0)
    switch_id = models.BigIntegerField(null=True)
    rung = models.IntegerField(null=True)
    source_ip = models.CharField(max_length=45, blank=True)

    class Meta:
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["endpoint_id", "-at", "-id"], name="metering_call_endpoint"),
            models.Index(fields=["at"], name="metering_call_at"),
            # What people look for is the few calls that went wrong among the many that did not.
            models.Index(
                fields=["endpoint_id", "-at", "-id"],
                condition=~models.Q(outcome="success"),
                name="metering_call_trouble",
            ),
        ]

    def __str__(self) -> str:
        return self.call_id


class HealthSlice(models.Model):
    """Ten seconds of one side of a version switch: for charts. `rung` is the soak that the gateway stamped.

    `calls` = succeeded + errors + rejections. What we refuse ourselves, lost calls and clients that leave are in none.
    """

    at = models.DateTimeField(help_text="start of the ten seconds, UTC")
    endpoint_id = models.CharField(max_length=64)
    version_id = models.BigIntegerField()
    switch_id = models.BigIntegerField()
    rung = models.IntegerField()
    calls = models.BigIntegerField(default=0)
    errors = models.BigIntegerField(default=0, help_text="the model server failed: 5xx, no answer, cut")
    rejections = models.BigIntegerField(default=0, help_text="4xx of the model server")

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["switch_id", "at", "version_id", "rung"], name="metering_slice_once")
        ]
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["at"], name="metering_slice_at")]

    def __str__(self) -> str:
        return f"{self.switch_id}/{self.rung} {self.version_id} {self.at:%H:%M:%S}"


class HealthSum(models.Model):
    """One side of a version switch in one soak, all slices together: what gates judge. `rung` -1: the whole switch.

    Buckets are sparse: {"index into metering.health.BOUNDS_MS": calls}, of calls that succeeded.
    """

    switch_id = models.BigIntegerField()
    rung = models.IntegerField()
    version_id = models.BigIntegerField()
    at = models.DateTimeField(help_text="of the latest call in it")
    calls = models.BigIntegerField(default=0)
    errors = models.BigIntegerField(default=0)
    rejections = models.BigIntegerField(default=0)
    first_token = models.JSONField(default=dict)
    duration = models.JSONField(default=dict)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["switch_id", "rung", "version_id"], name="metering_health_once")
        ]
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["at"], name="metering_health_at")]

    def __str__(self) -> str:
        return f"{self.switch_id}/{self.rung} {self.version_id}: {self.calls}"


class ParameterHour(models.Model):
    """How many calls of an endpoint named a parameter in an hour; never its value."""

    endpoint_id = models.CharField(max_length=64)
    at = models.DateTimeField(help_text="start of the hour, UTC")
    parameter = models.CharField(max_length=64)
    calls = models.BigIntegerField(default=0)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["endpoint_id", "at", "parameter"], name="metering_parameter_once")
        ]
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["at"], name="metering_parameter_at")]

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.at:%Y-%m-%d %H} {self.parameter}"


class DrainPosition(models.Model):
    """How far a generation of the usage stream was drained; its row lock makes one drain at a time."""

    generation = models.CharField(max_length=64, primary_key=True)
    last_id = models.CharField(max_length=32, default="0-0")
    drained_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.generation} {self.last_id}"


class DeadEvent(models.Model):
    """An entry of the usage stream that could not be counted, kept as it came so that nothing is lost silently."""

    class Reason(models.TextChoices):
        UNREADABLE = "unreadable", _("not a usage event")
        INVALID = "invalid", _("values out of range")
        TOO_OLD = "too_old", _("older than the call records, so a duplicate could not be told")

    generation = models.CharField(_("generation"), max_length=64)
    entry_id = models.CharField(_("stream entry"), max_length=48)
    at = models.DateTimeField(_("time"), help_text="when the drain met it")
    reason = models.CharField(_("reason"), max_length=16, choices=Reason)
    detail = models.CharField(_("detail"), max_length=255)
    data = models.BinaryField(help_text="the entry's value, at most 64 KiB of it")

    class Meta:
        ordering: ClassVar[list[str]] = ["-id"]
        verbose_name = _("uncounted usage event")
        verbose_name_plural = _("uncounted usage events")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["generation", "entry_id"], name="metering_dead_once")
        ]
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["at"], name="metering_dead_at")]

    def __str__(self) -> str:
        return f"{self.generation} {self.entry_id}: {self.reason}"
