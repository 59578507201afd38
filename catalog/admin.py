"""The catalogue in Django's admin. Who may is asked of Ark's permissions; what is done is done by the services."""

from __future__ import annotations

from typing import Any, cast

from django.contrib import admin, messages
from django.db import models
from django.db.models import Count
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from catalog import admin_views, services
from catalog.forms import WordsField
from catalog.models import Deployment, FoundationModel, ModelServer, ModelVersion, PriceTier
from common.errors import DomainError
from common.templatetags.ark import ago
from iam.actors import actor_of
from iam.requests import ConsoleRequest


class ArkPermissions:
    """Answers the admin's four questions from Ark's actions on the catalogue; only staff get as far as being asked."""

    view_action = ""
    add_action = ""
    change_action = ""
    delete_action = ""

    def _may(self, request: HttpRequest, action: str) -> bool:
        user: Any = request.user
        return bool(action) and user.is_active and user.is_staff and user.has_perm(action, services.CATALOGUE)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self._may(request, self.view_action)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, self.view_action)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, self.add_action)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, self.change_action)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, self.delete_action)


class VersionForm(ModelForm):  # type: ignore[type-arg]
    """A version, also with what the service would refuse, beside its field."""

    known_parameters = WordsField(label=gettext_lazy("Known parameters"), required=False)

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if not self.errors:
            try:
                services.check_version(self.instance)
            except DomainError as error:
                self.add_error(error.field if error.field in self.fields else None, error.message)


def _state(server: ModelServer) -> SafeString:
    """A server's state and why, for lists."""
    if not server.is_enabled:
        return format_html("{}", _("disabled"))
    why = f"{server.state_sentence} {server.state_detail}".strip()
    mark = {ModelServer.State.UP: "●", ModelServer.State.DOWN: "◆"}.get(ModelServer.State(server.state), "○")
    return format_html('<span title="{}">{} {}</span>', why, mark, server.get_state_display())


@admin.register(ModelServer)
class ModelServerAdmin(ArkPermissions, admin.ModelAdmin):  # type: ignore[type-arg]
    """The list is Django's; adding, testing, changing and publishing have pages of their own."""

    view_action = "ark:ListModelServers"
    add_action = "ark:CreateModelServer"
    change_action = "ark:UpdateModelServer"
    list_display = ("name", "shown_state", "why", "base_url", "deployed", "probed", "publish_link")
    list_filter = ("state",)
    search_fields = ("name", "base_url")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[ModelServer]:
        # The key is read where it is sent, nowhere else.
        return ModelServer.objects.defer("api_key").annotate(deployed=Count("deployments"))

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        own = [
            path("test/", wrap(admin_views.test_connection), {"server_id": None}, name="catalog_modelserver_test_new"),
            path("<server_id>/test/", wrap(admin_views.test_connection), name="catalog_modelserver_test"),
            path("<server_id>/publish/", wrap(admin_views.publish), name="catalog_modelserver_publish"),
            path("<server_id>/remove/", wrap(admin_views.delete_server), name="catalog_modelserver_remove"),
        ]
        return own + super().get_urls()

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        return admin_views.server_form(cast(ConsoleRequest, request), None)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        return admin_views.server_form(cast(ConsoleRequest, request), object_id)

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def shown_state(self, server: ModelServer) -> SafeString:
        return _state(server)

    @admin.display(description=gettext_lazy("reason"))
    def why(self, server: ModelServer) -> str:
        return server.state_sentence or "–"

    @admin.display(description=gettext_lazy("last probe"), ordering="probed_at")
    def probed(self, server: ModelServer) -> str:
        return ago(server.probed_at)

    @admin.display(description=gettext_lazy("deployments"), ordering="deployed")
    def deployed(self, server: ModelServer) -> int:
        return int(getattr(server, "deployed", 0))

    @admin.display(description=gettext_lazy("models"))
    def publish_link(self, server: ModelServer) -> SafeString:
        url = reverse("admin:catalog_modelserver_publish", args=[server.pk])
        return format_html('<a href="{}">{}</a>', url, _("Publish models"))


@admin.register(FoundationModel)
class FoundationModelAdmin(ArkPermissions, admin.ModelAdmin):  # type: ignore[type-arg]
    view_action = "ark:ListFoundationModels"
    add_action = "ark:CreateModel"
    change_action = "ark:UpdateModel"
    list_display = ("display_name", "name", "vendor", "domain")
    list_filter = ("domain",)
    search_fields = ("name", "display_name", "vendor")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("name",) if obj else ()

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        services.save_card(card=obj, by=actor_of(request), now=timezone.now())


class DeploymentInline(ArkPermissions, admin.TabularInline):  # type: ignore[type-arg]
    model = Deployment
    extra = 0
    fields = ("server", "shown_state", "upstream_model", "weight", "is_enabled")
    readonly_fields = ("shown_state",)
    view_action = "ark:ListModelServers"
    add_action = "ark:CreateModelDeployment"
    change_action = "ark:UpdateModelDeployment"
    delete_action = "ark:DeleteModelDeployment"

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Deployment]:
        return super().get_queryset(request).select_related("server").defer("server__api_key")

    @admin.display(description=gettext_lazy("state of the server"))
    def shown_state(self, deployment: Deployment) -> SafeString | str:
        return _state(deployment.server) if deployment.pk else "–"


