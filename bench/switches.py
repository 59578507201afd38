"""What a version switch costs and how fast it goes back: `python -m bench.switches`, a part of `make bench`."""

from __future__ import annotations

import sys

from bench import rollback, ticks
from bench.run import Cannot


def main() -> int:
    try:
        lines = [*ticks.measure(), *rollback.measure()]
    except Cannot as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 1 if any("**missed**" in line for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
