"""`seed_demo`: everything once, nothing twice, and the demo server followed to its new port."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from arkconsole.management.commands.seed_demo import PUBLICATIONS, seed
from audit.models import Event
from catalog.models import FoundationModel, ModelServer, ModelVersion
from demo.models import CATALOGUE
from endpoints.models import Endpoint, Status
from iam import keys
from iam.models import ApiKey, Project
from tests.builders import NOW

pytestmark = pytest.mark.django_db


class FakeDemo(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"object": "list", "data": [{"id": "demo-fast"}]}')

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def demo_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeDemo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_first_run_leaves_an_endpoint_that_answers_and_a_key_that_opens_it(demo_url: str, tmp_path: Path) -> None:
    seed(url=demo_url, data_dir=tmp_path, now=NOW)
    assert ModelServer.objects.get().state == ModelServer.State.UP
    assert {version.public_id for version in ModelVersion.objects.select_related("model")} >= {
        "demo-fast-251001", "demo-thinking-251115", "demo-embedding-250901",
    }  # fmt: skip
    endpoint = Endpoint.objects.get()
    assert (endpoint.project_id, endpoint.status) == ("default", Status.RUNNING)
    assert (tmp_path / "demo-endpoint").read_text().strip() == endpoint.pk
    key_file = tmp_path / "demo-key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert ApiKey.objects.get().digest == keys.digest(key_file.read_text().strip())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo-endpoint", "demo-key"]


def test_every_model_of_the_demo_server_is_published_as_what_it_is() -> None:
    by_name = {publication.upstream_model: publication for publication in PUBLICATIONS}
    assert by_name.keys() == {model.id for model in CATALOGUE}
    for model in CATALOGUE:
        publication = by_name[model.id]
        assert publication.context_tokens == model.context_tokens
        assert not model.refuses & set(publication.known_parameters)
        assert (publication.domain == FoundationModel.Domain.EMBEDDING) == (model.kind == "embedding")


def test_a_second_run_changes_nothing_and_asks_little(demo_url: str, tmp_path: Path) -> None:
    seed(url=demo_url, data_dir=tmp_path, now=NOW)
    events = Event.objects.count()
    key = (tmp_path / "demo-key").read_text()
    with CaptureQueriesContext(connection) as queries:
        seed(url=demo_url, data_dir=tmp_path, now=NOW)
    assert len(queries) <= 6
    assert Event.objects.count() == events
    assert (tmp_path / "demo-key").read_text() == key


def test_the_server_is_followed_to_its_new_port_and_keeps_what_people_set(demo_url: str, tmp_path: Path) -> None:
    seed(url="http://127.0.0.1:1", data_dir=tmp_path, now=NOW)
    assert not Endpoint.objects.exists()  # nothing works yet; the next run makes it
    ModelServer.objects.update(read_timeout_seconds=7)
    seed(url=f"{demo_url}/v1", data_dir=tmp_path, now=NOW)
    server = ModelServer.objects.get()
    assert (server.base_url, server.read_timeout_seconds) == (f"{demo_url}/v1", 7)
    assert Endpoint.objects.get().status == Status.RUNNING


def test_a_lost_key_file_gets_a_new_key_and_the_lost_key_opens_nothing(demo_url: str, tmp_path: Path) -> None:
    seed(url=demo_url, data_dir=tmp_path, now=NOW)
    lost = ApiKey.objects.get()
    (tmp_path / "demo-key").unlink()
    seed(url=demo_url, data_dir=tmp_path, now=NOW)
    lost.refresh_from_db()
    assert lost.deleted_at is not None
    assert ApiKey.objects.get(deleted_at__isnull=True).digest == keys.digest(
        (tmp_path / "demo-key").read_text().strip()
    )


def test_a_key_file_of_another_database_is_replaced(demo_url: str, tmp_path: Path) -> None:
    (tmp_path / "demo-key").write_text("stale\n")
    (tmp_path / "demo-endpoint").write_text("ep-gone\n")
    seed(url=demo_url, data_dir=tmp_path, now=NOW)
    assert ApiKey.objects.get().digest == keys.digest((tmp_path / "demo-key").read_text().strip())
    assert (tmp_path / "demo-endpoint").read_text().strip() == Endpoint.objects.get().pk


def test_without_demo_nothing_happens_and_without_address_it_says_so(settings: Settings) -> None:
    settings.DEMO = False
    call_command("seed_demo")
    assert not Project.objects.exists()
    settings.DEMO, settings.DEMO_URL = True, ""
    with pytest.raises(CommandError, match="DEMO_URL"):
        call_command("seed_demo")
