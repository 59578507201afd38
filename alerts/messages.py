"""What a message says, in its reader's language and time zone: how bad, what, since when, and where to look."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import translation
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from alerts import links, notifications, templates
from alerts.channels.base import Message, Tone
from alerts.models import AlertEvent, Contact, ContactMethod, Notification, Phase
from endpoints.models import Endpoint

LISTED = 10
"""How many alerts of a group a message lists by name."""
IN_PAYLOAD = 100
"""How many of them a program gets; `total` says how many there are."""
SCHEMA_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert of a notification as it stood when that was made."""

    event: AlertEvent
    is_firing: bool
    value: float | None
    endpoint_name: str

    @property
    def endpoint(self) -> str:
        """The endpoint as people know it, with the id that finds it."""
        pk = self.event.endpoint_id
        return f"{self.endpoint_name} ({pk})" if self.endpoint_name else pk

    @property
    def short_endpoint(self) -> str:
        return self.endpoint_name or self.event.endpoint_id

    @property
    def rule_name(self) -> str:
        """In the language in force where it is a default rule's; people's own names are what they are."""
        rule, item = self.event.rule, self._item
        if rule is not None and item is not None and "name" not in rule.changed:
            return item.name.of(translation.get_language() or "en")
        return self.event.rule_name or str(self.event.labels.get("alertname", ""))

    @property
    def text(self) -> str:
        """The rule's own text in the language in force, with its braces; "" where it has none."""
        language = translation.get_language() or "en"
        texts: Mapping[str, str] = self.event.rule.texts if self.event.rule else {}
        own = str(texts.get("zh" if language.startswith("zh") else "en") or "")
        return own or (self._item.text.of(language) if self._item else "")

    @property
    def _item(self) -> templates.Item | None:
        """The default rule that this one was made from."""
        rule = self.event.rule
        if rule is None or not rule.group.template_id:
            return None
        template = templates.get(rule.group.template_id, rule.group.template_version)
        return template.item(rule.key) if template else None

    @property
    def unit(self) -> str:
        return self.event.rule.unit if self.event.rule else ""

    @property
    def comparison(self) -> str:
        """`31.2% > 5%`; "" where there is nothing to compare."""
        if self.event.threshold is None:
            return "" if self.value is None else figure(self.value, self.unit)
        now = "–" if self.value is None else figure(self.value, self.unit)
        return f"{now} {self.event.comparator} {figure(self.event.threshold, self.unit)}".strip()


# --- the messages ----------------------------------------------------------------------------------------------------


def of_notification(notification: Notification, *, method: ContactMethod, reference: str, now: datetime) -> Message:
    """The message of one notification to one method: one alert in full, several as a list."""
    contact = method.contact
    alerts = _alerts(notification)
    with _reader(contact):
        total, repeat = _total(notification, alerts), notifications.repeats(notification)
        if total == 1 and alerts:
            title, lines = _single(notification, alerts[0], contact=contact, repeat=repeat)
            url, link_text = links.event_url(alerts[0].event), _("See what happened")
        else:
            title, lines = _several(notification, alerts, total=total, contact=contact, repeat=repeat)
            url = links.events_url(project_id=notification.policy.project_id, level=notification.level)
            link_text = _("See the alerts")
        return Message(
            title=title,
            lines=tuple(line for line in lines if line),
            url=url,
            link_text=link_text,
            tone=Tone.RESOLVED if notification.status == Notification.Status.RESOLVED else Tone.FIRING,
            language=contact.language,
            thread=_thread(alerts, notification),
            reference=reference,
            payload=_payload(notification, alerts, total=total, repeat=repeat, url=url, reference=reference),
            spoken=_spoken(notification, alerts, total=total),
            words=_words(notification, alerts, total=total),
            unsubscribe_url=links.unsubscribe_url(method),
        )


