"""The console's addresses."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from arkconsole import views

urlpatterns = [
    path("", views.home, name="home"),
    path("endpoints/", include("endpoints.urls")),
    path("models/", include("catalog.urls")),
    path("alerts/prometheus/graph", views.alert_source),
    path("alerts/alertmanager/", views.alert_source),
    path("alerts/", include("alerts.urls")),
    path("hooks/", include("alerts.hook_urls")),
    path("", include("iam.urls")),
    path("", include("monitoring.urls")),
    path("accounts/", include("iam.account_urls")),
    path("admin/login/", views.admin_login),
    path("admin/", admin.site.urls),
]

handler403 = views.forbidden
handler404 = views.not_found
handler500 = views.broken