class PriceTierInline(ArkPermissions, admin.TabularInline):  # type: ignore[type-arg]
    """To look at: a price is set on its own page, and no row is ever changed."""

    model = PriceTier
    extra = 0
    can_delete = False
    view_action = "ark:ListFoundationModels"
    fields = ("valid_from", "input_over_tokens", "input_price", "cached_price", "output_price", "currency")
    ordering = ("-valid_from", "input_over_tokens")


@admin.register(ModelVersion)
class ModelVersionAdmin(ArkPermissions, admin.ModelAdmin):  # type: ignore[type-arg]
    view_action = "ark:ListFoundationModelVersions"
    change_action = "ark:UpdateModelVersion"
    form = VersionForm
    list_display = ("public_id", "domain", "context_tokens", "retires_at", "runs_on", "is_working")
    list_filter = ("model__domain",)
    search_fields = ("model__name", "model__display_name", "version")
    autocomplete_fields = ("replacement",)
    inlines = (DeploymentInline, PriceTierInline)
    readonly_fields = ("model", "version", "prices_link")
    actions = ("remove_mistaken",)
    fieldsets = (
        (None, {"fields": ("model", "version", "prices_link")}),
        (
            gettext_lazy("What it can do"),
            {
                "fields": (
                    ("context_tokens", "max_output_tokens", "default_output_tokens"),
                    "supports_caching",
                    "known_parameters",
                    "is_switchable",
                )
            },
        ),
        (gettext_lazy("Limits of a new endpoint"), {"fields": (("default_rpm", "default_tpm"),)}),
        (gettext_lazy("Its life"), {"fields": ("released_at", "retires_at", "replacement")}),
    )

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[ModelVersion]:
        return ModelVersion.objects.for_list()

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(admin_views.set_prices)
        return [path("<version_id>/prices/", view, name="catalog_modelversion_prices"), *super().get_urls()]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        services.save_version(version=obj, by=actor_of(request), now=timezone.now())

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        changed = formset.save(commit=False)
        by, now = actor_of(request), timezone.now()
        for deployment in formset.deleted_objects:
            services.delete_deployment(deployment=deployment, by=by, now=now)
        for deployment in changed:
            services.save_deployment(deployment=deployment, by=by, now=now)

    @admin.action(description=gettext_lazy("Remove versions published by mistake (never used)"))
    def remove_mistaken(self, request: HttpRequest, queryset: models.QuerySet[ModelVersion]) -> None:
        for version in queryset:
            try:
                services.delete_version(version=version, by=actor_of(request), now=timezone.now())
            except DomainError as error:
                self.message_user(request, f"{version.public_id}: {error.message}", messages.ERROR)
            else:
                self.message_user(request, _("Removed %(model)s.") % {"model": version.public_id})

    @admin.display(description=gettext_lazy("domain"), ordering="model__domain")
    def domain(self, version: ModelVersion) -> str:
        return version.model.get_domain_display()

    @admin.display(description=gettext_lazy("runs on"))
    def runs_on(self, version: ModelVersion) -> str:
        return ", ".join(deployment.server.name for deployment in version.deployments.all()) or "–"

    @admin.display(description=gettext_lazy("available"), boolean=True)
    def is_working(self, version: ModelVersion) -> bool:
        return services.availability(version, timezone.now()).is_working

    @admin.display(description=gettext_lazy("prices"))
    def prices_link(self, version: ModelVersion) -> SafeString:
        url = reverse("admin:catalog_modelversion_prices", args=[version.pk])
        return format_html('<a href="{}">{}</a>', url, _("Set a new price list"))


@admin.register(Deployment)
class DeploymentAdmin(ArkPermissions, admin.ModelAdmin):  # type: ignore[type-arg]
    """Which version runs where, at a glance; changed on the version's page, added by publishing."""

    view_action = "ark:ListModelServers"
    change_action = "ark:UpdateModelDeployment"
    list_display = ("model_version", "server", "shown_state", "upstream_model", "weight", "is_enabled")
    list_filter = ("server", "server__state", "is_enabled")
    search_fields = ("upstream_model", "version__model__name", "server__name")
    readonly_fields = ("version", "server")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Deployment]:
        return super().get_queryset(request).select_related("version__model", "server").defer("server__api_key")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        services.save_deployment(deployment=obj, by=actor_of(request), now=timezone.now())

    @admin.display(description=gettext_lazy("version"), ordering="version__model__name")
    def model_version(self, deployment: Deployment) -> str:
        return deployment.version.public_id

    @admin.display(description=gettext_lazy("state of the server"), ordering="server__state")
    def shown_state(self, deployment: Deployment) -> SafeString:
        shown = _state(deployment.server)
        if deployment.is_listed:
            return shown
        return format_html("{} · {}", shown, _("the server does not list this model"))
