"""Browsers, with and without htmx."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpResponse
from django.test import Client

from iam.models import User


def signed_in(person: User) -> Client:
    """An English browser of that person."""
    client = Client(headers={"accept-language": "en"})
    client.force_login(person)
    return client


def htmx(target: str = "", *, url: str = "http://testserver/endpoints/") -> dict[str, str]:
    """The headers that htmx sends for a request aimed at `target` on the page `url`."""
    return {"HX-Request": "true", "HX-Target": target, "HX-Current-URL": url}


def events(response: HttpResponse) -> dict[str, Any]:
    """The events that the answer has the page dispatch."""
    named: dict[str, Any] = json.loads(response.headers.get("HX-Trigger", "{}"))
    return named
