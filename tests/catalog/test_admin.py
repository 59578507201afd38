"""The administrator's way: add a server, test it, publish its models, set prices."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from audit.models import Event
from catalog.models import Deployment, FoundationModel, ModelServer, ModelVersion, PriceTier
from iam.models import User
from tests import builders

pytestmark = pytest.mark.django_db

ADD = "/admin/catalog/modelserver/add/"
TEST_NEW = "/admin/catalog/modelserver/test/"


class FakeVllm(BaseHTTPRequestHandler):
    """A model server that wants the key "sk-right" and has two models."""

    def answer(self, status: int, payload: Any) -> None:
        body = json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        key = self.headers.get("Authorization", "")
        if key != "Bearer sk-right":
            self.answer(401, {"error": {"message": f"wrong key {key}"}})
        elif self.path == "/v1/models":
            models = [{"id": "Qwen/Qwen3-8B", "max_model_len": 40_960}, {"id": "bge-m3", "max_model_len": 8_192}]
            self.answer(200, {"object": "list", "data": models})
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/chat/completions"):
            self.answer(400, {"message": "stream_options: Input should be a valid dictionary"})
        else:
            self.answer(404, {"detail": "Not Found"})

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def vllm() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeVllm)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def admin() -> Client:
    builders.project("default")
    return signed_in(builders.user(is_superuser=True, is_staff=True))


def signed_in(person: User) -> Client:
    client = Client(headers={"accept-language": "en"})
    client.force_login(person)
    return client


def values(url: str, **changes: str) -> dict[str, str]:
    return {
        "name": "my vLLM", "base_url": url, "api_key": "sk-right", "probe_kind": "models",
        "connect_timeout_seconds": "2", "read_timeout_seconds": "60", "is_enabled": "on", **changes,
    }  # fmt: skip


def published(**changes: Any) -> dict[str, Any]:
    fields = {
        "upstream_model": "Qwen/Qwen3-8B", "model_name": "qwen3-8b", "version": "260101", "display_name": "Qwen3 8B",
        "domain": "chat", "context_tokens": "40960", "max_output_tokens": "8192", "default_output_tokens": "1024",
        "default_rpm": "600", "default_tpm": "100000", "currency": "CNY", "input_price": "0.5", "cached_price": "0.1",
        "output_price": "2", "known_parameters": "temperature, top_p",
    }  # fmt: skip
    return {"pick": "Qwen/Qwen3-8B"} | {f"m0-{name}": value for name, value in (fields | changes).items()}


def test_the_connection_is_tested_before_anything_is_saved(admin: Client, vllm: str) -> None:
    response = admin.post(TEST_NEW, values(vllm), headers={"hx-request": "true"})
    page = response.content.decode()
    assert page.strip().startswith('<div id="inspection"')
    assert "Reachable" in page
    assert "Qwen/Qwen3-8B" in page
    assert "stream_options: supported" in page
    assert "Embeddings: not supported" in page
    assert not ModelServer.objects.exists()


def test_without_javascript_the_form_comes_back_with_the_result_and_without_the_key(admin: Client, vllm: str) -> None:
    page = admin.post(TEST_NEW, values(vllm)).content.decode()
    assert "<html" in page
    assert "Qwen/Qwen3-8B" in page
    assert 'value="my vLLM"' in page
    assert "sk-right" not in page


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"api_key": "sk-wrong"}, "401: the server does not accept this key."),
        ({"base_url": "http://169.254.169.254/v1"}, "link-local"),
        ({"base_url": "http://127.0.0.1:1/v1"}, "the connection was refused"),
        ({"base_url": "nonsense"}, "must begin with http"),
        ({"name": ""}, "required"),
    ],
)
def test_what_is_wrong_with_a_connection_is_said(
    admin: Client, vllm: str, changes: dict[str, str], sentence: str
) -> None:
    page = admin.post(TEST_NEW, values(vllm) | changes, headers={"hx-request": "true"}).content.decode()
    assert sentence in page
    assert "sk-wrong" not in page


def test_the_whole_way_from_an_address_to_a_model_that_works(admin: Client, vllm: str) -> None:
    response = admin.post(ADD, values(vllm, publish="1"))
    server = ModelServer.objects.get()
    assert response.headers["Location"] == f"/admin/catalog/modelserver/{server.pk}/publish/"
    page = admin.get(response.headers["Location"]).content.decode()
    assert 'value="Qwen/Qwen3-8B"' in page
    page = admin.get(response.headers["Location"], {"pick": "Qwen/Qwen3-8B"}).content.decode()
    assert 'value="qwen3-8b"' in page
    assert 'value="40960"' in page
    done = admin.post(response.headers["Location"], published())
    assert done.headers["Location"] == "/models/"
    version = ModelVersion.objects.get()
    assert version.public_id == "qwen3-8b-260101"
    assert version.known_parameters == ["temperature", "top_p"]
    assert version.prices.get().input_price == Decimal("0.5")
    assert "Available" in admin.get("/models/").content.decode()


def test_a_second_server_for_a_version_that_there_is(admin: Client, vllm: str) -> None:
    version = builders.model_version(servers=[builders.model_server()])
    server = builders.model_server(base_url=vllm, api_key="sk-right")
    url = f"/admin/catalog/modelserver/{server.pk}/publish/"
    data = {"pick": "Qwen/Qwen3-8B", "m0-upstream_model": "Qwen/Qwen3-8B", "m0-existing": str(version.pk)}
    assert admin.post(url, data).status_code == 302
    assert version.deployments.count() == 2
    assert ModelVersion.objects.count() == 1


def test_of_two_models_the_one_that_is_refused_stays_on_the_page(admin: Client, vllm: str) -> None:
    taken = builders.model_version(model=builders.foundation_model(name="taken"), version="1")
    server = builders.model_server(base_url=vllm, api_key="sk-right")
    first = published(model_name="taken", version="1", upstream_model="a")
    second = {name.replace("m0-", "m1-"): value for name, value in published(upstream_model="b").items()}
    data = first | second | {"pick": ["a", "b"]}
    response = admin.post(f"/admin/catalog/modelserver/{server.pk}/publish/", data)
    assert response.status_code == 422
    page = response.content.decode()
    assert "taken-1 is published already" in page
    assert page.count('name="pick"') == 1
    assert ModelVersion.objects.exclude(pk=taken.pk).get().public_id == "qwen3-8b-260101"


def test_a_server_that_is_away_still_offers_the_list_it_had(admin: Client) -> None:
    server = builders.model_server(base_url="http://127.0.0.1:1/v1", reported_models=["old-model"])
    page = admin.get(f"/admin/catalog/modelserver/{server.pk}/publish/").content.decode()
    assert "refused" in page
    assert "old-model" in page


def test_an_empty_key_keeps_the_stored_one_and_no_page_ever_shows_it(
    admin: Client, vllm: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = builders.model_server(name="my vLLM", base_url=vllm, api_key="sk-right")
    change = f"/admin/catalog/modelserver/{server.pk}/change/"
    pages = [
        admin.get(change),
        admin.post(f"/admin/catalog/modelserver/{server.pk}/test/", values(vllm, api_key="")),
        admin.post(change, values(vllm, api_key="", name="renamed", save="1"), follow=True),
        admin.get("/admin/catalog/modelserver/"),
        admin.get(f"/admin/catalog/modelserver/{server.pk}/publish/"),
    ]
    server.refresh_from_db()
    assert (server.name, server.api_key) == ("renamed", "sk-right")
    for page in pages:
        assert page.status_code == 200
        assert "sk-right" not in page.content.decode()
    assert "Qwen/Qwen3-8B" in pages[1].content.decode()
    assert "sk-right" not in caplog.text
    assert not [event for event in Event.objects.all() if "sk-right" in str(vars(event))]


def test_removing_asks_for_a_post_and_refuses_while_something_runs_there(admin: Client) -> None:
    server = builders.model_server()
    builders.model_version(servers=[server])
    url = f"/admin/catalog/modelserver/{server.pk}/remove/"
    assert admin.get(url).status_code == 405
    assert "Remove them first" in admin.post(url, follow=True).content.decode()
    Deployment.objects.all().delete()
    admin.post(url)
    assert not ModelServer.objects.exists()


@pytest.mark.parametrize(
    "url",
    [
        ADD, TEST_NEW, "/admin/catalog/modelserver/", "/admin/catalog/modelserver/1/change/",
        "/admin/catalog/modelserver/1/publish/", "/admin/catalog/modelversion/1/prices/",
    ],
)  # fmt: skip
def test_others_than_administrators_do_not_get_in(url: str) -> None:
    builders.project("default")
    for client in (Client(), signed_in(builders.member(None)), signed_in(builders.user(is_staff=True))):
        for response in (client.get(url), client.post(url, {})):
            assert response.status_code in (302, 403, 405), response
            assert "Location" not in response.headers or "login" in response.headers["Location"]
    assert not ModelServer.objects.exists()


def test_staff_without_the_catalogue_permissions_may_look_and_not_change(vllm: str) -> None:
    builders.project("default")
    server = builders.model_server()
    reader = signed_in(builders.member(None, policy_name="ArkReadOnlyAccess", is_staff=True))
    assert reader.get("/admin/catalog/modelserver/").status_code == 200
    assert reader.get("/admin/catalog/modelversion/").status_code == 200
    assert reader.post(ADD, values(vllm)).status_code == 403
    assert reader.post(TEST_NEW, values(vllm)).status_code == 403
    assert reader.post(f"/admin/catalog/modelserver/{server.pk}/publish/", published()).status_code == 403
    assert ModelServer.objects.count() == 1
    assert set(Event.objects.filter(outcome="denied").values_list("resource_name", flat=True)) == {"*"}


def test_staff_with_full_access_need_not_be_superusers(vllm: str) -> None:
    builders.project("default")
    keeper = signed_in(builders.member(None, is_staff=True))
    assert keeper.post(ADD, values(vllm, save="1")).status_code == 302
    assert ModelServer.objects.get().name == "my vLLM"


def prices(*rows: tuple[str, str, str, str], valid_from: str = "") -> dict[str, str]:
    data = {
        "currency": "CNY",
        "valid_from": valid_from,
        "tiers-TOTAL_FORMS": str(len(rows)),
        "tiers-INITIAL_FORMS": "0",
    }
    for position, row in enumerate(rows):
        for name, value in zip(("input_over_tokens", "input_price", "cached_price", "output_price"), row, strict=True):
            data[f"tiers-{position}-{name}"] = value
    return data


def test_a_new_price_list_adds_rows_and_changes_none(admin: Client) -> None:
    version = builders.model_version()
    old = builders.price_tier(version=version)
    url = f"/admin/catalog/modelversion/{version.pk}/prices/"
    assert 'value="0.8"' in admin.get(url).content.decode()
    response = admin.post(url, prices(("0", "1", "0.2", "3"), ("32000", "2", "0.4", "6"), ("", "", "", "")))
    assert response.status_code == 302
    assert version.prices.count() == 3
    old.refresh_from_db()
    assert old.input_price == Decimal("0.8")
    half = admin.post(url, prices(("0", "1", "", "3")))
    assert half.status_code == 422
    assert "Fill the whole row" in half.content.decode()
    assert (
        "cannot begin in the past"
        in admin.post(url, prices(("0", "1", "1", "1"), valid_from="2020-01-01T00:00")).content.decode()
    )


def test_every_admin_page_of_the_catalogue_opens(admin: Client) -> None:
    version = builders.model_version(servers=[builders.model_server()])
    builders.price_tier(version=version)
    deployment = Deployment.objects.get()
    pages = [
        "/admin/", "/admin/catalog/", "/admin/catalog/modelserver/?q=x", "/admin/catalog/foundationmodel/",
        "/admin/catalog/foundationmodel/add/", f"/admin/catalog/foundationmodel/{version.model.pk}/change/",
        "/admin/catalog/modelversion/?q=x", "/admin/catalog/modelversion/",
        f"/admin/catalog/modelversion/{version.pk}/change/", f"/admin/catalog/modelversion/{version.pk}/history/",
        f"/admin/catalog/modelversion/{version.pk}/prices/", "/admin/catalog/deployment/?q=x",
        f"/admin/catalog/deployment/{deployment.pk}/change/", ADD,
    ]  # fmt: skip
    for page in pages:
        assert admin.get(page).status_code == 200, page


def test_a_version_is_changed_through_the_service(admin: Client) -> None:
    version = builders.model_version(servers=[builders.model_server()])
    deployment = Deployment.objects.get()
    data = {
        "context_tokens": "1000", "max_output_tokens": "500", "default_output_tokens": "100", "known_parameters": "top_p, seed",
        "default_rpm": "1", "default_tpm": "2", "is_switchable": "on", "released_at_0": "", "released_at_1": "",
        "retires_at_0": "2030-01-01", "retires_at_1": "00:00:00", "replacement": "",
        "deployments-TOTAL_FORMS": "1", "deployments-INITIAL_FORMS": "1", "deployments-0-id": str(deployment.pk),
        "deployments-0-version": str(version.pk), "deployments-0-server": str(deployment.server_id),
        "deployments-0-upstream_model": "renamed", "deployments-0-weight": "3", "deployments-0-is_enabled": "on",
        "prices-TOTAL_FORMS": "0", "prices-INITIAL_FORMS": "0",
    }  # fmt: skip
    url = f"/admin/catalog/modelversion/{version.pk}/change/"
    assert admin.post(url, data).status_code == 302
    version.refresh_from_db()
    deployment.refresh_from_db()
    assert (version.context_tokens, deployment.upstream_model, deployment.weight) == (1000, "renamed", 3)
    assert version.known_parameters == ["seed", "top_p"]
    assert version.retires_at is not None
    assert {"ark:UpdateModelVersion", "ark:UpdateModelDeployment"} <= set(
        Event.objects.values_list("action", flat=True)
    )
    wrong = admin.post(url, data | {"max_output_tokens": "2000"})
    assert "The output cap cannot exceed the context." in wrong.content.decode()


def test_a_card_is_changed_through_the_service(admin: Client) -> None:
    card = builders.foundation_model(name="card")
    data = {"display_name": "New name", "vendor": "", "domain": "chat", "introduction": ""}
    assert admin.post(f"/admin/catalog/foundationmodel/{card.pk}/change/", data).status_code == 302
    assert FoundationModel.objects.get().display_name == "New name"
    assert Event.objects.get().action == "ark:UpdateModel"


def test_versions_published_by_mistake_can_be_removed(admin: Client) -> None:
    mistaken = builders.model_version()
    builders.price_tier(version=mistaken, valid_from=timezone.now())
    used = builders.endpoint().version
    data = {"action": "remove_mistaken", "_selected_action": [str(mistaken.pk), str(used.pk)]}
    page = admin.post("/admin/catalog/modelversion/", data, follow=True).content.decode()
    assert "Endpoints use this version" in page
    assert list(ModelVersion.objects.all()) == [used]
    assert not PriceTier.objects.exists()
