"""Notification policies: the list, one in plain words, its form with a preview, and what would reach oneself."""

from __future__ import annotations

from typing import Any

from django.db.models import Count, Q
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from alerts import actions, channels, contact_forms, contact_presentation, contacts, policies, reach
from alerts.contact_views import PAGE_SIZE, add_error, test_page
from alerts.models import (
    Contact,
    ContactGroup,
    ContactMethod,
    Level,
    MethodKind,
    NotificationPolicy,
    PolicyLevel,
    RuleGroup,
)
from common.errors import Conflict, DomainError
from common.htmx import dialog_frame, done
from common.paging import paginate
from iam.actors import actor_of
from iam.models import Project
from iam.requests import ConsoleRequest

_USED = Count("rule_groups", filter=Q(rule_groups__deleted_at__isnull=True))


@require_GET
def policy_list(request: ConsoleRequest) -> HttpResponse:
    """The project's policies by name, each level in a sentence, and how many rule groups use it."""
    actor, project = actor_of(request), request.project
    actor.require(actions.LIST_NOTIFY_POLICIES, project)
    text = request.GET.get("q", "").strip().replace("\0", "")
    rows = NotificationPolicy.objects.filter(project=project, deleted_at__isnull=True).annotate(used=_USED)
    if text:
        rows = rows.filter(name__icontains=text)
    page = paginate(rows, order=["name", "id"], cursor=request.GET.get("cursor", ""), size=PAGE_SIZE)
    levels = reach.of_policies(page.rows)
    context = {
        "page": page,
        "rows": [{"policy": row, "levels": levels[row.pk]} for row in page.rows],
        "q": text,
        "is_filtered": bool(text),
        "can_create": actor.can(actions.CREATE_NOTIFY_POLICY, project),
        "can_update": actor.can(actions.UPDATE_NOTIFY_POLICY, project),
        "can_delete": actor.can(actions.DELETE_NOTIFY_POLICY, project),
    }
    is_list_only = request.htmx and request.htmx.target == "policies"
    response = render(request, "alerts/policies_list.html" if is_list_only else "alerts/policies.html", context)
    response.headers["Vary"] = "HX-Request, HX-Target, Cookie"
    return response


@require_GET
def policy_detail(request: ConsoleRequest, policy_id: int) -> HttpResponse:
    """One policy in plain words, whom it does not reach, and which rule groups use it."""
    policy = find_policy(request, policy_id)
    actor = actor_of(request)
    levels = reach.of_policy(policy)
    users = list(_users(policy)[: PAGE_SIZE + 1])
    context = {
        "policy": policy,
        "levels": [{"reach": level, "facts": _facts(level)} for level in levels],
        "missing": _missing(levels),
        "users": [{"group": group, "url": _rule_group_url(group)} for group in users[:PAGE_SIZE]],
        "has_more_users": len(users) > PAGE_SIZE,
        "can_update": actor.can(actions.UPDATE_NOTIFY_POLICY, policy),
        "can_delete": actor.can(actions.DELETE_NOTIFY_POLICY, policy),
        "can_send": actor.can(actions.SEND_VALIDATION_MESSAGE, policy),
    }
    return render(request, "alerts/policy.html", context)


@require_http_methods(["GET", "POST"])
def policy_create(request: ConsoleRequest) -> HttpResponse:
    """A new policy, filled in as most want it."""
    actor = actor_of(request)
    actor.require(actions.CREATE_NOTIFY_POLICY, request.project)
    groups = _groups(request.project)
    data = request.POST or None
    form, levels = contact_forms.PolicyForm(data), contact_forms.level_forms(groups=groups, data=data)
    if request.method == "POST" and _are_valid(form, levels):
        try:
            policy = policies.create_policy(
                project=request.project, name=form.cleaned_data["name"], levels=[each.plan() for each in levels],
                by=actor, now=timezone.now(),
            )  # fmt: skip
        except DomainError as error:
            _add_error(form, levels, error)
        else:
            said = _("Policy “%(name)s” created.") % {"name": policy.name}
            return done(request, reverse("alerts:policy", args=[policy.pk]), said)
    return _policy_form(request, form, levels, groups=groups)


