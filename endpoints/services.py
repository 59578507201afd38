"""What people do with endpoints. Each function is one transaction with its audit event as the last statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from audit import services as audit
from catalog.models import ModelVersion
from common import ids, routing
from common.errors import Conflict, DomainError
from common.models import RouteChange
from endpoints import convergence, lifecycle, switch_moves, tasks
from endpoints.lifecycle import Reason
from endpoints.models import TAG_KEY, TAG_VALUE, Desired, Endpoint, Kind, Status, SwitchEvent, VersionSwitch
from endpoints.switch_moves import Step
from endpoints.switching import Code
from endpoints.switching import State as SwitchState
from iam.actors import SYSTEM, Actor
from iam.models import Project

CREATE = "ark:CreateEndpoint"
UPDATE = "ark:UpdateEndpoint"
START = "ark:StartEndpoint"
STOP = "ark:StopEndpoint"
DELETE = "ark:DeleteEndpoint"
GET = "ark:GetEndpoint"
LIST = "ark:ListEndpoints"

MAX_RPM = 10_000_000
MAX_TPM = 2_000_000_000
MAX_NAME = 64
MAX_DESCRIPTION = 500
MAX_TAGS = 20
MAX_TAG_KEY = 64
MAX_TAG_VALUE = 128

Tags = Mapping[str, str] | Sequence[tuple[str, str]]


def create(
    *,
    project: Project,
    name: str,
    description: str,
    version: ModelVersion,
    rpm: int,
    tpm: int,
    tags: Tags,
    by: Actor,
    now: datetime,
) -> Endpoint:
    """A new custom endpoint; the tick makes it healthy once a model server answers.

    Raises `NotAllowed`, or `DomainError` with `field` where a value will not do or no server runs the version now.
    """
    with audit.attempt(
        by=by, action=CREATE, project_id=project.pk, project_name=project.name, resource_name=name.strip(), now=now
    ) as noted:
        by.require(CREATE, project)
        values = _clean(name=name, description=description, rpm=rpm, tpm=tpm, tags=tags)
        if version.is_retired(now):
            raise DomainError(_("This model version has been retired. Choose another one."), field="version")
        if not ModelVersion.objects.working(now).filter(pk=version.pk).exists():
            raise DomainError(
                _("No model server runs this version at the moment. Choose another one."), field="version"
            )
        endpoint = Endpoint.objects.create(
            id=ids.endpoint_id(now=now), kind=Kind.CUSTOM, project=project, version=version, **values,
            status=Status.SCHEDULING, status_reason=Reason.CREATED, status_at=now,
            creator=by.user, creator_name=by.name, created_at=now, updated_at=now,
        )  # fmt: skip
        lifecycle.begin(endpoint=endpoint, now=now, by=by)
        noted.resource, noted.resource_name = endpoint.trn, endpoint.name
        noted.changed(version=(None, version.public_id), **{field: (None, value) for field, value in values.items()})
        tasks.nudge()
    return endpoint


def edit(
    *,
    endpoint: Endpoint,
    revision: int,
    name: str,
    description: str,
    rpm: int,
    tpm: int,
    tags: Tags,
    by: Actor,
    now: datetime,
) -> Endpoint:
    """Change name, description, limits (together) and tags of an endpoint that was read at `revision`.

    Raises `NotAllowed`; `DomainError` with `field`; `Conflict` when others saved first, with `current` naming only the
    fields that they changed to something else than asked for here. Save again with the new revision to overwrite them.
    """
    with _acting(endpoint, UPDATE, by=by, now=now) as (stored, noted):
        values = _clean(name=name, description=description, rpm=rpm, tpm=tpm, tags=tags)
        if stored.revision != revision:
            theirs = _changed_by_others(stored, revision, values)
            if theirs:
                raise Conflict(
                    _("Somebody else changed this endpoint while you were editing it. Nothing of yours was saved yet."),
                    current=theirs,
                )
        changed = {field: value for field, value in values.items() if getattr(stored, field) != value}
        if changed:
            noted.changed(**{field: (getattr(stored, field), value) for field, value in changed.items()})
            _note_limits(stored, changed, by=by, now=now)
            _save_edit(stored, changed, now=now)
    return stored


def start(*, endpoint: Endpoint, by: Actor, now: datetime) -> Endpoint:
    """Have a stopped custom endpoint serve again: Scheduling at once, healthy when a server answers.

    Raises `NotAllowed`, or `DomainError` when it is not stopped, is a preset one, or its model was retired.
    """
    with _acting(endpoint, START, by=by, now=now) as (stored, noted):
        _refuse_preset(stored)
        if stored.status != Status.STOPPED:
            raise DomainError(_("This endpoint is not stopped."))
        if stored.version.is_retired(now):
            raise DomainError(_("Its model version has been retired. Create an endpoint with another one."))
        _want(stored, Desired.RUNNING, now=now)
        noted.changed(status=(stored.status, Status.SCHEDULING))
        lifecycle.move(endpoint=stored, to=Status.SCHEDULING, reason=Reason.STARTED, subject=by.name, now=now, by=by)
        tasks.nudge()
    return stored


def stop(*, endpoint: Endpoint, by: Actor, now: datetime) -> Endpoint:
    """Stop a custom endpoint: the gateway refuses new calls within a second, those under way end where they began.

    Raises `NotAllowed`, or `DomainError` when it is stopped already or a preset one.
    """
    with _acting(endpoint, STOP, by=by, now=now) as (stored, noted):
        _refuse_preset(stored)
        if stored.status == Status.STOPPED:
            raise DomainError(_("This endpoint is stopped already."))
        _want(stored, Desired.STOPPED, now=now)
        noted.changed(status=(stored.status, Status.STOPPED))
        lifecycle.move(endpoint=stored, to=Status.STOPPED, reason=Reason.STOPPED_BY, subject=by.name, now=now, by=by)
    return stored


def delete(*, endpoint: Endpoint, confirm_name: str, by: Actor, now: datetime) -> None:
    """Remove an endpoint for good; its id is never used again. A preset one comes back on the next call by model id.

    Raises `NotAllowed`, or `DomainError`: not stopped (custom), or `confirm_name` is not its name (`field` tells).
    """
    with _acting(endpoint, DELETE, by=by, now=now) as (stored, noted):
        if not stored.is_preset and stored.status != Status.STOPPED:
            raise DomainError(_("Stop this endpoint first; only a stopped one can be deleted."))
        if confirm_name.strip() != stored.name:
            raise DomainError(_("This is not the name of the endpoint."), field="confirm_name")
        Endpoint.objects.alive().filter(pk=stored.pk).update(deleted_at=now, updated_at=now)
        noted.changed(deleted=(False, True))
        if switch := _open_switch(stored):
            code = Code.ENDPOINT_DELETED
            step = Step(SwitchState.ROLLED_BACK, -1, SwitchEvent.Kind.ROLLED_BACK, code=code)
            switch_moves.move(switch=switch, step=step, by=by, now=now)
        routing.announce(kind=RouteChange.Kind.ENDPOINT, object_ids=[stored.pk], now=now)
    endpoint.deleted_at = now


def ensure_preset(*, project_id: str, version_id: int, now: datetime) -> Endpoint:
    """The preset endpoint of a project for a version, made when it is not there; for the gateway, so no permission.

    Safe to call from many workers at once: one row comes out. Healthy at once when a server answers. Raises
    `DomainError` for a project or version that does not exist or a version that was retired.
    """
    wanted = Endpoint.objects.alive().filter(project=project_id, version=version_id, kind=Kind.PRESET)
    if found := wanted.first():
        return found
    try:
        with transaction.atomic():
            # In line behind who came first, so that losing the race leaves no failed attempt in the record.
            project = Project.objects.select_for_update(no_key=True).filter(pk=project_id).first()
            version = ModelVersion.objects.select_related("model").filter(pk=version_id).first()
            if project is None or version is None or version.is_retired(now):
                raise DomainError(_("There is no such model, or it has been retired."))
            return wanted.first() or _create_preset(project, version, now)
    except IntegrityError:
        return wanted.get()


def _create_preset(project: Project, version: ModelVersion, now: datetime) -> Endpoint:
    with audit.attempt(by=SYSTEM, action=CREATE, project_id=project.pk, project_name=project.name, now=now) as noted:
        status, reason, subject, detail = _first_status(version, now)
        endpoint = Endpoint.objects.create(
            id=ids.preset_endpoint_id(now=now), kind=Kind.PRESET, project=project, version=version,
            name=version.public_id[:MAX_NAME], rpm=version.default_rpm, tpm=version.default_tpm,
            status=status, status_reason=reason, status_subject=subject, status_detail=detail, status_at=now,
            creator_name=SYSTEM.name, created_at=now, updated_at=now,
        )  # fmt: skip
        lifecycle.begin(endpoint=endpoint, now=now, by=SYSTEM)
        noted.resource, noted.resource_name = endpoint.trn, endpoint.name
        noted.changed(version=(None, version.public_id), rpm=(None, endpoint.rpm), tpm=(None, endpoint.tpm))
    return endpoint


def _first_status(version: ModelVersion, now: datetime) -> tuple[Status, Reason, str, str]:
    """What the next tick would say of an endpoint of `version`, said at once: (status, reason, subject, detail)."""
    new = convergence.Group(version.pk, Desired.RUNNING, Status.SCHEDULING, Reason.CREATED, "")
    verdict = convergence.judge(group=new, version=convergence.versions_at(now, [version.pk])[version.pk], now=now)
    if verdict is None:
        return Status.SCHEDULING, Reason.CREATED, "", ""
    return verdict.status, verdict.reason, verdict.subject, verdict.detail[: lifecycle.DETAIL_LENGTH]


@contextmanager
def _acting(endpoint: Endpoint, action: str, *, by: Actor, now: datetime) -> Iterator[tuple[Endpoint, audit.Attempt]]:
    """The stored endpoint, locked, inside an audited transaction in which `by` may do `action`."""
    with audit.attempt(
        by=by, action=action, project_id=endpoint.project_id, project_name=endpoint.project.name,
        resource=endpoint.trn, resource_name=endpoint.name, now=now,
    ) as noted:  # fmt: skip
        by.require(action, endpoint)
        # First the row alone: locked together with its version, PostgreSQL drops a row whose version changed during
        # the wait, and people would read that their endpoint has been deleted.
        Endpoint.objects.select_for_update(no_key=True).filter(pk=endpoint.pk).first()
        stored = (
            Endpoint.objects.alive()
            .select_related("version__model", "project", "creator")
            .filter(pk=endpoint.pk)
            .first()
        )
        if stored is None:
            raise DomainError(_("This endpoint has been deleted."))
        yield stored, noted


def _refuse_preset(endpoint: Endpoint) -> None:
    if endpoint.is_preset:
        raise DomainError(_("A preset endpoint is neither started nor stopped; it is there while its model is."))


def _want(endpoint: Endpoint, desired: Desired, *, now: datetime) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(desired=desired, updated_at=now)
    endpoint.desired, endpoint.updated_at = desired, now


def _save_edit(stored: Endpoint, changed: Mapping[str, Any], *, now: datetime) -> None:
    revision = stored.revision + 1
    # Whoever sets one limit has looked at both: they are one decision, and count as changed together.
    touched = set(changed) | ({"rpm", "tpm"} if {"rpm", "tpm"} & set(changed) else set())
    values = {
        **changed,
        "revision": revision,
        "updated_at": now,
        "field_revisions": {**stored.field_revisions, **dict.fromkeys(sorted(touched), revision)},
    }
    Endpoint.objects.filter(pk=stored.pk, revision=stored.revision).update(**values)
    for field, value in values.items():
        setattr(stored, field, value)
    routing.announce(kind=RouteChange.Kind.ENDPOINT, object_ids=[stored.pk], now=now)


def _open_switch(endpoint: Endpoint) -> VersionSwitch | None:
    """The open switch of a locked endpoint, locked."""
    return VersionSwitch.objects.open().select_for_update(no_key=True).filter(endpoint=endpoint).first()


def _note_limits(stored: Endpoint, changed: Mapping[str, Any], *, by: Actor, now: datetime) -> None:
    """Limits belong to the endpoint and not to a version: an open switch goes on, and its log says what changed."""
    if not {"rpm", "tpm"} & set(changed):
        return
    if switch := _open_switch(stored):
        figures = {
            "name": by.name,
            "old_rpm": stored.rpm,
            "old_tpm": stored.tpm,
            "rpm": changed.get("rpm", stored.rpm),
            "tpm": changed.get("tpm", stored.tpm),
        }
        switch_moves.note(switch=switch, code=Code.LIMITS_CHANGED, figures=figures, by=by, now=now)


def _changed_by_others(stored: Endpoint, revision: int, values: Mapping[str, Any]) -> dict[str, list[str]]:
    """What others saved since `revision` and would be lost: {field: [yours, theirs]}."""
    return {
        field: [_text(values[field]), _text(getattr(stored, field))]
        for field, at in stored.field_revisions.items()
        if at > revision and values[field] != getattr(stored, field)
    }


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" if item else key for key, item in sorted(value.items()))
    return str(value)


def _clean(*, name: str, description: str, rpm: int, tpm: int, tags: Tags) -> dict[str, Any]:
    """The values as they are stored; the first that will not do raises `DomainError` with its field."""
    name, description = name.strip(), description.strip()
    if not name:
        raise DomainError(_("Give the endpoint a name."), field="name")
    if len(name) > MAX_NAME:
        raise DomainError(_("A name has at most %(max)s characters.") % {"max": MAX_NAME}, field="name")
    if not name.isprintable():
        raise DomainError(_("A name is one line without control characters."), field="name")
    if len(description) > MAX_DESCRIPTION:
        raise DomainError(
            _("A description has at most %(max)s characters.") % {"max": MAX_DESCRIPTION}, field="description"
        )
    if "\0" in description:
        raise DomainError(_("A description has no control characters."), field="description")
    for field, value, largest in (("rpm", rpm, MAX_RPM), ("tpm", tpm, MAX_TPM)):
        if not 1 <= value <= largest:
            raise DomainError(
                _("%(limit)s must be between 1 and %(max)s.") % {"limit": field.upper(), "max": f"{largest:,}"},
                field=field,
            )
    return {"name": name, "description": description, "rpm": rpm, "tpm": tpm, "tags": _clean_tags(tags)}


def _clean_tags(tags: Tags) -> dict[str, str]:
    pairs = list(tags.items()) if isinstance(tags, Mapping) else list(tags)
    clean: dict[str, str] = {}
    for raw_key, raw_value in pairs:
        key, value = raw_key.strip(), raw_value.strip()
        if not key:
            raise DomainError(_("A tag needs a key."), field="tags")
        if len(key) > MAX_TAG_KEY or len(value) > MAX_TAG_VALUE:
            raise DomainError(
                _(
                    "The tag “%(key)s” is too long: at most %(max_key)s characters for a key and %(max_value)s for a value."
                )
                % {"key": key[:MAX_TAG_KEY], "max_key": MAX_TAG_KEY, "max_value": MAX_TAG_VALUE},
                field="tags",
            )
        if not TAG_KEY.fullmatch(key) or not TAG_VALUE.fullmatch(value):
            raise DomainError(
                _("The tag “%(key)s” may hold letters, digits, spaces and . : / + @ _ - only, its value = as well.")
                % {"key": key},
                field="tags",
            )
        if key in clean:
            raise DomainError(_("The tag “%(key)s” is there twice.") % {"key": key}, field="tags")
        clean[key] = value
    if len(clean) > MAX_TAGS:
        raise DomainError(_("An endpoint has at most %(max)s tags.") % {"max": MAX_TAGS}, field="tags")
    return clean
