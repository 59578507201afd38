"""What every channel has in common: the message it is given, the answer it gives back, and how a request is made.

A channel takes a `Message` to one address, once, and says what came of it. It never raises for what the other side
does, never waits, never tries again: `alerts.deliveries` decides that from the answer's `outcome`.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from common import addresses, outbound
from common.addresses import UnsafeAddress
from common.errors import DomainError

CONNECT_SECONDS = READ_SECONDS = 5.0
TOTAL_SECONDS = 10.0
MAX_ANSWER_BYTES = 64 * 1024
MAX_RETRY_AFTER = 3600
MAX_TEXT = 500


class Outcome(StrEnum):
    """What came of one try, as far as anybody can know."""

    OK = "ok"
    # Surely not taken, and a later try may be.
    RETRY = "retry"
    # Perhaps taken: the answer was lost or makes no sense.
    LOST = "lost"
    # Surely not taken, and no later try will be: the address, its secret or its rules are wrong.
    PERMANENT = "permanent"
    # The address itself is gone.
    REVOKED = "revoked"
    # Our own set-up is wrong; the address is not to blame.
    OURS = "ours"


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` HTTP's or SMTP's (0: none came), `code` the provider's or one of `SENTENCES`, `text` its own words."""

    outcome: Outcome
    status: int = 0
    code: str = ""
    text: str = ""
    latency_ms: int = 0
    retry_after: int = 0

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def is_permanent(self) -> bool:
        """Whether trying again is of no use."""
        return self.outcome in {Outcome.PERMANENT, Outcome.REVOKED, Outcome.OURS}

    @property
    def is_lost(self) -> bool:
        """Whether the message may have arrived all the same."""
        return self.outcome is Outcome.LOST


class Tone(StrEnum):
    """What a message is about; channels that have colours show it."""

    FIRING = "firing"
    RESOLVED = "resolved"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Message:
    """One message in the reader's language.

    `lines` are plain text, most important first: what does not fit is cut from the end. `thread` is equal for all
    messages about one thing, `reference` names this one delivery and stays the same when it is tried again. `payload`
    is what programs get. `spoken` is what a voice says, with the words that a provider's template is filled with.
    """

    title: str
    lines: tuple[str, ...]
    url: str
    link_text: str
    tone: Tone = Tone.INFO
    language: str = "en"
    thread: str = ""
    reference: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)
    spoken: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    unsubscribe_url: str = ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


class Destination(Protocol):
    """Where a message goes; a `ContactMethod` is one."""

    @property
    def address(self) -> str: ...
    @property
    def secret(self) -> str: ...


# At most `count` messages to one address within `seconds`.
Limits = Sequence[tuple[int, int]]
# What a code means and what to do about it.
Sentences = Mapping[str, str | Promise]


class Channel(Protocol):
    """One kind of address."""

    kind: str
    limits: Limits
    # The provider's codes, with the sentence that tells a person what to do.
    sentences: Sentences

    def tidy(self, address: str, secret: str) -> tuple[str, str]:
        """Address and secret in their normal form; raises `DomainError` with `field` "address" or "secret"."""
        ...

    def hint(self, address: str) -> str:
        """The address as pages show it: enough to recognise, too little to use."""
        ...

    def missing(self) -> str:
        """What an administrator must set before this kind works, as a sentence; "" when nothing is missing."""
        ...

    def send(self, to: Destination, message: Message, *, now: datetime) -> Answer:
        """Send once. `now` is the time that signatures carry."""
        ...


