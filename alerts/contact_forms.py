"""Strings from the browser to values: contacts, addresses, groups and policies. Rules live in the services."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _

from alerts import contacts, policies, reach
from alerts.models import Contact, ContactGroup, ContactMethod, Level, MethodKind, NotificationPolicy, PolicyLevel
from iam.forms import ZONES
from iam.models import Project


class ContactForm(forms.Form):
    """A person or a room of people, and how they are written to."""

    name = forms.CharField(label=_("Name"), max_length=contacts.MAX_NAME, help_text=_("A person, or a room of people."))
    language = forms.ChoiceField(label=_("Language of messages"), choices=settings.LANGUAGES)
    time_zone = forms.ChoiceField(
        label=_("Time zone"), choices=[(zone, zone) for zone in ZONES], help_text=_("Times in messages are told in it.")
    )
    note = forms.CharField(label=_("Note"), required=False, max_length=contacts.MAX_NOTE)


_ADDRESS: dict[str, tuple[Any, Any, str]] = {
    MethodKind.EMAIL: (_("E-mail address"), _("A link is sent to it; it counts once the link was pressed."), "name@example.com"),
    MethodKind.PHONE: (
        _("Phone number"),
        _("With its country; a mobile number of mainland China may stand alone. It rings for P0 only."),
        "+8613800001111",
    ),
    MethodKind.FEISHU: (
        _("Webhook address"),
        _("Feishu group → Settings → Bots → Custom bot → Webhook URL."),
        "https://open.feishu.cn/open-apis/bot/v2/hook/…",
    ),
    MethodKind.DINGTALK: (
        _("Webhook address"),
        _("DingTalk group → Group settings → Bots → Custom → Webhook."),
        "https://oapi.dingtalk.com/robot/send?access_token=…",
    ),
    MethodKind.WECOM: (
        _("Webhook address"),
        _("WeCom group → Add group bot → copy its Webhook address. Whoever has the address can write to the group."),
        "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=…",
    ),
    MethodKind.WEBHOOK: (
        _("Address"),
        _("Gets a POST with JSON and must answer with a status of 2xx."),
        "https://example.com/alerts",
    ),
}  # fmt: skip
_SECRET: dict[str, tuple[Any, Any]] = {
    MethodKind.FEISHU: (_("Signing secret"), _("When the bot's security setting is “Set signature verification”.")),
    MethodKind.DINGTALK: (_("Signing secret"), _("Begins with SEC, when the bot's security setting is “Additional signature”.")),
    MethodKind.WEBHOOK: (_("Signing secret"), _("Each request then carries an HMAC-SHA256 of its body, so that you know it is ours.")),
}  # fmt: skip


class MethodForm(forms.Form):
    """Address, and for some kinds a secret that is never shown again. With `method`, empty means: as it is."""

    address = forms.CharField(max_length=2000)
    secret = forms.CharField(required=False, max_length=500)
    forget_secret = forms.BooleanField(label=_("Forget the stored secret"), required=False)

    def __init__(self, *args: Any, kind: str, method: ContactMethod | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        address = self.fields["address"]
        label, help_text, placeholder = _ADDRESS[kind]
        address.label, address.help_text = label, help_text
        address.required = method is None
        attrs = {"autocomplete": "off", "spellcheck": "false", "placeholder": method.hint if method else placeholder}
        inputs: dict[str, type[forms.widgets.Input]] = {MethodKind.EMAIL: forms.EmailInput, MethodKind.PHONE: TelInput}
        address.widget = inputs.get(kind, forms.URLInput if not method else forms.TextInput)(attrs=attrs)
        if kind in _SECRET:
            secret = self.fields["secret"]
            secret.label, secret.help_text = _SECRET[kind]
            # render_value is off: what was typed is never sent back.
            secret.widget = forms.PasswordInput(attrs={"autocomplete": "new-password", "spellcheck": "false"})
            if method and method.secret:
                secret.widget.attrs["placeholder"] = str(_("stored; empty keeps it"))
        else:
            del self.fields["secret"]
        if not (method and method.secret and kind in _SECRET):
            del self.fields["forget_secret"]

    def secret_to_keep(self) -> str | None:
        """The new secret; "" to forget it, None to keep what is there."""
        if self.cleaned_data.get("forget_secret"):
            return ""
        return self.cleaned_data.get("secret") or None


class TelInput(forms.TextInput):
    input_type = "tel"


class GroupForm(forms.Form):
    """Contacts that are told together."""

    name = forms.CharField(label=_("Name"), max_length=contacts.MAX_NAME)
    contacts = forms.ModelMultipleChoiceField(
        label=_("Contacts"), queryset=Contact.objects.none(), required=False, widget=forms.CheckboxSelectMultiple
    )

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["contacts"]
        assert isinstance(field, forms.ModelMultipleChoiceField)
        field.queryset = Contact.objects.filter(project=project, deleted_at__isnull=True)


# --- policies ------------------------------------------------------------------------------------------------------------

WAITS = (0, 10, 30, 60, 120, 300)
INTERVALS = (30, 60, 300, 600, 1800, 3600)
REPEATS = (300, 600, 1800, 3600, 7200, 14_400, 43_200, 86_400)


class PolicyForm(forms.Form):
    """The policy's name, and the revision that the person saw."""

    name = forms.CharField(label=_("Name"), max_length=contacts.MAX_NAME)
    revision = forms.IntegerField(widget=forms.HiddenInput, required=False, initial=0)