def digest(notifications: Sequence[Notification], *, method: ContactMethod, reference: str, now: datetime) -> Message:
    """One message instead of many that waited because the address may get no more of them."""
    contact = method.contact
    with _reader(contact):
        worst = min((notification.level for notification in notifications), default="P2")
        is_over = all(one.status == Notification.Status.RESOLVED for one in notifications)
        count = len(notifications)
        title = _("[%(level)s] %(count)s messages in one") % {"level": worst, "count": count}
        lines = [_("This address may not get more messages at a time, so these waited for each other:")]
        lines += [
            f"{position}. {headline(notification)}"
            for position, notification in enumerate(
                sorted(notifications, key=lambda one: (one.level, one.at))[:LISTED], start=1
            )
        ]
        lines.append(_and_more(count - LISTED))
        url = links.events_url(project_id=notifications[0].policy.project_id)
        said = _("ArkConsole alerts, the worst is %(level)s: %(count)s messages in one. Please open the console.") % {
            "level": worst,
            "count": count,
        }
        return Message(
            title=title,
            lines=tuple(line for line in lines if line),
            url=url,
            link_text=_("See the alerts"),
            tone=Tone.RESOLVED if is_over else Tone.FIRING,
            language=contact.language,
            thread=f"digest-{method.pk}",
            reference=reference,
            payload={
                "version": SCHEMA_VERSION, "type": "digest", "id": reference, "level": worst, "total": count,
                "sent_at": _iso(now), "url": url,
                "notifications": [
                    {"id": one.pk, "status": one.status, "level": one.level, "at": _iso(one.at), "title": headline(one)}
                    for one in notifications[:IN_PAYLOAD]
                ],
            },
            spoken=said,
            words={"level": worst, "endpoint": _("several"), "rule": _("%(count)s alerts") % {"count": count}},
            unsubscribe_url=links.unsubscribe_url(method),
        )  # fmt: skip


def test(method: ContactMethod, *, by_name: str, reference: str, now: datetime) -> Message:
    """What a person sends to see whether an address works; it also is what a bot is verified by."""
    contact = method.contact
    with _reader(contact):
        return Message(
            title=_("ArkConsole: this is a test"),
            lines=(
                _("%(name)s is trying out whether alerts arrive here.") % {"name": by_name},
                _("Contact: %(name)s") % {"name": contact.name},
                _("Project: %(name)s") % {"name": contact.project.name},
                _("Time: %(time)s") % {"time": _time(now, contact)},
            ),
            url=f"{settings.CONSOLE_URL}/alerts/contacts",
            link_text=_("Open ArkConsole"),
            language=contact.language,
            thread=f"test-{method.pk}",
            reference=reference,
            payload={
                "version": SCHEMA_VERSION, "type": "test", "id": reference, "sent_at": _iso(now),
                "project": {"id": contact.project_id, "name": contact.project.name}, "contact": contact.name,
                "url": f"{settings.CONSOLE_URL}/alerts/contacts",
            },
            spoken=_("This is a test call of ArkConsole. Alerts of the highest level will reach you like this."),
            words={"level": "P0", "endpoint": _("test"), "rule": _("test")},
            # Before an address has agreed there is nothing to unsubscribe from.
            unsubscribe_url=links.unsubscribe_url(method) if method.is_usable else "",
        )  # fmt: skip


def verification(method: ContactMethod, *, url: str, by_name: str, reference: str) -> Message:
    """Asks the reader of an e-mail address whether alerts may come here."""
    contact = method.contact
    with _reader(contact):
        return Message(
            title=_("ArkConsole: may alerts reach you here?"),
            lines=(
                _("%(name)s has entered this address for alerts of the project %(project)s (contact %(contact)s).")
                % {"name": by_name, "project": contact.project.name, "contact": contact.name},
                _(
                    "Confirm it within 24 hours. If you do not know what this is about, do nothing: no alerts will come."
                ),
            ),
            url=url,
            link_text=_("Confirm this address"),
            language=contact.language,
            thread=f"verify-{method.pk}",
            reference=reference,
        )


