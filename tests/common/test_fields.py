"""Secrets at rest: unreadable in the table, readable with any key of the list, written with the newest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import connection

from catalog.models import ModelServer
from common import fields
from common.fields import DecryptionError
from tests import builders

pytestmark = pytest.mark.django_db
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


@pytest.fixture(autouse=True)
def _keys_are_read_again() -> Iterator[None]:
    fields._fernet.cache_clear()
    yield
    fields._fernet.cache_clear()


def use(settings: Any, *keys: str) -> None:
    settings.FIELD_ENCRYPTION_KEY = list(keys)
    fields._fernet.cache_clear()


def stored() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT api_key FROM catalog_modelserver")
        return str(cursor.fetchone()[0])


def test_a_secret_is_not_in_the_table(settings: Any) -> None:
    use(settings, NEW)
    server = builders.model_server(api_key="sk-upstream")

    assert "sk-upstream" not in stored()
    assert ModelServer.objects.get(pk=server.pk).api_key == "sk-upstream"


def test_an_empty_secret_stays_empty() -> None:
    builders.model_server(api_key="")

    assert stored() == ""
    assert ModelServer.objects.get().api_key == ""


def test_keys_are_rotated_by_putting_the_new_one_first(settings: Any) -> None:
    use(settings, OLD)
    server = builders.model_server(api_key="sk-upstream")

    use(settings, NEW, OLD)
    again = ModelServer.objects.get(pk=server.pk)
    assert again.api_key == "sk-upstream"
    again.save()

    use(settings, NEW)
    assert ModelServer.objects.get(pk=server.pk).api_key == "sk-upstream"


def test_a_secret_whose_key_is_gone_says_what_to_do_and_not_what_it_was(settings: Any) -> None:
    use(settings, OLD)
    builders.model_server(api_key="sk-upstream")
    use(settings, NEW)

    with pytest.raises(DecryptionError, match=r"ModelServer.api_key: no key of FIELD_ENCRYPTION_KEY") as caught:
        ModelServer.objects.get()

    assert "sk-upstream" not in str(caught.value)
