# `make results` makes every result, `make test` runs the tests; both make the environment first, where it is missing or old.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2

export PATH := $(BIN):$(PATH)

.PHONY: env results test lint format lock clean

env: $(READY)

# pip fetches uv, and uv the rest: exact versions with their hashes, then the package itself without its dependencies.
# Bytecode is compiled here, as every stage is a process of its own.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "normbench needs Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) --version): make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements.lock)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(READY)

# The suite is checked before DVC reads its names from params.yaml, so that a mistake there is one line, not DVC's.
results: $(READY)
	@$(BIN)/normbench check --refresh
	$(BIN)/dvc repro

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# New versions of everything; no index address is written, so that the file holds on every machine.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra dev --upgrade pyproject.toml requirements.in -o requirements.lock

clean:
	rm -rf build runs .dvc/cache .dvc/tmp
