"""Taking queued deliveries to their addresses: claimed by compare-and-set, one at a time for each address' method.

Any number of workers may run `send_due` at once, and any of them may die at any point. A delivery whose worker died, or
whose answer was lost, is sent once more and marked `may_repeat`: at least once, at most twice, and never silently lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Case, Exists, F, OuterRef, Q, QuerySet, Value, When
from django.utils import timezone

from alerts import channels, messages
from alerts.channels import base
from alerts.channels.base import Answer, Message, Outcome
from alerts.models import (
    LEASE,
    AlertEvent,
    ContactMethod,
    Delivery,
    Level,
    MethodKind,
    Notification,
    Phase,
    SendMark,
)

logger = logging.getLogger(__name__)

Clock = Callable[[], datetime]
State = Delivery.State

RETRY_SECONDS = (2, 10, 60, 300)
"""Before the next try of what was surely not taken; the last one again and again, for `TRIED_FOR` at least."""
TRIED_FOR = timedelta(hours=1)
REPEAT_SECONDS = 2
FAILURES_TO_DISABLE = 5
# So many waiting behind one that had to be tried again are one message, not one after the other.
DIGEST_BEHIND_RETRY = 5
BUDGET_SECONDS = 20.0
LOOKED_AT_ONCE = 20
KEPT_MARKS = timedelta(hours=25)

HELD = "held"
"""`answer_code` of a delivery that waits because its address may get no more for the moment."""


def send_due(*, clock: Clock = timezone.now, budget_seconds: float = BUDGET_SECONDS, leaves_deaf: bool = False) -> int:
    """Send what is due until nothing is left or the time is up; how many were tried.

    `leaves_deaf`: addresses that kept us waiting the last time are left to others.
    """
    tried = 0
    until = time.monotonic() + budget_seconds
    while time.monotonic() < until:
        claim = _next_claim(clock(), leaves_deaf=leaves_deaf)
        if claim is None:
            break
        _carry_out(claim, clock=clock)
        tried += 1
    return tried


def prune(*, now: datetime) -> int:
    """Remove the marks that no limit counts any more."""
    return SendMark.objects.filter(at__lt=now - KEPT_MARKS).delete()[0]


# --- limits ------------------------------------------------------------------------------------------------------------


def mark_key(kind: str, address_digest: str) -> str:
    """What the limits of an address are counted under, however many contacts have it."""
    return f"{kind}:{address_digest}"


def free_at(*, kind: str, address_digest: str, now: datetime) -> datetime:
    """When the address may get its next message: `now`, or later when its limits are reached."""
    marks = SendMark.objects.filter(key=mark_key(kind, address_digest)).order_by("-at")
    free = now
    for count, seconds in channels.of(kind).limits:
        oldest = marks.filter(at__gt=now - timedelta(seconds=seconds)).values_list("at", flat=True)[count - 1 : count]
        if found := list(oldest):
            free = max(free, found[0] + timedelta(seconds=seconds))
    return free


def mark(*, kind: str, address_digest: str, now: datetime) -> None:
    """Count one try at the address, also one that fails: so do the providers."""
    SendMark.objects.create(key=mark_key(kind, address_digest), at=now)


# --- claiming ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that is ours until `LEASE` after `at`."""

    delivery: Delivery
    method: ContactMethod
    at: datetime


def _waiting(now: datetime) -> QuerySet[Delivery]:
    """Due, or left behind by a worker that died; only the first of its method and level, and none while one is sent.

    In order, so that nobody hears of a recovery before the failure; but a P0 does not wait for a P2's next try.
    """
    same = Delivery.objects.filter(method=OuterRef("method"))
    is_busy = same.filter(state=State.SENDING, claimed_at__gt=now - LEASE)
    comes_first = same.filter(
        state__in=(State.QUEUED, State.SENDING),
        pk__lt=OuterRef("pk"),
        notification__level=OuterRef("notification__level"),
    )
    return Delivery.objects.due(now).exclude(Exists(is_busy)).exclude(Exists(comes_first))


_DEAF = Q(method__last_error__startswith="timeout") | Q(method__last_error__startswith="no_connection")


def _in_turn(rows: QuerySet[Delivery], now: datetime) -> QuerySet[Delivery]:
    """The worst first. Of one level no project's deaf addresses keep another project waiting, nor those that answer."""
    is_served = Delivery.objects.filter(
        state=State.SENDING, claimed_at__gt=now - LEASE,
        notification__policy__project=OuterRef("notification__policy__project"),
    )  # fmt: skip
    return rows.order_by(
        "notification__level", Exists(is_served), Case(When(_DEAF, then=Value(1)), default=Value(0)), "attempts", "pk"
    )


