"""API keys, a person's settings, and the switches of the frame: project, language, theme."""

from __future__ import annotations

from typing import Any, Literal

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from common import preferences
from common.errors import DomainError, NotAllowed
from common.htmx import announce, dialog_frame, done, trigger
from common.paging import paginate
from iam import projects, scopes, services
from iam.actors import actor_of
from iam.forms import KeyForm, SettingsForm
from iam.keys import PREFIX, shown
from iam.models import ApiKey, Project
from iam.requests import ConsoleRequest

PAGE_SIZE = 50
_LISTS = (
    "iam:keys", "catalog:models", "endpoints:list", "alerts:events", "alerts:rules", "alerts:contacts",
    "alerts:groups", "alerts:policies", "alerts:silences",
)  # fmt: skip


# --- the switches of the frame ----------------------------------------------------------------------------------------------


@require_POST
@projects.projectless
def switch_project(request: ConsoleRequest) -> HttpResponse:
    """Look at another project. A list stays itself there; a detail page would show a thing of the project just left."""
    project = get_object_or_404(Project.objects.visible_to(request.user), pk=request.POST.get("project", ""))
    projects.switch_to(request, project)
    where = _own(request, request.POST.get("next", ""))
    is_list = where in {reverse(name) for name in _LISTS}
    return redirect(where if is_list else "/")


@login_not_required
@require_POST
def set_language(request: HttpRequest) -> HttpResponse:
    """Speak this language from now on: kept with the person, and in the browser for the sign-in page."""
    language = request.POST.get("language", "")
    response = redirect(_own(request, request.POST.get("next", "")))
    if language in dict(settings.LANGUAGES):
        user: Any = request.user
        if user.is_authenticated and user.language != language:
            services.save_settings(
                user=user, language=language, time_zone=user.time_zone, by=actor_of(request), now=timezone.now()
            )
        _set_cookie(response, settings.LANGUAGE_COOKIE_NAME, language)
    return response


@login_not_required
@require_POST
def set_theme(request: HttpRequest) -> HttpResponse:
    """Light, dark, or as the system says; kept in the browser. The page's script does the same without a request."""
    response = redirect(_own(request, request.POST.get("next", "")))
    if request.POST.get("theme") in preferences.THEMES:
        _set_cookie(response, preferences.cookie_name("theme"), request.POST["theme"])
    return response


