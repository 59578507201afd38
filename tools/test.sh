#!/bin/sh
# Everything that judges the code, in lanes side by side, since most of it waits for something: pages in the browser; the
# running product, whose processes are killed; beside it its starts, ends, callers and alerts; what runs on SQLite and the
# embedded Valkey. The checks and the quick part on PostgreSQL and redis-server get the time that these leave (which test runs
# on which: tests/conftest.py). Fails when any of them fails. What the browser's lane says is shown as it goes, the rest after.
set -u
cd "$(dirname "$0")/.."
# Or each of some hundred processes would compile all of our modules anew.
unset PYTHONDONTWRITEBYTECODE
began=$(date +%s)
reports=$(mktemp -d)
pytest="-m pytest -q -p no:cacheprovider --durations=10"
product="tests/engines tests/system --ignore=tests/system/test_alerts.py"
beside="tests/quickstart tests/sdk tests/system/test_alerts.py"
quick="tests --ignore=tests/browser --ignore=tests/engines --ignore=tests/quickstart --ignore=tests/sdk --ignore=tests/system"
# Lists of words, all three.
# shellcheck disable=SC2086
{
  (
    nice make --no-print-directory check >"$reports/check" 2>&1
    checked=$?
    nice .venv/bin/python $pytest $quick -m "not on_sqlite" >"$reports/quick" 2>&1 && exit "$checked"
  ) &
  quick_pid=$!
  ARK_TEST_ON=sqlite .venv/bin/python $pytest $quick -m "not on_postgres" >"$reports/sqlite" 2>&1 &
  sqlite_pid=$!
  .venv/bin/python $pytest $product >"$reports/product" 2>&1 &
  product_pid=$!
  .venv/bin/python $pytest $beside >"$reports/beside" 2>&1 &
  beside_pid=$!
  trap 'kill "$quick_pid" "$sqlite_pid" "$product_pid" "$beside_pid" 2>/dev/null; rm -rf "$reports"' EXIT
  trap 'exit 130' INT TERM
  failed=""
  echo "Pages in the browser:"
  .venv/bin/python $pytest tests/browser -m "not pictures" || failed="$failed browser"
}
wait "$product_pid" || failed="$failed product"
wait "$beside_pid" || failed="$failed beside"
wait "$quick_pid" || failed="$failed check-or-quick"
wait "$sqlite_pid" || failed="$failed sqlite"
for report in product beside quick sqlite check; do
  echo "=== $report"
  cat "$reports/$report"
done
echo "All of it took $(($(date +%s) - began)) s.${failed:+ Failed:$failed}"
[ -z "$failed" ]
