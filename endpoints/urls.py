"""Addresses under /endpoints/; each fragment that refreshes alone has its own."""

from __future__ import annotations

from django.urls import path, register_converter

from endpoints import views


class EndpointId:
    """`ep-…` or `ep-m-…`; whatever else stands there is no endpoint, and never reaches the database."""

    regex = "ep-[a-z0-9-]{1,61}"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(EndpointId, "endpoint_id")

app_name = "endpoints"

urlpatterns = [
    path("", views.index, name="list"),
    path("create", views.create, name="create"),
    path("create/version", views.version_fields, name="version_fields"),
    path("<endpoint_id:endpoint_id>", views.overview, name="overview"),
    path("<endpoint_id:endpoint_id>/api", views.api, name="api"),
    path("<endpoint_id:endpoint_id>/try", views.try_it, name="try"),
    path("<endpoint_id:endpoint_id>/calls", views.calls, name="calls"),
    path("<endpoint_id:endpoint_id>/edit", views.edit, name="edit"),
    path("<endpoint_id:endpoint_id>/start", views.start, name="start"),
    path("<endpoint_id:endpoint_id>/stop", views.stop, name="stop"),
    path("<endpoint_id:endpoint_id>/delete", views.delete, name="delete"),
    path("<endpoint_id:endpoint_id>/row", views.row, name="row"),
    path("<endpoint_id:endpoint_id>/status", views.status, name="status"),
    path("<endpoint_id:endpoint_id>/actions", views.actions, name="actions"),
    path("<endpoint_id:endpoint_id>/trouble", views.trouble, name="trouble"),
    path("<endpoint_id:endpoint_id>/basics", views.basics, name="basics"),
    path("<endpoint_id:endpoint_id>/tags", views.tags, name="tags"),
    path("<endpoint_id:endpoint_id>/changes", views.changes, name="changes"),
    path("<endpoint_id:endpoint_id>/history", views.history, name="history"),
]
