"""What API keys may be scoped to, for the keys page of the room below (`iam.scopes.Catalogue`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from django.db.models import Q

from catalog.models import ModelVersion
from endpoints.models import Endpoint, Kind
from iam.models import KeyScope
from iam.scopes import Choice, Pair

ENDPOINT, PRESET, MODEL = (
    KeyScope.ResourceType.ENDPOINT.value, KeyScope.ResourceType.PRESET_ENDPOINT.value, KeyScope.ResourceType.MODEL.value,
)  # fmt: skip


def search(*, project_id: str, text: str, limit: int) -> Sequence[Choice]:
    """Custom endpoints first (newest first), then model ids, by name or id."""
    endpoints = Endpoint.objects.alive().filter(project_id=project_id, kind=Kind.CUSTOM)
    if text:
        endpoints = endpoints.filter(Q(name__icontains=text) | Q(pk__icontains=text))
    found = [
        Choice(ENDPOINT, pk, name) for pk, name in endpoints.order_by("-created_at").values_list("pk", "name")[:limit]
    ]
    needle = text.lower()
    found += [
        Choice(MODEL, version.public_id, str(version))
        for version in ModelVersion.objects.select_related("model")
        if needle in version.public_id or needle in version.model.display_name.lower()
    ]
    return found[:limit]


def names(pairs: Iterable[Pair], *, project_id: str) -> Mapping[Pair, str]:
    """Names of endpoints in the project and of model ids; a preset endpoint is known by its model's id or its own."""
    wanted = list(pairs)
    ids = [name for kind, name in wanted if kind in (ENDPOINT, PRESET)]
    endpoints = Endpoint.objects.alive().filter(pk__in=ids, project_id=project_id).values_list("pk", "kind", "name")
    known: dict[Pair, str] = {(PRESET if kind == Kind.PRESET else ENDPOINT, pk): name for pk, kind, name in endpoints}
    if any(kind in (MODEL, PRESET) for kind, _name in wanted):
        for version in ModelVersion.objects.select_related("model"):
            known[(MODEL, version.public_id)] = known[(PRESET, version.public_id)] = str(version)
    return {pair: known[pair] for pair in wanted if pair in known}
