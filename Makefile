# Every target sets up what it needs: a virtual environment in .venv, remade when pyproject.toml changes.
# Another Python: make test PYTHON=python3.12 (after make distclean, where .venv exists already).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check
BASE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow bench coverage lint clean distclean

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(BASE) ## Refine a small network on scikit-learn's digits, from training to a proven ONNX file
	$(BIN)/python tools/demo.py

# One thread a process: two processes of one thread are faster than one of two. A file's tests stay together; the order
# is that of tests/conftest.py, in which long files begin early, so that the processes end together.
test: lint ## Lint, types and all tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: $(DEV) ## The tests that take minutes
	$(BIN)/python -m pytest -m slow

bench: $(BASE) ## Measure what dispatching costs
	$(BIN)/python tools/bench.py

coverage: $(BASE) ## Survey published networks, for docs/coverage.md (hours; goes on where it was stopped)
	$(INSTALL) -e '.[timm]'
	mkdir -p build
	OMP_NUM_THREADS=1 $(BIN)/python tools/coverage.py --out build/coverage.jsonl --page docs/coverage.md --memory 19

lint: $(DEV) ## Lint, format, types, and which room imports from which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## Remove caches and build leftovers
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache
	find narfx/ passes tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## Remove the virtual environment too
	rm -rf $(VENV)

$(BIN)/python:
	@need="narfx needs Python 3.11 or newer, but"; \
	found=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || \
	  { echo "$$need $(PYTHON) does not run: name one with PYTHON=python3.12" >&2; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$$need $(PYTHON) is $$found: name another with PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# One call of pip for everything: torch and torchvision have to come as a pair.
$(BASE): pyproject.toml | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(DEV): pyproject.toml | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	@touch $(BASE) $@
