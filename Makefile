# `make help` lists what there is to do. Nothing has to be installed first but Python 3.11 or newer:
# the first target that needs the environment builds .venv from requirements.lock.

VENV := .venv
BIN := $(VENV)/bin
# The last thing written into a finished environment. An interrupted install has no such file and is begun anew.
LOCKED := $(VENV)/.locked
READY := $(VENV)/.ready
TORCH_INDEX := https://download.pytorch.org/whl/cpu
# Tried in this order; `make PYTHON=/path/to/python3 ...` names another.
PYTHON := python3.11 python3 python3.14 python3.13 python3.12

OLDEST := .venv-oldest

.PHONY: help demo test test-all test-oldest mutants check clean
.DELETE_ON_ERROR:

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(READY)  ## train on made-up scenes, small enough for a laptop; results in runs/demo
	$(BIN)/astseg demo --out runs/demo

test: $(READY)  ## run the fast tests and the examples in docstrings
	$(BIN)/python -m pytest

test-all: $(READY)  ## run every test: slow ones, real data (ASTSEG_DATASETS=folder) and GPU where present, then test-oldest
	$(BIN)/python -m pytest -n 0 -m "" -rs
	$(MAKE) test-oldest

test-oldest: $(OLDEST)/.ready  ## the fast tests with the oldest versions that pyproject.toml allows; downloads 3 GB once
	$(OLDEST)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(OLDEST)/bin/python -m pytest

mutants: $(READY)  ## change one spot of the code after another and see whether the tests notice; an hour
	$(BIN)/python -m pip install --quiet mutmut==3.8.1
	OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/mutmut results

check: $(READY)  ## format, lint and types, as CI does
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## remove .venv, caches and builds; runs/ stays
	rm -rf $(VENV) .venv-newer $(OLDEST) mutants build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests examples benchmarks -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(LOCKED): requirements.lock
	@rm -rf $(VENV)
	@for python in $(PYTHON); do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Building $(VENV) from requirements.lock with $$("$$python" --version)"; \
	    exec "$$python" -m venv $(VENV); \
	  fi; \
	done; \
	echo "No Python 3.11 or newer with its venv module among: $(PYTHON)." >&2; \
	echo "Install one (on Debian and Ubuntu: python3 and python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
	exit 1
	@$(BIN)/python -m pip install --quiet --requirement requirements.lock || { \
	  echo "Installing failed. Trying once more with PyTorch's own index of CPU builds, $(TORCH_INDEX)" >&2; \
	  PIP_EXTRA_INDEX_URL="$$PIP_EXTRA_INDEX_URL $(TORCH_INDEX)" \
	    $(BIN)/python -m pip install --quiet --requirement requirements.lock; \
	}
	@touch $@

$(OLDEST)/.ready: requirements-oldest.txt
	@rm -rf $(OLDEST)
	python3.11 -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --requirement requirements-oldest.txt 'setuptools>=77'
	@touch $@

$(READY): $(LOCKED) pyproject.toml
	@rm -f $@
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check
	@touch $@
