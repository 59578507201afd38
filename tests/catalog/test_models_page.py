"""/models/: what can be called, for people who may see it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from catalog.models import Deployment, FoundationModel, ModelServer, ModelVersion, PriceTier
from iam.models import User
from tests import builders

pytestmark = pytest.mark.django_db


def signed_in(person: User) -> Client:
    client = Client(headers={"accept-language": "en"})
    client.force_login(person)
    return client


@pytest.fixture
def member() -> Client:
    return signed_in(builders.member(builders.project("default")))


def working(**values: object) -> ModelVersion:
    version = builders.model_version(servers=[builders.model_server()], **values)
    builders.price_tier(version=version)
    return version


def test_a_version_shows_its_id_limits_prices_and_a_way_to_an_endpoint(member: Client) -> None:
    card = builders.foundation_model(name="doubao-seed", display_name="Doubao Seed", vendor="ByteDance")
    version = working(model=card, version="251015", context_tokens=262_144, supports_caching=True)
    builders.price_tier(version=version, input_over_tokens=32_000, input_price=Decimal("1.2"))
    page = member.get("/models/").content.decode()
    assert "Doubao Seed" in page
    assert 'data-copy="doubao-seed-251015"' in page
    assert "0.80" in page
    assert "1.20" in page
    assert "Available" in page
    assert f"version={version.pk}" in page


def test_a_version_that_does_not_work_says_why_and_offers_no_endpoint(member: Client) -> None:
    down = builders.model_server(name="gpu-3", state=ModelServer.State.DOWN, state_reason="timeout")
    version = builders.model_version(servers=[down])
    page = member.get("/models/").content.decode()
    assert "Not available" in page
    assert "gpu-3 is down. The server did not answer in time." in page
    assert f"version={version.pk}" not in page


def test_a_version_that_retires_soon_is_marked_with_its_replacement(member: Client) -> None:
    replacement = working(model=builders.foundation_model(name="new"), version="260101")
    working(retires_at=timezone.now() + timedelta(days=9), replacement=replacement)
    page = member.get("/models/").content.decode()
    assert "Retires" in page
    assert "new-260101" in page


def test_tabs_count_each_domain_and_search_finds_all_words(member: Client) -> None:
    chat = working(model=builders.foundation_model(name="alpha", display_name="Alpha", vendor="Acme"))
    vision = working(model=builders.foundation_model(name="beta", domain="vision"))
    page = member.get("/models/?domain=vision").content.decode()
    assert vision.public_id in page
    assert chat.public_id not in page
    found = member.get("/models/?q=acme alp").content.decode()
    assert chat.public_id in found
    assert vision.public_id not in found
    assert "No model matches" in member.get("/models/?q=acme beta").content.decode()
    assert chat.public_id in member.get("/models/?domain=nonsense").content.decode()


def test_htmx_gets_the_list_alone(member: Client) -> None:
    working()
    response = member.get("/models/", headers={"hx-request": "true", "hx-target": "model-list"})
    assert response.content.decode().strip().startswith("<section")
    assert "HX-Target" in response.headers["Vary"]


def test_who_may_nothing_is_refused_and_who_is_nobody_signs_in() -> None:
    stranger = signed_in(builders.user())
    assert stranger.get("/models/").status_code == 403
    other = builders.member(builders.project("default"), "ark:ListEndpoints")
    response = signed_in(other).get("/models/")
    assert response.status_code == 403
    assert "ark:ListFoundationModels" in response.content.decode()
    assert Client().get("/models/").status_code == 302


def test_reading_is_enough_to_look_but_not_to_create() -> None:
    version = working()
    reader = signed_in(builders.member(builders.project("default"), policy_name="ArkReadOnlyAccess"))
    page = reader.get("/models/").content.decode()
    assert version.public_id in page
    assert f"version={version.pk}" not in page
    assert "/admin/catalog/" not in page


def test_the_empty_page_tells_staff_what_to_do_and_others_whom_to_ask(member: Client) -> None:
    assert "ark:CreateModelServer" in member.get("/models/").content.decode()
    builders.project("default")
    staff = signed_in(builders.user(is_superuser=True, is_staff=True))
    assert "/admin/catalog/modelserver/add/" in staff.get("/models/").content.decode()


def test_no_key_of_a_server_is_read_for_the_page(member: Client) -> None:
    builders.model_version(servers=[builders.model_server(api_key="sk-very-secret")])
    with CaptureQueriesContext(
        connection,
    ) as queries:
        page = member.get("/models/").content.decode()
    assert "secret" not in page
    assert not any("api_key" in query["sql"] for query in queries.captured_queries)


def test_five_hundred_versions_cost_no_more_queries_than_one(member: Client) -> None:
    working()
    with CaptureQueriesContext(connection) as few:
        member.get("/models/")
    server = builders.model_server()
    cards = FoundationModel.objects.bulk_create(
        FoundationModel(name=f"bulk-{number}", display_name=f"Bulk {number:03}") for number in range(100)
    )
    versions = ModelVersion.objects.bulk_create(
        ModelVersion(model=card, version=f"2510{day:02}") for card in cards for day in range(5)
    )
    Deployment.objects.bulk_create(
        Deployment(version=version, server=server, upstream_model="m") for version in versions
    )
    PriceTier.objects.bulk_create(
        PriceTier(
            version=version, input_over_tokens=over, input_price=1, cached_price=0, output_price=2,
            valid_from=builders.NOW - timedelta(days=300),
        )
        for version in versions
        for over in (0, 32_000)
    )  # fmt: skip
    with CaptureQueriesContext(connection) as many:
        response = member.get("/models/")
    assert response.status_code == 200
    # Of the frame's own queries some are asked once in a while only.
    assert [sql["sql"].count("catalog_") > 0 for sql in many].count(True) == 4
    assert [sql["sql"].count("catalog_") > 0 for sql in few].count(True) == 4
    assert len(many) <= 13
    second = member.get(
        response.context["page"].next_cursor and f"/models/?cursor={response.context['page'].next_cursor}"
    )
    shown = {row.version.pk for row in response.context["rows"]} & {row.version.pk for row in second.context["rows"]}
    assert shown == set()
