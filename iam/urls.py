"""Keys, settings, and the switches of the frame."""

from __future__ import annotations

from django.urls import path

from iam import views

app_name = "iam"
urlpatterns = [
    path("keys/", views.keys, name="keys"),
    path("keys/create", views.key_create, name="key_create"),
    path("keys/scope-options", views.scope_options, name="scope_options"),
    path("keys/<int:key_id>/edit", views.key_edit, name="key_edit"),
    path("keys/<int:key_id>/enable", views.key_enable, name="key_enable"),
    path("keys/<int:key_id>/disable", views.key_disable, name="key_disable"),
    path("keys/<int:key_id>/delete", views.key_delete, name="key_delete"),
    path("settings/", views.settings_page, name="settings"),
    path("settings/language", views.set_language, name="set_language"),
    path("settings/theme", views.set_theme, name="set_theme"),
    path("projects/switch", views.switch_project, name="switch_project"),
]
