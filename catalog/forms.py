"""The forms of model servers, publishing and prices: strings into the values that services take."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django import forms
from django.core.validators import RegexValidator
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from catalog.models import FoundationModel, ModelServer, ModelVersion, PriceTier
from catalog.publishing import Proposal
from catalog.services import Price, Publication, ServerSettings
from common.errors import DomainError

CURRENCIES = [("CNY", "CNY"), ("USD", "USD"), ("EUR", "EUR")]


def add_domain_error(form: forms.BaseForm, error: DomainError) -> None:
    """Show what a service refused beside the field at fault."""
    form.add_error(error.field if error.field in form.fields else None, error.message)


class WordsField(forms.CharField):
    """A sorted list of words, typed with spaces or commas between them."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.Textarea(attrs={"rows": 3, "cols": 60, "spellcheck": "false"})
        help_text = _("Names of request parameters, separated by spaces; a version switch compares them.")
        super().__init__(**{"widget": widget, "help_text": help_text, **kwargs})

    def prepare_value(self, value: Any) -> Any:
        return value if value is None or isinstance(value, str) else " ".join(value)

    def to_python(self, value: Any) -> Any:
        return sorted(set((super().to_python(value) or "").replace(",", " ").split()))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(sorted(initial or []) != self.to_python(data))


class ServerForm(forms.Form):
    """A model server, new or stored. The key never goes back to the browser."""

    name = forms.CharField(label=_("Name"), max_length=64, help_text=_("For people: “vLLM on gpu-3”."))
    base_url = forms.CharField(
        label=_("Address"),
        max_length=512,
        help_text=_("With its path, such as http://10.0.0.5:8000/v1"),
        widget=forms.TextInput(attrs={"inputmode": "url", "autocomplete": "off", "spellcheck": "false"}),
    )
    api_key = forms.CharField(
        label=_("Key"),
        required=False,
        max_length=4096,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password"}),
    )
    forgets_key = forms.BooleanField(label=_("Remove the stored key"), required=False)
    probe_kind = forms.ChoiceField(label=_("Probe"), choices=ModelServer.ProbeKind.choices)
    connect_timeout_seconds = forms.IntegerField(label=_("Connect timeout (s)"), min_value=1, max_value=60)
    read_timeout_seconds = forms.IntegerField(
        label=_("Read timeout (s)"),
        min_value=1,
        max_value=3600,
        help_text=_("Longest silence before the first byte and between two."),
    )
    accepts_stream_options = forms.BooleanField(
        label=_("accepts stream_options"),
        required=False,
        help_text=_("Then streams report their true token counts. Test connection finds out."),
    )
    is_enabled = forms.BooleanField(label=_("Enabled: calls may go to it"), required=False)
    pays = forms.BooleanField(
        label=_("When testing, also ask one model for one token"),
        required=False,
        help_text=_("Settles whether stream_options works, and may cost a fraction of a cent."),
    )
    paid_model = forms.CharField(
        label=_("Model for that"), required=False, max_length=255, help_text=_("Empty: the first in its list.")
    )

    def __init__(self, *args: Any, server: ModelServer | None = None, **kwargs: Any) -> None:
        # A fresh row knows the defaults.
        stored = server or ModelServer()
        first = {
            name: getattr(stored, name) for name in self.base_fields if hasattr(stored, name) and name != "api_key"
        }
        kwargs["initial"] = first
        super().__init__(*args, **kwargs)
        if server is not None and server.api_key:
            self.fields["api_key"].help_text = _("A key is stored, encrypted. Empty keeps it.")
        else:
            self.fields["api_key"].help_text = _("Encrypted; never shown again. Empty when the server needs none.")
            del self.fields["forgets_key"]

    def settings(self) -> ServerSettings:
        """The values, after `is_valid()`."""
        data = self.cleaned_data
        return ServerSettings(
            name=data["name"],
            base_url=data["base_url"],
            api_key=data["api_key"].strip(),
            forgets_key=data.get("forgets_key", False),
            probe_kind=data["probe_kind"],
            accepts_stream_options=data["accepts_stream_options"],
            connect_timeout_seconds=data["connect_timeout_seconds"],
            read_timeout_seconds=data["read_timeout_seconds"],
            is_enabled=data["is_enabled"],
        )


def _price_field(label: Any, *, required: bool = True) -> forms.DecimalField:
    widget = forms.NumberInput(attrs={"class": "form-control", "aria-label": label})
    return forms.DecimalField(
        label=label, min_value=0, max_digits=12, decimal_places=6, required=required, widget=widget
    )


def _plain(value: Decimal) -> str:
    return f"{value.normalize():f}"