class LevelForm(forms.Form):
    """One level; its prefix is the level, so that fields are named as the service names them: P0-kinds."""

    groups = forms.ModelMultipleChoiceField(
        label=_("Contact groups"), queryset=ContactGroup.objects.none(), required=False,
        widget=forms.CheckboxSelectMultiple,
    )  # fmt: skip
    kinds = forms.MultipleChoiceField(
        label=_("When it fires"), choices=MethodKind.choices, required=False, widget=forms.CheckboxSelectMultiple
    )
    resolved_kinds = forms.MultipleChoiceField(
        label=_("When it is over"), choices=MethodKind.choices, required=False, widget=forms.CheckboxSelectMultiple
    )
    group_by = forms.ChoiceField(label=_("One message for"), choices=PolicyLevel.GroupBy.choices)
    wait_seconds = forms.TypedChoiceField(label=_("First message after"), coerce=int)
    interval_seconds = forms.TypedChoiceField(label=_("News of it at most every"), coerce=int)
    repeat_seconds = forms.TypedChoiceField(label=_("Again every"), coerce=int)

    def __init__(self, data: Any = None, *, level: str, groups: list[ContactGroup], initial: dict[str, Any]) -> None:
        super().__init__(data, prefix=level, initial=initial)
        self.level = level
        chosen = self.fields["groups"]
        assert isinstance(chosen, forms.ModelMultipleChoiceField)
        # One query for all three levels: the rows are handed in, and looked up by id only when posted.
        chosen.queryset = ContactGroup.objects.filter(pk__in=[group.pk for group in groups])
        chosen.choices = [(group.pk, group.name) for group in groups]
        self.offered = groups
        for name, offered in (("wait_seconds", WAITS), ("interval_seconds", INTERVALS), ("repeat_seconds", REPEATS)):
            field = self.fields[name]
            assert isinstance(field, forms.TypedChoiceField)
            stands = self.initial.get(name)
            values = sorted({*offered, *([int(stands)] if stands is not None else [])})
            field.choices = [(value, reach.length(value) if value else _("at once")) for value in values]
        for name in ("kinds", "resolved_kinds"):
            field = self.fields[name]
            assert isinstance(field, forms.MultipleChoiceField)
            if level != Level.P0:
                field.choices = [choice for choice in MethodKind.choices if choice[0] != MethodKind.PHONE]

    @property
    def matrix(self) -> list[dict[str, Any]]:
        """A row for each kind: whether it is told of firing and of the end."""
        firing = set(self["kinds"].value() or ())
        over = set(self["resolved_kinds"].value() or ())
        allowed = {value for value, _label in self.fields["kinds"].choices}  # type: ignore[attr-defined]
        return [
            {
                "kind": kind,
                "label": label,
                "firing": kind in firing,
                "over": kind in over,
                "is_allowed": kind in allowed,
            }
            for kind, label in MethodKind.choices
        ]

    def plan(self) -> policies.LevelPlan:
        """The level as chosen; fields that make no sense stand as they begin."""
        chosen, usual = getattr(self, "cleaned_data", {}), policies.DEFAULTS[self.level]
        return policies.LevelPlan(
            self.level,
            groups=list(chosen.get("groups") or ()),
            kinds=chosen.get("kinds") or (),
            resolved_kinds=chosen.get("resolved_kinds") or (),
            group_by=chosen.get("group_by") or usual.group_by,
            wait_seconds=chosen.get("wait_seconds", usual.wait_seconds),
            interval_seconds=chosen.get("interval_seconds", usual.interval_seconds),
            repeat_seconds=chosen.get("repeat_seconds", usual.repeat_seconds),
        )


# What a new policy begins with: the worse, the louder.
_BEGIN = {
    Level.P0: (
        [
            MethodKind.PHONE,
            MethodKind.EMAIL,
            MethodKind.FEISHU,
            MethodKind.DINGTALK,
            MethodKind.WECOM,
            MethodKind.WEBHOOK,
        ],
        True,
    ),
    Level.P1: ([MethodKind.EMAIL, MethodKind.FEISHU, MethodKind.DINGTALK, MethodKind.WECOM, MethodKind.WEBHOOK], True),
    Level.P2: ([MethodKind.EMAIL], False),
}


def level_forms(
    *, groups: list[ContactGroup], data: Any = None, plans: dict[str, policies.LevelPlan] | None = None
) -> list[LevelForm]:
    """The three levels: as posted, as `plans` say, or as a new policy begins."""
    return [
        LevelForm(data, level=level, groups=groups, initial=_initial(level, (plans or {}).get(level)))
        for level in Level.values
    ]


def _initial(level: str, plan: policies.LevelPlan | None) -> dict[str, Any]:
    stands = plan or policies.DEFAULTS[level]
    kinds, over = list(stands.kinds), list(stands.resolved_kinds)
    if plan is None:
        begin, hears_end = _BEGIN[Level(level)]
        # Nobody is rung up to hear that it is over.
        kinds, over = list(begin), [kind for kind in begin if kind != MethodKind.PHONE] if hears_end else []
    return {
        "groups": [group.pk for group in stands.groups], "kinds": kinds, "resolved_kinds": over,
        "group_by": str(stands.group_by), "wait_seconds": stands.wait_seconds,
        "interval_seconds": stands.interval_seconds, "repeat_seconds": stands.repeat_seconds,
    }  # fmt: skip


def policy_form_of(policy: NotificationPolicy) -> PolicyForm:
    return PolicyForm(initial={"name": policy.name, "revision": policy.revision})
