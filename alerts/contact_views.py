"""Contacts, their addresses and their groups; verifying and testing answers in place."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.db.models import Exists, OuterRef, Prefetch, Q
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import get_language, ngettext
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from alerts import actions, channels, contact_presentation, contacts, reach, verification
from alerts.contact_forms import ContactForm, GroupForm, MethodForm
from alerts.contact_presentation import Said
from alerts.models import Contact, ContactGroup, ContactMethod, MethodKind, NotificationPolicy, PolicyLevel
from common import preferences
from common.errors import DomainError, NotAllowed
from common.htmx import dialog_frame, done
from common.paging import paginate
from iam.actors import actor_of
from iam.models import Project
from iam.requests import ConsoleRequest

PAGE_SIZE = 50
MAX_TESTED = 100
"""So many addresses one press writes to."""


# --- contacts ------------------------------------------------------------------------------------------------------------


@require_GET
def contact_list(request: ConsoleRequest) -> HttpResponse:
    """The project's contacts by name, each with its addresses and how they stand."""
    actor, project = actor_of(request), request.project
    actor.require(actions.LIST_CONTACTS, project)
    text, state = request.GET.get("q", "").strip().replace("\0", ""), request.GET.get("state", "")
    rows = Contact.objects.filter(project=project, deleted_at__isnull=True)
    if text:
        rows = rows.filter(Q(name__icontains=text) | Q(note__icontains=text))
    usable = Exists(ContactMethod.objects.receiving().filter(contact=OuterRef("pk")))
    ailing = (ContactMethod.State.FAILING, ContactMethod.State.DISABLED)
    if state == "unreached":
        rows = rows.filter(~usable)
    elif state == "trouble":
        rows = rows.filter(Exists(ContactMethod.objects.filter(contact=OuterRef("pk"), state__in=ailing)))
    rows = rows.prefetch_related(
        Prefetch("methods", ContactMethod.objects.defer("address", "secret")),
        Prefetch("groups", ContactGroup.objects.filter(deleted_at__isnull=True)),
    )
    page = paginate(rows, order=["name", "id"], cursor=request.GET.get("cursor", ""), size=PAGE_SIZE)
    now = timezone.now()
    context = {
        "page": page,
        "rows": [
            {"contact": row, "lines": contact_presentation.lines(row.methods.all(), now=now)} for row in page.rows
        ],
        "q": text,
        "state": state,
        "is_filtered": bool(text or state),
        "can_create": actor.can(actions.CREATE_CONTACT, project),
    }
    return _list(request, context, fragment="alerts/contacts_list.html", page="alerts/contacts.html", target="contacts")


@require_http_methods(["GET", "POST"])
def contact_create(request: ConsoleRequest) -> HttpResponse:
    """Make a contact; its page then asks for the first address."""
    actor = actor_of(request)
    actor.require(actions.CREATE_CONTACT, request.project)
    zone = request.user.time_zone or preferences.zone_of(request) or "Asia/Shanghai"
    form = ContactForm(request.POST or None, initial={"language": get_language(), "time_zone": zone})
    if request.method == "POST" and form.is_valid():
        try:
            contact = contacts.create_contact(
                project=request.project, **form.cleaned_data, by=actor, now=timezone.now()
            )
        except DomainError as error:
            add_error(form, error)
        else:
            said = _("Contact “%(name)s” created. Add an address now.") % {"name": contact.name}
            return done(request, reverse("alerts:contact", args=[contact.pk]), said)
    return _form(request, form, title=_("Create contact"), action=reverse("alerts:contact_create"),
                 back=reverse("alerts:contacts"), submit=_("Create contact"))  # fmt: skip


@require_GET
def contact_detail(request: ConsoleRequest, contact_id: int) -> HttpResponse:
    """One contact: how it is written to, its addresses, and through which groups and policies it hears."""
    contact = find_contact(request, contact_id)
    now = timezone.now()
    methods = contact_presentation.for_lines(contact.methods.defer("address", "secret").order_by("pk"))
    lines = contact_presentation.lines(methods, now=now)
    groups = list(contact.groups.filter(deleted_at__isnull=True))
    levels = (
        PolicyLevel.objects.filter(groups__in=groups, policy__deleted_at__isnull=True)
        .select_related("policy").distinct().order_by("policy__name", "level")
    )  # fmt: skip
    policies: dict[int, dict[str, Any]] = {}
    for row in levels:
        policies.setdefault(row.policy_id, {"policy": row.policy, "levels": []})["levels"].append(row.level)
    kinds = {line.method.kind for line in lines}
    context = {
        "contact": contact,
        "lines": lines,
        "groups": groups,
        "policies": list(policies.values()),
        "missing": [sentence for kind in MethodKind.values if kind in kinds and (sentence := channels.missing(kind))],
        "kinds": [(kind, label, contact_presentation.ICONS[MethodKind(kind)]) for kind, label in MethodKind.choices],
        **_may(request, contact),
    }
    return render(request, "alerts/contact.html", context)


