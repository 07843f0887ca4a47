# The verbs of this repository. Needed: Python >= 3.11 and make. Nothing has to be activated.
#   make demo ARGS="--seed 1"      ARGS goes to the command behind the verb
#   make setup PYTHON=python3.12   another Python
#   LITTORAL_TORCH=cpu|cuda        which build of PyTorch; without it, what the machine has (README, "Install")

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.littoral-setup

# Two OpenMP threads that spin while they wait make torch several times slower on a busy machine; tests run two at a time.
export OMP_WAIT_POLICY = PASSIVE
test: export OMP_NUM_THREADS = 1
# Without bytecode kept, both workers and some thirty processes that tests start compile every module anew.
test: export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench docs arm clean python-is-new-enough

help:
	@echo 'make setup   make .venv and install Littoral with its tools into it (the other verbs do it when needed)'
	@echo 'make demo    the whole loop on this machine: a cloud, two devices, a drifting stream'
	@echo 'make test    all tests but the slow ones       ARGS="tests/core -k entropy"'
	@echo 'make lint    formatting, lint, types, the direction of imports'
	@echo 'make bench   a table                           ARGS="runtime"'
	@echo 'make docs    the pages in docs/results from benchmarks/results; ARGS=--check only compares'
	@echo 'make arm     golden bytes, codec and wire under an emulated arm64 and a big-endian machine; not in make test'
	@echo 'make clean   remove what the verbs made, except .venv and the benchmark results'

python-is-new-enough:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Littoral needs Python 3.11 or newer; '$(PYTHON)' is $$(command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 || echo missing)." >&2; \
	  echo "Name another one: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 1; }

setup: python-is-new-enough
	@$(PYTHON) tools/setup_env.py

$(STAMP): pyproject.toml constraints.txt tools/setup_env.py | python-is-new-enough
	@$(PYTHON) tools/setup_env.py

demo: $(STAMP)
	@$(BIN)/littoral demo $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(STAMP)
	@failed=0; \
	$(BIN)/ruff format --check . || failed=1; \
	$(BIN)/ruff check . || failed=1; \
	$(BIN)/mypy || failed=1; \
	$(BIN)/lint-imports || failed=1; \
	exit $$failed

bench: $(STAMP)
	@$(BIN)/littoral bench $(ARGS)

docs: $(STAMP)
	@$(BIN)/python tools/make_docs.py $(ARGS)

arm: $(STAMP)
	@$(BIN)/python tools/check_arm.py $(ARGS)

clean:
	@rm -rf build dist demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests tools examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
