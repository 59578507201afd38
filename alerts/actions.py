"""What a policy may allow or deny about alerts, under VMP's own names where it has one (`ark.md` §4.12, §5)."""

from __future__ import annotations

CREATE_RULE_GROUP = "vmp:CreateAlertingRuleGroup"
UPDATE_RULE_GROUP = "vmp:UpdateAlertingRuleGroup"
UPGRADE_RULE_GROUPS = "vmp:UpgradeAlertingRuleGroups"
DELETE_RULE_GROUP = "vmp:DeleteAlertingRuleGroup"
LIST_RULE_GROUPS = "vmp:ListAlertingRuleGroups"

GET_ALERT = "vmp:GetAlert"
LIST_ALERTS = "vmp:ListAlerts"
UPDATE_ALERT = "vmp:UpdateAlert"
"""Acknowledge, and write a note."""

CREATE_SILENCE = "vmp:CreateSilence"
DELETE_SILENCE = "vmp:DeleteSilence"
LIST_SILENCES = "vmp:ListSilences"

CREATE_CONTACT = "vmp:CreateContact"
UPDATE_CONTACT = "vmp:UpdateContact"
DELETE_CONTACT = "vmp:DeleteContact"
LIST_CONTACTS = "vmp:ListContacts"
SEND_VALIDATION_MESSAGE = "vmp:SendValidationMessage"
"""Ask an address whether it agrees, and send it a test."""

CREATE_CONTACT_GROUP = "vmp:CreateContactGroup"
UPDATE_CONTACT_GROUP = "vmp:UpdateContactGroup"
DELETE_CONTACT_GROUP = "vmp:DeleteContactGroup"
LIST_CONTACT_GROUPS = "vmp:ListContactGroups"

CREATE_NOTIFY_POLICY = "vmp:CreateNotifyPolicy"
UPDATE_NOTIFY_POLICY = "vmp:UpdateNotifyPolicy"
DELETE_NOTIFY_POLICY = "vmp:DeleteNotifyPolicy"
LIST_NOTIFY_POLICIES = "vmp:ListNotifyPolicies"