# Codes of our own, for what providers have no code for.
SENTENCES: Sentences = {
    "timeout": gettext_lazy("No answer within the time allowed. The message may have arrived all the same."),
    "broken": gettext_lazy("The connection broke before the answer. The message may have arrived all the same."),
    "not_json": gettext_lazy("The answer is not one that this service gives. Is something between us and it?"),
    "too_large": gettext_lazy("The answer is too long to be read."),
    "no_connection": gettext_lazy("No connection came about within the time allowed."),
    "name_not_found": gettext_lazy("The host name of the address does not resolve."),
    "refused": gettext_lazy("Nothing listens at the address."),
    "unreachable": gettext_lazy("There is no way to the address from this machine."),
    "tls": gettext_lazy("No trusted encrypted connection came about: look at the certificate of the address."),
    "redirect": gettext_lazy("The address redirects elsewhere, which is never followed. Enter the final address."),
    "unsafe_address": gettext_lazy("The address, or what it resolves to, is one that is never called."),
    "not_set_up": gettext_lazy("This console is not set up for this kind of message. An administrator can do it."),
    "revoked": gettext_lazy("The address is gone. Enter a new one."),
    "defect": gettext_lazy("The message could not be written. This is a defect; the console's log says more."),
    "held": gettext_lazy("This address may get no more messages for the moment; it waits."),
    "deleted": gettext_lazy("The contact or its address has been deleted."),
    "disabled": gettext_lazy("The address is switched off, since messages to it kept failing. Verify it again."),
    "unverified": gettext_lazy("The address has not been verified."),
    "unsubscribed": gettext_lazy("Its reader has asked for no more messages. Verify it again only if they agree."),
    "level": gettext_lazy("Phones ring for P0 only."),
    "over": gettext_lazy("It was over before the number could be called."),
    "lost": gettext_lazy("The worker that sent it died on the way. The message may have arrived all the same."),
}


# --- requests --------------------------------------------------------------------------------------------------------


def post(
    url: str,
    *,
    content: bytes,
    content_type: str,
    judge: Callable[[outbound.Answer], Answer],
    headers: Mapping[str, str] | None = None,
    hosts: Sequence[str] | None = (),
) -> Answer:
    """POST once, to vetted addresses only and without redirects, and have `judge` read the answer.

    An address that people gave is held to `check_url` with `hosts` at this moment too: what an administrator allowed when
    it was entered may be allowed no more. None: an administrator named the address.
    """
    try:
        if hosts is not None:
            check_url(url, hosts=hosts)
    except DomainError as error:
        # It was taken when it was entered: a setting has changed since, and may change back.
        return Answer(Outcome.OURS, code="unsafe_address", text=error.message)
    may_be_private = hosts is None or (bool(hosts) and is_named_by_us(url))
    started = time.monotonic()
    try:
        with outbound.Client(
            connect_seconds=CONNECT_SECONDS,
            read_seconds=READ_SECONDS,
            total_seconds=TOTAL_SECONDS,
            max_bytes=MAX_ANSWER_BYTES,
            resolver=addresses.resolve if may_be_private else resolve_public,
        ) as client:
            sent = {"Content-Type": content_type, "User-Agent": "ArkConsole", **(headers or {})}
            got = client.post(url, content=content, headers=sent)
    except DomainError as error:
        return Answer(Outcome.PERMANENT, code="unsafe_address", text=error.message)
    except outbound.OutboundError as error:
        return _without_answer(error, latency_ms=round((time.monotonic() - started) * 1000))
    if 300 <= got.status < 400:
        return Answer(Outcome.PERMANENT, got.status, "redirect", said(got), got.milliseconds)
    return judge(got)


def resolve_public(host: str, port: int) -> list[str]:
    """`addresses.resolve`, and nothing private or on this machine unless ALERT_ALLOW_PRIVATE_ADDRESSES."""
    found = addresses.resolve(host, port)
    if not settings.ALERT_ALLOW_PRIVATE_ADDRESSES:
        for text in found:
            if not addresses.is_public(ipaddress.ip_address(text.split("%")[0])):
                raise UnsafeAddress(
                    _("%(host)s resolves to %(address)s, a private address. An administrator can allow those.")
                    % {"host": host, "address": text},
                    field="address",
                )
    return found


