#!/bin/sh
# All tests, in four lanes side by side, since most of them wait for something: pages in the browser; the running
# product, whose processes are killed; beside it its starts, ends, callers and alerts, and then what runs on SQLite and the
# embedded Valkey; the quick part on PostgreSQL and redis-server (which test runs on which: tests/conftest.py). Fails when
# any of them fails. What the browser's lane says is shown as it goes, the rest after it.
set -u
cd "$(dirname "$0")/.."
QUICK="not stack and not browser and not quickstart"
test_run() { .venv/bin/python -m pytest -q -p no:cacheprovider --durations=10 -m "$1 and not pictures"; }
beside() {
  test_run "beside and not browser"
  code=$?
  echo "Then the quick part that runs on SQLite and the embedded Valkey:"
  ARK_TEST_ON=sqlite test_run "$QUICK and not on_postgres" && return "$code"
}
began=$(date +%s)
reports=$(mktemp -d)
test_run "$QUICK and not on_sqlite" >"$reports/quick" 2>&1 &
quick=$!
test_run "(stack or quickstart) and not browser and not beside" >"$reports/product" 2>&1 &
product=$!
beside >"$reports/beside" 2>&1 &
beside=$!
trap 'kill "$quick" "$product" "$beside" 2>/dev/null; rm -rf "$reports"' EXIT
trap 'exit 130' INT TERM
echo "Pages in the browser:"
test_run "browser"
browser_code=$?
wait "$product"
product_code=$?
wait "$beside"
beside_code=$?
wait "$quick"
quick_code=$?
echo "The running product:"
cat "$reports/product"
echo "Its starts and ends, callers and alerts:"
cat "$reports/beside"
echo "The quick part on PostgreSQL and redis-server:"
cat "$reports/quick"
echo "All of it took $(($(date +%s) - began)) s."
[ "$browser_code" -eq 0 ] && [ "$product_code" -eq 0 ] && [ "$beside_code" -eq 0 ] && [ "$quick_code" -eq 0 ]
