"""Addresses of monitoring: an endpoint's page and data, the whole project, opening it, and what Prometheus reads."""

from __future__ import annotations

from django.urls import URLPattern, path

from monitoring import data_views, open_views, overview_views, page_views, scraped_views

app_name = "monitoring"

urlpatterns: list[URLPattern] = [
    path("endpoints/<endpoint_id:endpoint_id>/monitoring", page_views.endpoint, name="endpoint"),
    path("endpoints/<endpoint_id:endpoint_id>/monitoring/groups/<slug:group>", data_views.group, name="group"),
    path("endpoints/<endpoint_id:endpoint_id>/monitoring/marks", data_views.marks, name="marks"),
    path("endpoints/<endpoint_id:endpoint_id>/monitoring/panels/<slug:panel>.csv", data_views.panel_csv, name="csv"),
    path("monitoring/grafana.json", data_views.grafana_json, name="grafana"),
    path("monitoring/", overview_views.overview, name="overview"),
    path("monitoring/open", open_views.open_project, name="open"),
    path("monitoring/opening", open_views.steps, name="opening"),
    path("monitoring/close", open_views.close, name="close"),
    path("monitoring/targets", scraped_views.targets, name="targets"),
    path("metrics", scraped_views.metrics, name="metrics"),
]
