# Everything a person or CI does here has a name; `make help` lists them.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
STAMP := $(VENV)/.setup-done
TORCH_INDEX ?=# e.g. the address of PyTorch's CPU wheels, where pip's own would bring CUDA
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test soak check format constraints clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## Make .venv with everything that the demo, the tests and the checks need.

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "pg_embed needs Python 3.11 or newer: no python3.11 and no python3 on PATH"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "pg_embed needs Python 3.11 or newer; try: make setup PYTHON=/path/to/python3.11"; exit 1; }
	@echo "== setup 1/4: virtual environment in $(VENV), $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV) || \
	    { echo "python's venv module does not work here; on Debian: apt install python3-venv"; exit 1; }
	@echo "== setup 2/4: PyTorch (a few hundred MB, once)"
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo "== setup 3/4: build tools"
	@$(PIP) hatchling editables
	@echo "== setup 4/4: pg_embed with its demo, embedded PostgreSQL and development tools (a minute)"
	@$(PIP) --no-build-isolation --editable '.[demo,dev]'
	@touch $@
	@echo "== setup done: $(BIN)/pg-embed"

demo: setup ## Embed Python's own docstrings in an embedded PostgreSQL and search them.
	@$(BIN)/pg-embed demo

test: setup ## Run all tests (PYTEST_ARGS="-k word" to choose).
	$(BIN)/python -m pytest $(PYTEST_ARGS)

soak: setup ## Inject faults of every kind for up to an hour (SOAK_FAULTS=10000 SOAK_SEED=1 to choose).
	$(BIN)/python -m tests.faults.soak

check: setup ## Format, lint, types, floors: what must hold before a commit.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Put the code into its form.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints: ## Renew constraints.txt with the newest versions that pyproject.toml allows.
	@scripts/constraints.sh "$(PYTHON)"

clean: ## Remove what the other targets made.
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
