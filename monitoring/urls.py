"""Addresses of monitoring: an endpoint's page and data, the whole project, opening it, and what Prometheus reads."""

from __future__ import annotations

from django.urls import URLPattern, path

from monitoring import scraped_views

app_name = "monitoring"

urlpatterns: list[URLPattern] = [
    path("monitoring/targets", scraped_views.targets, name="targets"),
    path("metrics", scraped_views.metrics, name="metrics"),
]
