"""Who would hear of what: a policy in plain words, and whom it would not reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from django.db.models import Prefetch, QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from alerts import policies
from alerts.models import Contact, ContactGroup, ContactMethod, Level, MethodKind, NotificationPolicy, PolicyLevel
from alerts.policies import LevelPlan

NAMED = 4
"""So many contacts a sentence names; the rest it counts."""

# The kinds within a sentence: "by e-mail and Feishu".
BY = {
    MethodKind.EMAIL: gettext_lazy("e-mail"),
    MethodKind.PHONE: gettext_lazy("phone"),
    MethodKind.FEISHU: gettext_lazy("Feishu"),
    MethodKind.DINGTALK: gettext_lazy("DingTalk"),
    MethodKind.WECOM: gettext_lazy("WeCom"),
    MethodKind.WEBHOOK: gettext_lazy("webhook"),
}

Members = Mapping[int, Sequence[Contact]]


@dataclass(frozen=True, slots=True)
class Heard:
    """One contact under one level: by which kinds it hears of firing and of the end; none when nothing is verified."""

    contact: Contact
    kinds: tuple[str, ...]
    resolved_kinds: tuple[str, ...]

    @property
    def is_deaf(self) -> bool:
        return not self.kinds and not self.resolved_kinds


@dataclass(frozen=True, slots=True)
class Reach:
    """One level of a policy with the people behind its groups."""

    plan: LevelPlan
    people: tuple[Heard, ...]

    @property
    def level(self) -> str:
        return self.plan.level

    @property
    def is_on(self) -> bool:
        """Whether it is meant to tell anybody."""
        return bool(self.plan.groups and (self.plan.kinds or self.plan.resolved_kinds))

    @property
    def heard(self) -> tuple[Heard, ...]:
        return tuple(person for person in self.people if not person.is_deaf)

    @property
    def deaf(self) -> tuple[Heard, ...]:
        return tuple(person for person in self.people if person.is_deaf)

    @property
    def is_vain(self) -> bool:
        """Meant to tell somebody, and nobody would hear."""
        return self.is_on and not self.heard

    def sentence(self) -> str:
        return sentence(self)

    def warning(self) -> str:
        return warning(self)


# --- who ---------------------------------------------------------------------------------------------------------------


def with_people(groups: QuerySet[ContactGroup]) -> QuerySet[ContactGroup]:
    """The groups with contacts and addresses, in three queries; what is encrypted stays where it is."""
    methods = ContactMethod.objects.defer("address", "secret")
    people = Contact.objects.filter(deleted_at__isnull=True).prefetch_related(Prefetch("methods", methods))
    return groups.filter(deleted_at__isnull=True).prefetch_related(Prefetch("contacts", people))


def members_of(groups: Iterable[ContactGroup]) -> Members:
    """The contacts of each group by its id."""
    wanted = {group.pk for group in groups}
    if not wanted:
        return {}
    found = with_people(ContactGroup.objects.filter(pk__in=wanted))
    return {group.pk: list(group.contacts.all()) for group in found}


def of_plan(plan: LevelPlan, members: Members) -> Reach:
    """Who hears of this level; each contact once, however many groups it is in."""
    kinds = [kind for kind in plan.kinds if _rings(kind, plan.level)]
    resolved = [kind for kind in plan.resolved_kinds if _rings(kind, plan.level)]
    people = {contact.pk: contact for group in plan.groups for contact in members.get(group.pk, ())}
    heard = []
    for contact in sorted(people.values(), key=lambda contact: (contact.name, contact.pk)):
        usable = {method.kind for method in contact.methods.all() if method.is_usable}
        heard.append(Heard(contact, _both(kinds, usable), _both(resolved, usable)))
    return Reach(plan, tuple(heard))


def of_policies(rows: Iterable[NotificationPolicy]) -> dict[int, list[Reach]]:
    """All three levels of each policy by its id, in a handful of queries however many policies."""
    levels = _levels(rows)
    members = members_of(group for plans in levels.values() for plan in plans for group in plan.groups)
    return {pk: [of_plan(plan, members) for plan in plans] for pk, plans in levels.items()}


def of_policy(row: NotificationPolicy) -> list[Reach]:
    """All three levels of one policy."""
    return of_policies([row])[row.pk]


def _levels(rows: Iterable[NotificationPolicy]) -> dict[int, list[LevelPlan]]:
    kept = list(rows)
    found = PolicyLevel.objects.filter(policy__in=kept).prefetch_related("groups")
    plans = {(row.policy_id, row.level): policies.plan_of(row) for row in found}
    return {
        row.pk: [plans.get((row.pk, level), replace(policies.DEFAULTS[level], groups=())) for level in Level.values]
        for row in kept
    }


def _rings(kind: str, level: str) -> bool:
    return kind != MethodKind.PHONE or level == Level.P0


def _both(wanted: Sequence[str], usable: set[str]) -> tuple[str, ...]:
    # In the order of the kinds themselves, so that all sentences name them alike.
    return tuple(kind for kind in MethodKind.values if kind in wanted and kind in usable)


# --- in words ------------------------------------------------------------------------------------------------------------


def sentence(reach: Reach) -> str:
    """What this level does, as one would tell a colleague."""
    plan = reach.plan
    if not reach.is_on:
        return _("Nobody is told. The events are kept and listed.")
    if reach.is_vain:
        return _("Nobody would hear of it: no address of these groups is verified for the chosen methods.")
    firing = [person for person in reach.heard if person.kinds]
    parts = []
    if firing:
        when = _("at once") if not plan.wait_seconds else _("after %(time)s") % {"time": length(plan.wait_seconds)}
        parts.append(
            _("%(who)s, %(when)s, again every %(repeat)s while it fires.")
            % {"who": _people(firing, "kinds"), "when": when, "repeat": length(plan.repeat_seconds)}
        )
    else:
        parts.append(_("Nobody is told of the beginning."))
    ending = [person for person in reach.heard if person.resolved_kinds]
    if not ending:
        parts.append(_("Nobody is told of the end."))
    elif ending == firing and all(person.kinds == person.resolved_kinds for person in ending):
        parts.append(_("The same people hear of its end."))
    else:
        parts.append(_("Of its end: %(who)s.") % {"who": _people(ending, "resolved_kinds")})
    # A Chinese full stop is as wide as one with its space.
    return " ".join(parts).replace("。 ", "。")


def warning(reach: Reach) -> str:
    """Who of this level's people would hear nothing; "" when everybody hears something."""
    if not reach.is_on or not reach.deaf:
        return ""
    names = _cut([person.contact.name for person in reach.deaf])
    return _("Would hear nothing, since none of their addresses for these methods is verified: %(names)s") % {
        "names": names
    }