@require_http_methods(["GET", "POST"])
def contact_edit(request: ConsoleRequest, contact_id: int) -> HttpResponse:
    """Rename a contact, or change how it is written to."""
    contact, actor = find_contact(request, contact_id), actor_of(request)
    actor.require(actions.UPDATE_CONTACT, contact)
    stands = {name: getattr(contact, name) for name in ("name", "language", "time_zone", "note")}
    form = ContactForm(request.POST or None, initial=stands)
    here = reverse("alerts:contact", args=[contact.pk])
    if request.method == "POST" and form.is_valid():
        try:
            contact = contacts.update_contact(contact=contact, **form.cleaned_data, by=actor, now=timezone.now())
        except DomainError as error:
            add_error(form, error)
        else:
            return done(request, here, _("Contact “%(name)s” saved.") % {"name": contact.name})
    return _form(request, form, title=_("Edit contact"), action=reverse("alerts:contact_edit", args=[contact.pk]),
                 back=here, submit=_("Save contact"))  # fmt: skip


@require_http_methods(["GET", "POST"])
def contact_delete(request: ConsoleRequest, contact_id: int) -> HttpResponse:
    """Ask, saying which policies then tell one less, and delete."""
    contact, actor = find_contact(request, contact_id), actor_of(request)
    actor.require(actions.DELETE_CONTACT, contact)
    if request.method == "POST":
        contacts.delete_contact(contact=contact, by=actor, now=timezone.now())
        return done(request, reverse("alerts:contacts"), _("Contact “%(name)s” deleted.") % {"name": contact.name})
    policies = NotificationPolicy.objects.filter(
        deleted_at__isnull=True, levels__groups__contacts=contact, levels__groups__deleted_at__isnull=True
    ).distinct()
    context = {
        "contact": contact,
        "methods": list(contact.methods.defer("address", "secret")),
        "policies": list(policies),
        **dialog_frame(request),
    }
    return render(request, "alerts/contact_delete.html", context)


# --- addresses -----------------------------------------------------------------------------------------------------------


@never_cache
@require_http_methods(["GET", "POST"])
def method_add(request: ConsoleRequest, contact_id: int) -> HttpResponse:
    """Give a contact an address of `?kind=`."""
    contact, actor = find_contact(request, contact_id), actor_of(request)
    actor.require(actions.UPDATE_CONTACT, contact)
    kind = request.GET.get("kind", "")
    if kind not in MethodKind.values:
        raise Http404
    form = MethodForm(request.POST or None, kind=kind)
    if request.method == "POST" and form.is_valid():
        try:
            method = contacts.add_method(
                contact=contact, kind=kind, address=form.cleaned_data["address"],
                secret=form.cleaned_data.get("secret", ""), by=actor, now=timezone.now(),
            )  # fmt: skip
        except DomainError as error:
            add_error(form, error)
        else:
            said = _("%(hint)s added. Verify it: before that nothing is sent to it.") % {"hint": method.hint}
            return done(request, reverse("alerts:contact", args=[contact.pk]), said)
    return _form(
        request, form, title=_("Add address: %(kind)s") % {"kind": MethodKind(kind).label},
        action=f"{reverse('alerts:method_add', args=[contact.pk])}?kind={kind}",
        back=reverse("alerts:contact", args=[contact.pk]), submit=_("Add address"), warning=channels.missing(kind),
    )  # fmt: skip


