"""``python -m demo``: the demo model server on a port."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

import uvicorn

from demo.app import DemoServer
from demo.ledger import Ledger, StateError

_BACKLOG = 4_096


class _Quiet(logging.Filter):
    """Hides the complaint about unfinished answers: to cut them is what ``cut_rate`` is for."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "without completing response" not in record.getMessage()


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop. Gives the exit code: 2 when the port or the state file cannot be had."""
    parser = argparse.ArgumentParser(
        prog="python -m demo", description="An OpenAI-compatible model server to try with."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one and prints it")
    parser.add_argument(
        "--api-key", default=os.environ.get("DEMO_API_KEY") or None, help="the bearer key to ask for (or DEMO_API_KEY)"
    )
    parser.add_argument("--state", type=Path, help="a file that keeps the statistics over restarts")
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65_535:
        parser.error(f"--port must be from 0 to 65535, not {options.port}")
    try:
        listener = socket.create_server((options.host, options.port), backlog=_BACKLOG)
    except OSError as error:
        # What Python adds to the text repeats the address.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        print(f"demo: cannot listen on {options.host}:{options.port}: {reason}.", file=sys.stderr)  # noqa: T201
        return 2
    try:
        ledger = Ledger(options.state)
    except StateError as error:
        print(f"demo: {error}", file=sys.stderr)  # noqa: T201
        return 2
    config = uvicorn.Config(
        DemoServer(api_key=options.api_key, ledger=ledger),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )
    logging.getLogger("uvicorn.error").addFilter(_Quiet())
    host, port = listener.getsockname()[:2]
    print(f"Demo model server on http://{host}:{port}/v1", flush=True)  # noqa: T201
    uvicorn.Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
