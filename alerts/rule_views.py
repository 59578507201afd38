"""The pages of rules: the default ones of an endpoint in one press, the list, and one group with all that is done to it."""

from __future__ import annotations

import re
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from alerts import actions, rule_forms, rule_services, sync, templates
from alerts import rule_presentation as presentation
from alerts.models import AlertEvent, Rule, RuleGroup, SyncState
from alerts.rule_forms import GroupForm, PolicyForm, TemplateRuleForm
from alerts.rule_services import AlreadyThere
from common import htmx
from common.errors import Conflict, DomainError, NotAllowed
from common.paging import paginate
from endpoints import views as endpoint_views
from endpoints.models import Endpoint
from iam.actors import Actor, actor_of
from iam.holders import holders
from iam.models import Project
from iam.requests import ConsoleRequest
from monitoring import services as monitoring_services

PAGE_SIZE = 50
ORDER = ("-created_at", "-id")
MAX_CHOICES = 1_000
"""Endpoints of a select."""


# --- the default rules of an endpoint ------------------------------------------------------------------------------------


@require_http_methods(["GET", "POST"])
def endpoint_rules(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """What watches the endpoint already, and its default rules, ready to be made by one press."""
    endpoint, by = endpoint_views.find_endpoint(request, endpoint_id), actor_of(request)
    if request.method == "POST":
        by.require(actions.CREATE_RULE_GROUP, endpoint)
    filled = rule_services.prefilled(endpoint)
    data = request.POST if request.method == "POST" else None
    head = PolicyForm(data, project=endpoint.project, initial={"policy": rule_forms.usual_policy(endpoint.project)})
    rules = {
        each.item.id: TemplateRuleForm(
            data, prefix=each.item.id, levels=each.item.levels, name=str(each.item.name), initial={"is_enabled": True}
        )
        for each in filled
    }
    if request.method == "POST" and rule_forms.are_valid([head, *rules.values()]):
        try:
            made = rule_services.create_group_from_template(
                endpoint=endpoint, changes=rule_forms.changes_of(rules), policy=head.cleaned_data["policy"], by=by,
                now=timezone.now(),
            )  # fmt: skip
        except NotAllowed:
            raise
        except AlreadyThere:
            pass  # the page says so, with the way to them
        except DomainError as error:
            rule_forms.refuse(head, rules, error.message, error.field)
        else:
            return htmx.done(
                request, _page_of(made), _("The default rules of %(name)s were created.") % {"name": endpoint.name}
            )
    context = _drawer(endpoint, by) | {
        "form": head,
        "lines": [presentation.filled_line(each, rules[each.item.id]) for each in filled],
        **htmx.dialog_frame(request),
    }
    return render(request, "alerts/rules_endpoint.html", context, status=422 if request.method == "POST" else 200)


def _drawer(endpoint: Endpoint, by: Actor) -> dict[str, Any]:
    may_create, may_list = (
        by.can(actions.CREATE_RULE_GROUP, endpoint),
        by.can(actions.LIST_RULE_GROUPS, endpoint.project),
    )
    covering = list(rule_services.covering(endpoint))
    template_id = templates.CURRENT.id
    own = [group for group in covering if group.endpoint_id == endpoint.pk and group.template_id == template_id]
    return {
        "endpoint": endpoint,
        "existing": own[0] if own else None,
        "covering": presentation.group_rows(covering) if may_list else [],
        "may_list": may_list,
        "may_create": may_create,
        "needed": actions.CREATE_RULE_GROUP,
        "holders": None if may_create else holders(actions.CREATE_RULE_GROUP, endpoint.project),
        "is_monitored": monitoring_services.state_of(endpoint.project).is_open,
    }


def _page_of(group: RuleGroup) -> str:
    return reverse("alerts:rule_group", args=[group.pk])


# --- the list ------------------------------------------------------------------------------------------------------------


KINDS = ("template", "own")
OFF = "off"


@require_GET
def rules(request: ConsoleRequest) -> HttpResponse:
    """The rule groups of the current project; the rows alone for htmx when it filters or pages."""
    by, project = actor_of(request), request.project
    by.require(actions.LIST_RULE_GROUPS, project)
    chosen = {name: _word(request.GET.get(name, "")) for name in ("endpoint", "state", "kind")}
    page = paginate(_listed(request, chosen), order=ORDER, cursor=request.GET.get("cursor", ""), size=PAGE_SIZE)
    context = {
        "page": page,
        "rows": presentation.group_rows(page.rows),
        "is_filtered": any(chosen.values()),
        "chosen": chosen,
        "may_create": by.can(actions.CREATE_RULE_GROUP, project),
        "is_to_be_downloaded": sync.is_to_be_downloaded(),
        "removal": sync.removal(files) if (files := sync.to_remove(project_id=project.pk)) else "",
        "tab": "rules",
    }
    if request.htmx.target == "rule-list":
        return _part(render(request, "alerts/_rules.html", context))
    context["selects"] = _selects(request, chosen)
    return _part(render(request, "alerts/rules.html", context))


def _word(text: str) -> str:
    """What may be an id or a choice; nothing else reaches the database."""
    return text if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) else ""


