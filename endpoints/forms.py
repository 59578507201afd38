"""What people type about endpoints, turned into values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.http import QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from catalog.models import FoundationModel, ModelVersion
from endpoints import services
from endpoints.models import Endpoint
from metering import ledger
from metering.models import CallRecord


@dataclass
class TagRows:
    """The tag editor: rows of (key, value), posted as two lists of equal length; empty rows count for nothing."""

    rows: list[tuple[str, str]]

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> TagRows:
        """The rows for an endpoint's tags; without any, an empty one to write in."""
        return cls(sorted(tags.items()) or [("", "")])

    @classmethod
    def posted(cls, data: QueryDict) -> TagRows:
        """The rows as typed. Pressing "add" or "remove" without JavaScript posts the form, and asks for it again."""
        rows = list(zip(data.getlist("tag_key"), data.getlist("tag_value"), strict=False))
        removed = data.get("remove_tag", "")
        if removed.isdecimal() and int(removed) < len(rows):
            rows.pop(int(removed))
        if "add_tag" in data or not rows:
            rows.append(("", ""))
        return cls(rows)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What was filled in; the service judges it."""
        return [(key, value) for key, value in self.rows if key.strip() or value.strip()]


# A press of one of these asks for the form again, as it was typed; nothing is saved.
_REDRAWS = ("add_tag", "remove_tag", "choose")


def is_redraw(data: QueryDict) -> bool:
    """Whether a button of the form that only redraws it was pressed (browsers without JavaScript)."""
    return any(name in data for name in _REDRAWS)


class EndpointFields(forms.Form):
    """What create and edit have in common. RPM and TPM are given together, as in Ark's own API."""

    name = forms.CharField(
        label=gettext_lazy("Name"),
        max_length=services.MAX_NAME,
        widget=forms.TextInput(attrs={"autocomplete": "off", "autofocus": True}),
    )
    description = forms.CharField(
        label=gettext_lazy("Description"),
        max_length=services.MAX_DESCRIPTION,
        required=False,
        widget=forms.Textarea(attrs={"rows": 2}),
    )
    rpm = forms.IntegerField(label=gettext_lazy("Calls per minute (RPM)"), min_value=1, max_value=services.MAX_RPM)
    tpm = forms.IntegerField(label=gettext_lazy("Tokens per minute (TPM)"), min_value=1, max_value=services.MAX_TPM)

    def __init__(self, *args: Any, tag_rows: TagRows, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tag_rows = tag_rows
        self.tags_error = ""
        if self.is_bound:
            # A form that comes back with errors begins at the first of them, not at the name.
            self.fields["name"].widget.attrs.pop("autofocus")

    def refuse(self, message: str, field: str | None) -> None:
        """Show what the service refused, beside the field at fault."""
        if field == "tags":
            self.tags_error = message
        self.add_error(field if field in self.fields else None, message)
        if field == "tags":
            # Said beside the rows, not above the form.
            self.errors.pop("__all__", None)


@dataclass(frozen=True)
class Offer:
    """The versions that can be chosen now, and the one that is."""

    versions: Sequence[ModelVersion]
    model: FoundationModel | None = None
    version: ModelVersion | None = None
    # The version asked for is not among them: retired, or no server runs it.
    is_gone: bool = False

    @classmethod
    def at(cls, now: datetime, *, model: str, version: str) -> Offer:
        """The offer at `now`, with the model and version (primary keys as strings, "" for none) chosen.

        A version of another model than the one chosen gives way to the newest of that model.
        """
        versions = list(
            ModelVersion.objects.working(now)
            .select_related("model")
            .prefetch_related("prices")
            .order_by("model__display_name", "model_id", "-released_at", "-version")
        )
        models = {str(found.model_id): found.model for found in versions}
        wanted = next((found for found in versions if str(found.pk) == version), None)
        chosen = models.get(model) or (wanted.model if wanted else None)
        if chosen is None and len(models) == 1:
            chosen = next(iter(models.values()))
        if chosen and (wanted is None or wanted.model_id != chosen.pk):
            wanted = next(found for found in versions if found.model_id == chosen.pk)
        is_gone = bool(version) and str(getattr(wanted, "pk", "")) != version and not model
        return cls(versions, chosen, wanted, is_gone)

    @property
    def models(self) -> list[tuple[str, list[tuple[int, str]]]]:
        """The models by domain, as a select shows them: [(domain, [(id, name)])]."""
        grouped: dict[str, dict[int, str]] = {}
        for version in self.versions:
            domain = str(version.model.get_domain_display())
            grouped.setdefault(domain, {})[version.model.pk] = version.model.display_name
        return [(domain, list(names.items())) for domain, names in grouped.items()]

    @property
    def of_model(self) -> list[tuple[int, str]]:
        """The versions of the chosen model, as a select shows them."""
        return [(found.pk, found.version) for found in self.versions if self.model and found.model_id == self.model.pk]


class CreateForm(EndpointFields):
    """A new endpoint. `token` makes pressing the button twice the same as once."""

    field_order = ("name", "description", "model", "version", "rpm", "tpm")

    model = forms.ChoiceField(label=gettext_lazy("Model"))
    version = forms.ChoiceField(label=gettext_lazy("Version"))
    token = forms.CharField(max_length=64, widget=forms.HiddenInput)
    project = forms.CharField(max_length=64, widget=forms.HiddenInput)
    limits_of = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, offer: Offer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.offer = offer
        self._offer("model", _("Choose a model"), offer.models)
        self._offer("version", _("Choose a model first") if offer.model is None else "", offer.of_model)

    def _offer(self, name: str, empty: str, choices: Sequence[Any]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", empty), *choices] if empty else list(choices)

    def clean_version(self) -> ModelVersion:
        chosen = str(self.cleaned_data["version"])
        return next(found for found in self.offer.versions if str(found.pk) == chosen)

    @staticmethod
    def started(data: QueryDict, offer: Offer, *, token: str, project: str) -> dict[str, Any]:
        """The values a form begins with: what was typed so far, and the chosen version's own limits.

        Limits that were changed by hand stay when another version is chosen.
        """
        values: dict[str, Any] = {name: data.get(name, "") for name in ("name", "description", "rpm", "tpm")}
        before = next((found for found in offer.versions if str(found.pk) == data.get("limits_of")), None)
        if version := offer.version:
            for limit in ("rpm", "tpm"):
                is_prefilled = before is not None and values[limit] == str(getattr(before, f"default_{limit}"))
                if not values[limit] or is_prefilled:
                    values[limit] = getattr(version, f"default_{limit}")
        return {
            **values,
            "model": offer.model.pk if offer.model else "",
            "version": offer.version.pk if offer.version else "",
            "limits_of": offer.version.pk if offer.version else "",
            "token": token,
            "project": project,
        }


@dataclass(frozen=True)
class Difference:
    """A field that somebody else changed meanwhile: theirs, yours, and whether you had touched it at all."""

    label: str
    yours: str
    theirs: str
    is_touched: bool


class EditForm(EndpointFields):
    """The changes to an endpoint that was read at `revision`.

    `base` is what each field held when the form was opened; it travels with the form, so that after somebody else's
    change a field that was never touched follows theirs, and only what both changed is a question.
    """

    revision = forms.IntegerField(min_value=0, widget=forms.HiddenInput)

    def __init__(self, *args: Any, base: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.base = base
        self.differences: list[Difference] = []

    @classmethod
    def opened(cls, endpoint: Endpoint) -> EditForm:
        """The form as it opens on `endpoint`."""
        values = {name: getattr(endpoint, name) for name in ("name", "description", "rpm", "tpm")}
        return cls(
            initial={**values, "revision": endpoint.revision}, tag_rows=TagRows.of(endpoint.tags), base=_texts(endpoint)
        )

    @classmethod
    def posted(cls, data: QueryDict) -> EditForm:
        """The form as it was sent; as it was typed so far when only a redraw was asked for."""
        base = {name: data.get(f"base_{name}", "") for name in _EDITABLE}
        rows = TagRows.posted(data)
        return (
            cls(initial=data.dict(), tag_rows=rows, base=base)
            if is_redraw(data)
            else cls(data, tag_rows=rows, base=base)
        )

    def over(self, endpoint: Endpoint, conflicts: Iterable[str]) -> EditForm:
        """This form again, on top of `endpoint` as others saved it: what was typed stays, what was not follows theirs."""
        typed = {**self.cleaned_data, "tags": dict(self.tag_rows.pairs)}
        merged = EditForm.opened(endpoint)
        words = labels()
        for name, value in typed.items():
            if name not in _EDITABLE:
                continue
            is_touched = _plain(as_text(value)) != _plain(self.base[name])
            if name in conflicts:
                theirs = as_text(getattr(endpoint, name))
                merged.differences.append(Difference(words[name], as_text(value), theirs, is_touched))
            if is_touched and name == "tags":
                merged.tag_rows = self.tag_rows
            elif is_touched:
                merged.initial[name] = value
        return merged


_EDITABLE = ("name", "description", "rpm", "tpm", "tags")


def _texts(endpoint: Endpoint) -> dict[str, str]:
    return {name: as_text(getattr(endpoint, name)) for name in _EDITABLE}


def _plain(text: str) -> str:
    # A browser sends the lines of a textarea with CRLF, whatever was in it.
    return text.replace("\r\n", "\n").strip()


def labels() -> dict[str, str]:
    """What people call the fields that can be edited."""
    return {
        "name": _("Name"),
        "description": _("Description"),
        "rpm": "RPM",
        "tpm": "TPM",
        "tags": _("Tags"),
        "version": _("Version"),
        "status": _("Status"),
        "deleted": _("Deleted"),
    }


def as_text(value: Any) -> str:
    """A stored value as the conflict and the log of changes show it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" if item else key for key, item in sorted(value.items()))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)


class DeleteForm(forms.Form):
    """The name, typed again, before an endpoint goes for good."""

    confirm_name = forms.CharField(
        label=gettext_lazy("Its name"), widget=forms.TextInput(attrs={"autocomplete": "off", "autofocus": True})
    )


@dataclass(frozen=True)
class Select:
    """One filter above a list: its name, what it is called, and what can be chosen."""

    name: str
    label: str
    all: str
    options: Sequence[tuple[str, str]]
    chosen: str


# What callers of one endpoint meet (`ark.md` §3.7); any other code can stand in the address.
CALL_CODES = (
    "Success", "RateLimitExceeded.EndpointRPMExceeded", "RateLimitExceeded.EndpointTPMExceeded",
    "InvalidEndpoint.ClosedEndpoint", "InvalidParameter", "MissingParameter", "AccessDenied", "ServerOverloaded",
    "ServiceUnavailable", "InternalServiceError", "ClientClosed",
)  # fmt: skip
_PERIODS = {"1h": timedelta(hours=1), "24h": timedelta(hours=24), "7d": timedelta(days=7)}


@dataclass(frozen=True)
class CallsQuery:
    """What the address asks of the calls; what makes no sense in it counts for nothing."""

    result: str = ""
    outcome: str = ""
    code: str = ""
    version: str = ""
    key: str = ""
    stream: str = ""
    period: str = ""

    @classmethod
    def of(cls, data: QueryDict) -> CallsQuery:
        def one_of(name: str, allowed: Iterable[str]) -> str:
            value: str = data.get(name, "")
            return value if value in allowed else ""

        def number(name: str) -> str:
            value: str = data.get(name, "")
            return value if value.isascii() and value.isdecimal() and len(value) < 19 else ""

        code = data.get("code", "")
        return cls(
            result=one_of("result", ledger.STATUS_CLASSES),
            outcome=one_of("outcome", CallRecord.Outcome.values),
            code=code if re.fullmatch(r"[A-Za-z][A-Za-z.]{0,63}", code) else "",
            version=number("version"),
            key=number("key"),
            stream=one_of("stream", ("yes", "no")),
            period=one_of("period", _PERIODS),
        )

    @property
    def is_filtered(self) -> bool:
        return self != CallsQuery()

    def filters(self, *, now: datetime) -> ledger.CallFilters:
        """The same for the ledger."""
        return ledger.CallFilters(
            status_class=self.result,
            outcome=self.outcome,
            code=self.code,
            version_id=int(self.version) if self.version else None,
            key_id=int(self.key) if self.key else None,
            is_stream=self.stream == "yes" if self.stream else None,
            since=now - _PERIODS[self.period] if self.period else None,
        )

    def selects(self, *, keys: Mapping[int, str], versions: Mapping[int, str]) -> list[Select]:
        """The bar of filters; `keys` called lately and `versions` answered lately, by id."""
        names = {str(pk): name for pk, name in keys.items()}
        if self.key:
            names.setdefault(self.key, f"#{self.key}")
        served = {str(pk): name for pk, name in versions.items()}
        if self.version:
            served.setdefault(self.version, f"#{self.version}")
        codes = sorted({*CALL_CODES, self.code} - {""})
        classes = {"2xx": _("2xx succeeded"), "4xx": _("4xx refused"), "5xx": _("5xx failed")}
        return [
            Select("result", _("HTTP status"), _("Any HTTP status"), list(classes.items()), self.result),
            Select(
                "outcome", _("Outcome"), _("Any outcome"),
                [(value, str(label)) for value, label in CallRecord.Outcome.choices], self.outcome,
            ),
            Select("code", _("Code"), _("Any code"), [(code, code) for code in codes], self.code),
            Select("version", _("Version"), _("All versions"), sorted(served.items(), key=lambda item: item[1]), self.version),
            Select("key", _("Key"), _("All keys"), sorted(names.items(), key=lambda item: item[1].lower()), self.key),
            Select(
                "stream", _("Streaming"), _("Streamed or not"), [("yes", _("Streamed")), ("no", _("Not streamed"))],
                self.stream,
            ),
            Select(
                "period", _("Period"), _("All times"),
                [("1h", _("Last hour")), ("24h", _("Last 24 hours")), ("7d", _("Last 7 days"))], self.period,
            ),
        ]  # fmt: skip
