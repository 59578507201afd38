"""The errors that a person may cause, with the sentence that tells them.

DomainError            the request cannot be done; `field` names the input at fault, if one is
├── NotAllowed         the actor lacks a permission; `action` names it
├── Conflict           somebody else changed it first; `current` is what it is now
└── Unavailable        a part outside is away; trying again later helps
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class DomainError(Exception):
    """A request that cannot be carried out; `str(error)` is a translated sentence for the person."""

    # Set by audit.services.attempt, so that a view's refusal is not written into the record twice.
    is_recorded: bool = False

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class NotAllowed(DomainError):
    """The actor lacks `action` (such as `ark:StopEndpoint`) on `resource` (anything with `project_id` and `trn`)."""

    def __init__(self, message: str, *, action: str, resource: Any = None) -> None:
        super().__init__(message)
        self.action = action
        self.resource = resource


class Conflict(DomainError):
    """Somebody else changed the object first; `current` maps each changed field to [yours, theirs]."""

    def __init__(self, message: str, *, current: Mapping[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.current = dict(current or {})


class Unavailable(DomainError):
    """A part outside the console did not do its share; trying again later may help."""
