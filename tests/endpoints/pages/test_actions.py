"""What people do from the pages: edit (also two at once), start, stop, delete, with htmx and without."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from audit.models import Event
from endpoints.models import Endpoint, Kind, Status
from iam.models import User
from metering.models import UsageMinute
from tests import builders
from tests.endpoints.pages.clients import events, htmx, signed_in

pytestmark = pytest.mark.django_db


def path(endpoint: Endpoint, action: str) -> str:
    return f"/endpoints/{endpoint.pk}/{action}"


def opened(client: Client, endpoint: Endpoint) -> dict[str, Any]:
    """The edit form as it opens."""
    return fields(client.get(path(endpoint, "edit")).content.decode())


def fields(page: str) -> dict[str, Any]:
    """The fields of the edit form as a browser would post them back."""
    inputs = re.findall(r"<input[^>]*>", page)
    found: dict[str, Any] = {"tag_key": [], "tag_value": []}
    for tag in inputs:
        name = re.search(r'name="([^"]+)"', tag)
        value = re.search(r'value="([^"]*)"', tag)
        if not name or name[1] == "csrfmiddlewaretoken":
            continue
        text = value[1] if value else ""
        if name[1] in ("tag_key", "tag_value"):
            found[name[1]].append(text)
        else:
            found[name[1]] = text
    description = re.search(r'<textarea[^>]*name="description"[^>]*>\s*(.*?)</textarea>', page, re.DOTALL)
    assert description
    return {**found, "description": description[1]}


# --- edit


def test_edit_saves_and_goes_back_to_the_endpoint(client_of_owner: Client, endpoint: Endpoint) -> None:
    form = opened(client_of_owner, endpoint) | {
        "name": "renamed",
        "rpm": "900",
        "tag_key": ["env"],
        "tag_value": ["prod"],
    }
    response = client_of_owner.post(path(endpoint, "edit"), form)
    endpoint.refresh_from_db()
    assert response.headers["Location"] == f"/endpoints/{endpoint.pk}"
    assert (endpoint.name, endpoint.rpm, endpoint.tags, endpoint.revision) == ("renamed", 900, {"env": "prod"}, 1)


def test_edit_over_the_list_closes_the_dialog_and_refreshes_the_row(
    client_of_owner: Client, endpoint: Endpoint
) -> None:
    dialog = client_of_owner.get(path(endpoint, "edit"), headers=htmx("dialog")).content.decode()
    assert "<html" not in dialog
    form = opened(client_of_owner, endpoint) | {"rpm": "900"}
    response = client_of_owner.post(path(endpoint, "edit"), form, headers=htmx("dialog"))
    assert response.status_code == 204
    assert {"closeDialog", "toast", f"changed-{endpoint.pk}"} <= set(events(response))


def test_a_new_name_over_its_own_page_reloads_the_page(client_of_owner: Client, endpoint: Endpoint) -> None:
    form = opened(client_of_owner, endpoint) | {"name": "renamed"}
    here = htmx("dialog", url=f"http://testserver/endpoints/{endpoint.pk}/calls")
    response = client_of_owner.post(path(endpoint, "edit"), form, headers=here)
    assert response.headers["HX-Redirect"] == f"/endpoints/{endpoint.pk}/calls"


def test_errors_of_an_edit_stand_in_the_dialog(client_of_owner: Client, endpoint: Endpoint) -> None:
    form = opened(client_of_owner, endpoint) | {
        "name": "",
        "tag_key": ["a=b"],
        "tag_value": [""],
        "description": "kept",
    }
    response = client_of_owner.post(path(endpoint, "edit"), form, headers=htmx("dialog"))
    assert response.status_code == 422
    assert 'id="id_name_error"' in response.content.decode()
    assert "kept" in response.content.decode()
    response = client_of_owner.post(path(endpoint, "edit"), form | {"name": "x"}, headers=htmx("dialog"))
    assert response.status_code == 422
    assert 'id="tags-error"' in response.content.decode()


def test_the_second_of_two_editors_sees_what_changed_and_loses_nothing(
    client_of_owner: Client, endpoint: Endpoint
) -> None:
    colleague = signed_in(builders.member(endpoint.project, username="wang.fang"))
    mine, theirs = opened(client_of_owner, endpoint), opened(colleague, endpoint)
    colleague.post(path(endpoint, "edit"), theirs | {"name": "their name", "rpm": "700", "description": "theirs"})

    response = client_of_owner.post(
        path(endpoint, "edit"), mine | {"name": "my name", "tag_key": ["env"], "tag_value": ["prod"]}
    )
    page = response.content.decode()
    assert response.status_code == 422
    assert "wang.fang changed this endpoint while you were editing it" in page
    assert "their name" in page
    assert "not changed by you; theirs is kept" in page
    endpoint.refresh_from_db()
    assert (endpoint.name, endpoint.rpm) == ("their name", 700)

    again = fields(page)
    assert again["name"] == "my name"
    assert again["rpm"] == "700"
    assert again["description"].strip() == "theirs"
    assert client_of_owner.post(path(endpoint, "edit"), again).status_code == 302
    endpoint.refresh_from_db()
    assert (endpoint.name, endpoint.rpm, endpoint.description) == ("my name", 700, "theirs")
    assert endpoint.tags == {"env": "prod"}


def test_two_editors_of_different_fields_do_not_disturb_each_other_silently(
    client_of_owner: Client, endpoint: Endpoint
) -> None:
    colleague = signed_in(builders.member(endpoint.project))
    mine, theirs = opened(client_of_owner, endpoint), opened(colleague, endpoint)
    colleague.post(path(endpoint, "edit"), theirs | {"rpm": "700"})
    page = client_of_owner.post(path(endpoint, "edit"), mine | {"description": "my words"}).content.decode()
    assert "theirs is kept" in page
    client_of_owner.post(path(endpoint, "edit"), fields(page))
    endpoint.refresh_from_db()
    assert (endpoint.rpm, endpoint.description) == (700, "my words")


def test_a_redraw_of_the_edit_form_saves_nothing(client_of_owner: Client, endpoint: Endpoint) -> None:
    form = opened(client_of_owner, endpoint) | {"name": "typed", "add_tag": "1"}
    page = client_of_owner.post(path(endpoint, "edit"), form).content.decode()
    assert 'value="typed"' in page
    assert page.count('name="tag_key"') == 2
    endpoint.refresh_from_db()
    assert endpoint.name == "客服助手"


# --- start and stop


def call_of(endpoint: Endpoint, key_name: str, calls: int) -> None:
    UsageMinute.objects.create(
        at=timezone.now() - timedelta(days=1), project_id="default", endpoint_id=endpoint.pk, version_id=1, api="chat",
        key_id=builders.api_key(name=key_name).pk, calls=calls,
    )  # fmt: skip


def test_the_stop_dialog_says_who_would_be_cut_off(client_of_owner: Client, endpoint: Endpoint) -> None:
    call_of(endpoint, "mobile-app", 12_400)
    call_of(endpoint, "nightly", 8)
    page = client_of_owner.get(path(endpoint, "stop"), headers=htmx("dialog")).content.decode()
    assert "2 API keys made 12,408 calls to it in the last 7 days." in page
    assert page.index("mobile-app") < page.index("nightly")
    assert "Stop endpoint" in page


def test_stop_and_start_with_htmx_on_the_list(client_of_owner: Client, endpoint: Endpoint) -> None:
    stopped = client_of_owner.post(path(endpoint, "stop"), headers=htmx("dialog"))
    assert stopped.status_code == 204
    assert {"closeDialog", "toast", f"changed-{endpoint.pk}", f"moved-{endpoint.pk}"} <= set(events(stopped))
    endpoint.refresh_from_db()
    assert endpoint.status == Status.STOPPED
    started = client_of_owner.post(path(endpoint, "start"), headers=htmx(f"row-{endpoint.pk}"))
    row = started.content.decode()
    assert row.lstrip().startswith(f'<tr id="row-{endpoint.pk}"')
    assert "Scheduling" in row
    assert "every 2s" in row
    assert "toast" in events(started)


def test_start_with_htmx_on_its_page_gives_the_status(client_of_owner: Client, endpoint: Endpoint) -> None:
    client_of_owner.post(path(endpoint, "stop"))
    started = client_of_owner.post(path(endpoint, "start"), headers=htmx("endpoint-status"))
    assert started.content.decode().lstrip().startswith('<div id="endpoint-status"')
    assert {"toast", f"moved-{endpoint.pk}"} <= set(events(started))


def test_stop_and_start_in_a_plain_browser(client_of_owner: Client, endpoint: Endpoint) -> None:
    assert "<html" in client_of_owner.get(path(endpoint, "stop")).content.decode()
    for action, status in (("stop", Status.STOPPED), ("start", Status.SCHEDULING)):
        response = client_of_owner.post(path(endpoint, action))
        assert response.headers["Location"] == f"/endpoints/{endpoint.pk}"
        endpoint.refresh_from_db()
        assert endpoint.status == status


def test_stopping_what_is_stopped_says_so_in_the_dialog(client_of_owner: Client, endpoint: Endpoint) -> None:
    client_of_owner.post(path(endpoint, "stop"))
    response = client_of_owner.post(path(endpoint, "stop"), headers=htmx("dialog"))
    assert response.status_code == 422
    assert "stopped already" in response.content.decode()


def test_get_never_starts(client_of_owner: Client, endpoint: Endpoint) -> None:
    assert client_of_owner.get(path(endpoint, "start")).status_code == 405


def test_a_preset_endpoint_cannot_be_stopped(client_of_owner: Client, endpoint: Endpoint) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(kind=Kind.PRESET)
    assert client_of_owner.post(path(endpoint, "stop")).status_code == 422
    endpoint.refresh_from_db()
    assert endpoint.status == Status.RUNNING


# --- delete


def test_a_running_endpoint_is_not_deleted_but_led_to_stopping(client_of_owner: Client, endpoint: Endpoint) -> None:
    page = client_of_owner.get(path(endpoint, "delete"), headers=htmx("dialog")).content.decode()
    assert "Only a stopped endpoint can be deleted" in page
    assert "Delete endpoint" not in page
    response = client_of_owner.post(path(endpoint, "delete"), {"confirm_name": endpoint.name})
    assert response.status_code == 422
    endpoint.refresh_from_db()
    assert endpoint.deleted_at is None


def test_delete_wants_the_name_and_says_who_called(client_of_owner: Client, endpoint: Endpoint) -> None:
    client_of_owner.post(path(endpoint, "stop"))
    call_of(endpoint, "mobile-app", 3)
    page = client_of_owner.get(path(endpoint, "delete")).content.decode()
    assert "1 API key made 3 calls to it in the last 7 days." in page
    assert "mobile-app" in page
    wrong = client_of_owner.post(path(endpoint, "delete"), {"confirm_name": "something"})
    assert wrong.status_code == 422
    assert 'id="id_confirm_name_error"' in wrong.content.decode()
    right = client_of_owner.post(path(endpoint, "delete"), {"confirm_name": " 客服助手 "})
    assert right.headers["Location"] == "/endpoints/"
    assert client_of_owner.get(f"/endpoints/{endpoint.pk}").status_code == 404


def test_delete_over_the_list_takes_the_row_away(client_of_owner: Client, endpoint: Endpoint) -> None:
    client_of_owner.post(path(endpoint, "stop"))
    response = client_of_owner.post(path(endpoint, "delete"), {"confirm_name": "客服助手"}, headers=htmx("dialog"))
    assert {"closeDialog", "toast", f"changed-{endpoint.pk}"} <= set(events(response))
    own = htmx("dialog", url=f"http://testserver/endpoints/{endpoint.pk}")
    assert client_of_owner.get(f"/endpoints/{endpoint.pk}", headers=own).status_code == 404


# --- who may


@pytest.mark.parametrize(
    ("action", "permission"),
    [
        ("edit", "ark:UpdateEndpoint"),
        ("stop", "ark:StopEndpoint"),
        ("start", "ark:StartEndpoint"),
        ("delete", "ark:DeleteEndpoint"),
    ],
)
def test_a_reader_is_told_what_is_missing_and_a_stranger_finds_nothing(
    reader: Client, stranger: Client, endpoint: Endpoint, action: str, permission: str
) -> None:
    denied = reader.post(path(endpoint, action), {"confirm_name": endpoint.name})
    assert denied.status_code == 403
    assert permission in denied.content.decode()
    assert stranger.post(path(endpoint, action)).status_code == 404
    assert Client().post(path(endpoint, action)).headers["Location"].startswith("/accounts/login/")
    endpoint.refresh_from_db()
    assert (endpoint.status, endpoint.deleted_at) == (Status.RUNNING, None)


def test_a_refusal_is_in_the_record(reader: Client, endpoint: Endpoint, owner: User) -> None:
    reader.post(path(endpoint, "stop"))
    event = Event.objects.get(outcome=Event.Outcome.DENIED)
    assert (event.actor_name, event.action) == ("chen.fang", "ark:StopEndpoint")
