"""The administrator's way from "my vLLM at this URL" to a model that members can use: one form, a test, a choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods, require_POST

from catalog import probing, services
from catalog.forms import PriceListForm, PublishForm, ServerForm, TierFormSet, add_domain_error, tier_rows
from catalog.models import Deployment, ModelServer, ModelVersion
from catalog.publishing import propose
from common.errors import DomainError, NotAllowed
from iam.actors import actor_of
from iam.requests import ConsoleRequest

MAX_PICKS = 20


def _server(server_id: str | None) -> ModelServer | None:
    return None if server_id is None else get_object_or_404(ModelServer, pk=_number(server_id))


def _number(text: str) -> int:
    # Django's admin passes ids as it finds them in the address.
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else 0


@require_http_methods(["GET", "POST"])
def server_form(request: ConsoleRequest, server_id: str | None) -> HttpResponse:
    """Add or change a model server; the button decides where it goes on."""
    actor = actor_of(request)
    actor.require("ark:CreateModelServer" if server_id is None else "ark:UpdateModelServer", services.CATALOGUE)
    server = _server(server_id)
    form = ServerForm(request.POST or None, server=server)
    if request.method == "POST" and form.is_valid():
        now = timezone.now()
        try:
            if server is None:
                saved = services.add_server(settings=form.settings(), by=actor, now=now)
            else:
                saved = services.update_server(server=server, settings=form.settings(), by=actor, now=now)
        except NotAllowed:
            raise
        except DomainError as error:
            add_domain_error(form, error)
        else:
            messages.success(request, _("Saved the model server %(name)s.") % {"name": saved.name})
            if "publish" in request.POST:
                return redirect("admin:catalog_modelserver_publish", saved.pk)
            return redirect("admin:catalog_modelserver_changelist")
    return _render_server_form(request, form, server)


@require_POST
def test_connection(request: ConsoleRequest, server_id: str | None) -> HttpResponse:
    """What a server answers, before anything is saved: htmx gets the result alone, a plain browser the form with it."""
    actor_of(request).require("ark:TestModelServer", services.CATALOGUE)
    server = _server(server_id)
    form = ServerForm(request.POST, server=server)
    inspection: probing.Inspection | None = None
    if form.is_valid():
        try:
            inspection = _inspect(request, form, server)
        except NotAllowed:
            raise
        except DomainError as error:
            add_domain_error(form, error)
    if request.htmx:
        return render(request, "admin/catalog/_inspection.html", {"inspection": inspection, "form": form})
    return _render_server_form(request, form, server, inspection=inspection)


def _inspect(request: ConsoleRequest, form: ServerForm, server: ModelServer | None) -> probing.Inspection:
    settings, by = form.settings(), actor_of(request)
    paid_model = ""
    if form.cleaned_data["pays"]:
        paid_model = form.cleaned_data["paid_model"].strip()
        if not paid_model:
            free = services.test_connection(settings=settings, server=server, paid_model="", by=by, now=timezone.now())
            chat = [model.id for model in free.models if "embed" not in model.id.lower()]
            if not chat:
                return free
            paid_model = chat[0]
    return services.test_connection(settings=settings, server=server, paid_model=paid_model, by=by, now=timezone.now())


def _render_server_form(
    request: HttpRequest,
    form: ServerForm,
    server: ModelServer | None,
    *,
    inspection: probing.Inspection | None = None,
) -> HttpResponse:
    if server is None:
        test_url = reverse("admin:catalog_modelserver_test_new")
    else:
        test_url = reverse("admin:catalog_modelserver_test", args=[server.pk])
    context = {
        "form": form,
        "server": server,
        "inspection": inspection,
        "test_url": test_url,
        "deployments": server.deployments.select_related("version__model").order_by("version__model__name")
        if server
        else [],
    }
    return render(request, "admin/catalog/server_form.html", context, status=422 if form.errors else 200)


@require_POST
def delete_server(request: ConsoleRequest, server_id: str) -> HttpResponse:
    """Remove a server that nothing is deployed on."""
    actor = actor_of(request)
    actor.require("ark:DeleteModelServer", services.CATALOGUE)
    server = get_object_or_404(ModelServer, pk=_number(server_id))
    try:
        services.delete_server(server=server, by=actor, now=timezone.now())
    except NotAllowed:
        raise
    except DomainError as error:
        messages.error(request, error.message)
        return redirect("admin:catalog_modelserver_change", server.pk)
    messages.success(request, _("Removed the model server %(name)s.") % {"name": server.name})
    return redirect("admin:catalog_modelserver_changelist")


@dataclass(frozen=True)
class Offer:
    """A model of the server's own list, and the versions that it is published as already."""

    listed: probing.ListedModel
    published: tuple[ModelVersion, ...]


