#!/bin/sh
# Everything that judges the code, in three lanes side by side, since most of what takes long waits for something: pages in
# the browser; the running product, whose processes are killed; its starts, ends, callers and alerts. What waits for nothing
# follows in the lanes that end first, or takes what they leave of the processors: on PostgreSQL and redis-server, what touches
# no database (and the ledger once more) on SQLite and the embedded Valkey, see tests/conftest.py. Fails when any part fails.
# What the browser's lane says is shown as it goes, the rest after it.
# $pytest and $quick are lists of words.
# shellcheck disable=SC2086
set -u
cd "$(dirname "$0")/.."
began=$(date +%s)
reports=$(mktemp -d) || exit 1
trap 'rm -rf "$reports"' EXIT
trap 'trap "" TERM; kill 0; exit 130' INT TERM
quick="tests --ignore=tests/browser --ignore=tests/engines --ignore=tests/quickstart --ignore=tests/sdk --ignore=tests/system"
elsewhere="--ignore=tests/arkconsole --ignore=tests/gateway"
pytest="-m pytest -q -p no:cacheprovider --durations=10"
part() {
  name=$1 started=$(date +%s)
  shift
  "$@" >"$reports/$name" 2>&1 && : >"$reports/$name.passed"
  echo "$name took $(($(date +%s) - started)) s." >>"$reports/$name"
}
# Linux gives each session the same share, however nice those in it are: what shall give way needs one of its own, and says so.
calm() {
  if command -v setsid >/dev/null && command -v setpriv >/dev/null && [ -e /proc/self/autogroup ]; then
    setpriv --pdeathsig TERM -- setsid -w nice -n 10 sh -c 'echo 10 >/proc/self/autogroup; exec "$@"' calm "$@"
  else
    nice -n 10 "$@"
  fi
}
{
  part check calm make --no-print-directory check
  part pages calm .venv/bin/python $pytest --timeout=600 $quick $elsewhere --ignore=tests/alerts -m "not pure"
} &
one=$!
{
  part product .venv/bin/python $pytest tests/engines tests/system --ignore=tests/system/test_alerts.py
  part alerts .venv/bin/python $pytest tests/alerts -m "not pure"
} &
two=$!
{
  part outside .venv/bin/python $pytest tests/quickstart tests/sdk tests/system/test_alerts.py
  part servers .venv/bin/python $pytest tests/arkconsole tests/gateway -m "not pure"
} &
three=$!
echo "Pages in the browser:"
.venv/bin/python $pytest tests/browser -m "not pictures" && : >"$reports/browser.passed"
part sqlite env ARK_TEST_ON=sqlite .venv/bin/python $pytest $quick -m "not on_postgres"
wait "$one" "$two" "$three"
for name in product outside servers alerts pages sqlite check; do
  echo "=== $name"
  cat "$reports/$name"
done
failed=""
for name in browser product outside servers alerts pages sqlite check; do
  [ -e "$reports/$name.passed" ] || failed="$failed $name"
done
echo "All of it took $(($(date +%s) - began)) s.${failed:+ Failed:$failed}"
[ -z "$failed" ]