def code(method: ContactMethod, *, code: str, reference: str) -> Message:
    """Speaks the code by which a number is verified, digit by digit and twice."""
    contact = method.contact
    with _reader(contact):
        spelled = ", ".join(code)
        return Message(
            title=_("ArkConsole: your code"),
            lines=(),
            url="",
            link_text="",
            language=contact.language,
            reference=reference,
            spoken=_("Your ArkConsole code is %(code)s. Once more: %(code)s.") % {"code": spelled},
            words={"code": code},
            payload={"version": SCHEMA_VERSION, "type": "code", "id": reference},
        )


def headline(notification: Notification) -> str:
    """One line about a notification in the language in force: how bad, what, where."""
    alerts = _alerts(notification, limit=2)
    total = _total(notification, alerts)
    return _title(notification, alerts, total=total, repeat=notifications.repeats(notification))


# --- one alert, several alerts -----------------------------------------------------------------------------------------


def _single(notification: Notification, alert: Alert, *, contact: Contact, repeat: int) -> tuple[str, list[str]]:
    event = alert.event
    lines = [_("Endpoint: %(endpoint)s") % {"endpoint": alert.endpoint} if event.endpoint_id else ""]
    since = _time(event.starts_at, contact)
    if notification.status == Notification.Status.RESOLVED:
        ended = event.ends_at or notification.at
        lines += [
            _("Over since: %(time)s") % {"time": _time(ended, contact)},
            _("It lasted: %(duration)s (from %(time)s)")
            % {"duration": duration(ended - event.starts_at), "time": since},
            _("Last value while firing: %(comparison)s") % {"comparison": alert.comparison} if alert.comparison else "",
        ]
    else:
        lines += [
            _("Value: %(comparison)s") % {"comparison": alert.comparison} if alert.comparison else "",
            _("Since: %(time)s, for %(duration)s")
            % {"time": since, "duration": duration(notification.at - event.starts_at)},
        ]
        if event.phase == Phase.RESOLVED and event.ends_at:
            # A message that waited must not send anybody after what is over.
            lines.append(_("It is over since %(time)s.") % {"time": _time(event.ends_at, contact)})
    lines += [_own_text(alert), _labels(event)]
    lines.append(_("Project: %(name)s") % {"name": notification.policy.project.name})
    return _title(notification, [alert], total=1, repeat=repeat), lines


def _several(
    notification: Notification, alerts: Sequence[Alert], *, total: int, contact: Contact, repeat: int
) -> tuple[str, list[str]]:
    lines = []
    over = _count_over(notification, alerts)
    if notification.status == Notification.Status.FIRING and over:
        lines.append(
            _("%(firing)s of them are firing, %(over)s are over.") % {"firing": max(0, total - over), "over": over}
        )
    lines += [_listed(alert, contact) for alert in alerts[:LISTED]]
    lines.append(_and_more(total - len(alerts[:LISTED])))
    lines.append(_("Project: %(name)s") % {"name": notification.policy.project.name})
    return _title(notification, alerts, total=total, repeat=repeat), lines


def _title(notification: Notification, alerts: Sequence[Alert], *, total: int, repeat: int) -> str:
    what = _what(alerts, total=total)
    if notification.status == Notification.Status.RESOLVED:
        return _("[%(level)s resolved] %(what)s") % {"level": notification.level, "what": what}
    if repeat:
        return _("[%(level)s still firing] %(what)s") % {"level": notification.level, "what": what}
    return _("[%(level)s] %(what)s") % {"level": notification.level, "what": what}


def _what(alerts: Sequence[Alert], *, total: int) -> str:
    """What it is about, in a few words; "ArkConsole" stands for what has no endpoint."""
    if not alerts:
        return ngettext("%(count)s alert", "%(count)s alerts", total) % {"count": total}
    first = alerts[0]
    if total == 1:
        parts = [first.short_endpoint or "ArkConsole", first.rule_name, first.comparison]
        return " ".join(part for part in parts if part)
    names = {alert.rule_name for alert in alerts}
    places = {alert.event.endpoint_id for alert in alerts}
    if len(names) == 1:
        return _("%(rule)s: %(count)s endpoints") % {"rule": first.rule_name, "count": total}
    if len(places) == 1:
        return _("%(endpoint)s: %(count)s alerts") % {"endpoint": first.short_endpoint or "ArkConsole", "count": total}
    return ngettext("%(count)s alert", "%(count)s alerts", total) % {"count": total}


