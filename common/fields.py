"""A text column that is encrypted at rest."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import models

# Django's fields are generic for the type checker only.
if TYPE_CHECKING:
    _TextField = models.TextField[str, str]
else:
    _TextField = models.TextField


class DecryptionError(Exception):
    """A stored secret cannot be read with any key of FIELD_ENCRYPTION_KEY."""


@cache
def _fernet() -> MultiFernet:
    return MultiFernet([Fernet(key) for key in settings.FIELD_ENCRYPTION_KEY])


class EncryptedTextField(_TextField):
    """Text encrypted with the newest key of FIELD_ENCRYPTION_KEY and readable with any of them; "" stays ""."""

    def get_prep_value(self, value: Any) -> Any:
        return _fernet().encrypt(str(value).encode()).decode() if value else ""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        if not value:
            return ""
        try:
            return _fernet().decrypt(str(value).encode()).decode()
        except InvalidToken:
            raise DecryptionError(
                f"{self.model.__name__}.{self.name}: no key of FIELD_ENCRYPTION_KEY opens this value; "
                "add the key it was written with to the end of the list"
            ) from None
