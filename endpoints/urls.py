"""Addresses under /endpoints/; each fragment that refreshes alone has its own."""

from __future__ import annotations

from django.urls import path

from endpoints import views

app_name = "endpoints"

urlpatterns = [
    path("", views.index, name="list"),
    path("create", views.create, name="create"),
    path("create/version", views.version_fields, name="version_fields"),
    path("<str:endpoint_id>", views.overview, name="overview"),
    path("<str:endpoint_id>/api", views.api, name="api"),
    path("<str:endpoint_id>/try", views.try_it, name="try"),
    path("<str:endpoint_id>/calls", views.calls, name="calls"),
    path("<str:endpoint_id>/edit", views.edit, name="edit"),
    path("<str:endpoint_id>/start", views.start, name="start"),
    path("<str:endpoint_id>/stop", views.stop, name="stop"),
    path("<str:endpoint_id>/delete", views.delete, name="delete"),
    path("<str:endpoint_id>/row", views.row, name="row"),
    path("<str:endpoint_id>/status", views.status, name="status"),
    path("<str:endpoint_id>/actions", views.actions, name="actions"),
    path("<str:endpoint_id>/trouble", views.trouble, name="trouble"),
    path("<str:endpoint_id>/basics", views.basics, name="basics"),
    path("<str:endpoint_id>/tags", views.tags, name="tags"),
    path("<str:endpoint_id>/changes", views.changes, name="changes"),
    path("<str:endpoint_id>/history", views.history, name="history"),
]
