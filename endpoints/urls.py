"""Addresses under /endpoints/; each fragment that refreshes alone has its own."""

from __future__ import annotations

from django.urls import path, register_converter

from endpoints import switch_views, views


class EndpointId:
    """`ep-…` or `ep-m-…`; whatever else stands there is no endpoint, and never reaches the database."""

    regex = "ep-[a-z0-9-]{1,61}"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class BigId:
    """A row's number that fits its column."""

    regex = "[0-9]{1,18}"

    def to_python(self, value: str) -> int:
        return int(value)

    def to_url(self, value: int) -> str:
        return str(value)


register_converter(EndpointId, "endpoint_id")
register_converter(BigId, "big_id")

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
    path("<endpoint_id:endpoint_id>/switch", switch_views.switch, name="switch"),
    path("<endpoint_id:endpoint_id>/switch/plan", switch_views.plan, name="switch_plan"),
    path("<endpoint_id:endpoint_id>/switch/banner", switch_views.banner, name="switch_banner"),
    path("<endpoint_id:endpoint_id>/switch/<big_id:switch_id>", switch_views.past, name="switch_past"),
    path("<endpoint_id:endpoint_id>/switch/<big_id:switch_id>/watch", switch_views.watch, name="switch_watch"),
    path("<endpoint_id:endpoint_id>/switch/<big_id:switch_id>/chart", switch_views.chart, name="switch_chart"),
    path("<endpoint_id:endpoint_id>/switch/<big_id:switch_id>/shares", switch_views.shares, name="switch_shares"),
    path("<endpoint_id:endpoint_id>/switch/<big_id:switch_id>/<slug:verb>", switch_views.verb, name="switch_verb"),
]
