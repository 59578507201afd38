"""What people do with projects, policies, API keys and their own settings. Each is one transaction with its audit event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import Case, DateTimeField, F, Q, Value, When
from django.utils.translation import gettext as _

from audit.services import GLOBAL, Attempt, attempt
from common import routing
from common.errors import DomainError
from common.models import RouteChange
from iam import keys
from iam.actors import Actor
from iam.models import ApiKey, Attachment, KeyScope, Policy, Project, User
from iam.policies import BUILT_IN
from iam.scopes import Pair, catalogue

CREATE_KEY, UPDATE_KEY, DELETE_KEY, LIST_KEYS = "ark:CreateApiKey", "ark:UpdateApiKey", "ark:DeleteApiKey", "ark:ListApiKeys"  # fmt: skip
MAX_NAME = 64
MAX_SCOPES = 200
INTERNAL_KEYS_KEPT = timedelta(days=1)


@dataclass(frozen=True)
class AllProjects:
    """The resource of acts that concern no single project."""

    project_id: str = GLOBAL
    trn: str = "trn:iam::arkconsole:*"

    def __str__(self) -> str:
        return GLOBAL


EVERYTHING = AllProjects()


# --- projects and policies ------------------------------------------------------------------------------------------------


def create_project(*, project_id: str, name: str, by: Actor, now: datetime) -> Project:
    """Make a project. Raises `DomainError` when the id is taken or not a slug."""
    project = Project(pk=project_id, name=name.strip())
    with attempt(
        by=by, action="iam:CreateProject", project_id=project_id, project_name=name, resource=project.trn,
        resource_name=name, now=now,
    ) as noted:  # fmt: skip
        by.require("iam:CreateProject", EVERYTHING)
        Project._meta.get_field("id").run_validators(project_id)
        if Project.objects.filter(pk=project_id).exists():
            raise DomainError(_("There is a project with this id already."), field="id")
        project.save(force_insert=True)
        noted.changed(id=(None, project_id), name=(None, project.name))
    return project


def attach_policy(
    *,
    policy: Policy,
    by: Actor,
    now: datetime,
    user: User | None = None,
    group: Group | None = None,
    project: Project | None = None,
) -> Attachment:
    """Give a policy to a user or a group, in one project or (None) in all; giving it twice changes nothing."""
    where = project or EVERYTHING
    with attempt(
        by=by, action="iam:AttachPolicy", project_id=where.project_id, project_name=str(project or ""),
        resource=_holder_trn(user, group), resource_name=str(user or group), now=now,
    ) as noted:  # fmt: skip
        by.require("iam:AttachPolicy", where)
        attachment, is_new = Attachment.objects.get_or_create(policy=policy, user=user, group=group, project=project)
        if is_new:
            noted.changed(policy=(None, policy.name))
    return attachment


def detach_policy(*, attachment: Attachment, by: Actor, now: datetime) -> None:
    """Take a policy away again."""
    where = attachment.project or EVERYTHING
    with attempt(
        by=by, action="iam:DetachPolicy", project_id=where.project_id, project_name=str(attachment.project or ""),
        resource=_holder_trn(attachment.user, attachment.group), resource_name=str(attachment.user or attachment.group),
        now=now,
    ) as noted:  # fmt: skip
        by.require("iam:DetachPolicy", where)
        noted.changed(policy=(attachment.policy.name, None))
        attachment.delete()


def _holder_trn(user: User | None, group: Group | None) -> str:
    if (user is None) == (group is None):
        raise DomainError(_("Name either a user or a group."), field="user")
    return f"trn:iam::arkconsole:user/{user.pk}" if user else f"trn:iam::arkconsole:group/{group.pk if group else ''}"


def sync_builtin_policies() -> None:
    """Make the built-in policies say what `iam.policies.BUILT_IN` says; runs at every start."""
    with transaction.atomic():
        for name, (description, statements) in BUILT_IN.items():
            Policy.objects.update_or_create(
                name=name, defaults={"description": description, "statements": statements, "is_builtin": True}
            )


# --- API keys -------------------------------------------------------------------------------------------------------------


def create_api_key(
    *,
    project: Project,
    name: str,
    by: Actor,
    now: datetime,
    scopes: Sequence[Pair] | None = None,
    allowed_ips: str | Iterable[str] = (),
    expires_at: datetime | None = None,
    is_internal: bool = False,
) -> tuple[ApiKey, str]:
    """Make a key and return its row and the key itself, which is kept nowhere.

    `scopes` None is the whole project; else at least one pair. `is_internal` keys are the console's own (try-it): they are
    not listed and need `ark:GetApiKey` only. Raises `DomainError` with `field` name, scopes, allowed_ips or expires_at.
    """
    secret = keys.generate()
    action = "ark:GetApiKey" if is_internal else CREATE_KEY
    with attempt(
        by=by, action=action, project_id=project.pk, project_name=project.name, resource_name=name[:255], now=now
    ) as noted:
        by.require(action, project)
        key = ApiKey(
            project=project, name=_clean_name(name), prefix=keys.shown(secret), digest=keys.digest(secret),
            allowed_ips=keys.parse_networks(allowed_ips), expires_at=_clean_expiry(expires_at, now), created_by=by.user,
            created_at=now, is_internal=is_internal,
        )  # fmt: skip
        pairs = None if scopes is None else _clean_scopes(scopes, project_id=project.pk)
        key.save()
        _set_scopes(key, pairs)
        noted.resource, noted.resource_name = key.trn, key.name
        noted.changed(
            name=(None, key.name), prefix=(None, key.prefix), scopes=(None, _written(pairs)),
            allowed_ips=(None, key.allowed_ips), expires_at=(None, key.expires_at),
        )  # fmt: skip
        _announce(key, now)
    return key, secret


def update_api_key(
    *,
    key: ApiKey,
    name: str,
    scopes: Sequence[Pair] | None,
    allowed_ips: str | Iterable[str],
    expires_at: datetime | None,
    by: Actor,
    now: datetime,
) -> ApiKey:
    """Change a key's name, scope (None: whole project), addresses and expiry. Raises as `create_api_key` does."""
    with _changing(key, action=UPDATE_KEY, by=by, now=now) as (fresh, noted):
        before_pairs = [(scope.resource_type, scope.resource_id) for scope in fresh.scopes.all()] or None
        before = (fresh.name, list(fresh.allowed_ips), fresh.expires_at)
        fresh.name, fresh.allowed_ips = _clean_name(name), keys.parse_networks(allowed_ips)
        if expires_at != fresh.expires_at:
            fresh.expires_at = _clean_expiry(expires_at, now)
        pairs = None if scopes is None else _clean_scopes(scopes, project_id=fresh.project_id, kept=before_pairs or [])
        fresh.save(update_fields=["name", "allowed_ips", "expires_at"])
        if _written(pairs) != _written(before_pairs):
            fresh.scopes.all().delete()
            _set_scopes(fresh, pairs)
        noted.resource_name = fresh.name
        noted.changed(
            name=(before[0], fresh.name), scopes=(_written(before_pairs), _written(pairs)),
            allowed_ips=(before[1], fresh.allowed_ips), expires_at=(before[2], fresh.expires_at),
        )  # fmt: skip
    return fresh


