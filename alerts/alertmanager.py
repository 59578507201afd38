"""The door to Alertmanager: its configuration, its silences, and what it holds back.

The database is the truth. Every ten seconds, and soon after a change, what Alertmanager has is compared with it and set
right, so that one that was away, or came back empty, needs nothing from anybody.

Trouble         Alertmanager did not do what it was asked; `str()` is what it said, untranslated
└── Refused     it answers, and does not want what it was given
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from django.conf import settings
from django.db.models import Exists, OuterRef
from django.utils import timezone

from alerts import channels, installation, reports, routing, silences
from alerts.models import ContactMethod, Level, MethodKind, PolicyLevel, Pulse, Silence, SyncState
from alerts.routing import Plan, Timing
from common import tls

log = logging.getLogger(__name__)

TIMEOUT = httpx.Timeout(5.0, connect=2.0)
AHEAD = timedelta(minutes=10)
"""A silence is handed over before it begins, so that it begins in time also when we are away."""

CREATOR = "arkconsole"
INSTALLATION = "installation"
"""A pulse that never beats: its text is a name of this installation's own."""
UNJUDGED = "unprocessed"


MESSAGE_LENGTH = 500
FILE_MODE = 0o644
SAME = timedelta(seconds=2)


class Trouble(Exception):
    """Alertmanager did not do what it was asked."""


class Refused(Trouble):
    """Alertmanager answers, and does not want what it was given."""


# --- its configuration -------------------------------------------------------------------------------------------------


def plans(policy_id: int | None = None) -> list[Plan]:
    """Every level of every policy, or of one; one query."""
    methods = ContactMethod.objects.receiving().filter(
        contact__groups__policy_levels=OuterRef("pk"), contact__groups__deleted_at__isnull=True
    )
    by_kind = {f"has_{kind}": Exists(methods.filter(kind=kind)) for kind in MethodKind.values}
    rows = (
        PolicyLevel.objects.filter(policy__deleted_at__isnull=True).annotate(**by_kind).order_by("policy_id", "level")
    )
    if policy_id is not None:
        rows = rows.filter(policy_id=policy_id)
    return [
        Plan(
            row.policy_id,
            row.level,
            row.group_by,
            Timing(row.wait_seconds, row.interval_seconds, row.repeat_seconds),
            is_told=any(getattr(row, f"has_{kind}", False) and _is_sent(kind, row.level) for kind in row.kinds),
        )
        for row in rows
    ]


def _is_sent(kind: str, level: str) -> bool:
    return channels.is_set_up(kind) and (kind != MethodKind.PHONE or level == Level.P0)


def wanted() -> str:
    """The configuration as it should be now."""
    hook = f"{settings.CONSOLE_INTERNAL_URL}/hooks/alertmanager"
    return routing.text(routing.config(plans(), hook_url=hook, token_file=installation.token_file()))


def write_first() -> None:
    """A configuration that Alertmanager can start with, where there is none yet. Needs no database."""
    path = installation.config_path()
    if path is not None and not path.exists():
        hook = f"{settings.CONSOLE_INTERNAL_URL}/hooks/alertmanager"
        _put(path, routing.text(routing.config([], hook_url=hook, token_file=installation.token_file())))


CONFIGURED = "alertmanager.config"
"""A pulse: when the configuration was last found in force; `text` is what is wrong with it, else ""."""


def configure(*, now: datetime) -> str:
    """Bring the configuration to Alertmanager, where it differs from what is there; return what is wrong, or "".

    Checked before it is put in its place; where Alertmanager refuses it all the same, the one before is put back.
    """
    path = installation.config_path()
    if path is None:
        return ""
    said = _configure(path)
    pulse, is_new = Pulse.objects.get_or_create(name=CONFIGURED, defaults={"at": now, "since": now, "text": said})
    if not is_new and (pulse.text != said or not said):
        Pulse.objects.filter(pk=CONFIGURED).update(
            at=now if not said else pulse.at, since=now if pulse.text != said else pulse.since, text=said
        )
    if said and (is_new or pulse.text != said):
        log.error("the configuration of Alertmanager is not in force: %s", said)
    return said


def _configure(path: Path) -> str:
    text = wanted()
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if before == text:
            if has_loaded(text):
                return ""
            reload()
            return ""
        if faults := check(text):
            return faults
        _put(path, text)
        try:
            reload()
        except Refused:
            if before:
                _put(path, before)
            raise
    except Trouble as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"
    return ""


