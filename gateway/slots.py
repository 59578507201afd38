"""A port for each worker's metrics that stays the same when the worker is started anew."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import socket
from pathlib import Path

log = logging.getLogger(__name__)


class Slot:
    """A place among this machine's workers, taken for as long as the process lives, and the port that belongs to it.

    A worker that is started in place of a dead one so listens where that one did, and Prometheus reads on at once
    instead of after it has heard of a new target (up to 10 s).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1

    def listen(self, host: str) -> socket.socket:
        """Listen on the slot's port, on another one where that is taken. Raises `OSError` when there is none at all."""
        kept = 0
        try:
            kept = self._take()
        except (OSError, ValueError) as error:
            log.warning("the metrics port is a new one, since none can be kept in %s: %s", self._folder, error)
        try:
            listener = listen(host, kept)
        except OSError:
            listener = listen(host, 0)
        port = listener.getsockname()[1]
        if self._fd >= 0 and port != kept:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, b"%d\n" % port, 0)
        return listener

    def release(self) -> None:
        """Let another worker have it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _take(self) -> int:
        """Lock the first free slot; the port that was last used there, or 0."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count():
            fd = os.open(self._folder / str(number), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            except OSError:
                os.close(fd)
                raise
            self._fd = fd
            port = int(os.pread(fd, 16, 0) or b"0")
            return port if port < 65_536 else 0
        raise AssertionError("unreachable")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on `port`, a free one when that is 0. Raises `OSError`."""
    family, kind, protocol, _name, where = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