def _listed(request: ConsoleRequest, chosen: dict[str, str]) -> QuerySet[RuleGroup]:
    groups = RuleGroup.objects.filter(project=request.project, deleted_at__isnull=True)
    if chosen["endpoint"]:
        groups = groups.filter(endpoint_id="" if chosen["endpoint"] == "-" else chosen["endpoint"])
    if chosen["state"] == OFF:
        groups = groups.filter(is_enabled=False)
    elif chosen["state"] in SyncState.values:
        groups = groups.filter(sync_state=chosen["state"])
    if chosen["kind"] in KINDS:
        is_own = Q(template_id="")
        groups = groups.filter(is_own if chosen["kind"] == "own" else ~is_own)
    return groups.select_related("policy").prefetch_related("rules")


def _selects(request: ConsoleRequest, chosen: dict[str, str]) -> list[dict[str, Any]]:
    endpoints = (
        Endpoint.objects.alive().filter(project=request.project).order_by("name", "pk").values_list("pk", "name")
    )
    return [
        {
            "name": "endpoint", "label": _("Endpoint"), "all": _("All endpoints"), "chosen": chosen["endpoint"],
            "options": [("-", _("Whole project")), *endpoints[:MAX_CHOICES]],
        },
        {
            "name": "state", "label": _("State"), "all": _("All states"), "chosen": chosen["state"],
            "options": [*SyncState.choices, (OFF, _("Off"))],
        },
        {
            "name": "kind", "label": _("Kind"), "all": _("All kinds"), "chosen": chosen["kind"],
            "options": [("template", _("Default rules")), ("own", _("Own rules"))],
        },
    ]  # fmt: skip


def _part(response: HttpResponse) -> HttpResponse:
    """Tell caches that this address also answers with a part of the page."""
    patch_vary_headers(response, ["HX-Request", "HX-Target"])
    return response


# --- one group -------------------------------------------------------------------------------------------------------------


def find_group(request: ConsoleRequest, pk: int, action: str = actions.LIST_RULE_GROUPS) -> RuleGroup:
    """The group, when the person may see its project (404 else) and may do `action` (403 else)."""
    visible = RuleGroup.objects.filter(deleted_at__isnull=True, project__in=Project.objects.visible_to(request.user))
    group = get_object_or_404(visible.select_related("policy", "project").prefetch_related("rules"), pk=pk)
    request.project = group.project
    actor_of(request).require(action, group)
    return group


@require_GET
def rule_group(request: ConsoleRequest, pk: int) -> HttpResponse:
    """One group: what it watches, who is told, its rules and how they stand."""
    group = find_group(request, pk)
    return render(request, "alerts/rule_group.html", _group_context(request, group))


@require_GET
@never_cache
def rule_group_now(request: ConsoleRequest, pk: int) -> HttpResponse:
    """What of the page moves by itself; 204 while it is as the page has it."""
    group = find_group(request, pk)
    if not request.htmx:
        return redirect(_page_of(group))
    context = _group_context(request, group)
    if request.GET.get("seen") == context["seen"]:
        return HttpResponse(status=204)
    return render(request, "alerts/_rule_group.html", context)


