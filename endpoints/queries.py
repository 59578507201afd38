"""The list of endpoints: what may be asked of it, and what there is to choose from. Each function says its queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from django.db import connection
from django.db.models import CharField, Count, Exists, F, Func, OuterRef, Q, Value
from django.db.models.functions import Concat
from django.utils.translation import gettext_lazy as _

from catalog.models import FoundationModel
from endpoints.models import TAG_KEY, Endpoint, EndpointQuerySet, Kind, Status
from iam.models import Project, User

# Every order ends in the unique id, so that keyset paging neither repeats nor loses a row.
SORTS: dict[str, tuple[str, ...]] = {
    "-created": ("-created_at", "-id"),
    "created": ("created_at", "id"),
    "name": ("name", "id"),
    "-name": ("-name", "-id"),
    "status": ("status", "id"),
    "-status": ("-status", "-id"),
}
SORT_LABELS = {
    "-created": _("Newest first"),
    "created": _("Oldest first"),
    "name": _("Name, A to Z"),
    "-name": _("Name, Z to A"),
    "status": _("Status, problems first"),
    "-status": _("Status, problems last"),
}
DEFAULT_SORT = "-created"
MAX_CHOICES = 200

Choice = tuple[str, Any]


@dataclass(frozen=True)
class Filters:
    """What the list shows. `model` is a foundation model's name, `creator` a user's id, `tag` is `key=value` or `key`."""

    kind: str = Kind.CUSTOM
    q: str = ""
    status: str = ""
    model: str = ""
    creator: str = ""
    tag: str = ""
    sort: str = DEFAULT_SORT

    @classmethod
    def of(cls, params: Mapping[str, str]) -> Filters:
        """From a query string; what is not known counts as not asked for, since addresses are typed and grow old."""
        values = {each.name: str(params.get(each.name) or "").replace("\0", "").strip() for each in fields(cls)}
        values["kind"] = Kind.PRESET if values["kind"] == Kind.PRESET else Kind.CUSTOM
        if values["status"] not in Status.values:
            values["status"] = ""
        if not (values["creator"].isascii() and values["creator"].isdigit() and len(values["creator"]) < 19):
            values["creator"] = ""
        if values["sort"] not in SORTS:
            values["sort"] = DEFAULT_SORT
        return cls(**values)

    @property
    def is_filtered(self) -> bool:
        """Whether anything narrows the list beyond its tab."""
        return any((self.q, self.status, self.model, self.creator, self.tag))

    @property
    def order(self) -> tuple[str, ...]:
        """For `common.paging.paginate`."""
        return SORTS[self.sort]


@dataclass(frozen=True)
class Counts:
    """How many endpoints a project has, by tab."""

    custom: int = 0
    preset: int = 0


@dataclass(frozen=True)
class Choices:
    """What the filters offer: (value, label)."""

    models: Sequence[Choice] = ()
    creators: Sequence[Choice] = ()
    tags: Sequence[Choice] = ()
    statuses: Sequence[Choice] = field(default_factory=lambda: Status.choices)
    sorts: Sequence[Choice] = field(default_factory=lambda: list(SORT_LABELS.items()))


def endpoints(filters: Filters, *, project: Project) -> EndpointQuerySet:
    """The endpoints of a project that match, with what a row shows; page them by `filters.order`. One query."""
    found = Endpoint.objects.alive().for_list().filter(project=project, kind=filters.kind)
    if filters.q:
        public_id = Concat("version__model__name", Value("-"), "version__version")
        found = found.alias(public_id=public_id).filter(
            Q(name__icontains=filters.q)
            | Q(id__icontains=filters.q)
            | Q(public_id__icontains=filters.q)
            | Q(version__model__display_name__icontains=filters.q)
        )
    if filters.status:
        found = found.filter(status=filters.status)
    if filters.model:
        found = found.filter(version__model__name=filters.model)
    if filters.creator:
        found = found.filter(creator=int(filters.creator))
    if filters.tag:
        found = _tagged(found, filters.tag)
    return found


def _tagged(found: EndpointQuerySet, tag: str) -> EndpointQuerySet:
    """Those with the tag `key=value`, or `key` with any value.

    Not by Django's own key look-up: it takes a key of digits for a position in a list, one with `__` for a look-up.
    """
    key, has_value, value = tag.partition("=")
    if not TAG_KEY.fullmatch(key):
        return found.none()
    if connection.vendor == "postgresql":
        here = Func(F("tags"), Value(key), function="jsonb_extract_path_text", output_field=CharField())
    else:
        here = Func(F("tags"), Value(f'$."{key}"'), function="json_extract", output_field=CharField())
    if has_value:
        return found.alias(tag_value=here).filter(tag_value=value)
    return found.alias(tag_value=here).filter(tag_value__isnull=False)


def counts(*, project: Project) -> Counts:
    """How many endpoints the tabs of a project hold; one query."""
    rows = Endpoint.objects.alive().filter(project=project).order_by().values_list("kind").annotate(count=Count("pk"))
    return Counts(**dict(rows))


def choices(*, project: Project, kind: str) -> Choices:
    """The models, creators and tags that the endpoints of a tab have; three queries."""
    there = Endpoint.objects.alive().filter(project=project, kind=kind).order_by()
    # Asked of the few models and people whether they have one, not of all endpoints which they have.
    models = FoundationModel.objects.filter(Exists(there.filter(version__model=OuterRef("pk"))))
    creators = User.objects.filter(Exists(there.filter(creator=OuterRef("pk")))).order_by("username")
    return Choices(
        models=list(models.values_list("name", "display_name")),
        creators=[(str(pk), name) for pk, name in creators.values_list("pk", "username")],
        tags=_tags(project, kind),
    )


def _tags(project: Project, kind: str) -> list[Choice]:
    """The tags that most endpoints have, by name. The ORM has no word for a function that returns rows."""
    rows_of = "jsonb_each_text" if connection.vendor == "postgresql" else "json_each"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT tag.key, tag.value FROM endpoints_endpoint, {rows_of}(tags) AS tag"  # noqa: S608 - one of two names
            " WHERE project_id = %s AND kind = %s AND deleted_at IS NULL"
            " GROUP BY tag.key, tag.value ORDER BY COUNT(*) DESC, tag.key, tag.value LIMIT %s",
            [project.pk, kind, MAX_CHOICES],
        )
        found = sorted(cursor.fetchall())
    return [(f"{key}={value}", f"{key} = {value}" if value else key) for key, value in found]
