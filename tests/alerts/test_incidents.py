"""Which event a report speaks of: the table of everything that comes late, twice, or in the wrong order."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from alerts.incidents import Act, Change, Known, decide
from alerts.reports import Report
from tests.builders import NOW

MINUTE = timedelta(minutes=1)


def at(minutes: float) -> datetime:
    """Minutes after (before: negative) NOW, which is the moment of judgement."""
    return NOW + minutes * MINUTE


def report(starts: float, ends: float | None) -> Report:
    return Report("f", at(starts), None if ends is None else at(ends), {"alertname": "a"})


PENDING = Known(1, at(-10), "pending", at(1))
FIRING = Known(2, at(-30), "firing", at(3))
SILENT = Known(3, at(-30), "firing", at(-20))
ENDED = Known(4, at(-60), "resolved", at(-50), at(-50))
GIVEN_UP = Known(5, at(-60), "resolved", at(-50), at(-50), has_expired=True)


@pytest.mark.parametrize(
    ("known", "starts", "ends", "change"),
    [
        # Nothing known.
        ([], -1, 4, Change(Act.CREATE)),
        ([], -1, None, Change(Act.CREATE)),
        ([], -20, -10, Change(Act.CREATE_RESOLVED)),
        # A pending one fires, or had fired and ended before anybody told us.
        ([PENDING], -5, 4, Change(Act.FIRE, 1)),
        ([PENDING], -5, -1, Change(Act.RESOLVE, 1)),
        # An older end that is told again does not end what is pending now.
        ([PENDING, ENDED], -60, -50, Change(Act.NOTHING)),
        ([PENDING, ENDED], -60, 4, Change(Act.NOTHING)),
        ([PENDING], -20, -15, Change(Act.CREATE_RESOLVED)),
        # The same again; and from a Prometheus that was restarted, for which it began just now.
        ([FIRING], -30, 4, Change(Act.REFRESH, 2)),
        ([FIRING], -1, 4, Change(Act.REFRESH, 2)),
        ([FIRING], -30, -1, Change(Act.RESOLVE, 2)),
        ([FIRING], -5, -1, Change(Act.RESOLVE, 2)),
        # Alertmanager says since when it fires, but no promise for how long.
        ([FIRING], -31, None, Change(Act.REFRESH, 2)),
        # The one before, told once more.
        ([FIRING, ENDED], -60, -50, Change(Act.NOTHING)),
        ([FIRING], -45, -40, Change(Act.CREATE_RESOLVED)),
        # Nobody spoke of it until its promise had run out: what comes now is another incident.
        ([SILENT], -1, 4, Change(Act.CREATE, expired=3)),
        ([SILENT], -10, -5, Change(Act.CREATE_RESOLVED, expired=3)),
        # But the same start is the same incident, however late.
        ([SILENT], -30, 4, Change(Act.REFRESH, 3)),
        # Prometheus tells of an end for a quarter of an hour.
        ([ENDED], -60, -50, Change(Act.NOTHING, 4)),
        ([ENDED], -55, -50, Change(Act.NOTHING, 4)),
        # Said while it fired, and heard after its end.
        ([ENDED], -60, 4, Change(Act.NOTHING, 4)),
        # We had given it up, and were wrong; or right, and now hear when it was.
        ([GIVEN_UP], -60, 4, Change(Act.REOPEN, 5)),
        ([GIVEN_UP], -60, -45, Change(Act.CORRECT_END, 5)),
        ([GIVEN_UP], -60, -50, Change(Act.NOTHING, 5)),
        # A new one after an end.
        ([ENDED], -40, 4, Change(Act.CREATE)),
        ([GIVEN_UP], -40, 4, Change(Act.CREATE)),
    ],
)
def test_every_report_has_one_meaning(known: list[Known], starts: float, ends: float | None, change: Change) -> None:
    assert decide(report(starts, ends), known, NOW) == change
    assert decide(report(starts, ends), [*reversed(known)], NOW) == change


def test_what_is_said_in_words_counts_more_than_the_clock() -> None:
    ended = Report("f", at(-30), at(1), {"alertname": "a"}, has_ended=True)

    assert decide(ended, [FIRING], NOW) == Change(Act.RESOLVE, 2)