def check(text: str) -> str:
    """What amtool has against the configuration; "" when nothing, or where there is no amtool."""
    amtool = installation.amtool()
    if amtool is None:
        return ""
    with tempfile.TemporaryDirectory(prefix="ark-alertmanager-") as folder:
        file = Path(folder, "alertmanager.yml")
        file.write_text(text, encoding="utf-8")
        try:
            ran = subprocess.run(
                [str(amtool), "check-config", str(file)], capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.warning("amtool cannot be run: %s", error)
            return ""
    if ran.returncode == 0:
        return ""
    said = " ".join(ran.stdout.replace(str(file), "alertmanager.yml").partition("FAILED:")[2].split())
    return said[:MESSAGE_LENGTH] or f"amtool ended with {ran.returncode}"


def _put(path: Path, text: str) -> None:
    """A reader sees the old text or the new, never half."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as new:
        new.write(text)
    Path(new.name).chmod(FILE_MODE)
    Path(new.name).replace(path)


def has_loaded(text: str) -> bool:
    """Whether what runs was read from this very text: Alertmanager exports a hash of it, by which it can be told."""
    for line in _ask("GET", "/metrics").text.splitlines():
        name, _space, value = line.partition(" ")
        if name == "alertmanager_config_hash":
            small = hashlib.md5(text.encode(), usedforsecurity=False).digest()[:6]
            return float(value) == float(int.from_bytes(small, "little"))
    return True  # one that does not say: the file is what it started with


def reload() -> None:
    """Have it read its configuration again. Raises `Trouble`, `Refused` with its own words where the file is at fault."""
    _ask("POST", "/-/reload")


# --- asking ------------------------------------------------------------------------------------------------------------


def _ask(method: str, path: str, **values: Any) -> httpx.Response:
    url = installation.url()
    if not url:
        raise Trouble("there is no Alertmanager here")
    try:
        with httpx.Client(
            timeout=TIMEOUT, follow_redirects=False, trust_env=False, verify=tls.client_context()
        ) as client:
            answer = client.request(method, f"{url}{path}", **values)
    except httpx.TransportError as error:
        raise Trouble(" ".join(str(error).split())[:MESSAGE_LENGTH] or type(error).__name__) from None
    if answer.is_success:
        return answer
    said = " ".join(answer.text.split())[:MESSAGE_LENGTH] or f"HTTP {answer.status_code}"
    raise Refused(said)


def _json(method: str, path: str, **values: Any) -> Any:
    answer = _ask(method, path, **values)
    try:
        return answer.json()
    except ValueError:
        raise Trouble(f"{path}: not JSON") from None


# --- silences ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """A silence of ours as Alertmanager has it."""

    id: str
    silence_id: int
    starts_at: datetime
    ends_at: datetime


def _creator() -> str:
    """Who silences of ours say made them: another installation may share the Alertmanager, and has numbers of its own."""
    named, _is_new = Pulse.objects.get_or_create(
        name=INSTALLATION, defaults={"at": timezone.now(), "since": timezone.now(), "text": secrets.token_hex(8)}
    )
    return f"{CREATOR}:{named.text}"


def held_silences() -> list[Held]:
    """What Alertmanager has of this installation and has not ended. Raises `Trouble`."""
    found, ours = [], _creator()
    for each in _json("GET", "/api/v2/silences"):
        try:
            creator, _colon, number = str(each["createdBy"]).rpartition(":")
            if creator != ours or not number.isdecimal() or each["status"]["state"] == "expired":
                continue
            starts_at, ends_at = reports.instant(each["startsAt"]), reports.instant(each["endsAt"])
            if starts_at is not None and ends_at is not None:
                found.append(Held(str(each["id"]), int(number), starts_at, ends_at))
        except (KeyError, TypeError, ValueError):
            raise Trouble("/api/v2/silences: not what was expected") from None
    return found


def silence(*, now: datetime) -> None:
    """Bring the silences of the database to Alertmanager: those that hold or begin soon, and no others. Raises `Trouble`."""
    rows = {row.pk: row for row in silences.alive(now=now)}
    windows = {pk: window for pk, row in rows.items() if (window := silences.window(row, now=now)) is not None}
    wanted = {pk: window for pk, window in windows.items() if window.starts_at <= now + AHEAD}
    there: dict[int, str] = {}
    for held in held_silences():
        plan = wanted.get(held.silence_id)
        # One that began before it was handed over begins there when it was: only its end must be the same.
        if plan is not None and held.silence_id not in there and _is_same(held, plan, now):
            there[held.silence_id] = held.id
        else:
            _ask("DELETE", f"/api/v2/silence/{held.id}")
    for pk, plan in wanted.items():
        if pk not in there:
            there[pk] = _hand_over(rows[pk], plan, now)
    _note(rows, there)


def _is_same(held: Held, plan: silences.Window, now: datetime) -> bool:
    is_end = abs(held.ends_at - plan.ends_at) < SAME
    return is_end and (held.starts_at <= max(plan.starts_at, now) + SAME)


def _hand_over(row: Silence, plan: silences.Window, now: datetime) -> str:
    matchers = {**row.matchers, "project": row.project_id}
    body = {
        "matchers": [
            {"name": name, "value": value, "isRegex": False, "isEqual": True} for name, value in matchers.items()
        ],
        "startsAt": max(plan.starts_at, now).astimezone(UTC).isoformat(),
        "endsAt": plan.ends_at.astimezone(UTC).isoformat(),
        "createdBy": f"{_creator()}:{row.pk}",
        "comment": row.reason,
    }
    try:
        return str(_json("POST", "/api/v2/silences", json=body)["silenceID"])
    except Refused as error:
        Silence.objects.filter(pk=row.pk).update(sync_state=SyncState.FAILED, sync_message=str(error)[:255])
        return ""
    except (KeyError, TypeError):
        raise Trouble("/api/v2/silences: not what was expected") from None


def _note(rows: Mapping[int, Silence], there: Mapping[int, str]) -> None:
    for pk, row in rows.items():
        held = there.get(pk, "")
        if held == "" and pk in there:
            continue  # refused: said already
        if (row.alertmanager_id, row.sync_state, row.sync_message) != (held, SyncState.ACTIVE, ""):
            Silence.objects.filter(pk=pk).update(alertmanager_id=held, sync_state=SyncState.ACTIVE, sync_message="")


# --- what it holds back ------------------------------------------------------------------------------------------------


def held_back() -> dict[str, tuple[bool, bool]]:
    """{fingerprint: (silenced, inhibited)} of every alert that Alertmanager knows of. Raises `Trouble`."""
    found = {}
    for each in _json("GET", "/api/v2/alerts"):
        try:
            status, labels = each["status"], each["labels"]
            # One that has only just arrived has not been judged yet.
            if status["state"] != UNJUDGED:
                found[reports.fingerprint(labels)] = (bool(status["silencedBy"]), bool(status["inhibitedBy"]))
        except (KeyError, TypeError, AttributeError):
            raise Trouble("/api/v2/alerts: not what was expected") from None
    return found
