"""Language, time zone and current project of a request."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

GetResponse = Callable[[HttpRequest], HttpResponse]


def locale_middleware(get_response: GetResponse) -> GetResponse:
    return get_response


def preferences_middleware(get_response: GetResponse) -> GetResponse:
    return get_response
