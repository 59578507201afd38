"""The page of a rule of people's own: a metric or PromQL, with a look at what it would do before it is saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from alerts import actions, metrics, own_rule_forms, rule_forms, rule_services
from alerts import rule_presentation as presentation
from alerts.models import Rule, RuleGroup
from alerts.own_rule_forms import OwnRuleForm, WatchForm
from alerts.previews import Preview
from alerts.rule_services import OwnRule
from alerts.rule_views import find_group
from common import htmx
from common.errors import Conflict, DomainError, NotAllowed
from endpoints.models import Endpoint
from iam.actors import Actor, actor_of
from iam.models import Project
from iam.requests import ConsoleRequest

MAX_SERIES = 20
"""More lines than this nobody tells apart."""
MAX_TIMES = 8


@dataclass
class Place:
    """Where the rule stands: in a group that there is, or in one that is made with it (`head`)."""

    project: Project
    group: RuleGroup | None = None
    rule: Rule | None = None
    head: WatchForm | None = None
    revision: int = 0
    conflict: str = ""

    def endpoint(self) -> Endpoint | None:
        """The one that is watched; None is the whole project."""
        pk = self.group.endpoint_id if self.group else (self.head.cleaned_data["endpoint"] if self.head else "")
        return get_object_or_404(Endpoint.objects.alive().filter(project=self.project), pk=pk) if pk else None

    def is_valid(self) -> bool:
        return self.head is None or self.head.is_valid()


@require_http_methods(["GET", "POST"])
def rule_create(request: ConsoleRequest) -> HttpResponse:
    """A rule in a group of its own."""
    project = _project(request)
    actor_of(request).require(actions.CREATE_RULE_GROUP, project)
    data = request.POST if request.method == "POST" else None
    asked = request.GET.get("endpoint", "")
    if asked and not rule_forms.is_endpoint(asked, project):
        # The form would show "every endpoint" instead, which nobody asked for.
        raise Http404
    usual = {"endpoint": asked, "policy": rule_forms.usual_policy(project)}
    head = WatchForm(data, project=project, initial=usual)
    return _page(request, Place(project, head=head))


@require_http_methods(["GET", "POST"])
def rule_add(request: ConsoleRequest, pk: int) -> HttpResponse:
    """One more rule in a group of own rules."""
    return _page(request, _in_group(request, pk))


@require_http_methods(["GET", "POST"])
def rule_edit(request: ConsoleRequest, pk: int, rule_pk: int) -> HttpResponse:
    """An own rule as it is, to be changed."""
    place = _in_group(request, pk)
    assert place.group is not None
    place.rule = get_object_or_404(place.group.rules, pk=rule_pk)
    return _page(request, place)


@require_http_methods(["GET", "POST"])
def rule_remove(request: ConsoleRequest, pk: int, rule_pk: int) -> HttpResponse:
    """Take one rule out of a group that has others."""
    place = _in_group(request, pk)
    assert place.group is not None
    rule = get_object_or_404(place.group.rules, pk=rule_pk)
    error = ""
    if request.method == "POST":
        left = [rule_forms.own_rule(each) for each in place.group.rules.all() if each.pk != rule.pk]
        try:
            _update(place, left, by=actor_of(request))
        except NotAllowed:
            raise
        except DomainError as refused:
            error = refused.message
        else:
            return htmx.done(request, _address(place.group), _("%(name)s was removed.") % {"name": rule.name})
    context = {
        "group": place.group,
        "rule": rule,
        "revision": place.revision,
        "error": error,
        **htmx.dialog_frame(request),
    }
    return render(request, "alerts/rule_remove.html", context, status=422 if error else 200)


@require_POST
def rule_check(request: ConsoleRequest) -> HttpResponse:
    """What the rule as typed would do, for htmx; nothing is saved."""
    project = _project(request)
    group = request.POST.get("group", "")
    if group.isdecimal() and len(group) < 19:
        place = Place(project, find_group(request, int(group)))
    else:
        place = Place(project, head=WatchForm(request.POST, project=project))
    form = OwnRuleForm.stored(None, request.POST)
    context = _checked(form, place, by=actor_of(request)) | {"form": form, "head": place.head, "is_fragment": True}
    return render(request, "alerts/_rule_preview.html", context)


# --- the page ------------------------------------------------------------------------------------------------------------


def _project(request: ConsoleRequest) -> Project:
    """The project that the page speaks of, whatever the switcher says by now."""
    wanted = request.POST.get("project", "") or request.GET.get("project", "")
    if not wanted.isprintable():
        raise Http404
    if wanted and wanted != request.project.pk:
        request.project = get_object_or_404(Project.objects.visible_to(request.user), pk=wanted)
    return request.project


def _in_group(request: ConsoleRequest, pk: int) -> Place:
    group = find_group(request, pk, actions.UPDATE_RULE_GROUP)
    if group.template_id:
        raise Http404
    revision = request.POST.get("revision", str(group.revision))
    return Place(group.project, group, revision=int(revision) if revision.isdecimal() and len(revision) < 10 else -1)


def _page(request: ConsoleRequest, place: Place) -> HttpResponse:
    by = actor_of(request)
    form = OwnRuleForm.stored(place.rule, request.POST if request.method == "POST" else None)
    context: dict[str, Any] = {}
    if request.method == "POST" and "check" in request.POST:
        context = _checked(form, place, by=by)
    elif request.method == "POST" and all([place.is_valid(), form.is_valid()]):
        try:
            saved = _save(form, place, by=by)
        except NotAllowed:
            raise
        except Conflict as error:
            place.conflict = error.message
        except DomainError as error:
            form.show(error)
        else:
            words = {"name": form.cleaned_data["name"]}
            said = _("%(name)s was saved.") if place.rule else _("%(name)s was created.")
            return htmx.done(request, _address(saved), said % words)
    context |= {
        "place": place,
        "group": place.group,
        "rule": place.rule,
        "head": place.head,
        "form": form,
        "filter_choices": own_rule_forms.choices_of_filters(),
        "of_metrics": own_rule_forms.of_metrics(),
        "completion": metrics.completion(),
        "words": {"none": _("Nothing fits"), "some": _("%(n)s suggestions"), "time": _("Time")},
        "tab": "rules",
    }
    has_failed = request.method == "POST" and "check" not in request.POST
    return render(request, "alerts/rule_form.html", context, status=422 if has_failed else 200)


def _address(group: RuleGroup) -> str:
    return reverse("alerts:rule_group", args=[group.pk])


def _save(form: OwnRuleForm, place: Place, *, by: Actor) -> RuleGroup:
    wanted = form.own_rule(place.rule)
    if place.group is None:
        assert place.head is not None
        return rule_services.create_own_group(
            project=place.project, endpoint=place.endpoint(), name=wanted.name, rules=[wanted],
            policy=place.head.cleaned_data["policy"], by=by, now=timezone.now(),
        )  # fmt: skip
    others = list(place.group.rules.all())
    rules = [wanted if place.rule and each.pk == place.rule.pk else rule_forms.own_rule(each) for each in others]
    return _update(place, rules if place.rule else [*rules, wanted], by=by)


def _update(place: Place, rules: list[OwnRule], *, by: Actor) -> RuleGroup:
    assert place.group is not None
    return rule_services.update_own_group(
        group=place.group, revision=place.revision, name=place.group.name, rules=rules, policy=place.group.policy, by=by,
        now=timezone.now(),
    )  # fmt: skip


# --- what it would do ------------------------------------------------------------------------------------------------------


def _checked(form: OwnRuleForm, place: Place, *, by: Actor) -> dict[str, Any]:
    """The preview, or what is wrong at the form's fields; a name is not needed for it."""
    form.fields["name"].required = False
    if not all([place.is_valid(), form.is_valid()]):
        return {"is_wrong": True}
    endpoint = place.endpoint()
    try:
        preview = rule_services.preview(
            expression=form.expression(), comparator=form.cleaned_data["comparator"], levels=form.levels(),
            project=place.project, endpoint_id=endpoint.pk if endpoint else "", unit=form.cleaned_data["unit"], by=by,
            now=timezone.now(),
        )  # fmt: skip
    except NotAllowed:
        raise
    except DomainError as error:
        form.show(error)
        return {"is_wrong": True}
    return {
        "preview": preview,
        "fired": [presentation.fired(span) for span in sorted(preview.fired, key=lambda span: -span.start)[:MAX_TIMES]],
        "fired_count": len(preview.fired),
        "chart": _chart(preview),
        "more_series": max(0, len(preview.series) - MAX_SERIES),
    }


def _chart(preview: Preview) -> dict[str, Any] | None:
    if not preview.series:
        return None
    return {
        "time": list(preview.times),
        "series": [
            {
                "label": ", ".join(f"{name}={value}" for name, value in sorted(each.labels.items())),
                "values": each.values,
            }
            for each in preview.series[:MAX_SERIES]
        ],
        "thresholds": [{"level": level.level, "value": level.threshold} for level in preview.levels],
        "fired": [[span.start, span.end] for span in preview.fired],
        "unit": preview.unit,
        "zone": str(timezone.get_current_timezone_name()),
    }
