"""The plan of a version switch as people type it, turned into values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from common.errors import DomainError
from endpoints import switching
from endpoints.models import VersionSwitch
from endpoints.switching import DEFAULT_GATES, Gates, Rung

OWN = "own"
MAX_REASON = 500
MAX_STEPS = 100
_LINE = re.compile(r"\s*(\d{1,3})\s*%?[\s,;:]+(\d{1,5}(?:\.\d{1,2})?)\s*")
_GATE_FIELDS = (*switching.RELATIVE, "error_rate_percent")


def total(rungs: Sequence[Rung]) -> str:
    """How long a plan takes if nothing holds it, for people."""
    return switching.span(sum(rung.hold_seconds for rung in rungs))


def typed(rungs: Sequence[Rung]) -> str:
    """A plan as it is typed: a line a step, percent and minutes."""
    return "\n".join(f"{rung.weight} {rung.hold_seconds / 60:g}" for rung in rungs)


def parse(text: str) -> list[Rung]:
    """The steps of a typed plan. Raises `DomainError` (field "own_ladder") that names the line at fault."""
    rungs = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise DomainError(
                _("Line %(number)d: write the share in percent and the minutes, such as “10 5”.") % {"number": number},
                field="own_ladder",
            )
        rungs.append(Rung(int(match[1]), round(float(match[2]) * 60)))
    if len(rungs) > MAX_STEPS:
        raise DomainError(_("A plan has at most %(max)d steps.") % {"max": MAX_STEPS}, field="own_ladder")
    return rungs


def _percent(label: Any, help_text: Any = "") -> forms.FloatField:
    return forms.FloatField(
        label=label, help_text=help_text, required=False, min_value=0, max_value=100,
        widget=forms.NumberInput(attrs={"step": "any"}),
    )  # fmt: skip


def _ratio(label: Any) -> forms.FloatField:
    return forms.FloatField(
        label=label, required=False, min_value=1, max_value=100, widget=forms.NumberInput(attrs={"step": "any"})
    )


class PlanForm(forms.Form):
    """The plan: ladder, gates, what a breach does, the warm-up, and that the differences were read.

    `ladder` and `gates` of `cleaned_data` are what `switch_services.start` takes.
    """

    ladder = forms.ChoiceField(label=gettext_lazy("Steps"), widget=forms.RadioSelect)
    own_ladder = forms.CharField(
        label=gettext_lazy("Own steps"), required=False, max_length=2_000, strip=True,
        widget=forms.Textarea(attrs={"rows": 5, "spellcheck": "false"}),
        help_text=gettext_lazy(
            "A line a step: the share in percent, then the minutes it lasts at least. The last one is 100."
        ),
    )  # fmt: skip
    judged = forms.ChoiceField(
        label=gettext_lazy("What a step must pass"), widget=forms.RadioSelect,
        choices=[
            ("gates", gettext_lazy("Gates: the target's own calls decide")),
            ("time", gettext_lazy("Time alone, whatever the figures say")),
        ],
    )  # fmt: skip
    error_rate_percent = _percent(gettext_lazy("Errors at most"), gettext_lazy("Empty: this gate is open."))
    error_points_over_source = _percent(gettext_lazy("Errors more than the source"))
    rejection_points_over_source = _percent(
        gettext_lazy("Rejections (4xx) more than the source"),
        gettext_lazy("Catches a parameter that the target refuses."),
    )
    first_token_ratio = _ratio(gettext_lazy("Time to first token, p95"))
    duration_ratio = _ratio(gettext_lazy("Duration, p95"))
    min_samples = forms.IntegerField(
        label=gettext_lazy("Calls needed per step"), min_value=1, max_value=switching.MAX_SAMPLES, required=False
    )
    on_breach = forms.ChoiceField(
        label=gettext_lazy("When a gate is broken"), widget=forms.RadioSelect, choices=VersionSwitch.OnBreach.choices
    )
    warm = forms.BooleanField(label=gettext_lazy("First make a one-token call to the target (paid)"), required=False)
    reason = forms.CharField(label=gettext_lazy("Reason"), required=False, max_length=MAX_REASON)
    confirmed = forms.BooleanField(required=False)

    def __init__(self, *args: Any, is_cut_over: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_cut_over = is_cut_over
        names = {
            "default": _("Default: 12 steps, %(time)s"),
            "fast": _("Fast: 4 steps, %(time)s"),
            "careful": _("Careful: 9 steps, %(time)s"),
        }
        choices = [(name, names[name] % {"time": total(rungs)}) for name, rungs in switching.LADDERS.items()]
        ladder = self.fields["ladder"]
        assert isinstance(ladder, forms.ChoiceField)
        ladder.choices = [*choices, (OWN, _("Own steps"))]
        confirmed = self.fields["confirmed"]
        if is_cut_over:
            ladder.required = self.fields["judged"].required = self.fields["on_breach"].required = False
            confirmed.label = _(
                "I know that vectors of the two models do not mix, and that what was stored must be embedded anew."
            )
        else:
            confirmed.label = _("I have read what changes, above.")

    @classmethod
    def started(cls, *, is_cut_over: bool, like: VersionSwitch | None = None) -> PlanForm:
        """A form filled with the defaults, or with the plan of an earlier switch."""
        initial: dict[str, Any] = {
            "ladder": "default", "judged": "gates", "on_breach": VersionSwitch.OnBreach.HOLD,
            "own_ladder": typed(switching.LADDERS["fast"]),
            **{name: getattr(DEFAULT_GATES, name) for name in (*_GATE_FIELDS, "min_samples")},
        }  # fmt: skip
        if like is not None and not is_cut_over:
            rungs, gates = switching.ladder_of(like), switching.gates_of(like)
            named = next((name for name, each in switching.LADDERS.items() if each == rungs), OWN)
            initial |= {"ladder": named, "own_ladder": typed(rungs), "on_breach": like.on_breach}
            initial["judged"] = "time" if gates is None else "gates"
            if gates is not None:
                initial |= {name: getattr(gates, name) for name in (*_GATE_FIELDS, "min_samples")}
        return cls(initial=initial, is_cut_over=is_cut_over)

    def clean(self) -> dict[str, Any]:
        """The plan itself; what the service would refuse is refused there."""
        values = super().clean() or {}
        if self.is_cut_over:
            return {**values, "ladder": switching.CUT_OVER, "gates": None, "on_breach": VersionSwitch.OnBreach.HOLD}
        if values.get("ladder") == OWN:
            try:
                values["ladder"] = switching.clean_ladder(parse(values.get("own_ladder", "")))
            except DomainError as error:
                self.add_error("own_ladder", error.message)
        elif values.get("ladder") in switching.LADDERS:
            values["ladder"] = switching.LADDERS[values["ladder"]]
        values["gates"] = None
        if values.get("judged") == "gates":
            values["gates"] = Gates(
                **{name: values.get(name) for name in _GATE_FIELDS},
                min_samples=values.get("min_samples") or DEFAULT_GATES.min_samples,
            )
        return values

    def refuse(self, message: str, field: str | None) -> None:
        """Show what the service said, beside its field where the form has it."""
        name = "own_ladder" if field == "ladder" else "judged" if field == "gates" else field
        self.add_error(name if name in self.fields else None, message)


class VerbForm(forms.Form):
    """What goes with a verb: why, the move that the person saw, and for the gradual roll-back the time of a step."""

    reason = forms.CharField(label=gettext_lazy("Reason"), required=False, max_length=MAX_REASON)
    seen_moves = forms.IntegerField(widget=forms.HiddenInput, min_value=0)
    hold_minutes = forms.FloatField(
        label=gettext_lazy("Minutes per step"), min_value=0.5, max_value=1440, initial=1,
        widget=forms.NumberInput(attrs={"step": "any"}),
    )  # fmt: skip

    def __init__(self, *args: Any, has_hold: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not has_hold:
            del self.fields["hold_minutes"]

    def refuse(self, message: str, field: str | None) -> None:
        """Show what the service said."""
        self.add_error("hold_minutes" if field == "hold_seconds" and "hold_minutes" in self.fields else None, message)
