"""Addresses of alerts."""

from __future__ import annotations

from django.urls import URLPattern, path, register_converter

from alerts import contact_urls, event_views, own_rule_views, rule_views
from endpoints.urls import BigId

register_converter(BigId, "alert_id")

app_name = "alerts"

urlpatterns: list[URLPattern] = [
    # --- events and silences
    path("", event_views.events, name="events"),
    # Messages name the list by this address.
    path("events", event_views.events),
    path("events/<alert_id:pk>", event_views.event, name="event"),
    path("events/<alert_id:pk>/now", event_views.event_now, name="event_now"),
    path("events/<alert_id:pk>/actions", event_views.event_actions, name="event_actions"),
    path("events/<alert_id:pk>/endpoint", event_views.event_endpoint, name="event_endpoint"),
    path("events/<alert_id:pk>/told", event_views.event_told, name="event_told"),
    path("events/<alert_id:pk>/log", event_views.event_log, name="event_log"),
    path("events/<alert_id:pk>/chart", event_views.chart, name="event_chart"),
    path("events/<alert_id:pk>/acknowledge", event_views.acknowledge, name="event_acknowledge"),
    path("events/<alert_id:pk>/take-back", event_views.take_back, name="event_take_back"),
    path("events/<alert_id:pk>/note", event_views.note, name="event_note"),
    path("events/<alert_id:pk>/silence", event_views.silence, name="event_silence"),
    path("silences", event_views.silence_list, name="silences"),
    path("silences/create", event_views.silence_create, name="silence_create"),
    path("silences/<alert_id:pk>/end", event_views.silence_end, name="silence_end"),
    # --- contacts, groups, policies, on call
    *contact_urls.paths,
    # --- rules
    path("endpoints/<endpoint_id:endpoint_id>/rules", rule_views.endpoint_rules, name="endpoint_rules"),
    path("rules", rule_views.rules, name="rules"),
    path("rules/create", own_rule_views.rule_create, name="rule_create"),
    path("rules/files", rule_views.rule_files, name="rule_files"),
    path("rules/check", own_rule_views.rule_check, name="rule_check"),
    path("rules/<alert_id:pk>", rule_views.rule_group, name="rule_group"),
    path("rules/<alert_id:pk>/now", rule_views.rule_group_now, name="rule_group_now"),
    path("rules/<alert_id:pk>/edit", rule_views.rule_group_edit, name="rule_group_edit"),
    path("rules/<alert_id:pk>/switch", rule_views.rule_group_switch, name="rule_group_switch"),
    path("rules/<alert_id:pk>/upgrade", rule_views.rule_group_upgrade, name="rule_group_upgrade"),
    path("rules/<alert_id:pk>/delete", rule_views.rule_group_delete, name="rule_group_delete"),
    path("rules/<alert_id:pk>/file", rule_views.rule_group_file, name="rule_group_file"),
    path("rules/<alert_id:pk>/rules/create", own_rule_views.rule_add, name="rule_add"),
    path("rules/<alert_id:pk>/rules/<alert_id:rule_pk>/edit", own_rule_views.rule_edit, name="rule_edit"),
    path("rules/<alert_id:pk>/rules/<alert_id:rule_pk>/remove", own_rule_views.rule_remove, name="rule_remove"),
    path("rules/<alert_id:pk>/rules/<alert_id:rule_pk>/switch", rule_views.rule_switch, name="rule_switch"),
]