@require_http_methods(["GET", "POST"])
def policy_edit(request: ConsoleRequest, policy_id: int) -> HttpResponse:
    """Change a policy; when somebody else was faster, theirs is shown beside one's own."""
    policy, actor = find_policy(request, policy_id), actor_of(request)
    actor.require(actions.UPDATE_NOTIFY_POLICY, policy)
    groups = _groups(policy.project)
    stands = {row.level: policies.plan_of(row) for row in policy.levels.prefetch_related("groups")}
    plans = {level: stands.get(level, policies.DEFAULTS[level]) for level in Level.values}
    if request.method == "GET":
        form, levels = contact_forms.policy_form_of(policy), contact_forms.level_forms(groups=groups, plans=plans)
        return _policy_form(request, form, levels, groups=groups, policy=policy)
    form = contact_forms.PolicyForm(request.POST)
    levels = contact_forms.level_forms(groups=groups, data=request.POST, plans=plans)
    if _are_valid(form, levels):
        try:
            policies.update_policy(
                policy=policy, revision=form.cleaned_data["revision"] or 0, name=form.cleaned_data["name"],
                levels=[each.plan() for each in levels], by=actor, now=timezone.now(),
            )  # fmt: skip
        except Conflict:
            return _conflict(request, levels, groups=groups, policy=policy)
        except DomainError as error:
            _add_error(form, levels, error)
        else:
            said = _("Policy “%(name)s” saved.") % {"name": form.cleaned_data["name"]}
            return done(request, reverse("alerts:policy", args=[policy.pk]), said)
    return _policy_form(request, form, levels, groups=groups, policy=policy)


@require_POST
def policy_preview(request: ConsoleRequest) -> HttpResponse:
    """What the form as it stands would do, in plain words; keeps nothing."""
    # A policy of another project than the one looked at has its own groups.
    project = get_object_or_404(
        Project.objects.visible_to(request.user), pk=request.GET.get("project", request.project.pk)
    )
    actor_of(request).require(actions.LIST_NOTIFY_POLICIES, project)
    levels = contact_forms.level_forms(groups=_groups(project), data=request.POST)
    return render(request, "alerts/policy_preview.html", {"levels": _preview(levels)})


@require_http_methods(["GET", "POST"])
def policy_delete(request: ConsoleRequest, policy_id: int) -> HttpResponse:
    """Ask and delete; while rule groups use it, say which."""
    policy, actor = find_policy(request, policy_id), actor_of(request)
    actor.require(actions.DELETE_NOTIFY_POLICY, policy)
    if request.method == "POST":
        policies.delete_policy(policy=policy, by=actor, now=timezone.now())
        return done(request, reverse("alerts:policies"), _("Policy “%(name)s” deleted.") % {"name": policy.name})
    users = [{"group": group, "url": _rule_group_url(group)} for group in _users(policy)[:10]]
    count = _users(policy).count()
    context = {"policy": policy, "users": users, "count": count, **dialog_frame(request)}
    return render(request, "alerts/policy_delete.html", context)


@require_GET
def policy_test(request: ConsoleRequest, policy_id: int) -> HttpResponse:
    """Every address that the policy would write to, each with a button and its own answer."""
    policy = find_policy(request, policy_id)
    found: dict[int, tuple[ContactMethod, Contact]] = {}
    for level in reach.of_policy(policy):
        kinds = {*level.plan.kinds, *level.plan.resolved_kinds}
        for person in level.people:
            for method in person.contact.methods.all():
                if method.kind in kinds and (method.kind != MethodKind.PHONE or level.level == Level.P0):
                    found.setdefault(method.pk, (method, person.contact))
    return test_page(
        request, list(found.values()), title=_("Test policy “%(name)s”") % {"name": policy.name},
        here=reverse("alerts:policy_test", args=[policy.pk]), back=reverse("alerts:policy", args=[policy.pk]),
        resource=policy,
    )  # fmt: skip


# --- on call -------------------------------------------------------------------------------------------------------------


