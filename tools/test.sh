#!/bin/sh
# All tests, in lanes side by side, since most of them wait for something: pages in the browser; the running product, whose
# processes are killed; beside it its starts, ends and callers. What nobody waits for gets the time that these leave: the
# quick part on PostgreSQL and redis-server, and what runs on SQLite and the embedded Valkey (which test runs on which:
# tests/conftest.py). Fails when any of them fails. What the browser's lane says is shown as it goes, the rest after it.
set -u
cd "$(dirname "$0")/.."
QUICK="not stack and not browser and not quickstart"
began=$(date +%s)
reports=$(mktemp -d)
test_run() { ${2:-} .venv/bin/python -m pytest -q -p no:cacheprovider --durations=10 -m "$1 and not pictures"; }
test_run "$QUICK and not on_sqlite" nice >"$reports/quick" 2>&1 &
quick=$!
(export ARK_TEST_ON=sqlite && test_run "$QUICK and not on_postgres" nice) >"$reports/sqlite" 2>&1 &
sqlite=$!
test_run "(stack or quickstart) and not browser and not beside" >"$reports/product" 2>&1 &
product=$!
test_run "beside and not browser" >"$reports/beside" 2>&1 &
beside=$!
trap 'kill "$quick" "$sqlite" "$product" "$beside" 2>/dev/null; rm -rf "$reports"' EXIT
trap 'exit 130' INT TERM
failed=""
echo "Pages in the browser:"
test_run "browser" || failed="$failed browser"
wait "$product" || failed="$failed product"
wait "$beside" || failed="$failed beside"
wait "$quick" || failed="$failed quick"
wait "$sqlite" || failed="$failed sqlite"
for report in product beside quick sqlite; do
  echo "=== $report"
  cat "$reports/$report"
done
echo "All of it took $(($(date +%s) - began)) s.${failed:+ Failed:$failed}"
[ -z "$failed" ]
