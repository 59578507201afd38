"""The page of API keys: as owner, as reader, from another project, and full."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from arkconsole import health
from iam import keys
from iam.models import ApiKey, KeyScope, User
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db
HTMX = {"hx-request": "true"}


def signed_in(person: User) -> Client:
    client = Client(headers={"accept-language": "en"})
    client.force_login(person)
    return client


@pytest.fixture
def owner() -> User:
    return builders.member(builders.project("default"), username="owner")


def form(**values: Any) -> dict[str, Any]:
    return {
        "name": "worker",
        "reach": "project",
        "expiry": "never",
        "expires_at": "",
        "allowed_ips": "",
        "ids": "",
        **values,
    }


def test_an_empty_list_says_what_a_key_is_and_offers_the_first(owner: User) -> None:
    page = signed_in(owner).get("/keys/").content.decode()

    assert "No API key yet" in page
    assert page.count('href="/keys/create"') == 2


def test_a_reader_sees_keys_and_no_buttons() -> None:
    key = builders.api_key(project=builders.project("default"), name="worker")
    page = signed_in(builders.member(key.project, policy_name="ArkReadOnlyAccess")).get("/keys/").content.decode()

    assert "worker" in page
    assert "/keys/create" not in page
    assert f"/keys/{key.pk}/" not in page


def test_keys_of_other_projects_are_neither_listed_nor_found(owner: User) -> None:
    other = builders.api_key(project=builders.project("elsewhere"), name="theirs")
    client = signed_in(owner)

    assert "theirs" not in client.get("/keys/").content.decode()
    for path in ("edit", "delete"):
        assert client.get(f"/keys/{other.pk}/{path}").status_code == 404
    for path in ("edit", "delete", "enable", "disable"):
        assert client.post(f"/keys/{other.pk}/{path}", form()).status_code == 404
    assert ApiKey.objects.get(pk=other.pk).deleted_at is None


def test_a_key_is_made_and_shown_once(owner: User) -> None:
    client = signed_in(owner)

    response = client.post("/keys/create", form(allowed_ips="10.0.0.0/8", expiry="7"))

    key = ApiKey.objects.get()
    secret = re.findall(r"sk-ark-\w{40}", response.content.decode())[0]
    assert keys.digest(secret) == key.digest
    assert key.created_by == owner
    assert key.allowed_ips == ["10.0.0.0/8"]
    assert key.expires_at is not None
    assert abs(key.expires_at - timezone.now() - timedelta(days=7)) < timedelta(minutes=1)
    assert "no-store" in response.headers["Cache-Control"]
    assert secret not in client.get("/keys/").content.decode()
    assert secret not in client.get(f"/keys/{key.pk}/edit").content.decode()


def test_in_the_dialog_the_key_is_shown_there_and_the_list_is_told(owner: User) -> None:
    response = signed_in(owner).post("/keys/create", form(), headers={**HTMX, "hx-target": "dialog"})

    assert "<html" not in response.content.decode()
    assert "keysChanged" in json.loads(response.headers["HX-Trigger"])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": ""}, "This field is required"),
        ({"allowed_ips": "10.0.0.5/24"}, "Write 10.0.0.0/24 for the network"),
        ({"reach": "chosen"}, "Choose at least one endpoint or model"),
        ({"reach": "chosen", "ids": "ep-nothing"}, "no endpoint or model “ep-nothing”"),
        ({"expiry": "at"}, "Say when the key expires"),
        ({"expiry": "at", "expires_at": "2020-01-01T00:00"}, "lies in the past"),
        ({"expiry": "at", "expires_at": "tomorrow"}, "Enter a valid date/time"),
    ],
)
@pytest.mark.parametrize("headers", [{}, {**HTMX, "hx-target": "dialog"}])
def test_what_is_wrong_is_said_beside_its_field_and_nothing_typed_is_lost(
    owner: User, values: dict[str, Any], says: str, headers: dict[str, str]
) -> None:
    response = signed_in(owner).post("/keys/create", form(**{"name": "my key", **values}), headers=headers)

    page = response.content.decode()
    assert response.status_code == 422
    assert says in page
    assert ("my key" in page) or not values.get("name", "x")
    assert not ApiKey.objects.exists()


def test_a_key_for_one_endpoint_is_made_in_place(owner: User) -> None:
    endpoint = builders.endpoint(project=builders.project("default"), name="客服助手")
    client = signed_in(owner)

    page = client.get(f"/keys/create?endpoint={endpoint.pk}&next=/endpoints/{endpoint.pk}/api").content.decode()
    assert "客服助手" in page
    assert re.search(rf'name="scope" value="endpoint:{endpoint.pk}" checked', page)

    response = client.post(
        "/keys/create",
        form(reach="chosen", scope=[f"endpoint:{endpoint.pk}"], next=f"/endpoints/{endpoint.pk}/api"),
    )

    assert f'href="/endpoints/{endpoint.pk}/api"' in response.content.decode()
    assert list(KeyScope.objects.values_list("resource_type", "resource_id")) == [("endpoint", endpoint.pk)]


def test_the_way_back_never_leads_elsewhere(owner: User) -> None:
    page = signed_in(owner).get("/keys/create?next=https://evil.example.com/").content.decode()

    assert 'href="https://evil' not in page
    assert 'name="next" value="/keys/"' in page


def test_typed_ids_and_ticked_ones_add_up(owner: User) -> None:
    project = builders.project("default")
    endpoint, preset = builders.endpoint(project=project), builders.endpoint(project=project)
    model_id = preset.version.public_id

    signed_in(owner).post(
        "/keys/create", form(reach="chosen", scope=[f"endpoint:{endpoint.pk}"], ids=f"{endpoint.pk}\n{model_id}")
    )

    assert set(KeyScope.objects.values_list("resource_type", "resource_id")) == {
        ("endpoint", endpoint.pk), ("model", model_id),
    }  # fmt: skip


def test_the_scope_is_searched_among_the_projects_own_things(owner: User) -> None:
    mine = builders.endpoint(project=builders.project("default"), name="alpha")
    theirs = builders.endpoint(project=builders.project("elsewhere"), name="alpha too")
    client = signed_in(owner)

    page = client.get("/keys/scope-options?find=ALPHA").content.decode()

    assert mine.pk in page
    assert theirs.pk not in page
    assert mine.version.public_id in client.get("/keys/scope-options").content.decode()
    assert "Nothing matches" in client.get("/keys/scope-options?find=zzz").content.decode()


def test_a_key_is_edited_from_what_it_is(owner: User) -> None:
    endpoint = builders.endpoint(project=builders.project("default"))
    moment = timezone.now().replace(microsecond=0, second=0) + timedelta(days=3)
    key = builders.api_key(project=endpoint.project, name="before", allowed_ips=["10.0.0.1"], expires_at=moment)
    key.scopes.create(resource_type="endpoint", resource_id=endpoint.pk)
    client = signed_in(owner)

    page = client.get(f"/keys/{key.pk}/edit").content.decode()
    assert 'value="before"' in page
    assert "10.0.0.1" in page
    assert f'value="endpoint:{endpoint.pk}" checked' in page
    written = re.findall(r'name="expires_at" value="([^"]+)"', page)[0]
    response = client.post(
        f"/keys/{key.pk}/edit",
        form(name="after", expiry="at", expires_at=written),
        headers={**HTMX, "hx-target": "dialog"},
    )

    assert response.headers["HX-Redirect"] == "/keys/"
    key.refresh_from_db()
    assert (key.name, key.allowed_ips, key.expires_at) == ("after", [], moment)
    assert not key.scopes.exists()


def test_a_key_is_disabled_in_its_row(owner: User) -> None:
    key = builders.api_key(project=builders.project("default"))

    response = signed_in(owner).post(f"/keys/{key.pk}/disable", headers=HTMX)

    page = response.content.decode()
    assert page.count("<tr") == 1
    assert "Disabled" in page
    assert "refused from now on" in json.loads(response.headers["HX-Trigger"])["toast"]["message"]


def test_without_a_script_each_button_leads_back_to_the_list(owner: User) -> None:
    key = builders.api_key(project=builders.project("default"))
    client = signed_in(owner)

    for action in ("disable", "enable", "delete"):
        assert client.post(f"/keys/{key.pk}/{action}").headers["Location"] == "/keys/"
    assert "deleted" in client.get("/keys/").content.decode()


def test_nothing_is_changed_by_looking(owner: User) -> None:
    key = builders.api_key(project=builders.project("default"))
    client = signed_in(owner)

    assert [client.get(f"/keys/{key.pk}/{action}").status_code for action in ("enable", "disable")] == [405, 405]
    assert client.get(f"/keys/{key.pk}/delete").status_code == 200
    assert ApiKey.objects.get(deleted_at=None).is_enabled


def test_the_delete_dialog_says_when_the_key_was_last_used(owner: User) -> None:
    used = builders.api_key(project=builders.project("default"), last_used_at=timezone.now() - timedelta(hours=2))
    unused = builders.api_key(project=used.project)
    client = signed_in(owner)

    assert "2 hours ago" in client.get(f"/keys/{used.pk}/delete").content.decode()
    assert "never used" in client.get(f"/keys/{unused.pk}/delete").content.decode()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"alpha", "beta", "gamma"}),
        ("?q=ALPH", {"alpha"}),
        ("?q=sk-ark-BBBB", {"beta"}),
        ("?state=enabled", {"alpha"}),
        ("?state=disabled", {"beta"}),
        ("?state=expired", {"gamma"}),
        ("?state=enabled&q=beta", set()),
        ("?state=nonsense", {"alpha", "beta", "gamma"}),
    ],
)
def test_keys_are_found_by_name_beginning_and_state(owner: User, query: str, expected: set[str]) -> None:
    project = builders.project("default")
    builders.api_key(project=project, name="alpha", prefix="sk-ark-AAAA")
    builders.api_key(project=project, name="beta", prefix="sk-ark-BBBB", is_enabled=False)
    builders.api_key(
        project=project, name="gamma", prefix="sk-ark-CCCC", expires_at=timezone.now() - timedelta(hours=1)
    )

    page = signed_in(owner).get(f"/keys/{query}").content.decode()

    assert {name for name in ("alpha", "beta", "gamma") if f">{name}<" in page} == expected


def test_a_whole_key_pasted_into_the_search_finds_its_row_and_leaves_the_address(owner: User) -> None:
    secret = keys.generate()
    builders.api_key(project=builders.project("default"), name="lost and found", prefix=keys.shown(secret))

    response = signed_in(owner).get("/keys/", {"q": secret}, follow=True)

    assert "lost and found" in response.content.decode()
    assert response.redirect_chain == [(f"/keys/?q={keys.shown(secret)}&state=", 302)]
    assert secret not in response.content.decode()


def test_the_list_alone_is_answered_to_htmx(owner: User) -> None:
    response = signed_in(owner).get("/keys/?q=x", headers={**HTMX, "hx-target": "key-list"})

    assert response.content.decode().strip().startswith('<div id="key-list"')


def test_names_are_escaped(owner: User) -> None:
    builders.api_key(project=builders.project("default"), name="<script>alert(1)</script>")

    assert "<script>alert" not in signed_in(owner).get("/keys/").content.decode()


def fill(number: int) -> None:
    project, person = builders.project("default"), builders.user()
    ApiKey.objects.bulk_create(
        (
            ApiKey(
                project=project, name=f"key {n}", prefix=f"sk-ark-{n:04d}"[:11], digest=f"{n:064d}", created_by=person,
                created_at=NOW + timedelta(seconds=n), is_enabled=n % 3 > 0,
            )
            for n in range(number)
        ),
        batch_size=2_000,
    )  # fmt: skip


def test_a_full_list_costs_as_many_queries_as_a_short_one(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is away is asked every few seconds, not for each page.
    monkeypatch.setattr(health, "watch", health.Watch(remember_seconds=1e9))
    client = signed_in(owner)
    fill(2)
    client.get("/keys/")
    with CaptureQueriesContext(connection) as short:
        client.get("/keys/")
    ApiKey.objects.all().delete()
    fill(120)
    for key in ApiKey.objects.all():
        key.scopes.create(resource_type="endpoint", resource_id="ep-1")

    with CaptureQueriesContext(connection) as full:
        page = client.get("/keys/").content.decode()

    assert page.count("<tr id=") == 50
    assert len(full) <= len(short) + 1  # the names of scopes
    assert len(full) <= 10


@pytest.mark.usefixtures("postgres")
def test_a_page_of_a_hundred_thousand_keys_is_read_off_an_index(owner: User) -> None:
    builders.project("default")
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO iam_apikey (project_id, name, prefix, digest, allowed_ips, is_enabled, is_internal, created_at,
                                    created_by_id)
            SELECT 'default', 'key ' || n, 'sk-ark-' || lpad(mod(n, 10000)::text, 4, '0'), lpad(n::text, 64, '0'), '[]',
                   mod(n, 3) > 0, mod(n, 50) = 0, now() - n * interval '1 second', %s
            FROM generate_series(1, 100000) n
            """,
            [owner.pk],
        )
        cursor.execute("ANALYZE iam_apikey")
    client = signed_in(owner)
    client.get("/keys/")

    page = client.get("/keys/").content.decode()
    following = re.findall(r'rel="next" href="([^"]+)"', page)[0].replace("&amp;", "&")
    for path in ("/keys/", following, "/keys/?state=disabled"):
        with CaptureQueriesContext(connection) as asked:
            assert client.get(path).status_code == 200
        (rows,) = [each["sql"] for each in asked if 'FROM "iam_apikey"' in each["sql"] and "LIMIT 51" in each["sql"]]
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN {rows}")
            plan = "\n".join(line for (line,) in cursor.fetchall())
        # The page is read off an index, in its order: nothing is sorted, and nothing is read in vain.
        assert "Index Scan" in plan, plan
        assert "Sort" not in plan, plan
    with CaptureQueriesContext(connection) as asked:
        assert client.get("/keys/?q=nothing+like+it").status_code == 200
    assert len(asked) <= 10