@never_cache
@require_http_methods(["GET", "POST"])
def method_change(request: ConsoleRequest, method_id: int) -> HttpResponse:
    """Another address or secret; either has to agree anew."""
    method, actor = find_method(request, method_id), actor_of(request)
    actor.require(actions.UPDATE_CONTACT, method.contact)
    form = MethodForm(request.POST or None, kind=method.kind, method=method)
    here = reverse("alerts:contact", args=[method.contact_id])
    if request.method == "POST" and form.is_valid():
        try:
            changed = contacts.update_method(
                method=method, address=form.cleaned_data["address"], secret=form.secret_to_keep(),
                by=actor, now=timezone.now(),
            )  # fmt: skip
        except DomainError as error:
            add_error(form, error)
        else:
            said = _("%(hint)s is as it was.") if changed.is_usable else _("%(hint)s saved. Verify it again.")
            return done(request, here, said % {"hint": changed.hint})
    warning = _("A changed address or secret has to be verified again; until then nothing is sent to it.")
    return _form(
        request, form, title=_("Change address: %(kind)s") % {"kind": method.get_kind_display()},
        action=reverse("alerts:method_change", args=[method.pk]), back=here, submit=_("Save address"), warning=warning,
    )  # fmt: skip


@require_http_methods(["GET", "POST"])
def method_remove(request: ConsoleRequest, method_id: int) -> HttpResponse:
    """Ask, then forget an address."""
    method, actor = find_method(request, method_id), actor_of(request)
    actor.require(actions.UPDATE_CONTACT, method.contact)
    if request.method == "POST":
        contacts.delete_method(method=method, by=actor, now=timezone.now())
        here = reverse("alerts:contact", args=[method.contact_id])
        return done(request, here, _("%(hint)s removed.") % {"hint": method.hint})
    return render(request, "alerts/contact_method_remove.html", {"method": method, **dialog_frame(request)})


@require_POST
def method_verify(request: ConsoleRequest, method_id: int) -> HttpResponse:
    """Ask the address to agree, and show what came of it."""
    method = find_method(request, method_id)
    try:
        answer = verification.ask(method=method, by=actor_of(request), now=timezone.now())
    except NotAllowed:
        raise
    except DomainError as error:
        return _said(request, method, contact_presentation.refused(error.message))
    return _said(request, method, contact_presentation.asked(method, answer))


@require_POST
def method_code(request: ConsoleRequest, method_id: int) -> HttpResponse:
    """Take the code that was spoken."""
    method = find_method(request, method_id)
    try:
        verification.confirm_code(
            method=method, code=request.POST.get("code", ""), by=actor_of(request), now=timezone.now()
        )
    except NotAllowed:
        raise
    except DomainError as error:
        return _said(request, method, contact_presentation.refused(error.message))
    return _said(request, method, Said(True, _("Verified.")))


@require_POST
def method_test(request: ConsoleRequest, method_id: int) -> HttpResponse:
    """Send a test message and show the answer, in the contact's row or in the list of a policy's or group's people."""
    method = find_method(request, method_id)
    try:
        answer = verification.test_send(method=method, by=actor_of(request), now=timezone.now())
    except NotAllowed:
        raise
    except DomainError as error:
        return _said(request, method, contact_presentation.refused(error.message))
    return _said(request, method, contact_presentation.tested(method, answer))


def _said(request: ConsoleRequest, method: ContactMethod, said: Said) -> HttpResponse:
    """The address' row as it is now, with what was just said; without htmx the sentence on the contact's page."""
    if not request.htmx:
        note = messages.success if said.is_ok else messages.error
        note(request, " ".join(part for part in (said.title, said.detail, said.advice) if part))
        return redirect(f"{reverse('alerts:contact', args=[method.contact_id])}#method-{method.pk}")
    rows = contact_presentation.for_lines(ContactMethod.objects.defer("address", "secret").select_related("contact"))
    fresh = get_object_or_404(rows, pk=method.pk)
    row = contact_presentation.line(fresh, now=timezone.now())
    is_test_list = str(request.htmx.target or "").startswith("test-")
    template = "alerts/contact_test_row.html" if is_test_list else "alerts/contact_method.html"
    # The note in the row is a live region: a toast would say it twice.
    context = {"line": row, "said": said, "contact": fresh.contact, **_may(request, fresh.contact)}
    return render(request, template, context)


# --- groups --------------------------------------------------------------------------------------------------------------


