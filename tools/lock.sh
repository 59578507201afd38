#!/bin/sh
# Writes the three lock files anew. Existing pins stay unless an upgrade is asked for: `make lock UPGRADE=--upgrade`.
set -eu
cd "$(dirname "$0")/.."
compile() {
  .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --no-emit-index-url --no-emit-find-links ${UPGRADE:-} "$@"
}
compile requirements.in -o requirements.txt
compile requirements-dev.in -c requirements.txt -o requirements-dev.txt
compile requirements-node.in -o requirements-node.txt
