#!/bin/sh
# Everything that judges the code, in three lanes side by side, since most of what takes long waits for something: pages in
# the browser; the running product, whose processes are killed; its starts, ends, callers and alerts. What waits for nothing
# follows in the lanes that end first, on PostgreSQL and redis-server; the rest of it, on SQLite and the embedded Valkey, takes
# what the lanes leave of the processors (which test runs on which: tests/conftest.py). Fails when any part fails. What the
# browser's lane says is shown as it goes, the rest after it.
# $pytest and $quick are lists of words.
# shellcheck disable=SC2086
set -u
cd "$(dirname "$0")/.."
began=$(date +%s)
reports=$(mktemp -d) || exit 1
trap 'rm -rf "$reports"' EXIT
trap 'trap "" TERM; kill 0; exit 130' INT TERM
quick="tests --ignore=tests/browser --ignore=tests/engines --ignore=tests/quickstart --ignore=tests/sdk --ignore=tests/system"
pytest="-m pytest -q -p no:cacheprovider --durations=10"
part() {
  name=$1 started=$(date +%s)
  shift
  "$@" >"$reports/$name" 2>&1 && : >"$reports/$name.passed"
  echo "$name took $(($(date +%s) - started)) s." >>"$reports/$name"
}
# Linux gives each session the same share, however nice those in it are: what shall give way needs one of its own, and says so.
calm() {
  if command -v setsid >/dev/null && [ -e /proc/self/autogroup ]; then
    setpriv --pdeathsig TERM -- setsid -w nice -n 19 sh -c 'echo 19 >/proc/self/autogroup; exec "$@"' calm "$@"
  else
    nice -n 19 "$@"
  fi
}
{
  part check calm make --no-print-directory check
  part sqlite calm env ARK_TEST_ON=sqlite .venv/bin/python $pytest --timeout=600 $quick -m "not on_postgres"
} &
one=$!
{
  part product .venv/bin/python $pytest tests/engines tests/system --ignore=tests/system/test_alerts.py
  part quick .venv/bin/python $pytest $quick --ignore=tests/arkconsole --ignore=tests/gateway -m "not on_sqlite"
} &
two=$!
{
  part outside .venv/bin/python $pytest tests/quickstart tests/sdk tests/system/test_alerts.py
  part servers .venv/bin/python $pytest tests/arkconsole tests/gateway -m "not on_sqlite"
} &
three=$!
echo "Pages in the browser:"
.venv/bin/python $pytest tests/browser -m "not pictures" && : >"$reports/browser.passed"
wait "$one" "$two" "$three"
for name in product outside servers sqlite quick check; do
  echo "=== $name"
  cat "$reports/$name"
done
failed=""
for name in browser product outside servers sqlite quick check; do
  [ -e "$reports/$name.passed" ] || failed="$failed $name"
done
echo "All of it took $(($(date +%s) - began)) s.${failed:+ Failed:$failed}"
[ -z "$failed" ]
