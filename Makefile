# `make results` makes every result and `make test` runs the tests. Both first make the environment if it is missing or old.

PYTHON ?= python3
VENV := .venv
# Paths are relative, and programs of Python are called as modules: the path of the checkout may have spaces and quotes,
# which make and the first lines of scripts do not take.
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: env results test lint format lock clean

env: $(READY)

# pip installs uv, and uv installs the rest: exact versions with hashes, then the package itself without dependencies.
# Bytecode is compiled now, because every stage starts a new Python process.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "normbench needs Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) --version): make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements.lock)"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(READY)

# The check of params.yaml, a sweep of what is missing, and `dvc repro`.
results: $(READY)
	$(BIN)/python -m normbench results

# Each file is tested by one process, in the order of tests/conftest.py.
test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: $(READY)
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

format: $(READY)
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

# Updates all versions. No index address is written, so that the file is valid on every machine.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --extra dev --upgrade pyproject.toml requirements.in -o requirements.lock

clean:
	rm -rf build runs .dvc/cache .dvc/tmp