class PublishForm(forms.Form):
    """One model of a server: a new version with its prices, or one more server for a version that there is."""

    upstream_model = forms.CharField(widget=forms.HiddenInput, max_length=255)
    existing = forms.ModelChoiceField(
        label=_("Publish as"),
        queryset=ModelVersion.objects.none(),
        required=False,
        empty_label=_("a new version"),
        widget=forms.Select(attrs={"class": "form-select"}),
    )
    model_name = forms.CharField(
        label=_("Model name"),
        max_length=64,
        help_text=_("First part of the model id."),
        validators=[RegexValidator(r"^[a-z0-9][a-z0-9.-]*$", _("Lower-case letters, digits, dots and -."))],
    )
    version = forms.CharField(label=_("Version"), max_length=32)
    display_name = forms.CharField(label=_("Display name"), max_length=64)
    vendor = forms.CharField(label=_("Vendor"), max_length=64, required=False)
    domain = forms.ChoiceField(label=_("Domain"), choices=FoundationModel.Domain.choices)
    context_tokens = forms.IntegerField(label=_("Context (tokens)"), min_value=1)
    max_output_tokens = forms.IntegerField(label=_("Output cap (tokens)"), min_value=1)
    default_output_tokens = forms.IntegerField(
        label=_("Default output (tokens)"), min_value=1, help_text=_("Reserved for a call that names no max_tokens.")
    )
    default_rpm = forms.IntegerField(label=_("Default RPM"), min_value=1, initial=600)
    default_tpm = forms.IntegerField(label=_("Default TPM"), min_value=1, initial=1_000_000)
    supports_caching = forms.BooleanField(label=_("It has a prefix cache"), required=False)
    currency = forms.ChoiceField(label=_("Currency"), choices=CURRENCIES)
    input_price = _price_field(_("Input price"))
    cached_price = _price_field(_("Cached input price"))
    output_price = _price_field(_("Output price"))
    known_parameters = WordsField(label=_("Known parameters"), required=False)

    NEW_ONLY = (
        "model_name", "version", "display_name", "domain", "context_tokens", "max_output_tokens",
        "default_output_tokens", "default_rpm", "default_tpm", "currency", "input_price", "cached_price",
        "output_price",
    )  # fmt: skip

    def __init__(self, *args: Any, proposal: Proposal | None = None, **kwargs: Any) -> None:
        if proposal is not None:
            values: dict[str, Any] = dict(vars(proposal))
            kwargs["initial"] = values | kwargs.get("initial", {})
            for name in ("input_price", "cached_price", "output_price"):
                kwargs["initial"].setdefault(name, 0)
        kwargs["use_required_attribute"] = False
        super().__init__(*args, **kwargs)
        existing: Any = self.fields["existing"]
        existing.queryset = ModelVersion.objects.select_related("model").order_by("model__name", "-version")
        existing.label_from_instance = lambda version: version.public_id
        if self.is_bound and self.data.get(self.add_prefix("existing")):
            # One more server for a version that there is: nothing else of the form is asked.
            for name in self.NEW_ONLY:
                self.fields[name].required = False

    def publication(self) -> Publication:
        """The values, after `is_valid()`, for a new version."""
        data = self.cleaned_data
        return Publication(
            upstream_model=data["upstream_model"],
            model_name=data["model_name"],
            version=data["version"],
            display_name=data["display_name"],
            vendor=data["vendor"],
            domain=data["domain"],
            context_tokens=data["context_tokens"],
            max_output_tokens=data["max_output_tokens"],
            default_output_tokens=data["default_output_tokens"],
            supports_caching=data["supports_caching"],
            known_parameters=tuple(data["known_parameters"]),
            default_rpm=data["default_rpm"],
            default_tpm=data["default_tpm"],
            released_at=timezone.now(),
            prices=(Price(data["input_price"], data["cached_price"], data["output_price"], 0, data["currency"]),),
        )


class PriceListForm(forms.Form):
    """When a price list begins, and its currency; the tiers are a formset of `TierForm`."""

    valid_from = forms.DateTimeField(
        label=_("Valid from"),
        required=False,
        help_text=_("Empty: at once."),
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )
    currency = forms.ChoiceField(label=_("Currency"), choices=CURRENCIES)

    def begins_at(self, now: datetime) -> datetime:
        """UTC."""
        chosen: datetime | None = self.cleaned_data["valid_from"]
        return chosen.astimezone(UTC) if chosen else now


class TierForm(forms.Form):
    """One row of a price list; an empty row is no tier."""

    input_over_tokens = forms.IntegerField(
        label=_("Input over (tokens)"),
        min_value=0,
        required=False,
        widget=forms.NumberInput(attrs={"class": "form-control", "aria-label": _("Input over (tokens)")}),
    )
    input_price = _price_field(_("Input"), required=False)
    cached_price = _price_field(_("Cached input"), required=False)
    output_price = _price_field(_("Output"), required=False)

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        names = ("input_price", "cached_price", "output_price")
        given = [name for name in ("input_over_tokens", *names) if data.get(name) is not None]
        if given and not self.errors:
            for name in ("input_over_tokens", *names):
                if data.get(name) is None:
                    self.add_error(name, _("Fill the whole row, or leave it empty."))
        return data

    def price(self, currency: str) -> Price | None:
        """The tier, or None for an empty row."""
        data = self.cleaned_data
        if data.get("input_over_tokens") is None:
            return None
        return Price(
            data["input_price"], data["cached_price"], data["output_price"], data["input_over_tokens"], currency
        )


TierFormSet = forms.formset_factory(TierForm, extra=0, max_num=20)


def tier_rows(tiers: Sequence[PriceTier], *, rows: int = 4) -> list[dict[str, Any]]:
    """Initial values of the formset: the price list in force, and empty rows below."""
    filled: list[dict[str, Any]] = [
        {
            "input_over_tokens": tier.input_over_tokens,
            "input_price": _plain(tier.input_price),
            "cached_price": _plain(tier.cached_price),
            "output_price": _plain(tier.output_price),
        }
        for tier in tiers
    ] or [{"input_over_tokens": 0}]
    return filled + [{} for _row in range(max(rows - len(filled), 1))]
