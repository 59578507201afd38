"""What people type about events and silences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.dates import WEEKDAYS_ABBR
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy

from alerts import rule_forms, templates
from alerts.models import AlertEvent, Level, Rule
from iam.models import Project

SPANS = {"1h": timedelta(hours=1), "4h": timedelta(hours=4)}
UNTIL = "until"
MOMENT = "%Y-%m-%dT%H:%M"


def _moment_field(label: Any, **options: Any) -> forms.DateTimeField:
    """A date and time in the reader's zone, as browsers send it."""
    return forms.DateTimeField(
        label=label,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local", "step": "60"}, format=MOMENT),
        **options,
    )


class _Refusing(forms.Form):
    def refuse(self, message: str, field: str | None) -> None:
        """Show what the service refused, beside the field at fault."""
        self.add_error(field if field in self.fields else None, message)


class NoteForm(_Refusing):
    """A line for the event's log."""

    text = forms.CharField(
        label=gettext_lazy("Note"), max_length=1000, widget=forms.Textarea(attrs={"rows": 3, "autofocus": True})
    )


class EventSilenceForm(_Refusing):
    """Silence what an event is about: for how long, how much of it, and why."""

    span = forms.ChoiceField(
        label=gettext_lazy("For how long"),
        widget=forms.RadioSelect,
        choices=[
            ("1h", gettext_lazy("1 hour")),
            ("4h", gettext_lazy("4 hours")),
            (UNTIL, gettext_lazy("until the time below")),
        ],
    )
    ends_at = _moment_field(gettext_lazy("Until"), required=False)
    scope = forms.ChoiceField(label=gettext_lazy("What"), widget=forms.RadioSelect)
    reason = forms.CharField(label=gettext_lazy("Reason"), max_length=255)

    def __init__(self, *args: Any, event: AlertEvent, rule: str, endpoint: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.event = event
        scope = self.fields["scope"]
        assert isinstance(scope, forms.ChoiceField)
        scope.choices = self._scopes(rule, endpoint)

    def _scopes(self, rule: str, endpoint: str) -> list[tuple[str, str]]:
        words = {"rule": rule, "endpoint": endpoint}
        if not self.event.endpoint_id:
            return [("rule", _("the rule “%(rule)s”") % words)]
        return [
            ("this", _("“%(rule)s” on %(endpoint)s") % words),
            ("endpoint", _("everything on %(endpoint)s") % words),
            ("rule", _("“%(rule)s” on every endpoint of the project") % words),
        ]

    @classmethod
    def started(cls, span: str, event: AlertEvent, *, by_name: str, now: datetime, **texts: str) -> EventSilenceForm:
        """What is mostly meant: one press is enough."""
        initial = {
            "span": span if span in (*SPANS, UNTIL) else "1h",
            "ends_at": now + timedelta(hours=8),
            "scope": "this" if event.endpoint_id else "rule",
            "reason": _("%(name)s is looking after it") % {"name": by_name},
        }
        return cls(initial=initial, event=event, rule=texts["rule"], endpoint=texts["endpoint"])

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if values.get("span") == UNTIL and not values.get("ends_at") and "ends_at" not in self.errors:
            self.add_error("ends_at", _("Say until when."))
        return values

    def ends(self, now: datetime) -> datetime:
        """When the silence ends."""
        span = SPANS.get(self.cleaned_data["span"])
        if span is not None:
            return now + span
        until: datetime = self.cleaned_data["ends_at"]
        return until

    def matchers(self) -> dict[str, str]:
        """The labels that are silent; all levels of the rule are."""
        labels = {"alertname": str(self.event.labels.get("alertname", ""))}
        of_endpoint = {"ark_endpoint": self.event.endpoint_id}
        match self.cleaned_data["scope"]:
            case "endpoint":
                return of_endpoint
            case "rule":
                return labels
        return labels | of_endpoint


class SilenceForm(_Refusing):
    """A silence of its own: what, from when until when, and at which hours of the week."""

    endpoint = forms.ChoiceField(label=gettext_lazy("Endpoint"), required=False)
    rule = forms.ChoiceField(label=gettext_lazy("Rule"), required=False)
    level = forms.ChoiceField(
        label=gettext_lazy("Level"), required=False, choices=[("", gettext_lazy("All levels")), *Level.choices]
    )
    starts_at = _moment_field(pgettext_lazy("time range", "From"))
    ends_at = _moment_field(gettext_lazy("Until"))
    days = forms.MultipleChoiceField(
        label=gettext_lazy("Only on these days"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        choices=[(str(day), name) for day, name in WEEKDAYS_ABBR.items()],
        help_text=gettext_lazy("None: the whole time. A night belongs to the day on which it begins."),
    )
    begin = forms.TimeField(
        label=gettext_lazy("from"), required=False, widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M")
    )
    stop = forms.TimeField(
        label=gettext_lazy("to"), required=False, widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M")
    )
    reason = forms.CharField(label=gettext_lazy("Reason"), max_length=255)

    def __init__(self, *args: Any, project: Project, rules: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        rule_forms.offer_endpoints(self, _("All endpoints"), project=project)
        self._offer("rule", _("All rules"), sorted(rules.items(), key=lambda each: each[1]))

    def _offer(self, name: str, every: str, choices: Sequence[tuple[str, str]]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", every), *choices]

    @staticmethod
    def started(data: Mapping[str, str], *, now: datetime) -> dict[str, Any]:
        """The next twelve hours of what `data` names."""
        return {
            "endpoint": data.get("endpoint", ""), "rule": data.get("rule", ""), "level": data.get("level", ""),
            "starts_at": now, "ends_at": now + timedelta(hours=12), "begin": "22:00", "stop": "06:00",
        }  # fmt: skip

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if values.get("days") and not (values.get("begin") and values.get("stop")):
            self.add_error("days", _("Give both hours, such as 22:00 and 06:00."))
        return values

    def matchers(self) -> dict[str, str]:
        values = self.cleaned_data
        pairs = {"ark_endpoint": values["endpoint"], "alertname": values["rule"], "level": values["level"]}
        return {name: value for name, value in pairs.items() if value}

    def weekly(self) -> dict[str, Any] | None:
        """The hours of the week in the reader's zone; None for the whole time."""
        values = self.cleaned_data
        if not values["days"]:
            return None
        return {
            "days": [int(day) for day in values["days"]],
            "from": f"{values['begin']:%H:%M}",
            "to": f"{values['stop']:%H:%M}",
            "zone": timezone.get_current_timezone_name(),
        }

    def refuse(self, message: str, field: str | None) -> None:
        super().refuse(message, {"matchers": "endpoint", "weekly": "days"}.get(field or "", field))


def rules_of(project: Project) -> dict[str, str]:
    """The label `alertname` of each rule of a project, with its name; two queries.

    Of the rules of templates, which each endpoint has, the database answers each one once.
    """
    rows = Rule.objects.filter(group__project=project, group__deleted_at__isnull=True).order_by()
    shipped = rows.filter(kind=Rule.Kind.TEMPLATE).values_list("key", "group__template_id", "name").distinct()
    found = {key: templates.name_of(template_id=template, key=key, default=name) for key, template, name in shipped}
    own = rows.exclude(kind=Rule.Kind.TEMPLATE).values_list("pk", "name")
    return found | {f"own_{pk}": name for pk, name in own}
