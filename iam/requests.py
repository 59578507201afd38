"""What views may rely on in a request that passed our middleware."""

from __future__ import annotations

from common.htmx import HtmxHttpRequest
from iam.models import Project, User


class ConsoleRequest(HtmxHttpRequest):
    """A signed-in person's request. `project` is the one they look at; a view of another project's thing may set it."""

    user: User
    project: Project
    request_id: str
    client_ip: str