def _listed(alert: Alert, contact: Contact) -> str:
    state = "" if alert.is_firing else _("over")
    since = _time(alert.event.starts_at, contact)
    parts = [alert.endpoint or "ArkConsole", alert.rule_name, alert.comparison, since, state]
    return "• " + " · ".join(part for part in parts if part)


def _and_more(count: int) -> str:
    return _("… and %(count)s more") % {"count": count} if count > 0 else ""


def _own_text(alert: Alert) -> str:
    """The rule's own text, filled in; braces that name nothing stay as they are."""
    text = alert.text
    threshold = "" if alert.event.threshold is None else figure(alert.event.threshold, alert.unit)
    for name, word in {
        "level": alert.event.level, "name": alert.endpoint_name, "endpoint": alert.endpoint,
        "id": alert.event.endpoint_id, "rule": alert.rule_name, "threshold": threshold,
        "value": "–" if alert.value is None else figure(alert.value, alert.unit),
    }.items():  # fmt: skip
        text = text.replace("{" + name + "}", word)
    return text


# What every alert carries, or what a message says in other words.
_KNOWN_LABELS = {"alertname", "project", "ark_endpoint", "rule_id", "group_id", "level", "notify_policy"}


def _labels(event: AlertEvent) -> str:
    further = [f"{name}={value}" for name, value in sorted(event.labels.items()) if name not in _KNOWN_LABELS and value]
    return ", ".join(further)


def _spoken(notification: Notification, alerts: Sequence[Alert], *, total: int) -> str:
    return _("ArkConsole alert, level %(level)s. %(what)s. Please open the console.") % {
        "level": notification.level,
        "what": _what(alerts, total=total),
    }


def _words(notification: Notification, alerts: Sequence[Alert], *, total: int) -> dict[str, str]:
    if total == 1 and alerts:
        endpoint, rule = alerts[0].short_endpoint or "ArkConsole", alerts[0].rule_name
    else:
        endpoint, rule = _("several"), _("%(count)s alerts") % {"count": total}
    return {"level": notification.level, "endpoint": endpoint, "rule": rule}


# --- for programs ------------------------------------------------------------------------------------------------------


def _payload(
    notification: Notification, alerts: Sequence[Alert], *, total: int, repeat: int, url: str, reference: str
) -> dict[str, Any]:
    project = notification.policy.project
    return {
        "version": SCHEMA_VERSION, "type": "alert", "id": reference, "status": notification.status,
        "level": notification.level, "at": _iso(notification.at), "repeat": repeat, "total": total,
        "project": {"id": project.pk, "name": project.name},
        "policy": {"id": notification.policy_id, "name": notification.policy.name},
        "url": url, "alerts": [_alert_payload(alert) for alert in alerts],
    }  # fmt: skip


def _alert_payload(alert: Alert) -> dict[str, Any]:
    event = alert.event
    return {
        "id": event.pk, "status": "firing" if alert.is_firing else "resolved", "level": event.level,
        "rule": {"id": event.rule_id, "key": event.rule_key, "name": alert.rule_name},
        "endpoint": {"id": event.endpoint_id, "name": alert.endpoint_name} if event.endpoint_id else None,
        "labels": event.labels, "value": alert.value, "unit": alert.unit, "comparator": event.comparator,
        "threshold": event.threshold, "starts_at": _iso(event.starts_at),
        "ends_at": _iso(event.ends_at) if event.ends_at and not alert.is_firing else None, "summary": event.summary,
        "url": links.event_url(event),
    }  # fmt: skip


