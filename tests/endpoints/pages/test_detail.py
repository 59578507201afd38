"""One endpoint: overview, API call, try-it, call records, and the fragments that refresh alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from common.errors import Unavailable
from endpoints import services, tryit
from endpoints.models import Endpoint, EndpointEvent, Kind, Status
from endpoints.templatetags.endpoint_figures import amounts
from iam.models import User
from metering.ledger import Cost
from metering.models import UsageHour, UsageMinute
from tests import builders
from tests.endpoints.pages.clients import events, htmx, signed_in

pytestmark = pytest.mark.django_db
PAGES = ("", "/api", "/calls")
FRAGMENTS = ("/status", "/actions", "/trouble", "/basics", "/tags", "/changes", "/history")


def text(client: Client, endpoint: Endpoint, page: str = "") -> str:
    response = client.get(f"/endpoints/{endpoint.pk}{page}")
    assert response.status_code == 200
    return response.content.decode()


# --- who sees what


@pytest.mark.parametrize("page", [*PAGES, *FRAGMENTS])
def test_owner_and_reader_see_it_others_do_not(
    client_of_owner: Client, reader: Client, stranger: Client, endpoint: Endpoint, page: str
) -> None:
    url = f"/endpoints/{endpoint.pk}{page}"
    assert client_of_owner.get(url).status_code == 200
    assert reader.get(url).status_code == 200
    assert stranger.get(url).status_code == 404
    assert Client().get(url).headers["Location"].startswith("/accounts/login/")


def test_a_member_without_the_permission_is_told_its_name(endpoint: Endpoint) -> None:
    client = signed_in(builders.member(endpoint.project, "ark:ListEndpoints"))
    for page in PAGES:
        response = client.get(f"/endpoints/{endpoint.pk}{page}")
        assert response.status_code == 403
        assert "ark:GetEndpoint" in response.content.decode()


def test_a_deleted_endpoint_has_no_page(client_of_owner: Client, endpoint: Endpoint) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(deleted_at=timezone.now())
    assert client_of_owner.get(f"/endpoints/{endpoint.pk}").status_code == 404


@pytest.mark.parametrize("name", ["ep-nope", "ep-%00", "EP-1", "ep-" + "x" * 90])
def test_what_is_no_endpoint_is_not_found(client_of_owner: Client, name: str) -> None:
    assert client_of_owner.get(f"/endpoints/{name}").status_code == 404


# --- overview


def test_the_overview_shows_information_billing_tags_and_changes(
    client_of_owner: Client, endpoint: Endpoint, owner: User
) -> None:
    services.edit(
        endpoint=endpoint, revision=0, name=endpoint.name, description="For the shop", rpm=800, tpm=1_000_000,
        tags={"env": "prod"}, by=builders.actor(owner), now=timezone.now(),
    )  # fmt: skip
    page = text(client_of_owner, endpoint)
    for expected in ("Doubao Seed", "251015", "800 RPM", "For the shop", "By tokens used", "0.80", "env: prod"):
        assert expected in page
    assert re.search(r"li\.wei</strong> edited it", page)
    assert re.search(r"RPM</span> <del>600</del> → <ins>800</ins>", page)


def test_costs_are_of_the_readers_own_day(endpoint: Endpoint, owner: User) -> None:
    owner.time_zone = "Pacific/Kiritimati"
    owner.save()
    tier = endpoint.version.prices.get()
    now = timezone.now()
    row: dict[str, Any] = {
        "project_id": "default", "endpoint_id": endpoint.pk, "version_id": endpoint.version_id, "api": "chat", "key_id": 1,
        "price_id": tier.pk, "calls": 1, "input_tokens": 1_000_000, "output_tokens": 1_000_000,
    }  # fmt: skip
    UsageHour.objects.create(at=now.replace(minute=0, second=0, microsecond=0), **row)
    UsageMinute.objects.create(at=now.replace(second=0, microsecond=0), **row)
    page = text(signed_in(owner), endpoint)
    assert page.count("¥2.80") == 2


def test_the_pages_use_the_words_of_the_spec(client_of_owner: Client, endpoint: Endpoint) -> None:
    """`spec.zh.md`: 基本信息 (接入模型, 限流, 创建人), 计费信息 (计费类型)."""
    page = client_of_owner.get(endpoint.get_absolute_url(), headers={"accept-language": "zh"}).content.decode()
    for word in ("概览", "基本信息", "接入模型", "限流", "创建人", "计费信息", "计费类型", "API 调用", "健康"):
        assert word in page, word


@pytest.mark.parametrize(
    ("limited", "failed", "says"),
    [(9, 0, "9 refused by a limit, 0 failed"), (0, 3, "0 refused by a limit, 3 failed"), (0, 0, "")],
)
def test_the_last_day_says_how_many_calls_failed(
    client_of_owner: Client, endpoint: Endpoint, limited: int, failed: int, says: str
) -> None:
    UsageMinute.objects.create(
        at=timezone.now().replace(second=0, microsecond=0), project_id="default", endpoint_id=endpoint.pk,
        version_id=endpoint.version_id, api="chat", key_id=1, calls=12, limited=limited, failed=failed,
    )  # fmt: skip
    page = text(client_of_owner, endpoint)
    assert says in page
    assert says or "refused by a limit" not in page


def test_an_amount_below_a_cent_is_not_nothing() -> None:
    assert amounts(Cost({"CNY": Decimal("0.0004")})) == "< ¥0.01"
    assert amounts(Cost({"CNY": Decimal("1234.5"), "USD": Decimal("0.5")})) == "¥1,234.50 + $0.50"
    assert amounts(Cost()) == "¥0.00"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.ABNORMAL, "turns healthy by itself as soon as a model server answers"),
        (Status.STOPPED, "InvalidEndpoint.ClosedEndpoint"),
    ],
)
def test_trouble_says_what_can_be_done(
    client_of_owner: Client, endpoint: Endpoint, status: Status, expected: str
) -> None:
    assert expected not in text(client_of_owner, endpoint)
    Endpoint.objects.filter(pk=endpoint.pk).update(status=status)
    assert expected in text(client_of_owner, endpoint)


def test_an_administrator_is_led_from_trouble_to_the_model_servers(endpoint: Endpoint) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(status=Status.ABNORMAL)
    admin = signed_in(builders.user(is_superuser=True, is_staff=True))
    assert "/admin/catalog/modelserver/" in text(admin, endpoint)


def test_a_preset_endpoint_explains_itself_and_has_no_stop(client_of_owner: Client, endpoint: Endpoint) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(kind=Kind.PRESET)
    page = text(client_of_owner, endpoint)
    assert "Made by the first call to this model by its model id" in page
    assert f"/endpoints/{endpoint.pk}/stop" not in page
    assert f"/endpoints/{endpoint.pk}/edit" in page


def test_the_status_moves_by_itself_and_tells_the_other_fragments(client_of_owner: Client, endpoint: Endpoint) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(status=Status.SCHEDULING)
    page = text(client_of_owner, endpoint)
    assert re.search(r'id="endpoint-status"[^>]*every 2s', page)
    url = f"/endpoints/{endpoint.pk}/status"
    assert client_of_owner.get(f"{url}?seen=0.0", headers=htmx("endpoint-status")).status_code == 204
    Endpoint.objects.filter(pk=endpoint.pk).update(status=Status.RUNNING, status_version=1)
    moved = client_of_owner.get(f"{url}?seen=0.0", headers=htmx("endpoint-status"))
    assert "Healthy" in moved.content.decode()
    assert "every 2s" not in moved.content.decode()
    assert f"moved-{endpoint.pk}" in events(moved)


@pytest.mark.parametrize("page", FRAGMENTS)
def test_a_fragment_is_one_element_with_its_own_id(client_of_owner: Client, endpoint: Endpoint, page: str) -> None:
    part = text(client_of_owner, endpoint, page).strip()
    assert re.match(rf'<(div|section)[^>]* id="endpoint-{page[1:]}"|<(div|section) id="endpoint-{page[1:]}"', part)
    assert "<html" not in part


def test_the_history_says_who_and_why(client_of_owner: Client, endpoint: Endpoint) -> None:
    EndpointEvent.objects.create(
        endpoint=endpoint,
        at=timezone.now(),
        from_status="Running",
        to_status="Stopped",
        reason="stopped_by",
        subject="li.wei",
    )
    assert "Stopped by li.wei." in text(client_of_owner, endpoint, "/history")


# --- API call


def test_samples_carry_the_real_address_and_id(client_of_owner: Client, endpoint: Endpoint, settings: Any) -> None:
    settings.GATEWAY_URL = "https://ark.example.com"
    page = text(client_of_owner, endpoint, "/api")
    assert "curl https://ark.example.com/api/v3/chat/completions" in page
    assert f"{endpoint.pk}" in page
    python = client_of_owner.get(f"/endpoints/{endpoint.pk}/api?sample=openai", headers=htmx("endpoint-samples"))
    part = python.content.decode()
    assert part.lstrip().startswith('<section class="ark-panel" id="endpoint-samples"')
    assert "from openai import OpenAI" in part


def test_a_key_is_made_in_place_for_this_endpoint(client_of_owner: Client, reader: Client, endpoint: Endpoint) -> None:
    assert f"/keys/create?endpoint={endpoint.pk}" in text(client_of_owner, endpoint, "/api")
    assert "/keys/create" not in text(reader, endpoint, "/api")


def test_who_may_not_call_is_told_which_permission_trying_needs(reader: Client, endpoint: Endpoint) -> None:
    page = text(reader, endpoint, "/api")
    assert tryit.ACTION in page
    assert "data-try-it" not in page


class Gateway:
    """Stands in for the console's way to the gateway: answers what it is told, and notes what was asked."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.error: Exception | None = None
        self.reply = tryit.Answer(
            status=200, text="你好", reasoning="thinking", input_tokens=9, output_tokens=4, duration_ms=84
        )

    def answer(self, *, prompt: str, **_rest: Any) -> tryit.Answer:
        self._ask(prompt)
        return self.reply

    def stream(self, *, prompt: str, **_rest: Any) -> Any:
        self._ask(prompt)
        return Streamed([b"data: {}\n\n", b"data: [DONE]\n\n"])

    def _ask(self, prompt: str) -> None:
        self.prompts.append(prompt)
        if self.error:
            raise self.error


