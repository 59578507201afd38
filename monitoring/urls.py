"""Addresses of monitoring: an endpoint's page and data, the whole project, opening it, and what Prometheus reads."""

from __future__ import annotations

from django.urls import URLPattern

app_name = "monitoring"

urlpatterns: list[URLPattern] = []
