"""Addresses of monitoring: an endpoint's page and data, the whole project, opening it, and what Prometheus reads."""

from __future__ import annotations

from django.urls import URLPattern, path

from monitoring import open_views, overview_views, page_views, scraped_views

app_name = "monitoring"

urlpatterns: list[URLPattern] = [
    path("endpoints/<endpoint_id:endpoint_id>/monitoring", page_views.endpoint, name="endpoint"),
    path("monitoring/", overview_views.overview, name="overview"),
    path("monitoring/open", open_views.open_project, name="open"),
    path("monitoring/opening", open_views.steps, name="opening"),
    path("monitoring/close", open_views.close, name="close"),
    path("monitoring/targets", scraped_views.targets, name="targets"),
    path("metrics", scraped_views.metrics, name="metrics"),
]
