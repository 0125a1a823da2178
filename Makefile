# Everything runs in .venv, which `make setup` builds from requirements.lock.
# ARGS goes to the program behind a target: make run ARGS="--events 50000", make test ARGS="-k rows".

# The first interpreter that runs, is new enough and can make environments. A name alone proves nothing:
# version managers put commands on the path that fail when called.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo "$$python"; break; fi; done)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete

.DEFAULT_GOAL := help
.PHONY: help setup run test test-fast lint format bench profile crash soak docs screenshots lock clean distclean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Build .venv from the hashed lock and compile the kernels

$(STAMP): requirements.lock pyproject.toml
	@if [ ! -x $(BIN)/python ] || ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
		python="$(PYTHON)"; \
		if [ -z "$$python" ]; then \
			echo 'make setup: found no Python 3.11 or newer with its venv module;' \
				'install one (Debian, Ubuntu: python3 and python3-venv),' \
				'or name it: make setup PYTHON=/path/to/python3' >&2; \
			exit 1; \
		fi; \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "make setup: PYTHON=$$python must be Python 3.11 or newer," \
				"got $$("$$python" --version 2>&1); name another: make setup PYTHON=/path/to/python3" >&2; \
			exit 1; \
		}; \
		echo "Making $(VENV) with $$("$$python" --version 2>&1)"; \
		"$$python" -m venv --clear $(VENV); \
	fi
	@echo 'Installing the locked packages: about 1 GB on disk, a minute or two, once'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m consumers.warm
	@touch $(STAMP)

run: setup ## Learn the simulator's stream live: freshet demo $(ARGS)
	@$(BIN)/freshet demo $(ARGS)

test: setup ## Run all tests
	$(BIN)/python -m pytest $(ARGS)

test-fast: setup ## Run the tests that are not marked slow
	$(BIN)/python -m pytest -m 'not slow' $(ARGS)

lint: setup ## Check style, format, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format, and mend what can be mended
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup ## Measure against peers and write the results as JSON
	$(BIN)/python -m benchmarks $(ARGS)

profile: setup ## Show where the time of an event goes
	$(BIN)/python -m benchmarks.profile $(ARGS)

crash: setup ## Run the failure tests with their full counts
	$(BIN)/python -m benchmarks.crash $(ARGS)

soak: setup ## Keep worker, server and page running for an hour (shorter: ARGS="--minutes 3")
	$(BIN)/python -m benchmarks.soak $(ARGS)

docs: setup ## Make the generated pages anew: metrics, OpenAPI, settings, dashboards
	$(BIN)/python -m consumers.metrics_page > docs/metrics.md
	$(BIN)/freshet serve --openapi > docs/openapi.json
	$(BIN)/freshet config --example > deploy/freshet.toml
	$(BIN)/python deploy/grafana/make.py

screenshots: setup ## Take pictures of the live page for the README (needs chromium)
	$(BIN)/python -m benchmarks.screenshots $(ARGS)

lock: setup ## Bring requirements.lock in step with pyproject.toml (newer versions: ARGS=--upgrade)
	$(BIN)/uv pip compile pyproject.toml --group dev --extra broker --universal --python-version 3.11 \
		--fork-strategy fewest --generate-hashes --no-emit-index-url --no-emit-find-links \
		--custom-compile-command 'make lock' --quiet --output-file requirements.lock $(ARGS)

clean: ## Remove caches and build outputs; keep .venv and freshet-home
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean ## Remove .venv too
	rm -rf $(VENV)