@require_GET
def group_list(request: ConsoleRequest) -> HttpResponse:
    """The project's groups by name: who is in them, who of these is reached, and which policies name them."""
    actor, project = actor_of(request), request.project
    actor.require(actions.LIST_CONTACT_GROUPS, project)
    text = request.GET.get("q", "").strip().replace("\0", "")
    rows = reach.with_people(ContactGroup.objects.filter(project=project)).prefetch_related(
        Prefetch("policy_levels", PolicyLevel.objects.filter(policy__deleted_at__isnull=True).select_related("policy"))
    )
    if text:
        rows = rows.filter(name__icontains=text)
    page = paginate(rows, order=["name", "id"], cursor=request.GET.get("cursor", ""), size=PAGE_SIZE)
    context = {
        "page": page,
        "rows": [_group_row(group) for group in page.rows],
        "q": text,
        "is_filtered": bool(text),
        "has_contacts": bool(page.rows) or Contact.objects.filter(project=project, deleted_at__isnull=True).exists(),
        "can_create": actor.can(actions.CREATE_CONTACT_GROUP, project),
        "can_create_contact": actor.can(actions.CREATE_CONTACT, project),
        "can_update": actor.can(actions.UPDATE_CONTACT_GROUP, project),
        "can_delete": actor.can(actions.DELETE_CONTACT_GROUP, project),
        "can_send": actor.can(actions.SEND_VALIDATION_MESSAGE, project),
    }
    return _list(request, context, fragment="alerts/groups_list.html", page="alerts/groups.html", target="groups")


def _group_row(group: ContactGroup) -> dict[str, Any]:
    people = list(group.contacts.all())
    unreached = [contact for contact in people if not any(method.is_usable for method in contact.methods.all())]
    named = {level.policy_id: level.policy for level in group.policy_levels.all()}
    return {
        "group": group, "people": people[:3], "more": max(0, len(people) - 3), "count": len(people),
        "unreached": unreached, "policies": sorted(named.values(), key=str),
    }  # fmt: skip


@require_http_methods(["GET", "POST"])
def group_create(request: ConsoleRequest) -> HttpResponse:
    """Put contacts together."""
    actor = actor_of(request)
    actor.require(actions.CREATE_CONTACT_GROUP, request.project)
    form = GroupForm(request.POST or None, project=request.project)
    if request.method == "POST" and form.is_valid():
        try:
            group = contacts.create_group(project=request.project, **form.cleaned_data, by=actor, now=timezone.now())
        except DomainError as error:
            add_error(form, error)
        else:
            return done(request, reverse("alerts:groups"), _("Group “%(name)s” created.") % {"name": group.name})
    return _group_form(request, form, title=_("Create contact group"), action=reverse("alerts:group_create"),
                       submit=_("Create group"))  # fmt: skip


@require_http_methods(["GET", "POST"])
def group_edit(request: ConsoleRequest, group_id: int) -> HttpResponse:
    """Rename a group, or change who is in it."""
    group, actor = find_group(request, group_id), actor_of(request)
    actor.require(actions.UPDATE_CONTACT_GROUP, group)
    stands = {"name": group.name, "contacts": list(group.contacts.values_list("pk", flat=True))}
    form = GroupForm(request.POST or None, project=group.project, initial=stands)
    if request.method == "POST" and form.is_valid():
        try:
            contacts.update_group(group=group, **form.cleaned_data, by=actor, now=timezone.now())
        except DomainError as error:
            add_error(form, error)
        else:
            said = _("Group “%(name)s” saved.") % {"name": form.cleaned_data["name"]}
            return done(request, reverse("alerts:groups"), said)
    return _group_form(request, form, title=_("Edit contact group"),
                       action=reverse("alerts:group_edit", args=[group.pk]), submit=_("Save group"))  # fmt: skip


@require_http_methods(["GET", "POST"])
def group_delete(request: ConsoleRequest, group_id: int) -> HttpResponse:
    """Ask and delete; while policies name it, say which."""
    group, actor = find_group(request, group_id), actor_of(request)
    actor.require(actions.DELETE_CONTACT_GROUP, group)
    if request.method == "POST":
        contacts.delete_group(group=group, by=actor, now=timezone.now())
        return done(request, reverse("alerts:groups"), _("Group “%(name)s” deleted.") % {"name": group.name})
    named = NotificationPolicy.objects.filter(levels__groups=group, deleted_at__isnull=True).distinct()
    context = {"group": group, "policies": list(named), **dialog_frame(request)}
    return render(request, "alerts/groups_delete.html", context)


@require_GET
def group_test(request: ConsoleRequest, group_id: int) -> HttpResponse:
    """Everybody of a group with a button for a test message each; `?all=1` (htmx) sends to all."""
    group = find_group(request, group_id)
    members = reach.members_of([group])[group.pk]
    methods = [(method, contact) for contact in members for method in contact.methods.all()]
    return test_page(
        request, methods, title=_("Test group “%(name)s”") % {"name": group.name},
        here=reverse("alerts:group_test", args=[group.pk]), back=reverse("alerts:groups"), resource=group,
    )  # fmt: skip


