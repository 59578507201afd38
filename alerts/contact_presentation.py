"""What pages show of an address: its icon, how it stands and why, and what came of a message that was just sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.utils.translation import gettext as _

from alerts import channels, verification
from alerts.channels.base import Answer, Outcome
from alerts.links import VERIFY_FOR
from alerts.models import ContactMethod, Delivery, MethodKind

ICONS = {
    MethodKind.EMAIL: "mail",
    MethodKind.PHONE: "phone",
    MethodKind.FEISHU: "send",
    MethodKind.DINGTALK: "message-circle",
    MethodKind.WECOM: "messages-square",
    MethodKind.WEBHOOK: "webhook",
}
DOTS = {
    ContactMethod.State.VERIFIED: "good",
    ContactMethod.State.FAILING: "warn",
    ContactMethod.State.DISABLED: "bad",
    ContactMethod.State.UNVERIFIED: "idle",
}


@dataclass(frozen=True, slots=True)
class Said:
    """What came of a message just sent: our sentence, the other side's own words, and what to do about it."""

    is_ok: bool
    title: str
    detail: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One address as a row shows it."""

    method: ContactMethod
    since: datetime | None
    why: str
    waits_for_code: bool
    waits_for_link: bool

    @property
    def icon(self) -> str:
        return ICONS[MethodKind(self.method.kind)]

    @property
    def dot(self) -> str:
        return DOTS[ContactMethod.State(self.method.state)]

    @property
    def can_test(self) -> bool:
        return self.method.is_usable

    @property
    def was_asked(self) -> bool:
        return self.waits_for_code or self.waits_for_link


def for_lines(methods: QuerySet[ContactMethod]) -> QuerySet[ContactMethod]:
    """The methods with `failing_since`, the first failed message after the last good one."""
    failed = Delivery.objects.filter(
        method=OuterRef("pk"),
        state=Delivery.State.FAILED,
        at__gt=Coalesce(OuterRef("last_sent_at"), OuterRef("verified_at"), OuterRef("created_at")),
    ).order_by("at")
    return methods.annotate(failing_since=Subquery(failed.values("at")[:1]))


def line(method: ContactMethod, *, now: datetime) -> Line:
    """How one address stands; of `for_lines` it also says since when it fails."""
    states = ContactMethod.State
    is_open = not method.is_usable and method.asked_at is not None
    waits_for_link = bool(is_open and method.nonce_digest and method.asked_at and method.asked_at > now - VERIFY_FOR)
    waits_for_code = bool(
        is_open
        and method.code_digest
        and method.code_tries < verification.CODE_TRIES
        and method.asked_at
        and method.asked_at > now - verification.CODE_FOR
    )
    since = method.verified_at if method.state == states.VERIFIED else None
    why = ""
    if method.state in (states.FAILING, states.DISABLED) or method.last_error:
        since = getattr(method, "failing_since", None) or since
        known = channels.sentence(method.kind, method.last_error)
        own = "" if method.last_error == verification.UNSUBSCRIBED else method.last_error
        why = " ".join(part for part in (known, f"({own})" if own and known else own) if part)
    if not why and method.state == states.UNVERIFIED:
        if waits_for_link:
            why = _("A link was sent; it confirms the address once, within 24 hours.")
        elif waits_for_code:
            why = _("It was called; type the code that was spoken.")
        else:
            why = _("Nothing is sent to it before it is verified.")
    return Line(method, since, why, waits_for_code, waits_for_link)


def lines(methods: Iterable[ContactMethod], *, now: datetime) -> list[Line]:
    return [line(method, now=now) for method in methods]


def asked(method: ContactMethod, answer: Answer) -> Said:
    """What came of asking an address to agree."""
    if not answer.ok:
        return _failed(method, answer)
    if method.kind == MethodKind.EMAIL:
        return Said(
            True,
            _("Link sent to %(hint)s. It works once and for 24 hours; a newer link makes it useless.")
            % {"hint": method.hint},
            advice=_(
                "Nothing there after some minutes? Look into the spam folder, or ask again: after a minute, five times a day."
            ),
        )
    if method.kind == MethodKind.PHONE:
        return Said(
            True,
            _("%(hint)s is being called. Type the six digits below.") % {"hint": method.hint},
            advice=_("They hold for 10 minutes and five tries. You may ask again after a minute, five times a day."),
        )
    return Said(True, _("Verified: the test message was taken."), _words(answer))


def tested(method: ContactMethod, answer: Answer) -> Said:
    """What came of a test message."""
    if not answer.ok:
        return _failed(method, answer)
    return Said(True, _("The test message was taken."), _words(answer))


def refused(message: str) -> Said:
    """Our own refusal, before anything was sent."""
    return Said(False, message)


def _failed(method: ContactMethod, answer: Answer) -> Said:
    if answer.outcome is Outcome.OURS:
        title = _("This console could not send it.")
    elif answer.is_lost:
        title = _("No clear answer came: it may have arrived all the same.")
    else:
        title = _("The message was not taken.")
    return Said(False, title, _words(answer), channels.explain(method.kind, answer.code))


def _words(answer: Answer) -> str:
    """The other side's own words with its codes: what one looks up in its documentation."""
    took = _("%(n)s ms") % {"n": f"{answer.latency_ms:,}"} if answer.latency_ms else ""
    status = f"HTTP {answer.status}" if answer.status and str(answer.status) != answer.code else ""
    code = _("code %(code)s") % {"code": answer.code} if answer.code else ""
    return " · ".join(part for part in (status, code, answer.text, took) if part)
