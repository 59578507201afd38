"""What a person does with a version switch, done inside the running product by the services that its pages use.

The stack has a database of its own, so this runs as a process with the stack's environment: run as a script it reads one
JSON object a line, does what it says, and answers with one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    # Not at run time: `tests.servers`, which it needs, points Django at the test run's own servers.
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]


class Person:
    """A process that takes orders, for as long as the `with` block lasts. `env` is the product's."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.person"],
            cwd=ROOT,
            env={**env, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.communicate(timeout=60)

    def start(self, endpoint_id: str, target: str, *, weights: Sequence[int], hold_seconds: int) -> int:
        """Start a switch to the version of public id `target`; steps may be shorter than people may choose."""
        order = {"endpoint_id": endpoint_id, "target": target, "weights": list(weights), "hold_seconds": hold_seconds}
        return int(self._do("start", **order)["switch_id"])

    def to_the_top(self, switch_id: int) -> float:
        """Take the first and only step without waiting for the probe; return when that was committed, monotonic seconds."""
        return float(self._do("to_the_top", switch_id=switch_id)["done_at"])

    def roll_back_now(self, switch_id: int) -> tuple[float, float]:
        """Roll back; return when the service was asked and when it had committed, monotonic seconds."""
        answer = self._do("roll_back_now", switch_id=switch_id)
        return float(answer["began_at"]), float(answer["done_at"])

    def _do(self, what: str, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **order}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the person's process has died; its words are above"
        answer: dict[str, Any] = json.loads(line)
        return answer


def _start(endpoint_id: str, target: str, weights: Sequence[int], hold_seconds: int) -> dict[str, Any]:
    from django.utils import timezone

    from catalog.models import ModelVersion
    from endpoints import switch_services
    from endpoints.models import Endpoint, VersionSwitch
    from endpoints.switching import MIN_HOLD_SECONDS, Gates, Rung
    from iam.actors import SYSTEM

    [version] = [each for each in ModelVersion.objects.select_related("model") if each.public_id == target]
    switch = switch_services.start(
        endpoint=Endpoint.objects.select_related("project", "version__model").get(pk=endpoint_id),
        target=version,
        ladder=[Rung(weight, max(hold_seconds, MIN_HOLD_SECONDS)) for weight in weights],
        gates=Gates(error_rate_percent=20, duration_ratio=20, min_samples=3) if len(weights) > 1 else None,
        on_breach=VersionSwitch.OnBreach.HOLD,
        warm=False,
        confirmed=True,
        reason="a test of the whole product",
        by=SYSTEM,
        now=timezone.now(),
    )
    ladder = [{**rung, "hold_seconds": hold_seconds} for rung in switch.ladder]
    VersionSwitch.objects.filter(pk=switch.pk).update(ladder=ladder)
    return {"switch_id": switch.pk}


def _to_the_top(switch_id: int) -> dict[str, Any]:
    from django.utils import timezone

    from endpoints import switch_moves
    from endpoints.models import SwitchEvent, VersionSwitch

    step = switch_moves.Step(to=VersionSwitch.State.CLIMBING, rung=0, kind=SwitchEvent.Kind.ADVANCED_BY_HAND)
    switch_moves.move(switch=VersionSwitch.objects.get(pk=switch_id), step=step, now=timezone.now())
    return {"done_at": time.monotonic()}


def _roll_back_now(switch_id: int) -> dict[str, Any]:
    from django.utils import timezone

    from endpoints import switch_services
    from endpoints.models import VersionSwitch
    from iam.actors import SYSTEM

    switch = VersionSwitch.objects.select_related("endpoint__project").get(pk=switch_id)
    began_at = time.monotonic()
    switch_services.roll_back_now(switch=switch, reason="", by=SYSTEM, now=timezone.now())
    return {"began_at": began_at, "done_at": time.monotonic()}


def _obey() -> None:
    verbs = {"start": _start, "to_the_top": _to_the_top, "roll_back_now": _roll_back_now}
    for line in sys.stdin:
        order = json.loads(line)
        answer = verbs[order.pop("do")](**order)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "arkconsole.settings"
    django.setup()
    _obey()
