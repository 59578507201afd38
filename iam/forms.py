"""Strings from the browser to values: API keys and a person's settings."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.http import QueryDict
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from common import preferences
from iam import scopes, services
from iam.models import ApiKey, KeyScope

PRESETS = {"1": timedelta(days=1), "7": timedelta(days=7), "30": timedelta(days=30), "90": timedelta(days=90), "365": timedelta(days=365)}  # fmt: skip


class KeyForm(forms.Form):
    """Name, scope, addresses and expiry of a key. Rules live in the services; this only reads what was typed."""

    name = forms.CharField(label=_("Name"), max_length=services.MAX_NAME)
    reach = forms.ChoiceField(
        label=_("May call"),
        choices=[("project", _("Everything in this project")), ("chosen", _("Only chosen endpoints and models"))],
        widget=forms.RadioSelect,
        initial="project",
    )
    scope = forms.MultipleChoiceField(required=False)
    ids = forms.CharField(
        label=_("IDs of endpoints and models"), required=False,
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
        help_text=_("One a line, such as ep-20260421180049-ngwkm."),
    )  # fmt: skip
    expiry = forms.ChoiceField(
        label=_("Expires"),
        choices=[
            ("never", _("Never")),
            ("1", _("In 1 day")),
            ("7", _("In 7 days")),
            ("30", _("In 30 days")),
            ("90", _("In 90 days")),
            ("365", _("In 1 year")),
            ("at", _("At a chosen time")),
        ],
        initial="never",
    )
    expires_at = forms.DateTimeField(
        label=_("Expiry time"), required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )  # fmt: skip
    allowed_ips = forms.CharField(
        label=_("Allowed addresses"), required=False,
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "placeholder": "203.0.113.7\n10.0.0.0/8"}),
        help_text=_("IP addresses or networks, one a line. Empty: from anywhere."),
    )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Any value is read here: whether it exists is the service's question, and an old one may be gone.
        field = self.fields["scope"]
        assert isinstance(field, forms.MultipleChoiceField)
        field.choices = [(value, value) for value in self._ticked()]

    def _ticked(self) -> list[str]:
        values: list[str] = self.data.getlist("scope") if isinstance(self.data, QueryDict) else []
        return values if self.is_bound else list(self.initial.get("scope", []))

    @classmethod
    def of(cls, key: ApiKey) -> KeyForm:
        """The form as a key's own values fill it."""
        pairs = [(scope.resource_type, scope.resource_id) for scope in key.scopes.all()]
        return cls(
            initial={
                "name": key.name,
                "reach": "chosen" if pairs else "project",
                "scope": [f"{kind}:{name}" for kind, name in pairs],
                "expiry": "at" if key.expires_at else "never",
                "expires_at": key.expires_at,
                "allowed_ips": "\n".join(key.allowed_ips),
            }
        )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("expiry") == "at" and not cleaned.get("expires_at") and "expires_at" not in self.errors:
            self.add_error("expires_at", _("Say when the key expires."))
        return cleaned

    def expires(self, now: datetime) -> datetime | None:
        """When the key expires, as chosen."""
        chosen = self.cleaned_data["expiry"]
        if chosen == "at":
            moment: datetime = self.cleaned_data["expires_at"]
            return moment
        return now + PRESETS[chosen] if chosen in PRESETS else None

    def pairs(self) -> list[scopes.Pair] | None:
        """What the key may call; None for the whole project."""
        if self.cleaned_data["reach"] == "project":
            return None
        typed = []
        for name in self.cleaned_data["ids"].split():
            kind = KeyScope.ResourceType.MODEL
            if name.startswith("ep-"):
                kind = (
                    KeyScope.ResourceType.PRESET_ENDPOINT
                    if name.startswith("ep-m-")
                    else KeyScope.ResourceType.ENDPOINT
                )
            typed.append(f"{kind.value}:{name}")
        return scopes.parse([*self.cleaned_data["scope"], *typed])

    def chosen(self, project_id: str) -> list[scopes.Choice]:
        """What is ticked now, with names, for showing the form (again)."""
        pairs = scopes.parse(self._ticked())
        names = scopes.catalogue().names(pairs, project_id=project_id) if pairs else {}
        return [scopes.Choice(kind, name, names.get((kind, name), "")) for kind, name in pairs]


class SettingsForm(forms.Form):
    """How the console speaks to a person."""

    language = forms.ChoiceField(label=_("Language"), required=False)
    time_zone = forms.ChoiceField(label=_("Time zone"), required=False)
    theme = forms.ChoiceField(
        label=_("Theme"), help_text=_("Kept in this browser."),
        choices=[("auto", _("As the system says")), ("light", _("Light")), ("dark", _("Dark"))],
    )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        now = timezone.now()
        language, zone = self.fields["language"], self.fields["time_zone"]
        assert isinstance(language, forms.ChoiceField)
        assert isinstance(zone, forms.ChoiceField)
        language.choices = [("", _("As the browser says")), *settings.LANGUAGES]
        zone.choices = [("", _("As the browser says")), *((name, f"{name} ({_offset(name, now)})") for name in ZONES)]


def _offset(zone: str, now: datetime) -> str:
    text = now.astimezone(preferences.zone(zone)).strftime("%z")
    return f"UTC{text[:3]}:{text[3:5]}"


_CONTINENTS = ("Africa", "America", "Antarctica", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific")
ZONES = [
    *sorted(name for name in preferences.known_zones() if name.split("/")[0] in _CONTINENTS and "/" in name),
    "UTC",
]
