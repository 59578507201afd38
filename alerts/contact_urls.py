"""Addresses of contacts, groups, policies, one's own on-call page, and the pages behind links in mails."""

from __future__ import annotations

from django.urls import URLPattern, path, register_converter

from alerts import contact_views, link_views, policy_views
from endpoints.urls import BigId

register_converter(BigId, "contact_row")

paths: list[URLPattern] = [
    path("contacts", contact_views.contact_list, name="contacts"),
    path("contacts/create", contact_views.contact_create, name="contact_create"),
    path("contacts/<contact_row:contact_id>", contact_views.contact_detail, name="contact"),
    path("contacts/<contact_row:contact_id>/edit", contact_views.contact_edit, name="contact_edit"),
    path("contacts/<contact_row:contact_id>/delete", contact_views.contact_delete, name="contact_delete"),
    path("contacts/<contact_row:contact_id>/add", contact_views.method_add, name="method_add"),
    path("methods/<contact_row:method_id>/change", contact_views.method_change, name="method_change"),
    path("methods/<contact_row:method_id>/remove", contact_views.method_remove, name="method_remove"),
    path("methods/<contact_row:method_id>/verify", contact_views.method_verify, name="method_verify"),
    path("methods/<contact_row:method_id>/code", contact_views.method_code, name="method_code"),
    path("methods/<contact_row:method_id>/test", contact_views.method_test, name="method_test"),
    path("groups", contact_views.group_list, name="groups"),
    path("groups/create", contact_views.group_create, name="group_create"),
    path("groups/<contact_row:group_id>/edit", contact_views.group_edit, name="group_edit"),
    path("groups/<contact_row:group_id>/delete", contact_views.group_delete, name="group_delete"),
    path("groups/<contact_row:group_id>/test", contact_views.group_test, name="group_test"),
    path("policies", policy_views.policy_list, name="policies"),
    path("policies/create", policy_views.policy_create, name="policy_create"),
    path("policies/preview", policy_views.policy_preview, name="policy_preview"),
    path("policies/<contact_row:policy_id>", policy_views.policy_detail, name="policy"),
    path("policies/<contact_row:policy_id>/edit", policy_views.policy_edit, name="policy_edit"),
    path("policies/<contact_row:policy_id>/delete", policy_views.policy_delete, name="policy_delete"),
    path("policies/<contact_row:policy_id>/test", policy_views.policy_test, name="policy_test"),
    path("me", policy_views.on_call, name="me"),
    path("verify/<str:token>", link_views.verify, name="verify"),
    path("unsubscribe/<str:token>", link_views.unsubscribe, name="unsubscribe"),
]
