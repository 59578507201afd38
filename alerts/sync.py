"""Rule groups on their way to Prometheus: one file for each, checked, put in its place, read, and looked at again.

The database is the truth, so anything here may run twice, late, or die half-way. What a group waits for or suffers from
stands on it (`sync_state`, `sync_message`); a group that Prometheus does not take keeps the rules that it had, and stops
nobody else's. Two workers never do this at once, and Prometheus is told to read no more often than every five seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from django.conf import settings
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from alerts import promtool, rules
from alerts.models import Pulse, Rule, RuleGroup, SyncState
from alerts.ruler import CannotReload, LoadedRule, Prometheus, Refused, Ruler, Trouble
from common.errors import DomainError
from endpoints.models import Endpoint
from monitoring import installation

BETWEEN_SECONDS = 5.0
"""Reading thousands of rule files costs Prometheus seconds: changes are gathered."""
LOOK_EVERY = timedelta(seconds=30)
"""How often what Prometheus says of its rules is read back; where there are thousands of groups, less often."""
GROUPS_A_SECOND = 100
"""So many groups put looks a second apart, whatever happens: one at 10,000 groups costs seconds of a core."""
CHECKED_AT_ONCE = 250

LOCK, NEW, BEFORE, RELOADED = ".sync.lock", ".new", ".before", ".reloaded"
READ_BACK = "rules.read_back"
"""A pulse: when Prometheus was last asked what it has loaded, answered or not."""
COMPARED = "rules.compared"
"""A pulse: when all groups were last compared with their files, and (its text) how they are rendered there."""


class Waits(StrEnum):
    """Why a group is still on its way, in `sync_message`; its sentence is `sentence()`."""

    NOBODY = "no_prometheus"
    NO_FOLDER = "no_folder"
    UNREACHABLE = "unreachable"
    NO_RELOAD = "no_reload"
    NOT_LOADED = "not_loaded"
    OTHER_CONFIG = "other_config"


HEALTH = "health: "
"""Begins the message of a group that was loaded and cannot be evaluated."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run did. `retry_seconds`: it came too soon after the last one, and should be run again then."""

    active: int = 0
    failed: int = 0
    waits: str = ""
    retry_seconds: float = 0.0
    is_busy: bool = False
    """Another process is at it."""
    is_unchecked: bool = False
    """promtool is missing: our parser judged alone."""


def folder() -> Path | None:
    """Where Prometheus reads rules from, as far as we may write there; None where there is no such folder."""
    return Path(settings.PROMETHEUS_RULES_DIR) if settings.PROMETHEUS_RULES_DIR else None


def is_owed(*, now: datetime) -> bool:
    """Whether `sync` has anything to do. A few short queries; asks nobody outside."""
    if not installation.look().url:
        return False
    place = folder()
    if place is not None and (
        RuleGroup.objects.filter(sync_state=SyncState.PENDING).exists()
        or _is_unfinished(place)
        or _read(place / rules.OPERATORS_FILE) != _operators()
        or _owes_everything(place)
    ):
        return True
    return _known() > 0 and not _has_looked(max(LOOK_EVERY, _apart()), now=now)


def _known() -> int:
    return RuleGroup.objects.filter(Q(deleted_at__isnull=True) | Q(sync_state=SyncState.PENDING)).count()


