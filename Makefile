# `make demo` and `make test` do all the set-up on a fresh machine: a virtual environment in .venv with the
# versions of constraints.txt, and this checkout installed in it.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint bench-hippocampus bench-left-atrium bench-throughput bench-memory bench-metrics clean
.DEFAULT_GOAL := test

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Foveate needs Python 3.11 or newer, and '$(PYTHON)' is not: $$($(PYTHON) --version 2>&1)."; \
	  echo "Install it, or name it: make PYTHON=/path/to/python3.12 test"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { \
	  echo "No virtual environment could be made. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Setting up .venv (torch is large: minutes the first time, never again until the pins change)"
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/foveate demo

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each benchmark prints its table, for docs/benchmarks.md; the two that train take hours.
bench-hippocampus: $(READY)
	$(BIN)/python benchmarks/few_labels.py hippocampus --ceiling

bench-left-atrium: $(READY)
	$(BIN)/python benchmarks/few_labels.py left_atrium --ceiling

bench-throughput: $(READY)
	$(BIN)/python benchmarks/throughput.py

bench-memory: $(READY)
	$(BIN)/python benchmarks/predict_memory.py

bench-metrics: $(READY)
	$(BIN)/python benchmarks/metrics_speed.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