def test_page(
    request: ConsoleRequest, methods: list[tuple[ContactMethod, Contact]], *, title: str, here: str, back: str,
    resource: Any,
) -> HttpResponse:  # fmt: skip
    """A dialog with a row for each address; each row sends by itself and shows its own answer."""
    actor_of(request).require(actions.SEND_VALIDATION_MESSAGE, resource)
    now = timezone.now()
    left_out, methods = max(0, len(methods) - MAX_TESTED), methods[:MAX_TESTED]
    lines = [contact_presentation.line(method, now=now) for method, _contact in methods]
    rows = [{"line": line, "contact": contact} for line, (_method, contact) in zip(lines, methods, strict=True)]
    usable = [line for line in lines if line.can_test]
    phones = sum(line.method.kind == MethodKind.PHONE for line in usable)
    warning = ngettext("%(n)d phone will ring.", "%(n)d phones will ring.", phones) % {"n": phones} if phones else ""
    context = {
        "rows": rows, "usable": len(usable), "title": title, "here": here, "back": back, "warning": warning, "left_out": left_out,
        # Never from an address alone: a page elsewhere could lead a person here, and every row would send.
        "is_sending": bool(request.htmx) and request.GET.get("all") == "1",
        "can_send": True, **dialog_frame(request),
    }  # fmt: skip
    return render(request, "alerts/contact_test.html", context)


# --- what they share -----------------------------------------------------------------------------------------------------


def find_contact(request: ConsoleRequest, contact_id: int) -> Contact:
    """The contact, when the person may see its project (404 else) and list contacts there (403 else)."""
    rows = Contact.objects.select_related("project").filter(
        project__in=Project.objects.visible_to(request.user), deleted_at__isnull=True
    )
    contact = get_object_or_404(rows, pk=contact_id)
    request.project = contact.project
    actor_of(request).require(actions.LIST_CONTACTS, contact)
    return contact


def find_method(request: ConsoleRequest, method_id: int) -> ContactMethod:
    rows = ContactMethod.objects.select_related("contact__project").filter(
        contact__project__in=Project.objects.visible_to(request.user), contact__deleted_at__isnull=True
    )
    method = get_object_or_404(rows, pk=method_id)
    request.project = method.contact.project
    actor_of(request).require(actions.LIST_CONTACTS, method.contact)
    return method


def find_group(request: ConsoleRequest, group_id: int) -> ContactGroup:
    rows = ContactGroup.objects.select_related("project").filter(
        project__in=Project.objects.visible_to(request.user), deleted_at__isnull=True
    )
    group = get_object_or_404(rows, pk=group_id)
    request.project = group.project
    actor_of(request).require(actions.LIST_CONTACT_GROUPS, group)
    return group


def add_error(form: forms.Form, error: DomainError) -> None:
    """The service's refusal beside the field at fault; a missing permission is no matter of the form."""
    if isinstance(error, NotAllowed):
        raise error
    form.add_error(error.field if error.field in form.fields else None, error.message)


def _may(request: ConsoleRequest, contact: Contact) -> dict[str, bool]:
    actor = actor_of(request)
    return {
        "can_update": actor.can(actions.UPDATE_CONTACT, contact),
        "can_delete": actor.can(actions.DELETE_CONTACT, contact),
        "can_send": actor.can(actions.SEND_VALIDATION_MESSAGE, contact),
    }


def _form(
    request: ConsoleRequest, form: forms.Form, *, title: str, action: str, back: str, submit: str, warning: str = ""
) -> HttpResponse:
    context = {
        "form": form, "title": title, "action": action, "back": back, "submit": submit, "warning": warning,
        **dialog_frame(request),
    }  # fmt: skip
    return render(request, "alerts/contact_form.html", context, status=422 if form.is_bound else 200)


def _group_form(request: ConsoleRequest, form: GroupForm, *, title: str, action: str, submit: str) -> HttpResponse:
    context = {
        "form": form, "title": title, "action": action, "back": reverse("alerts:groups"), "submit": submit,
        **dialog_frame(request),
    }  # fmt: skip
    return render(request, "alerts/groups_form.html", context, status=422 if form.is_bound else 200)


def _list(request: ConsoleRequest, context: dict[str, Any], *, fragment: str, page: str, target: str) -> HttpResponse:
    is_list_only = request.htmx and request.htmx.target == target
    response = render(request, fragment if is_list_only else page, context)
    response.headers["Vary"] = "HX-Request, HX-Target, Cookie"
    return response
