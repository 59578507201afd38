"""/endpoints/: what is there, for people who may see it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from catalog.models import ModelVersion
from endpoints.models import Endpoint, Kind, Status
from iam.models import Project
from metering.models import UsageHour, UsageMinute
from tests import builders
from tests.endpoints.pages.clients import htmx, signed_in

pytestmark = pytest.mark.django_db
URL = "/endpoints/"


def text(client: Client, url: str = URL, **headers: str) -> str:
    response = client.get(url, headers=headers or None)
    assert response.status_code == 200
    return response.content.decode()


def names(page: str) -> list[str]:
    return re.findall(r'class="ep-name"[^>]*>([^<]+)<', page)


def use(endpoint: Endpoint, **values: int) -> None:
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    row = {
        "at": hour,
        "project_id": endpoint.project_id,
        "endpoint_id": endpoint.pk,
        "version_id": 1,
        "api": "chat",
        "key_id": 1,
    }
    UsageHour.objects.create(**row, **values)


def test_a_row_shows_what_look_md_asks_for(client_of_owner: Client, endpoint: Endpoint) -> None:
    use(endpoint, calls=3, input_tokens=4_000_000, output_tokens=200_000)
    page = text(client_of_owner)
    assert "客服助手" in page
    assert f'data-copy="{endpoint.pk}"' in page
    assert "Healthy" in page
    assert "Doubao Seed" in page
    assert "251015" in page
    assert "600 · " in page
    assert "4.2 M" in page
    assert '<svg class="ep-sparkline"' in page
    assert "li.wei" in page
    for action in ("API call", "Edit", "Stop", "Delete"):
        assert action in page
    assert ">Start<" not in page


def test_the_reason_stands_beside_the_status(client_of_owner: Client, endpoint: Endpoint) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(
        status=Status.ABNORMAL, status_reason="servers_down", status_subject="gpu-3", status_detail="refused"
    )
    page = text(client_of_owner)
    assert "Abnormal" in page
    assert "Model server gpu-3 is down." in page


def test_pressure_on_the_limit_is_a_badge_apart_from_the_status(client_of_owner: Client, endpoint: Endpoint) -> None:
    minute = timezone.now().replace(second=0, microsecond=0)
    UsageMinute.objects.create(
        at=minute, project_id="default", endpoint_id=endpoint.pk, version_id=1, api="chat", key_id=1, calls=590
    )
    page = text(client_of_owner)
    assert "Healthy" in page
    assert "Limit pressure 98 %" in page


def test_tabs_count_and_show_custom_and_preset_endpoints(
    client_of_owner: Client, endpoint: Endpoint, version: ModelVersion
) -> None:
    builders.endpoint(id="ep-m-20260421180049-abcde", name="doubao-seed-251015", kind=Kind.PRESET, version=version)
    custom, preset = text(client_of_owner), text(client_of_owner, f"{URL}?kind=preset")
    assert names(custom) == ["客服助手"]
    assert names(preset) == ["doubao-seed-251015"]
    assert re.search(r"Preset <span[^>]*>1<", custom)
    assert re.search(r"Custom <span[^>]*>1<", custom)
    assert ">Stop<" not in preset


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=客服", ["客服助手"]),
        ("q=doubao", ["客服助手"]),
        ("status=Stopped", ["nightly"]),
        ("model=other", ["nightly"]),
        ("tag=team%3Dsearch", ["nightly"]),
        ("sort=name", ["nightly", "客服助手"]),
        ("q=nothing+like+it", []),
        ("status=nonsense&sort=nonsense&creator=x&cursor=%00", ["客服助手", "nightly"]),
    ],
)
def test_search_filters_and_order(client_of_owner: Client, endpoint: Endpoint, query: str, found: list[str]) -> None:
    other = builders.model_version(model=builders.foundation_model(name="other"))
    builders.endpoint(
        name="nightly", status=Status.STOPPED, desired="stopped", version=other, tags={"team": "search"},
        created_at=timezone.now() - timedelta(days=1),
    )  # fmt: skip
    assert names(text(client_of_owner, f"{URL}?{query}")) == found


def test_what_matches_nothing_offers_the_way_back(client_of_owner: Client, endpoint: Endpoint) -> None:
    page = text(client_of_owner, f"{URL}?q=nothing")
    assert "No endpoint matches" in page
    assert "Show all" in page


def test_htmx_gets_the_rows_alone_and_caches_are_told(client_of_owner: Client, endpoint: Endpoint) -> None:
    response = client_of_owner.get(f"{URL}?q=客服", headers=htmx("endpoint-list"))
    part = response.content.decode()
    assert part.lstrip().startswith('<section id="endpoint-list"')
    assert "<html" not in part
    assert "HX-Target" in response.headers["Vary"]


def test_pages_neither_repeat_nor_lose_a_row(client_of_owner: Client, project: Project, version: ModelVersion) -> None:
    at = timezone.now()
    Endpoint.objects.bulk_create(
        builders.endpoint_row(project=project, version=version, name=f"n{n:03d}", created_at=at) for n in range(120)
    )
    seen: list[str] = []
    url = f"{URL}?sort=name"
    while url:
        page = text(client_of_owner, url)
        seen += names(page)
        following = re.search(r'rel="next" href="([^"]+)"', page)
        url = following[1].replace("&amp;", "&") if following else ""
    assert seen == [f"n{n:03d}" for n in range(120)]


def test_fifty_rows_cost_as_many_queries_as_ten(
    client_of_owner: Client, project: Project, version: ModelVersion
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            text(client_of_owner)
        return len(captured)

    made = [builders.endpoint_row(project=project, version=version, tags={"n": str(n)}) for n in range(50)]
    Endpoint.objects.bulk_create(made[:10])
    for each in made[:10]:
        use(each, calls=1)
    queries()  # what is asked once a minute, not once a page
    ten = queries()
    Endpoint.objects.bulk_create(made[10:])
    for each in made[10:]:
        use(each, calls=1)
    assert queries() == ten
    assert ten <= 20


def test_only_rows_that_move_refresh_themselves(client_of_owner: Client, endpoint: Endpoint) -> None:
    assert "every 2s" not in text(client_of_owner)
    Endpoint.objects.filter(pk=endpoint.pk).update(status=Status.SCHEDULING)
    assert "every 2s" in text(client_of_owner)


def test_a_row_answers_nothing_new_then_flashes_once_when_its_status_moved(
    client_of_owner: Client, endpoint: Endpoint
) -> None:
    url = f"{URL}{endpoint.pk}/row"
    assert client_of_owner.get(f"{url}?seen=0.0").status_code == 204
    Endpoint.objects.filter(pk=endpoint.pk).update(status_version=1)
    row = text(client_of_owner, f"{url}?seen=0.0")
    assert 'class="ark-flash"' in row
    assert "seen=1.0" in row
    assert row.lstrip().startswith(f'<tr id="row-{endpoint.pk}"')
    Endpoint.objects.filter(pk=endpoint.pk).update(revision=1)
    assert "ark-flash" not in text(client_of_owner, f"{url}?seen=1.0")


def test_the_row_of_a_deleted_endpoint_goes(client_of_owner: Client, endpoint: Endpoint) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(deleted_at=timezone.now())
    assert text(client_of_owner, f"{URL}{endpoint.pk}/row?seen=0.0") == ""


def test_an_empty_project_says_what_an_endpoint_is_and_offers_the_first(client_of_owner: Client) -> None:
    page = text(client_of_owner)
    assert "No inference endpoint yet" in page
    assert "durable address" in page
    assert "/endpoints/create" in page


def test_an_empty_preset_tab_explains_and_shows_the_line_that_makes_one(
    client_of_owner: Client, version: ModelVersion
) -> None:
    page = text(client_of_owner, f"{URL}?kind=preset")
    assert "No preset endpoint yet" in page
    assert "curl http" in page
    assert "doubao-seed-251015" in page


def test_a_reader_sees_rows_without_what_they_may_not_do(reader: Client, endpoint: Endpoint) -> None:
    page = text(reader)
    assert "客服助手" in page
    for action in (">Edit<", ">Stop<", ">Delete<", "Create inference endpoint"):
        assert action not in page


def test_another_project_sees_nothing_of_it(stranger: Client, endpoint: Endpoint) -> None:
    assert "客服助手" not in text(stranger)
    assert text(stranger, f"{URL}{endpoint.pk}/row?seen=0.0") == ""


def test_who_may_not_list_is_told_which_permission_is_missing(project: Project, endpoint: Endpoint) -> None:
    response = signed_in(builders.member(project, "ark:CreateEndpoint")).get(URL)
    assert response.status_code == 403
    assert "ark:ListEndpoints" in response.content.decode()


def test_a_stranger_to_all_is_sent_to_sign_in(endpoint: Endpoint) -> None:
    response = Client().get(URL)
    assert response.status_code == 302
    assert response.headers["Location"].startswith("/accounts/login/")
