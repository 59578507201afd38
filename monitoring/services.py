"""What people do with monitoring: open and close it, for a project."""

from __future__ import annotations

from dataclasses import dataclass

from iam.models import Project
from monitoring.models import Subscription

GET = "ark:GetMonitoring"
OPEN = "ark:OpenMonitoring"
CLOSE = "ark:CloseMonitoring"


@dataclass(frozen=True, slots=True)
class State:
    """Where a project's monitoring stands: off (no subscription), opening, failed or open."""

    subscription: Subscription | None

    @property
    def is_open(self) -> bool:
        """Whether charts may be asked for."""
        return self.subscription is not None and self.subscription.is_open

    @property
    def is_opening(self) -> bool:
        return self.subscription is not None and self.subscription.is_opening

    @property
    def has_failed(self) -> bool:
        return self.subscription is not None and self.subscription.has_failed

    @property
    def is_off(self) -> bool:
        """Whether nobody asked for it."""
        return self.subscription is None


def state_of(project: Project) -> State:
    """One query."""
    return State(Subscription.objects.filter(project=project).first())
