"""The members' page of what can be called."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Count, Q
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from catalog import services
from catalog.models import FoundationModel, ModelVersion, PriceTier
from common.paging import paginate
from iam.actors import actor_of
from iam.requests import ConsoleRequest

PAGE_SIZE = 50
RETIRES_SOON = timedelta(days=30)


@dataclass(frozen=True)
class Row:
    """A version as the list shows it."""

    version: ModelVersion
    availability: services.Availability
    tiers: list[PriceTier]
    retires_soon: bool

    @classmethod
    def of(cls, version: ModelVersion, now: datetime) -> Row:
        return cls(
            version=version,
            availability=services.availability(version, now),
            tiers=services.tiers_in_force(version.prices.all(), at=now),
            retires_soon=version.retires_at is not None and now < version.retires_at <= now + RETIRES_SOON,
        )


@require_GET
def models(request: ConsoleRequest) -> HttpResponse:
    """What is there, by domain, with prices and whether it works. htmx gets the list alone."""
    actor = actor_of(request)
    actor.require("ark:ListFoundationModels", request.project)
    now = timezone.now()
    domain = request.GET.get("domain", "")
    query = " ".join(request.GET.get("q", "").split())[:100]

    counts = {
        row["model__domain"]: row["versions"]
        for row in ModelVersion.objects.values("model__domain").annotate(versions=Count("pk")).order_by()
    }
    found = ModelVersion.objects.for_list()
    if domain in FoundationModel.Domain.values:
        found = found.filter(model__domain=domain)
    else:
        domain = ""
    for word in query.split():
        found = found.filter(
            Q(model__name__icontains=word)
            | Q(model__display_name__icontains=word)
            | Q(model__vendor__icontains=word)
            | Q(version__icontains=word)
        )
    page = paginate(
        found, order=("model__display_name", "-version", "pk"), cursor=request.GET.get("cursor", ""), size=PAGE_SIZE
    )
    context = {
        "domain": domain,
        "query": query,
        "total": sum(counts.values()),
        "tabs": [(value, label, counts.get(value, 0)) for value, label in FoundationModel.Domain.choices],
        "rows": [Row.of(version, now) for version in page.rows],
        "page": page,
        "may_create": actor.can("ark:CreateEndpoint", request.project),
        "may_manage": bool(request.user.is_staff) and actor.can("ark:CreateModelServer", services.CATALOGUE),
    }
    template = "catalog/_models.html" if request.htmx.target == "model-list" else "catalog/models.html"
    response = render(request, template, context)
    # The same address answers with the list or with the page: a cache must not mix them up.
    response.headers["Vary"] = ", ".join(filter(None, [response.headers.get("Vary"), "HX-Target"]))
    return response
