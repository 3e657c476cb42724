# The Python that runs TokenHub. A distribution's own is usually built for speed, one made by a version manager often
# not (a third slower): the former goes first.
PYTHON ?= $(shell for one in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do \
	"$$one" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$one"; break; }; done)
BIN := .venv/bin
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# MkDocs' environment needs a Python that can make one; the script itself takes any
DOCS = "$(PYTHON)" deploy/docs

.PHONY: run docs stack screenshots test lint bench money-test lock sbom audit image compose-test clean

# `exec`, since make hands a SIGTERM to the recipe's own process: a shell between them would leave the server running
run: .venv/run
	@mkdir -p .cache && { nice $(DOCS) >.cache/docs.log 2>&1 </dev/null & }  # for /docs/; the start does not wait for it
	@exec env TOKENHUB_ENV=development $(BIN)/python manage.py quickstart

# into site/, which a running server shows at /docs/
docs:
	@$(DOCS)

# PostgreSQL, Redis, two workers, Celery, Prometheus, and Temporal where it is, without containers
stack: .venv/run
	@"$(PYTHON)" deploy/stack

# the pictures in docs/images/, anew; needs chromium
screenshots: .venv/dev
	$(BIN)/python deploy/screenshots

test: .venv/dev
	$(BIN)/pytest

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/djlint --check --lint templates
	TOKENHUB_DATA_DIR=.cache/lint $(BIN)/python manage.py makemigrations --check --dry-run
	TOKENHUB_DATA_DIR=.cache/lint $(BIN)/python manage.py check --deploy --fail-level WARNING

# side by side with nginx; needs gcc, wrk and nginx
bench: .venv/run
	$(BIN)/python bench/run.py

# budgets under fire, for longer and by more clients than in the suite
money-test: .venv/dev
	MONEY_CLIENTS=32 MONEY_SECONDS=60 MONEY_KILLS=25 MONEY_WORKERS=3 MONEY_CAP=5 \
		$(BIN)/pytest -n 0 -s tests/gateway/test_money.py

lock:
	uv pip compile --quiet --no-annotate --no-header --generate-hashes --universal --python-version 3.11 pyproject.toml -o requirements.lock
	uv pip compile --quiet --no-annotate --no-header --generate-hashes --universal --python-version 3.11 --group dev pyproject.toml -o requirements-dev.lock
	uv pip compile --quiet --no-annotate --no-header --generate-hashes --universal --python-version 3.11 --group docs -o requirements-docs.lock

# what TokenHub is made of (CycloneDX), from the lock file
sbom: .venv/run
	$(BIN)/python deploy/sbom > sbom.json
	@echo "sbom.json"

# known vulnerabilities of what is locked; asks a service on the internet
audit: .cache/audit/bin/pip-audit
	.cache/audit/bin/pip-audit --requirement requirements.lock --require-hashes --disable-pip
	.cache/audit/bin/pip-audit --requirement requirements-docs.lock --require-hashes --disable-pip

# need a container engine, and say so where there is none
image:
	@engine=$$(deploy/engine) && $$engine build --file deploy/Dockerfile --tag tokenhub:$(VERSION) .

compose-test:
	@deploy/compose-test

clean:
	rm -rf .venv .cache site .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/run: requirements.lock
	@deploy/venv "$(PYTHON)" requirements.lock
	@touch $@

.venv/dev: requirements-dev.lock
	@deploy/venv "$(PYTHON)" requirements-dev.lock
	@touch $@ .venv/run

.cache/audit/bin/pip-audit:
	"$(PYTHON)" -m venv .cache/audit
	.cache/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
