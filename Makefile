# The commands that people and scripts use. `make run` and `make test` work in a fresh clone.
PYTHON ?= python3
PY := .venv/bin/python
CODE := arkconsole alerts monitoring gateway endpoints metering catalog iam audit common demo tests bench tools manage.py

# Or each process would compile all of its modules anew.
unexport PYTHONDONTWRITEBYTECODE

# Only so that checks can load the settings; a server never starts with these.
CHECK_ENV := SECRET_KEY=only-for-checks-that-serve-nothing-0123456789-0123456789 \
  FIELD_ENCRYPTION_KEY=Y2hlY2tzIG9ubHksIG5vdCBhIHNlY3JldCwgMzJieXQ= DATABASE_URL=sqlite://:memory:

.PHONY: help setup setup-dev run test test-unit test-quick test-engines check lint types contracts django sentences bench screenshots messages lock format clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup:  ## everything a first run needs; done again only where something has changed
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed, and $(PYTHON) is not on PATH." >&2; exit 1; }
	@$(PYTHON) tools/setup.py

run: setup  ## run the whole product here, with a demo model server (DEMO=0: without); Ctrl-C stops it
	@DEMO=$${DEMO:-1} exec $(PY) manage.py up

setup-dev:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed, and $(PYTHON) is not on PATH." >&2; exit 1; }
	@$(PYTHON) tools/setup.py --dev

test:  ## lint, types, contracts, and all tests on real servers and a real browser
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed, and $(PYTHON) is not on PATH." >&2; exit 1; }
	@tools/debian.sh & debian=$$!; $(PYTHON) tools/setup.py --dev; made=$$?; wait $$debian && [ $$made = 0 ] && tools/test.sh

test-unit: setup-dev  ## what touches no database, in less than a minute: needs nothing but Python
	ARK_TEST_ON=sqlite $(PY) -m pytest -q -m "pure and not stack and not browser and not quickstart"

test-quick: setup-dev  ## all that can be tested on SQLite and the embedded Valkey: needs nothing but Python
	ARK_TEST_ON=sqlite $(PY) -m pytest -q -m "not stack and not browser and not quickstart and not needs_servers"

test-engines: setup-dev  ## calls through a real inference engine (llama.cpp) with a model that the test writes
	@tools/debian.sh
	$(PY) -m pytest -q tests/engines

check: lint types contracts django sentences  ## all that can be judged without running a test

lint:
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)
	find templates -name '*.html' -print0 | xargs -0 .venv/bin/djade --target-version 5.2 --check

types:
	$(CHECK_ENV) $(PY) -m mypy

contracts:
	.venv/bin/lint-imports

django:
	$(CHECK_ENV) $(PY) manage.py makemigrations --check --dry-run
	CONSOLE_URL=https://ark.example.com $(CHECK_ENV) $(PY) manage.py check --deploy --fail-level WARNING

sentences:
	$(PY) tools/messages.py --check

bench: setup-dev  ## the gateway against nginx, in one interleaved run; then what a version switch, its way back, a scrape and a page of charts cost, and how soon an alert is told
	@tools/debian.sh bench
	$(PY) -m bench.run
	$(PY) -m bench.switches
	$(PY) -m bench.exposition
	$(PY) -m bench.monitoring
	$(PY) -m bench.alerts

screenshots: setup-dev  ## take the pictures of README and docs anew
	@tools/debian.sh
	$(PY) -m pytest -q tests/browser/test_screenshots.py
	mkdir -p docs/img && cp docs/img/run/*.png docs/img/

messages:  ## collect every sentence of code and templates into locale/
	$(PY) tools/messages.py

lock:  ## write the lock files anew (UPGRADE=--upgrade for newer versions)
	UPGRADE="$(UPGRADE)" tools/lock.sh

format:  ## let the formatters decide
	$(PY) -m ruff check --fix-only --quiet $(CODE)
	$(PY) -m ruff format $(CODE)
	find templates -name '*.html' -print0 | xargs -0 .venv/bin/djade --target-version 5.2

clean:  ## remove what setup made; data (var/) stays
	rm -rf .venv node_modules staticfiles .mypy_cache .ruff_cache .pytest_cache