def _without_answer(error: outbound.OutboundError, *, latency_ms: int) -> Answer:
    code, outcome = next(
        (code, outcome)
        for kind, code, outcome in (
            # Narrow before wide: NeverConnected is a TimedOut.
            (outbound.NeverConnected, "no_connection", Outcome.RETRY),
            (outbound.TimedOut, "timeout", Outcome.LOST),
            (outbound.TooLarge, "too_large", Outcome.LOST),
            (outbound.NameNotFound, "name_not_found", Outcome.RETRY),
            (outbound.Refused, "refused", Outcome.RETRY),
            (outbound.Unreachable, "unreachable", Outcome.RETRY),
            (outbound.TlsFailed, "tls", Outcome.RETRY),
            (outbound.OutboundError, "broken", Outcome.LOST),
        )
        if isinstance(error, kind)
    )
    status = error.status if isinstance(error, outbound.TooLarge) else 0
    return Answer(outcome, status, code, error.detail[:MAX_TEXT], latency_ms)


def by_status(got: outbound.Answer, *, code: str = "") -> Answer:
    """Judge an answer by nothing but its HTTP status: 2xx is `LOST` here, since it did not say what it had to."""
    if got.status < 300:
        return Answer(Outcome.LOST, got.status, code or "not_json", said(got), got.milliseconds)
    if got.status in {404, 410}:
        return Answer(Outcome.REVOKED, got.status, code or "revoked", said(got), got.milliseconds)
    if got.status in {408, 425, 429} or got.status >= 500:
        wait = retry_after(got.headers.get("retry-after", ""))
        return Answer(Outcome.RETRY, got.status, code or str(got.status), said(got), got.milliseconds, wait)
    return Answer(Outcome.PERMANENT, got.status, code or str(got.status), said(got), got.milliseconds)


def retry_after(value: str, *, now: datetime | None = None) -> int:
    """The seconds that a `Retry-After` header asks for, 0 to an hour; 0 for what is no such header."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return 0
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds()
    # `nan` compares false with everything.
    return int(min(seconds, MAX_RETRY_AFTER)) if seconds > 0 else 0


def said(got: outbound.Answer) -> str:
    """The beginning of an answer's body as text that PostgreSQL and a page can take."""
    return plain(got.body[: MAX_TEXT * 4].decode(errors="replace"))[:MAX_TEXT]


def discreet(answer: Answer, to: Destination) -> Answer:
    """The answer without the address and the secret in its text: some repeat what they were sent, and many read it."""
    text = answer.text
    for part in sorted(_not_to_be_told(to), key=len, reverse=True):
        text = text.replace(part, ELLIPSIS)
        # Of a long answer only the beginning is kept, which may end within it.
        for size in range(min(len(part), len(text)), SECRET_LENGTH - 1, -1):
            if text.endswith(part[:size]):
                text = text[:-size] + ELLIPSIS
                break
    return replace(answer, text=text)


SECRET_LENGTH = 8
"""Parts of an address or a secret that are shorter are words: `hook`, `v2`, `Bearer`."""


def _not_to_be_told(to: Destination) -> set[str]:
    parts = {to.secret, *to.secret.split(), to.address, to.address.removeprefix("+"), to.address.removeprefix("+86")}
    url = urlsplit(to.address)
    if url.netloc:
        pieces = [*url.path.split("/"), *(part.partition("=")[2] for part in url.query.split("&"))]
        path = to.address.partition(url.netloc)[2]
        parts |= {path, path.strip("/"), url.path, url.query, *pieces, *map(unquote, pieces)}
    # The whole secret and the whole address are never too short to be one.
    return {part for part in parts if len(part) >= SECRET_LENGTH or (part and part in {to.secret, to.address})}


def plain(text: str) -> str:
    """One line without control characters."""
    return " ".join("".join(" " if ord(char) < 32 or ord(char) == 127 else char for char in text).split())