class Streamed:
    content_type = "text/event-stream"
    status = 200

    def __init__(self, parts: list[bytes]) -> None:
        self.parts = iter(parts)

    def __iter__(self) -> Iterator[bytes]:
        return self.parts

    def close(self) -> None:
        pass


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    fake = Gateway()
    monkeypatch.setattr(tryit, "answer", fake.answer)
    monkeypatch.setattr(tryit, "stream", fake.stream)
    return fake


def test_trying_without_javascript_gives_the_page_with_the_answer(
    client_of_owner: Client, endpoint: Endpoint, gateway: Gateway
) -> None:
    response = client_of_owner.post(f"/endpoints/{endpoint.pk}/try", {"prompt": "Hi <b>"})
    page = response.content.decode()
    assert response.status_code == 200
    assert gateway.prompts == ["Hi <b>"]
    for expected in ("你好", "thinking", "200 OK", "84 ms", "Hi &lt;b&gt;"):
        assert expected in page


def test_an_embedding_shows_the_size_of_its_vector(
    client_of_owner: Client, endpoint: Endpoint, gateway: Gateway
) -> None:
    gateway.reply = tryit.Answer(status=200, vector=(0.5, -0.25), dimensions=1024, input_tokens=3)
    page = client_of_owner.post(f"/endpoints/{endpoint.pk}/try", {"prompt": "Hi"}).content.decode()
    assert "A vector of 1024 numbers" in page
    assert "0.50000, -0.25000" in page


