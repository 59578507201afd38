"""Addresses that programs post to, below `/hooks/`."""

from __future__ import annotations

from django.urls import URLPattern, path

from alerts import hook_views

app_name = "hooks"

urlpatterns: list[URLPattern] = [
    path("prom/api/v2/alerts", hook_views.prometheus, name="prometheus"),
    path("alertmanager", hook_views.alertmanager, name="alertmanager"),
]
