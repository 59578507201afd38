"""Who acts: a person in the console, or the system itself. Services take `by: Actor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

from django.db.models import Model
from django.http import HttpRequest
from django.utils.translation import gettext as _

from common.errors import NotAllowed
from iam.models import User


class Resource(Protocol):
    """What a permission is asked for: a project, or anything that belongs to one."""

    @property
    def project_id(self) -> str: ...
    @property
    def trn(self) -> str: ...


@dataclass(frozen=True)
class Actor:
    """Who acts and from where. `user` is None for the system, which may do everything."""

    id: str
    name: str
    user: User | None = None
    source_ip: str = ""
    request_id: str = ""

    def can(self, action: str, resource: Resource) -> bool:
        """Whether `action` (such as `ark:StopEndpoint`) on `resource` is allowed."""
        return self.user is None or self.user.has_perm(action, cast(Model, resource))

    def require(self, action: str, resource: Resource) -> None:
        """Raise `NotAllowed`, naming the missing action, unless `can`."""
        if not self.can(action, resource):
            raise NotAllowed(
                _("You need the permission %(action)s in this project. Ask an administrator for it.")
                % {"action": action},
                action=action,
                resource=resource,
            )


SYSTEM = Actor(id="system", name="system")


def actor_of(request: HttpRequest) -> Actor:
    """The signed-in person behind `request`, with the address and request id that the audit record keeps."""
    user: Any = request.user
    return Actor(
        id=str(user.pk),
        name=user.get_username(),
        user=user,
        source_ip=getattr(request, "client_ip", ""),
        request_id=getattr(request, "request_id", ""),
    )