@require_GET
def on_call(request: ConsoleRequest) -> HttpResponse:
    """My contacts, my policies, and what would reach me by level, over all projects that I may see.

    A contact is mine when one of its e-mail addresses is my account's. Only when there is none, those that I made are
    shown: whoever sets up a team's contacts would else find all of the team here.
    """
    actor, user = actor_of(request), request.user
    rows = Contact.objects.filter(deleted_at__isnull=True, project__in=Project.objects.visible_to(user)).select_related(
        "project"
    )
    mine: list[Contact] = []
    is_by_mail = False
    if user.email:
        name, _at, domain = user.email.strip().rpartition("@")
        digest = contacts.digest_of(MethodKind.EMAIL, f"{name}@{domain.lower()}")
        mine = list(rows.filter(methods__kind=MethodKind.EMAIL, methods__address_digest=digest).distinct())
        is_by_mail = bool(mine)
    if not mine:
        mine = list(rows.filter(created_by_name=actor.name)[:PAGE_SIZE])
    may = {project: actor.can(actions.LIST_CONTACTS, project) for project in {contact.project for contact in mine}}
    mine = [contact for contact in mine if may[contact.project]]
    methods = ContactMethod.objects.filter(contact__in=mine).defer("address", "secret").order_by("pk")
    now, by_contact = timezone.now(), {contact.pk: contact for contact in mine}
    lines: dict[int, list[Any]] = {contact.pk: [] for contact in mine}
    for line in contact_presentation.lines(contact_presentation.for_lines(methods), now=now):
        lines[line.method.contact_id].append(line)
    context = {
        "contacts": [{"contact": contact, "lines": lines[contact.pk]} for contact in mine],
        "is_by_mail": is_by_mail,
        "can_create": actor.can(actions.CREATE_CONTACT, request.project),
        **_heard(by_contact, lines),
    }
    return render(request, "alerts/oncall.html", context)


def _heard(by_contact: dict[int, Contact], lines: dict[int, list[Any]]) -> dict[str, Any]:
    """Through which policies, at which levels and by which of their addresses these contacts hear."""
    groups = ContactGroup.objects.filter(contacts__in=by_contact, deleted_at__isnull=True)
    found = (
        PolicyLevel.objects.filter(groups__in=groups, policy__deleted_at__isnull=True)
        .select_related("policy__project").distinct().order_by("policy__name", "policy_id", "level")
    )  # fmt: skip
    members: dict[int, set[int]] = {}
    through = PolicyLevel.groups.through._default_manager.filter(policylevel__in=found).values_list(
        "policylevel_id", "contactgroup__contacts"
    )
    for level_id, contact_id in through.filter(contactgroup__contacts__in=by_contact):
        members.setdefault(level_id, set()).add(contact_id)
    policies_: dict[int, dict[str, Any]] = {}
    cannot: set[str] = set()
    by_level: dict[str, dict[str, Any]] = {
        level: {"level": level, "kinds": set(), "policies": 0} for level in Level.values
    }
    for row in found:
        usable = {line.method.kind for pk in members.get(row.pk, ()) for line in lines[pk] if line.method.is_usable}
        kinds = [
            kind for kind in MethodKind.values
            if kind in row.kinds and kind in usable and (kind != MethodKind.PHONE or row.level == Level.P0)
        ]  # fmt: skip
        cannot |= {kind for kind in kinds if not channels.is_set_up(kind)}
        kinds = [kind for kind in kinds if kind not in cannot]
        entry = policies_.setdefault(row.policy_id, {"policy": row.policy, "levels": dict.fromkeys(Level.values, "")})
        entry["levels"][row.level] = reach.kinds_in_words(kinds)
        if kinds:
            by_level[row.level]["kinds"] |= set(kinds)
            by_level[row.level]["policies"] += 1
    for each in by_level.values():
        each["words"] = reach.kinds_in_words([kind for kind in MethodKind.values if kind in each["kinds"]])
    used = dict(
        RuleGroup.objects.filter(policy__in=policies_, deleted_at__isnull=True)
        .values_list("policy").annotate(Count("pk")).order_by()
    )  # fmt: skip
    return {
        "policies": [
            {"policy": each["policy"], "levels": list(each["levels"].items()), "used": used.get(pk, 0)}
            for pk, each in policies_.items()
        ],
        "levels": list(by_level.values()),
        "missing": [channels.missing(kind) for kind in MethodKind.values if kind in cannot],
    }


# --- what they share -----------------------------------------------------------------------------------------------------


def find_policy(request: ConsoleRequest, policy_id: int) -> NotificationPolicy:
    """The policy, when the person may see its project (404 else) and list policies there (403 else)."""
    rows = NotificationPolicy.objects.select_related("project").filter(
        project__in=Project.objects.visible_to(request.user), deleted_at__isnull=True
    )
    policy = get_object_or_404(rows, pk=policy_id)
    request.project = policy.project
    actor_of(request).require(actions.LIST_NOTIFY_POLICIES, policy)
    return policy


