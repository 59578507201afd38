"""How times, figures, ids and fields are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from django import forms
from django.template import Context, Template
from django.test import RequestFactory
from django.utils import timezone as django_timezone
from django.utils import translation
from hypothesis import given
from hypothesis import strategies as st

from common.paging import Page
from common.templatetags import ark
from tests.builders import NOW


def rendered(text: str, **context: Any) -> str:
    return Template("{% load ark %}" + text).render(Context(context))


@pytest.mark.parametrize(
    ("number", "english", "chinese"),
    [
        (0, "0", "0"),
        (9_999, "9,999", "9,999"),
        (10_000, "10 K", "1 万"),
        (12_345, "12.3 K", "1.2 万"),
        (999_949, "1 M", "100 万"),
        (1_200_000, "1.2 M", "120 万"),
        (12_340_000, "12.3 M", "1,234 万"),
        (99_999_999, "100 M", "1 亿"),
        (123_456_789, "123 M", "1.2 亿"),
        (5_000_000_000, "5 B", "50 亿"),
        (1_500_000_000_000_000, "1,500 T", "1,500 万亿"),
        (-1_200_000, "-1.2 M", "-120 万"),
    ],
)
def test_large_numbers_are_written_as_people_read_them(number: int, english: str, chinese: str) -> None:
    assert ark.readable(number, language="en") == english
    assert ark.readable(number, language="zh-hans") == chinese


@given(st.integers(-(10**15), 10**15), st.sampled_from(["en", "zh-hans"]))
def test_a_readable_number_is_within_a_twentieth_of_the_exact_one(number: int, language: str) -> None:
    text = ark.readable(number, language=language)
    units = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12, "万": 10**4, "亿": 10**8, "万亿": 10**12}
    digits, _space, unit = text.partition(" ")

    assert abs(float(digits.replace(",", "")) * units.get(unit, 1) - number) <= abs(number) / 20


def test_the_exact_number_is_on_hover() -> None:
    assert rendered("{{ n|big }}", n=1_234_567) == '<span class="ark-figure" title="1,234,567">1.2 M</span>'
    assert rendered("{{ n|big }}", n=1_234) == "1,234"
    assert rendered("{{ n|count }}", n=12_408) == "12,408"


@pytest.mark.parametrize("name", ["big", "count", "ago", "exact"])
def test_nothing_is_a_dash(name: str) -> None:
    assert rendered("{{ n|" + name + " }}", n=None) == "–"


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (timedelta(seconds=3), "just now"),
        (timedelta(seconds=59), "59 seconds ago"),
        (timedelta(minutes=1), "1 minute ago"),
        (timedelta(hours=23, minutes=59), "23 hours ago"),
        (timedelta(days=1), "1 day ago"),
        (timedelta(days=30), "30 days ago"),
        (timedelta(days=31), "2026-03-21"),
        (-timedelta(hours=2), "in 2 hours"),
        (-timedelta(days=90), "2026-07-20"),
    ],
)
def test_times_are_told_from_now(distance: timedelta, text: str) -> None:
    with django_timezone.override(UTC):
        assert ark.relative(NOW - distance, now=NOW) == text


def test_times_are_told_in_chinese() -> None:
    with translation.override("zh-hans"):
        assert ark.relative(NOW - timedelta(hours=3), now=NOW).replace(" ", "") == "3小时前"


def test_the_exact_time_is_the_readers_own() -> None:
    moment = datetime(2026, 4, 21, 10, 0, 49, tzinfo=UTC)

    with django_timezone.override(timezone(timedelta(hours=8))):
        assert rendered("{{ at|exact }}", at=moment) == "2026-04-21 18:00:49"
        assert 'datetime="2026-04-21T18:00:49+08:00"' in rendered("{{ at|ago }}", at=moment)


def test_an_id_is_copied_whole_even_where_it_is_shown_short() -> None:
    html = rendered('{% copyable "ep-20260421180049-ngwkm" short=True %}')

    assert "ep-20260421…-ngwkm" in html
    assert 'data-copy="ep-20260421180049-ngwkm"' in html
    assert 'aria-label="Copy"' in html


def test_what_is_copied_is_escaped() -> None:
    assert "<script>" not in rendered("{% copyable value %}{% copy_button value %}", value='"><script>')


def test_icons_are_hidden_from_screen_readers() -> None:
    assert 'aria-hidden="true"' in rendered('{% icon "copy" %}')


class Sample(forms.Form):
    name = forms.CharField(help_text="as you like", max_length=3)
    kind = forms.ChoiceField(choices=[("a", "A")], required=False)
    note = forms.CharField(required=False)
    is_on = forms.BooleanField(required=False, label="on")


def test_a_field_ties_its_label_help_and_errors_together() -> None:
    form = Sample({"name": "four"})

    html = rendered("{% field form.name %}", form=form)

    assert 'for="id_name"' in html
    assert 'aria-invalid="true"' in html
    assert 'aria-describedby="id_name_helptext id_name_error"' in html
    assert 'id="id_name_error"' in html
    assert 'id="id_name_helptext"' in html
    assert "is-invalid" in html


def test_a_field_says_when_it_is_optional_and_looks_as_its_kind_does() -> None:
    form = Sample()

    assert "form-select" in rendered("{% field form.kind %}", form=form)
    assert "optional" not in rendered("{% field form.kind %}", form=form)
    assert "optional" in rendered("{% field form.note %}", form=form)
    assert "form-check-input" in rendered("{% field form.is_on %}", form=form)
    assert 'placeholder="x"' in rendered('{% field form.name placeholder="x" %}', form=form)


def test_the_pager_keeps_the_filters() -> None:
    request = RequestFactory().get("/keys/?q=a%26b&cursor=old")
    page: Page[Any] = Page(rows=[], next_cursor="new", previous_cursor="")

    html = rendered('{% pager page target="#list" %}', page=page, request=request)

    assert 'href="/keys/?q=a%26b&amp;cursor=new"' in html
    assert 'hx-target="#list"' in html
    assert html.count("href=") == 1


def test_a_single_page_has_no_pager() -> None:
    page: Page[Any] = Page(rows=[], next_cursor="", previous_cursor="")

    assert rendered("{% pager page %}", page=page, request=RequestFactory().get("/")).strip() == ""