def _group_context(request: ConsoleRequest, group: RuleGroup) -> dict[str, Any]:
    by = actor_of(request)
    rows = presentation.rule_rows(group)
    endpoint = Endpoint.objects.alive().filter(pk=group.endpoint_id).first() if group.endpoint_id else None
    return {
        "group": group,
        "endpoint": endpoint,
        "rows": rows,
        "state": presentation.state_of(group),
        "seen": presentation.seen(group, rows),
        "may_update": by.can(actions.UPDATE_RULE_GROUP, group),
        "may_delete": by.can(actions.DELETE_RULE_GROUP, group),
        "may_upgrade": by.can(actions.UPGRADE_RULE_GROUPS, group),
        "is_upgradable": rule_services.is_upgradable(group) and (endpoint is not None or not group.endpoint_id),
        "is_to_be_downloaded": sync.is_to_be_downloaded(),
        "tab": "rules",
    }


@require_http_methods(["GET", "POST"])
def rule_group_edit(request: ConsoleRequest, pk: int) -> HttpResponse:
    """Name, policy and thresholds of a group of default rules; of own rules the name and the policy."""
    group, by = find_group(request, pk, actions.UPDATE_RULE_GROUP), actor_of(request)
    data = request.POST if request.method == "POST" else None
    head = GroupForm(data, project=group.project, initial={"name": group.name, "policy": group.policy_id})
    stored = list(group.rules.all()) if group.template_id else []
    edited = {rule.key: _rule_form(rule, group, data) for rule in stored}
    revision = _revision(request.POST.get("revision", "")) if request.method == "POST" else group.revision
    conflict = ""
    if request.method == "POST" and rule_forms.are_valid([head, *edited.values()]):
        try:
            _save_group(group, head, edited, revision=revision, by=by)
        except NotAllowed:
            raise
        except Conflict as error:
            conflict = error.message
        except DomainError as error:
            rule_forms.refuse(head, edited, error.message, error.field)
        else:
            return htmx.done(request, _page_of(group), _("%(name)s was changed.") % {"name": head.cleaned_data["name"]})
    context = {
        "group": group,
        "form": head,
        "lines": [presentation.stored_line(rule, group, edited[rule.key]) for rule in stored],
        "revision": revision,
        "conflict": conflict,
        **htmx.dialog_frame(request),
    }
    return render(request, "alerts/rule_group_edit.html", context, status=422 if request.method == "POST" else 200)


def _rule_form(rule: Rule, group: RuleGroup, data: Any) -> TemplateRuleForm:
    return TemplateRuleForm(
        data, prefix=rule.key, levels=presentation.levels_of(rule), name=presentation.rule_name(rule, group),
        initial={"is_enabled": rule.is_enabled},
    )  # fmt: skip


def _revision(text: str) -> int:
    # A revision that was never ours is one that somebody else has moved past.
    return int(text) if text.isdecimal() and len(text) < 10 else -1


def _save_group(
    group: RuleGroup, head: GroupForm, edited: dict[str, TemplateRuleForm], *, revision: int, by: Actor
) -> None:
    name, policy, now = head.cleaned_data["name"], head.cleaned_data["policy"], timezone.now()
    if group.template_id:
        rule_services.update_template_group(
            group=group, revision=revision, changes=rule_forms.changes_of(edited), policy=policy, name=name, by=by,
            now=now,
        )  # fmt: skip
    else:
        own = [rule_forms.own_rule(rule) for rule in group.rules.all()]
        rule_services.update_own_group(
            group=group, revision=revision, name=name, rules=own, policy=policy, by=by, now=now
        )


