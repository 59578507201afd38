"""Keyset paging: a page costs the same at row 1 and at row 1,000,000, and no row is shown twice or lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from django.core import signing
from django.db.models import Model, Q, QuerySet

T = TypeVar("T", bound=Model)


@dataclass(frozen=True)
class Page(Generic[T]):
    """Rows in display order, and the cursors of the pages around them ("" where there is none)."""

    rows: Sequence[T]
    next_cursor: str
    previous_cursor: str


def _encode(direction: str, values: list[Any], *, salt: str) -> str:
    plain = [{"t": value.isoformat()} if isinstance(value, datetime) else value for value in values]
    return signing.dumps([direction, plain], salt=salt)


def _decode(cursor: str, *, salt: str) -> tuple[str, list[Any]] | None:
    try:
        direction, plain = signing.loads(cursor, salt=salt)
    except signing.BadSignature:
        return None
    return direction, [datetime.fromisoformat(value["t"]) if isinstance(value, dict) else value for value in plain]


def _beyond(fields: Sequence[str], values: Sequence[Any], *, forward: bool) -> Q:
    """Rows strictly after (or before) `values` in the order of `fields`; a leading "-" is a descending field."""
    condition = Q()
    for position, field in enumerate(fields):
        name = field.lstrip("-")
        is_greater = forward != field.startswith("-")
        step = Q(**{f"{name}__{'gt' if is_greater else 'lt'}": values[position]})
        for earlier in range(position):
            step &= Q(**{fields[earlier].lstrip("-"): values[earlier]})
        condition |= step
    return condition


def paginate(queryset: QuerySet[T], *, order: Sequence[str], cursor: str, size: int) -> Page[T]:
    """The page at `cursor` ("" is the first). `order` must end in a unique field and hold no nulls.

    A cursor is signed for its table and order: one that was made up, or comes from another order, would compare
    values of the wrong kind. It shows the first page.
    """
    salt = f"common.paging {queryset.model._meta.label} {','.join(order)}"
    decoded = _decode(cursor, salt=salt) if cursor else None
    forward = decoded is None or decoded[0] == "n"
    ordered = queryset.order_by(*order) if forward else queryset.order_by(*order).reverse()
    if decoded:
        ordered = ordered.filter(_beyond(order, decoded[1], forward=forward))
    rows = list(ordered[: size + 1])
    has_more = len(rows) > size
    rows = rows[:size]
    if not forward:
        rows.reverse()

    def at(row: T, direction: str) -> str:
        return _encode(direction, [_value(row, field.lstrip("-")) for field in order], salt=salt)

    has_next = has_more if forward else True
    has_previous = decoded is not None if forward else has_more
    return Page(
        rows=rows,
        next_cursor=at(rows[-1], "n") if rows and has_next else "",
        previous_cursor=at(rows[0], "p") if rows and has_previous else "",
    )


def _value(row: Model, path: str) -> Any:
    value: Any = row
    for part in path.split("__"):
        value = getattr(value, part)
    return value