def _next_claim(now: datetime, *, leaves_deaf: bool = False) -> Claim | None:
    while True:
        seen = False
        rows = _waiting(now).exclude(_DEAF) if leaves_deaf else _waiting(now)
        for delivery in _in_turn(rows, now)[:LOOKED_AT_ONCE]:
            seen = True
            claim, has_moved = _claim(delivery, now=now)
            if claim is not None:
                return claim
            if has_moved:
                # What waited behind it may be first now.
                break
        else:
            # None of these could be claimed and none has moved: others are at them, or they wait for their limits.
            return None
        if not seen:
            return None


def _claim(seen: Delivery, *, now: datetime) -> tuple[Claim | None, bool]:
    """The claim, if it is ours; and whether the delivery is out of the others' way (settled, or put off)."""
    with transaction.atomic():
        method = _locked(seen.method_id)
        if method is None or (why := _why_not(seen, method)):
            settled = _settle_unsent(seen, "deleted" if method is None else why, method, now=now)
            return None, settled
        if seen.state == State.SENDING and seen.may_repeat:
            return None, _update(seen, state=State.FAILED, next_at=None, answer_code="lost") > 0
        if _is_busy(method, besides=seen, now=now):
            return None, False
        free = free_at(kind=method.kind, address_digest=method.address_digest, now=now)
        if free > now:
            values: dict[str, Any] = {"state": State.QUEUED, "next_at": free}
            if seen.state == State.SENDING:
                values["may_repeat"] = True
            if free - now > timedelta(seconds=2):
                # A breath between two messages is no reason to make one of them.
                values["answer_code"] = HELD
            return None, _update(seen, **values) > 0
        may_repeat = seen.may_repeat or seen.state == State.SENDING
        if not _update(
            seen, state=State.SENDING, claimed_at=now, next_at=None, attempts=F("attempts") + 1, may_repeat=may_repeat
        ):
            return None, False
        mark(kind=method.kind, address_digest=method.address_digest, now=now)
        _gather(seen, method)
    delivery = Delivery.objects.select_related("notification__policy__project").get(pk=seen.pk)
    return Claim(delivery, method, now), True


def _locked(method_id: int | None) -> ContactMethod | None:
    """The method, with everybody else kept from its address until the transaction ends."""
    if method_id is None:
        return None
    digest = ContactMethod.objects.filter(pk=method_id).values_list("address_digest", flat=True).first()
    if digest is None:
        return None
    same = ContactMethod.objects.select_for_update(of=("self",)).select_related("contact__project")
    return next((row for row in same.filter(address_digest=digest).order_by("pk") if row.pk == method_id), None)


def _is_busy(method: ContactMethod, *, besides: Delivery, now: datetime) -> bool:
    """Whether something is on its way to the method; asked again, since now nobody can begin."""
    sending = Delivery.objects.filter(method=method, state=State.SENDING, claimed_at__gt=now - LEASE)
    return sending.exclude(pk=besides.pk).exists()


def _update(seen: Delivery, **values: Any) -> int:
    """Write only if nobody has touched the delivery since it was read."""
    return Delivery.objects.filter(
        pk=seen.pk, state=seen.state, attempts=seen.attempts, claimed_at=seen.claimed_at, next_at=seen.next_at
    ).update(**values)


def _why_not(delivery: Delivery, method: ContactMethod) -> str:
    """Why this is never sent, as a code of `channels.explain`; "" when it is to be sent."""
    if method.contact.deleted_at is not None:
        return "deleted"
    if method.state == ContactMethod.State.DISABLED:
        return "disabled"
    if not method.is_usable:
        return "unverified"
    if channels.missing(method.kind):
        return "not_set_up"
    if method.kind == MethodKind.PHONE:
        notification = delivery.notification
        if notification.level != Level.P0:
            return "level"
        if notification.status == Notification.Status.FIRING and _is_over(delivery):
            # Nobody is rung up about what has ended by itself while the number had to be left in peace.
            return "over"
    return ""


def _is_over(delivery: Delivery) -> bool:
    """Whether all that it tells of has ended, also what was put into it since."""
    tells = Notification.objects.filter(Q(deliveries=delivery) | Q(deliveries__digested_into=delivery))
    goes_on = AlertEvent.objects.filter(notifications=OuterRef("pk")).exclude(phase=Phase.RESOLVED)
    return not tells.filter(Exists(goes_on) | Q(events=None)).exists()


def _settle_unsent(seen: Delivery, why: str, method: ContactMethod | None, *, now: datetime) -> bool:
    text = channels.missing(method.kind) if method is not None and why == "not_set_up" else ""
    state = State.FAILED if seen.state == State.SENDING else State.SKIPPED
    if not _update(seen, state=state, next_at=None, answer_code=why, answer_text=text[:_TEXT]):
        return False
    # What was to go with it goes by itself, or has reasons of its own not to.
    seen.digested.filter(state=State.DIGESTED).update(state=State.QUEUED, digested_into=None, next_at=now)
    return True


