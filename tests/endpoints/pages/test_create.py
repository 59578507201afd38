"""/endpoints/create: the form, what it offers, and making exactly one endpoint."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from audit.models import Event
from catalog.models import ModelServer, ModelVersion
from endpoints.models import Endpoint
from iam.models import Project
from tests import builders
from tests.endpoints.pages.clients import htmx, signed_in

pytestmark = pytest.mark.django_db
URL = "/endpoints/create"


def fields(version: ModelVersion, **values: Any) -> dict[str, Any]:
    return {
        "name": "客服助手", "description": "", "model": version.model_id, "version": version.pk, "rpm": "300",
        "tpm": "500000", "tag_key": ["team", ""], "tag_value": ["search", ""], "token": "token-1",
        "project": "default", "limits_of": version.pk, **values,
    }  # fmt: skip


def value(page: str, name: str) -> str:
    tag = re.search(rf'<input[^>]*name="{name}"[^>]*>', page)
    assert tag, f"no input {name}"
    found = re.search(r'value="([^"]*)"', tag[0])
    return found[1] if found else ""


def test_the_version_asked_for_is_chosen_with_its_limits_and_prices(
    client_of_owner: Client, version: ModelVersion
) -> None:
    builders.price_tier(version=version, input_over_tokens=32_000, input_price=Decimal("1.2"))
    page = client_of_owner.get(f"{URL}?version={version.pk}").content.decode()
    assert f'<option value="{version.pk}" selected>251015</option>' in page
    assert value(page, "rpm") == "300"
    assert value(page, "tpm") == "500000"
    assert "0.80" in page
    assert "1.20" in page


def test_the_key_of_a_tag_is_no_secret_in_chinese(client_of_owner: Client, version: ModelVersion) -> None:
    page = client_of_owner.get(URL, headers={"accept-language": "zh"}).content.decode()
    assert 'placeholder="键"' in page
    assert "密钥" not in page


def test_only_versions_that_work_are_offered(client_of_owner: Client, version: ModelVersion) -> None:
    down = builders.model_server(state=ModelServer.State.DOWN)
    dead = builders.model_version(model=builders.foundation_model(name="dead", display_name="Dead"), servers=[down])
    page = client_of_owner.get(URL).content.decode()
    assert "Doubao Seed" in page
    assert ">Dead<" not in page
    gone = client_of_owner.get(f"{URL}?version={dead.pk}").content.decode()
    assert "not served right now" in gone


def test_without_any_version_the_page_says_why_and_what_helps(client_of_owner: Client) -> None:
    page = client_of_owner.get(URL).content.decode()
    assert "No model can be served right now" in page
    assert "An administrator adds model servers" in page


def test_choosing_a_model_brings_its_versions_and_limits(client_of_owner: Client, version: ModelVersion) -> None:
    builders.model_version(servers=[builders.model_server()])
    part = client_of_owner.get(
        f"{URL}/version", {"model": version.model_id, "rpm": "", "tpm": ""}, headers=htmx("version-fields")
    ).content.decode()
    assert part.lstrip().startswith('<div id="version-fields"')
    assert "251015" in part
    assert value(part, "rpm") == "300"


def test_limits_changed_by_hand_stay_when_another_version_is_chosen(
    client_of_owner: Client, version: ModelVersion
) -> None:
    other = builders.model_version(
        model=version.model, version="260101", servers=[builders.model_server()], default_rpm=900, default_tpm=9_000
    )
    query = {"model": version.model_id, "version": other.pk, "rpm": "77", "tpm": "500000", "limits_of": version.pk}
    part = client_of_owner.get(f"{URL}/version", query, headers=htmx("version-fields")).content.decode()
    assert value(part, "rpm") == "77"
    assert value(part, "tpm") == "9000"


def test_the_endpoint_is_made_and_its_page_opens(client_of_owner: Client, version: ModelVersion) -> None:
    response = client_of_owner.post(URL, fields(version))
    made = Endpoint.objects.get()
    assert response.status_code == 302
    assert response.headers["Location"] == f"/endpoints/{made.pk}"
    assert (made.name, made.rpm, made.tpm, made.tags) == ("客服助手", 300, 500_000, {"team": "search"})
    assert made.version == version
    assert made.creator_name == "li.wei"


def test_pressing_twice_makes_one_endpoint_and_opens_it_both_times(
    client_of_owner: Client, version: ModelVersion
) -> None:
    first = client_of_owner.post(URL, fields(version))
    second = client_of_owner.post(URL, fields(version))
    assert Endpoint.objects.count() == 1
    assert first.headers["Location"] == second.headers["Location"]
    client_of_owner.post(URL, fields(version, token="token-2"))
    assert Endpoint.objects.count() == 2


def test_a_refused_press_leaves_the_token_for_the_next(client_of_owner: Client, version: ModelVersion) -> None:
    twice = fields(version, tag_key=["team", "team"], tag_value=["a", "b"])
    refused = client_of_owner.post(URL, twice)
    assert refused.status_code == 422
    assert "is there twice" in refused.content.decode()
    assert Event.objects.get().outcome == Event.Outcome.FAILED
    assert client_of_owner.post(URL, fields(version)).status_code == 302


def test_errors_stand_beside_their_fields_and_what_was_typed_stays(
    client_of_owner: Client, version: ModelVersion
) -> None:
    response = client_of_owner.post(URL, fields(version, name=" ", rpm="0", description="keep me"))
    page = response.content.decode()
    assert response.status_code == 422
    assert 'id="id_name_error"' in page
    assert 'id="id_rpm_error"' in page
    assert "keep me" in page
    assert 'value="search"' in page
    assert not Endpoint.objects.exists()


def test_without_javascript_buttons_redraw_the_form_as_typed(client_of_owner: Client, version: ModelVersion) -> None:
    page = client_of_owner.post(URL, fields(version, add_tag="1", name="typed")).content.decode()
    assert 'value="typed"' in page
    assert page.count('name="tag_key"') == 3
    page = client_of_owner.post(URL, fields(version, remove_tag="0")).content.decode()
    assert 'value="search"' not in page
    page = client_of_owner.post(URL, {**fields(version), "choose": "model", "version": ""}).content.decode()
    assert f'<option value="{version.pk}" selected>' in page
    assert not Endpoint.objects.exists()


def test_a_version_that_is_gone_meanwhile_is_refused_beside_its_field(
    client_of_owner: Client, version: ModelVersion
) -> None:
    builders.model_version(model=version.model, version="260101", servers=[builders.model_server()])
    ModelVersion.objects.filter(pk=version.pk).update(retires_at=timezone.now())
    response = client_of_owner.post(URL, fields(version))
    assert response.status_code == 422
    assert 'id="id_version_error"' in response.content.decode()


def test_who_may_not_create_is_told_which_permission_is_missing(reader: Client, version: ModelVersion) -> None:
    for response in (reader.get(URL), reader.post(URL, fields(version))):
        assert response.status_code == 403
        assert "ark:CreateEndpoint" in response.content.decode()
    assert not Endpoint.objects.exists()


def test_the_form_makes_the_endpoint_in_the_project_it_was_opened_in(
    version: ModelVersion, project: Project, stranger: Client
) -> None:
    other = builders.project("other")
    both = builders.member(project)
    builders.member(other)
    client = signed_in(both)
    assert client.post(URL, fields(version, project="other")).status_code == 404
    assert client.post(URL, fields(version, project="\0")).status_code == 404
    assert client.post(URL, fields(version)).status_code == 302
    assert stranger.post(URL, fields(version)).status_code == 404