def enable_api_key(*, key: ApiKey, by: Actor, now: datetime) -> ApiKey:
    """Let the key call again. An expired one stays expired."""
    return _set_enabled(key, is_enabled=True, by=by, now=now)


def disable_api_key(*, key: ApiKey, by: Actor, now: datetime) -> ApiKey:
    """Refuse calls with the key until it is enabled again; gateway workers obey within a second."""
    return _set_enabled(key, is_enabled=False, by=by, now=now)


def delete_api_key(*, key: ApiKey, by: Actor, now: datetime) -> None:
    """Refuse the key for ever. Its row stays, so that past calls keep their caller's name."""
    with _changing(key, action=DELETE_KEY, by=by, now=now) as (fresh, noted):
        fresh.is_enabled, fresh.deleted_at = False, now
        fresh.save(update_fields=["is_enabled", "deleted_at"])
        noted.changed(deleted_at=(None, now))


def note_keys_used(*, used: Mapping[int, datetime]) -> None:
    """Note when keys were last used (key id -> latest call); unknown ids do no harm, and no time moves back."""
    ordered = sorted(used.items())
    for start in range(0, len(ordered), 500):
        some = dict(ordered[start : start + 500])
        moments = Case(
            *(When(pk=pk, then=Value(at, output_field=DateTimeField())) for pk, at in some.items()),
            output_field=DateTimeField(),
        )
        is_newer = Q(last_used_at__isnull=True) | Q(last_used_at__lt=F("_latest"))
        ApiKey.objects.alias(_latest=moments).filter(is_newer, pk__in=some).update(last_used_at=moments)