def kinds_in_words(kinds: Sequence[str]) -> str:
    """ "phone, e-mail and Feishu"."""
    words = [str(BY[MethodKind(kind)]) for kind in kinds]
    if len(words) < 2:
        return "".join(words)
    return _("%(first)s and %(last)s") % {"first": _(", ").join(words[:-1]), "last": words[-1]}


def length(seconds: int) -> str:
    """A length of time in its largest whole unit."""
    if seconds and seconds % 86_400 == 0:
        return ngettext("%(n)d day", "%(n)d days", seconds // 86_400) % {"n": seconds // 86_400}
    if seconds and seconds % 3600 == 0:
        return ngettext("%(n)d hour", "%(n)d hours", seconds // 3600) % {"n": seconds // 3600}
    if seconds and seconds % 60 == 0:
        return ngettext("%(n)d minute", "%(n)d minutes", seconds // 60) % {"n": seconds // 60}
    return ngettext("%(n)d second", "%(n)d seconds", seconds) % {"n": seconds}


def _people(people: Sequence[Heard], which: str) -> str:
    return _cut([
        _("%(name)s by %(kinds)s") % {"name": person.contact.name, "kinds": kinds_in_words(getattr(person, which))}
        for person in people
    ])  # fmt: skip


def _cut(texts: Sequence[str]) -> str:
    if len(texts) <= NAMED:
        return _(", ").join(texts)
    more = len(texts) - NAMED + 1
    return _("%(some)s and %(count)s more") % {"some": _(", ").join(texts[: NAMED - 1]), "count": more}
