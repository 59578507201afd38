#!/bin/sh
# Everything that judges the code, in three lanes side by side, since most of what takes long waits for something: pages in
# the browser; the running product, whose processes are killed; its starts, ends, callers and alerts. The quick part, which
# waits for nothing, follows in the lanes that end first: on SQLite and the embedded Valkey, on PostgreSQL and redis-server
# (which test runs on which: tests/conftest.py). More at once made all of them slower. Fails when any part fails. What the
# browser's lane says is shown as it goes, the rest after it.
set -u
cd "$(dirname "$0")/.."
# Or each of some hundred processes would compile all of our modules anew.
unset PYTHONDONTWRITEBYTECODE
began=$(date +%s)
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT
trap 'trap "" TERM; kill 0; exit 130' INT TERM
quick="tests --ignore=tests/browser --ignore=tests/engines --ignore=tests/quickstart --ignore=tests/sdk --ignore=tests/system"
run() { .venv/bin/python -m pytest -q -p no:cacheprovider --durations=10 "$@"; }
part() {
  name=$1 started=$(date +%s)
  shift
  "$@" >"$reports/$name" 2>&1 || echo "$name" >>"$reports/failed"
  echo "$name took $(($(date +%s) - started)) s." >>"$reports/$name"
}
# $quick is a list of words.
# shellcheck disable=SC2086
{
  part product run tests/engines tests/system --ignore=tests/system/test_alerts.py
  export ARK_TEST_ON=sqlite
  part sqlite run $quick -m "not on_postgres"
} &
one=$!
# shellcheck disable=SC2086
{
  part outside run tests/quickstart tests/sdk tests/system/test_alerts.py
  part check make --no-print-directory check
  part quick run $quick -m "not on_sqlite"
} &
two=$!
echo "Pages in the browser:"
run tests/browser -m "not pictures" || echo browser >>"$reports/failed"
wait "$one" "$two"
for name in product outside sqlite quick check; do
  echo "=== $name"
  cat "$reports/$name"
done
failed=$(cat "$reports/failed" 2>/dev/null | tr '\n' ' ')
echo "All of it took $(($(date +%s) - began)) s.${failed:+ Failed: $failed}"
[ -z "$failed" ]