def json_object(got: outbound.Answer) -> dict[str, Any] | None:
    """The answer's JSON object, or None when it is anything else."""
    try:
        value = json.loads(got.body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def to_json(value: Any) -> bytes:
    """JSON as short as it gets: limits count bytes, and an escaped Chinese character is six."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# --- bots ------------------------------------------------------------------------------------------------------------

Codes = Mapping[int, tuple[Outcome, int]]


def judge_bot(got: outbound.Answer, *, code_names: Sequence[str], text_names: Sequence[str], codes: Codes) -> Answer:
    """Read a bot's answer: only its own code 0 is success, whatever HTTP says.

    A code that is not in `codes` is tried again: it surely was not taken, and nobody knows for how long.
    """
    body = json_object(got) or {}
    code = next((body[name] for name in code_names if isinstance(body.get(name), int)), None)
    if code is None:
        return by_status(got)
    text = plain(next((str(body[name]) for name in text_names if body.get(name)), ""))[:MAX_TEXT]
    if code == 0:
        outcome = Outcome.OK if got.status < 300 else Outcome.LOST
        return Answer(outcome, got.status, "0", text, got.milliseconds)
    outcome, wait = codes.get(code, (Outcome.RETRY, 0))
    wait = wait or retry_after(got.headers.get("retry-after", ""))
    return Answer(outcome, got.status, str(code), text, got.milliseconds, wait if outcome is Outcome.RETRY else 0)


def is_named_by_us(url: str) -> bool:
    """Whether an administrator has named the address' host as one of bots, which may then be a private one."""
    parts = urlsplit(url)
    return bool({parts.hostname, parts.netloc} & set(settings.ALERT_BOT_HOSTS))


def check_url(address: str, *, hosts: Sequence[str] = ()) -> str:
    """A URL that people gave for messages, tidied; with `hosts`, it must be one of theirs.

    https unless ALERT_ALLOW_HTTP; an address in figures must be a public one unless ALERT_ALLOW_PRIVATE_ADDRESSES.
    Names are looked up when sending, not here. Raises `DomainError` with field "address".
    """
    url = address.strip()
    try:
        parts = urlsplit(url)
        has_port = parts.port != 0
    except ValueError:
        has_port = False
    if not url.isprintable() or " " in url or not has_port or not parts.hostname or len(url) > 2000:
        raise DomainError(_("This is not an address. Copy the whole webhook address."), field="address")
    if parts.username or parts.password:
        raise DomainError(_("The address must not contain a user name or a password."), field="address")
    if parts.scheme != "https" and not (parts.scheme == "http" and settings.ALERT_ALLOW_HTTP):
        raise DomainError(_("The address must begin with https://"), field="address")
    # Only bots live there: a webhook is held to the rules for everybody's addresses.
    is_ours = bool(hosts) and is_named_by_us(url)
    if hosts and parts.hostname not in hosts and not is_ours:
        raise DomainError(
            _("The address must be one of %(hosts)s. An administrator can allow further hosts.")
            % {"hosts": ", ".join(hosts)},
            field="address",
        )
    try:
        literal = ipaddress.ip_address(parts.hostname.split("%")[0])
    except ValueError:
        return url
    may_be_private = settings.ALERT_ALLOW_PRIVATE_ADDRESSES or is_ours
    if addresses.is_forbidden(literal) or not (may_be_private or addresses.is_public(literal)):
        raise UnsafeAddress(
            _("This address is private or reserved. An administrator can allow private ones."), field="address"
        )
    return url


def url_hint(address: str) -> str:
    """The host and the last four characters: `https://open.feishu.cn/…9f2c`."""
    parts = urlsplit(address)
    tail = address[len(f"{parts.scheme}://{parts.netloc}") :].strip("/")
    # A short path has nothing to hide behind: four characters of eight are half the secret.
    return f"{parts.scheme}://{parts.netloc}/…{tail[-4:] if len(tail) >= 16 else ''}"


# --- sizes -----------------------------------------------------------------------------------------------------------

ELLIPSIS = "…"


def cut(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8, no character cut in two, with an ellipsis where something is gone."""
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    room = limit - len(ELLIPSIS.encode())
    if room < 0:
        return ""
    return encoded[:room].decode(errors="ignore") + ELLIPSIS


def fitted(render: Callable[[str], bytes], text: str, limit: int) -> bytes:
    """`render(text)` with as much of `text` as keeps it within `limit` bytes; a character may weigh more rendered."""
    rendered = render(text)
    while len(rendered) > limit and text:
        shorter = cut(text, max(0, len(text.encode()) - (len(rendered) - limit)))
        # An ellipsis may weigh as much as what it stands for.
        text = shorter if len(shorter) < len(text) else text[:-2]
        rendered = render(text)
    return rendered