@require_POST
def rule_group_switch(request: ConsoleRequest, pk: int) -> HttpResponse:
    """Have a group evaluated, or not."""
    group = find_group(request, pk, actions.UPDATE_RULE_GROUP)
    is_enabled = request.POST.get("is_enabled") == "1"
    group = rule_services.set_enabled(group=group, is_enabled=is_enabled, by=actor_of(request), now=timezone.now())
    message = _("%(name)s is on.") if is_enabled else _("%(name)s is off: none of its rules is evaluated.")
    return htmx.done(request, _page_of(group), message % {"name": group.name})


@require_POST
def rule_switch(request: ConsoleRequest, pk: int, rule_pk: int) -> HttpResponse:
    """Have one rule evaluated, or not; htmx gets the rules as they are now."""
    group = find_group(request, pk, actions.UPDATE_RULE_GROUP)
    rule = get_object_or_404(group.rules.select_related("group__project"), pk=rule_pk)
    is_enabled = request.POST.get("is_enabled") == "1"
    rule_services.set_rule_enabled(rule=rule, is_enabled=is_enabled, by=actor_of(request), now=timezone.now())
    name = presentation.rule_name(rule, group)
    message = (_("%(name)s is on.") if is_enabled else _("%(name)s is off.")) % {"name": name}
    if not request.htmx:
        return htmx.done(request, _page_of(group), message)
    context = _group_context(request, find_group(request, pk))
    return htmx.announce(render(request, "alerts/_rule_group.html", context), message)


@require_http_methods(["GET", "POST"])
def rule_group_upgrade(request: ConsoleRequest, pk: int) -> HttpResponse:
    """What the newest version of the template changes, then the upgrade."""
    group, by = find_group(request, pk, actions.UPGRADE_RULE_GROUPS), actor_of(request)
    error = ""
    if request.method == "POST":
        try:
            rule_services.upgrade_groups(groups=[group], by=by, now=timezone.now())
        except NotAllowed:
            raise
        except DomainError as refused:
            error = refused.message
        else:
            return htmx.done(request, _page_of(group), _("%(name)s was upgraded.") % {"name": group.name})
    newest = templates.newest(group.template_id) if group.template_id else None
    context = {
        "group": group,
        "newest": newest if newest and newest.version > group.template_version else None,
        "changes": [] if error else presentation.changes(rule_services.upgrade_preview(group)),
        "error": error,
        **htmx.dialog_frame(request),
    }
    return render(request, "alerts/rule_group_upgrade.html", context, status=422 if error else 200)


@require_http_methods(["GET", "POST"])
def rule_group_delete(request: ConsoleRequest, pk: int) -> HttpResponse:
    """What deleting means, then the deletion."""
    group, by = find_group(request, pk, actions.DELETE_RULE_GROUP), actor_of(request)
    if request.method == "POST":
        rule_services.delete_group(group=group, by=by, now=timezone.now())
        return htmx.done(request, reverse("alerts:rules"), _("%(name)s was deleted.") % {"name": group.name})
    context = {
        "group": group,
        "firing": AlertEvent.objects.open().filter(rule__group=group).count(),
        "removal": sync.removal([sync.file_of(group)]) if sync.is_to_be_downloaded() else "",
        **htmx.dialog_frame(request),
    }
    return render(request, "alerts/rule_group_delete.html", context)


@require_GET
def rule_group_file(request: ConsoleRequest, pk: int) -> HttpResponse:
    """The group's file as Prometheus reads it, for one whose rules this console cannot write."""
    group = find_group(request, pk)
    try:
        name, content = sync.download(group)
    except DomainError as error:
        return htmx.done(request, _page_of(group), error.message)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return HttpResponse(content, content_type="application/json", headers=headers)


@require_GET
def rule_files(request: ConsoleRequest) -> HttpResponse:
    """The files of all groups that are on, of the current project, as one archive."""
    actor_of(request).require(actions.LIST_RULE_GROUPS, request.project)
    groups = RuleGroup.objects.filter(project=request.project, deleted_at__isnull=True, is_enabled=True)
    content = sync.bundle(groups.prefetch_related("rules"), with_operators=request.user.is_staff)
    headers = {"Content-Disposition": f'attachment; filename="alert-rules-{request.project.pk}.zip"'}
    return HttpResponse(content, content_type="application/zip", headers=headers)
