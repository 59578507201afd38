"""`python -m gateway.serve` is `python -m uvicorn`, whose parent notices at once when a worker dies while it is asked how it is.

uvicorn keeps both ends of the pipe over which it asks, so that a dead worker's end is never closed: it waits for an answer
for all of its patience (`--timeout-worker-healthcheck`), deaf to signals, and a worker is missing for so long.
"""

from __future__ import annotations

import uvicorn
from uvicorn.supervisors import multiprocess


class Process(multiprocess.Process):
    """A worker whose end of the pipe is the worker's alone."""

    def start(self) -> None:
        super().start()
        self.child_conn.close()


if __name__ == "__main__":
    multiprocess.Process = Process  # type: ignore[misc]
    uvicorn.main()
