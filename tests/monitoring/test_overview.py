"""/monitoring/: the project's exact totals, and its endpoints by what they used."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from arkconsole import health
from endpoints.models import Endpoint
from iam.models import Attachment, Policy, Project
from metering import ledger
from metering.ledger import Cost, Spending, Summary
from metering.models import UsageHour, UsageMinute
from monitoring import overview_views, services
from monitoring.overview_views import KEEP, RANGES, Asked, Memo, Span
from monitoring.templatetags.monitoring_figures import change
from tests import builders
from tests.builders import NOW
from tests.endpoints.pages.clients import htmx, signed_in

pytestmark = pytest.mark.django_db
URL = "/monitoring/"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(health, "watch", health.Watch(remember_seconds=1e9))
    monkeypatch.setattr(overview_views, "memo", Memo())
    with translation.override("en"):
        yield


@pytest.fixture
def project() -> Project:
    made = builders.project("default")
    builders.subscription(project=made)
    return made


@pytest.fixture
def owner(project: Project) -> Client:
    return signed_in(builders.member(project, username="li.wei"))


def use(endpoint: Endpoint | str, at: datetime, **values: Any) -> None:
    """What the drain writes of calls at one time: a minute and an hour."""
    row = {
        "project_id": "default", "endpoint_id": getattr(endpoint, "pk", endpoint), "version_id": 1, "api": "chat",
        "key_id": 1, **values,
    }  # fmt: skip
    UsageMinute.objects.create(at=ledger.floor_minute(at), **row)
    UsageHour.objects.create(at=ledger.floor_hour(at), **row)


def text(client: Client, url: str = URL, **headers: str) -> str:
    response = client.get(url, headers=headers or None)
    assert response.status_code == 200
    return re.sub(r"\s+", " ", response.content.decode())


def tiles(page: str) -> dict[str, tuple[str, str]]:
    """{tile: (what it says, the line below)}, without tags."""
    found = re.findall(r'<dt>(.*?)</dt> <dd class="mo-value">(.*?)</dd> <dd class="ark-hint">(.*?)</dd>', page)
    return {name: (plain(value), plain(below)) for name, value, below in found}


def plain(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html)).strip()


def names(page: str) -> list[str]:
    return re.findall(r'class="ep-name"[^>]*>([^<]+)<', page)


# --- the span --------------------------------------------------------------------------------------------------------


def test_a_span_is_whole_hours_and_is_compared_with_the_same_time_before() -> None:
    now = datetime(2026, 4, 21, 10, 20, 49, tzinfo=UTC)
    span = Span.of(RANGES[0], now=now)
    assert (span.since, span.until) == (datetime(2026, 4, 20, 11, tzinfo=UTC), datetime(2026, 4, 21, 11, tzinfo=UTC))
    assert span.before_since == datetime(2026, 4, 19, 11, tzinfo=UTC)
    assert span.before_until == datetime(2026, 4, 20, 10, 21, tzinfo=UTC)


@pytest.mark.parametrize("query", [
    {}, {"range": "9y"}, {"sort": "evil"}, {"sort": "--tokens"}, {"page": "-1"}, {"page": "0"}, {"page": "x"},
    {"page": "²"}, {"page": "99999999"},
])  # fmt: skip
def test_what_the_address_says_wrongly_is_left_at_its_default(query: dict[str, str]) -> None:
    assert Asked.of(query) == Asked(range=RANGES[0], sort="-tokens", page=1)


def test_a_press_on_a_head_sorts_and_a_second_one_turns_it_round() -> None:
    asked = Asked.of({"range": "7d", "page": "3"})
    assert asked.order("cost") == ("/monitoring/?range=7d&sort=-cost", "")
    assert asked.order("tokens") == ("/monitoring/?range=7d&sort=tokens", "descending")
    assert Asked.of({"sort": "calls"}).order("calls") == ("/monitoring/?range=24h&sort=-calls", "ascending")


@pytest.mark.parametrize(
    ("percent", "said"),
    [(12.34, "+12.3 %"), (-4.0, "−4 %"), (0.0, "±0 %"), (900.0, "× 10"), (123_456.0, "× 1,236")],
)
def test_a_change_is_said_with_its_sign(percent: float, said: str) -> None:
    assert change(percent) == said


def test_sums_are_made_once_and_again_after_a_while() -> None:
    memo, now, made = Memo(), NOW, iter(range(100))

    def known(at: datetime, question: str = "q") -> tuple[int, datetime]:
        return memo.get(question, lambda: next(made), now=at)

    assert known(now) == (0, now)
    assert known(now + KEEP / 2) == (0, now)
    assert known(now - KEEP / 2) == (0, now), "asked a moment earlier, answered later"
    assert known(now, "other") == (1, now)
    assert known(now + KEEP) == (2, now + KEEP)
    assert known(now - DAY) == (3, now - DAY), "the clock went back"
    for number in range(20):
        known(now, f"question {number}")
    assert len(memo._known) == 16


def test_who_comes_while_sums_are_made_waits_for_them() -> None:
    memo, begun, goes_on, made = Memo(), threading.Event(), threading.Event(), []

    def make() -> int:
        made.append(1)
        begun.set()
        goes_on.wait(60)
        return len(made)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(memo.get, "q", make, now=NOW)
        assert begun.wait(60)
        others = [pool.submit(memo.get, "q", make, now=NOW) for _each in range(2)]
        goes_on.set()
        assert {each.result(60)[0] for each in (first, *others)} == {1}


def test_a_failure_is_not_kept() -> None:
    memo = Memo()
    with pytest.raises(ZeroDivisionError):
        memo.get("q", lambda: 1 // 0, now=NOW)
    assert memo.get("q", lambda: 7, now=NOW) == (7, NOW)


# --- the figures -----------------------------------------------------------------------------------------------------


def test_totals_are_those_of_the_ledger_with_what_was_before(owner: Client) -> None:
    now = timezone.now()
    price = builders.price_tier(input_price=Decimal(1), cached_price=Decimal("0.5"), output_price=Decimal(2))
    one, other = builders.endpoint(name="one"), builders.endpoint(name="other")
    use(one, now, calls=90, succeeded=80, limited=6, cancelled=4, input_tokens=3_000_000, cached_tokens=1_000_000,
        output_tokens=1_000_000, price_id=price.pk)  # fmt: skip
    use(other, now - 20 * HOUR, calls=10, succeeded=6, rejected=1, failed=3, input_tokens=500, output_tokens=0)
    use(one, now - DAY - 3 * HOUR, calls=80, succeeded=80, input_tokens=2_000_000, output_tokens=0, price_id=price.pk)
    use("elsewhere", now, project_id="elsewhere", calls=5, succeeded=5, input_tokens=7, output_tokens=7)
    page = text(owner)
    assert tiles(page) == {
        "Calls": ("100", "+25 % the 24 hours before: 80"),
        "Tokens": ("4 M", "+100 % the 24 hours before: 2 M"),
        "Error rate": ("10 %", "the 24 hours before: 0 %"),
        "Cost": ("¥4.50", "+125 % the 24 hours before: ¥2.00"),
    }
    assert 'title="4,000,500"' in page
    assert "500 tokens had no price" in page
    assert "Figures are from the ledger, which is the bill." in page


def test_the_time_before_ends_at_the_same_minute(owner: Client) -> None:
    now = timezone.now()
    use("ep-1", now, calls=1, succeeded=1)
    use("ep-1", now - DAY, calls=2, succeeded=2)
    # Later in that hour of yesterday, where the hour has minutes left.
    UsageMinute.objects.create(
        at=ledger.floor_minute(now - DAY) + timedelta(minutes=1), project_id="default", endpoint_id="ep-1",
        version_id=1, api="chat", key_id=1, calls=40, succeeded=40,
    )  # fmt: skip
    assert tiles(text(owner))["Calls"] == ("1", "−50 % the 24 hours before: 2")


@pytest.mark.parametrize(
    ("chosen", "label", "days"), [("24h", "24 hours", 1), ("7d", "7 days", 7), ("15d", "15 days", 15)]
)
def test_each_range_counts_what_lies_in_it(owner: Client, chosen: str, label: str, days: int) -> None:
    now = timezone.now()
    use("ep-1", now - days * DAY + HOUR, calls=3, succeeded=3)
    use("ep-1", now - days * DAY - HOUR, calls=4, succeeded=4)
    page = text(owner, f"{URL}?range={chosen}")
    assert tiles(page)["Calls"] == ("3", f"−25 % the {label} before: 4")
    assert f'href="/monitoring/?range={chosen}&amp;sort=-tokens" aria-current="true"' in page


def test_nothing_before_is_no_change() -> None:
    found = overview_views._tiles(Spending(Summary(calls=3)), Spending())
    assert [tile.change for tile in found] == [None] * 4


def test_amounts_of_two_currencies_are_not_compared() -> None:
    now = Spending(cost=Cost({"CNY": Decimal(2)}))
    before = Spending(cost=Cost({"USD": Decimal(1)}))
    assert overview_views._tiles(now, before)[3].change is None
    assert ledger.total([now, now, before]).cost.amounts == {"CNY": Decimal(4), "USD": Decimal(1)}


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(project: Project) -> dict[str, Endpoint]:
    """tokens: a > b > c; calls: c > b > a; errors: b > c > a; cost: b > c = a, by id."""
    now = timezone.now()
    price = builders.price_tier()
    made = {name: builders.endpoint(name=name) for name in "abc"}
    use(made["a"], now, calls=1, succeeded=1, input_tokens=900)
    use(made["b"], now - 2 * HOUR, calls=5, failed=4, succeeded=1, input_tokens=500, price_id=price.pk)
    use(made["c"], now, calls=9, limited=2, succeeded=7, input_tokens=100)
    return made


@pytest.mark.parametrize(
    ("sort", "order"),
    [("-tokens", "abc"), ("tokens", "cba"), ("-calls", "cba"), ("-errors", "bca"), ("-cost", "bac"), ("errors", "acb")],
)
def test_the_table_is_sorted_as_asked(owner: Client, three: dict[str, Endpoint], sort: str, order: str) -> None:
    page = text(owner, f"{URL}?sort={sort}")
    assert "".join(names(page)) == order
    assert page.count("aria-sort") == 1


def test_a_row_leads_to_its_endpoints_charts_and_has_a_trend_of_what_is_sorted_by(
    owner: Client, three: dict[str, Endpoint]
) -> None:
    page = text(owner, f"{URL}?sort=-errors")
    assert f'href="/endpoints/{three["a"].pk}/monitoring"' in page
    assert "Errors over time, per hour, at most 4" in page
    assert "Errors over time, per hour, at most 0" in page
    assert "80 %" in page
    assert "Tokens over time, per 6 hours, at most 900" in text(owner, f"{URL}?range=7d&sort=-cost")


def test_a_deleted_endpoint_keeps_its_sums_but_leads_nowhere(owner: Client, three: dict[str, Endpoint]) -> None:
    Endpoint.objects.filter(pk=three["a"].pk).update(deleted_at=timezone.now())
    use("ep-gone", timezone.now(), calls=1)
    page = text(owner)
    assert names(page) == ["b", "c"]
    assert "deleted" in page
    assert "ep-gone" in page


def test_what_a_person_may_not_look_at_is_one_sum_without_a_name(project: Project, three: dict[str, Endpoint]) -> None:
    someone = builders.member(project, services.GET)
    denied = [three["b"].trn, three["c"].trn]
    Attachment.objects.create(user=someone, project=project, policy=Policy.objects.create(
        name="not these", statements=[{"effect": "Deny", "actions": ["ark:Get*"], "resources": denied}],
    ))  # fmt: skip
    page = text(signed_in(someone))
    assert names(page) == ["a"]
    assert three["b"].pk not in page
    assert "2 endpoints that you may not look at" in page
    assert "1 endpoint had calls" in page
    assert tiles(page)["Calls"][0] == "15", "the project is the project"
    row = page[page.index("that you may not look at") :]
    assert re.findall(r'data-label="Calls">(\d+)<', row) == ["14"]
    assert "may not look at" not in text(signed_in(builders.member(project)))


def test_htmx_gets_the_table_alone(owner: Client, three: dict[str, Endpoint]) -> None:
    response = owner.get(f"{URL}?sort=-calls", headers=htmx("overview-list"))
    page = response.content.decode()
    assert page.strip().startswith('<section id="overview-list"')
    assert "".join(names(page)) == "cba"
    assert "HX-Target" in response["Vary"]


def test_without_calls_the_page_says_so(owner: Client) -> None:
    page = text(owner)
    assert "No calls in this range" in page
    assert tiles(page)["Error rate"] == ("–", "the 24 hours before: –")


def test_it_is_there_before_monitoring_is_open_and_names_the_missing_permission(project: Project) -> None:
    project.monitoring.delete()  # type: ignore[attr-defined]
    use("ep-1", timezone.now(), calls=3, succeeded=3)
    reader = signed_in(builders.member(project, policy_name="ArkReadOnlyAccess"))
    page = text(reader)
    assert "Monitoring is not open in this project" in page
    assert tiles(page)["Calls"][0] == "3"
    refused = signed_in(builders.member(project, "ark:ListEndpoints")).get(URL)
    assert refused.status_code == 403
    assert "ark:GetMonitoring" in refused.content.decode()


def test_many_endpoints_cost_as_many_queries_as_one(
    owner: Client, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, hour = builders.model_version(), ledger.floor_hour(timezone.now())
    builders.price_tier(version=version)

    def queries(url: str, **headers: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            text(owner, url, **headers)
        return len(captured)

    def call(endpoints: list[Endpoint]) -> None:
        Endpoint.objects.bulk_create(endpoints)
        UsageHour.objects.bulk_create(
            UsageHour(at=hour, project_id="default", endpoint_id=each.pk, version_id=1, api="chat", key_id=1, calls=1,
                      succeeded=1, input_tokens=number)
            for number, each in enumerate(endpoints)
        )  # fmt: skip

    call([builders.endpoint_row(project=project, version=version)])
    queries(URL)  # the first page of a process asks more
    kept = queries(URL)
    call([builders.endpoint_row(project=project, version=version) for _each in range(120)])
    assert "1 endpoint had calls" in text(owner), "sums are good for a while, also for whoever opens the page"
    monkeypatch.setattr(overview_views, "memo", Memo())
    anew = queries(URL)
    assert anew <= 12
    assert queries(URL) == kept < anew
    assert queries(f"{URL}?page=2", **htmx("overview-list")) < kept
    page = text(owner, f"{URL}?page=2")
    assert len(names(page)) == 50
    assert "Page 2 of 3" in page
    assert "121 endpoints had calls" in page
    assert len(names(text(owner, f"{URL}?page=900"))) == 21
