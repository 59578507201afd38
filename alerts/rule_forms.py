"""What people type about rules, turned into values. Fields are named by the rule: `error_rate-P0_threshold`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from alerts import rule_services
from alerts.models import Level, NotificationPolicy, Rule
from alerts.promql import MetricForm
from alerts.rule_services import OwnRule, RuleChange
from alerts.templates import FOR_SECONDS, LevelRule
from endpoints.models import Endpoint
from iam.models import Project

MAX_CHOICES = 1_000
"""Endpoints that a select offers; one that is asked for by its id is among them wherever it stands."""


def is_endpoint(pk: str, project: Project) -> bool:
    """Whether the project has this living endpoint."""
    return pk.isprintable() and Endpoint.objects.alive().filter(project=project, pk=pk).exists()


def offer_endpoints(form: forms.Form, every: str, *, project: Project) -> None:
    """Fill the select `endpoint`; `every` stands for none. Whatever is chosen is judged by the project, not by the list."""
    field = form.fields["endpoint"]
    assert isinstance(field, forms.ChoiceField)
    rows = Endpoint.objects.alive().filter(project=project).order_by("name", "pk").values_list("pk", "name")
    found = list(rows[:MAX_CHOICES])
    asked = str((form.data if form.is_bound else form.initial).get("endpoint") or "")
    if asked and asked.isprintable() and asked not in dict(found):
        found += rows.filter(pk=asked)
    field.choices = [("", every), *((pk, f"{name} ({pk})") for pk, name in found)]


def plain(value: float) -> str:
    """A number as one types it: 20, 0.35."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def minutes(seconds: int) -> str:
    """How long a condition must hold, as the select offers it."""
    return _("for %(n)d min") % {"n": seconds // 60} if seconds else _("at once")


class Refusing(forms.Form):
    def refuse(self, message: str, field: str | None) -> None:
        """Show what the service refused, beside the field at fault."""
        self.add_error(field if field in self.fields else None, message)


class LevelsForm(Refusing):
    """Thresholds and times of one rule; a level without a threshold does not exist."""

    def __init__(
        self, *args: Any, levels: Sequence[LevelRule] = (), name: str = "", for_seconds: int = 120, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        given = {level.level: level for level in levels}
        for level in Level.values:
            found = given.get(level)
            whose = f"{name}, {level}" if name else level
            self.fields[f"{level}_threshold"] = forms.FloatField(
                required=False,
                initial=plain(found.threshold) if found else None,
                widget=forms.NumberInput(
                    attrs={
                        "class": "form-control",
                        "step": "any",
                        "aria-label": _("%(whose)s: threshold") % {"whose": whose},
                    }
                ),
            )
            self.fields[f"{level}_for"] = forms.TypedChoiceField(
                coerce=int,
                choices=[(seconds, minutes(seconds)) for seconds in FOR_SECONDS],
                initial=found.for_seconds if found else for_seconds,
                widget=forms.Select(
                    attrs={
                        "class": "form-select",
                        "aria-label": _("%(whose)s: how long it must hold") % {"whose": whose},
                    }
                ),
            )

    @property
    def rows(self) -> list[tuple[str, forms.BoundField, forms.BoundField]]:
        """Each level with its two fields."""
        return [(level, self[f"{level}_threshold"], self[f"{level}_for"]) for level in Level.values]

    def levels(self) -> list[LevelRule]:
        """The levels that have a threshold."""
        data = self.cleaned_data
        return [
            LevelRule(level, data[f"{level}_threshold"], data[f"{level}_for"])
            for level in Level.values
            if data.get(f"{level}_threshold") is not None
        ]


class TemplateRuleForm(LevelsForm):
    """One default rule: on or off, and its levels."""

    is_enabled = forms.BooleanField(required=False, widget=forms.CheckboxInput(attrs={"class": "form-check-input"}))

    def change(self) -> RuleChange:
        """What was typed; a rule that is off keeps its levels, filled in or not."""
        is_enabled, levels = self.cleaned_data["is_enabled"], self.levels()
        return RuleChange(is_enabled=is_enabled, levels=levels if levels or is_enabled else None)


class PolicyForm(Refusing):
    """Who is told."""

    policy = forms.ModelChoiceField(
        NotificationPolicy.objects.none(),
        required=False,
        label=gettext_lazy("Who is told"),
        empty_label=gettext_lazy("Nobody; events are kept"),
        help_text=gettext_lazy("Without a policy events are kept and listed, but nobody is called."),
    )

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["policy"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = policies_of(project)


class GroupForm(PolicyForm):
    """What a group is called, and who is told."""

    name = forms.CharField(label=gettext_lazy("Name"), max_length=rule_services.MAX_NAME)
    field_order = ("name", "policy")


def policies_of(project: Project) -> Any:
    """The policies that rules of the project may name."""
    return NotificationPolicy.objects.filter(project=project, deleted_at__isnull=True)


def usual_policy(project: Project) -> int | None:
    """The project's only policy: people that have one mean it."""
    found = list(policies_of(project).values_list("pk", flat=True)[:2])
    return found[0] if len(found) == 1 else None


def changes_of(forms_by_key: Mapping[str, TemplateRuleForm]) -> dict[str, RuleChange]:
    """What was typed about a template's rules."""
    return {key: form.change() for key, form in forms_by_key.items()}


def are_valid(some: Iterable[forms.Form]) -> bool:
    """All of them, so that every fault is shown at once."""
    judged = [form.is_valid() for form in some]
    return all(judged)


def refuse(head: Refusing, rules: Mapping[str, Refusing], message: str, field: str | None) -> None:
    """Show what the service refused at the rule that it names ("error_rate-levels"), else above the form."""
    key = (field or "").rpartition("-")[0]
    if key in rules:
        rules[key].refuse(message, None)
    else:
        head.refuse(message, field)


def own_rule(rule: Rule) -> OwnRule:
    """A stored rule as the services take it."""
    return OwnRule(
        name=rule.name, levels=[LevelRule.from_json(level) for level in rule.levels], comparator=rule.comparator,
        form=MetricForm.from_json(rule.form) if rule.kind == Rule.Kind.METRIC else None, promql=rule.promql,
        labels=rule.labels, texts=rule.texts, unit=rule.unit, is_enabled=rule.is_enabled, key=rule.key,
    )  # fmt: skip