@require_http_methods(["GET", "POST"])
def publish(request: ConsoleRequest, server_id: str) -> HttpResponse:
    """Choose from the server's own model list (`?pick=…`), correct what is proposed, publish."""
    actor = actor_of(request)
    actor.require("ark:OpenModelVersion", services.CATALOGUE)
    server = get_object_or_404(ModelServer, pk=_number(server_id))
    picks = list(dict.fromkeys(request.POST.getlist("pick") or request.GET.getlist("pick")))[:MAX_PICKS]
    if request.method == "POST" and picks:
        return _publish_picked(request, server, picks)
    listed, failure = _listed(server)
    context: dict[str, Any] = {"server": server, "failure": failure, "picks": picks}
    if picks:
        by_id = {model.id: model for model in listed}
        today = timezone.localdate()
        context["forms"] = [
            PublishForm(
                prefix=f"m{position}",
                proposal=propose(by_id.get(pick) or probing.ListedModel(pick), today=today),
                initial={"upstream_model": pick},
            )
            for position, pick in enumerate(picks)
        ]
        return render(request, "admin/catalog/publish.html", context)
    published: dict[str, list[ModelVersion]] = {}
    for deployment in Deployment.objects.filter(server=server).select_related("version__model"):
        published.setdefault(deployment.upstream_model, []).append(deployment.version)
    context["offers"] = [Offer(model, tuple(published.get(model.id, ()))) for model in listed]
    return render(request, "admin/catalog/pick.html", context)


def _listed(server: ModelServer) -> tuple[tuple[probing.ListedModel, ...], probing.ProbeFailed | None]:
    with probing.client_for(server) as client:
        try:
            return client.list_models().models or (), None
        except probing.ProbeFailed as failure:
            return tuple(probing.ListedModel(model_id) for model_id in server.reported_models), failure


def _publish_picked(request: ConsoleRequest, server: ModelServer, picks: list[str]) -> HttpResponse:
    forms = [PublishForm(request.POST, prefix=f"m{position}") for position in range(len(picks))]
    left: list[PublishForm] = []
    done: list[str] = []
    # All forms must be whole before the first is stored; what a service then still refuses stays on the page.
    are_whole = [form.is_valid() for form in forms]
    if all(are_whole):
        for form in forms:
            try:
                done.append(_publish_one(request, server, form).public_id)
            except NotAllowed:
                raise
            except DomainError as error:
                add_domain_error(form, error)
                left.append(form)
    else:
        left = forms
    if done:
        if server.state == ModelServer.State.UNKNOWN:
            # The person goes to see them available now; the tick would take seconds more.
            services.probe_now(server=server, now=timezone.now())
        text = ngettext("Published %(names)s.", "Published %(count)d models: %(names)s.", len(done))
        messages.success(request, text % {"count": len(done), "names": ", ".join(done)})
    if not left:
        return redirect("catalog:models")
    left_picks = [form["upstream_model"].value() for form in left]
    if done:
        # Renumbered, since those that are done are gone.
        left = [_renumbered(form, position) for position, form in enumerate(left)]
    context = {"server": server, "picks": left_picks, "forms": left}
    return render(request, "admin/catalog/publish.html", context, status=422)


def _renumbered(form: PublishForm, position: int) -> PublishForm:
    data = {f"m{position}-{name}": form[name].value() for name in form.fields}
    data = {name: value for name, value in data.items() if value not in (None, False)}
    fresh = PublishForm(data, prefix=f"m{position}")
    fresh.is_valid()
    for field, errors in form.errors.items():
        for error in errors:
            if error not in fresh.errors.get(field, []):
                fresh.add_error(None if field == "__all__" else field, error)
    return fresh


def _publish_one(request: ConsoleRequest, server: ModelServer, form: PublishForm) -> ModelVersion:
    by, now = actor_of(request), timezone.now()
    existing: ModelVersion | None = form.cleaned_data["existing"]
    if existing is None:
        return services.publish(server=server, publication=form.publication(), by=by, now=now)
    deployment = Deployment(
        version=existing, server=server, upstream_model=form.cleaned_data["upstream_model"], weight=1
    )
    return services.save_deployment(deployment=deployment, by=by, now=now).version


@require_http_methods(["GET", "POST"])
def set_prices(request: ConsoleRequest, version_id: str) -> HttpResponse:
    """A new price list for a version; rows are only ever added."""
    actor = actor_of(request)
    actor.require("ark:CreateModelPrice", services.CATALOGUE)
    version = get_object_or_404(ModelVersion.objects.select_related("model"), pk=_number(version_id))
    now = timezone.now()
    current = services.tiers_in_force(version.prices.all(), at=now)
    if request.method == "POST":
        form, tiers = PriceListForm(request.POST), TierFormSet(request.POST, prefix="tiers")
    else:
        form = PriceListForm(initial={"currency": current[0].currency if current else "CNY"})
        tiers = TierFormSet(prefix="tiers", initial=tier_rows(current))
    if request.method == "POST" and form.is_valid() and tiers.is_valid():
        currency = form.cleaned_data["currency"]
        prices = [price for row in tiers if (price := row.price(currency)) is not None]
        try:
            services.set_prices(version=version, prices=prices, valid_from=form.begins_at(now), by=actor, now=now)
        except NotAllowed:
            raise
        except DomainError as error:
            add_domain_error(form, error)
        else:
            messages.success(request, _("The new prices of %(model)s are set.") % {"model": version.public_id})
            return redirect("admin:catalog_modelversion_change", version.pk)
    context = {"version": version, "form": form, "tiers": tiers, "current": current}
    is_wrong = bool(form.errors or (tiers.is_bound and not tiers.is_valid()))
    return render(request, "admin/catalog/set_prices.html", context, status=422 if is_wrong else 200)
