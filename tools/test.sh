#!/bin/sh
# All tests: everything on PostgreSQL and redis-server, and beside it, on the second core, the quick part once more on
# SQLite and the embedded Valkey. Fails when either fails; the quick part's report is printed last.
set -u
cd "$(dirname "$0")/.."
report=$(mktemp)
ARK_TEST_ON=sqlite .venv/bin/python -m pytest -q -p no:cacheprovider \
  -m "not stack and not browser and not quickstart" >"$report" 2>&1 &
quick=$!
trap 'kill "$quick" 2>/dev/null; rm -f "$report"' EXIT
trap 'exit 130' INT TERM
.venv/bin/python -m pytest -q --durations=15
code=$?
wait "$quick"
quick_code=$?
echo "On SQLite and the embedded Valkey:"
cat "$report"
[ "$code" -eq 0 ] && [ "$quick_code" -eq 0 ]