def test_a_script_gets_the_stream_as_it_comes(client_of_owner: Client, endpoint: Endpoint, gateway: Gateway) -> None:
    response = client_of_owner.post(
        f"/endpoints/{endpoint.pk}/try", {"prompt": "Hi"}, headers={"accept": "text/event-stream"}
    )
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.getvalue() == b"data: {}\n\ndata: [DONE]\n\n"


def test_a_refusal_keeps_the_gateways_status_and_code(
    client_of_owner: Client, endpoint: Endpoint, gateway: Gateway
) -> None:
    gateway.error = tryit.Refused("No calls left.", status=429, code="RateLimitExceeded.EndpointRPMExceeded")
    url = f"/endpoints/{endpoint.pk}/try"
    script = client_of_owner.post(url, {"prompt": "Hi"}, headers={"accept": "text/event-stream"})
    assert script.status_code == 429
    assert script.json() == {"error": {"code": "RateLimitExceeded.EndpointRPMExceeded", "message": "No calls left."}}
    page = client_of_owner.post(url, {"prompt": "Hi"}).content.decode()
    assert "No calls left." in page
    assert "429 RateLimitExceeded.EndpointRPMExceeded" in page


def test_the_gateway_being_away_is_said_on_the_page(
    client_of_owner: Client, endpoint: Endpoint, gateway: Gateway
) -> None:
    gateway.error = Unavailable("The gateway does not answer.")
    response = client_of_owner.post(f"/endpoints/{endpoint.pk}/try", {"prompt": "Hi"})
    assert "The gateway does not answer." in response.content.decode()