def _apart() -> timedelta:
    """The least time between two looks."""
    return timedelta(seconds=_known() // GROUPS_A_SECOND)


def _has_looked(within: timedelta, *, now: datetime) -> bool:
    seen = Pulse.objects.filter(pk=READ_BACK).values_list("at", flat=True).first()
    return seen is not None and now - within < seen <= now


def sync(*, now: datetime, everything: bool = False, ruler: Ruler | None = None) -> Outcome:
    """Bring what is on its way to Prometheus, and read back what became of it, unless that was done just before.

    `everything` compares all groups with their files, and removes files of groups that are gone. It happens by itself
    where it is owed (`owe_everything`), and where rules are rendered otherwise than in the files that there are.
    """
    ruler = ruler or Prometheus()
    retire(now=now)
    place = folder()
    outcome = Outcome(waits=Waits.NO_FOLDER)
    if place is not None:
        try:
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
            with _locked(place) as is_ours:
                if not is_ours:
                    return Outcome(retry_seconds=1.0, is_busy=True)
                if not everything and (left := _seconds_left(place)) > 0:
                    return Outcome(retry_seconds=left)
                everything = everything or _owes_everything(place)
                outcome = _Run(place, ruler).run(everything=everything)
                if everything:
                    _pulse(COMPARED, now=now, text=_rendering(place))
        except OSError as error:
            return _wait(f"{error.filename or place}: {error.strerror}")
    if not _has_looked(_apart(), now=now):
        with contextlib.suppress(Trouble):
            read_back(now=now, ruler=ruler)
    return outcome


def owe_everything() -> None:
    """Have the next run compare everything: after a start, the database or the folder may be another one."""
    Pulse.objects.filter(pk=COMPARED).delete()


def _owes_everything(place: Path) -> bool:
    return not Pulse.objects.filter(pk=COMPARED, text=_rendering(place)).exists()


def _rendering(place: Path) -> str:
    """What changes with the settings and the code that render rules, and with the folder."""
    return f"{rules.rendering()} {place}"


def _pulse(name: str, *, now: datetime, text: str = "") -> None:
    values = {"at": now, "text": text}
    Pulse.objects.update_or_create(pk=name, defaults=values, create_defaults={**values, "since": now})


def retire(*, now: datetime) -> int:
    """Groups of endpoints that have been deleted go with them; what they told of stays. How many there were."""
    gone = RuleGroup.objects.filter(deleted_at__isnull=True).exclude(endpoint_id="")
    return gone.exclude(endpoint_id__in=Endpoint.objects.alive().values("pk")).update(
        deleted_at=now, updated_at=now, revision=F("revision") + 1, sync_state=SyncState.PENDING
    )


def _wait(message: str) -> Outcome:
    RuleGroup.objects.filter(sync_state=SyncState.PENDING).exclude(sync_message=message).update(sync_message=message)
    return Outcome(waits=message)


# --- the files ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[bool]:
    """Whether this process alone may write there. Beside the files, so that it holds for all that share them."""
    with (place / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _seconds_left(place: Path) -> float:
    """Until Prometheus may be told to read again; by the file system's clock, which a clock set back cannot stop long."""
    try:
        ago = time.time() - (place / RELOADED).stat().st_mtime
    except OSError:
        return 0.0
    return BETWEEN_SECONDS - ago if 0 <= ago < BETWEEN_SECONDS else 0.0


def _is_unfinished(place: Path) -> bool:
    """Whether files were put that Prometheus was never told of: somebody died between the two."""
    return any((place / BEFORE).glob("*"))


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _operators() -> bytes:
    return rules.text(rules.operators()).encode()


class _Run:
    """One run under the lock. What a file held before is kept beside it until Prometheus has taken the new one."""

    def __init__(self, place: Path, ruler: Ruler) -> None:
        self._place, self._ruler = place, ruler
        self._failed: dict[str, str] = {}
        self._is_unchecked = False

    def run(self, *, everything: bool) -> Outcome:
        groups = {rules.file_name(group.pk): group for group in _groups(everything=everything)}
        wanted = self._wanted(groups)
        if everything:
            alive = set(groups)
            wanted |= {name: None for name in self._on_disk() if name not in alive and name not in wanted}
        wanted[rules.OPERATORS_FILE] = _operators()
        changed = {name: text for name, text in wanted.items() if _read(self._place / name) != text}
        self._check(changed)
        for name, text in changed.items():
            if name not in self._failed:
                self._put(name, text)
        waits = self._reload() if groups or changed or _is_unfinished(self._place) else ""
        self._note(groups, waits)
        failed = sum(name in self._failed for name in groups)
        return Outcome(
            active=0 if waits else len(groups) - failed, failed=failed, waits=waits, is_unchecked=self._is_unchecked
        )

    def _wanted(self, groups: Mapping[str, RuleGroup]) -> dict[str, bytes | None]:
        wanted: dict[str, bytes | None] = {}
        for name, group in groups.items():
            try:
                content = rules.render(rules.spec_of(group))
            except DomainError as error:
                self._failed[name] = error.message
            except (KeyError, TypeError, ValueError) as error:
                self._failed[name] = f"{type(error).__name__}: {error}"
            else:
                wanted[name] = rules.text(content).encode() if content else None
        return wanted

    def _on_disk(self) -> Iterable[str]:
        return [file.name for file in self._place.iterdir() if rules.group_of_file(file.name)]

    def _check(self, changed: Mapping[str, bytes | None]) -> None:
        """What promtool refuses never comes near Prometheus."""
        new = self._place / NEW
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o755)
        names = [name for name, text in changed.items() if text is not None]
        for name in names:
            (new / name).write_bytes(changed[name] or b"")
            (new / name).chmod(0o644)
        for at in range(0, len(names), CHECKED_AT_ONCE):
            self._check_some([new / name for name in names[at : at + CHECKED_AT_ONCE]])

    def _check_some(self, files: Sequence[Path]) -> None:
        verdict = promtool.check(files)
        self._is_unchecked |= verdict.is_missing
        if verdict.is_ok:
            return
        if len(files) == 1:
            self._failed[files[0].name] = verdict.said
            return
        half = len(files) // 2
        self._check_some(files[:half])
        self._check_some(files[half:])

    def _put(self, name: str, text: bytes | None) -> None:
        """A reader finds the old file or the new one. An empty one in BEFORE: there was none."""
        kept = self._place / BEFORE / name
        if not kept.exists():
            kept.parent.mkdir(mode=0o755, exist_ok=True)
            kept.write_bytes(_read(self._place / name) or b"")
        if text is None:
            (self._place / name).unlink(missing_ok=True)
        else:
            fresh = self._place / NEW / name
            if not fresh.exists():
                fresh.write_bytes(text)
                fresh.chmod(0o644)
            fresh.replace(self._place / name)

    def _restore(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """Put back what was there before; return what was taken away."""
        taken: dict[str, bytes | None] = {}
        for name in names:
            taken[name] = _read(self._place / name)
            old = (self._place / BEFORE / name).read_bytes()
            if old:
                fresh = self._place / NEW / name
                fresh.write_bytes(old)
                fresh.chmod(0o644)
                fresh.replace(self._place / name)
            else:
                (self._place / name).unlink(missing_ok=True)
        return taken

    def _reload(self) -> str:
        """Have Prometheus read; what it waits for, "" when it has read."""
        try:
            waits = self._told()
        except CannotReload:
            # Somebody else tells it: what was put is final as far as we are concerned, and read_back sees when.
            waits = Waits.NO_RELOAD
        except Trouble:
            # What it held before stays beside the files: the next run begins where this one ended.
            return Waits.UNREACHABLE
        shutil.rmtree(self._place / BEFORE, ignore_errors=True)
        (self._place / RELOADED).touch()
        os.utime(self._place / RELOADED)
        return waits

    def _told(self) -> str:
        try:
            self._ruler.reload()
        except Refused as error:
            return self._without_the_bad(str(error))
        return ""

    def _without_the_bad(self, said: str) -> str:
        """Find the files that Prometheus does not take, though promtool did: it does not say which they are."""
        names = sorted(file.name for file in (self._place / BEFORE).glob("*"))
        taken = self._restore(names)
        try:
            self._ruler.reload()
        except Refused:
            # It refuses what it had, too: the fault is in another file of its configuration.
            for name, text in taken.items():
                self._put(name, text)
            return f"{Waits.OTHER_CONFIG}: {said}"
        self._try(taken, said)
        return ""

    def _try(self, some: Mapping[str, bytes | None], said: str) -> None:
        for name, text in some.items():
            self._put(name, text)
        try:
            self._ruler.reload()
        except Refused as error:
            self._restore(some)
            if len(some) == 1:
                self._failed |= dict.fromkeys(some, str(error) or said)
                self._ruler.reload()
                return
            entries = list(some.items())
            half = len(entries) // 2
            self._try(dict(entries[:half]), said)
            self._try(dict(entries[half:]), said)

    def _note(self, groups: Mapping[str, RuleGroup], waits: str) -> None:
        """On the rows; one that was edited meanwhile stays on its way."""
        done: list[RuleGroup] = []
        for name, group in groups.items():
            if name in self._failed:
                _set(group.pk, group.revision, SyncState.FAILED, self._failed[name])
            else:
                done.append(group)
        if waits:
            stale = [group.pk for group in done if group.sync_message != waits]
            RuleGroup.objects.filter(pk__in=stale, sync_state=SyncState.PENDING).update(sync_message=waits)
            return
        by_revision: dict[int, list[int]] = {}
        for group in done:
            by_revision.setdefault(group.revision, []).append(group.pk)
        for revision, pks in by_revision.items():
            RuleGroup.objects.filter(pk__in=pks, revision=revision).update(sync_state=SyncState.ACTIVE, sync_message="")


def _groups(*, everything: bool) -> Iterable[RuleGroup]:
    chosen = RuleGroup.objects.prefetch_related("rules")
    if everything:
        chosen = chosen.filter(Q(deleted_at__isnull=True) | Q(sync_state=SyncState.PENDING))
    else:
        chosen = chosen.filter(sync_state=SyncState.PENDING)
    return chosen.order_by("pk")


def _set(pk: int, revision: int, state: str, message: str) -> None:
    RuleGroup.objects.filter(pk=pk, revision=revision).update(sync_state=state, sync_message=message)


# --- what became of it -------------------------------------------------------------------------------------------------


def read_back(*, now: datetime, ruler: Ruler | None = None) -> None:
    """Write down what Prometheus says of its rules: loaded or not, evaluated well or why not. Raises `ruler.Trouble`."""
    try:
        loaded = (ruler or Prometheus()).loaded()
    finally:
        # Also when there was no answer: the next try has its time.
        _pulse(READ_BACK, now=now)
    alive = RuleGroup.objects.filter(deleted_at__isnull=True, is_enabled=True)
    errors = _note_healths(alive, loaded)
    absent: dict[int, list[int]] = {}
    unread: list[int] = []
    for pk, revision, state, said in alive.values_list("pk", "revision", "sync_state", "sync_message"):
        has_loaded = bool(loaded.get(_name(pk)))
        if state == SyncState.PENDING and has_loaded:
            unread.append(pk)
        elif state == SyncState.ACTIVE and pk in errors:
            _set(pk, revision, SyncState.FAILED, HEALTH + "; ".join(errors[pk]))
        elif state == SyncState.ACTIVE and not has_loaded:
            absent.setdefault(revision, []).append(pk)
        elif state == SyncState.FAILED and said.startswith(HEALTH) and has_loaded and pk not in errors:
            _set(pk, revision, SyncState.ACTIVE, "")
    for group in alive.filter(pk__in=unread, sync_state=SyncState.PENDING).prefetch_related("rules"):
        if _digest(group) == {each.digest for each in loaded[_name(group.pk)]}:
            # Read by itself or by somebody else's hand.
            _set(group.pk, group.revision, SyncState.ACTIVE, "")
    expects = Exists(Rule.objects.filter(group=OuterRef("pk"), is_enabled=True).exclude(levels=[]))
    for revision, pks in absent.items():
        missing = alive.filter(expects, pk__in=pks, revision=revision)
        missing.update(sync_state=SyncState.PENDING, sync_message=Waits.NOT_LOADED)
    if folder() is None:
        _note_removed({int(found[1]) for each in loaded if (found := _OF_GROUP.fullmatch(each))})


_OF_GROUP = re.compile(rf"{re.escape(rules.PREFIX)}([0-9]{{1,18}})")


def _name(pk: int) -> str:
    return f"{rules.PREFIX}{pk}"


def _note_healths(alive: QuerySet[RuleGroup], loaded: Mapping[str, Sequence[LoadedRule]]) -> dict[int, list[str]]:
    """Each rule as Prometheus evaluates it; return what is wrong by group. Rows, not instances: there may be 100,000."""
    healths: dict[tuple[str, str], list[int]] = {}
    errors: dict[int, list[str]] = {}
    rows = Rule.objects.filter(group__in=alive).order_by("group_id", "position", "pk")
    columns = rows.values_list("group_id", "pk", "name", "health", "last_error")
    for group_id, some in itertools.groupby(columns, key=lambda row: row[0]):
        parts: dict[str, list[LoadedRule]] = {}
        for each in loaded.get(_name(group_id), ()):
            parts.setdefault(each.rule_id, []).append(each)
        for _group_id, pk, name, *before in some:
            health, error = _worst(parts.get(str(pk), ()))
            if before != [health, error]:
                healths.setdefault((health, error), []).append(pk)
            if health == "err":
                errors.setdefault(group_id, []).append(f"{name}: {error}")
    # Thousands change at once after a start, nearly all of them to the same.
    for (health, error), pks in healths.items():
        Rule.objects.filter(pk__in=pks).update(health=health, last_error=error)
    return errors


def _unwanted() -> QuerySet[RuleGroup]:
    """Groups that make no file: deleted, switched off, or with all their rules switched off."""
    on = Rule.objects.filter(group=OuterRef("pk"), is_enabled=True)
    return RuleGroup.objects.filter(Q(deleted_at__isnull=False) | Q(is_enabled=False) | ~Exists(on))


def _note_removed(loaded: set[int]) -> None:
    """Which files, carried by hand, are gone from Prometheus, and which are there that nobody wants."""
    waiting = _unwanted().filter(sync_state=SyncState.PENDING)
    if gone := set(waiting.values_list("pk", flat=True)) - loaded:
        waiting.filter(pk__in=gone).update(sync_state=SyncState.ACTIVE, sync_message="")
    _unwanted().filter(pk__in=loaded, sync_state=SyncState.ACTIVE).update(sync_state=SyncState.PENDING)


def _worst(parts: Sequence[LoadedRule]) -> tuple[str, str]:
    for part in parts:
        if part.health == "err":
            return "err", part.last_error
    return (parts[0].health if all(part.health == "ok" for part in parts) else "unknown", "") if parts else ("", "")


def _digest(group: RuleGroup) -> set[str]:
    try:
        content = rules.render(rules.spec_of(group))
    except DomainError:
        return set()
    return {rule["annotations"][rules.DIGEST] for rule in content["groups"][0]["rules"]} if content else set()


# --- for pages ---------------------------------------------------------------------------------------------------------


def sentence(group: RuleGroup) -> str:
    """What a group waits for or suffers from, a sentence or two in the reader's language; "" when it is in force."""
    if group.sync_state == SyncState.ACTIVE:
        return ""
    said = group.sync_message
    if group.sync_state == SyncState.FAILED:
        if said.startswith(HEALTH):
            return _("Prometheus cannot evaluate it: %(said)s") % {"said": said.removeprefix(HEALTH)}
        return _("It was refused, and the rules before it stay in force: %(said)s") % {"said": said}
    if not installation.look().url:
        return _("There is no Prometheus here that could evaluate rules.")
    if folder() is None:
        if _is_unwanted(group):
            return removal([file_of(group)])
        return _(
            "This console cannot write the rules of your Prometheus. Download the file, put it among its rule files "
            "and reload it; or name the folder in PROMETHEUS_RULES_DIR."
        )
    match said.partition(":")[0]:
        case Waits.UNREACHABLE:
            return _("Prometheus does not answer. It gets the rules as soon as it does.")
        case Waits.NO_RELOAD:
            return _("The file is in its place. Reload your Prometheus: it may not be told to from here.")
        case Waits.OTHER_CONFIG:
            return _("Prometheus refuses its own configuration, apart from our rules: %(said)s") % {
                "said": said.partition(": ")[2]
            }
        case "" | Waits.NOT_LOADED:
            return _("On its way to Prometheus; this takes seconds.")
    return _("It cannot be written: %(said)s") % {"said": said}


def is_to_be_downloaded() -> bool:
    """Whether rules have to be carried to Prometheus by hand: an external one, and no folder that we may write to."""
    return folder() is None and bool(installation.look().url)


def to_remove(*, project_id: str) -> list[str]:
    """Files that Prometheus may still evaluate and nobody wants any more, where rules are carried by hand; by name."""
    if not is_to_be_downloaded():
        return []
    waiting = _unwanted().filter(project_id=project_id, sync_state=SyncState.PENDING).order_by("pk")
    return [rules.file_name(pk) for pk in waiting.values_list("pk", flat=True)]


def removal(files: Sequence[str]) -> str:
    """What to do about such files, in the reader's language."""
    return _(
        "Remove these files from the rule files of your Prometheus and reload it; their groups were deleted or switched "
        "off: %(files)s"
    ) % {"files": ", ".join(files)}


def file_of(group: RuleGroup) -> str:
    """The name of a group's file."""
    return rules.file_name(group.pk)


def _is_unwanted(group: RuleGroup) -> bool:
    return (
        group.deleted_at is not None or not group.is_enabled or not any(rule.is_enabled for rule in group.rules.all())
    )


def download(group: RuleGroup) -> tuple[str, bytes]:
    """A group's file and its name. Raises `DomainError` where it cannot be rendered or there is nothing in it."""
    content = rules.render(rules.spec_of(group))
    if content is None:
        raise DomainError(_("All rules of this group are switched off."))
    return rules.file_name(group.pk), rules.text(content).encode()


def bundle(groups: Iterable[RuleGroup], *, with_operators: bool = False) -> bytes:
    """The files of several groups as a ZIP archive; groups without anything to evaluate are left out."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for group in groups:
            with contextlib.suppress(DomainError):
                name, content = download(group)
                archive.writestr(name, content)
        if with_operators:
            archive.writestr(rules.OPERATORS_FILE, _operators())
    return made.getvalue()