# --- the rows ----------------------------------------------------------------------------------------------------------


def _alerts(notification: Notification, *, limit: int = IN_PAYLOAD) -> list[Alert]:
    """The notification's alerts, those still firing first, with their endpoints' names; two queries."""
    entries: dict[int, Mapping[str, Any]] = {
        entry["event_id"]: entry for entry in notification.payload.get("alerts", ()) if entry.get("event_id")
    }
    told = {int(pk): str(status) for pk, status in notification.told.items()}
    firing = {pk for pk, status in told.items() if status == Notification.Status.FIRING}
    rows = notification.events.select_related("rule__group")
    # In two steps, since which are firing stands in the notification and not in the events' rows.
    chosen = sorted(rows.values_list("pk", flat=True), key=lambda pk: (pk not in firing, pk))[:limit]
    events = sorted(rows.filter(pk__in=chosen), key=lambda event: chosen.index(event.pk))
    ids = {event.endpoint_id for event in events if event.endpoint_id}
    names = dict(Endpoint.objects.filter(pk__in=ids).values_list("pk", "name"))
    found = []
    for event in events:
        entry = entries.get(event.pk, {})
        is_firing = event.pk in firing if event.pk in told else event.phase != Phase.RESOLVED
        value = entry.get("value", event.value)
        found.append(Alert(event, is_firing, value, str(names.get(event.endpoint_id, ""))))
    return found


def _total(notification: Notification, alerts: Sequence[Alert]) -> int:
    return max(int(notification.payload.get("total") or 0), len(alerts))


def _count_over(notification: Notification, alerts: Sequence[Alert]) -> int:
    if notification.told:
        return sum(status == Notification.Status.RESOLVED for status in notification.told.values())
    return sum(not alert.is_firing for alert in alerts)


def _thread(alerts: Sequence[Alert], notification: Notification) -> str:
    """The oldest event: firing, repeats and recovery of one incident are one conversation."""
    if not alerts:
        return f"group-{notification.policy_id}-{notification.group_key[:16]}"
    return f"alert-{min(alert.event.pk for alert in alerts)}"


# --- words and figures -------------------------------------------------------------------------------------------------


@contextmanager
def _reader(contact: Contact) -> Iterator[None]:
    with translation.override(contact.language):
        yield


def figure(value: float, unit: str) -> str:
    """A figure that is read at a glance: `31.2%`, `1,204`, `0.35 s`."""
    if value != value or value in (float("inf"), float("-inf")):
        text = {float("inf"): "∞", float("-inf"): "-∞"}.get(value, "–")
    elif abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif abs(value) >= 100:
        text = f"{value:.1f}".removesuffix(".0")
    elif abs(value) >= 0.01 or value == 0:
        text = f"{value:.2f}".rstrip("0").rstrip(".")
    else:
        text = f"{value:.2g}"
    return f"{text}{unit}" if unit in {"", "%"} else f"{text} {unit}"


def duration(span: timedelta) -> str:
    """How long, in its two largest units: `2 h 5 min`, `40 s`."""
    seconds = max(0, round(span.total_seconds()))
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return _("%(days)s d %(hours)s h") % {"days": days, "hours": hours}
    if hours:
        return _("%(hours)s h %(minutes)s min") % {"hours": hours, "minutes": minutes}
    if minutes:
        return _("%(minutes)s min") % {"minutes": minutes}
    return _("%(seconds)s s") % {"seconds": rest}


def _time(at: datetime, contact: Contact) -> str:
    """With the offset: who reads it abroad is not misled."""
    try:
        zone: Any = zoneinfo.ZoneInfo(contact.time_zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        zone = UTC
    local = at.astimezone(zone)
    offset = local.strftime("%z")
    hours = f"{offset[0]}{int(offset[1:3])}" + (f":{offset[3:5]}" if offset[3:5] != "00" else "")
    return f"{local:%Y-%m-%d %H:%M:%S} UTC{hours}"


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