def _users(policy: NotificationPolicy) -> Any:
    return RuleGroup.objects.filter(policy=policy, deleted_at__isnull=True).order_by("name", "pk")


def _groups(project: Project) -> list[ContactGroup]:
    return list(ContactGroup.objects.filter(project=project, deleted_at__isnull=True).order_by("name", "pk"))


def _are_valid(form: contact_forms.PolicyForm, levels: list[contact_forms.LevelForm]) -> bool:
    # All of them, so that everything that is wrong is said at once.
    return all([form.is_valid(), *[each.is_valid() for each in levels]])


def _add_error(form: contact_forms.PolicyForm, levels: list[contact_forms.LevelForm], error: DomainError) -> None:
    level, _dash, name = (error.field or "").partition("-")
    for each in levels:
        if each.level == level and name in each.fields:
            each.add_error(name, error.message)
            return
    add_error(form, error)


def _preview(levels: list[contact_forms.LevelForm]) -> list[reach.Reach]:
    for each in levels:
        if each.is_bound:
            each.is_valid()
        else:
            each.cleaned_data = _as_initial(each)
    plans = [each.plan() for each in levels]
    members = reach.members_of(group for plan in plans for group in plan.groups)
    return [reach.of_plan(plan, members) for plan in plans]


def _as_initial(form: contact_forms.LevelForm) -> dict[str, Any]:
    wanted = set(form.initial.get("groups", ()))
    chosen = [group for group in form.offered if group.pk in wanted]
    return {**form.initial, "groups": chosen}


def _policy_form(
    request: ConsoleRequest, form: contact_forms.PolicyForm, levels: list[contact_forms.LevelForm], *,
    groups: list[ContactGroup], policy: NotificationPolicy | None = None, **extra: Any,
) -> HttpResponse:  # fmt: skip
    actor = actor_of(request)
    context = {
        "form": form, "levels": levels, "groups": groups, "policy": policy, "preview": _preview(levels),
        "preview_url": f"{reverse('alerts:policy_preview')}?project={request.project.pk}",
        "back": reverse("alerts:policy", args=[policy.pk]) if policy else reverse("alerts:policies"),
        "can_create_group": actor.can(actions.CREATE_CONTACT_GROUP, request.project), **extra,
    }  # fmt: skip
    status = 409 if "theirs" in extra else 422 if form.is_bound else 200
    return render(request, "alerts/policy_form.html", context, status=status)


def _conflict(
    request: ConsoleRequest, levels: list[contact_forms.LevelForm], *, groups: list[ContactGroup],
    policy: NotificationPolicy,
) -> HttpResponse:  # fmt: skip
    """One's own form again, theirs in words above; saving once more now means "over theirs"."""
    current = get_object_or_404(NotificationPolicy.objects.select_related("project"), pk=policy.pk)
    data = request.POST.copy()
    data["revision"] = str(current.revision)
    form = contact_forms.PolicyForm(data)
    theirs = reach.of_policy(current)
    return _policy_form(request, form, levels, groups=groups, policy=current, theirs=theirs)


def _facts(level: reach.Reach) -> list[tuple[str, str]]:
    plan = level.plan
    return [
        (_("Groups"), _(", ").join(group.name for group in plan.groups)),
        (_("When it fires"), reach.kinds_in_words([kind for kind in MethodKind.values if kind in plan.kinds])),
        (_("When it is over"), reach.kinds_in_words([kind for kind in MethodKind.values if kind in plan.resolved_kinds])),
        (_("One message for"), str(PolicyLevel.GroupBy(plan.group_by).label)),
        (_("First message after"), reach.length(plan.wait_seconds) if plan.wait_seconds else _("at once")),
        (_("News of it at most every"), reach.length(plan.interval_seconds)),
        (_("Again every"), reach.length(plan.repeat_seconds)),
    ]  # fmt: skip


def _missing(levels: list[reach.Reach]) -> list[str]:
    """What an administrator has to set before some of the chosen kinds work."""
    kinds = {
        method.kind
        for level in levels
        for person in level.people
        for method in person.contact.methods.all()
        if method.kind in {*level.plan.kinds, *level.plan.resolved_kinds}
    }
    return [sentence for kind in MethodKind.values if kind in kinds and (sentence := channels.missing(kind))]


def _rule_group_url(group: RuleGroup) -> str:
    try:
        return reverse("alerts:rule_group", args=[group.pk])
    except NoReverseMatch:
        return ""
