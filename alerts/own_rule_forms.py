"""What people type about a rule of their own: a metric that is chosen, or PromQL, turned into values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from alerts import promql, rule_services
from alerts.metrics import AGGREGATIONS, METRICS, Metric
from alerts.models import Rule
from alerts.promql import FILTER_OPS, Invalid, MetricForm
from alerts.rule_forms import LevelsForm, PolicyForm, offer_endpoints
from alerts.rule_services import OwnRule
from alerts.templates import COMPARATORS, LevelRule
from common.errors import DomainError
from iam.models import Project

WINDOWS = (60, 300, 600, 900, 3600, 21_600, 86_400)
LEAST_ROWS = 3
"""Rows for filters that stand there to be filled in, with and without a script."""
WHERE = {"window_seconds": "window", "filters": "metric", "texts": "text_en", "levels": None}
"""Fields of the services by the fields of the form that they are shown at."""

Filter = tuple[str, str, str]


class WatchForm(PolicyForm):
    """What a new group watches, and who is told."""

    endpoint = forms.ChoiceField(label=gettext_lazy("Watches"), required=False)
    field_order = ("endpoint", "policy")

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, project=project, **kwargs)
        offer_endpoints(self, _("Every endpoint of the project"), project=project)


def _metrics() -> list[tuple[str, str]]:
    return [("", _("Choose a metric")), *((name, f"{metric.help} – {name}") for name, metric in METRICS.items())]


def _windows() -> list[tuple[int, str]]:
    names = {60: _("1 minute"), 300: _("5 minutes"), 600: _("10 minutes"), 900: _("15 minutes"), 3600: _("1 hour")}
    return [(seconds, names.get(seconds) or _("%(n)d hours") % {"n": seconds // 3600}) for seconds in WINDOWS]


def labels() -> list[str]:
    """Every label that a filter may name."""
    return sorted({label for metric in METRICS.values() for label in metric.labels})


class OwnRuleForm(LevelsForm):
    """One rule of people's own."""

    name = forms.CharField(
        label=gettext_lazy("Name"),
        max_length=rule_services.MAX_NAME,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    kind = forms.ChoiceField(
        label=gettext_lazy("What it looks at"),
        widget=forms.RadioSelect,
        choices=[
            (Rule.Kind.METRIC, gettext_lazy("A metric")),
            (Rule.Kind.PROMQL, gettext_lazy("An expression in PromQL")),
        ],
    )
    metric = forms.ChoiceField(label=gettext_lazy("Metric"), required=False, choices=_metrics)
    aggregation = forms.ChoiceField(
        label=gettext_lazy("Summed up as"),
        required=False,
        choices=lambda: [(key.value, str(text)) for key, text in AGGREGATIONS.items()],
    )
    window = forms.TypedChoiceField(label=gettext_lazy("Over the last"), required=False, coerce=int, choices=_windows)
    by = forms.MultipleChoiceField(
        label=gettext_lazy("Apart by"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        choices=lambda: [(label, label) for label in labels()],
        help_text=gettext_lazy("Each value of these labels is judged by itself. None: the endpoint as a whole."),
    )
    promql = forms.CharField(
        label="PromQL",
        required=False,
        max_length=promql.MAX_LENGTH,
        widget=forms.Textarea(
            attrs={
                "rows": 5,
                "class": "form-control ar-code",
                "spellcheck": "false",
                "autocapitalize": "off",
                "autocomplete": "off",
            }
        ),
        help_text=gettext_lazy(
            "The value that is compared, without a threshold. It sees this project's metrics only; "
            "sum up by (project, ark_endpoint) to judge each endpoint by itself."
        ),
    )
    comparator = forms.ChoiceField(
        label=gettext_lazy("Fires when the value is"), choices=[(each, each) for each in COMPARATORS]
    )
    unit = forms.CharField(
        label=gettext_lazy("Unit"), required=False, max_length=rule_services.MAX_UNIT,
        widget=forms.TextInput(attrs={"autocomplete": "off"}), help_text=gettext_lazy("Shown with the value: s, ms or %"),
    )  # fmt: skip
    text_en = forms.CharField(
        label=gettext_lazy("Text of the message, in English"), required=False, max_length=rule_services.MAX_TEXT,
        widget=forms.Textarea(attrs={"rows": 2}),
    )  # fmt: skip
    text_zh = forms.CharField(
        label=gettext_lazy("Text of the message, in Chinese"), required=False, max_length=rule_services.MAX_TEXT,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text=gettext_lazy("{endpoint}, {value}, {threshold}, {level} and {rule} are filled in."),
    )  # fmt: skip
    labels = forms.CharField(
        label=gettext_lazy("Labels"), required=False, widget=forms.Textarea(attrs={"rows": 2, "class": "ar-code"}),
        help_text=gettext_lazy("One a line, such as team=search. Messages carry them."),
    )  # fmt: skip

    def __init__(self, *args: Any, filters: Sequence[Filter] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.filters: Sequence[Filter] = _posted(self.data) if self.is_bound else filters
        self.place: tuple[int, int] | None = None
        self.levels_error = ""

    @classmethod
    def stored(cls, rule: Rule | None, data: QueryDict | None) -> OwnRuleForm:
        """For a rule as it is, or a new one."""
        if rule is None:
            initial: dict[str, Any] = {"kind": Rule.Kind.METRIC, "comparator": ">", "window": 300}
            return cls(data, initial=initial)
        form = MetricForm.from_json(rule.form) if rule.kind == Rule.Kind.METRIC else None
        initial = {
            "name": rule.name, "kind": rule.kind, "promql": rule.promql, "comparator": rule.comparator, "unit": rule.unit,
            "text_en": rule.texts.get("en", ""), "text_zh": rule.texts.get("zh", ""),
            "labels": "\n".join(f"{name}={value}" for name, value in rule.labels.items()),
        }  # fmt: skip
        if form is not None:
            initial |= {
                "metric": form.metric, "aggregation": form.aggregation, "window": form.window_seconds, "by": form.by,
            }  # fmt: skip
        levels = [LevelRule.from_json(level) for level in rule.levels]
        return cls(data, initial=initial, levels=levels, filters=form.filters if form else ())

    @property
    def filter_rows(self) -> list[Filter]:
        """What is filled in, and rows to fill in."""
        empty = max(1, LEAST_ROWS - len(self.filters))
        return [*self.filters, *([("", "=", "")] * empty)]

    def clean_labels(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in self.cleaned_data["labels"].splitlines():
            if not line.strip():
                continue
            name, equals, value = line.partition("=")
            if not equals:
                raise ValidationError(_("“%(line)s” is not a label: write name=value.") % {"line": line.strip()[:64]})
            found[name.strip()] = value.strip()
        return found

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or {}
        if (
            values.get("kind") == Rule.Kind.PROMQL
            and "promql" not in self.errors
            and not values.get("promql", "").strip()
        ):
            self.add_error("promql", _("Write an expression."))
        if not all(value.isprintable() for _label, _op, value in self.filters):
            self.add_error("metric", _("A filter has a character that cannot be used."))
        return values

    def metric_form(self) -> MetricForm | None:
        """The chosen metric; None where the rule is PromQL."""
        data = self.cleaned_data
        if data["kind"] == Rule.Kind.PROMQL:
            return None
        return MetricForm(
            metric=data["metric"], aggregation=data["aggregation"], window_seconds=data["window"] or 300,
            filters=tuple(self.filters), by=tuple(data["by"]),
        )  # fmt: skip

    def expression(self) -> str:
        """The PromQL of either kind. Raises `DomainError`."""
        form = self.metric_form()
        return promql.of_form(form) if form else str(self.cleaned_data["promql"]).strip()

    def own_rule(self, rule: Rule | None) -> OwnRule:
        """As the services take it; `rule` is the one that it replaces."""
        data, form = self.cleaned_data, self.metric_form()
        texts = {"en": data["text_en"], "zh": data["text_zh"]}
        return OwnRule(
            name=data["name"], levels=self.levels(), comparator=data["comparator"], form=form,
            promql="" if form else data["promql"], labels=data["labels"],
            texts={language: text for language, text in texts.items() if text.strip()}, unit=data["unit"],
            is_enabled=rule.is_enabled if rule else True, key=rule.key if rule else "",
        )  # fmt: skip

    def show(self, error: DomainError) -> None:
        """What the services refused, at its field; of PromQL with the place in it."""
        name = (error.field or "").rpartition("-")[2]
        shown = WHERE.get(name, name)
        message = error.message
        if isinstance(error, Invalid) and self.cleaned_data.get("kind") == Rule.Kind.PROMQL:
            self.place = (error.line, error.column)
            words = {"line": error.line, "column": error.column, "message": message}
            message = _("Line %(line)d, column %(column)d: %(message)s") % words
        elif name == "promql" and self.cleaned_data.get("kind") == Rule.Kind.METRIC:
            shown = "metric"
        if name == "levels":
            self.levels_error = message
        else:
            self.add_error(shown if shown in self.fields else None, message)


def _posted(data: Mapping[str, Any]) -> list[Filter]:
    assert isinstance(data, QueryDict)
    rows = zip(data.getlist("filter_label"), data.getlist("filter_op"), data.getlist("filter_value"), strict=False)
    return [(label, op, value.strip()) for label, op, value in rows if label]


def choices_of_filters() -> dict[str, Sequence[str]]:
    """What a row of the filters offers."""
    return {"labels": labels(), "ops": FILTER_OPS}


def of_metrics() -> dict[str, dict[str, Sequence[str]]]:
    """For the script: what each metric may be summed up as, and its labels."""
    return {name: _offers(metric) for name, metric in METRICS.items()}


def _offers(metric: Metric) -> dict[str, Sequence[str]]:
    return {
        "aggregations": [each.value for each in metric.aggregations],
        "labels": list(metric.labels),
        "unit": [metric.unit],
    }