def _gather(head: Delivery, method: ContactMethod) -> None:
    """Make one message of all that waits for this method, when a limit or a deaf bot has made it wait."""
    others = Delivery.objects.filter(method=method, state=State.QUEUED).exclude(pk=head.pk)
    # What was tried so often may never be taken as it is: what comes after it must not wait for that.
    has_waited = head.answer_code == HELD or head.attempts >= len(RETRY_SECONDS)
    enough = 1 if has_waited else DIGEST_BEHIND_RETRY if head.attempts else 0
    if enough and len(taken := list(others.values_list("pk", flat=True))) >= enough:
        # One of them may be a summary already, of another level.
        Delivery.objects.filter(digested_into__in=taken, state=State.DIGESTED).update(digested_into=head)
        others.filter(pk__in=taken).update(state=State.DIGESTED, digested_into=head, next_at=None)


# --- sending -----------------------------------------------------------------------------------------------------------


def _carry_out(claim: Claim, *, clock: Clock) -> None:
    delivery, method = claim.delivery, claim.method
    try:
        message = _message(delivery, method, now=claim.at)
        answer = channels.of(method.kind).send(method, message, now=claim.at)
    except Exception:
        # One delivery that cannot be written must not keep all others from being sent, every two seconds anew.
        logger.exception("delivery %s of notification %s", delivery.pk, delivery.notification_id)
        answer = Answer(Outcome.OURS, code="defect")
    record(claim, base.discreet(answer, method), now=clock())


def _message(delivery: Delivery, method: ContactMethod, *, now: datetime) -> Message:
    reference = f"delivery-{delivery.pk}"
    gathered = [
        row.notification for row in delivery.digested.select_related("notification__policy__project").order_by("pk")
    ]
    if gathered:
        return messages.digest([delivery.notification, *gathered], method=method, reference=reference, now=now)
    return messages.of_notification(delivery.notification, method=method, reference=reference, now=now)


def record(claim: Claim, answer: Answer, *, now: datetime) -> bool:
    """Write down what came of it, and what is next; False when the claim had run out and another has it."""
    delivery = claim.delivery
    values: dict[str, Any] = {
        "answer_status": answer.status or None,
        "answer_code": answer.code[:64],
        "answer_text": answer.text[:_TEXT],
        "latency_ms": answer.latency_ms,
        **_next(delivery, answer, now=now),
    }
    mine = Delivery.objects.filter(pk=delivery.pk, state=State.SENDING, claimed_at=claim.at, attempts=delivery.attempts)
    with transaction.atomic():
        if not mine.update(**values):
            return False
        if values["state"] == State.FAILED and answer.outcome is Outcome.RETRY:
            # What has not waited as long is not given up with it.
            young = delivery.digested.filter(state=State.DIGESTED, at__gt=now - TRIED_FOR)
            young.update(state=State.QUEUED, digested_into=None, next_at=now)
        note_on_method(claim.method.pk, answer, now=now)
    return True


def _next(delivery: Delivery, answer: Answer, *, now: datetime) -> dict[str, Any]:
    """The delivery's new state: sent, over with, or waiting for another try."""
    if answer.ok:
        return {"state": State.SENT, "sent_at": now, "next_at": None}
    if answer.is_lost and not delivery.may_repeat:
        return {"state": State.QUEUED, "next_at": now + timedelta(seconds=REPEAT_SECONDS), "may_repeat": True}
    if answer.outcome is Outcome.RETRY and (delivery.attempts < len(RETRY_SECONDS) or now - delivery.at < TRIED_FOR):
        wait = max(RETRY_SECONDS[min(delivery.attempts, len(RETRY_SECONDS)) - 1], answer.retry_after)
        return {"state": State.QUEUED, "next_at": now + timedelta(seconds=wait)}
    return {"state": State.FAILED, "next_at": None}


def note_on_method(method_id: int, answer: Answer, *, now: datetime) -> None:
    """Keep on the method how it does: working again, failing, or switched off; needs a transaction."""
    method = ContactMethod.objects.select_for_update().filter(pk=method_id).first()
    if method is None or answer.outcome is Outcome.OURS:
        return
    states = ContactMethod.State
    if answer.ok:
        method.failures, method.last_error, method.last_sent_at = 0, "", now
        if method.state == states.FAILING:
            method.state = states.VERIFIED
    else:
        method.last_error = told(answer)[: _length(ContactMethod, "last_error")]
        if answer.outcome in {Outcome.PERMANENT, Outcome.REVOKED}:
            method.failures += 1
            if method.is_usable:
                is_useless = answer.outcome is Outcome.REVOKED or method.failures >= FAILURES_TO_DISABLE
                method.state = states.DISABLED if is_useless else states.FAILING
    method.save(update_fields=["failures", "last_error", "last_sent_at", "state"])


def told(answer: Answer) -> str:
    """An answer in one line as it is kept; `channels.sentence` tells people what to do about it."""
    return " · ".join(part for part in (answer.code, answer.text) if part)


def _length(model: type[ContactMethod] | type[Delivery], name: str) -> int | None:
    return getattr(model._meta.get_field(name), "max_length", None)


_TEXT = _length(Delivery, "answer_text")