def test_trying_needs_the_permission_in_the_service_too(reader: Client, endpoint: Endpoint) -> None:
    response = reader.post(f"/endpoints/{endpoint.pk}/try", {"prompt": "Hi"})
    assert response.status_code == 403


# --- call records


def test_a_call_shows_result_version_key_tokens_and_times(client_of_owner: Client, endpoint: Endpoint) -> None:
    key = builders.api_key(name="mobile-app")
    builders.call_record(
        call_id="20260421180049ABCDEF", client_request_id="mine-1", at=timezone.now(), endpoint_id=endpoint.pk,
        version_id=endpoint.version_id, key_id=key.pk, input_tokens=1200, cached_tokens=300, output_tokens=45,
        reasoning_tokens=7, first_token_ms=84, duration_ms=1240, is_stream=True,
    )  # fmt: skip
    page = text(client_of_owner, endpoint, "/calls")
    for expected in (
        "200 Succeeded",
        "251015",
        "mobile-app",
        "1,200",
        "300 cached",
        "7 thinking",
        "84 ms",
        "1.24 s",
        "stream",
    ):
        assert expected in page
    assert 'data-copy="20260421180049ABCDEF"' in page
    assert 'data-copy="mine-1"' in page


def test_calls_of_the_console_itself_and_of_gone_keys_have_a_name_too(
    client_of_owner: Client, endpoint: Endpoint
) -> None:
    own = builders.api_key(is_internal=True)
    for key_id in (own.pk, 987_654):
        builders.call_record(at=timezone.now(), endpoint_id=endpoint.pk, key_id=key_id)
    page = text(client_of_owner, endpoint, "/calls")
    assert "try-it in the console" in page
    assert "unknown key" in page


def test_calls_are_filtered_and_nonsense_is_not_a_filter(client_of_owner: Client, endpoint: Endpoint) -> None:
    at = timezone.now()
    builders.call_record(call_id="good", at=at, endpoint_id=endpoint.pk)
    builders.call_record(
        call_id="bad",
        at=at - timedelta(hours=2),
        endpoint_id=endpoint.pk,
        status=502,
        outcome="upstream_error",
        code="X",
    )
    builders.call_record(call_id="elsewhere", at=at, endpoint_id="ep-other")

    def found(query: str) -> set[str]:
        return set(re.findall(r'data-copy="(good|bad|elsewhere)"', text(client_of_owner, endpoint, f"/calls?{query}")))

    assert found("") == {"good", "bad"}
    assert found("result=5xx") == {"bad"}
    assert found("outcome=success") == {"good"}
    assert found("period=1h") == {"good"}
    assert found("key=1&stream=no") == {"good", "bad"}
    assert found("key=2") == set()
    assert found("code=X") == {"bad"}
    assert found("version=999") == set()
    assert found("result=9xx&outcome=no&key=x&stream=maybe&period=1y&cursor=zzz") == {"good", "bad"}


def test_htmx_gets_the_calls_alone(client_of_owner: Client, endpoint: Endpoint) -> None:
    part = client_of_owner.get(f"/endpoints/{endpoint.pk}/calls?result=5xx", headers=htmx("endpoint-calls"))
    assert part.content.decode().lstrip().startswith('<section id="endpoint-calls"')
    assert "No call matches" in part.content.decode()


def test_no_call_yet_says_what_will_be_here(client_of_owner: Client, endpoint: Endpoint) -> None:
    assert "No call yet" in text(client_of_owner, endpoint, "/calls")


def test_fifty_calls_cost_as_many_queries_as_ten(client_of_owner: Client, endpoint: Endpoint) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            text(client_of_owner, endpoint, "/calls")
        return len(captured)

    def call(number: int) -> None:
        key = builders.api_key()
        builders.call_record(at=timezone.now() - timedelta(seconds=number), endpoint_id=endpoint.pk, key_id=key.pk)

    for number in range(10):
        call(number)
    queries()  # what is asked once a minute, not once a page
    ten = queries()
    for number in range(10, 50):
        call(number)
    assert queries() == ten
