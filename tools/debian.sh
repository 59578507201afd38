#!/bin/sh
# What the tests need beyond Python, from Debian's own packages: a browser, PostgreSQL, redis-server; with the argument
# "bench" also nginx and a C compiler. Installs only what is missing and starts none of the daemons that come along.
set -eu
has() { command -v "$1" >/dev/null 2>&1; }
has_postgres() { has initdb || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; }
may_install() { has apt-get && { [ "$(id -u)" = 0 ] || has sudo; }; }
wanted=""
# Another Chromium does as well, for three times the processor time.
has chromium-headless-shell || { has chromium && ! may_install; } || wanted="$wanted chromium-headless-shell fonts-noto-cjk"
has_postgres || wanted="$wanted postgresql"
has redis-server || wanted="$wanted redis-server"
if [ "${1:-}" = bench ]; then
  has nginx || [ -x /usr/sbin/nginx ] || wanted="$wanted nginx-light"
  has cc || wanted="$wanted gcc libc6-dev"
fi
[ -n "$wanted" ] || exit 0
if ! has apt-get; then
  echo "Needed on PATH and missing, by Debian's names:$wanted." >&2
  exit 1
fi
as_root=""
if [ "$(id -u)" != 0 ]; then
  has sudo || { echo "Install as root, then run this again: apt-get install$wanted" >&2; exit 1; }
  as_root=sudo
fi
echo "Installing Debian packages:$wanted …"
# Packages of daemons ask this script whether they may start one: for the length of the installation, no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
  $as_root chmod 755 "$policy"
  trap '$as_root rm -f "$policy"' EXIT
fi
log=$(mktemp)
if ! { $as_root apt-get update -qq && $as_root env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends $wanted; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  exit 1
fi
rm -f "$log"