def _own(request: HttpRequest, where: str, otherwise: str = "/") -> str:
    """`where`, if it is an address of this console."""
    is_ours = url_has_allowed_host_and_scheme(
        where, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return where if where and is_ours else otherwise


def _set_cookie(response: HttpResponse, name: str, value: str) -> None:
    samesite: Literal["Lax"] = "Lax"
    response.set_cookie(
        name, value, max_age=preferences.COOKIE_AGE_SECONDS, samesite=samesite, secure=settings.SESSION_COOKIE_SECURE
    )


# --- a person's settings ------------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "POST"])
@projects.projectless
def settings_page(request: ConsoleRequest) -> HttpResponse:
    """Language, time zone, theme; the password has a page of its own."""
    user = request.user
    form = SettingsForm(
        request.POST or None,
        initial={"language": user.language, "time_zone": user.time_zone, "theme": preferences.theme_of(request)},
    )
    if request.method != "POST" or not form.is_valid():
        return render(request, "iam/settings.html", {"form": form}, status=422 if form.is_bound else 200)
    chosen = form.cleaned_data
    services.save_settings(
        user=user, language=chosen["language"], time_zone=chosen["time_zone"], by=actor_of(request), now=timezone.now()
    )
    with translation.override(chosen["language"] or translation.get_language()):
        messages.success(request, _("Settings saved."))
    response = redirect("iam:settings")
    _set_cookie(response, preferences.cookie_name("theme"), chosen["theme"])
    if chosen["language"]:
        _set_cookie(response, settings.LANGUAGE_COOKIE_NAME, chosen["language"])
    else:
        response.delete_cookie(settings.LANGUAGE_COOKIE_NAME)
    return response


# --- API keys -----------------------------------------------------------------------------------------------------------------


@require_GET
def keys(request: ConsoleRequest) -> HttpResponse:
    """The project's keys, newest first; search by name or beginning of the key, filter by state."""
    actor = actor_of(request)
    actor.require(services.LIST_KEYS, request.project)
    now = timezone.now()
    text, state = request.GET.get("q", "").strip(), request.GET.get("state", "")
    if text.startswith(PREFIX) and text != shown(text):
        # A whole key was pasted: it has no place in the address, which browsers and proxies keep.
        return redirect(f"{reverse('iam:keys')}?{urlencode({'q': shown(text), 'state': state})}")
    rows = ApiKey.objects.for_list().filter(project=request.project).matching(text).in_state(state, now=now)
    page = paginate(rows, order=["-created_at", "-id"], cursor=request.GET.get("cursor", ""), size=PAGE_SIZE)
    context = {
        "page": page,
        "rows": [_row(key, now) for key in _with_names(page.rows, request.project.pk)],
        "q": text,
        "state": state,
        "is_filtered": bool(text or state),
        "can_create": actor.can(services.CREATE_KEY, request.project),
        "can_update": actor.can(services.UPDATE_KEY, request.project),
        "can_delete": actor.can(services.DELETE_KEY, request.project),
    }
    is_list_only = request.htmx and request.htmx.target == "key-list"
    response = render(request, "iam/_key_list.html" if is_list_only else "iam/keys.html", context)
    response.headers["Vary"] = "HX-Request, HX-Target, Cookie"
    return response


@never_cache
@require_http_methods(["GET", "POST"])
def key_create(request: ConsoleRequest) -> HttpResponse:
    """Make a key, for the whole project or (`?endpoint=ep-…`, `?model=…`) for one thing, and show it once."""
    actor = actor_of(request)
    actor.require(services.CREATE_KEY, request.project)
    where = request.GET.get("next") or request.POST.get("next", "")
    if request.method == "GET":
        form = KeyForm(initial=_preset(request))
        return _key_form(request, form, title=_("Create API key"), action=reverse("iam:key_create"), where=where)
    form, now = KeyForm(request.POST), timezone.now()
    if form.is_valid():
        try:
            key, secret = services.create_api_key(
                project=request.project, name=form.cleaned_data["name"], scopes=form.pairs(), now=now, by=actor,
                allowed_ips=form.cleaned_data["allowed_ips"], expires_at=form.expires(now),
            )  # fmt: skip
        except DomainError as error:
            _add_error(form, error)
        else:
            context = {
                "key": key,
                "secret": secret,
                "next": _own(request, where, reverse("iam:keys")),
                **dialog_frame(request),
            }
            return trigger(render(request, "iam/key_created.html", context), "keysChanged")
    return _key_form(
        request, form, title=_("Create API key"), action=reverse("iam:key_create"), where=where, status=422
    )


@never_cache
@require_http_methods(["GET", "POST"])
def key_edit(request: ConsoleRequest, key_id: int) -> HttpResponse:
    """Change a key's name, scope, addresses and expiry."""
    key, actor = _key(request, key_id), actor_of(request)
    actor.require(services.UPDATE_KEY, key)
    action = reverse("iam:key_edit", args=[key.pk])
    if request.method == "GET":
        return _key_form(request, KeyForm.of(key), title=_("Edit API key"), action=action, key=key)
    form, now = KeyForm(request.POST), timezone.now()
    if form.is_valid():
        try:
            services.update_api_key(
                key=key, name=form.cleaned_data["name"], scopes=form.pairs(), now=now, by=actor,
                allowed_ips=form.cleaned_data["allowed_ips"], expires_at=form.expires(now),
            )  # fmt: skip
        except DomainError as error:
            _add_error(form, error)
        else:
            return done(request, reverse("iam:keys"), _("Key “%(name)s” saved.") % {"name": key.name})
    return _key_form(request, form, title=_("Edit API key"), action=action, key=key, status=422)


@require_POST
def key_enable(request: ConsoleRequest, key_id: int) -> HttpResponse:
    """Let a key call again."""
    key = services.enable_api_key(key=_key(request, key_id), by=actor_of(request), now=timezone.now())
    return _changed(request, key, _("Key “%(name)s” may call again.") % {"name": key.name})


@require_POST
def key_disable(request: ConsoleRequest, key_id: int) -> HttpResponse:
    """Refuse a key's calls until it is enabled again."""
    key = services.disable_api_key(key=_key(request, key_id), by=actor_of(request), now=timezone.now())
    return _changed(
        request, key, _("Key “%(name)s” is disabled: its calls are refused from now on.") % {"name": key.name}
    )


@require_http_methods(["GET", "POST"])
def key_delete(request: ConsoleRequest, key_id: int) -> HttpResponse:
    """Ask, saying when the key was last used, then delete it."""
    key, actor = _key(request, key_id), actor_of(request)
    actor.require(services.DELETE_KEY, key)
    if request.method == "GET":
        return render(request, "iam/key_delete.html", {"key": key, **dialog_frame(request)})
    services.delete_api_key(key=key, by=actor, now=timezone.now())
    return done(request, reverse("iam:keys"), _("Key “%(name)s” deleted.") % {"name": key.name})


@require_GET
def scope_options(request: ConsoleRequest) -> HttpResponse:
    """The endpoints and models that match what is typed into a key's scope."""
    actor_of(request).require(services.LIST_KEYS, request.project)
    choices = scopes.catalogue().search(
        project_id=request.project.pk, text=request.GET.get("find", "").strip(), limit=scopes.SEARCH_LIMIT
    )
    return render(request, "iam/_scope_options.html", {"choices": choices, "limit": scopes.SEARCH_LIMIT})


def _key(request: ConsoleRequest, key_id: int) -> ApiKey:
    visible = Project.objects.visible_to(request.user)
    key = get_object_or_404(ApiKey.objects.for_list().select_related("project").filter(project__in=visible), pk=key_id)
    actor_of(request).require(services.LIST_KEYS, key)
    request.project = key.project
    return key


def _key_form(
    request: ConsoleRequest, form: KeyForm, *, title: str, action: str, key: ApiKey | None = None, where: str = "",
    status: int = 200,
) -> HttpResponse:  # fmt: skip
    context = {
        "form": form, "title": title, "action": action, "key": key, "next": _own(request, where, reverse("iam:keys")),
        "chosen": form.chosen(request.project.pk), **dialog_frame(request),
    }  # fmt: skip
    return render(request, "iam/key_form.html", context, status=status)


def _preset(request: HttpRequest) -> dict[str, Any]:
    endpoint, model = request.GET.get("endpoint", ""), request.GET.get("model", "")
    kind = "presetendpoint" if endpoint.startswith("ep-m-") else "endpoint"
    chosen = [f"{kind}:{endpoint}"] if endpoint else [f"model:{model}"] if model else []
    return {"reach": "chosen" if chosen else "project", "scope": chosen}


def _add_error(form: KeyForm, error: DomainError) -> None:
    if isinstance(error, NotAllowed):
        raise error
    form.add_error(
        error.field if error.field in form.fields else "ids" if error.field == "scopes" else None, error.message
    )


def _changed(request: ConsoleRequest, key: ApiKey, message: str) -> HttpResponse:
    if not request.htmx:
        return done(request, reverse("iam:keys"), message)
    actor = actor_of(request)
    now = timezone.now()
    fresh = _with_names([ApiKey.objects.for_list().get(pk=key.pk)], key.project_id)[0]
    context = {
        "row": _row(fresh, now), "is_changed": True,
        "can_update": actor.can(services.UPDATE_KEY, key), "can_delete": actor.can(services.DELETE_KEY, key),
    }  # fmt: skip
    return announce(render(request, "iam/_key_row.html", context), message)


def _with_names(rows: Any, project_id: str) -> list[ApiKey]:
    """The keys, each scope with the name by which people know it (`scope.name`); one look-up for all."""
    pairs = {(scope.resource_type, scope.resource_id) for key in rows for scope in key.scopes.all()}
    names = scopes.catalogue().names(pairs, project_id=project_id) if pairs else {}
    for key in rows:
        for scope in key.scopes.all():
            scope.name = names.get((scope.resource_type, scope.resource_id), "")
    return list(rows)


def _row(key: ApiKey, now: Any) -> dict[str, Any]:
    return {"key": key, "state": key.state(now)}
