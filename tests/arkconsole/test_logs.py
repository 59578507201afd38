"""Logs stay readable while a part is away."""

from __future__ import annotations

import logging

from arkconsole.logs import Calm


def record(line: int = 1, level: int = logging.ERROR) -> logging.LogRecord:
    try:
        raise ConnectionError("refused")
    except ConnectionError as error:
        trouble = (ConnectionError, error, error.__traceback__)
    return logging.LogRecord("celery.beat", level, "beat.py", line, "Message Error: %s\n%s", ("refused", "…"), trouble)


def test_the_same_error_passes_once_and_as_a_sentence() -> None:
    calm = Calm()
    first = record()

    assert [calm.filter(each) for each in (first, record(), record(), record(line=2))] == [True, False, False, True]
    assert (first.getMessage(), first.exc_info) == ("Message Error: refused", None)


def test_after_a_while_it_passes_again_and_says_how_often_it_came() -> None:
    calm = Calm()
    for _time in range(4):
        calm.filter(record())
    calm._repeat = -1
    again = record()

    assert calm.filter(again)
    assert again.getMessage() == "Message Error: refused (and 3 like it since the last line)"


def test_what_is_no_trouble_always_passes() -> None:
    calm = Calm()

    assert all(calm.filter(record(level=logging.INFO)) for _time in range(3))
