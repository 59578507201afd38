"""What a key may be scoped to. Endpoints live in a room above, so what exists is asked through a callable set there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from django.conf import settings

Pair = tuple[str, str]
"""(`KeyScope.ResourceType` value, id)."""
SEARCH_LIMIT = 20


@dataclass(frozen=True)
class Choice:
    """One thing that a key may be scoped to, with the words by which people know it."""

    kind: str
    id: str
    name: str

    @property
    def value(self) -> str:
        """How forms write it: `endpoint:ep-…`."""
        return f"{self.kind}:{self.id}"


class Catalogue(Protocol):
    """What the room above answers."""

    def search(self, *, project_id: str, text: str, limit: int) -> Sequence[Choice]:
        """Endpoints and models of a project that match `text` ("" for the newest), at most `limit`."""

    def names(self, pairs: Iterable[Pair], *, project_id: str) -> Mapping[Pair, str]:
        """The names of those pairs that exist in the project; others are left out."""


def catalogue() -> Catalogue:
    """The catalogue named by `settings.IAM_SCOPE_CATALOGUE`."""
    return cast(Catalogue, import_module(settings.IAM_SCOPE_CATALOGUE))


def parse(values: Iterable[str]) -> list[Pair]:
    """`endpoint:ep-…` texts of a form as pairs, without repeats; what cannot be read is left out."""
    pairs = (tuple(value.strip().split(":", 1)) for value in values)
    return list(dict.fromkeys((pair[0], pair[1].strip()) for pair in pairs if len(pair) == 2 and pair[1].strip()))