def forget_internal_keys(*, now: datetime) -> int:
    """Remove the console's own short-lived keys a day after they expired; returns how many."""
    old = ApiKey.objects.filter(is_internal=True, expires_at__lt=now - INTERNAL_KEYS_KEPT)
    KeyScope.objects.filter(key__in=old).delete()
    removed: int = old._raw_delete(old.db)  # nothing else points at keys by foreign key
    return removed


@contextmanager
def _changing(key: ApiKey, *, action: str, by: Actor, now: datetime) -> Iterator[tuple[ApiKey, Attempt]]:
    """`attempt` on a key that is still there, locked, with its permission asked first; the workers hear of the change."""
    with attempt(
        by=by, action=action, project_id=key.project_id, project_name=key.project.name, resource=key.trn,
        resource_name=key.name, now=now,
    ) as noted:  # fmt: skip
        by.require(action, key)
        fresh = ApiKey.objects.select_for_update().filter(pk=key.pk, deleted_at__isnull=True).first()
        if fresh is None:
            raise DomainError(_("This key was deleted meanwhile."))
        yield fresh, noted
        _announce(fresh, now)


def _set_enabled(key: ApiKey, *, is_enabled: bool, by: Actor, now: datetime) -> ApiKey:
    with _changing(key, action=UPDATE_KEY, by=by, now=now) as (fresh, noted):
        noted.changed(is_enabled=(fresh.is_enabled, is_enabled))
        fresh.is_enabled = is_enabled
        fresh.save(update_fields=["is_enabled"])
    return fresh


def _announce(key: ApiKey, now: datetime) -> None:
    routing.announce(kind=RouteChange.Kind.KEY, object_ids=[str(key.pk)], now=now)


def _clean_name(name: str) -> str:
    name = " ".join(name.split())
    if not name or len(name) > MAX_NAME:
        raise DomainError(_("Give the key a name of at most %(most)d characters.") % {"most": MAX_NAME}, field="name")
    return name


def _clean_expiry(expires_at: datetime | None, now: datetime) -> datetime | None:
    if expires_at is not None and expires_at <= now:
        raise DomainError(_("The expiry lies in the past."), field="expires_at")
    return expires_at


def _clean_scopes(pairs: Sequence[Pair], *, project_id: str, kept: Sequence[Pair] = ()) -> list[Pair]:
    """The pairs without repeats. A new one must exist in the project; one that the key had may be gone meanwhile."""
    wanted = list(dict.fromkeys(pairs))
    if not wanted:
        raise DomainError(_("Choose at least one endpoint or model, or the whole project."), field="scopes")
    if len(wanted) > MAX_SCOPES:
        raise DomainError(
            _("A key may be limited to at most %(most)d endpoints and models.") % {"most": MAX_SCOPES}, field="scopes"
        )
    new = [pair for pair in wanted if pair not in kept]
    known = catalogue().names(new, project_id=project_id) if new else {}
    for pair in new:
        if pair not in known:
            raise DomainError(
                _("There is no endpoint or model “%(id)s” in this project.") % {"id": pair[1][:80]}, field="scopes"
            )
    return wanted


def _set_scopes(key: ApiKey, pairs: Iterable[Pair] | None) -> None:
    KeyScope.objects.bulk_create(
        KeyScope(key=key, resource_type=kind, resource_id=resource_id) for kind, resource_id in pairs or ()
    )


def _written(pairs: Iterable[Pair] | None) -> list[str] | None:
    return None if pairs is None else sorted(f"{kind}:{resource_id}" for kind, resource_id in pairs)


# --- people ---------------------------------------------------------------------------------------------------------------


def save_settings(*, user: User, language: str, time_zone: str, by: Actor, now: datetime) -> User:
    """A person's own language and time zone ("" follows the browser)."""
    with attempt(
        by=by, action="iam:UpdateOwnSettings", project_id=GLOBAL, resource=_holder_trn(user, None),
        resource_name=user.username, now=now,
    ) as noted:  # fmt: skip
        noted.changed(language=(user.language, language), time_zone=(user.time_zone, time_zone))
        user.language, user.time_zone = language, time_zone
        user.save(update_fields=["language", "time_zone"])
    return user
