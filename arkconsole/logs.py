"""What keeps the logs readable when a part is away for hours."""

from __future__ import annotations

import logging
import time

REPEAT_SECONDS = 60


class Calm(logging.Filter):
    """Lets a warning or error of one place in the code through once a minute, as a sentence without its traceback.

    For libraries that try again every second: beat alone would write 1.7 GB a day while Redis is away.
    """

    def __init__(self, name: str = "", *, repeat_seconds: float = REPEAT_SECONDS) -> None:
        super().__init__(name)
        self._repeat = repeat_seconds
        self._passed: dict[tuple[str, int], float] = {}
        self._kept_back: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        place, moment = (record.pathname, record.lineno), time.monotonic()
        if place in self._passed and moment - self._passed[place] < self._repeat:
            self._kept_back[place] = self._kept_back.get(place, 0) + 1
            return False
        self._passed[place] = moment
        # Beat puts a stack into the message itself, after the first line.
        message = record.getMessage().partition("\n")[0].strip()
        if kept_back := self._kept_back.pop(place, 0):
            message = f"{message} (and {kept_back} like it since the last line)"
        record.msg, record.args, record.exc_info, record.exc_text = message, (), None, None
        return True
